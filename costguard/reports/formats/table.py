"""Tables and texts for people, on a terminal or in a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from costguard.reports.document import Chart, Document, Heading, Part, Table, usd
from costguard.reports.layout import Cells, fitted, in_blocks, in_rows

FOR_PEOPLE = True

UNKNOWN = "–"
"""An unknown or absent value."""

_COLUMNS = 80
"""The width of a terminal that does not tell."""


def write(document: Document) -> str:
    """The parts, with a blank line between."""
    return "\n\n".join(map(_part, document.parts))


def _part(part: Part) -> str:
    match part:
        case str():
            return part
        case Heading():
            return part.text
        case Table():
            return draw(part)
        case Chart():
            return draw(part.table)


def draw(table: Table) -> str:
    """A table at its full width in a pipe; on a terminal in the first layout that fits, never cut off.

    As it is, or stacked; then with its titles and texts folded; at last a block of lines for each row.
    Decimals align on their point.
    """
    width = terminal_width()
    bold = _is_bold()
    candidates = [_cells(each) for each in (table, table.stacked) if each is not None]
    if width is None:
        return in_rows(candidates[0], bold=bold)
    for cells in candidates:
        if cells.width <= width:
            return in_rows(cells, bold=bold)
    for cells in candidates:
        folded = fitted(cells, width)
        if folded is not None:
            return in_rows(folded, bold=bold)
    return in_blocks(candidates[0], width, bold=bold)


def terminal_width() -> int | None:
    """Characters in a line: `COLUMNS` if it is a number, else what the terminal tells; None for no terminal."""
    try:
        if not sys.stdout.isatty():
            return None
        stated = os.environ.get("COLUMNS", "")
        if stated.isdecimal() and len(stated) < 6 and int(stated):
            return int(stated)
        return os.get_terminal_size(sys.stdout.fileno()).columns or _COLUMNS
    except (OSError, ValueError):
        return _COLUMNS


def _is_bold() -> bool:
    """Whether headings are bold: on terminals that can, unless the environment says otherwise."""
    environ = os.environ
    if environ.get("NO_COLOR"):
        return False
    return bool(environ.get("FORCE_COLOR")) or (sys.stdout.isatty() and environ.get("TERM", "dumb") != "dumb")


def _cells(table: Table) -> Cells:
    """A table's values as text, unfolded."""
    rows = [[_shown(row[column.key]) for column in table.columns] for row in table.rows]
    if table.total is not None:
        total = table.total
        rows.append([_shown(total[column.key]) if column.key in total else "" for column in table.columns])
    columns = [[row[index] for row in rows] for index in range(len(table.columns))]
    columns = [
        _aligned(texts) if column.number else texts for column, texts in zip(table.columns, columns, strict=True)
    ]
    return Cells(
        table.columns,
        [[column.title] for column in table.columns],
        [[text.split("\n") for text in row] for row in zip(*columns, strict=True)],
        has_total=table.total is not None,
    )


def _aligned(numbers: Sequence[str]) -> list[str]:
    """Numbers padded on their right so that, set to the right, the decimal points stand under each other."""
    tails = [len(text) - text.find(".") if "." in text else 0 for text in numbers]
    deepest = max(tails, default=0)
    return [text + " " * (deepest - tail) for text, tail in zip(numbers, tails, strict=True)]


def _shown(value: object) -> str:
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Decimal):
        return usd(value)
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M %Z}"
    return str(value)
