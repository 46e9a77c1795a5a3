"""What a command has to say, before any format writes it down.

In every format money is a plain decimal string in USD, an unknown stays unknown, and nothing is cut off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_FLOOR, Decimal
from html import escape
from typing import Any, Literal, NamedTuple

from costguard import rows

UNTITLED = "costguard"
"""The title of a document that has none of its own."""

NEAR_PERCENT = 80
"""Of a limit: from here on it is near."""

Level = Literal["", "near", "over"]
"""How far a limit is used."""

_TENTH = Decimal("0.1")

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


class Figure(NamedTuple):
    """A headline: what it is, the value with its unit, and what is said below it in small print.

    `level` colours it: "near" a limit, "over" one.
    """

    label: str
    value: object
    unit: str = ""
    note: str = ""
    level: Level = ""


@dataclass(frozen=True, slots=True)
class Figures:
    """The few figures that answer what a document is asked first, in their order."""

    items: Sequence[Figure]


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

    @property
    def used_percent(self) -> Decimal | None:
        """`value` in percent of `limit`, down to a tenth as alerts count it; None without a limit, or with one of 0."""
        return (self.value * 100 / self.limit).quantize(_TENTH, ROUND_FLOOR) if self.limit else None

    @property
    def level(self) -> Level:
        """Of its limit: "near" from 80 %, "over" from 100 %; "" below and without a limit."""
        if self.limit is None or self.value * 100 < self.limit * NEAR_PERCENT:
            return ""
        return "over" if self.value >= self.limit else "near"


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


Part = str | Heading | Figures | Table | Chart


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
    title: str = UNTITLED
    about: Mapping[str, Any] = field(default_factory=dict)

    def to_frame(self, library: str | None = None) -> Any:
        """The rows as a DataFrame, with `about` before each, amounts as Decimal: see `costguard.rows.to_frame`."""
        return rows.to_frame(self.stackable_keys, self.stackable_rows, library)

    @property
    def stackable_keys(self) -> list[str]:
        """`about` and `keys`; where both have one of the same name, it is the row's own."""
        return [*(key for key in self.about if key not in self.keys), *self.keys]

    @property
    def stackable_rows(self) -> list[Row]:
        """The rows, each with `about`, so that rows of several documents can be put together."""
        return [{**self.about, **row} for row in self.rows] if self.about else list(self.rows)

    def _repr_html_(self) -> str:
        """Texts and tables, as notebooks show them."""
        return "".join(map(_in_notebook, self.parts))


def _in_notebook(part: Part) -> str:
    match part:
        case str():
            return "".join(f"<p>{escape(rows.visible(line))}</p>" for line in part.splitlines())
        case Heading():
            return f"<h4>{escape(rows.visible(part.text))}</h4>"
        case Figures():
            titles = {"label": "", "value": "", "unit": "", "note": ""}
            return rows.to_html(titles, [item._asdict() for item in part.items])
        case Chart():
            return _in_notebook(part.table)
        case Table():
            titles = {column.key: column.title for column in part.columns}
            return rows.to_html(titles, [*part.rows, *([part.total] if part.total else [])])


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
