"""The rules of a time zone change under a ledger: what was decided by the old ones stays, and all promises hold."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import DAY_US, HOUR_US, a_charge, an_attempt, hold, open_ledger, verified

from costguard import budgets
from costguard.budgets import Budget, make_budget, to_us
from costguard.ledger.records import Admitted, Observation, Refused, Release, Settle

pytestmark = pytest.mark.usefixtures("each_engine")

ZONE = "Asia/Almaty"
OLD, NEW, FAR = "Etc/GMT-6", "Etc/GMT-5", "Etc/GMT-14"
"""Rules that the zone's name may stand for: 6, 5 and 14 hours before UTC."""

NOON_US = to_us(datetime(2026, 3, 15, 12, tzinfo=UTC))
MIDNIGHT_US = to_us(datetime(2026, 3, 15, 18, tzinfo=UTC))
"""A day begins by the old rules; by the new ones an hour later."""

Rules = Callable[[str], None]


@pytest.fixture
def rules(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rules]:
    """Says what the rules of `ZONE` are from now on."""
    with pytest.MonkeyPatch.context() as patch:
        yield lambda name: change(patch, name)
    forget()


def change(patch: pytest.MonkeyPatch, name: str) -> None:
    patch.setattr(budgets, "ZoneInfo", lambda zone: ZoneInfo(name if zone == ZONE else zone))
    forget()


def forget() -> None:
    budgets._recent.clear()
    budgets._first_instant.cache_clear()


def a_budget(per: str, amount: str = "1", **terms: Any) -> Budget:
    """Made before the zone's name stands for another's rules."""
    return replace(make_budget("acme", amount, per=per, **terms), timezone=ZONE)


def test_a_day_and_a_window_stay_as_they_were_cut(tmp_path: Path, rules: Rules) -> None:
    rules(OLD)
    ledger = open_ledger(tmp_path / "ledger.db", timezone=ZONE)
    for per in ("day", "week", "month", "year"):
        ledger.set_budget(a_budget(per), NOON_US)
    (before,) = hold(ledger, 100, project="acme", at_us=MIDNIGHT_US + HOUR_US // 2)
    ledger.conclude(NOON_US, [Settle(before, a_charge(90))])
    rules(NEW)
    ledger.close()
    ledger = open_ledger(tmp_path / "ledger.db")
    assert verified(ledger)
    hold(ledger, 100, project="acme", at_us=MIDNIGHT_US + HOUR_US // 2)
    days = [attempt.day for task in ledger.tasks() for attempt in ledger.attempts(task.task_uuid)]
    assert days == ["2026-03-16", "2026-03-15"], "each as the rules had it when it was admitted"
    assert verified(ledger)
    ledger.close()


@pytest.mark.parametrize("rewind", [False, True])
def test_a_later_charge_goes_to_every_balance_that_contains_its_admission(
    rewind: bool, tmp_path: Path, rules: Rules
) -> None:
    """Two processes with different rules share a ledger, as while an update is rolled out."""
    rules(OLD)
    first, second = open_ledger(tmp_path / "ledger.db", timezone=ZONE), open_ledger(tmp_path / "ledger.db")
    first.set_budget(a_budget("day"), MIDNIGHT_US + HOUR_US)
    (early,) = hold(first, 100, project="acme", at_us=MIDNIGHT_US + 2 * HOUR_US)
    rules(NEW)
    (late,) = hold(second, 100, project="acme", at_us=MIDNIGHT_US + 2 * HOUR_US)
    if rewind:
        rules(OLD)
    first.conclude(MIDNIGHT_US + 3 * HOUR_US, [Settle(late, a_charge(70))])
    second.conclude(MIDNIGHT_US + 3 * HOUR_US, [Settle(early, a_charge(50))])
    kept = "SELECT end_us - window_us, spent, held FROM balances ORDER BY window_us"
    assert first._engine.read(lambda tx: tx.all(kept)) == [(DAY_US, 120, 0), (DAY_US, 120, 0)]
    assert verified(first)
    first.close()
    second.close()


def test_a_window_that_ends_later_by_new_rules_is_a_balance_of_its_own(tmp_path: Path, rules: Rules) -> None:
    """A year begins alike by both rules of a zone that is moved in between, and ends elsewhere."""
    rules(OLD)
    ledger = open_ledger(tmp_path / "ledger.db", timezone=ZONE)
    ledger.set_budget(a_budget("year", "0.00000015"), NOON_US)
    hold(ledger, 100, project="acme", at_us=NOON_US)
    start = budgets.window_at("year", ZONE, NOON_US)
    with pytest.MonkeyPatch.context() as patch:
        longer = budgets.Window(start.start_us, (start.end_us or 0) + HOUR_US)
        patch.setattr("costguard.ledger.accounting.limits.window_at", lambda *_: longer)
        patch.setattr("costguard.ledger.accounting.reading.window_at", lambda *_: longer)
        other = open_ledger(tmp_path / "ledger.db")
        hold(other, 50, project="acme", at_us=NOON_US)
        assert [(one.spent, one.held) for one in other.balances(NOON_US)] == [(0, 150)]
        assert isinstance(other.admit("acme", longer.end_us - 1, [an_attempt(1)]), Refused)  # type: ignore[operator]
        assert verified(other)
        other.close()
    assert isinstance(ledger.admit("acme", NOON_US, [an_attempt(1)]), Refused)
    assert verified(ledger)
    ledger.close()


steps = st.lists(
    st.tuples(
        st.sampled_from([OLD, NEW, FAR]),
        st.booleans(),
        st.integers(-30, 30),
        st.sampled_from(["hold", "settle", "release", "observe", "set"]),
        st.integers(0, 60),
    ),
    max_size=25,
)


@settings(max_examples=60)
@given(steps=steps, per=st.sampled_from(["day", "week", "month", "total"]))
def test_whatever_the_rules_become_promises_hold_and_no_limit_is_passed(steps: list[Any], per: str) -> None:
    limit = 150
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        change(patch, OLD)
        pair = [open_ledger(Path(folder) / "l.db", timezone=ZONE), open_ledger(Path(folder) / "l.db")]
        pair[0].set_budget(a_budget(per, "0.00000015"), NOON_US)
        sent: list[tuple[int, str]] = []
        for n, (name, which, hours, what, nanos) in enumerate(steps):
            change(patch, name)
            ledger, at_us = pair[which], MIDNIGHT_US + hours * HOUR_US // 2
            task_uuid = f"task {n}"
            if what == "hold":
                before = {b.window: (b.spent, b.held) for b in ledger.balances(at_us)}
                found = ledger.admit("acme/a", at_us, [an_attempt(nanos, task_uuid=task_uuid)])
                ((spent, held),) = before.values()
                assert isinstance(found, Admitted) is (spent + held + nanos <= limit)
                sent += [(found.attempt_ids[0], task_uuid)] if isinstance(found, Admitted) else []
            elif what == "set":
                ledger.set_budget(a_budget(per, "0.00000015", wait=n), at_us)
            elif sent and what == "observe":
                ledger.observe(at_us, Observation(sent[nanos % len(sent)][1], ((f"s:{n}", a_charge(nanos)),)))
            elif sent:
                attempt_id = sent[nanos % len(sent)][0]
                ending = Settle(attempt_id, a_charge(nanos)) if what == "settle" else Release(attempt_id, "no")
                ledger.conclude(at_us, [ending])
        for ledger in pair:
            assert verified(ledger)
            ledger.close()
    forget()


def test_a_window_that_begins_anew_by_other_rules_keeps_no_other_budget_of_the_path_from_being_seen(
    tmp_path: Path, rules: Rules
) -> None:
    rules(OLD)
    ledger = open_ledger(tmp_path / "ledger.db")
    ledger.set_budget(a_budget("month"), NOON_US)
    ledger.set_budget(make_budget("/", "1", per="month"), NOON_US)
    hold(ledger, 100, at_us=NOON_US)
    rules(NEW)
    for n in range(3):
        hold(ledger, 100, at_us=NOON_US + n)
    assert {found.held for found in ledger.balances(NOON_US)} == {400}
    assert verified(ledger)
    ledger.close()
