"""The calendar of reports: months, quarters, years, weeks and days of a zone, and what came before each. Pure dates."""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import date, timedelta
from reprlib import repr as short

from costguard.budgets import YEAR_MAX, YEAR_MIN, first_instant
from costguard.errors import ConfigurationError
from costguard.ledger.accounting.spending import Span, week_of

UNITS = ("month", "quarter", "year", "week")
"""What `last` knows beside a number of days."""

DAYS_MAX = 3660
"""The longest period, in days: ten years."""

_MONTHS = {"month": 1, "quarter": 3, "year": 12}
_MONTH_NAMES = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
_ORDINALS = ("1st", "2nd", "3rd", "4th")
_QUARTER = re.compile(r"([0-9]{4})-Q([1-4])", re.ASCII)
_YEAR = re.compile(r"[0-9]{4}", re.ASCII)
_MONTH = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])", re.ASCII)
_LAST_DAYS = re.compile(r"([1-9][0-9]{0,3}) ?d(?:ays?)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Period:
    """The days [first, end) of a zone. `kind` is month, quarter, year, week or days; `name` says it as people write."""

    kind: str
    name: str
    first: date
    end: date

    @property
    def days(self) -> int:
        """How many."""
        return (self.end - self.first).days

    @property
    def title(self) -> str:
        """Its name in words: November 2026, 4th quarter of 2026, week 48 of 2026, 3 to 9 November 2026."""
        match self.kind:
            case "month":
                return f"{month_name(self.first)} {self.first.year:04}"
            case "quarter":
                return f"{_ORDINALS[(self.first.month - 1) // 3]} quarter of {self.first.year:04}"
            case "year":
                return self.name
            case "week":
                year, _, week = self.name.partition("-W")
                return f"week {int(week)} of {year}"
        return days_text(self.first, self.end)

    def span(self, timezone: str) -> Span:
        """Its instants in a zone."""
        start_us, end_us = first_instant(timezone, self.first), first_instant(timezone, self.end)
        return Span(timezone, start_us, end_us, (self.first.isoformat(), self.end.isoformat()))

    def before(self) -> Period | None:
        """The period of the same kind that ends where this one begins; None where the calendar begins."""
        try:
            if self.kind in _MONTHS:
                return containing(self.kind, self.first - timedelta(days=1))
            length = timedelta(days=self.days)
            return _checked(self.kind, self.first - length, self.first)
        except (ConfigurationError, OverflowError):
            return None

    def passed(self, today: date) -> int:
        """How many of its days have begun by `today`."""
        return min(max((today - self.first).days + 1, 0), self.days)

    def beginning(self, days: int) -> Period:
        """Its first days, at most all."""
        return between(self.first, self.first + timedelta(days=min(days, self.days) - 1))


def containing(kind: str, day: date) -> Period:
    """The month, quarter, year or week (from Monday) that contains a day."""
    return _checked(kind, *_around(kind, day))


def _around(kind: str, day: date) -> tuple[date, date]:
    """The first day of what contains a day, and the first one after it."""
    if kind == "week":
        monday = day - timedelta(days=day.weekday())
        return monday, monday + timedelta(days=7)
    months = _MONTHS[kind]
    begun = (day.month - 1) // months * months
    first = date(day.year, begun + 1, 1)
    last = date(day.year, begun + months, monthrange(day.year, begun + months)[1])
    return first, last + timedelta(days=1)


def month(text: str) -> Period:
    """A month written `2026-11`."""
    match = _MONTH.fullmatch(text)
    if match is None:
        raise ConfigurationError(f"month: found {short(text)}; write year and month as '2026-11'")
    return containing("month", _day("month", int(match[1]), int(match[2])))


def quarter(text: str) -> Period:
    """A quarter written `2026-Q4`."""
    match = _QUARTER.fullmatch(text.upper())
    if match is None:
        raise ConfigurationError(f"quarter: found {short(text)}; write year and quarter as '2026-Q4'")
    return containing("quarter", _day("quarter", int(match[1]), 3 * int(match[2])))


def year(text: str) -> Period:
    """A year written `2026`."""
    if not _YEAR.fullmatch(text):
        raise ConfigurationError(f"year: found {short(text)}; write it as '2026'")
    return containing("year", _day("year", int(text), 1))


def named(text: str | None, today: date) -> Period:
    """A period in one text: `2026-11`, `2026-Q4`, `2026`, `last week` or `last 30 days`; this month for None."""
    if text is None:
        return containing("month", today)
    begin, _, rest = text.strip().partition(" ")
    if begin.lower() == "last":
        return last(rest, today)
    return quarter(text) if "Q" in text.upper() else month(text) if "-" in text else year(text)


def last(text: str, today: date) -> Period:
    """The last whole month, quarter, year or week before `today`, or the last `30 days` up to it."""
    word = text.strip().lower()
    if word in UNITS:
        found = containing(word, today).before()
        if found is not None:
            return found
    match = _LAST_DAYS.fullmatch(word)
    if match is None or int(match[1]) > DAYS_MAX:
        raise ConfigurationError(
            f"last: found {short(text)}; name month, quarter, year, week, or a number of days such as '30 days'"
        )
    return between(today - timedelta(days=int(match[1]) - 1), today)


def between(since: date, until: date) -> Period:
    """The days from `since` up to `until`, both of them."""
    if until < since:
        raise ConfigurationError(f"until: {until} is before {since}, where the period begins")
    if (until - since).days >= DAYS_MAX:
        raise ConfigurationError(f"until: {since} to {until} is longer than {DAYS_MAX} days; report shorter periods")
    return _checked("days", since, until + timedelta(days=1))


def parts(per: str, first: date, end: date) -> list[Period]:
    """The days, weeks or months of [first, end), in order; the outermost are cut to it."""
    found: list[Period] = []
    while first < end:
        kind, begins, ends = ("days", first, first + timedelta(days=1)) if per == "day" else (per, *_around(per, first))
        until = min(ends, end)
        found.append(Period(kind, _name(kind, begins, ends), first, until))
        first = until
    return found


def days_text(first: date, end: date) -> str:
    """The days [first, end) as people write them: 1 to 30 November 2026, 28 October to 3 November 2026."""
    last = end - timedelta(days=1)
    until = f"{last.day} {month_name(last)} {last.year:04}"
    if first == last:
        return until
    if first.year != last.year:
        return f"{first.day} {month_name(first)} {first.year:04} to {until}"
    if first.month != last.month:
        return f"{first.day} {month_name(first)} to {until}"
    return f"{first.day} to {until}"


def month_name(day: date) -> str:
    """In English, whatever the locale."""
    return _MONTH_NAMES[day.month - 1]


def _day(what: str, number: int, number_of_month: int) -> date:
    if not YEAR_MIN <= number <= YEAR_MAX:
        raise ConfigurationError(f"{what}: found the year {number}; use one from {YEAR_MIN} to {YEAR_MAX}")
    return date(number, number_of_month, 1)


def _checked(kind: str, first: date, end: date) -> Period:
    if first.year < YEAR_MIN or end > date(YEAR_MAX + 1, 1, 1):
        raise ConfigurationError(f"period: {first} to {end}; use years from {YEAR_MIN} to {YEAR_MAX}")
    return Period(kind, _name(kind, first, end), first, end)


def _name(kind: str, first: date, end: date) -> str:
    if kind == "month":
        return f"{first:%Y-%m}"
    if kind == "quarter":
        return f"{first.year:04}-Q{(first.month + 2) // 3}"
    if kind == "year":
        return f"{first.year:04}"
    if kind == "week":
        return week_of(first.isoformat())
    until = end - timedelta(days=1)
    return first.isoformat() if until == first else f"{first} to {until}"
