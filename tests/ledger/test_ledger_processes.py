"""Threads, processes, forks, signals and kills: one ledger, never a nano-dollar over."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import NOW_US, an_attempt, balance, hold, kill, open_ledger, outcome, python, verified

from costguard.budgets import make_budget
from costguard.errors import LedgerError
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.engines import keeping, sqlite
from costguard.ledger.engines.files import SqliteTx
from costguard.ledger.owner import Owner, is_dead, this_process
from costguard.ledger.records import Admitted
from costguard.money import to_usd

LIMIT = 600_000
"""Nano-dollars: what the race is for. A call holds 1000 and costs 400."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    ledger = open_ledger(path)
    ledger.set_budget(make_budget("/", to_usd(LIMIT), per="total"), NOW_US)
    yield ledger
    verified(ledger)
    ledger.close()


# Processes and threads

RACE = """
import os, sys, threading, time
from ledgers import *
from costguard.ledger.records import Refused, Settle

path, processes, victims = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
open_ledger(path).close()  # the slow imports, once for all

def call(ledger, victim):
    while True:
        answer = ledger.admit("acme", NOW_US, [an_attempt(1000)])
        if not isinstance(answer, Refused):
            ledger.conclude(NOW_US, [Settle(answer.attempt_ids[0], a_charge(400), "0")])
        elif not victim and answer.remaining + answer.held - answer.unresolved < 1000:
            return  # nothing that is still under way can make room
        else:
            time.sleep(0.005)

def fail(thread):
    threading.__excepthook__(thread)
    os._exit(1)

def main(victim):
    threading.excepthook = fail
    ledger = open_ledger(path)
    if victim:
        hold(ledger, 1000)
    threads = [threading.Thread(target=call, args=(ledger, victim)) for _ in range(8)]
    for thread in threads: thread.start()
    if victim:
        print(os.getpid(), flush=True)
    for thread in threads: thread.join()
    ledger.close()

children = []
for n in range(processes):
    child = os.fork()
    if not child:
        try:
            main(n < victims)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    children.append(child)
failed = [child for child in children if os.waitpid(child, 0)[1] not in (0, 9)]
sys.exit(len(failed))
"""


def test_8_processes_of_8_threads_use_the_limit_up_and_never_pass_it(path: Path, ledger: Ledger) -> None:
    outcome(python(RACE, path, 8, 0))
    spent, held = balance(ledger)
    assert held == 0
    assert LIMIT - 1000 < spent <= LIMIT


def test_killed_processes_leave_their_holds_unresolved_and_the_others_use_the_rest(path: Path, ledger: Ledger) -> None:
    race = python(RACE, path, 8, 3)
    assert race.stdout is not None
    victims = [int(race.stdout.readline()) for _ in range(3)]
    while balance(ledger)[0] < LIMIT // 10 and race.poll() is None:
        time.sleep(0.01)
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    outcome(race)
    spent, held = balance(ledger)
    still_open = ledger.open_attempts()
    assert 3 <= len(still_open) <= 3 * 9
    assert {attempt.status for attempt in still_open} == {"unresolved"}
    assert {task.status for task in ledger.tasks(status="unresolved")} == {"unresolved"}
    assert held == 1000 * len(still_open)
    assert LIMIT - 1000 < spent + held <= LIMIT
    assert spent + held >= LIMIT * 9 // 10


def test_a_process_killed_in_mid_transaction_leaves_no_trace_and_no_lock(path: Path, ledger: Ledger) -> None:
    victim = python(
        """
import os, signal, sys
from ledgers import *
ledger = open_ledger(Path(sys.argv[1]))
admit = ledger._admit
def die(*args):
    admit(*args)
    os.kill(os.getpid(), signal.SIGKILL)
ledger._admit = die
hold(ledger, 1000)
""",
        path,
    )
    victim.communicate(timeout=60)
    assert victim.returncode == -signal.SIGKILL
    assert balance(ledger) == (0, 0)
    assert ledger.tasks() == []
    hold(ledger, LIMIT)


def test_threads_of_one_process_share_a_ledger(ledger: Ledger) -> None:
    admitted: list[object] = []

    def call() -> None:
        for _ in range(15):
            admitted.append(ledger.admit("acme", NOW_US, [an_attempt(LIMIT // 100)]))
            verified(ledger)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 120
    assert sum(isinstance(answer, Admitted) for answer in admitted) == 100
    assert balance(ledger) == (0, LIMIT)


def test_two_ledgers_on_one_file_in_one_process_see_each_other(path: Path, ledger: Ledger) -> None:
    other = open_ledger(path)
    hold(ledger, LIMIT // 2)
    hold(other, LIMIT // 2)
    assert balance(ledger) == balance(other) == (0, LIMIT)
    other.close()
    hold(ledger, 0)


# Waiting is bounded


def test_a_stopped_process_that_keeps_the_lock_is_an_error_not_a_hang(
    path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = python(
        """
import fcntl, sys
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
""",
        f"{path}-lock",
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    monkeypatch.setattr(sqlite, "LOCK_TIMEOUT_S", 0.05)
    with pytest.raises(LedgerError, match=r"other processes keep the ledger's lock .*fuser"):
        hold(ledger, 1)
    assert balance(ledger) == (0, 0)  # readers do not wait
    kill([holder])
    hold(ledger, 1)


def test_a_thread_that_keeps_the_ledger_is_an_error_not_a_hang(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, done = threading.Event(), threading.Event()

    def dawdle(_: object) -> None:
        inside.set()
        done.wait(60)

    thread = threading.Thread(target=lambda: ledger._engine.write(dawdle))
    thread.start()
    inside.wait(60)
    monkeypatch.setattr(sqlite, "LOCK_TIMEOUT_S", 0.05)
    with pytest.raises(LedgerError, match="other threads kept it busy"):
        hold(ledger, 1)
    done.set()
    thread.join()
    hold(ledger, 1)


def test_a_lock_held_by_a_program_that_knows_only_sqlite_is_an_error(
    path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = python(
        """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
""",
        path,
    )
    assert shell.stdout is not None
    shell.stdout.readline()
    monkeypatch.setattr(keeping, "BUSY_TIMEOUT_S", 0.05)
    impatient = open_ledger.__globals__["SqliteEngine"]
    with pytest.raises(LedgerError, match="another program holds a write lock"):
        impatient(path).write(lambda tx: tx.run("UPDATE meta SET value = value"))
    kill([shell])
    hold(ledger, 1)


# Re-entrance: signal handlers and finalizers


def test_writing_in_the_middle_of_a_transaction_is_refused_and_harms_it_not(ledger: Ledger) -> None:
    """As a finalizer or a signal handler would, on the very thread that is writing."""
    refusals: list[LedgerError] = []

    class Finalized:
        def __del__(self) -> None:
            try:
                hold(ledger, 7)
            except LedgerError as error:
                refusals.append(error)

    def op(tx: SqliteTx) -> None:
        tx.run("INSERT INTO ceilings VALUES ('before', 1)")
        Finalized()
        tx.run("INSERT INTO ceilings VALUES ('after', 1)")
        tx.run("INSERT INTO ceiling_changes (at_us, name, nanos) VALUES (0, 'before', 1), (0, 'after', 1)")

    ledger._engine.write(op)
    assert "by this very thread" in str(refusals[0])
    assert set(ledger.ceilings()) == {"before", "after"}
    assert balance(ledger) == (0, 0)


def test_reading_and_writing_in_the_middle_of_a_read_work(ledger: Ledger) -> None:
    def op(tx: SqliteTx) -> list[object]:
        before = tx.all("SELECT count(*) FROM attempts")
        hold(ledger, 7)
        return [before, balance(ledger), tx.all("SELECT count(*) FROM attempts")]

    assert ledger._engine.read(op) == [[(0,)], (0, 0), [(0,)]]  # one snapshot, taken before the hold
    assert balance(ledger) == (0, 7)


INTERRUPTED = """
import fcntl, random, signal, sys
from ledgers import *
from costguard.budgets import make_budget
from costguard.errors import LedgerError
from costguard.ledger.records import Settle

path = Path(sys.argv[1])
ledger = open_ledger(path)
lock = open(f"{path}-lock")
random.seed(7)
armed = False

def interrupt(*_):
    if armed:
        raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
interrupted = 0
for n in range(600):
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 600e-6))
        (attempt,) = hold(ledger, 1)
        ledger.conclude(NOW_US, [Settle(attempt, a_charge(1), "0")])
        ledger.tasks(limit=1)
        signal.setitimer(signal.ITIMER_REAL, 0)
        armed = False
    except KeyboardInterrupt:
        armed = False
        interrupted += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nothing is left locked
    fcntl.flock(lock, fcntl.LOCK_UN)
hold(ledger, 1)
assert interrupted > 50, interrupted
print(interrupted)
"""


def test_an_interrupt_at_any_point_leaves_no_lock_and_no_open_transaction(path: Path, ledger: Ledger) -> None:
    outcome(python(INTERRUPTED, path))
    hold(ledger, 1)


# Forks

FORKS = """
import contextlib, multiprocessing, os, signal, sys, threading
from ledgers import *
from costguard.errors import LedgerError

path = Path(sys.argv[1])
ledger = open_ledger(path)

def child(work):
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException as error:
        print("child:", repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)

def join(*pids):
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0

def some():
    for _ in range(10):
        hold(ledger, 1)
        ledger.tasks(limit=1)
"""


def test_a_ledger_opened_before_a_fork_serves_parent_and_children(path: Path, ledger: Ledger) -> None:
    outcome(
        python(
            FORKS
            + """
some()
def nested():
    some()
    join(child(some))
    some()
pids = [child(nested) for _ in range(3)]
some()
join(*pids)
some()
""",
            path,
        )
    )
    assert balance(ledger) == (0, 120)
    rows: list[tuple[int]] = ledger._engine.read(lambda tx: tx.all("SELECT DISTINCT owner_id FROM attempts"))
    assert len(rows) == 7


def test_a_ledger_crosses_into_forked_multiprocessing_workers(path: Path, ledger: Ledger) -> None:
    outcome(
        python(
            FORKS
            + """
fork = multiprocessing.get_context("fork")
workers = [fork.Process(target=some) for _ in range(4)]
for worker in workers: worker.start()
some()
for worker in workers:
    worker.join()
    assert worker.exitcode == 0
""",
            path,
        )
    )
    assert balance(ledger) == (0, 50)


def test_forks_from_several_threads_while_others_write_and_read(path: Path, ledger: Ledger) -> None:
    outcome(
        python(
            FORKS
            + """
import warnings
warnings.simplefilter("ignore")  # forking a program with threads: the very thing tried here
stop = threading.Event()
written = []
def write():
    while not stop.is_set():
        hold(ledger, 1)
        written.append(1)
def read():
    while not stop.is_set():
        ledger.verify()
def fork():
    for _ in range(5):
        join(child(some))
busy = [threading.Thread(target=work) for work in (write, write, read)]
forks = [threading.Thread(target=fork) for _ in range(3)]
for thread in busy + forks: thread.start()
for thread in forks: thread.join()
stop.set()
for thread in busy: thread.join()
print(len(written))
""",
            path,
        )
    )
    held = balance(ledger)[1]
    assert held == len(ledger.tasks())
    assert held > 150


def test_a_fork_in_a_signal_handler_fails_at_most_the_write_it_interrupts(path: Path, ledger: Ledger) -> None:
    held, pid = outcome(
        python(
            FORKS
            + """
armed = False
pids = []
def fork(*_):
    if not armed:
        return
    def work():
        with contextlib.suppress(LedgerError):  # in the middle of the parent's own write
            hold(ledger, 1)
    pids.append(child(work))
signal.signal(signal.SIGALRM, fork)
held = failed = 0
for n in range(60):
    signal.setitimer(signal.ITIMER_REAL, 50e-6 + n * 10e-6)
    armed = True
    try:
        hold(ledger, 1)
        held += 1
    except LedgerError:
        failed += 1
    armed = False
    signal.setitimer(signal.ITIMER_REAL, 0)
join(*pids)
hold(ledger, 1)
assert pids
print(held + 1, os.getpid())
""",
            path,
        )
    ).split()
    mine = ledger._engine.read(
        lambda tx: tx.all(
            "SELECT count(*) FROM attempts a JOIN owners o ON o.id = a.owner_id WHERE o.pid = ?", (int(pid),)
        )
    )
    assert mine == [(int(held),)]


def test_an_engine_of_a_fork_without_hooks_is_refused_not_corrupted(path: Path, ledger: Ledger) -> None:
    message = outcome(
        python(
            FORKS
            + """
import ctypes
hold(ledger, 1)
pid = ctypes.PyDLL(None).fork()  # as a C program that embeds Python does
if not pid:
    try:
        hold(ledger, 1)
    except LedgerError as error:
        print(error, flush=True)
    os._exit(0)
join(pid)
hold(ledger, 1)
""",
            path,
        )
    )
    assert "skipped Python's fork hooks" in message
    assert balance(ledger) == (0, 2)


def test_no_descriptor_of_the_ledger_crosses_a_fork(path: Path, ledger: Ledger) -> None:
    names = outcome(
        python(
            FORKS
            + """
hold(ledger, 1)
ledger.tasks()
def look():
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            print(os.readlink(f"/proc/self/fd/{fd}"), flush=True)
join(child(look))
""",
            path,
        )
    )
    if sys.platform == "linux":
        assert names
    assert path.name not in names


# Owners


def test_an_owner_is_dead_once_its_process_is_gone_or_only_a_zombie() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    me = this_process()
    pid = python(
        f"from costguard.ledger import owner; print(owner._started({child.pid}))",
    )
    alive = me._replace(pid=child.pid, started=outcome(pid))
    assert is_dead(alive) is False
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, not yet reaped
    assert is_dead(alive) is True
    assert child.stdin is not None
    child.stdin.close()
    child.wait()
    assert is_dead(alive) is True


@pytest.mark.parametrize(
    ("change", "dead"),
    [
        ({}, False),
        ({"started": "1"}, True),  # the pid was given to another process
        ({"boot": "before the reboot"}, True),
        ({"host": "elsewhere"}, None),
        ({"host": "elsewhere", "boot": "another"}, None),
        ({"started": ""}, None),
    ],
)
def test_an_owner_is_known_by_host_boot_pid_and_start_time(change: dict[str, str], dead: bool | None) -> None:
    assert is_dead(this_process()._replace(**change)) is dead  # type: ignore[arg-type]


def test_a_process_that_cannot_be_looked_into_is_not_called_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when /proc hides the processes of other users."""

    def hidden(_: Path) -> bytes:
        raise PermissionError

    monkeypatch.setattr(Path, "read_bytes", hidden)
    monkeypatch.setenv("PATH", "")
    assert is_dead(this_process()) is None


def test_the_owner_names_host_and_process() -> None:
    me = this_process()
    assert isinstance(me, Owner)
    assert me.pid == os.getpid()
    assert me.host.startswith(socket.gethostname())
    assert me.started
