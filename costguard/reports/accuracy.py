"""How good the estimates were: expected and upper against what was billed, by model and modality."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from costguard import money
from costguard.ledger.accounting.comparing import COST
from costguard.modalities import MODALITIES
from costguard.outputs import PARTS, in_units

if TYPE_CHECKING:
    from costguard.ledger.records import EstimateSum

_RATIO = Decimal("0.001")


class AccuracyRow(NamedTuple):
    """Sums over the attempts of a `model` that were billed in, or estimated at, some `what`.

    `what` is a modality of the prompt or `completion` (tokens), `results`, `seconds` or `megapixels` of what was made,
    or `cost` (USD). `ratio` is billed to
    expected, None where nothing was expected; `over` counts the attempts billed above their upper.
    """

    model: str
    what: str
    attempts: int
    expected: int | Decimal
    upper: int | Decimal
    billed: int | Decimal
    ratio: Decimal | None
    over: int

    @property
    def unit(self) -> str:
        """`tokens`, `USD`, or what was made in: `results`, `seconds`, `megapixels`."""
        return "USD" if self.what == COST else self.what if self.what in PARTS else "tokens"


def accuracy(sums: Iterable[EstimateSum]) -> list[AccuracyRow]:
    """What was estimated and billed, for as many results as were charged; rows by model.

    Left out are attempts that had no estimate (a ceiling stood in), and tokens that no breakdown itemizes.
    """
    rows = [_row(found) for found in sums if found.attempts]
    others = sorted({row.what for row in rows} - {*MODALITIES, "completion", COST})
    order = [*MODALITIES, *others, "completion", COST]
    return sorted(rows, key=lambda row: (row.model, order.index(row.what)))


def over_line(rows: Sequence[AccuracyRow]) -> str:
    """One sentence: whether anything was billed above its upper."""
    costs = [row for row in rows if row.what == COST]
    attempts, over = sum(row.attempts for row in costs), sum(row.over for row in costs)
    parts = sum(row.over for row in rows) - over
    if not over and not parts:
        return f"Billed above upper: never, in {attempts:,} attempts."
    return (
        f"Billed above upper: {over:,} of {attempts:,} attempts in USD, {parts:,} times in the tokens of a modality."
        " It should be never: the price file or the media behind it deserve a look."
    )


def _row(found: EstimateSum) -> AccuracyRow:
    model, what, attempts, expected, upper, billed, over = found
    ratio = (Decimal(billed) / expected).quantize(_RATIO) if expected else None
    if what in PARTS:
        made = [in_units(what, parts) for parts in (expected, upper, billed)]
        return AccuracyRow(model, what, attempts, made[0], made[1], made[2], ratio, over)
    if what != COST:
        return AccuracyRow(model, what, attempts, expected, upper, billed, ratio, over)
    usd = [money.to_usd(nanos) for nanos in (expected, upper, billed)]
    return AccuracyRow(model, what, attempts, usd[0], usd[1], usd[2], ratio, over)
