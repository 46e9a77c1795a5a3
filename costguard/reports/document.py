"""What a command has to say, before any format writes it down.

In every format money is a plain decimal string in USD, an unknown stays unknown, and nothing is cut off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

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


@dataclass(frozen=True, slots=True)
class Document:
    """One answer in the three shapes that formats are made of.

    `record` is all of it, nested and by name, for programs. `rows` are its data, one line each, with the
    columns `keys`, for spreadsheets, without totals, so that they may be summed. `parts` are texts and tables
    in the order that people read them; none if there is nothing to tell them.
    """

    record: Mapping[str, Any]
    keys: Sequence[str]
    rows: Sequence[Row]
    parts: Sequence[str | Table]


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
