"""8 processes in a tight loop on one ledger: calls per second against the floor under the same lock, and who waits."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from costguard.budgets import make_budget
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.engines.sqlite import SqliteEngine
from costguard.ledger.records import Admitted, Settle
from costguard.money import to_usd
from scripts.benchmarks import calls
from scripts.benchmarks.contention import NOW_US, PROJECT, a_charge, an_attempt
from scripts.benchmarks.runner.measurement import Measurement

PROCESSES = 8
TURNS, TURN_S = 4, 1.25
"""Each side runs this often, in turns with the other."""
POLL_S = 0.001
"""The step of the floor's own lock: the throughput of one that cares for no fairness."""


class _Told(NamedTuple):
    """What one process did in all its turns on one side."""

    calls: int
    waits: list[float]
    """Seconds of each admission, its wait for the others included; of the floor, of both transactions."""


def results() -> Iterator[Measurement]:
    """Calls per second, waits for an admission and shares, for both durabilities."""
    for durability in ("normal", "full"):
        with tempfile.TemporaryDirectory() as folder:
            told = _run(Path(folder), durability)
        rates = {side: sum(each.calls for each in of) / (TURNS * TURN_S) for side, of in told.items()}
        ours = told["ours"]
        waits = sorted(wait for each in ours for wait in each.waits)
        shares = [each.calls for each in ours]
        of = f"{PROCESSES} processes in a tight loop"
        yield Measurement(
            f"calls per second, {durability}",
            rates["floor"] / rates["ours"],
            1 / 0.7,
            "two bare transactions under a lock of that kind",
            detail=f"{rates['ours']:.0f} calls/s beside {rates['floor']:.0f}",
        )
        middle, high = (waits[int(len(waits) * part)] * 1e3 for part in (0.5, 0.99))
        detail = f"median {middle:.1f} ms"
        yield Measurement(f"99th percentile of an admission, {durability}", high, 50, of, "ms", detail)
        yield Measurement(f"longest admission, {durability}", waits[-1], 0.5, of, "s")
        mean = statistics.mean(shares)
        detail = f"{min(shares) / mean:.2f} – {max(shares) / mean:.2f} of the mean"
        yield Measurement(
            f"mean / least share of the calls, {durability}", mean / max(1, min(shares)), 2, of, "×", detail
        )


def _run(folder: Path, durability: str) -> dict[str, list[_Told]]:
    """Both sides in turns, by the same processes."""
    with contextlib.closing(_open(folder, durability)) as ledger:
        for project in ("/", "acme", PROJECT):
            ledger.set_budget(make_budget(project, to_usd(10**15), per="total"), NOW_US)
    calls.make_floor(folder / "floor.db")
    calls.connect_floor(folder / "floor.db", durability).close()
    context = multiprocessing.get_context("spawn")
    pipes, runners = [], []
    for _ in range(PROCESSES):
        here, there = context.Pipe()
        runners.append(context.Process(target=_serve, args=(folder, durability, there)))
        runners[-1].start()
        there.close()
        pipes.append(here)
    told: dict[str, list[_Told]] = {side: [_Told(0, []) for _ in pipes] for side in ("floor", "ours")}
    for pipe in pipes:
        pipe.recv()
    for _ in range(TURNS):
        for side, so_far in told.items():
            begin = time.monotonic() + 0.05
            for pipe in pipes:
                pipe.send((side, begin, begin + TURN_S))
            for n, pipe in enumerate(pipes):
                count, waits = pipe.recv()
                so_far[n] = _Told(so_far[n].calls + count, so_far[n].waits + waits)
    for pipe in pipes:
        pipe.close()
    for runner in runners:
        runner.join()
    with contextlib.closing(_open(folder, durability)) as ledger:
        found = ledger.verify()
        if not found.ok:
            raise RuntimeError(f"the ledger does not verify: {found.difference}")
    return told


def _serve(folder: Path, durability: str, pipe: Connection) -> None:
    """One process: a turn on one side whenever it is told so, until the pipe is closed."""
    ledger = _open(folder, durability)
    sides: dict[str, Callable[[], float]] = {
        "floor": _floor(folder / "floor.db", durability),
        "ours": lambda: _call(ledger),
    }
    pipe.send(None)
    with contextlib.suppress(EOFError):
        while True:
            side, begin, end = pipe.recv()
            call, count, waits = sides[side], 0, []
            time.sleep(max(0, begin - time.monotonic()))
            while time.monotonic() < end:
                waits.append(call())
                count += 1
            pipe.send((count, waits))
    ledger.close()


def _open(folder: Path, durability: str) -> Ledger:
    return Ledger(SqliteEngine(folder / "ledger.db", durability=durability))


def _call(ledger: Ledger) -> float:
    """Hold and settle once; seconds that the admission took."""
    task = an_attempt()
    asked = time.perf_counter()
    answer = ledger.admit(PROJECT, NOW_US, [task])
    waited = time.perf_counter() - asked
    assert isinstance(answer, Admitted), answer
    ledger.conclude(NOW_US, [Settle(answer.attempt_ids[0], a_charge(), task.task_uuid)])
    return waited


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
