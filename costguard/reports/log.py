"""The time line of what happened beside the calls, as a document."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from zoneinfo import ZoneInfo

from costguard import money
from costguard.budgets import from_us
from costguard.ledger.accounting.history import Event
from costguard.reports.document import Column, Document, Table, usd
from costguard.rows import visible

KEYS = ("at", "what", "change", "who", "project", "about", "amount", "before", "limit", "details", "reason")

_WRITTEN = ("about", "reason")
"""What may have control characters in it, as names of files do."""


def document(events: Iterable[Event], timezone: str) -> Document:
    """All events, oldest first, at the times of a zone."""
    zone = ZoneInfo(timezone)
    rows = [_row(event, zone) for event in events]
    columns = (
        Column("at", "At", whole=True),
        Column("who", "Who"),
        Column("told", "What happened", least=30),
    )
    people = [{**row, "told": _sentence(row)} for row in rows]
    stacked = Table(
        (Column("when", "At, who", least=24), Column("told", "What happened", least=30)),
        [{"when": f"{row['at']:%Y-%m-%d %H:%M}\n{row['who'] or ''}".rstrip(), "told": row["told"]} for row in people],
    )
    parts = (Table(columns, people, stacked=stacked),) if rows else ("Nothing happened that the log tells.",)
    flat = [{**row, **{key: visible(row[key]) for key in _WRITTEN if row[key]}} for row in rows]
    return Document({"timezone": timezone, "events": rows}, KEYS, flat, parts)


def _row(event: Event, zone: ZoneInfo) -> dict[str, Any]:
    return {
        "at": from_us(event.at_us).astimezone(zone),
        "what": event.what,
        "change": event.change,
        "who": event.who,
        "project": event.project,
        "about": event.about,
        "amount": _usd(event.amount),
        "before": _usd(event.before),
        "limit": _usd(event.limit),
        "details": _details(event),
        "reason": event.reason,
    }


def _usd(nanos: int | None) -> Any:
    return None if nanos is None else money.to_usd(nanos)


def _details(event: Event) -> str | None:
    """What a budget was set to beside its limit, and what an import came to."""
    if event.budget is not None:
        budget = event.budget
        alerts = f", alerts at {', '.join(map(str, budget.warn_at))} %" if budget.warn_at else ""
        return f"{budget.timezone}, {budget.action}{alerts}"
    row = event.imported
    if row is not None:
        return f"{row.results:,} results of {row.tasks:,} tasks, {row.lines:,} lines, {row.bad:,} of them bad"
    return None


def _sentence(row: dict[str, Any]) -> str:
    """An event in words."""
    change, amount = row["change"], row["amount"]
    before = "" if row["before"] is None else f", before {usd(row['before'])}"
    reason = f": {row['reason']}" if row["reason"] else ""
    match row["what"]:
        case "alert":
            passed = f"passed {change}" if change.endswith("%") else "refused its first call"
            spent = "" if amount is None else f": {usd(amount)} of {usd(row['limit'])} USD spent"
            return f"budget {row['project']} per {row['about']} {passed}{spent}"
        case "budget":
            to = f" to {usd(amount)} USD{before} ({row['details']})" if amount is not None else before
            return f"budget {row['project']} per {row['about']} {change}{to}"
        case "ceiling":
            to = f" to {usd(amount)} USD a result{before}" if amount is not None else before
            return f"ceiling of {row['about']} {change}{to}"
        case "correction":
            by = "" if amount is None else f" {usd(amount)} USD"
            return f"task {row['about']} of {row['project']} {change}{by}{reason}"
        case "import":
            return f"{row['about']} imported on {row['project']}, {row['details']}: {usd(amount)} USD"
        case _:
            return f"project {row['project']} is shown as {row['about']}"
