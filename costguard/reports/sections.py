"""The parts of a statement, one by one: its figures, tables and charts, and what must be said of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from costguard.budgets import from_us
from costguard.ledger.accounting.applied import BudgetWindow
from costguard.ledger.accounting.reporting import RefusedSum
from costguard.ledger.records import UsageRow
from costguard.reports.amounts import Amounts, percent
from costguard.reports.document import Chart, Column, Figure, Figures, Heading, Part, Point, Row, Table, usd
from costguard.reports.facts import Statement, budget_text
from costguard.reports.forecast import Forecast
from costguard.reports.tree import Node, ordered, tree

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


def row(found: Statement, one: UsageRow, cost: Decimal) -> Row:
    """One of the statement's rows by its keys' names, with its cost as it is shown."""
    keys = {name: key or None for name, key in zip(found.columns, one.keys, strict=True)}
    return {**keys, **_numbers(one, cost)}


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


def _numbers(one: UsageRow, cost: Decimal) -> dict[str, Any]:
    return {
        "tasks": one.tasks,
        "tokens": known_tokens(one.tokens, one.nanos),
        "reasoning": one.reasoning if one.tokens or not one.nanos else None,
        "cost": cost,
    }


def figures(found: Statement, amounts: Amounts) -> Figures:
    """The headline: the total, where it will end, what it was before, what may be added."""
    passed = "" if found.is_over else f"{found.days_passed} of {found.period.days} days"
    items = [Figure("Total", amounts.usd(found.total), "USD", passed)]
    ahead = found.forecast
    if isinstance(ahead, Forecast):
        note = f"between {usd(amounts.usd(ahead.least))} and {usd(amounts.usd(ahead.most))}"
        note += f", limited by {ahead.limited_by}" if ahead.limited_by else ""
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
        expected = known_sum(amounts, [one.expected for one in refusals])
        tasks, unpriced = sum(one.tasks for one in refusals), sum(one.unpriced for one in refusals)
        note = f"{unpriced:,} of {tasks:,} tasks without a price" if unpriced else count(tasks, "task")
        items.append(Figure("Refused", expected, "USD", note))
    return Figures(items)


def budgets(found: Statement, amounts: Amounts) -> Chart | None:
    """Every budget that applied, with its windows; None if there was none."""
    shown = [one for windows in _by_budget(found.found.budgets).values() for one in _some(windows)]
    if not shown:
        return None
    rows, points = [], []
    for one, of in shown:
        name = budget_text(one) + (" (removed)" if one.is_removed else "")
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
    costs = amounts.parts([nanos for _, nanos, _ in found.parts])
    shown = list(zip(found.parts, costs, strict=True))
    rows = [{"when": part.name, "tasks": tasks, "cost": cost} for (part, _, tasks), cost in shown]
    points = [Point(part.name, cost) for (part, _, _), cost in shown]
    columns = (Column("when", found.per.capitalize()), TASKS, COST)
    last = {"when": "total", "tasks": found.tasks, "cost": amounts.usd(found.total)}
    return Chart("columns", "", points, Table(columns, rows, last))


def nodes(found: Statement) -> list[Node]:
    """The outermost projects of the tree."""
    before = found.before.projects if found.before else {}
    return tree(found.by("project"), before, found.project)


class ShownNode(NamedTuple):
    """A project of the tree with its amounts as they are shown: those below it and its own add up to its own sum."""

    node: Node
    cost: Decimal
    own: Decimal
    before: Decimal
    own_before: Decimal


def shown_nodes(found: Statement, amounts: Amounts, depth: int | None) -> list[ShownNode]:
    """All that are shown, each before those below it; the outermost add up to the total, and to that before."""
    before = amounts.usd(found.before.total or 0) if found.before else Decimal(0)
    return list(shown_tree(nodes(found), (amounts.usd(found.total), before), amounts, depth))


def shown_tree(
    level: Sequence[Node],
    sums: tuple[Decimal, Decimal],
    amounts: Amounts,
    depth: int | None,
    own: tuple[int, int] = (0, 0),
) -> Iterator[ShownNode]:
    """Those of a level, which lie below what is shown with `sums` and has `own` by itself, and all below them.

    Sums and `own` are of the period and of that before, the one as shown in USD, the other in nano-USD.
    """
    costs = amounts.parts([*(node.nanos for node in level), own[0]], sums[0])
    befores = amounts.parts([*(node.before for node in level), own[1]], sums[1])
    for node, cost, before in zip(level, costs, befores, strict=False):
        below = ordered(node.below.values())
        of_own = node.own, node.own_before
        own_cost = amounts.parts([*(one.nanos for one in below), node.own], cost)[-1]
        own_before = amounts.parts([*(one.before for one in below), node.own_before], before)[-1]
        yield ShownNode(node, cost, own_cost, before, own_before)
        if depth is None or node.depth < depth:
            yield from shown_tree(below, (cost, before), amounts, depth, of_own)


def projects(found: Statement, amounts: Amounts, depth: int | None) -> Chart:
    """Projects as a tree, each with all below it; what is booked on one that has others below it stands under it."""
    rows: list[dict[str, Any]] = []
    points = []
    for shown in shown_nodes(found, amounts, depth):
        node = shown.node
        text = "  " * (node.depth - 1) + (node.project if node.depth == 1 else node.name)
        rows.append({"project": text, **_node(node, found, shown.cost, shown.before)})
        points.append(Point(node.project, shown.cost))
        is_open = node.below and (depth is None or node.depth < depth)
        if is_open and node.has_own:
            own = Node(node.project, 0, node.own, tasks=node.own_tasks, tokens=node.own_tokens, before=node.own_before)
            itself = _node(own, found, shown.own, shown.own_before)
            rows.append({"project": f"{'  ' * node.depth}(itself)", **itself})
            points.append(Point(f"{node.project} (itself)", shown.own))
    last = {"project": "total", **total(found, amounts)}
    columns = [Column("project", "Project"), TASKS, TOKENS, COST, Column("share", "%", number=True)]
    if found.before is not None and found.before.total is not None:
        columns.append(Column("before", found.before.period.name, number=True))
        last["before"] = amounts.usd(found.before.total)
    return Chart("bars", "", points, Table(columns, rows, last))


def _node(node: Node, found: Statement, cost: Decimal, before: Decimal) -> dict[str, Any]:
    return {
        "tasks": node.tasks,
        "tokens": known_tokens(node.tokens, node.nanos),
        "cost": cost,
        "share": percent(node.nanos, found.total),
        "before": before,
    }


def grouping(found: Statement, groups: Sequence[str], amounts: Amounts) -> Chart:
    """What was spent by some groups, the most expensive first, those that cost little as one row."""
    rows = sorted(found.by(*groups), key=lambda one: (-one.nanos, one.keys))
    names = ["component", "modality"] if groups == ("modality",) else list(groups)
    few = rows[:VALUES_MAX] if len(rows) > VALUES_MAX + 1 else rows
    rest = rows[len(few) :]
    named = [{name: key or None for name, key in zip(names, one.keys, strict=True)} for one in few]
    if rest:
        sums = [sum(values) for values in zip(*((one.tasks, one.tokens, one.nanos) for one in rest), strict=True)]
        few = [*few, UsageRow((), *sums)]
        named.append({**dict.fromkeys(names), names[0]: f"({len(rest):,} others)"})
    costs = amounts.parts([one.nanos for one in few])
    shown = [
        {**keys, **_numbers(one, cost), "share": percent(one.nanos, found.total)}
        for keys, one, cost in zip(named, few, costs, strict=True)
    ]
    points = [Point(_label(one, names), one["cost"]) for one in shown]
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
    together: dict[tuple[str, str, str], list[RefusedSum]] = {}
    for one in found.found.refused:
        together.setdefault((one.project, f"{one.budget} per {one.per}", one.reason), []).append(one)
    sums = {
        key: (_known(one.expected for one in those), _known(one.upper for one in those))
        for key, those in together.items()
    }
    most = sorted(together, key=lambda key: (-(sums[key][0] or 0), key))
    costs = known_parts(amounts, [sums[key][0] for key in most])
    uppers = known_parts(amounts, [sums[key][1] for key in most])
    rows = []
    for (project, budget, reason), expected, upper in zip(most, costs, uppers, strict=True):
        those = together[project, budget, reason]
        tasks, unpriced = sum(one.tasks for one in those), sum(one.unpriced for one in those)
        rows.append(
            {
                "project": project, "budget": budget, "tasks": tasks, "expected": expected, "upper": upper,
                "reason": f"{reason} ({unpriced:,} without a price)" if 0 < unpriced < tasks else reason,
            }
        )  # fmt: skip
    columns = (
        Column("project", "Project"), Column("budget", "Budget"), Column("reason", "Why"),
        Column("tasks", "Tasks", number=True), Column("expected", "Expected USD", number=True),
        Column("upper", "At most", number=True),
    )  # fmt: skip
    tasks, unpriced = (sum(getattr(one, name) for one in found.found.refused) for name in ("tasks", "unpriced"))
    last = {
        "project": "total",
        "tasks": tasks,
        "expected": known_sum(amounts, [one.expected for one in found.found.refused]),
        "upper": known_sum(amounts, [one.upper for one in found.found.refused]),
    }
    parts: list[Part] = [Heading("Refused"), Table(columns, rows, last)]
    if unpriced:
        parts.append(f"{unpriced:,} of {tasks:,} without a price: what these would have cost is in no sum.")
    return parts


def _known(values: Iterable[int | None]) -> int | None:
    """The sum of those that are known; None if none is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def known_sum(amounts: Amounts, values: Iterable[int | None]) -> Decimal | None:
    """The sum of those that are known as it is shown; None if none is."""
    known = _known(values)
    return None if known is None else amounts.usd(known)


def known_parts(amounts: Amounts, values: Sequence[int | None]) -> list[Decimal | None]:
    """Those that are known as parts of their sum; None for the others."""
    parts = iter(amounts.parts([value for value in values if value is not None]))
    return [None if value is None else next(parts) for value in values]


def at_zone(at_us: int, timezone: str) -> datetime:
    """An instant as a zone's clocks show it."""
    return from_us(at_us).astimezone(ZoneInfo(timezone))


def count(number: int, noun: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
