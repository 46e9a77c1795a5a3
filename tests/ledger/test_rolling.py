"""Roll-ups follow the journal at a distance, no report is behind it; a verification goes on where one ended."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import DAY_US, NOW_US, a_charge, an_attempt, hold, open_ledger

from costguard.budgets import make_budget
from costguard.errors import ConfigurationError, LedgerError
from costguard.ledger.accounting import rolling, verify
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.accounting.checkpoint import Checkpoint
from costguard.ledger.accounting.sql import name_hash
from costguard.ledger.charges import Line, read_lines, write_lines
from costguard.ledger.engine import Tx
from costguard.ledger.engines.files import SqliteTx
from costguard.ledger.records import Admitted, Observation, Release, Settle

FIRST, END = "2026-01-01", "2028-01-01"
GROUPS = ((), ("project",), ("model", "day"), ("modality",), ("task_type", "basis", "day", "project"))
MINUTE_US = 60_000_000


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """One whose roll-ups follow soon."""
    monkeypatch.setattr(rolling, "ROLL_EVERY", 8)
    monkeypatch.setattr(rolling, "ROLL_MAX", 32)
    monkeypatch.setattr(verify, "ROWS", 16)
    opened = open_ledger(tmp_path / "ledger.db", timezone="Europe/Berlin")
    opened.set_budget(make_budget("acme", "1000", per="day"), NOW_US)
    yield opened
    opened.close()


def work(ledger: Ledger, calls: int, start: int = 0) -> int:
    """So many calls, some sent twice, answered by two roads, corrected or released; what they were charged."""
    for n in range(start, start + calls):
        uuid = str(UUID(int=n // 3 if n % 5 == 0 else n))
        at_us = NOW_US + n * 7 * MINUTE_US
        attempt = an_attempt(1000, task_uuid=uuid)._replace(model=f"m{n % 2}")
        admitted = ledger.admit(f"acme/{n % 3}", at_us, [attempt])
        assert isinstance(admitted, Admitted)
        (attempt_id,) = admitted.attempt_ids
        lines = (Line("prompt", "TEXT", 5, n), Line("completion", "", n % 4, 7))
        if n % 7 == 0:
            ledger.conclude(at_us, [Release(attempt_id, "refused")])
        elif n % 11 == 0:
            ledger.correct(at_us, uuid, 3, "told by telephone")
        else:
            charge = a_charge(n + 7, lines=lines)
            ledger.conclude(at_us, [Settle(attempt_id, charge, f"i:{n}")])
        if n % 13 == 0:
            ledger.observe(at_us, Observation(uuid, ((f"i:{n} s:9", a_charge(n + 8)),)))
    (whole,) = ledger.usage((), FIRST, END)
    return whole.nanos


def everything(ledger: Ledger) -> list[object]:
    zones = [
        ledger.usage_in(by, zone, NOW_US - DAY_US, NOW_US + 9 * DAY_US)
        for by in GROUPS
        for zone in ("Asia/Kathmandu", "America/St_Johns", "UTC")
    ]
    return [[ledger.usage(by, FIRST, END) for by in GROUPS], zones, ledger.estimates(FIRST, END), ledger.named("month")]


@pytest.mark.parametrize("calls", [1, 5, 60])
def test_what_is_reported_does_not_depend_on_what_is_rolled_up(ledger: Ledger, calls: int) -> None:
    work(ledger, calls)
    before = everything(ledger)
    ledger.roll_up()
    assert everything(ledger) == before
    assert ledger.verify().difference is None
    with sqlite3.connect(ledger._engine.path) as connection:  # type: ignore[attr-defined]
        for table in ("rollups", "slots", "estimates"):
            connection.execute(f"DELETE FROM {table}")
        connection.execute("UPDATE meta SET value = '0' WHERE key = 'rolled'")
    connection.close()
    assert everything(ledger) == before
    ledger.roll_up()
    assert everything(ledger) == before
    assert ledger.verify().difference is None


def test_roll_ups_are_behind_by_no_more_than_they_may_be(ledger: Ledger) -> None:
    work(ledger, 60)
    with sqlite3.connect(ledger._engine.path) as connection:  # type: ignore[attr-defined]
        (behind,) = connection.execute(
            "SELECT (SELECT max(seq) FROM entries) - value FROM meta WHERE key = 'rolled'"
        ).fetchone()
    connection.close()
    assert 0 <= behind < 3 * rolling.ROLL_EVERY


def test_a_zone_whose_days_begin_between_two_quarters_of_an_hour_is_read_from_the_journal(ledger: Ledger) -> None:
    """Liberia's clocks were 44 minutes and 30 seconds behind until 1972."""
    (attempt,) = hold(ledger, 5, at_us=DAY_US)
    ledger.conclude(DAY_US, [Settle(attempt, a_charge(4), "0")])
    ledger.roll_up()
    (row,) = ledger.usage_in(("day",), "Africa/Monrovia", 0, 3 * DAY_US)
    assert (row.keys, row.nanos) == (("1970-01-01",), 4)


def test_a_task_counts_once_where_it_was_first_charged_whatever_day_it_is_sent_again(ledger: Ledger) -> None:
    for day in (0, 1):
        attempt = an_attempt(5, task_uuid="again")
        admitted = ledger.admit("acme", NOW_US + day * DAY_US, [attempt])
        assert isinstance(admitted, Admitted)
        ledger.conclude(NOW_US, [Settle(admitted.attempt_ids[0], a_charge(4), f"i:{day}")])
    assert [(row.keys[0], row.tasks, row.nanos) for row in ledger.usage(("day",), FIRST, END)] == [
        ("2026-11-22", 1, 4),
        ("2026-11-23", 0, 4),
    ]


@given(st.lists(st.builds(Line, st.text(), st.text(), st.none() | st.integers(), st.integers())))
def test_lines_are_read_as_they_were_written(lines: list[Line]) -> None:
    assert read_lines(write_lines(lines)) == lines


@settings(max_examples=15)
@given(first=st.integers(0, 40), more=st.integers(0, 40))
def test_a_verification_goes_on_from_the_last_row_it_saw(
    tmp_path_factory: pytest.TempPathFactory, first: int, more: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rolling, "ROLL_EVERY", 8)
        patch.setattr(verify, "ROWS", 16)
        ledger = open_ledger(tmp_path_factory.mktemp("verify") / "ledger.db")
        ledger.set_budget(make_budget("acme", "1000", per="day"), NOW_US)
        if first:
            work(ledger, first)
        state = Checkpoint()
        assert ledger.verify(state).difference is None
        state = Checkpoint.from_json(state.to_json())
        if more:
            work(ledger, more, first)
        ledger.set_budget(make_budget("/", "1000", per="month"), NOW_US)
        ledger.roll_up()
        seen: list[tuple[int, int]] = []
        assert ledger.verify(state, lambda done, of: seen.append((done, of))).difference is None
        assert seen[-1][0] == seen[-1][1] == state.seq
        assert ledger.verify(Checkpoint.from_json(state.to_json())).difference is None
        ledger.close()


def tampered(ledger: Ledger, statement: str) -> None:
    with sqlite3.connect(ledger._engine.path) as connection:  # type: ignore[attr-defined]
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # only the rows are to be another's
        for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            connection.execute(f"DROP TRIGGER {trigger}")
        assert connection.execute(statement).rowcount > 0
    connection.close()


@pytest.mark.parametrize(
    ("statement", "difference"),
    [
        ("UPDATE attempts SET charged = charged + 1 WHERE id = (SELECT max(id) FROM attempts)", "journal: attempt"),
        ("UPDATE rollups SET nanos = nanos + 1", "roll-ups: rollups of"),
        ("UPDATE slots SET lead_tasks = lead_tasks + 1", "roll-ups: slots of"),
        ("UPDATE balances SET spent = spent + 1", "balances: budget"),
        ("INSERT INTO days VALUES ('1999-01-01', 0, 9000000000000000000, 'Europe/Berlin')", "days: 1999-01-01"),
        ("UPDATE meta SET value = 'Asia/Tokyo' WHERE key = 'timezone'", "days: "),
        ("UPDATE entries SET is_first = 1 WHERE kind = 'charge' AND seq > 80", "roll-ups: charge"),
    ],
)
def test_what_was_changed_after_a_verification_is_found_by_the_one_that_goes_on(
    ledger: Ledger, statement: str, difference: str
) -> None:
    work(ledger, 30)
    state = Checkpoint()
    assert ledger.verify(state).ok
    work(ledger, 40, 30)
    ledger.roll_up()
    tampered(ledger, statement)
    found = ledger.verify(state)
    assert found.difference is not None
    assert found.difference.startswith(difference)


def test_a_checkpoint_of_another_history_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    work(ledger, 30)
    state = Checkpoint()
    assert ledger.verify(state).ok
    other = open_ledger(tmp_path / "other.db")
    hold(other, 1, 2, 3)
    with pytest.raises(ConfigurationError, match="of another ledger"):
        other.verify(state)
    other.close()
    for text in ("", "{}", '{"format": 1}', '{"format": 2, "seq": 1}', "[]"):
        with pytest.raises(ConfigurationError, match="no checkpoint"):
            Checkpoint.from_json(text)


def test_nothing_that_is_asked_of_one_task_or_of_some_rows_reads_all_of_them(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever statement is run: SQLite's plan for it has no scan of attempts or entries."""
    asked: dict[str, int] = {}

    class Watching(SqliteTx):
        def __init__(self, connection: sqlite3.Connection) -> None:
            super().__init__(connection)
            run, many = self._execute, self._executemany

            def execute(sql: str, parameters: Any = ()) -> Any:
                asked[sql] = len(parameters)
                return run(sql, parameters)

            def executemany(sql: str, rows: Any) -> Any:
                found = list(rows)
                asked[sql] = len(found[0]) if found else sql.count("?")
                return many(sql, found)

            self._execute, self._executemany = execute, executemany

    path = ledger._engine.path  # type: ignore[attr-defined]
    monkeypatch.setattr("costguard.ledger.engines.sqlite.SqliteTx", Watching)
    other = open_ledger(path, timezone="Europe/Berlin")
    work(other, 30)
    state = Checkpoint()
    assert other.verify(state).ok
    work(other, 30, 30)
    assert other.verify(Checkpoint.from_json(state.to_json())).ok
    uuid = str(UUID(int=59))
    other.task(uuid)
    other.attempts(uuid)
    other.spellings([uuid])
    other.observe(NOW_US, Observation(uuid, (), whole=True, settled_all=True, taken=True))
    other.release_unknown(NOW_US, uuid, 0, "unknown")
    other.open_attempts("acme")
    other.unconfirmed(NOW_US)
    other.to_ask_again(NOW_US)
    other.mean_completion("acme/1", "m1", NOW_US)
    other.verify()
    other.close()
    connection = sqlite3.connect(path)
    plans = {}
    for sql, parameters in asked.items():
        if sql.startswith(("SELECT", "UPDATE", "DELETE", "INSERT")):
            rows = connection.execute(f"EXPLAIN QUERY PLAN {sql}", (0,) * parameters).fetchall()
            plans[sql] = [row[3] for row in rows]
    connection.close()
    assert len(plans) > 40
    whole = {"SELECT count(*) FROM attempts"}
    for sql, plan in plans.items():
        growing = {"attempts", "entries", *re.findall(r"(?:attempts|entries|charges) (\w+)", sql)}
        scans = [step for step in plan if step.startswith("SCAN") and step.split()[1] in growing]
        assert not scans or sql in whole, (sql, plan)


@pytest.mark.parametrize("lines", ["{", "[1,2]", "5", '["prompt","TEXT",1,null]', '["prompt","TEXT",1,1.5]'])
def test_a_row_that_cannot_be_read_keeps_roll_ups_back_and_no_charge(ledger: Ledger, lines: str) -> None:
    work(ledger, 3)
    damaged = f"UPDATE entries SET lines = '{lines}' WHERE seq = (SELECT max(seq) FROM entries WHERE kind = 'charge')"
    tampered(ledger, damaged)
    for _ in range(20):
        (attempt,) = hold(ledger, 9)
        ledger.conclude(NOW_US, [Settle(attempt, a_charge(9))])
    assert ledger.task(ledger.attempts(ledger.tasks(limit=1)[0].task_uuid)[0].task_uuid) is not None
    with pytest.raises(LedgerError, match="do not fit together"):
        ledger.usage((), FIRST, END)


def test_what_is_released_without_a_charge_is_behind_by_no_more(ledger: Ledger) -> None:
    for _ in range(40):
        (attempt,) = hold(ledger, 9)
        ledger.conclude(NOW_US, [Release(attempt, "refused")])
    with sqlite3.connect(ledger._engine.path) as connection:  # type: ignore[attr-defined]
        (behind,) = connection.execute(
            "SELECT (SELECT max(seq) FROM entries) - value FROM meta WHERE key = 'rolled'"
        ).fetchone()
    connection.close()
    assert 0 <= behind < 3 * rolling.ROLL_EVERY


def test_names_that_begin_or_end_alike_are_found_as_fast_as_others() -> None:
    for name in ("{:08d}-0000-1000-8000-0123456789ab", "acme-{}-search-eu", "job-{}"):
        assert len({name_hash(name.format(n)) for n in range(5_000)}) > 4_990


def test_a_task_that_is_sent_often_is_asked_for_once_when_it_is_added_up(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    before = rolling._known_before

    def known_before(tx: Tx, entry: rolling.Entry) -> set[tuple[str, str]]:
        asked.append(entry.seq)
        return before(tx, entry)

    monkeypatch.setattr(rolling, "_known_before", known_before)
    for n in range(20):
        admitted = ledger.admit("acme", NOW_US, [an_attempt(5, task_uuid="again")])
        assert isinstance(admitted, Admitted)
        ledger.conclude(NOW_US, [Settle(admitted.attempt_ids[0], a_charge(4), f"i:{n}")])
    asked.clear()
    (whole,) = ledger.usage((), FIRST, END)
    assert (whole.tasks, whole.nanos) == (1, 80)
    assert len(asked) <= 1


def test_after_a_restore_by_sqlite_itself_nothing_is_remembered_of_the_history_that_is_gone(
    ledger: Ledger, tmp_path: Path
) -> None:
    path, copy = ledger._engine.path, tmp_path / "copy.db"  # type: ignore[attr-defined]

    def call(model: str, project: str) -> None:
        admitted = ledger.admit(project, NOW_US, [an_attempt(9)._replace(model=model)])
        assert isinstance(admitted, Admitted)
        ledger.conclude(NOW_US, [Settle(admitted.attempt_ids[0], a_charge(9))])

    def backed_up(source: Path, target: Path) -> None:
        one, other = sqlite3.connect(source), sqlite3.connect(target)
        one.backup(other)
        one.close()
        other.close()

    call("early", "acme")
    backed_up(path, copy)
    call("m-a", "acme/a")
    call("m-b", "zzz")
    ledger.roll_up()
    backed_up(copy, path)
    for model, project in (("m-b", "zzz"), ("m-a", "acme/a"), ("m-c", "acme")):
        call(model, project)
    ledger.roll_up()
    assert [(row.keys, row.nanos) for row in ledger.usage(("model", "project"), FIRST, END)] == [
        (("early", "acme"), 9), (("m-a", "acme/a"), 9), (("m-b", "zzz"), 9), (("m-c", "acme"), 9),
    ]  # fmt: skip
    assert ledger.verify().difference is None
