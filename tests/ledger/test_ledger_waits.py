"""Waiting for a ledger that a stopped program keeps: one bound, a name, and nothing lost."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
from ledgers import NOW_US, balance, hold, open_ledger, outcome, python, verified

from costguard.budgets import make_budget
from costguard.errors import LedgerError
from costguard.exchange.offload import Worker
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.engines import patience, sqlite

STOPPED = """
import os, signal, sys
from ledgers import *
ledger = open_ledger(Path(sys.argv[1]))
admit = ledger._admit
def stop(*args):
    result = admit(*args)
    print("stops", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
    return result
ledger._admit = stop
hold(ledger, 1000)
ledger.close()
print("went on")
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = open_ledger(tmp_path / "ledger.db")
    ledger.set_budget(make_budget("/", 1, per="total"), NOW_US)
    yield ledger
    verified(ledger)
    ledger.close()


@pytest.fixture
def stopped(ledger: Ledger, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that is stopped in the middle of an admission of 1000 nano-dollars."""
    program = python(STOPPED, tmp_path / "ledger.db")
    assert program.stdout is not None
    program.stdout.readline()
    while b") T " not in Path(f"/proc/{program.pid}/stat").read_bytes():
        time.sleep(0.001)
    yield program
    program.send_signal(signal.SIGCONT)
    assert outcome(program) == "went on"
    assert balance(ledger) == (0, 1000)  # what it admitted was recorded when it woke


def test_the_error_names_the_program_that_is_stopped(
    ledger: Ledger, stopped: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LOCK_TIMEOUT_S", 0.05)
    with pytest.raises(LedgerError, match=rf"process {stopped.pid} \(.*python.*\), which is stopped"):
        hold(ledger, 1)


def test_the_bound_of_queued_calls_counts_from_when_they_were_queued(
    ledger: Ledger, stopped: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other they would need five times the bound, and its fourfold is allowed."""
    monkeypatch.setattr(patience, "WAIT_S", 1.0)
    worker = Worker()

    async def main() -> list[object]:
        async with asyncio.timeout(4):
            calls = (worker(lambda: hold(ledger, 1)) for _ in range(5))
            return list(await asyncio.gather(*calls, return_exceptions=True))

    failures = asyncio.run(main())
    worker.close()
    assert [type(failure) for failure in failures] == [LedgerError] * 5


class Knock:
    """An admission, as the gate makes it."""

    is_droppable = True

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def __call__(self) -> object:
        return hold(self.ledger, 1)


@pytest.mark.parametrize("make", [Knock, lambda ledger: lambda: hold(ledger, 1)], ids=["droppable", "not"])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_call_stops_waiting_for_the_lock(
    backend: str, make: Callable[[Ledger], Callable[[], object]], ledger: Ledger, stopped: subprocess.Popen[str]
) -> None:
    """Far below the bound, and with nothing held by it."""
    worker = Worker()

    async def main() -> bool:
        with anyio.move_on_after(0.1) as scope:
            await worker(make(ledger))
        return scope.cancelled_caught

    began_s = time.monotonic()
    assert anyio.run(main, backend=backend)
    assert time.monotonic() - began_s < patience.WAIT_S / 2
    worker.close()


def test_a_cancelled_admission_leaves_the_queue_before_its_turn(ledger: Ledger, stopped: subprocess.Popen[str]) -> None:
    worker = Worker()
    calls = [Knock(ledger) for _ in range(3)]

    async def main() -> None:
        first = asyncio.ensure_future(worker(calls[0]))
        await asyncio.sleep(0.05)
        others = [asyncio.ensure_future(worker(call)) for call in calls[1:]]
        await asyncio.sleep(0)
        for other in others:
            other.cancel()
        done, _ = await asyncio.wait(others, timeout=patience.WAIT_S / 2)
        assert len(done) == 2
        assert all(other.cancelled() for other in others)
        assert not first.done()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(main())
    worker.close()


def test_threads_that_wait_behind_one_another_all_end_within_the_bound(
    ledger: Ledger, stopped: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "LOCK_TIMEOUT_S", 0.5)

    async def main() -> None:
        async with asyncio.timeout(4):
            calls = (asyncio.to_thread(hold, ledger, 1) for _ in range(10))
            failures = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(failure) for failure in failures] == [LedgerError] * 10

    asyncio.run(main())


def test_reading_waits_for_nobody_and_opening_no_longer_than_the_bound(
    ledger: Ledger, stopped: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert balance(ledger) == (0, 0)
    monkeypatch.setattr(sqlite, "LOCK_TIMEOUT_S", 0.05)
    with pytest.raises(LedgerError, match="which is stopped"):
        open_ledger(tmp_path / "ledger.db")
    assert (tmp_path / "ledger.db-wal").exists()
