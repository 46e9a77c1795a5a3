"""Amounts as a report shows them: exact, or in cents that add up to the total that is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from decimal import MAX_PREC, Context, Decimal

from costguard import money
from costguard.reports.document import Table

_CENT = 10_000_000
_WIDE = Context(prec=MAX_PREC)


class Amounts:
    """Writes nano-USD as USD: exactly, or in cents: a sum half to even, its parts so that they add up to it."""

    def __init__(self, round_to: str | None = None) -> None:
        self.round_to = round_to

    def usd(self, nanos: int) -> Decimal:
        """As a Decimal in USD."""
        return money.to_usd(self._shown(nanos))

    def parts(self, nanos: Sequence[int], whole: Decimal | None = None) -> list[Decimal]:
        """Parts of a sum that is shown as `whole`, by default as their own sum is: they add up to what is shown.

        In cents those with the largest rest are rounded up: each is less than a cent from what it is, if `whole` is
        less than one from their sum.
        """
        if self.round_to is None:
            return [self.usd(value) for value in nanos]
        cents = [value // _CENT for value in nanos]
        shown = self._shown(sum(nanos)) if whole is None else int(whole.scaleb(9))
        missing = shown // _CENT - sum(cents)
        for at in sorted(range(len(nanos)), key=lambda at: (-(nanos[at] % _CENT), at))[:missing]:
            cents[at] += 1
        return [money.to_usd(value * _CENT) for value in cents]

    def difference(self, one: int, other: int) -> Decimal:
        """Of two sums as they are shown."""
        return money.to_usd(self._shown(one) - self._shown(other))

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
