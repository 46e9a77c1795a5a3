"""The line of writers on one file: waiting is bounded, and nothing that interrupts leaves it locked."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import NOW_US, balance, hold, kill, open_ledger, outcome, python, verified

from costguard.budgets import make_budget
from costguard.errors import LedgerError
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.engines import keeping, sqlite
from costguard.ledger.engines.files import SqliteTx
from costguard.ledger.engines.sqlite import SqliteEngine


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    ledger = open_ledger(path)
    ledger.set_budget(make_budget("/", "1", per="total"), NOW_US)
    yield ledger
    verified(ledger)
    ledger.close()


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
    with pytest.raises(LedgerError, match="another program holds a write lock"):
        SqliteEngine(path).write(lambda tx: tx.run("UPDATE meta SET value = value"))
    kill([shell])
    hold(ledger, 1)


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


FORK = """
import contextlib, os, sys
from ledgers import *
ledger = open_ledger(Path(sys.argv[1]))
hold(ledger, 1)
ledger.tasks()
pid = os.fork()
if not pid:
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            print(os.readlink(f"/proc/self/fd/{fd}"), flush=True)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
"""


def test_no_descriptor_of_the_ledger_crosses_a_fork(path: Path, ledger: Ledger) -> None:
    names = outcome(python(FORK, path))
    if sys.platform == "linux":
        assert names
    assert path.name not in names
