"""Programs that want the ledger at once: all get their turn, nobody who waits holds up others, alone none pauses."""

from __future__ import annotations

import fcntl
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ledgers import NOW_US, balance, hold, kill, open_ledger, outcome, python, verified

from costguard.budgets import make_budget
from costguard.errors import LedgerError
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.engines import lock as locks
from costguard.ledger.engines import spans
from costguard.ledger.engines.lock import WriterLock
from costguard.ledger.engines.patience import Patience

in_line = pytest.mark.skipif(not spans.CAN_ASK, reason="elsewhere than on Linux nobody stands in line")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    ledger = open_ledger(path)
    ledger.set_budget(make_budget("/", 1, per="total"), NOW_US)
    yield ledger
    verified(ledger)
    ledger.close()


class Clock:
    """Time that passes only in sleep, and what is to happen at each sleep; as `time` is to the lock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        self.steps: list[float] = []
        self.happenings: list[Callable[[], object]] = []
        monkeypatch.setattr(locks, "time", self)

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, step_s: float) -> None:
        self.steps.append(step_s)
        self.now_s += step_s
        if self.happenings:
            self.happenings.pop(0)()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def make(tmp_path: Path) -> Callable[[], WriterLock]:
    """Locks of as many programs, as far as the files tell."""
    (tmp_path / "file").touch()
    return lambda: WriterLock(tmp_path / "file")


def forever() -> Patience:
    return Patience(10**9)


def is_free(lock: WriterLock) -> bool:
    with lock.path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def wait_for(mine: WriterLock, other: WriterLock, clock: Clock) -> None:
    """Let `mine` get the lock by waiting for `other`."""
    other.acquire(forever())
    clock.happenings = [other.release]
    mine.acquire(forever())


# The line


def test_who_is_alone_takes_the_lock_again_and_again_without_a_pause(
    clock: Clock, make: Callable[[], WriterLock]
) -> None:
    lock = make()
    for _ in range(1000):
        lock.acquire(forever())
        lock.release()
        clock.now_s += 0.001
    assert clock.steps == []


@in_line
def test_after_its_turn_a_program_lets_those_in_who_wait(clock: Clock, make: Callable[[], WriterLock]) -> None:
    mine, other = make(), make()
    wait_for(mine, other, clock)
    clock.now_s += 2 * locks._TURN_S
    other._line_up(locks._byte(clock.now_s))
    clock.now_s += 0.001
    mine.release()
    taken = []
    clock.happenings = [lambda: taken.append(other._take()), other._leave_line, other.release]
    mine.acquire(forever())
    assert taken == [True]


@in_line
def test_during_its_turn_a_program_keeps_the_lock_though_others_wait(
    clock: Clock, make: Callable[[], WriterLock]
) -> None:
    mine, other = make(), make()
    wait_for(mine, other, clock)
    other._line_up(locks._byte(clock.now_s))
    del clock.steps[:]
    mine.release()
    mine.acquire(forever())
    assert clock.steps == []


@in_line
def test_who_has_waited_longest_looks_more_often_than_the_others(clock: Clock, make: Callable[[], WriterLock]) -> None:
    holder, first, second = make(), make(), make()
    holder.acquire(forever())
    first._open()
    first._line_up(locks._byte(clock.now_s - 0.01))
    clock.happenings = [lambda: None, first._leave_line, lambda: None, holder.release]
    second.acquire(forever())
    assert clock.steps == [locks._LATER_S] * 2 + [locks._SOON_S] * 2


@in_line
def test_one_that_stands_in_line_for_too_long_is_passed(clock: Clock, make: Callable[[], WriterLock]) -> None:
    holder, stuck, mine = make(), make(), make()
    holder.acquire(forever())
    stuck._open()
    stuck._line_up(locks._byte(clock.now_s - 0.001))
    clock.happenings = [lambda: setattr(clock, "now_s", clock.now_s + locks._LINE_S), holder.release]
    mine.acquire(forever())
    assert clock.steps == [locks._LATER_S, locks._SOON_S]


@in_line
def test_nobody_is_left_in_line_by_a_wait_that_ended_well_or_not(clock: Clock, make: Callable[[], WriterLock]) -> None:
    holder, mine, asks = make(), make(), make()
    asks._open()
    wait_for(mine, holder, clock)
    mine.release()
    holder.acquire(forever())
    gone = Patience(0)
    gone.deadline = clock.now_s
    with pytest.raises(LedgerError, match="other processes keep the ledger's lock"):
        mine.acquire(gone)

    def interrupt() -> None:
        raise KeyboardInterrupt

    clock.happenings = [interrupt]
    with pytest.raises(KeyboardInterrupt):
        mine.acquire(forever())
    assert not asks._is_behind(locks._byte(clock.now_s + 1))
    holder.release()
    assert is_free(mine)


def test_where_nobody_can_stand_in_line_all_wait_and_get_the_lock(
    clock: Clock, make: Callable[[], WriterLock], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spans, "CAN_ASK", False)
    mine, other = make(), make()
    for _ in range(3):
        wait_for(mine, other, clock)
        mine.release()
        clock.now_s += 2 * locks._TURN_S
    assert clock.steps == [locks._LATER_S] * 3


def test_the_lock_file_removed_and_the_descriptor_closed_by_a_fork_while_one_waits(
    clock: Clock, make: Callable[[], WriterLock]
) -> None:
    """As by a handler of a signal that forks: every file is closed before it."""
    holder, mine = make(), make()
    holder.acquire(forever())
    clock.happenings = [mine.close, mine.close, holder.path.unlink, holder.release]
    mine.acquire(forever())
    assert mine.is_linked()
    assert not is_free(mine)
    assert len(clock.steps) == 4


# Programs

WAITS = """
import os, signal, sys, time
from ledgers import *
from costguard.ledger.engines import lock
ledger = open_ledger(Path(sys.argv[1]))
lines_up = lock.WriterLock._line_up
def tell(self, place):
    stands = lines_up(self, place)
    print("waits", flush=True)
    lock.WriterLock._line_up = lines_up
    return stands
lock.WriterLock._line_up = tell
print("opened", flush=True)
sys.stdin.readline()
hold(ledger, 1000)
ledger.close()
"""


@pytest.fixture
def waiting(path: Path, ledger: Ledger) -> subprocess.Popen[str]:
    """A program that waits to hold 1000 nano-dollars; the lock is free again when the test begins to use it."""
    program = python(WAITS, path)
    assert program.stdin is not None
    assert program.stdout is not None
    assert program.stdout.readline() == "opened\n"
    lock = WriterLock(path)
    lock.acquire(forever())
    program.stdin.write("\n")
    program.stdin.flush()
    assert program.stdout.readline() == "waits\n"
    program.send_signal(signal.SIGSTOP)
    while b") T " not in Path(f"/proc/{program.pid}/stat").read_bytes():
        time.sleep(0.001)
    lock.close()
    return program


def test_a_program_that_is_stopped_while_it_waits_holds_nobody_up(
    path: Path, ledger: Ledger, waiting: subprocess.Popen[str]
) -> None:
    other = open_ledger(path)
    for _ in range(20):
        hold(ledger, 1)
        hold(other, 1)
    other.close()
    assert balance(ledger) == (0, 40)
    waiting.send_signal(signal.SIGCONT)
    outcome(waiting)
    assert balance(ledger) == (0, 1040)


@in_line
def test_a_program_that_is_killed_while_it_waits_is_in_line_no_more(
    path: Path, ledger: Ledger, waiting: subprocess.Popen[str]
) -> None:
    lock = WriterLock(path)
    lock.acquire(forever())
    now = locks._byte(time.monotonic())
    assert lock._fd is not None
    assert spans.is_claimed(lock._fd, (locks._LINE_AT, now - locks._LINE_AT))
    kill([waiting])
    assert not spans.is_claimed(lock._fd, (locks._LINE_AT, 0))
    lock.close()
    hold(ledger, 1)


GREEDY = """
import sys
from ledgers import *
ledger = open_ledger(Path(sys.argv[1]))
calls = 0
while calls < 100 or not Path(sys.argv[2]).exists():
    hold(ledger, 1)
    if not calls:
        print("begins", flush=True)
    calls += 1
ledger.close()
print(calls)
"""


def test_programs_that_never_pause_starve_nobody(path: Path, ledger: Ledger, tmp_path: Path) -> None:
    """A call that is not served within the bound of every wait fails its program."""
    greedy = [python(GREEDY, path, tmp_path / "end") for _ in range(3)]
    for program in greedy:
        assert program.stdout is not None
        assert program.stdout.readline() == "begins\n"
    for _ in range(100):
        hold(ledger, 1)
    (tmp_path / "end").touch()
    calls = [int(outcome(program)) for program in greedy]
    assert min(calls) >= 100
    assert balance(ledger) == (0, 100 + sum(calls))
