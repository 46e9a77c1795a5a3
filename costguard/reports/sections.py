"""The parts of a statement, one by one: its figures, tables and charts, and what must be said of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from costguard.budgets import from_us
from costguard.ledger.accounting.applied import BudgetWindow
from costguard.ledger.records import UsageRow
from costguard.reports.amounts import REMAINDER, Amounts, percent
from costguard.reports.document import Chart, Column, Figure, Figures, Heading, Part, Point, Row, Table, usd
from costguard.reports.facts import Statement
from costguard.reports.forecast import Forecast
from costguard.reports.tree import Node, flat, tree

VALUES_MAX = 20
"""Models, values of a tag and the like that a table of the whole statement names; the rest are one row."""

WINDOWS_MAX = 6
"""Windows of one budget that are shown one by one; of more, the fullest."""

TASKS, TOKENS = Column("tasks", "Tasks", number=True), Column("tokens", "Tokens", number=True)
COST = Column("cost", "Cost USD", number=True)
NUMBERS = (TASKS, TOKENS, COST)

_TITLES = {"task_type": "Kind of task"}


def column(name: str) -> Column:
    """The column of a group."""
    return Column(name, _TITLES.get(name) or (name.capitalize() if ":" not in name else name))


def row(found: Statement, one: UsageRow, amounts: Amounts) -> Row:
    """One of the statement's rows by its keys' names."""
    keys = {name: key or None for name, key in zip(found.columns, one.keys, strict=True)}
    return {**keys, **_numbers(one, amounts)}


def total(found: Statement, amounts: Amounts) -> dict[str, Any]:
    """The row of a table's total."""
    return {
        "tasks": found.tasks,
        "tokens": known_tokens(found.tokens, found.total),
        "cost": amounts.usd(found.total),
    }


def known_tokens(tokens: int, nanos: int) -> int | None:
    """Tokens of a group; None where money was charged and no token was itemized."""
    return None if nanos and not tokens else tokens


def _numbers(one: UsageRow, amounts: Amounts) -> dict[str, Any]:
    return {
        "tasks": one.tasks,
        "tokens": known_tokens(one.tokens, one.nanos),
        "reasoning": one.reasoning if one.tokens or not one.nanos else None,
        "cost": amounts.usd(one.nanos),
    }


def figures(found: Statement, amounts: Amounts) -> Figures:
    """The headline: the total, where it will end, what it was before, what may be added."""
    passed = "" if found.is_over else f"{found.days_passed} of {found.period.days} days"
    items = [Figure("Total", amounts.usd(found.total), "USD", passed)]
    ahead = found.forecast
    if isinstance(ahead, Forecast):
        note = f"between {usd(amounts.usd(ahead.least))} and {usd(amounts.usd(ahead.most))}"
        items.append(Figure("Expected at the end", amounts.usd(ahead.expected), "USD", note))
    before = found.before
    if before is not None and before.total is not None:
        note = f"of which the ledger knows from {found.began} on" if before.is_partial else ""
        if not found.is_over and before.same_total is not None and found.days_passed:
            note = f"{usd(amounts.usd(before.same_total))} in its first {before.same_days} days"
        items.append(Figure(before.period.name, amounts.usd(before.total), "USD", note))
    full = max(found.found.budgets, key=_used, default=None)
    if full is not None and full.budget.limit_nanos:
        level = Point("", Decimal(full.spent), Decimal(full.budget.limit_nanos)).level
        items.append(Figure("Fullest budget", used_percent(full), "%", budget_text(full), level))
    if found.found.open.tasks:
        items.append(
            Figure(
                "May be added", amounts.usd(found.found.open.held), "USD", count(found.found.open.tasks, "open task")
            )
        )
    refusals = found.found.refused
    if refusals:
        expected = amounts.usd(sum(one.expected for one in refusals))
        items.append(Figure("Refused", expected, "USD", count(sum(one.tasks for one in refusals), "task")))
    return Figures(items)


def budgets(found: Statement, amounts: Amounts) -> Chart | None:
    """Every budget that applied, with its windows; None if there was none."""
    shown = [one for windows in _by_budget(found.found.budgets).values() for one in _some(windows)]
    if not shown:
        return None
    rows, points = [], []
    for one, of in shown:
        name = budget_text(one)
        window = window_text(one)
        rows.append(
            {
                "budget": name,
                "window": window + (f", the fullest of {of}" if of > 1 else ""),
                "limit": one.budget.limit,
                "spent": amounts.usd(one.spent),
                "held": amounts.usd(one.held),
                "used": used_percent(one),
            }
        )
        points.append(Point(f"{name}, {window}", amounts.usd(one.spent), one.budget.limit))
    columns = (
        Column("budget", "Budget"), Column("window", "Window"), Column("limit", "Limit USD", number=True),
        Column("spent", "Spent", number=True), Column("held", "Held", number=True),
        Column("used", "%", number=True),
    )  # fmt: skip
    return Chart("gauges", "", points, Table(columns, rows))


def _by_budget(windows: Sequence[BudgetWindow]) -> dict[tuple[str, str], list[BudgetWindow]]:
    found: dict[tuple[str, str], list[BudgetWindow]] = {}
    for one in windows:
        found.setdefault((one.budget.project, one.budget.per), []).append(one)
    return found


def _some(windows: Sequence[BudgetWindow]) -> list[tuple[BudgetWindow, int]]:
    """Each with 1, or the fullest with how many there are."""
    if len(windows) <= WINDOWS_MAX:
        return [(one, 1) for one in windows]
    return [(max(windows, key=_used), len(windows))]


def _used(one: BudgetWindow) -> tuple[bool, Decimal, int]:
    return one.budget.limit_nanos > 0, used_percent(one) or Decimal(0), one.spent


def used_percent(one: BudgetWindow) -> Decimal | None:
    """What was spent in percent of the limit, down to a tenth as alerts count it; None of a limit of 0."""
    limit = one.budget.limit_nanos
    return Decimal(one.spent * 1000 // limit).scaleb(-1) if limit else None


def budget_text(one: BudgetWindow) -> str:
    """A budget as people call it, by its project's present name."""
    return f"{one.name} in total" if one.budget.per == "total" else f"{one.name} per {one.budget.per}"


def window_text(one: BudgetWindow) -> str:
    """A budget's window as people write it: its month, quarter, year or day; the week's Monday."""
    if one.window.end_us is None:
        return "all time"
    first = from_us(one.window.start_us).astimezone(ZoneInfo(one.budget.timezone)).date()
    match one.budget.per:
        case "month":
            return f"{first:%Y-%m}"
        case "quarter":
            return f"{first.year}-Q{(first.month + 2) // 3}"
        case "year":
            return f"{first.year}"
    return first.isoformat()


def over_time(found: Statement, amounts: Amounts) -> Chart:
    """The period's days, weeks or months."""
    rows = [{"when": part.name, "tasks": tasks, "cost": amounts.usd(nanos)} for part, nanos, tasks in found.parts]
    points = [Point(part.name, amounts.usd(nanos)) for part, nanos, _ in found.parts]
    rows = [dict(one) for one in amounts.with_remainder(rows, [nanos for _, nanos, _ in found.parts], ("when",))]
    columns = (Column("when", found.per.capitalize()), TASKS, COST)
    last = {"when": "total", "tasks": found.tasks, "cost": amounts.usd(found.total)}
    return Chart("columns", "", points, Table(columns, rows, last))


def nodes(found: Statement) -> list[Node]:
    """The outermost projects of the tree."""
    before = found.before.projects if found.before else {}
    return tree(found.by("project"), before, found.project)


def projects(found: Statement, amounts: Amounts, depth: int | None) -> Chart:
    """Projects as a tree, each with all below it; what is booked on one that has others below it stands under it."""
    outermost = nodes(found)
    rows: list[dict[str, Any]] = []
    points = []
    has_before = found.before is not None and found.before.total is not None
    for node in flat(outermost, depth):
        text = "  " * (node.depth - 1) + (node.project if node.depth == 1 else node.name)
        rows.append({"project": text, **_node(node, found, amounts)})
        points.append(Point(node.project, amounts.usd(node.nanos)))
        is_open = node.below and (depth is None or node.depth < depth)
        if is_open and node.has_own:
            own = Node(node.project, 0, node.own, tasks=node.own_tasks, tokens=node.own_tokens, before=node.own_before)
            rows.append({"project": f"{'  ' * node.depth}(itself)", **_node(own, found, amounts)})
            points.append(Point(f"{node.project} (itself)", amounts.usd(node.own)))
    missing = amounts.remainder(node.nanos for node in outermost)
    if missing:
        rows.append({**dict.fromkeys(rows[0]), "project": REMAINDER, "cost": Amounts().usd(missing)})
        points.append(Point(REMAINDER, Amounts().usd(missing)))
    last = {"project": "total", **total(found, amounts)}
    columns = [Column("project", "Project"), TASKS, TOKENS, COST, Column("share", "%", number=True)]
    if has_before and found.before is not None:
        columns.append(Column("before", found.before.period.name, number=True))
        last["before"] = amounts.usd(found.before.total or 0)
    return Chart("bars", "", points, Table(columns, rows, last))


def _node(node: Node, found: Statement, amounts: Amounts) -> dict[str, Any]:
    return {
        "tasks": node.tasks,
        "tokens": known_tokens(node.tokens, node.nanos),
        "cost": amounts.usd(node.nanos),
        "share": percent(node.nanos, found.total),
        "before": amounts.usd(node.before),
    }


def grouping(found: Statement, groups: Sequence[str], amounts: Amounts) -> Chart:
    """What was spent by some groups, the most expensive first, those that cost little as one row."""
    rows = sorted(found.by(*groups), key=lambda one: (-one.nanos, one.keys))
    names = ["component", "modality"] if groups == ("modality",) else list(groups)
    shown: list[dict[str, Any]] = []
    nanos: list[int] = []
    for one in rows[:VALUES_MAX] if len(rows) > VALUES_MAX + 1 else rows:
        keys = {name: key or None for name, key in zip(names, one.keys, strict=True)}
        shown.append({**keys, **_numbers(one, amounts), "share": percent(one.nanos, found.total)})
        nanos.append(one.nanos)
    rest = rows[len(shown) :]
    if rest:
        whole = UsageRow(
            (), sum(one.tasks for one in rest), sum(one.tokens for one in rest), sum(one.nanos for one in rest)
        )
        others = {names[0]: f"({len(rest):,} others)", **_numbers(whole, amounts)}
        shown.append({**dict.fromkeys(names), **others, "share": percent(whole.nanos, found.total)})
        nanos.append(whole.nanos)
    points = [Point(_label(one, names), one["cost"]) for one in shown]
    shown = [dict(one) for one in amounts.with_remainder(shown, nanos, names)]
    if len(shown) > len(points):
        points.append(Point(REMAINDER, shown[-1]["cost"]))
    last = {names[0]: "total", **total(found, amounts)}
    columns = [*map(column, names), *NUMBERS, Column("share", "%", number=True)]
    return Chart("bars", "", points, Table(columns, shown, last))


def _label(one: Row, names: Sequence[str]) -> str:
    return " ".join(str(one[name]) for name in names if one[name] is not None) or "–"


def top(found: Statement, amounts: Amounts) -> list[Part]:
    """The tasks that were charged most, if they were asked for."""
    if not found.found.top:
        return []
    zone = ZoneInfo(found.timezone)
    rows = [
        {
            "task_uuid": one.task_uuid,
            "project": one.project,
            "model": one.model,
            "admitted_at": from_us(one.at_us).astimezone(zone),
            "tags": ", ".join(f"{name}={value}" for name, value in json.loads(one.tags).items()) or None,
            "cost": amounts.usd(one.nanos),
        }
        for one in found.found.top
    ]
    columns = (
        Column("task_uuid", "Task", whole=True), Column("project", "Project"), Column("model", "Model"),
        Column("admitted_at", "Admitted"), Column("tags", "Tags"), COST,
    )  # fmt: skip
    return [Heading("Most expensive tasks"), Table(columns, rows)]


def refused(found: Statement, amounts: Amounts) -> list[Part]:
    """What was refused, by project, budget and reason, and what it would have cost."""
    if not found.found.refused:
        return []
    sums: dict[tuple[str, str, str], list[int]] = {}
    for one in found.found.refused:
        known = sums.setdefault((one.project, f"{one.budget} per {one.per}", one.reason), [0, 0, 0])
        for at, value in enumerate((one.tasks, one.expected, one.upper)):
            known[at] += value
    most = sorted(sums.items(), key=lambda one: (-one[1][1], one[0]))
    rows = [
        {
            "project": project, "budget": budget, "reason": reason, "tasks": tasks,
            "expected": amounts.usd(expected) if expected or reason != "unpriced" else None,
            "upper": amounts.usd(upper) if upper or reason != "unpriced" else None,
        }
        for (project, budget, reason), (tasks, expected, upper) in most
    ]  # fmt: skip
    columns = (
        Column("project", "Project"), Column("budget", "Budget"), Column("reason", "Why"),
        Column("tasks", "Tasks", number=True), Column("expected", "Expected USD", number=True),
        Column("upper", "At most", number=True),
    )  # fmt: skip
    tasks, expected, upper = map(sum, zip(*sums.values(), strict=True))
    last = {"project": "total", "tasks": tasks, "expected": amounts.usd(expected), "upper": amounts.usd(upper)}
    return [Heading("Refused"), Table(columns, rows, last)]


def at_zone(at_us: int, timezone: str) -> datetime:
    """An instant as a zone's clocks show it."""
    return from_us(at_us).astimezone(ZoneInfo(timezone))


def count(number: int, noun: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
