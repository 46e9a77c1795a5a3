"""A forecast says how it was come by, is exact where days repeat, and is none where too little is known."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costguard.reports.forecast import HISTORY_DAYS, LEAST_DAYS, Forecast, NoForecast, forecast

FIRST, END = date(2026, 11, 1), date(2026, 12, 1)
TODAY = date(2026, 11, 25)
WEEK = (90, 80, 80, 80, 70, 0, 10)
"""Nano-USD of each weekday, from Monday."""


def days_before(today: date, count: int) -> dict[date, int]:
    return {day: WEEK[day.weekday()] for day in (today - timedelta(days=n) for n in range(1, count + 1))}


def found(
    days: dict[date, int], *, today: date = TODAY, began: date | None = date(2026, 1, 1)
) -> Forecast | NoForecast:
    spent = sum(nanos for day, nanos in days.items() if FIRST <= day < END)
    return forecast(spent, days, first=FIRST, end=END, today=today, began=began)


def test_weeks_that_repeat_end_where_they_always_do_without_a_range() -> None:
    ahead = found(days_before(TODAY, 100))
    whole = sum(WEEK[(FIRST + timedelta(days=n)).weekday()] for n in range(30))
    assert isinstance(ahead, Forecast)
    assert (ahead.expected, ahead.least, ahead.most, ahead.days) == (whole, whole, whole, HISTORY_DAYS)
    assert ahead.method.startswith("What was spent so far, and for each day to come the mean of its weekday")
    assert "the last 56 whole days" in ahead.method


def test_what_today_has_cost_already_is_not_expected_again() -> None:
    days = days_before(TODAY, 60)
    bare = found(days)
    begun, beyond = found({**days, TODAY: 30}), found({**days, TODAY: 1000})
    assert isinstance(bare, Forecast)
    assert isinstance(begun, Forecast)
    assert isinstance(beyond, Forecast)
    assert begun.expected == bare.expected
    assert beyond.expected == bare.expected - WEEK[TODAY.weekday()] + 1000


@pytest.mark.parametrize("count", range(LEAST_DAYS))
def test_with_fewer_than_two_of_every_weekday_there_is_none_and_it_says_why(count: int) -> None:
    days = {TODAY - timedelta(days=n): 5 for n in range(1, count + 1)}
    ahead = found(days)
    assert isinstance(ahead, NoForecast)
    assert ahead.reason.startswith("it takes 14 whole days, two of every weekday, and there ")
    assert ahead.reason.endswith(f" {count}")


def test_days_before_the_first_one_with_a_charge_are_not_days_without_one() -> None:
    ahead = found({TODAY - timedelta(days=n): 70 for n in range(1, 15)})
    assert isinstance(ahead, Forecast)
    assert (ahead.days, ahead.expected) == (14, 14 * 70 + 6 * 70)


def test_a_period_that_is_over_or_has_not_begun_has_none() -> None:
    days = days_before(date(2026, 12, 5), 60)
    assert found(days, today=END) == NoForecast("the period is over")
    assert found(days, today=FIRST - timedelta(days=1)) == NoForecast("the period has not begun")


@given(
    st.dictionaries(st.integers(1, 70), st.integers(0, 10**12), min_size=20),
    st.integers(0, 29).map(lambda n: FIRST + timedelta(days=n)),
)
def test_it_lies_in_its_range_and_never_below_what_was_spent(ago: dict[int, int], today: date) -> None:
    days = {today - timedelta(days=n): nanos for n, nanos in ago.items()}
    spent = sum(nanos for day, nanos in days.items() if FIRST <= day < END)
    ahead = found(days, today=today)
    if isinstance(ahead, Forecast):
        assert spent <= ahead.least <= ahead.expected <= ahead.most


@given(st.integers(1, 10**6))
def test_a_wider_spread_is_a_wider_range(stray: int) -> None:
    calm = {TODAY - timedelta(days=n): 10**7 for n in range(1, 57)}
    wild = {day: nanos + (stray if day.toordinal() // 7 % 2 else -stray) * 5 for day, nanos in calm.items()}
    narrow, wide = found(calm), found(wild)
    assert isinstance(narrow, Forecast)
    assert isinstance(wide, Forecast)
    assert narrow.least == narrow.most == narrow.expected
    assert wide.least < wide.expected < wide.most


def test_what_can_be_spent_bounds_the_expected_end_and_its_range() -> None:
    whole = Forecast(1000, 900, 1100, 30, "So.")
    assert whole.limited("acme per month", 1100) is whole
    assert whole.limited("acme per month", 1050) == (1000, 900, 1050, 30, "So.", "acme per month", 1050, 1000)
    assert whole.limited("acme per month", 950) == (950, 900, 950, 30, "So.", "acme per month", 950, 1000)
    assert whole.limited("acme per month", 800) == (800, 800, 800, 30, "So.", "acme per month", 800, 1000)
