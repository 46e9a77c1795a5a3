"""Threads, processes, forks and kills: one ledger, on any kind of database, never a nano-dollar over."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import NOW_US, an_attempt, balance, hold, keep, open_ledger, outcome, place, python, verified

from costguard.budgets import make_budget
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.engine import Tx
from costguard.ledger.records import Admitted
from costguard.money import to_usd

pytestmark = pytest.mark.usefixtures("each_engine")

LIMIT = 240_000
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

place, processes, victims = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
open_ledger(place).close()  # the slow imports, once for all

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
    ledger = open_ledger(place)
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
    outcome(python(RACE, place(path), 8, 0))
    spent, held = balance(ledger)
    assert held == 0
    assert LIMIT - 1000 < spent <= LIMIT


def test_killed_processes_leave_their_holds_unresolved_and_the_others_use_the_rest(path: Path, ledger: Ledger) -> None:
    keep(path)
    race = python(RACE, place(path), 8, 3)
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
    keep(path)
    victim = python(
        """
import os, signal, sys
from ledgers import *
ledger = open_ledger(sys.argv[1])
admit = ledger._admit
def die(*args):
    admit(*args)
    os.kill(os.getpid(), signal.SIGKILL)
ledger._admit = die
hold(ledger, 1000)
""",
        place(path),
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


def test_reading_and_writing_in_the_middle_of_a_read_work(ledger: Ledger) -> None:
    def op(tx: Tx) -> list[object]:
        before = tx.all("SELECT count(*) FROM attempts")
        hold(ledger, 7)
        assert len(ledger.balances(NOW_US)) == 1
        return [before, tx.all("SELECT count(*) FROM attempts")]

    assert ledger._engine.read(op) == [[(0,)], [(0,)]]  # one snapshot, taken before the hold
    assert balance(ledger) == (0, 7)


# Forks

FORKS = """
import contextlib, multiprocessing, os, signal, sys, threading
from ledgers import *
from costguard.errors import LedgerError

ledger = open_ledger(sys.argv[1])

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
            place(path),
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
            place(path),
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
            place(path),
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
            place(path),
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
            place(path),
        )
    )
    assert "skipped Python's fork hooks" in message
    assert balance(ledger) == (0, 2)
