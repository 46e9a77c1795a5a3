"""The statement as a document: what was spent, on what, by whom, against which budget, and how sure that is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from costguard.reports import made, notes, sections
from costguard.reports.amounts import Amounts, lined_up
from costguard.reports.document import Chart, Document, Heading, Part, Row, Table
from costguard.reports.facts import Statement
from costguard.reports.periods import Period
from costguard.reports.record import CURRENCY, record

TAG_SECTIONS_MAX = 3
"""Names of tags that the whole statement has a table of, those with most money first."""


def document(
    found: Statement, *, round_to: str | None = None, depth: int | None = None, whole: bool | None = None
) -> Document:
    """Everything for programs; the rows alone for spreadsheets; for people the total, and what they must know of it.

    `round_to` "cents" rounds what is shown, not what is added up. `depth`: levels of projects that are shown one by
    one. `whole`: all tables, or only that of the rows; by default all where the rows are by project alone.
    """
    amounts = Amounts(round_to)
    costs = amounts.parts([one.nanos for one in found.rows])
    rows = [sections.row(found, one, cost) for one, cost in zip(found.rows, costs, strict=True)]
    if whole is None:
        whole = found.columns == ("project",)
    parts: list[Part] = [_heading(found)]
    if found.found.leaves:
        parts += _whole(found, amounts, depth) if whole else [_rows(found, amounts, rows)]
    else:
        parts += ["Nothing was charged."]
        parts += _budgets(found, amounts) if whole else []
    parts += sections.top(found, amounts) + (sections.refused(found, amounts) if whole else [])
    ahead = [*notes.left_out(found), *notes.ahead(found, amounts)] if whole else []
    said = "\n".join([*notes.absent(found), *notes.notes(found, amounts), *ahead, notes.as_of(found)])
    keys = (*found.columns, "tasks", "tokens", "reasoning", "cost")
    about = {
        "period": found.period.name,
        "since": found.period.first.isoformat(),
        "until": found.period.end.isoformat(),
        "timezone": found.timezone,
        "currency": CURRENCY,
        "as_of": found.at,
        **({} if found.project is None else {"project": found.project}),
        **({"tags": dict(found.tags)} if found.tags else {}),
    }
    parts = [_aligned(part) for part in (*parts, said)]
    return Document(record(found, amounts, rows, depth), keys, rows, parts, f"Spending {_when(found.period)}", about)


def _when(period: Period) -> str:
    if period.kind == "days":
        return f"{'on' if period.days == 1 else 'from'} {period.title}"
    return f"{'in the' if period.kind == 'quarter' else 'in'} {period.title}"


def _aligned(part: Part) -> Part:
    if isinstance(part, Table):
        return lined_up(part)
    if isinstance(part, Chart):
        return Chart(part.kind, part.title, part.points, lined_up(part.table))
    return part


def _heading(found: Statement) -> str:
    scope = "all projects" if found.project is None else found.project
    tags = "".join(f", {name}={value}" for name, value in found.tags.items())
    text = f"{found.period.name}, {scope}{tags}, days in {found.timezone}"
    if found.asked_project != found.project:
        text += f"\n{found.asked_project} is called {found.project} now."
    return text


def _whole(found: Statement, amounts: Amounts, depth: int | None) -> list[Part]:
    parts: list[Part] = [sections.figures(found, amounts), *_budgets(found, amounts)]
    if len(found.parts) > 1:
        parts += [Heading(f"By {found.per}"), sections.over_time(found, amounts)]
    parts += [Heading("By project"), sections.projects(found, amounts, depth)]
    for title, groups in (
        ("By model", ("model",)),
        ("By component and modality", ("modality",)),
        ("By kind of task", ("task_type",)),
        *((f"By tag {name}", (f"tag:{name}",)) for name in _tags(found)),
    ):
        parts += [Heading(title), sections.grouping(found, groups, amounts)]
    return parts + made.section(found, amounts)


def _budgets(found: Statement, amounts: Amounts) -> list[Part]:
    chart = sections.budgets(found, amounts)
    return [] if chart is None else [Heading("Against budgets"), chart]


def _tags(found: Statement) -> list[str]:
    """The names of the tags that most was spent with, but for those that were asked for."""
    spent: dict[str, int] = {}
    for row in found.found.tagged:
        for name in json.loads(row.tags or "{}"):
            spent[name] = spent.get(name, 0) + row.sums[4]
    known = [name for name in spent if name not in found.tags]
    return sorted(known, key=lambda name: (-spent[name], name))[:TAG_SECTIONS_MAX]


def _rows(found: Statement, amounts: Amounts, rows: Sequence[Row]) -> Table:
    total: dict[str, Any] = sections.total(found, amounts)
    if found.columns:
        total[found.columns[0]] = "total"
    return Table([*map(sections.column, found.columns), *sections.NUMBERS], rows, total)
