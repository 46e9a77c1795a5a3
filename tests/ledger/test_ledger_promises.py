"""The ledger's promises hold after any history, and `verify` names whatever was tampered with."""

from __future__ import annotations

import functools
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from ledgers import DAY_US, HOUR_US, NOW_US, a_charge, an_attempt, damage, hold, open_ledger, rows, tables

from costguard.budgets import PERIODS, Budget, day_of, make_budget, thresholds_crossed, to_us, window_at
from costguard.errors import LedgerError
from costguard.ledger.charges import Line
from costguard.ledger.engine import Tx
from costguard.ledger.records import (
    Accept,
    Admitted,
    Alert,
    Doubt,
    Ending,
    Observation,
    Refused,
    Release,
    Settle,
    Unpriced,
)
from costguard.money import to_usd
from costguard.projects import covers

pytestmark = pytest.mark.usefixtures("each_engine")

ZONES = ("UTC", "Europe/Berlin", "America/Santiago", "Pacific/Kiritimati")
PROJECTS = ("/", "acme", "acme/search", "acme0", "other")
CALLERS = ("acme", "acme/search", "acme/search/prod", "acme0", "other")
MODELS = ("google:gemini@3-flash", "mystery")
INSTANTS = tuple(
    to_us(datetime(*moment, tzinfo=UTC))  # type: ignore[misc]
    for moment in (
        (2026, 3, 29, 0, 59, 59, 999_999),  # clocks go forward in Berlin
        (2026, 9, 6, 3, 59, 59, 999_999),  # midnight is skipped in Santiago
        (2026, 10, 25, 0, 30),  # clocks go back in Berlin
        (2026, 12, 31, 9, 59, 59, 999_999),  # the year ends in Kiritimati
        (2026, 12, 31, 23),  # and here in Berlin
    )
)

nanos = st.integers(0, 300)
lines = st.lists(
    st.tuples(
        st.sampled_from(["prompt", "completion", "rounding"]),
        st.sampled_from(["", "TEXT"]),
        st.one_of(st.none(), st.integers(0, 9)),
        st.integers(0, 90),
    ).map(lambda line: Line(*line)),
    min_size=1,
    max_size=4,
    unique_by=lambda line: line[:2],
).map(tuple)


@dataclass
class Attempt:
    """What the model knows of an attempt."""

    id: int
    task_uuid: str
    project: str
    at_us: int
    upper: int
    results: int
    held: int
    charged: int = 0
    open: bool = True
    keys: set[str] = field(default_factory=set)


class LedgerMachine(RuleBasedStateMachine):
    """Random histories against a model that keeps attempts in a list and sums them up each time."""

    @initialize(zone=st.sampled_from(ZONES), start=st.sampled_from(INSTANTS))
    def create(self, zone: str, start: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.now = start
        self.zone = zone
        self.ledger = open_ledger(self.folder / "ledger.db", timezone=zone)
        self.attempts: list[Attempt] = []
        self.budgets: dict[tuple[str, str], Budget] = {}
        self.ceiling: int | None = None
        self.fired: set[tuple[str, str, int, int]] = set()
        self.keys = 0

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            shutil.rmtree(self.folder)

    # -- the model ------------------------------------------------------------------------------

    def balance(self, budget: Budget) -> tuple[int, int]:
        """(spent, held) of the budget's present window."""
        start, end = window_at(budget.per, budget.timezone, self.now)
        inside = [
            a
            for a in self.attempts
            if covers(budget.project, a.project) and start <= a.at_us and (end is None or a.at_us < end)
        ]
        return sum(a.charged for a in inside), sum(a.held for a in inside)

    def unfit(self, project: str, uppers: list[int]) -> list[Budget]:
        """The hard budgets that have no room."""
        found = []
        for budget in self.budgets.values():
            if not covers(budget.project, project) or not budget.hard:
                continue
            requested = max(uppers) if budget.per == "task" else sum(uppers)
            taken = 0 if budget.per == "task" else sum(self.balance(budget))
            if budget.limit_nanos == 0 or taken + requested > budget.limit_nanos:
                found.append(budget)
        return found

    def take_alerts(self, alerts: tuple[Alert, ...]) -> None:
        for alert in alerts:
            assert alert.percent is not None
            assert thresholds_crossed(alert.spent_nanos, alert.budget.limit_nanos, (alert.percent,))
            fact = (alert.budget.project, alert.budget.per, alert.window.start_us, alert.percent)
            assert fact not in self.fired
            self.fired.add(fact)

    # -- budgets, ceilings and the clock ----------------------------------------------------------

    @rule(
        project=st.sampled_from(PROJECTS),
        per=st.sampled_from(PERIODS),
        limit=st.one_of(st.just(0), st.integers(1, 2000)),
        zone=st.sampled_from(ZONES),
        action=st.sampled_from(["block", "block", "warn"]),
        warn_at=st.lists(st.integers(1, 200), max_size=3),
    )
    def set_budget(self, project: str, per: str, limit: int, zone: str, action: str, warn_at: list[int]) -> None:
        budget = make_budget(project, to_usd(limit), per=per, timezone=zone, action=action, warn_at=warn_at)
        self.ledger.set_budget(budget, self.now)
        self.budgets[project, per] = budget

    @rule(project=st.sampled_from(PROJECTS), per=st.sampled_from(PERIODS))
    def remove_budget(self, project: str, per: str) -> None:
        known = self.budgets.pop((project, per), None) is not None
        assert self.ledger.remove_budget(project, per, self.now) == known
        self.fired = {fact for fact in self.fired if fact[:2] != (project, per)}

    @rule(ceiling=st.one_of(st.none(), nanos))
    def set_ceiling(self, ceiling: int | None) -> None:
        if ceiling is None:
            assert self.ledger.remove_ceiling("mystery", self.now) == (self.ceiling is not None)
        else:
            self.ledger.set_ceiling("mystery", ceiling, self.now)
        self.ceiling = ceiling

    @rule(jump=st.sampled_from([1, HOUR_US, DAY_US, -DAY_US, 31 * DAY_US, 366 * DAY_US]))
    def pass_time(self, jump: int) -> None:
        self.now += jump

    @rule(instant=st.sampled_from(INSTANTS))
    def jump_to(self, instant: int) -> None:
        self.now = instant

    # -- admissions -------------------------------------------------------------------------------

    @rule(
        project=st.sampled_from(CALLERS),
        asked=st.lists(st.tuples(nanos, st.integers(1, 3)), min_size=1, max_size=3),
        priced=st.sampled_from([True, True, True, False]),
        enforce=st.sampled_from([True, True, True, False]),
        again=st.booleans(),
        data=st.data(),
    )
    def admit(
        self,
        project: str,
        asked: list[tuple[int, int]],
        priced: bool,
        enforce: bool,
        again: bool,
        data: st.DataObject,
    ) -> None:
        tasks = [
            an_attempt(
                upper if priced else None,
                model=MODELS[not priced],
                results=results,
                ceiling_names=() if priced else ("mystery",),
            )
            for upper, results in asked
        ]
        if again and self.attempts:  # a client sends the first task once more
            uuid = data.draw(st.sampled_from([a.task_uuid for a in self.attempts]))
            tasks[0] = tasks[0]._replace(task_uuid=uuid)
        uppers = [
            upper if priced else None if self.ceiling is None else self.ceiling * results for upper, results in asked
        ]
        answer = self.ledger.admit(project, self.now, tasks, enforce=enforce)

        hard = [b for b in self.budgets.values() if b.hard and covers(b.project, project)]
        amounts = [upper or 0 for upper in uppers]
        unfit = self.unfit(project, amounts)
        if enforce and hard and None in uppers:
            assert isinstance(answer, Unpriced)
        elif enforce and unfit:
            assert isinstance(answer, Refused)
            assert answer.budget in unfit
            spent, held = (0, 0) if answer.budget.per == "task" else self.balance(answer.budget)
            assert answer.remaining == answer.budget.limit_nanos - spent - held
            assert answer.held == held
        else:
            assert isinstance(answer, Admitted)
            assert answer.uppers == tuple(uppers)
            assert set(answer.over) == (set() if enforce else set(unfit))
            for attempt_id, task, amount in zip(answer.attempt_ids, tasks, amounts, strict=True):
                self.attempts.append(
                    Attempt(attempt_id, task.task_uuid, project, self.now, amount, task.results, amount)
                )

    # -- endings ----------------------------------------------------------------------------------

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), lines=lines, partial=st.booleans())
    def settle(self, data: st.DataObject, lines: tuple[Line, ...], partial: bool) -> None:
        attempt = data.draw(st.sampled_from([a for a in self.attempts if a.open] or self.attempts))
        if attempt.keys and attempt.open:
            return  # an attempt's own response comes once
        key = "own" if not attempt.keys else min(attempt.keys)
        if attempt.keys:
            lines = ()  # known: told again, and not more than before
        charge = a_charge(sum(line.nanos for line in lines), lines=lines)
        self.take_alerts(self.ledger.conclude(self.now, [Settle(attempt.id, charge, key, keep_rest=partial)]))
        if attempt.keys:
            return
        attempt.keys = {"own"}
        missing = attempt.results - 1
        attempt.held = -(-attempt.upper * missing // attempt.results) if partial and attempt.open else 0
        attempt.charged += charge.nanos
        attempt.open = partial and attempt.open and missing > 0

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), kind=st.sampled_from(["release", "doubt", "accept"]))
    def end_without_a_bill(self, data: st.DataObject, kind: str) -> None:
        attempt = data.draw(st.sampled_from(self.attempts))
        endings: dict[str, Ending] = {
            "release": Release(attempt.id, "refused"),
            "doubt": Doubt(attempt.id, "timed out", {"status": 504}),
            "accept": Accept(attempt.id),
        }
        assert self.ledger.conclude(self.now, [endings[kind]]) == ()
        if kind == "release" and attempt.open:
            attempt.held, attempt.open = 0, False

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), lines=lines, all_seen=st.booleans())
    def observe(self, data: st.DataObject, lines: tuple[Line, ...], all_seen: bool) -> None:
        """A poll brings one new result, twice; the model only knows what the task must come to."""
        task_uuid = data.draw(st.sampled_from([a.task_uuid for a in self.attempts]))
        mine = [a for a in self.attempts if a.task_uuid == task_uuid]
        self.keys += 1
        charge = a_charge(sum(line.nanos for line in lines), lines=lines)
        everyone = frozenset(a.id for a in mine)
        seen = Observation(
            task_uuid, ((f"poll {self.keys}", charge),), settled_all=all_seen, release="not billed", over=everyone
        )
        alerts, changes = self.ledger.observe(self.now, seen)
        self.take_alerts(alerts)
        assert changes
        assert self.ledger.observe(self.now, seen) == ((), 0)
        charged, held = sum(a.charged for a in mine), sum(a.held for a in mine)
        for attempt, row in zip(mine, self.ledger.attempts(task_uuid), strict=True):
            assert row.held <= attempt.held
            attempt.keys |= {f"poll {self.keys}"} if row.charged != attempt.charged else set()
            attempt.held, attempt.charged = row.held, row.charged
            attempt.open = row.status in ("held", "unresolved")
        assert sum(a.charged for a in mine) == charged + charge.nanos
        assert sum(a.held for a in mine) <= held
        assert not all_seen or not any(a.open for a in mine)

    # -- what must always hold ----------------------------------------------------------------------

    @invariant()
    def verify_is_clean(self) -> None:
        found = self.ledger.verify()
        assert found.difference is None, found.difference

    @invariant()
    def balances_are_those_of_the_model(self) -> None:
        balances = {(b.budget.project, b.budget.per): b for b in self.ledger.balances(self.now)}
        assert {key: b.budget for key, b in balances.items()} == self.budgets
        for key, budget in self.budgets.items():
            if budget.per != "task":
                assert (balances[key].spent, balances[key].held) == self.balance(budget)

    @invariant()
    def reports_add_up_to_what_was_charged_day_by_day(self) -> None:
        charged: dict[str, int] = {}
        for attempt in self.attempts:
            day = day_of(self.zone, attempt.at_us)
            charged[day] = charged.get(day, 0) + attempt.charged
        reported = {row.keys[0]: row.nanos for row in self.ledger.usage(("day",), "1970-01-01", "9999-01-01")}
        assert {day: total for day, total in charged.items() if total} == {
            day: total for day, total in reported.items() if total
        }


def test_promises_hold_after_any_history(each_engine: str) -> None:
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=30 if each_engine == "sqlite" else 10,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )


# Tampering

APPEND_ONLY = {
    "entries": "seq",
    "terms": "id",
    "budget_changes": "id",
    "ceiling_changes": "id",
    "days": "day",
    "moves": "id",
}
"""Tables, each with one of its columns."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger with a bit of everything in it."""
    path = tmp_path / "ledger.db"
    ledger = open_ledger(path, timezone="Europe/Berlin")
    ledger.set_budget(make_budget("acme", "0.000001", per="month", warn_at=(5,)), NOW_US)
    ledger.set_budget(make_budget("/", "0.000001", per="task"), NOW_US)
    ledger.set_ceiling("mystery", 5, NOW_US)
    tasks = [an_attempt(upper)._replace(tags='{"user": "u1"}') for upper in (100, 200, 300)]
    admitted = ledger.admit("acme/search", NOW_US, tasks)
    assert isinstance(admitted, Admitted)
    first, second, _ = admitted.attempt_ids
    ledger.conclude(NOW_US, [Settle(first, a_charge(90), "0"), Release(second, "refused")])
    hold(ledger, 40, at_us=NOW_US + 11 * HOUR_US + HOUR_US // 2)  # tomorrow in Berlin
    ledger.roll_up()
    ledger.call_project("acme/search", "acme/find", NOW_US)
    assert ledger.verify().difference is None
    ledger.close()
    return path


TAMPERING = {
    "meta: the zone is changed": (
        "UPDATE meta SET value = 'Pacific/Kiritimati' WHERE key = 'timezone'", "days: 2026-11-22 was cut in Europe"),
    "meta: the zone is lost": ("DELETE FROM meta WHERE key NOT IN ('rolled', 'schema')", "days: the ledger's zone"),
    "meta: days are kept from later on": (
        "UPDATE meta SET value = 'x' WHERE key = 'days_since'", "days: the ledger's zone"),
    "days: one is lost": ("DELETE FROM days WHERE day = '2026-11-23'", r"days: attempt \d"),
    "days: one begins later": ("UPDATE days SET start_us = start_us + 86400000000", "days: 2026-11-22 .* no zone"),
    "days: one is moved": (
        "UPDATE days SET start_us = start_us + 3600000000000, end_us = end_us + 3600000000000", "days: 2026-11-22"),
    "owners: a process is forgotten": ("DELETE FROM owners", "links: .*owner_id"),
    "budgets: the limit is raised": ("UPDATE budgets SET limit_nanos = 10 * limit_nanos", "changes: budget acme"),
    "budgets: it only warns": ("UPDATE budgets SET action = 'warn'", "changes: budget acme"),
    "budgets: one is dropped": ("DELETE FROM budgets WHERE per = 'task'", "changes: budget / per task"),
    "budgets: one is dropped with a balance": ("DELETE FROM budgets WHERE per = 'month'", "links: .*balances"),
    "budget_changes: the limit was lower": ("UPDATE budget_changes SET limit_nanos = 1", "changes: budget acme"),
    "budget_changes: history is lost": ("DELETE FROM budget_changes", "changes: budget acme"),
    "ceilings: raised": ("UPDATE ceilings SET nanos = 6", "changes: the ceiling of mystery"),
    "ceilings: lost": ("DELETE FROM ceilings", "changes: the ceiling of mystery"),
    "ceiling_changes: lost": ("DELETE FROM ceiling_changes", "changes: the ceiling of mystery"),
    "balances: spent is lowered": ("UPDATE balances SET spent = spent - 1", "balances: budget acme per month"),
    "balances: held is lowered": ("UPDATE balances SET held = 0", "balances: budget acme per month"),
    "balances: the window is moved": ("UPDATE balances SET window_us = window_us + 1", "balances: budget acme"),
    "balances: the window ends later": (
        "UPDATE balances SET end_us = end_us + 86400000000 * 9", "balances: .* no month"),
    "alerts: of no budget": ("UPDATE alerts SET budget_id = 99", "links: .*alerts"),
    "attempts: charged is lowered": ("UPDATE attempts SET charged = 1 WHERE id = 1", "journal: attempt 1"),
    "attempts: held is freed": ("UPDATE attempts SET held = 0 WHERE id = 3", "journal: attempt 3"),
    "attempts: upper is lowered": ("UPDATE attempts SET upper = 1 WHERE id = 3", "journal: attempt 3"),
    "attempts: a hold is called released": ("UPDATE attempts SET status = 'released' WHERE id = 3", "journal: .* 3"),
    "attempts: a release is called settled": ("UPDATE attempts SET status = 'settled' WHERE id = 2", "journal: .* 2"),
    "attempts: more results seen": ("UPDATE attempts SET seen = 9 WHERE id = 1", "journal: attempt 1"),
    "attempts: another project": ("UPDATE attempts SET project = 'other' WHERE id = 1", "admissions: attempt 2"),
    "attempts: another model": ("UPDATE attempts SET model = 'other' WHERE id = 1", "roll-ups"),
    "attempts: another day": ("UPDATE attempts SET day = '2026-11-23' WHERE id = 3", "days: attempt 3"),
    "attempts: another time": ("UPDATE attempts SET at_us = at_us - 864000000000 WHERE id = 3", "days: attempt 3"),
    "attempts: removed": ("DELETE FROM attempts WHERE id = 3", "links: .*entries"),
    "entries: a charge is lowered": ("UPDATE entries SET spent = 1 WHERE kind = 'charge'", "journal: attempt 1"),
    "entries: a hold is lowered": ("UPDATE entries SET held = 1 WHERE attempt_id = 3", "journal: attempt 3"),
    "entries: an admission is hidden": ("UPDATE entries SET kind = 'release' WHERE attempt_id = 3", "journal: .* 3"),
    "entries: removed": ("DELETE FROM entries WHERE kind = 'release'", "journal: attempt 2"),
    "entries: the balance seen": ("UPDATE entries SET saw = '[1,0,0]' WHERE attempt_id = 2 AND kind = 'hold'",
                                  "admissions: attempt 2"),
    "entries: terms that are not there": ("UPDATE entries SET saw = '[9,0,0]' WHERE seq = 1", "links: .*terms 9"),
    "entries: a hold of no attempt": (
        "UPDATE entries SET attempt_id = 99 WHERE attempt_id = 3", "links: .*entries"),
    "entries: held twice": ("UPDATE entries SET attempt_id = 2 WHERE attempt_id = 3", "journal: attempt 2"),
    "terms: the limit seen": ("UPDATE terms SET limit_nanos = 10000000", "changes: .*never set"),
    "terms: the window": ("UPDATE terms SET window_us = window_us + 1 WHERE per = 'month'", "changes: .*is no month"),
    "entries: a charge is removed": ("DELETE FROM entries WHERE kind = 'charge'", "journal: attempt 1"),
    "entries: a charge of another attempt": (
        "UPDATE entries SET attempt_id = 2 WHERE kind = 'charge'", "journal: attempt 1"),
    "entries: a release spends": ("UPDATE entries SET kind = 'release' WHERE kind = 'charge'", "journal: attempt 1"),
    "entries: more results": ("UPDATE entries SET results = 2 WHERE kind = 'charge'", "journal: attempt 1"),
    "entries: no basis": ("UPDATE entries SET basis = NULL WHERE kind = 'charge'", "charges: charge .* no basis"),
    "entries: a line is lowered": (
        "UPDATE entries SET lines = replace(lines, ',30,', ',1,') WHERE kind = 'charge'", "charges: charge"),
    "entries: a line's tokens": (
        "UPDATE entries SET lines = replace(lines, ',10,', ',99,') WHERE kind = 'charge'", "roll-ups"),
    "rollups: lowered": ("UPDATE rollups SET nanos = nanos - 1", "roll-ups"),
    "rollups: tasks": ("UPDATE rollups SET tasks = 9, lead_tasks = 9", "roll-ups"),
    "rollups: leading tasks": ("UPDATE rollups SET lead_tasks = 9", "roll-ups"),
    "rollups: removed": ("DELETE FROM rollups", "roll-ups: .*missing"),
    "rollups: of no leaf": (
        "UPDATE rollups SET leaf_id = 99 WHERE leaf_id = 1", "links: .*rollups"),
    "leaves: of another model": ("UPDATE leaves SET model = 'other'", "roll-ups"),
    "slots: lowered": ("UPDATE slots SET nanos = nanos - 1", "roll-ups: slots"),
    "slots: at another time": ("UPDATE slots SET slot = slot + 1", "roll-ups: slots"),
    "tagged: lowered": ("UPDATE tagged SET nanos = nanos - 1", "roll-ups: tagged"),
    "tagsets: others": ("UPDATE tagsets SET tags = '{}'", "roll-ups: tagged"),
    "estimates: lowered": ("UPDATE estimates SET billed = 1", "roll-ups: estimates"),
    "meta: rolled is beyond the journal": (
        "UPDATE meta SET value = '99' WHERE key = 'rolled'", "roll-ups: they are up"),
    "meta: rolled is too early": ("UPDATE meta SET value = '1' WHERE key = 'rolled'", "roll-ups"),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERING)
def test_verify_names_what_was_tampered_with(path: Path, what: str) -> None:
    statement, difference = TAMPERING[what]
    damage(path, statement)
    ledger = open_ledger(path)
    found = ledger.verify()
    ledger.close()
    assert not found.ok
    with pytest.raises(AssertionError, match=difference):
        raise AssertionError(found.difference)


def test_every_table_is_among_those_tampered_with(path: Path) -> None:
    without_promises = {
        "_sqlite_migrations",
        "aliases",
        "fired",
        "gates",
        "imports",
        "leases",
        "media",
        "moves",
        "refusals",
        "tokens",
    }
    assert {what.split(":")[0] for what in TAMPERING} == tables(path) - without_promises


def test_an_admission_over_the_limit_is_named(path: Path) -> None:
    """A row that a broken gate would have written: every sum agrees, only the limit was passed."""
    ledger = open_ledger(path)
    ledger.set_budget(make_budget("acme", "0.000001", per="month", action="warn"), NOW_US)
    hold(ledger, 900)
    ledger.close()
    damage(path, "UPDATE terms SET hard = 1")
    ledger = open_ledger(path)
    difference = ledger.verify().difference
    ledger.close()
    assert difference is not None
    assert "was admitted over the limit" in difference


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_rows_of_append_only_tables_can_neither_be_changed_nor_removed(path: Path, table: str) -> None:
    ledger = open_ledger(path)
    column = APPEND_ONLY[table]
    for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET {column} = {column}"):
        with pytest.raises(LedgerError, match=f"{table} is append-only"):
            ledger._engine.write(functools.partial(run, statement))
    ledger.close()


def run(statement: str, tx: Tx) -> None:
    tx.run(statement)


def test_no_column_of_any_table_takes_a_float(path: Path, each_engine: str) -> None:
    if each_engine == "sqlite":
        loose = "SELECT name FROM pragma_table_list WHERE type = 'table' AND NOT strict AND name NOT LIKE 'sqlite%'"
        assert rows(path, loose) == [("_sqlite_migrations",)]
    else:
        types = "SELECT DISTINCT data_type FROM information_schema.columns WHERE table_schema = current_schema"
        assert set(rows(path, types)) == {("bigint",), ("text",)}
