"""Periods tile time without a gap, begin where their zone's days do, and are named as people write them."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costguard import ConfigurationError
from costguard.budgets import from_us, to_us
from costguard.reports import periods

KINDS = st.sampled_from(["month", "quarter", "year", "week"])
DATES = st.dates(date(1972, 1, 1), date(2100, 12, 31))
ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/Santiago", "Asia/Kathmandu", "Africa/Cairo"])


@given(kind=KINDS, day=DATES)
def test_periods_of_a_kind_tile_the_calendar(kind: str, day: date) -> None:
    found = periods.containing(kind, day)
    assert found.first <= day < found.end
    assert all(periods.containing(kind, one) == found for one in (found.first, found.end - timedelta(days=1)))
    earlier, later = found.before(), periods.containing(kind, found.end)
    assert earlier is not None
    assert (earlier.kind, earlier.end) == (kind, found.first)
    assert later.before() == found


@given(kind=KINDS, day=DATES, zone=ZONES)
def test_their_instants_tile_time_in_every_zone(kind: str, day: date, zone: str) -> None:
    found = periods.containing(kind, day)
    span, following = found.span(zone), periods.containing(kind, found.end).span(zone)
    assert span.start_us < span.end_us == following.start_us
    assert span.days == (found.first.isoformat(), found.end.isoformat())


@given(since=DATES, days=st.integers(1, periods.DAYS_MAX), passed=st.integers(0, 4000))
def test_days_have_as_many_before_them(since: date, days: int, passed: int) -> None:
    found = periods.between(since, since + timedelta(days=days - 1))
    assert found.days == days
    earlier = found.before()
    if earlier is not None:
        assert (earlier.days, earlier.end) == (days, since)
    begun = found.passed(since + timedelta(days=passed - 1))
    assert begun == min(passed, days)
    if begun:
        assert found.beginning(begun).days == begun


@given(per=st.sampled_from(["day", "week", "month"]), since=DATES, days=st.integers(1, 400))
def test_parts_tile_their_period_and_are_named_apart(per: str, since: date, days: int) -> None:
    end = since + timedelta(days=days)
    found = periods.parts(per, since, end)
    assert [part.first for part in found[1:]] == [part.end for part in found[:-1]]
    assert (found[0].first, found[-1].end) == (since, end)
    assert len({part.name for part in found}) == len(found)


@pytest.mark.parametrize(
    ("text", "name", "first", "end"),
    [
        ("month", "2026-10", "2026-10-01", "2026-11-01"),
        ("Quarter", "2026-Q3", "2026-07-01", "2026-10-01"),
        ("year", "2025", "2025-01-01", "2026-01-01"),
        ("week", "2026-W47", "2026-11-16", "2026-11-23"),
        ("7 days", "2026-11-19 to 2026-11-25", "2026-11-19", "2026-11-26"),
        ("30d", "2026-10-27 to 2026-11-25", "2026-10-27", "2026-11-26"),
        ("1 day", "2026-11-25", "2026-11-25", "2026-11-26"),
    ],
)
def test_the_last_period_is_the_one_that_is_over_and_days_end_today(text: str, name: str, first: str, end: str) -> None:
    found = periods.last(text, date(2026, 11, 25))
    assert (found.name, found.first.isoformat(), found.end.isoformat()) == (name, first, end)


def test_a_week_of_the_turn_of_the_year_has_the_year_of_its_thursday() -> None:
    assert [periods.containing("week", date(*day)).name for day in ((2026, 12, 31), (2027, 1, 3), (2027, 1, 4))] == [
        "2026-W53", "2026-W53", "2027-W01",
    ]  # fmt: skip


def test_names_are_read_as_they_are_written() -> None:
    for read, name in ((periods.month, "2026-11"), (periods.quarter, "2026-Q4"), (periods.year, "2026")):
        assert read(name).name == name
    assert periods.quarter("2026-q2").first == date(2026, 4, 1)


@pytest.mark.parametrize(
    ("read", "texts", "named"),
    [
        (periods.month, ["2026-13", "11/2026", "", "2026-1", "1969-12", "٢٠٢٦-11"], "month"),
        (periods.quarter, ["2026-Q5", "2026-4", "Q4", "9999-Q1"], "quarter"),
        (periods.year, ["26", "1969", "9999", "year"], "year"),
    ],
)
def test_what_is_no_period_is_refused_by_its_name(read: object, texts: list[str], named: str) -> None:
    for text in texts:
        with pytest.raises(ConfigurationError, match=f"^{named}: "):
            read(text)  # type: ignore[operator]


@pytest.mark.parametrize("text", ["fortnight", "0 days", "-3 days", "99999 days", "3661 days", "day", ""])
def test_a_last_that_is_none_says_what_there_is(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^last: .*'30 days'"):
        periods.last(text, date(2026, 11, 25))


def test_a_period_that_ends_before_it_begins_or_is_too_long_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^until: 2026-11-01 is before 2026-11-02"):
        periods.between(date(2026, 11, 2), date(2026, 11, 1))
    with pytest.raises(ConfigurationError, match="longer than 3660 days"):
        periods.between(date(2000, 1, 1), date(2026, 1, 1))


def test_the_calendar_has_a_beginning() -> None:
    assert periods.year("1970").before() is None
    assert from_us(to_us(datetime(1970, 1, 1, tzinfo=UTC))).date() == periods.year("1970").first
