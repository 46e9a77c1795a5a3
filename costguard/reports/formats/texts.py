"""A table's values as texts, for formats that cannot align decimals: a column has one number of them."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from costguard.reports.document import Row, Table
from costguard.rows import shown, visible


def texts(table: Table) -> tuple[list[list[str]], list[str] | None]:
    """The texts of each row, and of the total; "" where the total has nothing. What cannot be seen is in writing."""
    rows: list[Row] = [*table.rows, *([table.total] if table.total is not None else [])]
    columns = [lined_up([row.get(column.key, "") for row in rows]) for column in table.columns]
    lines = [list(line) for line in zip(*columns, strict=True)]
    return (lines, None) if table.total is None else (lines[:-1], lines[-1])


def lined_up(values: Sequence[object]) -> list[str]:
    """Values as texts, all amounts with as many decimals as the one that has most."""
    places = max((_places(value) for value in values if isinstance(value, Decimal)), default=0)
    return [_with_places(value, places) if isinstance(value, Decimal) else visible(shown(value)) for value in values]


def _places(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return -exponent if isinstance(exponent, int) and exponent < 0 else 0


def _with_places(value: Decimal, places: int) -> str:
    text, missing = shown(value), places - _places(value)
    return f"{text}{'' if '.' in text else '.'}{'0' * missing}" if missing > 0 else text
