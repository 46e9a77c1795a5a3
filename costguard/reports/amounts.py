"""Amounts as a report shows them: exact, or in cents that add up to the total that is shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import MAX_PREC, Context, Decimal
from typing import Any

from costguard import money
from costguard.reports.document import Row, Table

ROUNDING = ("cents",)
"""What amounts can be rounded to."""

REMAINDER = "(rounding to cents)"
"""The row by which rounded amounts miss their rounded total."""

_CENT = 10_000_000
_WIDE = Context(prec=MAX_PREC)


class Amounts:
    """Writes nano-USD as USD: exactly, or each in cents, half to even."""

    def __init__(self, round_to: str | None = None) -> None:
        self.round_to = round_to

    def usd(self, nanos: int) -> Decimal:
        """As a Decimal in USD."""
        return money.to_usd(self._shown(nanos))

    def remainder(self, nanos: Iterable[int]) -> int:
        """What rows that are shown one by one miss of their sum as it is shown, in nano-USD."""
        rows = list(nanos)
        return self._shown(sum(rows)) - sum(map(self._shown, rows))

    def with_remainder(self, rows: Sequence[Row], nanos: Sequence[int], columns: Sequence[str]) -> list[Row]:
        """`rows`, whose amounts `cost` are `nanos`, and one more with what they miss, if they do; its keys unknown."""
        missing = self.remainder(nanos)
        if not missing or not columns:
            return list(rows)
        last: dict[str, Any] = dict.fromkeys(rows[0])
        return [*rows, {**last, columns[0]: REMAINDER, "cost": money.to_usd(missing)}]

    def _shown(self, nanos: int) -> int:
        if self.round_to is None:
            return nanos
        cents, rest = divmod(nanos, _CENT)
        return (cents + (rest * 2 > _CENT or (rest * 2 == _CENT and cents % 2))) * _CENT


def lined_up(table: Table) -> Table:
    """The table with one number of decimals in each column of amounts, as many as the finest of them needs."""
    rows = [dict(row) for row in (*table.rows, *([table.total] if table.total else []))]
    for column in table.columns:
        amounts = [row[column.key] for row in rows if isinstance(row.get(column.key), Decimal)]
        if amounts:
            finest = Decimal((0, (1,), min(_exponent(amount) for amount in amounts)))
            for row in rows:
                if isinstance(row.get(column.key), Decimal):
                    row[column.key] = row[column.key].quantize(finest, context=_WIDE)
    total = rows.pop() if table.total else None
    return replace(table, rows=rows, total=total, stacked=lined_up(table.stacked) if table.stacked else None)


def _exponent(amount: Decimal) -> int:
    exponent = amount.as_tuple().exponent
    return exponent if isinstance(exponent, int) else 0


def percent(part: int, whole: int) -> Decimal | None:
    """`part` in percent of `whole`, to a tenth, half away from zero; None where the whole is 0."""
    if not whole:
        return None
    sign = -1 if (part < 0) != (whole < 0) else 1
    tenths = (abs(part) * 2000 + abs(whole)) // (2 * abs(whole))
    return Decimal(sign * tenths).scaleb(-1)
