"""Budgets, their calendar windows and their thresholds. Pure integers: no ledger, no clock, no I/O.

Instants are UTC epoch microseconds, money is nano-dollars. A window's `start_us` is its key in the
ledger.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from reprlib import repr as short
from typing import NamedTuple
from zoneinfo import ZoneInfo

from costguard import money
from costguard.errors import ConfigurationError
from costguard.projects import parse_budget_project

PERIODS = ("task", "day", "week", "month", "quarter", "year", "total")
"""What a budget may be per. `task` caps a single task and has no window; `total` is all time."""

ACTIONS = ("block", "clamp", "warn")
"""What happens when a call does not fit: it is refused, lowered to what is left, or only reported."""

FLOOR_TOKENS_MAX = 10_000_000
WAIT_S_MAX = 600

WARN_PERCENT_MAX = 1000
"""The highest threshold, in percent of the limit (`warn` budgets pass 100)."""

YEAR_MIN, YEAR_MAX = 1970, 9998
"""The years a month may be named in: every zone's bounds of these are valid datetimes."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_SECOND_US = 1_000_000
_DAY_US = 86_400 * _SECOND_US
# Clocks move by hours; countries that crossed the date line skipped a day, or had one twice.
_DAYS = {"day": (0, 2), "week": (5, 8), "month": (26, 32), "quarter": (88, 93), "year": (363, 367)}
_MICROSECOND = timedelta(microseconds=1)
_RECENT_MAX = 512

_ZONE_NAME = re.compile(r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*", re.ASCII)
# Files beside the zones that are no IANA names: they differ by host, or count leap seconds.
_NOT_ZONES = ("localtime", "posixrules", "Factory", "posix", "right")
_MONTH = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])")


# Instants


def to_us(moment: datetime) -> int:
    """An aware datetime as UTC epoch microseconds, exactly. A naive one raises ConfigurationError."""
    if not isinstance(moment, datetime):
        raise TypeError(f"expected an aware datetime, found {type(moment).__name__} {short(moment)}")
    if moment.utcoffset() is None:
        raise ConfigurationError(
            f"expected an aware datetime, found {moment!r} without a time zone; use datetime.now(UTC)"
        )
    return (moment - _EPOCH) // _MICROSECOND


def from_us(at_us: int) -> datetime:
    """UTC epoch microseconds as an aware datetime in UTC, exactly."""
    return _EPOCH + timedelta(microseconds=at_us)


# Time zones


def parse_timezone(text: object, what: str = "timezone") -> str:
    """Check the name of an IANA time zone, such as `Europe/Berlin`, and return it.

    Anything else raises ConfigurationError naming `what` and the nearest names.
    """
    if not isinstance(text, str):
        raise ConfigurationError(
            f"{what}: expected an IANA time zone as text, such as 'Europe/Berlin' or 'UTC',"
            f" found {type(text).__name__} {short(text)}"
        )
    if _ZONE_NAME.fullmatch(text) and text.split("/")[0] not in _NOT_ZONES:
        try:
            return ZoneInfo(text).key
        except (LookupError, ValueError, OSError):  # unknown, not a zone file, a folder
            pass
    near = _near_zones(text)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "; use one such as 'Europe/Berlin' or 'UTC'"
    raise ConfigurationError(f"{what}: {short(text)} is not a known IANA time zone{hint}")


def _near_zones(text: str) -> list[str]:
    """Up to three zone names that look like `text`, by whole name or by city, in any case."""
    import difflib  # slow, and only needed for an error
    from zoneinfo import available_timezones

    wanted = text[:64].strip().replace(" ", "_").casefold()
    names = sorted(name for name in available_timezones() if name not in _NOT_ZONES)
    spellings: dict[str, list[str]] = {}
    for name in names:
        for spelling in {name.casefold(), name.rpartition("/")[2].casefold()}:
            spellings.setdefault(spelling, []).append(name)
    matches = difflib.get_close_matches(wanted, spellings, n=3, cutoff=0.7)
    return list(dict.fromkeys(name for match in matches for name in spellings[match]))[:3]


# Budgets


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit for a project over a window; its identity is (`project`, `per`). See `make_budget`.

    `limit_nanos` is in nano-dollars, `warn_at` in ascending percents of it, `action` one of ACTIONS.
    `floor_tokens`: what "clamp" never lowers `maxTokens` under. `wait_ms`: how long a call may wait for
    held money to come back before it is refused.
    """

    project: str
    per: str
    limit_nanos: int
    timezone: str
    action: str
    warn_at: tuple[int, ...]
    floor_tokens: int = 1
    wait_ms: int = 0

    @property
    def hard(self) -> bool:
        """True if a call without room is not sent as it is."""
        return self.action != "warn"

    @property
    def limit(self) -> Decimal:
        """The limit in USD, exactly."""
        return money.to_usd(self.limit_nanos)

    def __str__(self) -> str:
        return f"{self.project} in total" if self.per == "total" else f"{self.project} per {self.per}"


def make_budget(
    project: str,
    amount: str | int | Decimal,
    *,
    per: str = "month",
    timezone: str | None = None,
    warn_at: Iterable[int] | None = None,
    action: str | None = None,
    floor: int | None = None,
    wait: int | float | Decimal | None = None,
    old: Budget | None = None,
) -> Budget:
    """Build a budget from what a user states, checking every part.

    What is left out (None) is as in `old`, the budget that applied until then; in a new one: UTC, no thresholds,
    "block", a floor of 1 and no wait. `project` may be a default such as `acme/*`, see `parse_budget_project`.

    `amount` is in USD, 0 or more with at most 9 decimals (0 blocks all); a float raises TypeError.
    `warn_at` are whole percents of the limit, 1 to 1000, in any order. `floor` is in tokens, for the action
    "clamp"; `wait` in seconds, at most 600. Anything unusable raises ConfigurationError saying what was
    found and what to do.
    """
    kept = old or Budget("", "", 0, "UTC", "block", ())
    new_action = kept.action if action is None else _parse_choice(action, ACTIONS, "action")
    return Budget(
        project=parse_budget_project(project),
        per=_parse_choice(per, PERIODS, "per"),
        limit_nanos=money.parse_usd(amount),
        timezone=kept.timezone if timezone is None else parse_timezone(timezone),
        action=new_action,
        warn_at=kept.warn_at if warn_at is None else _parse_warn_at(warn_at),
        # Kept under another action, too: it is there when "clamp" comes back.
        floor_tokens=kept.floor_tokens if floor is None else _parse_floor(floor, new_action),
        wait_ms=kept.wait_ms if wait is None else _parse_wait(wait),
    )


def _parse_floor(floor: object, action: str) -> int:
    if isinstance(floor, bool) or not isinstance(floor, int) or not 1 <= floor <= FLOOR_TOKENS_MAX:
        raise ConfigurationError(f"floor: found {short(floor)}; use whole tokens from 1 to {FLOOR_TOKENS_MAX}")
    if floor != 1 and action != "clamp":
        raise ConfigurationError(f"floor: goes with the action 'clamp', not with {action!r}")
    return floor


def _parse_wait(wait: object) -> int:
    # Seconds are not money: a float is welcome, and kept in whole milliseconds.
    if isinstance(wait, bool) or not isinstance(wait, (int, float, Decimal)) or not 0 <= wait <= WAIT_S_MAX:
        raise ConfigurationError(f"wait: found {short(wait)}; use seconds from 0 to {WAIT_S_MAX}")
    return int(wait * 1000)


def _parse_choice(value: object, choices: tuple[str, ...], what: str) -> str:
    if isinstance(value, str) and value in choices:
        return choices[choices.index(value)]
    raise ConfigurationError(f"{what}: found {short(value)}; use one of {', '.join(choices)}")


def _parse_warn_at(percents: object) -> tuple[int, ...]:
    if isinstance(percents, (str, bytes)) or not isinstance(percents, Iterable):
        raise ConfigurationError(f"warn_at: expected whole percents such as (50, 80), found {short(percents)}")
    unique = set()
    for percent in percents:
        if isinstance(percent, bool) or not isinstance(percent, int) or not 1 <= percent <= WARN_PERCENT_MAX:
            raise ConfigurationError(
                f"warn_at: found {short(percent)}; use whole percents from 1 to {WARN_PERCENT_MAX}"
            )
        unique.add(percent)
    return tuple(sorted(unique))


def thresholds_crossed(spent_nanos: int, limit_nanos: int, warn_at: tuple[int, ...]) -> tuple[int, ...]:
    """The percents of `warn_at` that `spent_nanos` has reached, in the given order.

    Nothing spent crosses nothing; with a limit of 0 the first nano-dollar crosses all.
    """
    if spent_nanos <= 0:
        return ()
    return tuple(percent for percent in warn_at if spent_nanos * 100 >= percent * limit_nanos)


# Windows


class Window(NamedTuple):
    """A half-open span of time, in UTC epoch microseconds: `start_us <= t < end_us`.

    All time is `Window(0, None)`: `start_us` stays an integer because it is the window's key.
    """

    start_us: int
    end_us: int | None

    @property
    def start(self) -> datetime | None:
        """The first instant, in UTC; None for all time."""
        return None if self.end_us is None else from_us(self.start_us)

    @property
    def end(self) -> datetime | None:
        """The first instant after the window, in UTC; None for all time."""
        return None if self.end_us is None else from_us(self.end_us)


ALL_TIME = Window(0, None)
"""The one window of `total`: no instant is outside it."""

_Span = tuple[int, int, Window, str]  # start_us, end_us, the window, its first local date

# The last window seen of each (per, timezone). Entries are immutable and replaced whole, so
# threads that race only compute a window twice.
_recent: dict[tuple[str, str], _Span] = {}


def window_at(per: str, timezone: str, at_us: int) -> Window:
    """The calendar window of the kind `per` in the zone `timezone` that contains the instant `at_us`.

    Weeks begin on Monday (ISO 8601), quarters in January, April, July and October. A day begins at
    its first instant: the earliest one at which the zone's clocks show that date or a later one.
    So windows of one kind tile time also where midnight is skipped or comes twice. `task` has no
    window (ValueError); an unknown zone raises ConfigurationError.
    """
    if per == "total":
        return ALL_TIME
    span = _recent.get((per, timezone))
    if span is None or not span[0] <= at_us < span[1]:
        span = _find_span(per, timezone, at_us)
    return span[2]


def day_of(timezone: str, at_us: int) -> str:
    """The local day that contains the instant `at_us`, as `YYYY-MM-DD`, by the `day` windows.

    Where clocks fall back over midnight, the repeated hour belongs to the day already begun.
    """
    return day_at(timezone, at_us)[0]


def day_at(timezone: str, at_us: int) -> tuple[str, Window]:
    """As `day_of`, with the day's window."""
    span = _recent.get(("day", timezone))
    if span is None or not span[0] <= at_us < span[1]:
        span = _find_span("day", timezone, at_us)
    return span[3], span[2]


def is_like(per: str, window: Window) -> bool:
    """True if `window` is as long as a `per` can be in any zone, however its rules change, and on whole seconds."""
    if window.end_us is None or per == "total":
        return per == "total" and window == ALL_TIME
    shortest, longest = _DAYS.get(per, (0, 0))
    edges = window.start_us % _SECOND_US == window.end_us % _SECOND_US == 0
    return edges and shortest * _DAY_US < window.end_us - window.start_us <= longest * _DAY_US


def month_bounds(month: str, timezone: str) -> Window:
    """The window of a calendar month, written `YYYY-MM`, in the zone `timezone`."""
    first, following = _month(month)
    return Window(_first_instant(timezone, first), _first_instant(timezone, following))


def month_days(month: str) -> tuple[str, str]:
    """The first day of a calendar month, written `YYYY-MM`, and of the one after it: ISO dates."""
    first, following = _month(month)
    return first.isoformat(), following.isoformat()


def first_instant(timezone: str, day: date) -> int:
    """When a day begins in a zone: the first instant at which its clocks show that date or a later one."""
    return _first_instant(timezone, day)


def _month(month: str) -> tuple[date, date]:
    match = _MONTH.fullmatch(month) if isinstance(month, str) else None
    if match is None:
        raise ConfigurationError(f"month: found {short(month)}; write year and month as '2026-11'")
    year = int(match[1])
    if not YEAR_MIN <= year <= YEAR_MAX:
        raise ConfigurationError(f"month: found {month!r}; use a year from {YEAR_MIN} to {YEAR_MAX}")
    return _dates("month", date(year, int(match[2]), 1))


def _find_span(per: str, timezone: str, at_us: int) -> _Span:
    zone = ZoneInfo(parse_timezone(timezone))
    first, following = _dates(per, from_us(at_us).astimezone(zone).date())
    # Clocks that fell back over midnight show the day before again: its window has ended already.
    while at_us >= (end_us := _first_instant(timezone, following)):
        first, following = _dates(per, following)
    start_us = _first_instant(timezone, first)
    span = (start_us, end_us, Window(start_us, end_us), first.isoformat())
    if len(_recent) >= _RECENT_MAX:
        _recent.clear()
    _recent[per, timezone] = span
    return span


def _dates(per: str, day: date) -> tuple[date, date]:
    """The first day of the period that contains `day`, and the first day of the next one."""
    if per == "day":
        return day, day + timedelta(days=1)
    if per == "week":
        monday = day - timedelta(days=day.weekday())
        return monday, monday + timedelta(days=7)
    months = {"month": 1, "quarter": 3, "year": 12}.get(per)
    if months is None:
        raise ValueError(f"a budget per {per!r} has no window; windows are {', '.join(PERIODS[1:])}")
    begun = (day.month - 1) // months * months  # whole months of the year before the period
    years, next_begun = divmod(begun + months, 12)
    return date(day.year, begun + 1, 1), date(day.year + years, next_begun + 1, 1)


@lru_cache(maxsize=4096)
def _first_instant(timezone: str, day: date) -> int:
    """The first instant at which clocks of the zone show `day` or a later date."""
    zone = ZoneInfo(parse_timezone(timezone))
    midnight = datetime.combine(day, time.min)
    # PEP 495: where midnight comes twice, fold=0 is its first time; where it is skipped, fold=0
    # reads it by the offset before the change (an instant after it) and fold=1 the other way round.
    early = to_us(midnight.replace(tzinfo=zone, fold=1))
    late = to_us(midnight.replace(tzinfo=zone, fold=0))
    if early >= late:
        return late
    # Skipped: the change lies in (early, late], on a whole second, and it is the first instant.
    seconds = range(early, late, _SECOND_US)
    skipped = bisect_left(
        seconds, True, key=lambda at_us: from_us(at_us).astimezone(zone).replace(tzinfo=None) >= midnight
    )
    return early + skipped * _SECOND_US
