"""Roll-ups follow the journal at a distance, no report is behind it; a verification goes on where one ended."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import DAY_US, NOW_US, a_charge, an_attempt, damage, hold, open_ledger, work

from costguard.budgets import make_budget
from costguard.errors import ConfigurationError, LedgerError
from costguard.ledger.accounting import rolling, verify
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.accounting.checkpoint import Checkpoint
from costguard.ledger.accounting.sql import name_hash
from costguard.ledger.charges import Line, read_lines, write_lines
from costguard.ledger.engine import Tx
from costguard.ledger.records import Admitted, Release, Settle

pytestmark = pytest.mark.usefixtures("each_engine")

BEHIND = {"sqlite": 3, "postgresql": 2 * rolling.SHARED_TIMES}
"""Times `ROLL_EVERY` that the roll-ups may be behind when nobody is at them."""

FIRST, END = "2026-01-01", "2028-01-01"
GROUPS = ((), ("project",), ("model", "day"), ("modality",), ("task_type", "basis", "day", "project"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """One whose roll-ups follow soon."""
    monkeypatch.setattr(rolling, "ROLL_EVERY", 8)
    monkeypatch.setattr(rolling, "ROLL_MAX", 32)
    monkeypatch.setattr(verify, "ROWS", 16)
    opened = open_ledger(path, timezone="Europe/Berlin")
    opened.set_budget(make_budget("acme", "1000", per="day"), NOW_US)
    yield opened
    opened.close()


def everything(ledger: Ledger) -> list[object]:
    zones = [
        ledger.usage_in(by, zone, NOW_US - DAY_US, NOW_US + 9 * DAY_US)
        for by in GROUPS
        for zone in ("Asia/Kathmandu", "America/St_Johns", "UTC")
    ]
    return [[ledger.usage(by, FIRST, END) for by in GROUPS], zones, ledger.estimates(FIRST, END), ledger.named("month")]


def behind(ledger: Ledger) -> int:
    """How many entries of the journal are not in the roll-ups, once all that was begun is done."""
    for thread in threading.enumerate():
        if thread.name == "costguard-later":
            thread.join()
    rows = ledger._engine.read(
        lambda tx: tx.all(
            "SELECT (SELECT max(seq) FROM entries) - CAST(value AS BIGINT) FROM meta WHERE key = 'rolled'"
        )
    )
    return int(rows[0][0])


@pytest.mark.parametrize("calls", [1, 5, 60])
def test_what_is_reported_does_not_depend_on_what_is_rolled_up(path: Path, ledger: Ledger, calls: int) -> None:
    work(ledger, calls)
    before = everything(ledger)
    ledger.roll_up()
    assert everything(ledger) == before
    assert ledger.verify().difference is None
    for table in ("rollups", "slots", "estimates"):
        damage(path, f"DELETE FROM {table}")
    damage(path, "UPDATE meta SET value = '0' WHERE key = 'rolled'")
    assert everything(ledger) == before
    ledger.roll_up()
    assert everything(ledger) == before
    assert ledger.verify().difference is None


def test_roll_ups_are_behind_by_no_more_than_they_may_be(ledger: Ledger, each_engine: str) -> None:
    work(ledger, 200)
    assert 0 <= behind(ledger) < BEHIND[each_engine] * rolling.ROLL_EVERY


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
def test_a_verification_goes_on_from_the_last_row_it_saw(first: int, more: int) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rolling, "ROLL_EVERY", 8)
        patch.setattr(verify, "ROWS", 16)
        ledger = open_ledger(Path(folder) / "ledger.db")
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
    path: Path, ledger: Ledger, statement: str, difference: str
) -> None:
    work(ledger, 30)
    state = Checkpoint()
    assert ledger.verify(state).ok
    work(ledger, 40, 30)
    ledger.roll_up()
    damage(path, statement)
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


@pytest.mark.parametrize("lines", ["{", "[1,2]", "5", '["prompt","TEXT",1,null]', '["prompt","TEXT",1,1.5]'])
def test_a_row_that_cannot_be_read_keeps_roll_ups_back_and_no_charge(path: Path, ledger: Ledger, lines: str) -> None:
    work(ledger, 3)
    damaged = f"UPDATE entries SET lines = '{lines}' WHERE seq = (SELECT max(seq) FROM entries WHERE kind = 'charge')"
    damage(path, damaged)
    for _ in range(20):
        (attempt,) = hold(ledger, 9)
        ledger.conclude(NOW_US, [Settle(attempt, a_charge(9))])
    assert ledger.task(ledger.attempts(ledger.tasks(limit=1)[0].task_uuid)[0].task_uuid) is not None
    with pytest.raises(LedgerError, match="do not fit together"):
        ledger.usage((), FIRST, END)


def test_what_is_released_without_a_charge_is_behind_by_no_more(ledger: Ledger, each_engine: str) -> None:
    for _ in range(160):
        (attempt,) = hold(ledger, 9)
        ledger.conclude(NOW_US, [Release(attempt, "refused")])
    assert 0 <= behind(ledger) < BEHIND[each_engine] * rolling.ROLL_EVERY


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
