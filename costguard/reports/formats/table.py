"""Tables and texts for people, on a terminal or in a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from costguard.reports.document import Chart, Column, Document, Figures, Heading, Part, Table
from costguard.reports.formats.bars import WIDTHS, marks, sparkline
from costguard.reports.layout import Cells, fitted, in_blocks, in_rows, painted
from costguard.rows import shown, visible

FOR_PEOPLE = True

_SPARKS = 6
"""No line of columns is drawn for so few."""

_COLUMNS = 80
"""The width of a terminal that does not tell."""


def write(document: Document) -> str:
    """The parts, with a blank line between."""
    return "\n\n".join(filter(None, map(_part, document.parts)))


def _part(part: Part) -> str:
    match part:
        case str():
            return visible(part)
        case Heading():
            return _bold(visible(part.text))
        case Figures():
            return draw(_in_lines(part))
        case Table():
            return draw(part)
        case Chart():
            return _pictured(part)


def _bold(text: str) -> str:
    return painted(text, "1") if _is_bold() else text


def _in_lines(figures: Figures) -> Table:
    """A line for each figure; without a column where none has anything to say in it."""
    values = [item.value if item.value is None or isinstance(item.value, Decimal) else shown(item.value)
              for item in figures.items]  # fmt: skip
    rows = [{**item._asdict(), "value": value} for item, value in zip(figures.items, values, strict=True)]
    columns = (Column("label", ""), Column("value", "", number=True), Column("unit", ""), Column("note", ""))
    return Table([column for column in columns if any(row[column.key] != "" for row in rows)], rows)


def _pictured(chart: Chart) -> str:
    """A chart's table under its title, with a bar in each row if there is room for it in a line."""
    lines = [_bold(visible(chart.title))] if chart.title else []
    if chart.kind == "columns" and _SPARKS < len(chart.points) <= _COLUMNS and can_show("▁█"):
        lines += filter(None, [sparkline(chart.points).rstrip()])
    bars = next(filter(None, (_with_bars(chart, width) for width in WIDTHS)), None) if can_show("█░▒") else None
    lines.append(draw(chart.table) if bars is None else in_rows(bars, bold=_is_bold()))
    return "\n".join(lines)


def _with_bars(chart: Chart, most: int) -> Cells | None:
    """The chart's table and its bars, of at most `most`; on a terminal with its texts folded, if need be."""
    found = marks(chart, most)
    if not found:
        return None
    cells = _cells(chart.table)
    bars = [[[bar]] for bar, _ in found] + [[[""]]] * cells.has_total
    wide = replace(
        cells,
        columns=[*cells.columns, Column("", "", whole=True)],
        titles=[*cells.titles, [""]],
        rows=[[*row, *bar] for row, bar in zip(cells.rows, bars, strict=True)],
        codes=[code for _, code in found],
    )
    width = terminal_width()
    if wide.width <= (width or _COLUMNS):
        return wide
    return None if width is None or most > WIDTHS[-1] else fitted(wide, width)


def can_show(characters: str) -> bool:
    """Whether standard output has these characters in its alphabet."""
    try:
        characters.encode(sys.stdout.encoding or "utf-8")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


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
    rows = [[visible(shown(row[column.key])) for column in table.columns] for row in table.rows]
    if table.total is not None:
        total = table.total
        rows.append([visible(shown(total[column.key])) if column.key in total else "" for column in table.columns])
    columns = [[row[index] for row in rows] for index in range(len(table.columns))]
    columns = [
        _aligned(texts) if column.number else texts for column, texts in zip(table.columns, columns, strict=True)
    ]
    return Cells(
        table.columns,
        [[visible(column.title)] for column in table.columns],
        [[text.split("\n") for text in row] for row in zip(*columns, strict=True)],
        has_total=table.total is not None,
    )


def _aligned(numbers: Sequence[str]) -> list[str]:
    """Numbers padded on their right so that, set to the right, the decimal points stand under each other."""
    tails = [len(text) - text.find(".") if "." in text else 0 for text in numbers]
    deepest = max(tails, default=0)
    return [text + " " * (deepest - tail) for text, tail in zip(numbers, tails, strict=True)]
