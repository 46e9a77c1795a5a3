"""Tables and texts for people, on a terminal or in a pipe."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from costguard.reports.document import Column, Document, Row, Table, usd

FOR_PEOPLE = True

UNKNOWN = "–"
"""An unknown or absent value."""

_PIPE_COLUMNS = 100_000


def write(document: Document) -> str:
    """The parts, with a blank line between."""
    return "\n\n".join(part if isinstance(part, str) else draw(part) for part in document.parts)


def draw(table: Table) -> str:
    """A table fitted to the terminal by folding, or at its full width into a pipe. Decimals align on their point."""
    console = Console()
    if table.stacked is not None and console.is_terminal and console.width < table.stacked_below:
        table = table.stacked
    drawn = _drawn(table.columns, table.rows, table.total)
    if console.is_terminal:
        least = console.measure(drawn).minimum
        console.width = max(console.width, least)
    else:
        console.width = _PIPE_COLUMNS
    with console.capture() as capture:
        console.print(drawn)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _drawn(columns: Sequence[Column], rows: Sequence[Row], total: Row | None) -> RichTable:
    shown = [[_shown(row[column.key]) for row in rows] for column in columns]
    if total is not None:
        for column, texts in zip(columns, shown, strict=True):
            texts.append(_shown(total[column.key]) if column.key in total else "")
    titles = [column.title for column in columns]
    for index, column in enumerate(columns):
        if column.number:
            titles[index], *shown[index] = _aligned([column.title, *shown[index]])
    drawn = RichTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for title, column in zip(titles, columns, strict=True):
        drawn.add_column(Text(title), no_wrap=column.number or column.whole, overflow="fold")
    cells = list(zip(*shown, strict=True))
    for number, row in enumerate(cells, start=1):
        last = number == len(cells)
        drawn.add_row(
            *(Text(cell) for cell in row),
            end_section=total is not None and number == len(cells) - 1,
            style="bold" if total is not None and last else "",
        )
    return drawn


def _aligned(texts: Sequence[str]) -> list[str]:
    """The title, then numbers, padded to one width with the decimal points under each other."""
    title, *numbers = texts
    tails = [len(text) - text.find(".") if "." in text else 0 for text in numbers]
    deepest = max(tails, default=0)
    padded = [text + " " * (deepest - tail) for text, tail in zip(numbers, tails, strict=True)]
    width = max(map(len, [title, *padded]))
    return [title.rjust(width), *(text.rjust(width) for text in padded)]


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
