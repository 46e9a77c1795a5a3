"""How a monthly report is written: a table with notes, a JSON document, or CSV."""

from __future__ import annotations

from typing import Any

from costguard.reports.monthly import CURRENCY, PROVIDER_BASES, MonthlyReport
from costguard.reports.output import Column, csv_text, json_text, table_text, usd

_FIGURES = (Column("tasks", "Tasks", number=True), Column("tokens", "Tokens", number=True))


def to_json(report: MonthlyReport) -> str:
    """The whole report; costs are decimal strings in USD, unknown tokens null."""
    return json_text(
        {
            "schema": 1,
            "month": report.month,
            "currency": CURRENCY,
            "timezone": report.timezone,
            "project": report.project,
            "total": report.total,
            "tasks": report.tasks,
            "tokens": report.tokens,
            "rows": _rows(report),
            "bases": report.bases,
            "unresolved": report.unresolved._asdict(),
            "as_of": report.as_of,
        }
    )


def to_csv(report: MonthlyReport) -> str:
    """The rows alone, so that a spreadsheet may sum them."""
    return csv_text((*_keys(report), *_FIGURES, Column("cost", "")), _rows(report))


def to_table(report: MonthlyReport) -> str:
    """The rows with their total, and below what a reader must know of them."""
    scope = "all projects" if report.project is None else report.project
    lines = [f"{report.month}, {scope}, days in {report.timezone}", ""]
    if report.rows:
        total: dict[str, Any] = {"tasks": report.tasks, "tokens": report.tokens, "cost": report.total}
        if report.columns:
            total[report.columns[0]] = "total"
        columns = (*_keys(report), *_FIGURES, Column("cost", f"Cost {CURRENCY}", number=True))
        lines.append(table_text(columns, _rows(report), total))
    else:
        lines.append("Nothing was charged.")
    return "\n".join([*lines, "", *_notes(report)])


def _rows(report: MonthlyReport) -> list[dict[str, Any]]:
    return [{**row.keys, "tasks": row.tasks, "tokens": row.tokens, "cost": row.cost} for row in report.rows]


def _keys(report: MonthlyReport) -> tuple[Column, ...]:
    return tuple(Column(name, name.capitalize()) for name in report.columns)


def _notes(report: MonthlyReport) -> list[str]:
    notes = []
    for basis, cost in report.bases.items():
        origin = "the provider's figure" if basis in PROVIDER_BASES else "not the provider's figure"
        notes.append(f"{usd(cost)} USD by {basis} ({origin}).")
    if report.bases.keys() - {"breakdown"}:
        notes.append("Tokens are those that were stated; charges not by breakdown may come without.")
    if report.unresolved.tasks:
        notes.append(
            f"{_count(report.unresolved.tasks, 'task')} still open: up to {usd(report.unresolved.held)} USD is held"
            " and may be added."
        )
    return [*notes, f"As of {report.as_of:%Y-%m-%d %H:%M:%S %Z}."]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
