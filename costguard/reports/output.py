"""Rows of data as a table, JSON or CSV: exact money, unknown kept unknown, nothing cut off.

In JSON and CSV money is a plain decimal string, an unknown is null or empty, a time is ISO 8601. CSV guards
text that a spreadsheet would take for a formula.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

Row = Mapping[str, Any]
"""One row by column key. Decimal is USD (from `money.to_usd`), int a count, float seconds, None unknown."""

UNKNOWN = "–"
"""An unknown or absent value in a table."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_PIPE_COLUMNS = 100_000


class Column(NamedTuple):
    """A column: the `key` of its values (the header in CSV) and its `title` in a table.

    `whole` text is never folded over lines, for what people copy.
    """

    key: str
    title: str
    number: bool = False
    whole: bool = False


def usd(amount: Decimal | None) -> str:
    """An amount in USD as a plain decimal string, such as "0.001217"; "unknown" for None."""
    return "unknown" if amount is None else f"{amount:f}"


def json_text(document: Mapping[str, Any]) -> str:
    """A JSON document, indented."""
    return json.dumps(document, indent=2, ensure_ascii=False, default=_plain)


def csv_text(columns: Sequence[Column], rows: Iterable[Row]) -> str:
    """CSV with a header of column keys; lines end with a newline."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.key for column in columns])
    for row in rows:
        writer.writerow([_csv_value(row[column.key]) for column in columns])
    return text.getvalue()


def table_text(columns: Sequence[Column], rows: Sequence[Row], total: Row | None = None) -> str:
    """A table for people, fitted to the terminal by folding, or at its full width into a pipe.

    Decimals align on their point. `total` is a last row set apart; keys it lacks stay blank.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = [[_shown(row[column.key]) for row in rows] for column in columns]
    if total is not None:
        for column, texts in zip(columns, shown, strict=True):
            texts.append(_shown(total[column.key]) if column.key in total else "")
    titles = [column.title for column in columns]
    for index, column in enumerate(columns):
        if column.number:
            titles[index], *shown[index] = _aligned([column.title, *shown[index]])

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for title, column in zip(titles, columns, strict=True):
        table.add_column(Text(title), no_wrap=column.number or column.whole, overflow="fold")
    cells = list(zip(*shown, strict=True))
    for number, row in enumerate(cells, start=1):
        last = number == len(cells)
        table.add_row(
            *(Text(cell) for cell in row),
            end_section=total is not None and number == len(cells) - 1,
            style="bold" if total is not None and last else "",
        )

    console = Console()
    if console.is_terminal:
        least = console.measure(table).minimum
        console.width = max(console.width, least)
    else:
        console.width = _PIPE_COLUMNS
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def terminal_width() -> int | None:
    """Columns of the terminal that output goes to; None for a pipe or a file."""
    from rich.console import Console

    console = Console()
    return console.width if console.is_terminal else None


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


def _csv_value(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, (Decimal, datetime)):
        return _plain(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_plain)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _plain(value: object) -> str:
    """What JSON has no type for."""
    if isinstance(value, Decimal):
        return usd(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no JSON for {type(value).__name__}")
