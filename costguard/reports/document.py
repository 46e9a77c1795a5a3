"""What a command has to say, before any format writes it down.

In every format money is a plain decimal string in USD, an unknown stays unknown, and nothing is cut off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, NamedTuple

Row = Mapping[str, Any]
"""One row by column key. Decimal is USD (from `money.to_usd`), int a count, float seconds, None unknown."""


class Column(NamedTuple):
    """A column of a table for people: the `key` of its values and its `title`.

    `whole` text is never folded over lines, for what people copy; other text to no fewer characters than `least`.
    """

    key: str
    title: str
    number: bool = False
    whole: bool = False
    least: int = 16


@dataclass(frozen=True, slots=True)
class Table:
    """A table for people. `total` is a last row set apart; keys it lacks stay blank.

    `stacked` takes its place on a terminal that is too narrow for it.
    """

    columns: Sequence[Column]
    rows: Sequence[Row]
    total: Row | None = None
    stacked: Table | None = None


class Heading(NamedTuple):
    """What the parts after it are about."""

    text: str


class Point(NamedTuple):
    """One mark of a chart: its label and amount in USD. `limit`: what it is to stay below, in USD. `is_forecast`:
    what is expected, and `least` and `most` what it may come to.
    """

    label: str
    value: Decimal
    limit: Decimal | None = None
    is_forecast: bool = False
    least: Decimal | None = None
    most: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture of `table`, which says the same in figures and stands in its place where there are no pictures.

    `kind`: `bars` (shares of a whole, the largest first), `columns` (amounts over time), or `gauges` (each point
    against its limit).
    """

    kind: Literal["bars", "columns", "gauges"]
    title: str
    points: Sequence[Point]
    table: Table


Part = str | Heading | Table | Chart


@dataclass(frozen=True, slots=True)
class Document:
    """One answer in the three shapes that formats are made of.

    `record` is all of it, nested and by name, for programs. `rows` are its data, one line each, with the
    columns `keys`, for spreadsheets, without totals, so that they may be summed. `parts` are texts and tables
    in the order that people read them; none if there is nothing to tell them. `title` names the whole on a page.
    `about` is what each of its rows must say where rows of several documents are put together (period, currency,
    as of): formats of rows put it before them.
    """

    record: Mapping[str, Any]
    keys: Sequence[str]
    rows: Sequence[Row]
    parts: Sequence[Part]
    title: str = "costguard"
    about: Mapping[str, Any] = field(default_factory=dict)


def usd(amount: Decimal | None) -> str:
    """An amount in USD as a plain decimal string, such as "0.001217"; "unknown" for None."""
    return "unknown" if amount is None else f"{amount:f}"


def plain(value: object) -> str:
    """An amount or a time as text for programs: decimal USD, ISO 8601. TypeError for anything else."""
    if isinstance(value, Decimal):
        return usd(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no text for {type(value).__name__}")
