"""8 processes of 8 threads race for one budget: nobody starves, the limit is used up and never passed."""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from costguard.budgets import make_budget
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.charges import Charge, Line
from costguard.ledger.engines.sqlite import SqliteEngine
from costguard.ledger.records import NewAttempt, Refused, Settle
from costguard.money import to_usd
from scripts.benchmarks.runner.measurement import Measurement

PROCESSES, THREADS, VICTIMS = 8, 8, 3
UPPER, COST = 1_000, 400
"""Nano-dollars that a call holds, and what it is billed."""
LIMIT = COST * 3_000
"""Nano-dollars: some seconds of racing."""
KILL_AFTER_S = 1.0
PROJECT = "acme/search"
NOW_US = 1_795_348_800_000_000


def results() -> Iterator[Measurement]:
    """Waits, and what was spent of the limit, with and without processes killed mid-way."""
    for victims in (0, VICTIMS):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "ledger.db"
            ledger = Ledger(SqliteEngine(path))
            ledger.set_budget(make_budget("/", to_usd(LIMIT), per="total"), NOW_US)
            waits, seconds = _race(path, victims)
            (balance,) = ledger.balances(NOW_US)
            found = ledger.verify()
            ledger.close()
        if not found.ok:
            raise RuntimeError(f"the ledger does not verify: {found.difference}")
        killed = f", {victims} processes killed" if victims else ""
        of = f"{PROCESSES} processes x {THREADS} threads"
        rate = f"{balance.spent / COST / seconds:.0f} calls/s"
        yield Measurement(f"longest admission{killed}", max(waits), 2, of, "s", rate)
        yield Measurement(f"limit / what was spent of it{killed}", LIMIT / balance.spent, 1 / 0.9, of)
        over = max(0, balance.spent + balance.held - LIMIT)
        yield Measurement(f"over the limit{killed}", over, 0, of, "nano-dollars")


def an_attempt() -> NewAttempt:
    """A task that may cost `UPPER`."""
    return NewAttempt(str(uuid.uuid4()), "textInference", "model", "sync", 1, UPPER, UPPER, None, "{}", "{}")


def a_charge() -> Charge:
    """What it is billed."""
    lines = (Line("prompt", "TEXT", 10, COST // 4), Line("completion", "", 10, COST - COST // 4))
    return Charge(COST, "cost", lines, COST, None, None, None, 10, 10, None, None, None, False, (), None, 1)


def _race(path: Path, victims: int) -> tuple[list[float], float]:
    """Run the race to its end: the longest wait of each surviving process, and how many seconds it took."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(PROCESSES + 1)
    runners = []
    for _ in range(PROCESSES):
        receive, send = context.Pipe(duplex=False)
        runner = context.Process(target=_run, args=(path, start, send))
        runner.start()
        send.close()
        runners.append((runner, receive))
    start.wait()
    began = time.perf_counter()
    if victims:
        time.sleep(KILL_AFTER_S)
        for runner, _ in runners[:victims]:
            runner.kill()
    waits = [receive.recv() for _, receive in runners[victims:]]
    seconds = time.perf_counter() - began
    for runner, _ in runners:
        runner.join()
    return waits, seconds


def _run(path: Path, start: Any, report: Connection) -> None:
    ledger = Ledger(SqliteEngine(path))
    waits = [0.0] * THREADS
    threads = [threading.Thread(target=_call, args=(ledger, waits, n)) for n in range(THREADS)]
    start.wait()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ledger.close()
    report.send(max(waits))


def _call(ledger: Ledger, waits: list[float], n: int) -> None:
    """Hold and settle until nothing that is still under way can make room."""
    charge = a_charge()
    while True:
        task = an_attempt()
        asked = time.perf_counter()
        answer = ledger.admit(PROJECT, NOW_US, [task])
        waits[n] = max(waits[n], time.perf_counter() - asked)
        if not isinstance(answer, Refused):
            (attempt_id,) = answer.attempt_ids  # type: ignore[union-attr]
            ledger.conclude(NOW_US, [Settle(attempt_id, charge, task.task_uuid)])
        elif answer.remaining + answer.held - answer.unresolved < UPPER:
            return
        else:
            time.sleep(0.005)
