"""Reports: what was spent (`facts`), stated as a neutral `document`, and the `formats` that write it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from costguard.guard import Guard
    from costguard.reports.document import Document


def report(
    guard: Guard,
    period: str | None = None,
    *,
    by: Iterable[str] = (),
    per: str | None = None,
    project: str | None = None,
    tags: Mapping[str, str] | None = None,
    timezone: str | None = None,
    top: int = 0,
) -> Document:
    """What `costguard report` tells, for a notebook: it shows as tables, and `to_frame()` gives its rows.

    `period`: `2026-11`, `2026-Q4`, `2026`, `last month` (quarter, year, week) or `last 30 days`; this month if it is
    None. The others are the command's options. ConfigurationError names one that cannot be used, LedgerError what
    cannot be read.
    """
    from datetime import date

    from costguard.budgets import day_of
    from costguard.reports import facts, periods, statement

    at_us = guard.now_us()
    today = date.fromisoformat(day_of(timezone or guard.ledger.timezone, at_us))
    found = facts.state(
        guard.ledger,
        periods.named(period, today),
        at_us=at_us,
        by=tuple(by),
        per=per,
        project=project,
        tags=tags,
        timezone=timezone,
        top=top,
    )
    return statement.document(found)
