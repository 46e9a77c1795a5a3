"""A default budget (`acme/*`) is a budget like it on each direct child that has none of its own."""

from __future__ import annotations

import functools
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import DAY_US, NOW_US, a_charge, an_attempt, balance, damage, hold, open_ledger, verified

from costguard.budgets import make_budget, window_at
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.records import Admitted, Alert, Refused, Settle

pytestmark = pytest.mark.usefixtures("each_engine")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = open_ledger(tmp_path / "ledger.db")
    yield ledger
    assert verified(ledger)
    ledger.close()


def default(ledger: Ledger, amount: str = "0.0000001", project: str = "acme/*", **terms: Any) -> None:
    ledger.set_budget(make_budget(project, amount, **{"per": "total", **terms}), NOW_US)


def shown(ledger: Ledger, project: str | None = None) -> dict[str, tuple[int, int]]:
    return {str(b.budget): (b.spent, b.held) for b in ledger.balances(NOW_US, project)}


def test_each_child_has_a_balance_of_its_own_and_what_lies_below_counts_in_it(ledger: Ledger) -> None:
    default(ledger)
    hold(ledger, 60, project="acme/a/x")
    hold(ledger, 100, project="acme/b")
    hold(ledger, 40, project="acme/a")
    for project in ("acme/a", "acme/a/y/z", "acme/b"):
        refused = ledger.admit(project, NOW_US, [an_attempt(1)])
        assert isinstance(refused, Refused)
        assert (refused.budget.project, refused.remaining) == (project[:6], 0)
    assert shown(ledger) == {"acme/a in total": (0, 100), "acme/b in total": (0, 100)}
    hold(ledger, 10**9, project="acme"), hold(ledger, 10**9, project="other/a")
    assert [str(one) for one in ledger.budgets()] == ["acme/* in total"]


def test_top_level_projects_have_a_default_too(ledger: Ledger) -> None:
    default(ledger, project="/*")
    hold(ledger, 100, project="acme/a")
    assert isinstance(ledger.admit("acme", NOW_US, [an_attempt(1)]), Refused)
    hold(ledger, 100, project="other")


def test_a_default_begins_with_what_its_window_contains_child_by_child(ledger: Ledger) -> None:
    (old,) = hold(ledger, 70, project="acme/a/x", at_us=NOW_US - 60 * DAY_US)
    (paid,) = hold(ledger, 80, project="acme/a/x")
    ledger.conclude(NOW_US, [Settle(paid, a_charge(30)), Settle(old, a_charge(70))])
    hold(ledger, 20, project="acme/a")
    hold(ledger, 5, project="acme/b")
    default(ledger, per="month")
    assert shown(ledger) == {"acme/a per month": (30, 20), "acme/b per month": (0, 5)}


def test_a_child_s_own_budget_takes_the_default_s_place_and_keeps_the_balance(ledger: Ledger) -> None:
    default(ledger)
    hold(ledger, 90, project="acme/a")
    ledger.set_budget(make_budget("acme/a", "0.0000002", per="total"), NOW_US)
    hold(ledger, 90, project="acme/a")
    assert balance(ledger, "acme/a") == (0, 180)
    default(ledger, "0.0000003")
    assert isinstance(ledger.admit("acme/a", NOW_US, [an_attempt(30)]), Refused), (
        "its own is not the default's to change"
    )
    assert ledger.remove_budget("acme/a", "total", NOW_US)
    assert balance(ledger, "acme/a") == (0, 180)
    hold(ledger, 120, project="acme/a")
    assert not ledger.remove_budget("acme/a", "total", NOW_US), "it has none of its own"


@pytest.mark.parametrize("has_row", [False, True])
def test_a_child_s_own_goes_on_from_the_terms_of_its_default(ledger: Ledger, has_row: bool) -> None:
    default(ledger, timezone="Asia/Tokyo", warn_at=(50,), action="clamp", floor=9, wait=2)
    if has_row:
        hold(ledger, 60, project="acme/a")
    change = functools.partial(make_budget, "acme/a", "0.0000002", per="total")
    now, before = ledger.change_budget("acme/a", "total", change, NOW_US)
    (stated,) = [one for one in ledger.budgets() if one.project == "acme/*"]
    assert before == replace(stated, project="acme/a")
    assert now == replace(before, limit_nanos=200)
    assert ledger.budgets() == [stated, now]
    assert balance(ledger, "acme/a") == (0, 60 * has_row)


@pytest.mark.parametrize("has_row", [False, True])
def test_if_absent_changes_nothing_where_a_default_is_in_force(ledger: Ledger, has_row: bool) -> None:
    default(ledger)
    if has_row:
        hold(ledger, 60, project="acme/a")
    logged = ledger.changes()
    change = functools.partial(make_budget, "acme/a", 100, per="total", action="warn")
    now, before = ledger.change_budget("acme/a", "total", change, NOW_US, if_absent=True)
    assert now == before == make_budget("acme/a", "0.0000001", per="total")
    assert ledger.changes() == logged
    assert isinstance(ledger.admit("acme/a/x", NOW_US, [an_attempt(101)]), Refused)
    below, _ = ledger.change_budget("acme/a/x", "total", functools.partial(make_budget, "acme/a/x", 3, per="total"),
                                    NOW_US, if_absent=True)  # fmt: skip
    assert below.limit == 3, "a default is for direct children"


def test_a_default_and_a_child_s_own_of_another_period_stand_side_by_side(ledger: Ledger) -> None:
    default(ledger)
    ledger.set_budget(make_budget("acme/a", 1, per="day"), NOW_US)
    hold(ledger, 100, project="acme/a")
    assert shown(ledger) == {"acme/a in total": (0, 100), "acme/a per day": (0, 100)}


def test_a_changed_default_binds_every_child_at_once_in_every_process(tmp_path: Path, ledger: Ledger) -> None:
    other = open_ledger(tmp_path / "ledger.db")
    default(ledger)
    hold(other, 100, project="acme/a")
    default(ledger, "0.0000002")
    hold(other, 100, project="acme/a")
    assert ledger.remove_budget("acme/*", "total", NOW_US)
    hold(other, 10**9, project="acme/a")
    assert other.balances(NOW_US) == []
    default(other)
    assert isinstance(ledger.admit("acme/a", NOW_US, [an_attempt(1)]), Refused)
    other.close()


def test_the_zone_of_a_default_moves_the_windows_of_all_children(ledger: Ledger) -> None:
    late = window_at("day", "Asia/Tokyo", NOW_US).start_us
    hold(ledger, 7, project="acme/a", at_us=late - 1)
    default(ledger, per="day")
    assert shown(ledger) == ({} if late - 1 < window_at("day", "UTC", NOW_US).start_us else {"acme/a per day": (0, 7)})
    hold(ledger, 8, project="acme/a")
    default(ledger, per="day", timezone="Asia/Tokyo")
    assert shown(ledger) == {"acme/a per day": (0, 8)}


def test_the_path_of_a_project_shows_the_default_before_anything_is_spent(ledger: Ledger) -> None:
    default(ledger)
    default(ledger, project="/*", per="task")
    assert shown(ledger) == {}
    assert shown(ledger, "acme/a/x") == {"acme/a in total": (0, 0), "acme per task": (0, 0)}
    assert sorted(map(str, ledger.covering("acme/a/x"))) == ["acme per task", "acme/a in total"]


def test_a_default_per_task_caps_each_task(ledger: Ledger) -> None:
    default(ledger, per="task")
    hold(ledger, 100, project="acme/a")
    assert isinstance(ledger.admit("acme/a", NOW_US, [an_attempt(101)]), Refused)


def test_alerts_are_each_child_s_own_and_armed_again_when_the_default_is_raised(ledger: Ledger) -> None:
    default(ledger, warn_at=(50,))
    for amount, expected in (("0.0000001", ["acme/a", "acme/b"]), ("0.0000002", ["acme/a", "acme/b"])):
        default(ledger, amount, warn_at=(50,))
        alerts: list[Alert] = []
        for project in ("acme/a", "acme/a", "acme/b"):
            (attempt,) = hold(ledger, 50, project=project, enforce=False)
            alerts += ledger.conclude(NOW_US, [Settle(attempt, a_charge(50))])
        assert sorted(alert.budget.project for alert in alerts) == expected


@pytest.mark.parametrize(
    ("statement", "difference"),
    [
        (
            "UPDATE budgets SET limit_nanos = 9 WHERE like_id IS NOT NULL",
            "changes: budget acme/a .* not like the default",
        ),
        ("UPDATE budgets SET like_id = NULL", "changes: budget acme/a .* not as it was last set"),
        (
            "UPDATE budgets SET like_id = 99 WHERE like_id IS NOT NULL",
            "changes: budget acme/a .* not as it was last set",
        ),
        ("UPDATE balances SET held = 0", "balances: budget acme/a in total|balances: budget acme/a per total"),
    ],
)
def test_verify_names_a_child_s_budget_that_is_not_as_its_default(
    statement: str, difference: str, tmp_path: Path
) -> None:
    path = tmp_path / "tampered.db"
    ledger = open_ledger(path)
    default(ledger)
    hold(ledger, 60, project="acme/a")
    damage(path, statement)
    assert re.search(difference, ledger.verify().difference or "")
    ledger.close()


PROJECTS = ("acme", "acme/a", "acme/a/x", "acme/b", "other")
steps = st.lists(
    st.tuples(
        st.sampled_from(["admit", "admit", "settle", "set", "remove"]),
        st.sampled_from(PROJECTS),
        st.sampled_from(["acme/*", "/*", "acme/a", "acme", "/", "acme/a/*"]),
        st.integers(0, 120),
        st.booleans(),
    ),
    max_size=40,
)


@settings(max_examples=60)
@given(steps)
def test_every_admission_is_decided_as_if_each_child_s_budget_had_been_set_by_hand(steps: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pair = [open_ledger(Path(folder) / "l.db"), open_ledger(Path(folder) / "l.db")]
        limits: dict[str, int] = {}
        money: dict[int, tuple[str, int]] = {}
        settled: set[int] = set()
        for what, project, name, nanos, which in steps:
            ledger = pair[which]
            if what == "set":
                limits[name] = nanos
                ledger.set_budget(make_budget(name, f"{nanos / 10**9:.9f}", per="total"), NOW_US)
            elif what == "remove":
                assert ledger.remove_budget(name, "total", NOW_US) is (limits.pop(name, None) is not None)
            elif what == "settle":
                still_open = sorted(money.keys() - settled)
                if not still_open:
                    continue
                attempt_id = still_open[nanos % len(still_open)]
                settled.add(attempt_id)
                ledger.conclude(NOW_US, [Settle(attempt_id, a_charge(nanos))])
                money[attempt_id] = (money[attempt_id][0], nanos)
            elif what == "admit":
                fits = True
                parts = project.split("/")
                path = ["/".join(parts[:n]) for n in range(len(parts), 0, -1)]
                for covering in [*path, "/"]:
                    parent = covering.rpartition("/")[0]
                    limit = limits.get(covering, None if covering == "/" else limits.get(f"{parent}/*"))
                    used = sum(n for p, n in money.values() if covering == "/" or f"{p}/".startswith(f"{covering}/"))
                    fits = fits and (limit is None or (used + nanos <= limit and limit > 0))
                found = ledger.admit(project, NOW_US, [an_attempt(nanos)])
                assert isinstance(found, Admitted) is fits
                if isinstance(found, Admitted):
                    money[found.attempt_ids[0]] = (project, nanos)
            assert verified(ledger)
        for ledger in pair:
            ledger.close()
