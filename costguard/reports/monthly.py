"""The monthly statement: what a month's tasks were charged, grouped, with what is still open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

from costguard import money
from costguard.budgets import from_us, month_bounds, month_days, parse_timezone
from costguard.projects import parse_project

if TYPE_CHECKING:
    from costguard.ledger.accounting.book import Ledger
    from costguard.ledger.records import UsageRow

CURRENCY = "USD"

PROVIDER_BASES = ("breakdown", "cost")
"""Bases whose figure the provider stated; charges on any other basis are ours, and a report says so."""

_READS_MAX = 5


class ReportRow(NamedTuple):
    """One group: its keys by name, distinct tasks, tokens (None if unknown) and USD.

    A key is None where it does not apply, as the modality of a completion.
    """

    keys: Mapping[str, str | None]
    tasks: int
    tokens: int | None
    cost: Decimal


class Unresolved(NamedTuple):
    """The month's tasks whose outcome is not known yet, and the USD held for them (their worst case)."""

    tasks: int
    held: Decimal


@dataclass(frozen=True, slots=True)
class MonthlyReport:
    """What the tasks admitted in `month` (`YYYY-MM` in `timezone`) were charged, in USD, by `as_of`.

    The costs of `rows` sum to `total`, exactly. `columns` are the names of their keys, in order; `tasks`
    counts distinct tasks, which rows may share. `bases` splits `total` by where its figures came from.
    `project` is None for all projects.
    """

    month: str
    timezone: str
    project: str | None
    columns: tuple[str, ...]
    rows: tuple[ReportRow, ...]
    total: Decimal
    tasks: int
    tokens: int | None
    bases: Mapping[str, Decimal]
    unresolved: Unresolved
    as_of: datetime


def monthly(
    ledger: Ledger,
    month: str,
    *,
    project: str | None = None,
    by: Sequence[str] = ("project",),
    timezone: str | None = None,
    at_us: int,
) -> MonthlyReport:
    """Read the report of `month` (`YYYY-MM`), as of `at_us` (UTC microseconds), from `ledger`.

    `project` includes what lies below it; `by` is any of project, model, modality (which gives two keys,
    component and modality) and day. `timezone` is the ledger's reporting zone by default, and then the
    ledger's daily roll-ups are read; for another zone those by quarters of an hour.
    ConfigurationError names an argument that cannot be used, LedgerError what cannot be read.
    """
    from costguard.ledger.accounting.spending import group_columns

    zone = ledger.timezone if timezone is None else parse_timezone(timezone)
    window = month_bounds(month, zone)
    start_us, end_us = window.start_us, window.end_us or 0  # a month has an end
    path = None if project is None else parse_project(project)
    columns = group_columns(by)

    def usage(groups: Sequence[str]) -> list[UsageRow]:
        if zone == ledger.timezone:
            return ledger.usage(groups, *month_days(month), path)
        return ledger.usage_in(groups, zone, start_us, end_us, path)

    # Each read is a snapshot of its own: where a charge came in between, read again.
    for _ in range(_READS_MAX):
        bases = usage(("basis",))
        open_attempts = ledger.open_attempts(path or "/", window)
        rows = usage(by)
        whole = usage(())
        nanos = sum(row.nanos for row in rows)
        if nanos == sum(row.nanos for row in whole) == sum(row.nanos for row in bases):
            break

    return MonthlyReport(
        month=month,
        timezone=zone,
        project=path,
        columns=tuple(columns),
        rows=tuple(
            ReportRow(
                {column: key or None for column, key in zip(columns, row.keys, strict=True)},
                row.tasks,
                _known(row.tokens, row.nanos),
                money.to_usd(row.nanos),
            )
            for row in rows
        ),
        total=money.to_usd(nanos),
        tasks=sum(row.tasks for row in whole),
        tokens=_known(sum(row.tokens for row in whole), nanos),
        bases={row.keys[0]: money.to_usd(row.nanos) for row in bases},
        unresolved=Unresolved(
            len({attempt.task_uuid for attempt in open_attempts}),
            money.to_usd(sum(attempt.held for attempt in open_attempts)),
        ),
        as_of=from_us(at_us).astimezone(ZoneInfo(zone)),
    )


def _known(tokens: int, nanos: int) -> int | None:
    """Tokens of a group; None where money was charged and no token was itemized."""
    return None if nanos and not tokens else tokens
