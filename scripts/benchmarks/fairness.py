"""Many programs on one ledger: calls per second of SQLite against the floor under the same lock, and who waits."""

from __future__ import annotations

import fcntl
import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from costguard.budgets import make_budget
from costguard.ledger.accounting.book import wall_clock_us
from costguard.money import to_usd
from scripts.benchmarks import calls
from scripts.benchmarks.ground.crew import Crew, Sides, Told, rate, waits
from scripts.benchmarks.ground.pairs import PROJECT, check, hold_and_settle, open_ledger
from scripts.benchmarks.ground.servers import a_database
from scripts.benchmarks.runner.measurement import Measurement

FEW, MANY = 8, 32
"""Programs."""
TURNS, TURN_S = 4, 1.25
"""Each side runs this often, in turns with the other."""
POLL_S = 0.001
"""The step of the floor's own lock: the throughput of one that cares for no fairness."""
EVERY_S, EVEN_S = 0.2, 4.0
"""Below saturation each of many programs has a call to make so often, for so long."""
WAIT_MS, LONGEST_S = 50, 0.5


def results() -> Iterator[Measurement]:
    """Calls per second, waits for an admission and shares: SQLite at both durabilities, PostgreSQL at "full"."""
    for durability in ("normal", "full"):
        with tempfile.TemporaryDirectory() as folder:
            yield from _on_a_file(Path(folder), durability)
    with a_database(fsync=True) as url:
        for leases in ("off", "on"):
            yield from _on_a_server(f"{url}?schema=leases_{leases}&leases={leases}&pool=1", f"leases {leases}")


def _on_a_file(folder: Path, durability: str) -> Iterator[Measurement]:
    target = str(folder / "ledger.db")
    _set_budgets(target, durability)
    calls.make_floor(folder / "floor.db")
    calls.connect_floor(folder / "floor.db", durability).close()
    with Crew(functools.partial(_sides, folder, durability), FEW, preload=(__name__,)) as crew:
        told = crew.turns(("floor", "ours"), TURNS, TURN_S)
    check(target)
    rates = {side: rate(of) for side, of in told.items()}
    yield Measurement(
        f"calls per second, {durability}",
        rates["floor"] / rates["ours"],
        1 / 0.7,
        "two bare transactions under a lock of that kind",
        detail=f"{rates['ours']:.0f} calls/s beside {rates['floor']:.0f}",
    )
    yield from _waiting(durability, told["ours"], f"{FEW} processes in a tight loop")


def _on_a_server(target: str, name: str) -> Iterator[Measurement]:
    _set_budgets(target, "full")
    with Crew(functools.partial(_ledger_alone, target), MANY, preload=(__name__,)) as crew:
        for count in (FEW, MANY):
            told = crew.turn("ours", TURNS * TURN_S, count=count)
            what, of = f"PostgreSQL, {name}, {count} programs", f"{count} processes in a tight loop"
            # Of many in a tight loop each waits for all others: what one call takes, times their number.
            mean_ms = 1e3 * count / rate(told)
            yield from _waiting(what, told, of, bound_ms=WAIT_MS if count == FEW else max(WAIT_MS, 3 * mean_ms))
        told = crew.turn("ours", EVEN_S, every_s=EVERY_S)
        what, of = f"PostgreSQL, {name}, {MANY} programs below saturation", f"a call each, every {EVERY_S:g} s"
        yield from _waiting(what, told, of)
    check(target)


def _waiting(what: str, told: Sequence[Told], of: str, bound_ms: float = WAIT_MS) -> Iterator[Measurement]:
    """99 of 100 waits, the longest of all, and the least share."""
    waited, shares = waits(told), [len(one.waits) for one in told]
    middle, high = (waited[int(len(waited) * part)] * 1e3 for part in (0.5, 0.99))
    detail = f"median {middle:.1f} ms, {rate(told):.0f} calls/s"
    yield Measurement(f"99th percentile of an admission, {what}", high, bound_ms, of, "ms", detail)
    yield Measurement(f"longest admission, {what}", waited[-1], LONGEST_S, of, "s")
    mean = statistics.mean(shares)
    detail = f"{min(shares) / mean:.2f} – {max(shares) / mean:.2f} of the mean"
    yield Measurement(f"mean / least share of the calls, {what}", mean / max(1, min(shares)), 2, of, "×", detail)


def _set_budgets(target: str, durability: str) -> None:
    with closing(open_ledger(target, durability)) as ledger:
        for project in ("/", "acme", PROJECT):
            ledger.set_budget(make_budget(project, to_usd(10**15), per="total"), wall_clock_us())


@contextmanager
def _ledger_alone(target: str) -> Iterator[Sides]:
    """One program's ledger."""
    with closing(open_ledger(target)) as ledger:
        yield {"ours": lambda: hold_and_settle(ledger)}


@contextmanager
def _sides(folder: Path, durability: str) -> Iterator[Sides]:
    """One program's ledger and floor."""
    with closing(open_ledger(str(folder / "ledger.db"), durability)) as ledger:
        yield {"floor": _floor(folder / "floor.db", durability), "ours": lambda: hold_and_settle(ledger)}


def _floor(path: Path, durability: str) -> Callable[[], float]:
    """The two bare transactions, each under a polled `flock`; seconds that both took."""
    fd = os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT, 0o600)
    connection = calls.connect_floor(path, durability)
    flock, execute = fcntl.flock, connection.execute

    def begin() -> None:
        while True:
            try:
                flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(POLL_S)
        execute("BEGIN IMMEDIATE")

    def commit() -> None:
        execute("COMMIT")
        flock(fd, fcntl.LOCK_UN)

    both = calls.floor(connection, begin, commit)

    def run() -> float:
        asked = time.perf_counter()
        both()
        return time.perf_counter() - asked

    return run
