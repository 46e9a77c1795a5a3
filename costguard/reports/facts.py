"""What a statement is made of: one snapshot of the ledger, with the period before it and where it will end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

from costguard.budgets import YEAR_MIN, day_of, from_us, parse_timezone
from costguard.ledger.accounting.reporting import Asked
from costguard.ledger.accounting.spending import Span, group_columns, grouped
from costguard.ledger.records import UsageRow
from costguard.projects import parse_project, parse_tags
from costguard.reports import periods
from costguard.reports.forecast import HISTORY_DAYS, Forecast, NoForecast, forecast
from costguard.reports.periods import Period

if TYPE_CHECKING:
    from costguard.ledger.accounting.applied import BudgetWindow
    from costguard.ledger.accounting.book import Ledger
    from costguard.ledger.accounting.reporting import Reported

_DAYS_SHOWN, _WEEKS_SHOWN = 62, 371
"""Periods up to so many days are shown by day, then by week, longer ones by month."""


class Before(NamedTuple):
    """The period before: its total in nano-USD, and of its first `same_days` days, as many as have begun of this one.

    `total` is None where the ledger knows nothing of it; `is_partial`: the ledger began in it, and nothing is compared.
    """

    period: Period
    total: int | None
    same_days: int
    same_total: int | None
    is_partial: bool
    projects: Mapping[str, int]
    """Of each project, of the whole period before."""


@dataclass(frozen=True, slots=True)
class Statement:
    """All that is stated of a period. Money in nano-USD; `rows` sum to `total`, and so does every other grouping."""

    period: Period
    timezone: str
    project: str | None
    asked_project: str | None
    """As it was asked for: another name than `project` if it was renamed."""
    tags: Mapping[str, str]
    columns: tuple[str, ...]
    rows: Sequence[UsageRow]
    total: int
    tasks: int
    tokens: int
    before: Before | None
    per: str
    """What `parts` are: day, week or month."""
    parts: Sequence[tuple[Period, int, int]]
    """The period in days, weeks or months, with the nano-USD and tasks of each."""
    forecast: Forecast | NoForecast
    found: Reported
    at: datetime
    """When it was read, in `timezone`."""
    days_passed: int
    began: date | None
    """The first day of the ledger, in `timezone`."""

    @property
    def is_over(self) -> bool:
        """Whether all of its days are past."""
        return self.at.date() >= self.period.end

    def by(self, *groups: str) -> list[UsageRow]:
        """What was spent by other groups that a leaf has, or by a tag of the tagged tasks and the rest."""
        if any(group.startswith("tag:") for group in groups):
            return grouped(self.found.tagged, groups)
        return grouped(self.found.leaves, groups)


def state(
    ledger: Ledger,
    period: Period,
    *,
    at_us: int,
    by: Sequence[str] = (),
    per: str | None = None,
    project: str | None = None,
    tags: Mapping[str, str] | None = None,
    timezone: str | None = None,
    top: int = 0,
) -> Statement:
    """Read the statement of `period`, as of `at_us` (UTC microseconds), from one snapshot of `ledger`.

    `by`: groups of its rows, see `spending.group_columns`; by project if neither they nor `per` (day, week or month)
    are given. `project` includes what lies below it, `tags` are those that a task must have, `top` is how many of the
    most expensive tasks are looked for. `timezone` is the ledger's own by default. ConfigurationError names an argument
    that cannot be used, LedgerError what cannot be read.
    """
    zone = ledger.timezone if timezone is None else parse_timezone(timezone)
    path = None if project is None else parse_project(project)
    groups = [*([per] if per else []), *by] or ["project"]
    today = date.fromisoformat(day_of(zone, at_us))
    earlier = period.before()
    passed = period.passed(today)
    history = max(min(period.first, today - timedelta(days=HISTORY_DAYS)), date(YEAR_MIN, 1, 1))
    is_running = period.first <= today < period.end
    asked = Asked(
        span=period.span(zone),
        by=groups,
        project=path,
        tags=parse_tags(tags or {}),
        before=earlier.span(zone) if earlier else None,
        before_same=(earlier and passed and earlier.beginning(passed).span(zone)) or None,
        days=Period("days", period.name, history, period.end).span(zone) if is_running else None,
        top=top,
        all_tags=groups == ["project"],
    )
    found = ledger.report(asked, at_us)
    began = None if found.began_us is None else date.fromisoformat(day_of(zone, found.began_us))
    (whole,) = grouped(found.leaves, ()) or [UsageRow((), 0, 0, 0)]
    shown_per = per or ("day" if period.days <= _DAYS_SHOWN else "week" if period.days <= _WEEKS_SHOWN else "month")
    by_day = {date.fromisoformat(day): sums for day, sums in found.days.items()}
    return Statement(
        period=period,
        timezone=zone,
        project=found.project,
        asked_project=path,
        tags=asked.tags,
        columns=tuple(group_columns(groups)),
        rows=found.rows,
        total=whole.nanos,
        tasks=whole.tasks,
        tokens=whole.tokens,
        before=_before(earlier, began, found, min(passed, earlier.days)) if earlier else None,
        per=shown_per,
        parts=_parts(shown_per, period, min(period.end, today + timedelta(days=1)), by_day),
        forecast=_limited(
            forecast(
                whole.nanos,
                {day: nanos for day, (nanos, _) in by_day.items()},
                first=period.first,
                end=period.end,
                today=today,
                began=began,
            ),
            whole.nanos,
            asked.span,
            found.budgets,
        ),
        found=found,
        at=from_us(at_us).astimezone(ZoneInfo(zone)),
        days_passed=passed,
        began=began,
    )


def budget_text(one: BudgetWindow) -> str:
    """A budget as people call it, by its project's present name."""
    return f"{one.name} in total" if one.budget.per == "total" else f"{one.name} per {one.budget.per}"


def _limited(
    ahead: Forecast | NoForecast, spent: int, span: Span, budgets: Sequence[BudgetWindow]
) -> Forecast | NoForecast:
    """With what the hard budget of the same window that has least left lets through, if all that is reported counts
    in it.
    """
    room = [
        (max(one.budget.limit_nanos - one.spent, 0), budget_text(one))
        for one in budgets
        if one.is_of_all
        and one.budget.hard
        and not one.is_removed
        and (one.window.start_us, one.window.end_us) == (span.start_us, span.end_us)
    ]
    if isinstance(ahead, NoForecast) or not room:
        return ahead
    left, by = min(room)
    return ahead.limited(by, spent + left)


def _before(period: Period, began: date | None, found: Reported, same_days: int) -> Before:
    projects = {row.keys[0]: row.nanos for row in found.before or ()}
    total, same = sum(projects.values()), found.before_same
    if began is None or began >= period.end:
        return Before(period, None, same_days, None, is_partial=False, projects={})
    is_partial = began > period.first
    return Before(period, total, same_days, None if is_partial else same, is_partial=is_partial, projects=projects)


def _parts(
    per: str, period: Period, until: date, by_day: Mapping[date, tuple[int, int]]
) -> list[tuple[Period, int, int]]:
    """The period, as far as it has begun or something was spent in it, cut into parts."""
    inside = {day: sums for day, sums in by_day.items() if period.first <= day < period.end}
    end = max([until, *(day + timedelta(days=1) for day in inside)])
    found = []
    for part in periods.parts(per, period.first, end):
        sums = [inside[day] for day in inside if part.first <= day < part.end]
        found.append((part, sum(nanos for nanos, _ in sums), sum(tasks for _, tasks in sums)))
    return found
