"""Budgets as users state them, and the calendar windows they cover in every time zone."""

from __future__ import annotations

import sys
import threading
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from costguard import budgets
from costguard.budgets import (
    ALL_TIME,
    PERIODS,
    Window,
    day_of,
    from_us,
    make_budget,
    month_bounds,
    parse_timezone,
    thresholds_crossed,
    to_us,
    window_at,
)
from costguard.errors import ConfigurationError

patient = settings(deadline=None)  # a loaded machine is no failure

HOUR_US = 3_600_000_000
CALENDAR = ("day", "week", "month", "quarter", "year")
SYSTEM_FILES = {"localtime", "posixrules", "Factory"}
ZONES = sorted(name for name in available_timezones() if name not in SYSTEM_FILES)
# Zones whose clocks have changed at or around midnight, or over the date line.
ODD_ZONES = [
    "Africa/Cairo",
    "Africa/Monrovia",
    "America/Asuncion",
    "America/Havana",
    "America/Santiago",
    "America/Sao_Paulo",
    "America/Scoresbysund",
    "America/St_Johns",
    "Antarctica/Troll",
    "Asia/Amman",
    "Asia/Beirut",
    "Asia/Gaza",
    "Asia/Tehran",
    "Atlantic/Azores",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Fakaofo",
    "Pacific/Kiritimati",
    "Pacific/Kwajalein",
]

zone_names = st.sampled_from(ZONES) | st.sampled_from(ODD_ZONES)
instants = st.integers(2 * 24 * HOUR_US, to_us(datetime(2100, 12, 31, tzinfo=UTC)))
periods = st.sampled_from(CALENDAR)


def utc(text: str) -> int:
    """UTC epoch microseconds of an ISO 8601 text without an offset."""
    return to_us(datetime.fromisoformat(text).replace(tzinfo=UTC))


def slow_first_instant(zone_name: str, day: date) -> int:
    """The first second whose local date is `day` or later, found by walking through the instants."""
    zone = ZoneInfo(zone_name)
    at = datetime.combine(day, time.min, tzinfo=UTC) - timedelta(hours=26)
    while at.astimezone(zone).date() < day:
        at += timedelta(minutes=1)
    at -= timedelta(minutes=1)
    while at.astimezone(zone).date() < day:
        at += timedelta(seconds=1)
    return to_us(at)


def change_days(zone_name: str, year: int) -> list[date]:
    """The UTC days in `year` over which the zone's offset changes."""
    zone = ZoneInfo(zone_name)
    days = [datetime(year, 1, 1, tzinfo=UTC) + timedelta(days=n) for n in range(366)]
    return [
        one.date()
        for one, other in pairwise(days)
        if one.astimezone(zone).utcoffset() != other.astimezone(zone).utcoffset()
    ]


@st.composite
def zones_and_days(draw: st.DrawFn) -> tuple[str, date]:
    """A zone and a day, near a change of its clocks where the year has one."""
    zone_name = draw(zone_names)
    year = draw(st.integers(1970, 2100))
    changes = change_days(zone_name, year)
    near = draw(st.sampled_from(changes)) if changes else date(year, draw(st.integers(1, 12)), 1)
    return zone_name, near + timedelta(days=draw(st.integers(-1, 1)))


# Instants


@patient
@given(st.datetimes(timezones=st.timezones() | st.just(UTC)))
def test_instants_survive_the_round_trip_to_the_microsecond(moment: datetime) -> None:
    try:
        expected = moment.astimezone(UTC)
    except OverflowError:
        assume(False)
    assert from_us(to_us(moment)) == expected
    assert from_us(to_us(moment)).utcoffset() == timedelta(0)


def test_an_instant_that_a_float_timestamp_would_round_stays_exact() -> None:
    moment = datetime(9998, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    assert to_us(moment) % 1_000_000 == 999_999
    assert from_us(to_us(moment)) == moment


def test_both_passes_of_a_repeated_hour_are_different_instants() -> None:
    first = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    assert to_us(first.replace(fold=1)) - to_us(first) == HOUR_US


def test_a_naive_datetime_is_refused_as_an_instant() -> None:
    with pytest.raises(ConfigurationError, match=r"aware datetime.*without a time zone"):
        to_us(datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(TypeError, match="expected an aware datetime, found float"):
        to_us(1.5)  # type: ignore[arg-type]


# Time zones


def test_every_zone_of_the_database_is_usable() -> None:
    assert [parse_timezone(name) for name in ZONES] == ZONES


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "UTC ",
        "/etc/localtime",
        "../Europe/Berlin",
        "Europe/../Europe/Berlin",
        "Europe//Berlin",
        "Europe/",
        "Europe",
        "America/Indiana",
        "localtime",
        "posixrules",
        "Factory",
        "right/Europe/Berlin",
        "posix/Europe/Berlin",
        "tzdata.zi",
        "leapseconds",
        "__init__.py",
        "UTC+2",
        "Europe/Berlin\n",
        "Europe/Berlin\0",
        "Europe/Bérlin",
        "\ud800",
        "x" * 5000,
    ],
)
def test_what_is_no_zone_name_is_refused_briefly(name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^zone: .* is not a known IANA time zone; ") as refusal:
        parse_timezone(name, "zone")
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize("value", [None, 1, b"UTC", UTC, ZoneInfo("UTC")])
def test_a_zone_that_is_no_text_is_refused_by_its_type(value: object) -> None:
    with pytest.raises(ConfigurationError, match=rf"as text.*found {type(value).__name__}"):
        parse_timezone(value)


@pytest.mark.parametrize(
    ("typo", "suggestion"),
    [
        ("Europe/Berln", "Europe/Berlin"),
        ("europe/berlin", "Europe/Berlin"),
        ("Berlin", "Europe/Berlin"),
        ("new york", "America/New_York"),
        ("utc", "UTC"),
        ("Asia/Tokio", "Asia/Tokyo"),
    ],
)
def test_an_unknown_zone_is_named_with_the_nearest_ones(typo: str, suggestion: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{typo!r} is not a known .* did you mean .*'{suggestion}'"):
        parse_timezone(typo)


def test_a_zone_like_no_other_gets_an_example() -> None:
    with pytest.raises(ConfigurationError, match="use one such as 'Europe/Berlin' or 'UTC'"):
        parse_timezone("qqqqqqqq")


# Budgets


def test_a_budget_is_monthly_in_utc_and_blocks_unless_told_otherwise() -> None:
    budget = make_budget("acme", "200")
    assert (budget.per, budget.timezone, budget.action, budget.warn_at) == ("month", "UTC", "block", ())
    assert budget.limit_nanos == 200_000_000_000
    assert budget.limit == Decimal(200)


def test_a_budget_keeps_all_that_was_stated() -> None:
    budget = make_budget(
        "acme/search", Decimal("0.000000001"), per="week", timezone="Asia/Tokyo", warn_at=[80], action="warn"
    )
    assert (budget.project, budget.per, budget.timezone) == ("acme/search", "week", "Asia/Tokyo")
    assert (budget.limit_nanos, budget.warn_at, budget.action) == (1, (80,), "warn")


def test_thresholds_of_a_budget_are_sorted_and_unique() -> None:
    assert make_budget("acme", 1, warn_at=(100, 50, 100, 1000, 1)).warn_at == (1, 50, 100, 1000)
    assert make_budget("acme", 1, warn_at=(n for n in (2, 1))).warn_at == (1, 2)


@pytest.mark.parametrize(
    ("per", "text"),
    [("month", "acme per month"), ("task", "acme per task"), ("total", "acme in total")],
)
def test_a_budget_reads_as_a_phrase(per: str, text: str) -> None:
    assert str(make_budget("acme", 1, per=per)) == text


def test_a_budget_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        make_budget("acme", 1).limit_nanos = 0  # type: ignore[misc]


def test_equal_budgets_are_equal_values() -> None:
    assert make_budget("acme", "1", warn_at=(50, 80)) == make_budget("acme", Decimal("1.0"), warn_at=(80, 50))
    assert len({make_budget("acme", "1"), make_budget("acme", 1)}) == 1


def test_an_amount_as_float_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="float"):
        make_budget("acme", 0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"project": "acme/"}, r"^project: 'acme/' begins or ends with a slash"),
        ({"amount": "-1"}, r"^amount: '-1' is negative"),
        ({"amount": "0.0000000001"}, r"^amount: .* more than 9 decimals"),
        ({"per": "hour"}, r"^per: found 'hour'; use one of task, day, week"),
        ({"per": 30}, r"^per: found 30"),
        ({"timezone": "Mars/Olympus"}, r"^timezone: 'Mars/Olympus' is not"),
        ({"action": "stop"}, r"^action: found 'stop'; use one of block, clamp, warn"),
        ({"floor": 5}, r"^floor: goes with the action 'clamp'"),
        ({"warn_at": "50,80"}, r"^warn_at: expected whole percents .* found '50,80'"),
        ({"warn_at": 80}, r"^warn_at: expected whole percents .* found 80"),
        ({"warn_at": (0,)}, r"^warn_at: found 0; use whole percents from 1 to 1000"),
        ({"warn_at": (1001,)}, r"^warn_at: found 1001"),
        ({"warn_at": (50.0,)}, r"^warn_at: found 50\.0"),
        ({"warn_at": (True,)}, r"^warn_at: found True"),
        ({"warn_at": ("50",)}, r"^warn_at: found '50'"),
    ],
)
def test_an_unusable_part_of_a_budget_is_refused_by_name(stated: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_budget(**{"project": "acme", "amount": "1"} | stated)


# Thresholds


def test_a_threshold_is_crossed_when_reached_exactly() -> None:
    assert thresholds_crossed(499_999_999, 1_000_000_000, (50, 80, 100)) == ()
    assert thresholds_crossed(500_000_000, 1_000_000_000, (50, 80, 100)) == (50,)
    assert thresholds_crossed(1_000_000_000, 1_000_000_000, (50, 80, 100)) == (50, 80, 100)


def test_a_limit_of_zero_is_crossed_by_the_first_nano_dollar_only() -> None:
    assert thresholds_crossed(0, 0, (50, 100)) == ()
    assert thresholds_crossed(1, 0, (50, 100)) == (50, 100)


@patient
@given(st.integers(0, 10**19), st.integers(1, 10**18), st.sets(st.integers(1, 1000)))
def test_crossed_thresholds_are_those_the_exact_share_has_reached(spent: int, limit: int, percents: set[int]) -> None:
    crossed = thresholds_crossed(spent, limit, tuple(sorted(percents)))
    assert set(crossed) == {percent for percent in percents if Fraction(spent, limit) >= Fraction(percent, 100)}
    assert list(crossed) == sorted(crossed)


# Windows


@patient
@given(zones_and_days())
@example(("America/St_Johns", date(1999, 10, 31)))  # 00:01 fell back to 23:01
@example(("America/St_Johns", date(1988, 4, 3)))  # the clocks skipped from 00:01 to 02:01
@example(("America/Toronto", date(1919, 3, 31)))  # skipped from 23:30 to 00:30: the gap spans midnight
@example(("Africa/Monrovia", date(1972, 1, 7)))  # an offset with seconds
@example(("Pacific/Apia", date(2011, 12, 30)))  # never was
def test_a_day_begins_at_the_first_instant_that_shows_its_date(place: tuple[str, date]) -> None:
    zone_name, day = place
    first = slow_first_instant(zone_name, day)
    window = window_at("day", zone_name, first)
    assert window.start_us == first
    assert window_at("day", zone_name, first - 1).end_us == first


@patient
@given(zone_names, periods, instants)
@example("America/St_Johns", "month", utc("2006-10-29T02:31:00"))
@example("Pacific/Apia", "week", utc("2011-12-30T12:00:00"))
def test_a_window_contains_its_instant_and_abuts_its_neighbours(zone_name: str, per: str, at_us: int) -> None:
    window = window_at(per, zone_name, at_us)
    assert window.end_us is not None
    assert window.start_us <= at_us < window.end_us
    assert window_at(per, zone_name, window.start_us) == window
    assert window_at(per, zone_name, window.end_us - 1) == window
    assert window_at(per, zone_name, window.start_us - 1).end_us == window.start_us
    assert window_at(per, zone_name, window.end_us).start_us == window.end_us


@patient
@given(zone_names, instants)
def test_windows_of_longer_kinds_are_made_of_whole_days(zone_name: str, at_us: int) -> None:
    for per in ("week", "month", "quarter", "year"):
        window = window_at(per, zone_name, at_us)
        assert window.end_us is not None
        assert window_at("day", zone_name, window.start_us).start_us == window.start_us
        assert window_at("day", zone_name, window.end_us - 1).end_us == window.end_us


@patient
@given(zone_names, instants)
def test_months_make_up_quarters_and_quarters_make_up_years(zone_name: str, at_us: int) -> None:
    for part, whole, count in (("month", "quarter", 3), ("quarter", "year", 4), ("month", "year", 12)):
        outer = window_at(whole, zone_name, at_us)
        end_us: int | None = outer.start_us
        for _ in range(count):
            assert end_us is not None
            end_us = window_at(part, zone_name, end_us).end_us
        assert end_us == outer.end_us


@patient
@given(instants, periods)
def test_windows_in_utc_begin_at_midnight_of_the_calendars_first_day(at_us: int, per: str) -> None:
    start, at = window_at(per, "UTC", at_us).start, from_us(at_us)
    assert start is not None
    assert start.time() == time.min
    first = {
        "day": at.date(),
        "week": date.fromisocalendar(*at.isocalendar()[:2], 1),
        "month": at.date().replace(day=1),
        "quarter": date(at.year, {1: 1, 2: 4, 3: 7, 4: 10}[(at.month + 2) // 3], 1),
        "year": date(at.year, 1, 1),
    }
    assert start.date() == first[per]


@pytest.mark.parametrize(
    ("zone_name", "at", "hours"),
    [
        ("Europe/Berlin", "2026-03-29T12:00", 23),
        ("Europe/Berlin", "2026-10-25T12:00", 25),
        ("Europe/Berlin", "2026-11-01T12:00", 24),
        ("America/New_York", "2026-03-08T18:00", 23),
        ("America/New_York", "2026-11-01T18:00", 25),
        ("Australia/Lord_Howe", "2026-10-04T00:00", Fraction(47, 2)),
        ("Australia/Lord_Howe", "2026-04-05T00:00", Fraction(49, 2)),
        ("Antarctica/Troll", "2026-03-29T12:00", 22),
        ("America/St_Johns", "1988-04-03T12:00", 22),
        ("America/St_Johns", "2006-10-29T12:00", 25),
        ("America/Havana", "2024-11-03T12:00", 25),
        ("America/Santiago", "2026-09-06T12:00", 23),
        ("Africa/Cairo", "2024-04-26T12:00", 23),
        ("Asia/Beirut", "2024-03-31T12:00", 23),
        ("Asia/Kathmandu", "2026-03-29T12:00", 24),
    ],
)
def test_a_day_is_as_long_as_its_clocks_make_it(zone_name: str, at: str, hours: int | Fraction) -> None:
    start_us, end_us = window_at("day", zone_name, utc(at))
    assert end_us is not None
    assert Fraction(end_us - start_us, HOUR_US) == hours


@pytest.mark.parametrize(
    ("zone_name", "day", "start"),
    [
        ("America/Santiago", "2026-09-06", "2026-09-06T04:00"),  # 00:00 skipped to 01:00
        ("Africa/Cairo", "2024-04-26", "2024-04-25T22:00"),
        ("Asia/Beirut", "2024-03-31", "2024-03-30T22:00"),
        ("America/Havana", "2024-03-10", "2024-03-10T05:00"),
        ("America/Havana", "2024-11-03", "2024-11-03T04:00"),  # 00:00 comes twice: the first
        ("America/St_Johns", "2006-10-29", "2006-10-29T02:30"),
        ("Pacific/Apia", "2011-12-31", "2011-12-30T10:00"),
    ],
)
def test_days_without_one_midnight_begin_at_the_documented_instant(zone_name: str, day: str, start: str) -> None:
    window = window_at("day", zone_name, utc(start))
    assert window.start_us == utc(start)
    assert day_of(zone_name, utc(start)) == day
    assert day_of(zone_name, utc(start) - 1) < day


def test_a_skipped_day_has_no_window_and_its_neighbours_abut() -> None:
    # Samoa had no 30 December 2011; Kwajalein no 21 August 1993.
    for zone_name, change, before, after in (
        ("Pacific/Apia", "2011-12-30T10:00", "2011-12-29", "2011-12-31"),
        ("Pacific/Kwajalein", "1993-08-21T12:00", "1993-08-20", "1993-08-22"),
    ):
        assert day_of(zone_name, utc(change) - 1) == before
        assert day_of(zone_name, utc(change)) == after
        assert window_at("day", zone_name, utc(change) - 1).end_us == utc(change)
        assert window_at("day", zone_name, utc(change)).start_us == utc(change)


def test_an_hour_repeated_over_midnight_belongs_to_the_day_already_begun() -> None:
    # At 00:01 on 29 October 2006 (02:31 UTC) the clocks of St. John's went back to 23:01 on the 28th.
    at_us = utc("2006-10-29T02:31")
    assert from_us(at_us).astimezone(ZoneInfo("America/St_Johns")).date() == date(2006, 10, 28)
    assert day_of("America/St_Johns", at_us) == "2006-10-29"
    assert window_at("day", "America/St_Johns", at_us) == Window(utc("2006-10-29T02:30"), utc("2006-10-30T03:30"))


def test_a_month_that_begins_twice_keeps_the_repeated_hour_in_the_new_month() -> None:
    # At 00:01 on 1 November 2009 (02:31 UTC) the clocks of St. John's went back into October.
    for minute in ("02:30", "02:31", "03:30"):
        window = window_at("month", "America/St_Johns", utc(f"2009-11-01T{minute}"))
        assert window == month_bounds("2009-11", "America/St_Johns")
        assert window.start_us == utc("2009-11-01T02:30")


@patient
@given(zones_and_days(), st.integers(0, 48 * 60))
def test_the_day_of_an_instant_never_goes_back_and_follows_the_day_windows(
    place: tuple[str, date], minutes: int
) -> None:
    zone_name, day = place
    at_us = to_us(datetime.combine(day, time.min, tzinfo=UTC)) + minutes * 60_000_000
    label, window = day_of(zone_name, at_us), window_at("day", zone_name, at_us)
    assert day_of(zone_name, window.start_us) == label
    assert label >= from_us(at_us).astimezone(ZoneInfo(zone_name)).date().isoformat()
    assert day_of(zone_name, window.start_us - 1) < label
    assert window.start_us == slow_first_instant(zone_name, date.fromisoformat(label))


def test_all_time_is_one_window_without_bounds_keyed_zero() -> None:
    window = window_at("total", "Europe/Berlin", utc("2026-11-05T00:00"))
    assert window == ALL_TIME
    assert tuple(window) == (0, None)
    assert window.start is None
    assert window.end is None


def test_a_window_shows_its_bounds_as_aware_datetimes() -> None:
    window = window_at("month", "Europe/Berlin", utc("2026-10-31T23:30"))
    assert window.start == datetime(2026, 10, 31, 23, tzinfo=UTC)
    assert window.end == datetime(2026, 12, 1, tzinfo=timezone(timedelta(hours=1)))


@pytest.mark.parametrize("per", ["task", "hour", ""])
def test_what_has_no_window_is_a_value_error(per: str) -> None:
    with pytest.raises(ValueError, match=f"{per!r} has no window"):
        window_at(per, "UTC", 0)


def test_every_period_but_task_has_a_window() -> None:
    for per in PERIODS[1:]:
        assert window_at(per, "UTC", 0).start_us <= 0


def test_a_window_in_an_unknown_zone_is_a_configuration_error() -> None:
    for call in (
        lambda: window_at("day", "Mars/Olympus", 0),
        lambda: day_of("Mars/Olympus", 0),
        lambda: month_bounds("2026-11", "Mars/Olympus"),
    ):
        with pytest.raises(ConfigurationError, match="'Mars/Olympus' is not a known IANA time zone"):
            call()


# Months by name


@patient
@given(zone_names, instants)
@example("America/St_Johns", utc("2009-11-01T03:00"))
@example("Pacific/Kiritimati", utc("1995-01-01T09:59"))
def test_a_named_month_is_the_window_of_the_days_with_that_prefix(zone_name: str, at_us: int) -> None:
    assert month_bounds(day_of(zone_name, at_us)[:7], zone_name) == window_at("month", zone_name, at_us)


def test_the_first_and_last_month_that_can_be_named_have_bounds_in_every_zone() -> None:
    for zone_name in ("Pacific/Kiritimati", "Etc/GMT+12", "UTC"):
        for month in ("1970-01", "9998-12"):
            start_us, end_us = month_bounds(month, zone_name)
            assert end_us is not None
            assert end_us - start_us == 31 * 24 * HOUR_US


@pytest.mark.parametrize(
    "month",
    [
        "",
        "2026",
        "2026-13",
        "2026-00",
        "2026-1",
        "2026-11-01",
        " 2026-11",
        "2026-11\n",
        "２０２６-11",
        202611,
        None,
    ],
)
def test_a_text_that_names_no_month_is_refused_with_an_example(month: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^month: found .*; write year and month as '2026-11'"):
        month_bounds(month, "UTC")


@pytest.mark.parametrize("month", ["1969-12", "0000-01", "9999-12"])
def test_a_month_out_of_range_is_refused_with_the_range(month: str) -> None:
    with pytest.raises(ConfigurationError, match=f"found '{month}'; use a year from 1970 to 9998"):
        month_bounds(month, "UTC")


# The memory of recent windows


@patient
@given(st.lists(st.tuples(st.sampled_from(["Europe/Berlin", "UTC"]), periods, instants), max_size=20))
def test_answers_do_not_depend_on_what_was_asked_before(questions: list[tuple[str, str, int]]) -> None:
    warm = [(window_at(per, zone, at_us), day_of(zone, at_us)) for zone, per, at_us in questions]
    cold = []
    for zone, per, at_us in questions:
        budgets._recent.clear()
        budgets._first_instant.cache_clear()
        cold.append((window_at(per, zone, at_us), day_of(zone, at_us)))
    assert warm == cold


def test_a_repeated_question_is_answered_from_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    at_us = utc("2026-11-05T12:00")
    before = window_at("month", "Europe/Berlin", at_us), day_of("Europe/Berlin", at_us)
    monkeypatch.delattr(budgets, "ZoneInfo")
    assert (window_at("month", "Europe/Berlin", at_us + 1), day_of("Europe/Berlin", at_us + 1)) == before


def test_the_memory_of_recent_windows_is_bounded() -> None:
    for zone_name in ZONES:
        day_of(zone_name, 0)
        assert len(budgets._recent) <= 512


def test_threads_that_share_the_memory_get_right_answers() -> None:
    days = [utc(f"2026-10-{day:02d}T12:00") for day in range(1, 31)]
    wrong: list[int] = []

    def ask(seed: int) -> None:
        for n in range(2000):
            at_us = days[(seed + n) % len(days)]
            window = window_at("day", "UTC", at_us)
            if window != (at_us - 12 * HOUR_US, at_us + 12 * HOUR_US):
                wrong.append(at_us)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
