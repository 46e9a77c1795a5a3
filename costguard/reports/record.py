"""A statement as programs read it: everything, nested and by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from costguard.ledger.records import UsageRow
from costguard.reports import made, notes, sections
from costguard.reports.amounts import Amounts, percent
from costguard.reports.document import Row
from costguard.reports.facts import Statement
from costguard.reports.forecast import Forecast

CURRENCY = "USD"


def record(found: Statement, amounts: Amounts, rows: Sequence[Row], depth: int | None) -> dict[str, Any]:
    """All of a statement. Money is USD, a percentage a decimal number, an unknown None."""
    period, read = found.period, found.found
    return {
        "month": period.name if period.kind == "month" else None,
        "period": period.name,
        "since": period.first.isoformat(),
        "until": period.end.isoformat(),
        "is_over": found.is_over,
        "currency": CURRENCY,
        "rounded": amounts.round_to,
        "timezone": found.timezone,
        "project": found.project,
        "tags": dict(found.tags),
        "by": list(found.columns),
        "total": amounts.usd(found.total),
        "tasks": found.tasks,
        "tokens": sections.known_tokens(found.tokens, found.total),
        "rows": rows,
        "before": _before(found, amounts),
        "forecast": _forecast(found, amounts),
        "budgets": _budgets(found, amounts),
        "over_time": _over_time(found, amounts),
        "projects": _projects(found, amounts, depth),
        "models": _grouped(found, amounts, "model"),
        "components": _grouped(found, amounts, "modality"),
        "task_types": _grouped(found, amounts, "task_type"),
        "made": made.rows(found, amounts),
        "top": [
            {
                "task_uuid": one.task_uuid, "project": one.project, "model": one.model, "task_type": one.task_type,
                "tags": json.loads(one.tags), "attempts": one.attempts,
                "admitted_at": sections.at_zone(one.at_us, found.timezone), "cost": amounts.usd(one.nanos),
            }
            for one in read.top
        ],
        "refused": _refused(found, amounts),
        "bases": {one["basis"]: one["cost"] for one in _grouped(found, amounts, "basis")},
        "unresolved": {"tasks": read.open.tasks, "held": amounts.usd(read.open.held)},
        **_doubts(found, amounts),
        "ledger_began": None if found.began is None else found.began.isoformat(),
        "is_known": read.is_known,
        "as_of": found.at,
    }  # fmt: skip


def _before(found: Statement, amounts: Amounts) -> dict[str, Any] | None:
    before = found.before
    if before is None:
        return None
    total, same = before.total, before.same_total
    compared = same if before.is_partial or not found.is_over else total
    return {
        "period": before.period.name,
        "since": before.period.first.isoformat(),
        "until": before.period.end.isoformat(),
        "total": None if total is None else amounts.usd(total),
        "same_days": before.same_days,
        "same_total": None if same is None else amounts.usd(same),
        "is_partial": before.is_partial,
        "change": None if compared is None else amounts.difference(found.total, compared),
        "change_percent": None if compared is None else percent(found.total - compared, compared),
    }


def _forecast(found: Statement, amounts: Amounts) -> dict[str, Any]:
    ahead = found.forecast
    if isinstance(ahead, Forecast):
        sums = {name: amounts.usd(getattr(ahead, name)) for name in ("expected", "least", "most")}
        return {
            **sums,
            "days": ahead.days,
            "method": notes.method(ahead, amounts),
            "limited_by": ahead.limited_by,
            "unlimited": None if ahead.unlimited is None else amounts.usd(ahead.unlimited),
            "reason": None,
        }
    names = ("expected", "least", "most", "days", "method", "limited_by", "unlimited")
    return {**dict.fromkeys(names), "reason": ahead.reason}


def _refused(found: Statement, amounts: Amounts) -> list[dict[str, Any]]:
    refused = found.found.refused
    costs = sections.known_parts(amounts, [one.expected for one in refused])
    uppers = sections.known_parts(amounts, [one.upper for one in refused])
    return [
        {**one._asdict(), "expected": cost, "upper": upper}
        for one, cost, upper in zip(refused, costs, uppers, strict=True)
    ]


def _budgets(found: Statement, amounts: Amounts) -> list[dict[str, Any]]:
    return [
        {
            "project": one.name,
            "per": one.budget.per,
            "action": one.budget.action,
            "timezone": one.budget.timezone,
            "window": sections.window_text(one),
            "window_start": None
            if one.window.end_us is None
            else sections.at_zone(one.window.start_us, found.timezone),
            "window_end": None if one.window.end_us is None else sections.at_zone(one.window.end_us, found.timezone),
            "limit": one.budget.limit,
            "spent": amounts.usd(one.spent),
            "held": amounts.usd(one.held),
            "used_percent": sections.used_percent(one),
            "is_closed": one.is_closed,
            "is_removed": one.is_removed,
        }
        for one in found.found.budgets
    ]


def _over_time(found: Statement, amounts: Amounts) -> list[Row]:
    costs = amounts.parts([nanos for _, nanos, _ in found.parts])
    return [
        {
            "period": part.name,
            "since": part.first.isoformat(),
            "until": part.end.isoformat(),
            "tasks": tasks,
            "cost": cost,
        }
        for (part, _, tasks), cost in zip(found.parts, costs, strict=True)
    ]


def _projects(found: Statement, amounts: Amounts, depth: int | None) -> list[dict[str, Any]]:
    has_before = found.before is not None and found.before.total is not None
    return [
        {
            "project": node.project,
            "depth": node.depth,
            "tasks": node.tasks,
            "tokens": sections.known_tokens(node.tokens, node.nanos),
            "cost": cost,
            "own": own,
            "before": before if has_before else None,
            "own_before": own_before if has_before else None,
        }
        for node, cost, own, before, own_before in sections.shown_nodes(found, amounts, depth)
    ]


def _grouped(found: Statement, amounts: Amounts, group: str) -> list[Row]:
    names = ["component", "modality"] if group == "modality" else [group]

    def one(usage: UsageRow, cost: Decimal) -> dict[str, Any]:
        keys = {name: key or None for name, key in zip(names, usage.keys, strict=True)}
        tokens = sections.known_tokens(usage.tokens, usage.nanos)
        return {**keys, "tasks": usage.tasks, "tokens": tokens, "cost": cost}

    found_rows = found.by(group)
    return list(map(one, found_rows, amounts.parts([usage.nanos for usage in found_rows])))


def _doubts(found: Statement, amounts: Amounts) -> dict[str, Any]:
    components = {one.keys[0]: one for one in found.by("component")}
    costs: dict[str, Decimal] = {}
    for row in _grouped(found, amounts, "modality"):
        costs[row["component"]] = costs.get(row["component"], Decimal(0)) + row["cost"]
    none = amounts.usd(0)
    reasoning = sum(one.reasoning for one in components.values())
    completion = components["completion"].tokens if "completion" in components else 0
    priced, computed = sum(one.priced for one in found.rows), sum(one.computed for one in found.rows)
    return {
        "reasoning": {
            "tokens": reasoning,
            "completion_tokens": completion,
            "percent": percent(reasoning, completion),
        },
        "rounding": costs.get("rounding", none),
        "unexplained": costs.get("unexplained", none),
        "drift": {
            "charged": amounts.usd(priced),
            "own_price": amounts.usd(computed),
            "difference": amounts.difference(priced, computed),
        },
    }
