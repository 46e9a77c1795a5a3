"""The two transactions of a call, at the ledger itself: money is held, and settled at what was billed."""

from __future__ import annotations

import time
import uuid

from costguard.ledger.accounting.book import Ledger, wall_clock_us
from costguard.ledger.charges import Charge, Line
from costguard.ledger.engines import open_engine
from costguard.ledger.records import Admitted, NewAttempt, Settle

UPPER, COST = 1_000, 400
"""Nano-dollars that a call holds, and what it is billed."""
PROJECT = "acme/search"


def open_ledger(target: str, durability: str = "full") -> Ledger:
    """The ledger at a path or URL."""
    return Ledger(open_engine(target, durability=durability))


def an_attempt() -> NewAttempt:
    """A task that may cost `UPPER`."""
    return NewAttempt(str(uuid.uuid4()), "textInference", "model", "sync", 1, UPPER, UPPER, None, "{}", "{}")


def a_charge() -> Charge:
    """What it is billed."""
    lines = (Line("prompt", "TEXT", 10, COST // 4), Line("completion", "", 10, COST - COST // 4))
    return Charge(COST, "cost", lines, COST, None, None, None, 10, 10, None, None, None, False, (), None, 1)


def hold_and_settle(ledger: Ledger) -> float:
    """One call; seconds that its admission took."""
    task, now_us = an_attempt(), wall_clock_us()
    asked_s = time.perf_counter()
    answer = ledger.admit(PROJECT, now_us, [task])
    waited_s = time.perf_counter() - asked_s
    if not isinstance(answer, Admitted):
        raise TypeError(answer)
    ledger.conclude(now_us, [Settle(answer.attempt_ids[0], a_charge(), task.task_uuid)])
    return waited_s


def check(target: str) -> None:
    """RuntimeError if the ledger does not verify."""
    ledger = open_ledger(target)
    found = ledger.verify()
    ledger.close()
    if not found.ok:
        raise RuntimeError(f"the ledger does not verify: {found.difference}")
