"""The monthly report as a document: its rows with their total, and notes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from costguard.reports.document import Column, Document, Row, Table, usd
from costguard.reports.monthly import CURRENCY, PROVIDER_BASES, MonthlyReport


def document(report: MonthlyReport) -> Document:
    """The whole report; its rows alone for spreadsheets; for people the total, and what they must know of it."""
    rows = [{**row.keys, "tasks": row.tasks, "tokens": row.tokens, "cost": row.cost} for row in report.rows]
    record = {
        "month": report.month,
        "currency": CURRENCY,
        "timezone": report.timezone,
        "project": report.project,
        "total": report.total,
        "tasks": report.tasks,
        "tokens": report.tokens,
        "rows": rows,
        "bases": report.bases,
        "unresolved": report.unresolved._asdict(),
        "as_of": report.as_of,
    }
    scope = "all projects" if report.project is None else report.project
    heading = f"{report.month}, {scope}, days in {report.timezone}"
    charged = _table(report, rows) if rows else "Nothing was charged."
    keys = (*report.columns, "tasks", "tokens", "cost")
    return Document(record, keys, rows, (heading, charged, "\n".join(_notes(report))))


def _table(report: MonthlyReport, rows: Sequence[Row]) -> Table:
    total: dict[str, Any] = {"tasks": report.tasks, "tokens": report.tokens, "cost": report.total}
    if report.columns:
        total[report.columns[0]] = "total"
    columns = (
        *(Column(name, name.capitalize()) for name in report.columns),
        Column("tasks", "Tasks", number=True),
        Column("tokens", "Tokens", number=True),
        Column("cost", f"Cost {CURRENCY}", number=True),
    )
    return Table(columns, rows, total)


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
