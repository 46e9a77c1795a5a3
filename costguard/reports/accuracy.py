"""How good the estimates were: expected and upper against what was billed, by model and modality."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from costguard import money
from costguard.modalities import MODALITIES, REPORTED

if TYPE_CHECKING:
    from costguard.ledger.records import Settled

COST = "cost"
"""What a row in USD compares: the whole cost of each attempt."""

_RATIO = Decimal("0.001")


class AccuracyRow(NamedTuple):
    """Sums over the attempts of a `model` that were billed in, or estimated at, some `what`.

    `what` is a modality of the prompt or `completion` (tokens), or `cost` (USD). `ratio` is billed to
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
        """`tokens` or `USD`."""
        return "USD" if self.what == COST else "tokens"


@dataclass
class _Sum:
    attempts: int = 0
    over: int = 0
    sums: list[int] = field(default_factory=lambda: [0, 0, 0])

    def add(self, expected: int, upper: int, billed: int) -> None:
        if expected or upper or billed:
            self.attempts += 1
            self.over += billed > upper
            self.sums = [old + new for old, new in zip(self.sums, (expected, upper, billed), strict=True)]


def accuracy(settled: Iterable[Settled]) -> list[AccuracyRow]:
    """Compare what was estimated and billed, for as many results as were charged; rows by model.

    Left out are attempts that had no estimate (a ceiling stood in), and tokens that no breakdown itemizes.
    """
    groups: dict[tuple[str, str], _Sum] = {}
    names: dict[str, None] = dict.fromkeys(MODALITIES)
    for attempt in settled:
        if attempt.expected is None or attempt.upper is None or attempt.seen < 1:
            continue
        expected, upper = (-(-nanos * attempt.seen // attempt.results) for nanos in (attempt.expected, attempt.upper))
        groups.setdefault((attempt.model, COST), _Sum()).add(expected, upper, attempt.nanos)
        if attempt.tokens is None:
            continue
        estimated = _estimated(attempt.estimate, attempt.tokens)
        for what in {**estimated, **attempt.tokens}:
            names.setdefault(what)
            expected, upper = estimated.get(what, (0, 0))
            billed = attempt.tokens.get(what, 0)
            groups.setdefault((attempt.model, what), _Sum()).add(expected * attempt.seen, upper * attempt.seen, billed)
    order = [name for name in names if name != "completion"] + ["completion", COST]
    return [
        _row(model, what, found)
        for (model, what), found in sorted(groups.items(), key=lambda item: (item[0][0], order.index(item[0][1])))
        if found.attempts
    ]


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


def _estimated(estimate: str, billed: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Tokens of one result: modality -> (expected, upper)."""
    found = {what: (count[0], count[1]) for what, count in json.loads(estimate).items() if what != "media"}
    for modality in found.keys() - billed.keys():
        # The provider may report a document's pages as images.
        told_as = next((name for name in REPORTED.get(modality, ()) if name in billed), None)
        if told_as is not None:
            own, other = found.pop(modality), found.get(told_as, (0, 0))
            found[told_as] = (own[0] + other[0], own[1] + other[1])
    return found


def _row(model: str, what: str, found: _Sum) -> AccuracyRow:
    expected, upper, billed = found.sums
    ratio = (Decimal(billed) / expected).quantize(_RATIO) if expected else None
    if what != COST:
        return AccuracyRow(model, what, found.attempts, expected, upper, billed, ratio, found.over)
    usd = [money.to_usd(nanos) for nanos in found.sums]
    return AccuracyRow(model, what, found.attempts, usd[0], usd[1], usd[2], ratio, found.over)
