"""The accounting: admissions, endings, budgets, ceilings, zones and alerts, to the nano-dollar."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ledgers import DAY_US, HOUR_US, NOW_US, a_charge, an_attempt, balance, hold, open_ledger, verified

from costguard.budgets import make_budget, to_us, window_at
from costguard.errors import ConfigurationError, LedgerError
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.charges import Line
from costguard.ledger.records import Accept, Admitted, Doubt, Observation, Refused, Release, Settle, Unpriced

pytestmark = pytest.mark.usefixtures("each_engine")

USD = 10**9


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    ledger = open_ledger(path)
    yield ledger
    verified(ledger)
    ledger.close()


def at(*moment: int) -> int:
    return to_us(datetime(*moment, tzinfo=UTC))  # type: ignore[misc, arg-type]


# Admissions


def test_a_hold_is_taken_from_every_budget_on_the_path_and_from_no_other(ledger: Ledger) -> None:
    for project in ("/", "acme", "acme/search", "acme/search/prod", "acme/searching", "other"):
        ledger.set_budget(make_budget(project, 1, per="total"), NOW_US)
    hold(ledger, 7, 5)
    held = {b.budget.project: b.held for b in ledger.balances(NOW_US)}
    assert held == {
        "/": 12, "acme": 12, "acme/search": 12, "acme/search/prod": 0, "acme/searching": 0, "other": 0,
    }  # fmt: skip


def test_the_last_nano_dollar_is_usable_and_one_more_is_refused(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="total"), NOW_US)
    hold(ledger, USD - 1)
    assert isinstance(ledger.admit("a", NOW_US, [an_attempt(2)]), Refused)
    hold(ledger, 1)
    assert isinstance(ledger.admit("a", NOW_US, [an_attempt(1)]), Refused)
    assert balance(ledger) == (0, USD)


def test_several_tasks_are_admitted_all_or_none(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="total"), NOW_US)
    refused = ledger.admit("a", NOW_US, [an_attempt(USD // 2), an_attempt(USD // 2), an_attempt(1)])
    assert isinstance(refused, Refused)
    assert (refused.requested, refused.remaining) == (USD + 1, USD)
    assert balance(ledger) == (0, 0)
    assert ledger.tasks() == []


def test_one_full_budget_on_the_path_refuses_and_nothing_is_held_in_the_others(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "9", per="total"), NOW_US)
    ledger.set_budget(make_budget("acme", "2", per="total"), NOW_US)
    refused = ledger.admit("acme/search", NOW_US, [an_attempt(3 * USD)])
    assert isinstance(refused, Refused)
    assert refused.budget.project == "acme"
    assert balance(ledger) == balance(ledger, "acme") == (0, 0)


def test_a_refusal_names_the_budget_with_the_least_remaining_and_its_window(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "5", per="month"), NOW_US)
    ledger.set_budget(make_budget("acme", "3", per="day"), NOW_US)
    ledger.set_budget(make_budget("acme/search", "4", per="total"), NOW_US)
    refused = ledger.admit("acme/search", NOW_US, [an_attempt(6 * USD)])
    assert isinstance(refused, Refused)
    assert (refused.budget.project, refused.remaining) == ("acme", 3 * USD)
    assert refused.window == window_at("day", "UTC", NOW_US)


def test_a_refusal_tells_what_is_held_what_is_unresolved_and_whether_it_may_fit_later(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "10", per="total"), NOW_US)
    held, lost = hold(ledger, 4 * USD, 5 * USD)
    ledger.conclude(NOW_US, [Doubt(lost, "timed out")])
    refused = ledger.admit("a", NOW_US, [an_attempt(2 * USD)])
    assert isinstance(refused, Refused)
    assert (refused.remaining, refused.held, refused.unresolved, refused.busy) == (USD, 9 * USD, 5 * USD, True)
    ledger.conclude(NOW_US, [Settle(held, a_charge(9 * USD))])
    refused = ledger.admit("a", NOW_US, [an_attempt(2 * USD)])
    assert isinstance(refused, Refused)
    assert (refused.remaining, refused.busy) == (-4 * USD, False)


def test_a_limit_of_0_blocks_even_what_costs_nothing(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", 0, per="total"), NOW_US)
    refused = ledger.admit("a", NOW_US, [an_attempt(0)])
    assert isinstance(refused, Refused)
    assert not refused.busy


def test_a_task_budget_caps_each_task_and_not_their_sum(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="task"), NOW_US)
    hold(ledger, USD, USD, USD)
    refused = ledger.admit("a", NOW_US, [an_attempt(1), an_attempt(USD + 1)])
    assert isinstance(refused, Refused)
    assert (refused.budget.per, refused.window, refused.requested) == ("task", None, USD + 1)


def test_a_warn_budget_never_refuses_and_still_holds(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="total", action="warn"), NOW_US)
    hold(ledger, 5 * USD, None)
    assert balance(ledger) == (0, 5 * USD)


def test_without_enforcement_everything_is_held_and_the_budgets_passed_are_named(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="total"), NOW_US)
    ledger.set_budget(make_budget("acme", "9", per="total"), NOW_US)
    ledger.set_budget(make_budget("acme/search", "1", per="total", action="warn"), NOW_US)
    admitted = ledger.admit("acme/search", NOW_US, [an_attempt(2 * USD), an_attempt(None)], enforce=False)
    assert isinstance(admitted, Admitted)
    assert [budget.project for budget in admitted.over] == ["/"]
    assert balance(ledger) == (0, 2 * USD)


def test_a_task_without_a_worst_case_is_refused_under_a_hard_budget_only(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("acme", "1", action="warn"), NOW_US)
    hold(ledger, None, project="acme")
    ledger.set_budget(make_budget("/", "1", per="year"), NOW_US)
    refused = ledger.admit("acme", NOW_US, [an_attempt(1), an_attempt(None, model="mystery")])
    assert isinstance(refused, Unpriced)
    assert (refused.attempt.model, refused.budget.project) == ("mystery", "/")


def test_a_ceiling_stands_in_for_an_unknown_worst_case_for_each_result(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="total"), NOW_US)
    task = an_attempt(None, results=3, ceiling_names=("mystery", "textInference"))
    ledger.set_ceiling("textInference", 50, NOW_US)
    admitted = ledger.admit("a", NOW_US, [task])
    assert isinstance(admitted, Admitted)
    assert admitted.uppers == (150,)
    ledger.set_ceiling("mystery", 40, NOW_US)
    assert ledger.ceilings() == {"mystery": 40, "textInference": 50}
    ledger.admit("a", NOW_US, [an_attempt(None, results=3, ceiling_names=("mystery", "textInference"))])
    assert balance(ledger) == (0, 270)
    assert ledger.remove_ceiling("mystery", NOW_US)
    assert ledger.remove_ceiling("textInference", NOW_US)
    assert not ledger.remove_ceiling("mystery", NOW_US)
    assert isinstance(ledger.admit("a", NOW_US, [task]), Unpriced)


def test_money_is_counted_in_the_window_of_its_admission(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="day", timezone="Europe/Berlin"), NOW_US)
    midnight = at(2026, 11, 22, 23)
    (late,) = hold(ledger, USD, at_us=midnight - 1)
    hold(ledger, USD, at_us=midnight)
    ledger.conclude(midnight + HOUR_US, [Settle(late, a_charge(3))])
    assert balance(ledger, per="day", at_us=midnight - 1) == (3, 0)
    assert balance(ledger, per="day", at_us=midnight) == (0, USD)


def test_sums_beyond_64_bits_are_an_error_and_hold_nothing(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="total", action="warn"), NOW_US)
    for _ in range(9):
        hold(ledger, 10**18)
    for upper in (10**18, 2**63 - 1, 2**70):
        with pytest.raises(LedgerError):
            ledger.admit("a", NOW_US, [an_attempt(upper)])
    assert balance(ledger) == (0, 9 * 10**18)


# Endings


def test_settling_charges_the_truth_and_gives_the_rest_back(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="total"), NOW_US)
    (attempt,) = hold(ledger, 100)
    ledger.conclude(NOW_US, [Settle(attempt, a_charge(30))])
    assert balance(ledger) == (30, 0)
    (task,) = ledger.tasks()
    assert (task.status, task.charged, task.held, task.basis) == ("settled", 30, 0, "breakdown")


def test_a_bill_above_the_hold_is_recorded_in_full_and_the_next_call_refused(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="total"), NOW_US)
    (attempt,) = hold(ledger, 100)
    ledger.conclude(NOW_US, [Settle(attempt, a_charge(2 * USD))])
    assert balance(ledger) == (2 * USD, 0)
    assert isinstance(ledger.admit("a", NOW_US, [an_attempt(1)]), Refused)


def test_a_release_gives_all_back(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="total"), NOW_US)
    (attempt,) = hold(ledger, 100)
    ledger.conclude(NOW_US, [Release(attempt, "never connected")])
    assert balance(ledger) == (0, 0)
    (task,) = ledger.tasks()
    assert (task.status, task.reason, task.charged) == ("released", "never connected", 0)


def test_an_unknown_outcome_stays_held_at_its_worst_case_until_the_truth_is_known(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="total"), NOW_US)
    (attempt,) = hold(ledger, 100)
    ledger.conclude(NOW_US, [Doubt(attempt, "timed out", {"frames": 3})])
    assert balance(ledger) == (0, 100)
    (task,) = ledger.tasks(status="unresolved")
    assert task.reason == "timed out"
    ledger.conclude(NOW_US, [Settle(attempt, a_charge(99))])
    assert balance(ledger) == (99, 0)
    assert ledger.tasks(status="unresolved") == []


def test_an_accepted_task_stays_held(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="total"), NOW_US)
    (attempt,) = hold(ledger, 100)
    ledger.conclude(NOW_US, [Accept(attempt)])
    assert balance(ledger) == (0, 100)
    (task,) = ledger.tasks()
    assert task.status == "held"


@pytest.mark.parametrize("again", [Settle(1, a_charge(20), "0"), Release(1, "late"), Doubt(1, "late")])
def test_what_comes_after_a_settlement_changes_nothing(ledger: Ledger, again: Settle | Release | Doubt) -> None:
    ledger.set_budget(make_budget("/", "1", per="total", warn_at=(1,)), NOW_US)
    hold(ledger, 100)
    ledger.conclude(NOW_US, [Settle(1, a_charge(30), "0")])
    before = (ledger.tasks(), balance(ledger))
    assert ledger.conclude(NOW_US, [again]) == ()
    assert (ledger.tasks(), balance(ledger)) == before


@pytest.mark.parametrize("again", [Release(1, "late"), Doubt(1, "late")])
def test_doubts_about_a_released_task_change_nothing(ledger: Ledger, again: Release | Doubt) -> None:
    hold(ledger, 100)
    ledger.conclude(NOW_US, [Release(1, "refused")])
    before = ledger.tasks()
    assert ledger.conclude(NOW_US, [again]) == ()
    assert ledger.tasks() == before


def test_an_answer_to_a_task_released_too_early_is_charged_all_the_same(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="total"), NOW_US)
    hold(ledger, 100)
    ledger.conclude(NOW_US, [Release(1, "not found")])
    ledger.conclude(NOW_US, [Settle(1, a_charge(30), "0")])
    assert balance(ledger) == (30, 0)
    (task,) = ledger.tasks()
    assert (task.status, task.charged) == ("settled", 30)


def test_with_keep_rest_the_results_not_seen_stay_held_rounded_up(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="total"), NOW_US)
    admitted = ledger.admit("a", NOW_US, [an_attempt(100, results=3)])
    assert isinstance(admitted, Admitted)
    ledger.conclude(NOW_US, [Settle(admitted.attempt_ids[0], a_charge(10), keep_rest=True)])
    assert balance(ledger) == (10, 67)


def test_endings_of_one_response_are_recorded_all_or_none(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="total"), NOW_US)
    (attempt,) = hold(ledger, 100)
    with pytest.raises(ConfigurationError, match="no attempt 77"):
        ledger.conclude(NOW_US, [Settle(attempt, a_charge(30)), Release(77, "unheard of")])
    assert balance(ledger) == (0, 100)


def test_a_task_sent_again_is_one_task_with_two_attempts(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="total"), NOW_US)
    for upper, charge in ((100, 30), (200, 40)):
        admitted = ledger.admit("a", NOW_US, [an_attempt(upper, task_uuid="same")])
        assert isinstance(admitted, Admitted)
        ledger.conclude(NOW_US, [Settle(admitted.attempt_ids[0], a_charge(charge))])
    (task,) = ledger.tasks()
    assert (task.attempts, task.charged, task.upper) == (2, 70, 300)
    (row,) = ledger.usage(("project",), "2026-11-22", "2026-11-23")
    assert (row.tasks, row.tokens, row.nanos) == (1, 60, 70)


def test_a_task_billed_twice_without_lines_is_counted_once(ledger: Ledger) -> None:
    for _ in range(2):
        admitted = ledger.admit("a", NOW_US, [an_attempt(100, task_uuid="same")])
        assert isinstance(admitted, Admitted)
        ledger.conclude(NOW_US, [Settle(admitted.attempt_ids[0], a_charge(0, lines=()))])
    verified(ledger)
    (row,) = ledger.usage(("modality",), "2026-11-22", "2026-11-23")
    assert row.tasks == 1


def test_results_seen_again_change_nothing(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="total"), NOW_US)
    ledger.admit("a", NOW_US, [an_attempt(100, task_uuid="polled", results=2)])
    both = Observation("polled", (("0", a_charge(30)), ("1", a_charge(20))))
    assert ledger.observe(NOW_US, Observation("polled", both.results[:1])) == ((), 1)
    assert balance(ledger) == (30, 50)
    assert ledger.observe(NOW_US, both) == ((), 1)
    assert ledger.observe(NOW_US, both) == ((), 0)
    assert balance(ledger) == (50, 0)


def test_an_operator_s_word_ends_an_open_task_and_the_provider_s_figure_replaces_it(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="total"), NOW_US)
    ledger.admit("a", NOW_US, [an_attempt(100, task_uuid="lost")])
    ledger.correct(NOW_US, "lost", 60, "seen on the invoice")
    assert balance(ledger) == (60, 0)
    ledger.observe(NOW_US, Observation("lost", (("0", a_charge(55)),)))
    assert balance(ledger) == (55, 0)
    with pytest.raises(ConfigurationError, match="nothing of it is open"):
        ledger.correct(NOW_US, "lost", None, "again")


# Budgets


def test_setting_a_budget_again_changes_the_limit_and_keeps_the_balance(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="total"), NOW_US)
    (attempt, _) = hold(ledger, 100, 50)
    ledger.conclude(NOW_US, [Settle(attempt, a_charge(30))])
    ledger.set_budget(make_budget("/", "0.00000009", per="total"), NOW_US)
    assert balance(ledger) == (30, 50)
    assert len(ledger.budgets()) == 1
    refused = ledger.admit("a", NOW_US, [an_attempt(11)])
    assert isinstance(refused, Refused)
    assert refused.remaining == 10


def test_what_another_process_sets_or_removes_binds_the_next_admission(path: Path, ledger: Ledger) -> None:
    other = open_ledger(path)
    hold(ledger, USD)
    other.set_budget(make_budget("acme", "1", per="total"), NOW_US)
    assert isinstance(ledger.admit("acme/search", NOW_US, [an_attempt(1)]), Refused)
    other.set_budget(make_budget("acme", "1.5", per="total"), NOW_US)
    hold(ledger, USD // 2)
    assert isinstance(ledger.admit("acme/search", NOW_US, [an_attempt(1)]), Refused)
    other.remove_budget("acme", "total", NOW_US)
    hold(ledger, USD)
    other.close()


def test_a_limit_below_what_is_spent_refuses_and_loses_nothing(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="total"), NOW_US)
    hold(ledger, USD)
    ledger.set_budget(make_budget("/", "0.5", per="total"), NOW_US)
    refused = ledger.admit("a", NOW_US, [an_attempt(0)])
    assert isinstance(refused, Refused)
    assert refused.remaining == -USD // 2


@pytest.mark.parametrize("per", ["day", "week", "month", "quarter", "year", "total"])
def test_a_new_budget_starts_with_what_its_window_already_contains(ledger: Ledger, per: str) -> None:
    window = window_at(per, "Asia/Tokyo", NOW_US)
    (inside, _) = hold(ledger, 100, 50, project="acme/search")
    hold(ledger, 9, project="acme2")
    if window.end_us is not None:
        hold(ledger, 7, project="acme", at_us=window.start_us - 1)
        hold(ledger, 8, project="acme", at_us=window.end_us)
    ledger.conclude(NOW_US, [Settle(inside, a_charge(30))])
    ledger.set_budget(make_budget("acme", "1", per=per, timezone="Asia/Tokyo"), NOW_US)
    assert balance(ledger, "acme", per) == (30, 50)


def test_budgets_of_one_project_and_several_periods_stand_side_by_side(ledger: Ledger) -> None:
    for per, amount in (("day", 1), ("month", 5), ("task", 2)):
        ledger.set_budget(make_budget("acme", amount, per=per), NOW_US)
    hold(ledger, USD, project="acme")
    refused = ledger.admit("acme", NOW_US, [an_attempt(1)])
    assert isinstance(refused, Refused)
    assert refused.budget.per == "day"
    hold(ledger, USD, project="acme", at_us=NOW_US + DAY_US)
    assert balance(ledger, "acme", "month") == (0, 2 * USD)


def test_a_removed_budget_no_longer_refuses_and_comes_back_with_its_balance(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="total"), NOW_US)
    hold(ledger, USD)
    assert ledger.remove_budget("/", "total", NOW_US)
    assert not ledger.remove_budget("/", "total", NOW_US)
    hold(ledger, USD)
    ledger.set_budget(make_budget("/", "1", per="total"), NOW_US)
    assert balance(ledger) == (0, 2 * USD)


def test_a_changed_zone_sums_the_new_window_again(ledger: Ledger) -> None:
    # 22:30 UTC on the 21st is the 22nd in Berlin (+1) and still the 21st in UTC.
    early = at(2026, 11, 21, 23, 30)
    ledger.set_budget(make_budget("/", "1", per="day"), NOW_US)
    hold(ledger, 100, at_us=early)
    hold(ledger, 10)
    assert balance(ledger, per="day") == (0, 10)
    ledger.set_budget(make_budget("/", "1", per="day", timezone="Europe/Berlin"), NOW_US)
    assert balance(ledger, per="day") == (0, 110)
    hold(ledger, 1)
    ledger.set_budget(make_budget("/", "1", per="day", timezone="UTC"), NOW_US)
    assert balance(ledger, per="day") == (0, 11)


def test_a_late_settlement_lands_in_its_own_day_after_the_zone_was_changed(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="day"), NOW_US)
    (attempt,) = hold(ledger, 100)
    ledger.set_budget(make_budget("/", "1", per="day", timezone="Asia/Tokyo"), NOW_US + DAY_US)
    ledger.conclude(NOW_US + DAY_US, [Settle(attempt, a_charge(30))])
    assert balance(ledger, per="day", at_us=NOW_US) == (30, 0)
    assert balance(ledger, per="day", at_us=NOW_US + DAY_US) == (0, 0)


# Alerts


def percents(alerts: tuple[object, ...]) -> list[object]:
    return [alert.percent for alert in alerts]  # type: ignore[attr-defined]


def test_all_thresholds_crossed_by_one_charge_fire_together_and_only_once(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "0.0000001", per="total", warn_at=(50, 80, 100)), NOW_US)
    first, second, third = hold(ledger, 30, 30, 40)
    assert ledger.conclude(NOW_US, [Settle(first, a_charge(49))]) == ()
    assert percents(ledger.conclude(NOW_US, [Settle(second, a_charge(31))])) == [50, 80]
    assert percents(ledger.conclude(NOW_US, [Settle(third, a_charge(100))])) == [100]


def test_thresholds_fire_anew_in_the_next_window(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="day", warn_at=(1,)), NOW_US)
    for day in range(2):
        (attempt,) = hold(ledger, USD, at_us=NOW_US + day * DAY_US)
        assert percents(ledger.conclude(NOW_US, [Settle(attempt, a_charge(USD))])) == [1]


@pytest.mark.parametrize("change", [{"warn_at": (1, 2)}, {"warn_at": (1, 2), "timezone": "Asia/Tokyo"}])
def test_what_has_fired_stays_fired_when_the_budget_is_changed(ledger: Ledger, change: dict[str, object]) -> None:
    ledger.set_budget(make_budget("/", "1", per="month", warn_at=(1,)), NOW_US)
    first, second = hold(ledger, USD // 10, USD // 10)
    assert percents(ledger.conclude(NOW_US, [Settle(first, a_charge(USD // 10))])) == [1]
    ledger.set_budget(make_budget("/", "1", per="month", **change), NOW_US)  # type: ignore[arg-type]
    assert percents(ledger.conclude(NOW_US, [Settle(second, a_charge(USD // 10))])) == [2]


def test_the_first_refusal_of_a_window_is_one_alert_among_all_that_saw_it(path: Path, ledger: Ledger) -> None:
    ledger.set_budget(make_budget("/", "1", per="day"), NOW_US)
    other = open_ledger(path)
    refused = ledger.admit("a", NOW_US, [an_attempt(2 * USD)])
    assert isinstance(refused, Refused)
    assert [len(each.count_refusal(refused, "acme/search", NOW_US, ())) for each in (other, ledger, other)] == [1, 0, 0]
    other.close()
    later = ledger.admit("a", NOW_US + DAY_US, [an_attempt(2 * USD)])
    assert isinstance(later, Refused)
    (alert,) = ledger.count_refusal(later, "acme/search", NOW_US, ())
    assert alert.percent is None
    assert "refused a call" in str(alert)


# The reporting zone


def test_the_reporting_zone_is_fixed_when_the_ledger_is_created(path: Path) -> None:
    open_ledger(path, timezone="Europe/Berlin").close()
    for zone in (None, "Europe/Berlin"):
        again = open_ledger(path, timezone=zone)
        assert again.timezone == "Europe/Berlin"
        again.close()
    with pytest.raises(ConfigurationError, match=r"reports in Europe/Berlin.*not in Asia/Tokyo"):
        open_ledger(path, timezone="Asia/Tokyo")


def test_an_unknown_reporting_zone_is_refused_before_it_is_stored(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Mars"):
        open_ledger(path, timezone="Mars/Olympus")
    ledger = open_ledger(path, timezone="Asia/Tokyo")
    assert ledger.timezone == "Asia/Tokyo"
    ledger.close()


def test_a_late_settlement_is_reported_on_the_day_of_admission_in_the_ledger_s_zone(path: Path) -> None:
    ledger = open_ledger(path, timezone="Asia/Tokyo")
    (attempt,) = hold(ledger, 100, at_us=at(2026, 11, 22, 15))
    ledger.conclude(at(2026, 12, 24), [Settle(attempt, a_charge(30))])
    assert [row.keys for row in ledger.usage(("day",), "2026-01-01", "2027-01-01")] == [("2026-11-23",)]
    assert verified(ledger)
    ledger.close()


def test_usage_of_the_roll_ups_equals_usage_of_the_lines(ledger: Ledger) -> None:
    for n, caller in enumerate(("acme", "acme/search", "other")):
        for day in range(3):
            (attempt,) = hold(ledger, 1000, project=caller, at_us=NOW_US + day * DAY_US)
            lines = (Line("prompt", "TEXT", 5, n), Line("feature:search", "", 1, 7 * day))
            ledger.conclude(NOW_US, [Settle(attempt, a_charge(n + 7 * day, lines=lines))])
    for by in ((), ("project",), ("day", "modality"), ("model", "project", "day", "modality")):
        for project in (None, "acme", "acme/search"):
            rolled = ledger.usage(by, "2026-11-22", "2026-11-24", project)
            assert rolled == ledger.usage_in(by, "UTC", at(2026, 11, 22), at(2026, 11, 24), project)
            assert sum(row.nanos for row in rolled) == sum(
                task.charged for task in ledger.tasks(project=project, until_us=at(2026, 11, 24))
            )
