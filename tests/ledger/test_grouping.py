"""Writes that share a transaction: each as if alone, in the order in which they ran, whatever befalls the others."""

from __future__ import annotations

import contextvars
import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import NOW_US, a_charge, an_attempt, balance, hold, kill, open_ledger, outcome, python, verified

from costguard.budgets import make_budget
from costguard.errors import ConfigurationError, LedgerError
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.engine import Outcome, Steps, Write, attempt
from costguard.ledger.engines import leading, patience, sqlite
from costguard.ledger.engines.files import SqliteTx
from costguard.ledger.engines.grouping import Group
from costguard.ledger.engines.patience import Patience
from costguard.ledger.engines.sqlite import SqliteEngine
from costguard.ledger.records import Admitted, Release, Settle
from costguard.money import to_usd


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    ledger = open_ledger(path)
    ledger.set_budget(make_budget("/", 1, per="total"), NOW_US)
    yield ledger
    if not ledger.is_closed:
        verified(ledger)
        ledger.close()


# Any grouping is some serial order

Deed = Callable[[Ledger, list[int]], Steps[Any]]
"""Something to write, given the attempts that were admitted before."""


def admit(uppers: Sequence[int], project: str, n: int) -> Deed:
    tasks = [an_attempt(upper, task_uuid=f"{n}-{m}") for m, upper in enumerate(uppers)]
    return lambda ledger, _: ledger.admission(project, NOW_US + n, tasks)


def settle(which: int, nanos: int, n: int) -> Deed:
    def steps(ledger: Ledger, ids: list[int]) -> Steps[Any]:
        ids = ids or [999]
        return ledger.conclusion(NOW_US + n, [Settle(ids[which % len(ids)], a_charge(nanos), str(n))])

    return steps


def release(which: int, n: int) -> Deed:
    def steps(ledger: Ledger, ids: list[int]) -> Steps[Any]:
        ids = ids or [999]
        return ledger.conclusion(NOW_US + n, [Release(ids[which % len(ids)], "refused")])

    return steps


def fail_late(which: int, n: int) -> Deed:
    """Writes, and then raises: nothing of it may be left."""

    def steps(ledger: Ledger, ids: list[int]) -> Steps[Any]:
        first = [Release(ids[which % len(ids)], "refused")] if ids else []
        return ledger.conclusion(NOW_US + n, [*first, Release(999_999, "refused")])

    return steps


def limit(project: str, usd_nanos: int, n: int) -> Deed:
    budget = make_budget(project, to_usd(usd_nanos), per="total")

    def op(ledger: Ledger, tx: Any) -> Any:
        return ledger._change(tx, project, "total", lambda old: budget, NOW_US + n, if_absent=False)

    return lambda ledger, _: ledger._writing(functools.partial(op, ledger))


PROJECTS = st.sampled_from(["acme", "acme/search", "other"])
DEEDS = st.one_of(
    st.builds(lambda uppers, project: functools.partial(admit, uppers, project),
              st.lists(st.integers(0, 500), min_size=1, max_size=3), PROJECTS),
    st.builds(lambda which, nanos: functools.partial(settle, which, nanos), st.integers(0, 50), st.integers(0, 700)),
    st.builds(lambda which: functools.partial(release, which), st.integers(0, 50)),
    st.builds(lambda which: functools.partial(fail_late, which), st.integers(0, 50)),
    st.builds(lambda project, nanos: functools.partial(limit, project, nanos), PROJECTS, st.integers(0, 3000)),
)  # fmt: skip


def together(ledger: Ledger, some: Sequence[Steps[Any]]) -> list[Outcome]:
    """What comes of steps that take one write each, and write together."""
    writes = [next(steps) for steps in some]
    context = contextvars.Context
    outcomes = ledger._engine.write_all([(context(), write) for write in writes])
    return [attempt(_end, steps, outcome) for steps, outcome in zip(some, outcomes, strict=True)]


def _end(steps: Steps[Any], outcome: Outcome) -> Any:
    try:
        if outcome.error is not None:
            steps.throw(outcome.error)
        else:
            steps.send(outcome.value)
    except StopIteration as end:
        return end.value
    raise AssertionError("one write each")


def rows(ledger: Ledger) -> dict[str, list[Any]]:
    """All that is in the ledger, by table."""

    def read(tx: SqliteTx) -> dict[str, list[Any]]:
        names = tx.all(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '%migrations' ORDER BY name"
        )
        return {name: sorted(map(repr, tx.all(f"SELECT * FROM {name}"))) for (name,) in names}

    return ledger._engine.read(read)


def said(outcomes: Sequence[Outcome]) -> list[tuple[Any, str]]:
    return [(outcome.value, repr(outcome.error)) for outcome in outcomes]


@settings(max_examples=60, deadline=None)
@given(groups=st.lists(st.lists(DEEDS, min_size=1, max_size=6), max_size=6))
def test_any_grouping_leaves_the_ledger_that_the_same_writes_leave_one_by_one(
    groups: list[list[Callable[[int], Deed]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("grouping")
    pair = [open_ledger(folder / name) for name in ("grouped.db", "single.db")]
    for ledger in pair:
        ledger.set_budget(make_budget("/", to_usd(2500), per="total"), NOW_US)
    ids: list[int] = []
    n = 0
    for group in groups:
        deeds = [make(n + m) for m, make in enumerate(group)]
        n += len(deeds)
        grouped = together(pair[0], [deed(pair[0], ids) for deed in deeds])
        single = [found for deed in deeds for found in together(pair[1], [deed(pair[1], ids)])]
        assert said(grouped) == said(single)
        ids += [id_ for found in grouped if isinstance(found.value, Admitted) for id_ in found.value.attempt_ids]
    assert rows(pair[0]) == rows(pair[1])
    for ledger in pair:
        assert verified(ledger)
        ledger.close()


# Who waits together


class Crowd:
    """Threads that wait behind one that is in the midst of its transaction, until `go` is set."""

    def __init__(self, ledger: Ledger) -> None:
        self.engine: Any = ledger._engine
        self.begun, self.go = threading.Event(), threading.Event()
        self.leader = 0
        self.pool = ThreadPoolExecutor(20)

    def lead(self, op: Callable[[SqliteTx], Any] = lambda tx: None) -> Future[Any]:
        def first(tx: SqliteTx) -> Any:
            self.leader = threading.get_ident()
            self.begun.set()
            assert self.go.wait(30)
            return op(tx)

        future = self.pool.submit(self.engine.write, first)
        assert self.begun.wait(30)
        return future

    def follow(self, *ops: Callable[[], Any]) -> list[Future[Any]]:
        """Run each on a thread of its own, one after another into the queue."""
        futures = []
        for op in ops:
            before = len(self.engine._queue)
            futures.append(self.pool.submit(op))
            while len(self.engine._queue) == before:
                time.sleep(0.001)
        return futures


@pytest.fixture
def crowd(ledger: Ledger) -> Iterator[Crowd]:
    crowd = Crowd(ledger)
    yield crowd
    crowd.go.set()
    crowd.pool.shutdown()


@pytest.fixture
def transactions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of writes in each transaction that was committed."""
    sizes: list[int] = []
    transact = SqliteEngine._transact

    def watch(engine: SqliteEngine, job: Any, wait: Any, group: Group) -> None:
        transact(engine, job, wait, group)
        if job is not None:
            sizes.append(1 + len(group.others))

    monkeypatch.setattr(SqliteEngine, "_transact", watch)
    return sizes


def ceiling(name: str) -> Callable[[SqliteTx], None]:
    """Writes a row that can be written once."""

    def op(tx: SqliteTx) -> None:
        tx.run("INSERT INTO ceilings VALUES (?, 1)", (name,))
        tx.run("INSERT INTO ceiling_changes (at_us, name, nanos) VALUES (0, ?, 1)", (name,))

    return op


def write(ledger: Ledger, name: str) -> Callable[[], None]:
    return lambda: ledger._engine.write(ceiling(name))


def test_what_waits_together_is_one_transaction(ledger: Ledger, crowd: Crowd, transactions: list[int]) -> None:
    first = crowd.lead()
    others = crowd.follow(*(lambda: hold(ledger, 7) for _ in range(10)))
    assert not any(future.done() for future in others)
    crowd.go.set()
    ids = [future.result(30)[0] for future in others]
    assert first.result(30) is None
    assert ids == sorted(ids), "first come, first served"
    assert transactions == [11]
    assert balance(ledger) == (0, 70)


def test_a_transaction_has_a_most_and_the_rest_is_the_next(
    ledger: Ledger, crowd: Crowd, transactions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("costguard.ledger.engines.grouping.GROUP_MAX", 4)
    crowd.lead()
    others = crowd.follow(*(lambda: hold(ledger, 1) for _ in range(10)))
    crowd.go.set()
    assert len({future.result(30)[0] for future in others}) == 10
    assert max(transactions) == 4
    assert sum(transactions) == 11


def test_one_that_fails_is_nobody_elses_failure(ledger: Ledger, crowd: Crowd, transactions: list[int]) -> None:
    def fail(tx: SqliteTx) -> None:
        ceiling("never")(tx)
        raise ConfigurationError("on purpose")

    first = crowd.lead(ceiling("first"))
    a, bad, b = crowd.follow(write(ledger, "a"), lambda: ledger._engine.write(fail), write(ledger, "b"))
    crowd.go.set()
    for future in (first, a, b):
        assert future.result(30) is None
    with pytest.raises(ConfigurationError, match="on purpose"):
        bad.result(30)
    assert set(ledger.ceilings()) == {"first", "a", "b"}
    assert transactions == [1, 1, 1]


def test_a_commit_that_fails_is_tried_for_each_alone(
    ledger: Ledger, crowd: Crowd, transactions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Commits:
        tried = 0

        def __iter__(self) -> Iterator[str]:
            self.tried += 1
            return iter(["NO COMMIT" if self.tried == 1 else "COMMIT"])

    crowd.lead()
    others = crowd.follow(*(write(ledger, name) for name in "abc"))
    monkeypatch.setattr(sqlite, "_COMMIT", Commits())
    crowd.go.set()
    assert [future.result(30) for future in others] == [None] * 3
    assert set(ledger.ceilings()) == set("abc")
    assert transactions == [1, 1, 1, 1]


def test_a_disk_that_is_full_for_one_is_not_for_the_others(ledger: Ledger, crowd: Crowd) -> None:
    def narrow(tx: SqliteTx) -> None:
        (pages,) = tx.one("PRAGMA page_count") or (0,)
        tx.one(f"PRAGMA max_page_count = {pages + 20}")

    crowd.lead(narrow)
    a, big, b = crowd.follow(write(ledger, "a"), write(ledger, "x" * 1_000_000), write(ledger, "b"))
    crowd.go.set()
    assert (a.result(30), b.result(30)) == (None, None)
    with pytest.raises(LedgerError, match="disk is full"):
        big.result(30)
    assert set(ledger.ceilings()) == {"a", "b"}


def test_files_that_are_taken_away_at_the_moment_of_writing_are_the_error_of_all(ledger: Ledger, crowd: Crowd) -> None:
    engine: Any = ledger._engine

    def lose() -> None:
        raise LedgerError("its files were removed")

    first = crowd.lead()
    others = crowd.follow(*(write(ledger, name) for name in "ab"))
    engine._check_lock = lose
    crowd.go.set()
    errors = [future.exception(30) for future in (first, *others)]
    assert [str(error) for error in errors] == ["its files were removed"] * 3
    assert len(set(map(id, errors))) == 3, "one each: a traceback is of one thread"
    del engine._check_lock


# Interrupts, patience, forks, closing, kills


def test_an_interrupt_of_the_leader_is_its_own(ledger: Ledger, crowd: Crowd) -> None:
    """Its transaction is undone, and the others' writes are made by the next one."""

    def interrupted(tx: SqliteTx) -> None:
        ceiling("b")(tx)
        if threading.get_ident() == crowd.leader:
            raise KeyboardInterrupt

    first = crowd.lead(ceiling("first"))
    others = crowd.follow(write(ledger, "a"), lambda: ledger._engine.write(interrupted), write(ledger, "c"))
    crowd.go.set()
    with pytest.raises(KeyboardInterrupt):
        first.result(30)
    assert [future.result(30) for future in others] == [None] * 3
    assert set(ledger.ceilings()) == {"a", "b", "c"}


def test_an_interrupt_right_after_the_commit_loses_nothing_and_repeats_nothing(ledger: Ledger, crowd: Crowd) -> None:
    engine: Any = ledger._engine

    def interrupt() -> None:
        del engine._check_lock
        raise KeyboardInterrupt

    first = crowd.lead(ceiling("first"))
    others = crowd.follow(*(write(ledger, name) for name in "abc"))
    engine._check_lock = interrupt
    crowd.go.set()
    with pytest.raises(KeyboardInterrupt):
        first.result(30)
    assert [future.result(30) for future in others] == [None] * 3, "a row written twice would be refused"
    assert set(ledger.ceilings()) == {"first", "a", "b", "c"}


def test_a_second_interrupt_before_it_could_be_said_leaves_nobody_waiting(
    ledger: Ledger, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_out = Group.hand_out

    def interrupt(*_: Any) -> None:
        monkeypatch.setattr(Group, "hand_out", hand_out)
        raise KeyboardInterrupt

    first = crowd.lead(ceiling("first"))
    others = crowd.follow(*(write(ledger, name) for name in "abc"))
    monkeypatch.setattr(Group, "hand_out", interrupt)
    crowd.go.set()
    with pytest.raises(KeyboardInterrupt):
        first.result(30)
    assert [future.result(30) for future in others] == [None] * 3
    assert set(ledger.ceilings()) == {"first", "a", "b", "c"}


def test_one_that_waits_gives_up_in_time_and_is_never_written(ledger: Ledger, crowd: Crowd) -> None:
    wait = Patience(30)

    def impatient() -> None:
        patience.current.set(wait)
        contextvars.copy_context().run(write(ledger, "never"))

    crowd.lead()
    other, quitter = crowd.follow(write(ledger, "a"), impatient)
    wait.give_up()
    with pytest.raises(LedgerError, match="other threads kept it busy"):
        quitter.result(10)
    crowd.go.set()
    assert other.result(30) is None
    assert set(ledger.ceilings()) == {"a"}


def test_of_many_handed_in_at_once_the_least_patient_gives_up_alone(ledger: Ledger, path: Path) -> None:
    """Another program keeps the lock for a moment."""
    other = open_ledger(path)
    keeper: Any = other._engine
    keeper._lock.acquire(Patience(1))
    contexts = [contextvars.copy_context() for _ in range(3)]
    waits = [Patience(30), Patience(0.2), Patience(30)]
    for context, wait in zip(contexts, waits, strict=True):
        context.run(patience.current.set, wait)
    timer = threading.Timer(1, keeper._lock.release)
    timer.start()
    found = ledger._engine.write_all(
        [(context, Write(ledger._engine, ceiling(name))) for context, name in zip(contexts, "abc", strict=True)]
    )
    timer.join()
    other.close()
    assert [type(outcome.error) for outcome in found] == [type(None), LedgerError, type(None)]
    assert set(ledger.ceilings()) == {"a", "c"}


def test_closing_answers_all_that_wait_and_says_so_of_what_was_not_written(ledger: Ledger, crowd: Crowd) -> None:
    crowd.lead()
    others = crowd.follow(*(write(ledger, name) for name in "abc"))
    closing = crowd.pool.submit(ledger.close)
    crowd.go.set()
    closing.result(30)
    written = {name for name, future in zip("abc", others, strict=True) if future.exception(30) is None}
    assert all("is closed" in str(future.exception()) for future in others if future.exception() is not None)
    again = open_ledger(Path(crowd.engine.path))
    assert set(again.ceilings()) == written
    again.close()


INTERRUPTED = """
import random, signal, sys, threading
from ledgers import *

ledger = open_ledger(Path(sys.argv[1]))
random.seed(3)
stop = threading.Event()
answered = []

def work():
    while not stop.is_set():
        answered.append(hold(ledger, 1)[0])

armed = False
def interrupt(*_):
    if armed:
        raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
threads = [threading.Thread(target=work) for _ in range(6)]
for thread in threads: thread.start()
interrupted = 0
for n in range(400):
    try:
        armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 3e-3))
        answered.append(hold(ledger, 1)[0])
        signal.setitimer(signal.ITIMER_REAL, 0)
        armed = False
    except KeyboardInterrupt:
        armed = False
        interrupted += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
stop.set()
for thread in threads:
    thread.join(30)
    assert not thread.is_alive()
assert interrupted > 20, interrupted
written = len(ledger.tasks(limit=1_000_000))
assert len(set(answered)) == len(answered)
assert len(answered) <= written <= len(answered) + interrupted, (len(answered), written, interrupted)
assert ledger.verify().ok
ledger.close()
"""


def test_interrupts_at_any_point_of_a_thread_that_leads_and_follows_harm_no_other(path: Path, ledger: Ledger) -> None:
    outcome(python(INTERRUPTED, path))


FORK = """
import os, sys, threading, time
from ledgers import *

ledger = open_ledger(Path(sys.argv[1]))
engine = ledger._engine
pid = os.getpid()
forked = []

def lead(tx):
    while len(engine._queue) < 5 and not forked:
        time.sleep(0.001)

def fork(tx):
    # As a signal handler of the leading thread would, in the midst of its transaction.
    if os.getpid() == pid and not forked:
        child = os.fork()
        if not child:
            assert not engine._queue
            hold(open_ledger(Path(sys.argv[1])), 1)
            os._exit(0)
        forked.append(child)
        tx.run("UPDATE meta SET value = value")

first = threading.Thread(target=engine.write, args=(lead,))
first.start()
while not engine._writing:
    time.sleep(0.001)
works = [lambda: engine.write(fork)] + [lambda: hold(ledger, 1)] * 4
threads = [threading.Thread(target=work) for work in works]
import warnings
warnings.simplefilter("ignore")
for thread in threads: thread.start()
for thread in [first, *threads]:
    thread.join(30)
    assert not thread.is_alive()
assert os.waitpid(forked[0], 0)[1] == 0
ledger.close()
"""


def test_a_fork_in_the_midst_of_a_group_repeats_nothing_in_the_child(path: Path, ledger: Ledger) -> None:
    outcome(python(FORK, path))
    assert balance(ledger) == (0, 5)


KILLED = """
import os, sys, threading
from ledgers import *

ledger = open_ledger(Path(sys.argv[1]))

def work():
    while True:
        (attempt,) = hold(ledger, 3)
        ledger.conclude(NOW_US, [Settle(attempt, a_charge(3), "0")])
        os.write(1, f"{attempt}\\n".encode())

from costguard.ledger.records import Settle
for _ in range(32):
    threading.Thread(target=work).start()
"""


def test_what_was_answered_survives_a_kill_in_the_midst_of_groups(path: Path, ledger: Ledger) -> None:
    program = python(KILLED, path)
    assert program.stdout is not None
    answered = [program.stdout.readline() for _ in range(200)]
    program.kill()
    answered += program.stdout.readlines()
    kill([program])
    told = {int(line) for line in answered if line.endswith("\n")}
    settled = {id_ for (id_,) in _settled(ledger)}
    assert told <= settled
    assert balance(ledger)[0] == 3 * len(settled)
    assert verified(ledger)


def _settled(ledger: Ledger) -> list[Any]:
    return ledger._engine.read(lambda tx: tx.all("SELECT id FROM attempts WHERE status = 'settled'"))


# Single writes


def test_a_write_alone_never_waits_for_company(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("nobody else is there")

    monkeypatch.setattr(leading.Leading, "_wait_in_queue", never)
    hold(ledger, 1)


def test_many_at_once_and_one_at_once_are_told_alike(ledger: Ledger) -> None:
    def fail(tx: SqliteTx) -> None:
        raise ConfigurationError("on purpose")

    for count in (1, 3):
        found = ledger._engine.write_all([(contextvars.Context(), Write(ledger._engine, fail))] * count)
        assert [str(outcome.error) for outcome in found] == ["on purpose"] * count
    assert ledger._engine.write_all([]) == []


# What comes in between


@pytest.mark.parametrize("when", ["before it is taken out", "after it is taken out"])
def test_a_write_of_a_finalizer_just_before_a_batch_is_led_runs_none_of_it_twice(
    ledger: Ledger, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, *_ = hold(ledger, 5)
    steps = [ledger.admission("acme", NOW_US, [an_attempt(100, task_uuid=f"t{n}")]) for n in range(3)]
    writes = [(contextvars.copy_context(), next(one)) for one in steps]
    take_out, nested = leading.Leading._take_out, [True]

    def interrupted(self: leading.Leading, job: Any) -> None:
        if when.startswith("after"):
            take_out(self, job)
        if nested:
            nested.clear()
            ledger.conclude(NOW_US, [Release(old, "the caller went away")])
        take_out(self, job)

    monkeypatch.setattr(leading.Leading, "_take_out", interrupted)
    outcomes = ledger._engine.write_all(writes)
    assert [outcome.error for outcome in outcomes] == [None] * 3
    assert [len(ledger.attempts(f"t{n}")) for n in range(3)] == [1, 1, 1]
    assert balance(ledger) == (0, 300)


def test_a_patient_call_is_not_refused_for_a_neighbour_that_was_answered_before(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """65 writes are two groups; the wait of one in the first is over when the second asks for the lock."""
    waits: list[float] = []
    acquire = type(ledger._engine._lock).acquire  # type: ignore[attr-defined]

    def patient(self: Any, wait: Any) -> None:
        waits.append(wait.deadline - time.monotonic())
        acquire(self, wait)

    monkeypatch.setattr(type(ledger._engine._lock), "acquire", patient)  # type: ignore[attr-defined]
    contexts = [contextvars.copy_context() for _ in range(65)]
    for n, context in enumerate(contexts):
        context.run(patience.current.set, Patience(2.0 if n == 3 else 1000.0))
    writes = [
        (context, Write(ledger._engine, functools.partial(set_ceiling, f"m{n}"))) for n, context in enumerate(contexts)
    ]
    outcomes = ledger._engine.write_all(writes)
    assert not any(outcome.error for outcome in outcomes)
    first, second = waits
    assert (first < 100, second > 100) == (True, True)
    for n in range(65):
        ledger._engine.write(functools.partial(forget_ceiling, f"m{n}"))


def set_ceiling(name: str, tx: SqliteTx) -> None:
    tx.run("INSERT INTO ceilings VALUES (?, 1)", (name,))


def forget_ceiling(name: str, tx: SqliteTx) -> None:
    tx.run("DELETE FROM ceilings WHERE name = ?", (name,))
