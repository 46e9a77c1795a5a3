"""8 processes of 8 threads race for one budget: nobody starves, the limit is used up and never passed."""

from __future__ import annotations

import functools
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from costguard.budgets import make_budget
from costguard.ledger.accounting.book import Ledger, wall_clock_us
from costguard.ledger.records import Refused, Settle, Unpriced
from costguard.money import to_usd
from scripts.benchmarks.ground.crew import Crew
from scripts.benchmarks.ground.pairs import COST, PROJECT, UPPER, a_charge, an_attempt, check, open_ledger
from scripts.benchmarks.ground.servers import a_database
from scripts.benchmarks.runner.measurement import Measurement

PROCESSES, THREADS, VICTIMS = 8, 8, 3
LIMIT = COST * 3_000
"""Nano-dollars: some seconds of racing."""
KILL_AFTER_S = 1.0
PAUSE_S = 0.005
"""Refused for what others have under way, a thread looks again after so long."""


def results() -> Iterator[Measurement]:
    """Waits, and what was spent of the limit, with and without processes killed mid-way; commits wait for the disk."""
    for victims in (0, VICTIMS):
        with tempfile.TemporaryDirectory() as folder:
            yield from _raced(f"{folder}/ledger.db", "", victims)
    with a_database(fsync=True) as url:
        for leases in ("off", "on"):
            for victims in (0, VICTIMS):
                schema = f"leases_{leases}_{victims}"
                yield from _raced(f"{url}?schema={schema}&leases={leases}", f", PostgreSQL, leases {leases}", victims)


def _raced(target: str, name: str, victims: int) -> Iterator[Measurement]:
    with closing(open_ledger(target)) as ledger:
        ledger.set_budget(make_budget("/", to_usd(LIMIT), per="total"), wall_clock_us())
    with Crew(functools.partial(_opened, target), PROCESSES, preload=(__name__,)) as crew:
        began_s = time.perf_counter()
        wait = crew.start(_race)
        if victims:
            time.sleep(KILL_AFTER_S)
            crew.kill(victims)
        waits = wait()
        seconds = time.perf_counter() - began_s
    with closing(open_ledger(target)) as ledger:
        (balance,) = ledger.balances(wall_clock_us())
    check(target)
    what = f"{name}, {victims} processes killed" if victims else name
    of = f"{PROCESSES} processes x {THREADS} threads"
    rate = f"{balance.spent / COST / seconds:.0f} calls/s"
    yield Measurement(f"longest admission{what}", max(waits), 2, of, "s", rate)
    yield Measurement(f"limit / what was spent of it{what}", LIMIT / balance.spent, 1 / 0.9, of)
    over = max(0, balance.spent + balance.held - LIMIT)
    yield Measurement(f"over the limit{what}", over, 0, of, "nano-dollars")


@contextmanager
def _opened(target: str) -> Iterator[Ledger]:
    with closing(open_ledger(target)) as ledger:
        yield ledger


def _race(ledger: Ledger) -> float:
    """Run the race to its end; the longest wait of all threads."""
    waits = [0.0] * THREADS
    threads = [threading.Thread(target=_call, args=(ledger, waits, n)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(waits)


def _call(ledger: Ledger, waits: list[float], n: int) -> None:
    """Hold and settle until nothing that is still under way can make room."""
    charge = a_charge()
    while True:
        task, now_us = an_attempt(), wall_clock_us()
        asked_s = time.perf_counter()
        answer = ledger.admit(PROJECT, now_us, [task])
        waits[n] = max(waits[n], time.perf_counter() - asked_s)
        match answer:
            case Refused(remaining=remaining, held=held, unresolved=unresolved):
                if remaining + held - unresolved < UPPER:
                    return
                time.sleep(PAUSE_S)
            case Unpriced():
                raise TypeError(answer)
            case _:
                ledger.conclude(now_us, [Settle(answer.attempt_ids[0], charge, task.task_uuid)])
