"""What other prices would have made of a period: what was charged, beside the same usage at the prices of a day."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import time
from typing import Any, NamedTuple

from costguard import money
from costguard.budgets import from_us
from costguard.errors import ConfigurationError
from costguard.estimating.estimate import read_kept
from costguard.exchange.charging import charge_each
from costguard.ledger.accounting.charged import BookedCharge, ChargedAttempt
from costguard.ledger.charges import Line
from costguard.outputs import Output
from costguard.prices.book import PriceBook
from costguard.prices.model import AnyPrice
from costguard.reports.amounts import lined_up
from costguard.reports.document import Column, Document, Table, usd
from costguard.reports.periods import Period
from costguard.wire.dialect import Figures

NO_PRICE, NO_USAGE, BY_HAND = "no price", "no usage", "by hand"
"""Why a charge cannot be priced anew: its model has no price then, its usage is not known, an operator stated it."""

_EXPLAINED = {
    NO_PRICE: "of models without a price on that day",
    NO_USAGE: "whose usage is not known, or that have something in them without a price",
    BY_HAND: "that an operator stated",
}


class Repriced(NamedTuple):
    """One project's charges of one model. `computed` is what the comparable ones would have been, nano-USD;
    `charged` what those were. `left`: charges that cannot be compared, and `left_nanos` what they came to.
    """

    project: str
    model: str
    results: int
    charged: int
    computed: int
    left: int
    left_nanos: int
    compared: int
    """Charges that can be compared."""


@dataclass
class _Sums:
    results: int = 0
    charged: int = 0
    computed: int = 0
    compared: int = 0
    left: dict[str, list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))


def reprice(
    attempts: Iterable[ChargedAttempt], prices: PriceBook, as_of_us: int
) -> tuple[list[Repriced], dict[str, int]]:
    """Rows by project and model, and how many charges were left, by reason. Prices are those at `as_of_us` (UTC µs).

    Each charge is priced by itself, with its own tokens: tiers are of a request. What was taken back for a better
    figure is left out together with what took it back, so that all rows sum to what the period came to.
    """
    known: dict[tuple[str, str], AnyPrice | None] = {}
    sums: dict[tuple[str, str], _Sums] = defaultdict(_Sums)
    for attempt in attempts:
        model = attempt.model
        kind = model, attempt.task_type
        if kind not in known:
            known[kind] = _price_at(prices, *kind, as_of_us)
        of = sums[attempt.project, model]
        for charge in _standing(attempt.charges):
            computed = _computed(attempt, charge, known[kind])
            of.results += charge.results
            if isinstance(computed, int):
                of.charged += charge.nanos
                of.computed += computed
                of.compared += 1
            else:
                of.left[computed][0] += 1
                of.left[computed][1] += charge.nanos
    why: dict[str, int] = defaultdict(int)
    rows = []
    for (project, model), of in sorted(sums.items()):
        for reason, (count, _) in of.left.items():
            why[reason] += count
        left = [sum(sums) for sums in zip(*of.left.values(), strict=True)] or [0, 0]
        rows.append(Repriced(project, model, of.results, of.charged, of.computed, left[0], left[1], of.compared))
    return rows, dict(why)


def _price_at(prices: PriceBook, model: str, task_type: str, as_of_us: int) -> AnyPrice | None:
    found = prices.of(model, task_type) or prices.find(model)
    try:
        return None if found is None else found.entry(as_of_us)
    except ConfigurationError:
        return None


def _standing(charges: Iterable[BookedCharge]) -> Iterator[BookedCharge]:
    """Those that neither were taken back nor take one back."""
    every = list(charges)
    replaced = {charge.replaces for charge in every}
    return (charge for charge in every if charge.replaces is None and charge.seq not in replaced)


def _computed(attempt: ChargedAttempt, charge: BookedCharge, price: AnyPrice | None) -> int | str:
    """Nano-USD of the charge's usage at `price`, or why that is not known.

    What was made is priced by the size that was asked for, and the length that was charged, else asked for.
    """
    if charge.basis == "correction":
        return BY_HAND
    if price is None:
        return NO_PRICE
    expected, asked = read_kept(attempt.estimate)
    found = charge_each([_figures(charge)], price=price, prompt_expected=expected, expected_nanos=None, asked=asked)
    return found[0].nanos if found else NO_USAGE


def _figures(charge: BookedCharge) -> Figures:
    """A charge's usage without its money, as its provider would tell it: the prompt with what of it was cached."""
    prompt: dict[str, int | None] = {}
    cache: dict[str, int] = {}
    completion = charge.completion_tokens
    features = []
    for component, modality, quantity, _ in charge.lines:
        if component in ("prompt", "cache"):
            before = prompt.get(modality, 0)
            prompt[modality] = None if before is None or quantity is None else before + quantity
            if component == "cache":
                cache[modality] = quantity or 0
        elif component == "completion" and completion is None:
            completion = quantity
        elif component.startswith("feature:"):
            features.append(Line(component, modality, quantity, 1))
    length = next((line.quantity for line in charge.lines if line.component == "seconds"), None)
    tokens = charge.prompt_tokens
    cached = charge.cached_tokens
    if charge.cache_reading == "outside" and tokens is not None:
        tokens += cached or 0
    if "" in prompt or None in prompt.values():
        prompt, cache = {}, {}
    return Figures(
        prompt=tuple(Line("prompt", modality, quantity, 0) for modality, quantity in prompt.items()),
        cache=tuple(Line("cache", modality, quantity, 0) for modality, quantity in cache.items()),
        rest=tuple(features),
        prompt_tokens=tokens,
        completion_tokens=completion,
        cached_tokens=cached,
        made=Output(milliseconds=length),
    )


def document(
    period: Period, project: str | None, timezone: str, as_of_us: int, found: tuple[list[Repriced], dict[str, int]]
) -> Document:
    """The rows, their sums, and what could not be compared."""
    repriced, why = found
    rows = [_row(one) for one in repriced]
    sums = [sum(numbers) for numbers in zip(*(one[2:] for one in repriced), strict=True)] or [0] * 6
    total = _row(Repriced("", "", *sums))
    about = {"period": period.name, "timezone": timezone, "currency": "USD", "prices_as_of": from_us(as_of_us)}
    numbers = {key: total[key] for key in _NUMBERS}
    columns = (
        Column("project", "Project"),
        Column("model", "Model"),
        Column("results", "Results", number=True),
        Column("charged", "Charged", number=True),
        Column("computed", "Would be", number=True),
        Column("difference", "Difference", number=True),
        Column("left_out", "Left out", number=True),
    )
    moment = from_us(as_of_us)
    day = f"{moment:%Y-%m-%d}" if moment.time() == time.max else f"{moment:%Y-%m-%d %H:%M} UTC"
    parts: list[str | Table] = [f"Nothing was charged in {period.name}."]
    if rows:
        parts = [
            lined_up(Table(columns, rows, {"project": "Total", **numbers})),
            f"At the prices of {day}: {usd(total['computed'])} USD for what was charged {usd(total['charged'])} USD."
            if any(one.compared for one in repriced)
            else f"At the prices of {day} nothing can be compared: all {total['left_out']:,} charges are left out,"
            f" {usd(total['left_out_charged'])} USD.",
            *(f"Left out: {count:,} charges {_EXPLAINED[reason]}." for reason, count in sorted(why.items())),
            "Nothing was changed: a charge stays as it was booked.",
        ]
    record = {**about, "project": project, **numbers, "left_out_because": why, "rows": rows}
    return Document(record, ("project", "model", *_NUMBERS), rows, parts, about=about)


_NUMBERS = ("results", "charged", "computed", "difference", "left_out", "left_out_charged")


def _row(one: Repriced) -> dict[str, Any]:
    return {
        "project": one.project,
        "model": one.model,
        "results": one.results,
        "charged": money.to_usd(one.charged),
        "computed": money.to_usd(one.computed),
        "difference": money.to_usd(one.computed - one.charged),
        "left_out": one.left,
        "left_out_charged": money.to_usd(one.left_nanos),
    }
