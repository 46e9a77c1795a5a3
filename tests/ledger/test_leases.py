"""Leases keep every promise: after any history of programs that die, sleep, and lose their answers."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ledgers
import pytest
from elsewhere import Schemas
from faults import Faults
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from lease_machine import LeaseMachine, steps
from ledgers import NOW_US, a_charge, an_attempt, balance, hold, outcome, python, rows, verified

from costguard.budgets import Budget, Window, make_budget
from costguard.ledger.accounting.applied import windows_in
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.accounting.leasing import LEASE_S
from costguard.ledger.accounting.spending import Span
from costguard.ledger.engines import open_engine
from costguard.ledger.records import Admitted, Alert, Refused, Settle
from costguard.money import to_usd

STEPS = int(os.environ.get("COSTGUARD_LEASE_STEPS", "250"))
"""How many steps are tried in all; with more than a few the machine says what it did."""

STEPS_OF_ONE = 50
SECOND_US = 1_000_000
LIMIT = 1_000_000


def test_promises_hold_after_any_history_of_programs_with_leases(
    schemas: Schemas, monkeypatch: pytest.MonkeyPatch
) -> None:
    with schemas:
        monkeypatch.setattr(ledgers, "elsewhere", schemas)
        monkeypatch.setattr(Ledger, "_keep_watching", lambda _: None)  # time passes by the machine's rules alone
        monkeypatch.setattr(LeaseMachine, "faults", Faults(monkeypatch), raising=False)
        run_state_machine_as_test(
            LeaseMachine,
            settings=settings(
                max_examples=max(1, STEPS // STEPS_OF_ONE),
                stateful_step_count=STEPS_OF_ONE,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    print(dict(steps))


@pytest.fixture
def path(schemas: Schemas, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    with schemas:
        monkeypatch.setattr(ledgers, "elsewhere", schemas)
        yield tmp_path / "ledger"


Clock = list[int]
"""Of one item: now, in UTC microseconds."""


@pytest.fixture
def clock() -> Clock:
    return [NOW_US]


@pytest.fixture
def programs(path: Path, clock: Clock) -> Iterator[Sequence[Ledger]]:
    """Three that take leases whenever they may, under a limit of `LIMIT` nano-USD."""
    url = str(ledgers.place(path))
    found = [Ledger(open_engine(url, durability="normal"), now_us=lambda: clock[0], leases="on") for _ in range(3)]
    found[0].set_budget(make_budget("/", to_usd(LIMIT), per="total", warn_at=[1]), NOW_US)
    yield found
    for program in found:
        program.close()


def leased(ledger: Ledger, *uppers: int, at_us: int = NOW_US) -> list[int]:
    """Attempts held under a lease, the first of them by the one that is taken if there is none."""
    if not ledger._purse.is_used:
        hold(ledger, *uppers, at_us=at_us)
        assert ledger._purse.is_used
    return hold(ledger, *uppers, at_us=at_us)


def open_leases(path: Path) -> int:
    ((count,),) = rows(path, "SELECT count(*) FROM leases WHERE is_open = 1")
    return int(count)


def test_what_is_admitted_under_a_lease_moves_no_balance_until_it_ends(path: Path, programs: Sequence[Ledger]) -> None:
    leased(programs[0], 10)
    kept = rows(path, "SELECT spent, held FROM balances")
    (attempt_id,) = leased(programs[0], 10)
    programs[0].conclude(NOW_US, [Settle(attempt_id, a_charge(7))])
    assert rows(path, "SELECT spent, held FROM balances") == kept
    assert balance(programs[1])[0] == 7  # who asks is told
    programs[1].end_leases(NOW_US + 3 * LEASE_S * SECOND_US)
    assert rows(path, "SELECT spent, held FROM balances") == [(7, 20)]
    assert balance(programs[1]) == (7, 20)
    assert verified(programs[2])


@pytest.mark.parametrize("how", ["a budget is set", "a window begins", "it is over"])
def test_what_was_passed_under_a_lease_is_told_once_by_whoever_ends_it(
    path: Path, programs: Sequence[Ledger], clock: Clock, how: str
) -> None:
    heard: list[Alert] = []
    for program in programs:
        program.on_alerts = heard.extend
    attempts = [*leased(programs[0], 60), *leased(programs[0], 60)]
    for attempt_id in attempts:
        assert programs[0].conclude(NOW_US, [Settle(attempt_id, a_charge(5_500))]) == ()
    clock[0] += 3 * LEASE_S * SECOND_US
    if how == "a budget is set":
        programs[1].set_budget(make_budget("acme", 1), clock[0])
    elif how == "a window begins":
        programs[1].set_budget(make_budget("other", 1, per="day"), clock[0])
        leased(programs[0], 60, at_us=clock[0])
        hold(programs[1], 1, project="other", at_us=clock[0] + ledgers.DAY_US)
    else:
        programs[1].end_leases(clock[0])
    assert [(alert.percent, alert.spent_nanos) for alert in heard] == [(1, 11_000)]
    assert verified(programs[2])


def test_a_limit_per_task_is_for_each_task_under_a_lease(path: Path, programs: Sequence[Ledger]) -> None:
    programs[1].set_budget(make_budget("acme", to_usd(100), per="task"), NOW_US)
    leased(programs[0], 90)
    leased(programs[0], 100)
    assert isinstance(programs[0].admit("acme", NOW_US, [an_attempt(101)]), Refused)
    assert verified(programs[2])


def test_a_limit_per_task_that_was_passed_under_a_lease_is_named(path: Path, programs: Sequence[Ledger]) -> None:
    programs[1].set_budget(make_budget("acme", to_usd(100), per="task"), NOW_US)
    leased(programs[0], 90)
    ledgers.damage(path, "UPDATE terms SET limit_nanos = 80 WHERE per = 'task'")
    ledgers.damage(path, "UPDATE budget_changes SET limit_nanos = 80 WHERE per = 'task'")
    ledgers.damage(path, "UPDATE budgets SET limit_nanos = 80 WHERE per = 'task'")
    ledgers.damage(path, "UPDATE entries SET saw = NULL WHERE seq = (SELECT min(seq) FROM entries)")
    assert "beyond what one may cost: 90 > 80" in str(programs[2].verify().difference)


def test_a_budget_set_later_has_its_own_days_of_what_leases_held(
    path: Path, programs: Sequence[Ledger], clock: Clock
) -> None:
    """A lease is taken just before a day begins in India, where no budget counts days yet."""
    midnight = NOW_US - NOW_US % ledgers.DAY_US + 18 * ledgers.HOUR_US + 30 * ledgers.MINUTE_US
    leased(programs[0], 10, at_us=midnight - SECOND_US)
    (attempt_id,) = leased(programs[0], 10, at_us=midnight + SECOND_US)
    programs[1].end_leases(midnight + ledgers.HOUR_US)
    budget = make_budget("/", 1, per="day", timezone="Asia/Kolkata")
    programs[1].set_budget(budget, midnight + SECOND_US)
    programs[1].conclude(midnight + SECOND_US, [Settle(attempt_id, a_charge(7))])
    hold(programs[1], 1, at_us=midnight - SECOND_US)
    assert verified(programs[2])


def test_an_admission_that_begins_a_window_sees_the_others_without_the_leases_that_it_ends(
    path: Path, programs: Sequence[Ledger]
) -> None:
    programs[0].set_budget(make_budget("/", 1, per="day"), NOW_US)
    (attempt_id, *_) = leased(programs[0], 10)
    programs[0].conclude(NOW_US, [Settle(attempt_id, a_charge(7))])
    hold(programs[1], 10, at_us=NOW_US + ledgers.DAY_US)
    assert verified(programs[2])


def test_a_task_that_calls_itself_a_lease_is_a_task(path: Path, programs: Sequence[Ledger]) -> None:
    task = an_attempt(10)._replace(task_type="lease")
    for _ in range(2):
        admitted = programs[0].admit("acme", NOW_US, [task])
        assert isinstance(admitted, Admitted)
        programs[0].conclude(NOW_US, [Settle(admitted.attempt_ids[0], a_charge(7))])
    assert [row.task_type for row in programs[1].tasks()] == ["lease"]
    assert verified(programs[2])


@pytest.mark.parametrize("how", ["billed", "observed"])
def test_nothing_is_admitted_under_a_lease_once_the_limit_was_passed(
    path: Path, programs: Sequence[Ledger], how: str
) -> None:
    leased(programs[0], 10)
    if how == "billed":
        (attempt_id,) = hold(programs[1], 10, project="other")
        programs[1].conclude(NOW_US, [Settle(attempt_id, a_charge(2 * LIMIT))])
    else:
        hold(programs[1], 2 * LIMIT, project="other", enforce=False)
    assert isinstance(programs[0].admit("acme/search", NOW_US, [an_attempt(10)]), Refused)
    assert verified(programs[2])


def test_a_call_beyond_all_that_is_left_ends_nobodys_lease(path: Path, programs: Sequence[Ledger]) -> None:
    (attempt_id, *_) = leased(programs[0], 10)
    programs[0].conclude(NOW_US, [Settle(attempt_id, a_charge(7))])
    before = open_leases(path)
    refused = programs[1].admit("other", NOW_US, [an_attempt(LIMIT)])
    assert isinstance(refused, Refused)
    assert (refused.remaining, refused.held, refused.unresolved) == (LIMIT - 17, 10, 0)
    assert not programs[1].admit("other", NOW_US, [an_attempt(LIMIT + 1)]).busy  # type: ignore[union-attr]
    assert open_leases(path) == before > 0


def test_a_lease_has_no_more_than_it_has_whoever_remembers_more(path: Path, programs: Sequence[Ledger]) -> None:
    """A thread that slept puts back what another one has used."""
    leased(programs[0], 10)
    lease = programs[0]._purse.take("acme/search")
    assert lease is not None
    programs[0]._purse.put(lease)
    leased(programs[0], lease.rest - 5)
    programs[0]._purse.empty()
    programs[0]._purse.put(lease)
    hold(programs[0], 10)
    assert open_leases(path) == 1  # another one
    assert rows(path, "SELECT count(*) FROM leases WHERE rest < 0 OR held < 0") == [(0,)]
    assert verified(programs[2])


def test_all_of_a_limit_can_be_used_while_others_have_leases_that_they_do_not_use(
    path: Path, programs: Sequence[Ledger]
) -> None:
    for program in programs:
        leased(program, 1_700)
    for program in (programs[0], programs[1], programs[0]):
        while isinstance(program.admit("acme/search", NOW_US, [an_attempt(1_700)]), Admitted):
            pass
    assert 0 <= LIMIT - sum(balance(programs[2])) < 1_700
    assert verified(programs[2])


def test_no_list_and_no_sum_has_a_lease_in_it(path: Path, programs: Sequence[Ledger]) -> None:
    (attempt_id, *_) = leased(programs[0], 10)
    programs[0].conclude(NOW_US, [Settle(attempt_id, a_charge(7))])
    ledger = programs[1]
    assert open_leases(path) == 1
    assert {row.task_type for row in ledger.tasks()} == {"textInference"}
    assert [attempt.held for attempt in ledger.open_attempts()] == [10]
    assert ledger.held_in(Span("UTC", 0, 2 * NOW_US)) == (1, 10)
    assert [row.tasks for row in ledger.usage(("task_type",), "1970-01-01", "9999-01-01")] == [1]

    def shown(budget: Budget) -> bool:
        return budget.project == "/"

    found = ledger._read(lambda tx: windows_in(tx, Window(0, 2 * NOW_US), NOW_US, shown, lambda *_: (0, 0)))
    assert [(one.spent, one.spent + one.held) for one in found] == [(7, sum(balance(ledger)))]


@pytest.mark.parametrize("fault", ["committed, and cut", "cut before the commit"])
def test_a_lease_is_kept_when_the_answer_to_an_admission_is_lost(
    path: Path, programs: Sequence[Ledger], monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    faults = Faults(monkeypatch)
    leased(programs[0], 10)
    with faults.arm(fault):
        leased(programs[0], 10)
    assert programs[0]._purse.is_used
    assert (open_leases(path), balance(programs[1])[0], len(programs[1].tasks())) == (1, 0, 3)
    assert verified(programs[2])


def test_many_threads_share_a_ledger_with_leases(
    path: Path, programs: Sequence[Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)

    def work(ledger: Ledger, project: str) -> None:
        for n in range(25):
            ids = hold(ledger, 10, 10, project=project)
            ledger.conclude(NOW_US, [Settle(one, a_charge(n), "i:0") for one in ids])

    threads = [
        threading.Thread(target=work, args=(programs[n % 2], ("acme/search", "acme/chat")[n % 3 == 0]))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        programs[2].end_leases(NOW_US + ledgers.HOUR_US)
    for thread in threads:
        thread.join()
    assert failed == []
    assert balance(programs[2])[0] == 6 * 2 * sum(range(25))
    for program in programs:
        program.end_leases()
    assert balance(programs[2]) == (6 * 2 * sum(range(25)), 0)
    assert verified(programs[2])


PROGRAM = """
import os, sys
from ledgers import *
from costguard.ledger.records import Settle

def opened():
    return Ledger(open_engine(sys.argv[1], durability="normal"), leases="on")

ledger = opened()
"""

FORK = """
hold(ledger, 10), hold(ledger, 10)
mine = [lease.id for lease in ledger._purse.empty()]
for lease in mine: print(lease)
ledger.end_leases()
hold(ledger, 10)
ledger._purse._lock.acquire()  # as it is while another thread of the parent uses the purse
child = os.fork()
if not child:
    assert not ledger._purse.is_used
    hold(ledger, 10), hold(ledger, 10)
    ledger.close()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
ledger._purse._lock.release()
hold(ledger, 10)
ledger.close()
"""


def test_the_child_of_a_fork_has_leases_of_its_own(path: Path, programs: Sequence[Ledger]) -> None:
    *_, ended = outcome(python(PROGRAM + FORK, ledgers.place(path))).split()
    assert ended == "0"
    assert rows(path, "SELECT count(DISTINCT lease_id), count(*) FROM attempts WHERE delivery <> 'lease'") == [(3, 6)]
    assert verified(programs[0])


CRASH = """
import itertools
for n in itertools.count():
    ids = hold(ledger, 30, 30, project=f"acme/{n % 2}")
    ledger.conclude(NOW_US, [Settle(one, a_charge(n % 40), "i:0") for one in ids])
    print(*ids, n % 40, flush=True)
"""


def test_programs_that_are_killed_lose_no_charge_and_their_leases_are_ended_by_others(
    path: Path, programs: Sequence[Ledger]
) -> None:
    ledgers.keep(path)
    billed: dict[int, int] = {}
    for _ in range(2):
        killed = [python(PROGRAM + CRASH, ledgers.place(path)) for _ in range(3)]
        told = [process.stdout.readline() for process in killed if process.stdout]
        time.sleep(random.uniform(0.1, 0.5))
        for process in killed:
            process.kill()
        told += [line for process in killed for line in process.communicate(timeout=60)[0].splitlines()]
        for line in told:
            *ids, nanos = map(int, line.split())
            billed |= dict.fromkeys(ids, nanos)
    programs[0].end_leases(NOW_US + 10**15)
    assert open_leases(path) == 0
    charged = dict(rows(path, "SELECT id, charged FROM attempts WHERE delivery <> 'lease'"))
    assert billed.items() <= charged.items()
    ((spent, held),) = rows(path, "SELECT sum(charged), sum(held) FROM attempts")
    assert balance(programs[0]) == (spent, held)
    assert verified(programs[0])
