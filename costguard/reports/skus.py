"""What is sold by a charge's line, as FOCUS speaks of SKUs: the meter, the unit it is priced in, its list price."""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Context, Decimal
from typing import NamedTuple

from costguard.errors import ConfigurationError
from costguard.ledger.charges import Line
from costguard.outputs import PARTS
from costguard.prices.book import PriceBook
from costguard.prices.model import AnyPrice, ModelPrices
from costguard.prices.output import OutputPrice
from costguard.prices.price import PER_TOKENS, Price

FEATURE = "feature:"
"""How the component of a feature's use begins."""

EXACT = Context(prec=60)
"""For products of prices and quantities: no digit of a 64-bit amount times a count is lost."""

_TOKENS = ("prompt", "cache", "completion")
_NANO = -9


class Meter(NamedTuple):
    """What is counted: its `name`, the unit of what is consumed, and how many of these a price is stated for.

    `component`: of lines whose quantity counts parts of that unit.
    """

    name: str
    unit: str
    per: int
    component: str = ""

    @property
    def pricing_unit(self) -> str:
        """The unit that a price is stated for, as FOCUS writes units."""
        return self.unit if self.per == 1 else f"{self.per} {self.unit}"


class Sku(NamedTuple):
    """A model's meter, and the dated entry of the price list that holds for it; None where that is not known.

    `unit_price` is USD for one `meter.pricing_unit`, `details` JSON.
    """

    id: str
    meter: Meter
    price_id: str | None
    unit_price: Decimal | None
    details: str | None


class Catalogue:
    """The price lists by what charges say of them."""

    def __init__(self, book: PriceBook) -> None:
        self._book = book
        self._prices: dict[str, AnyPrice] = {price.id: price for known in book.models() for price in known.entries}
        self._skus: dict[tuple[str, str | None, str, str, int | None], Sku] = {}

    def model(self, name: str) -> ModelPrices | None:
        """What a price file says of a model, by AIR or alias."""
        return self._book.find(name) if name else None

    def price(self, model: str, task_type: str, price_id: str | None, at_us: int) -> AnyPrice | None:
        """The entry that a charge names, else the one in force at its admission; None where there is none.

        One that is named and not at hand is not known: another one is no answer.
        """
        if price_id is not None:
            return self._prices.get(price_id)
        known = self._book.of(model, task_type) or self.model(model)
        try:
            return known.entry(at_us) if known else None
        except ConfigurationError:  # it had no price then
            return None

    def sku(self, sold: str, price: AnyPrice | None, line: Line, prompt_tokens: int | None) -> Sku | None:
        """The SKU of a line of a charge for `sold`, a model or task type; None for what is no use of anything.

        `prompt_tokens`: all of the prompt's, which decide the tier; None if they are not known.
        """
        above = _above(price, line.component, prompt_tokens)
        key = (sold, price.id if price else None, line.component, line.modality, above)
        found = self._skus.get(key)
        if found is None:
            meter = meter_of(line)
            if meter is None:
                return None
            found = self._skus[key] = _sku(sold, price, line, meter, above)
        return found


def prompt_tokens(lines: Iterable[Line]) -> int | None:
    """All tokens of the prompt of a charge, or of one that takes it back; None if they are not known."""
    total = None
    for component, _, quantity, _ in lines:
        if component in ("prompt", "cache"):
            if quantity is None:
                return None
            total = (total or 0) + abs(quantity)
    return total


def meter_of(line: Line) -> Meter | None:
    """What a line counts; None for one that counts nothing: rounding, what is unexplained, a correction."""
    component = line.component
    if component == "prompt":
        return Meter(" ".join(["Prompt", *filter(None, [line.modality]), "Tokens"]), "Tokens", PER_TOKENS)
    if component == "cache":
        return Meter(" ".join(["Cached Prompt", *filter(None, [line.modality]), "Tokens"]), "Tokens", PER_TOKENS)
    if component == "completion":
        return Meter("Completion Tokens", "Tokens", PER_TOKENS)
    if component.startswith(FEATURE):
        return Meter(f"Uses of {component.removeprefix(FEATURE)}", "Uses", 1)
    if component == "unitemized":
        return Meter("Results", "Results", 1)
    if component in PARTS:
        return Meter(component.capitalize(), component.capitalize(), 1, component)
    return None


def _above(price: AnyPrice | None, component: str, prompt_tokens: int | None) -> int | None:
    """The tier that holds, by where it begins; None if it is not known, or there are none for what is counted."""
    if not isinstance(price, Price) or component not in _TOKENS:
        return None
    if len(price.tiers) == 1:
        return price.tiers[0].above_prompt_tokens
    return None if prompt_tokens is None else price.tier(prompt_tokens).above_prompt_tokens


def _sku(sold: str, price: AnyPrice | None, line: Line, meter: Meter, above: int | None) -> Sku:
    path = "/".join(filter(None, [line.component, line.modality]))
    nanos = _unit_nanos(price, line, above)
    if price is None or nanos is None:
        return Sku(f"{sold}/{path}", meter, None, None, None)
    tier = [f"above-{above}"] if above else []
    details = {"x_EffectiveFrom": f"{price.effective_from:%Y-%m-%dT%H:%M:%SZ}", "x_Source": price.source}
    if isinstance(price, Price) and above is not None and len(price.tiers) > 1:
        details["x_Tier"] = f"more than {above} prompt tokens"
    return Sku(
        f"{sold}/{path}",
        meter,
        "/".join([price.id, path, *tier]),
        Decimal(nanos).scaleb(_NANO, EXACT),
        json.dumps(details, ensure_ascii=False),
    )


def _unit_nanos(price: AnyPrice | None, line: Line, above: int | None) -> int | None:
    """The list price in nano-USD of a pricing unit; None where it is not known.

    Cached tokens without a rate of their own cost the full input rate.
    """
    if price is None:
        return None
    if isinstance(price, OutputPrice):
        rate = price.rate_named(line.modality) if line.component == price.meter else None
        return rate.nanos if rate else None
    if line.component.startswith(FEATURE):
        fee = price.fee(line.component.removeprefix(FEATURE))
        return fee.nanos_per_unit if fee else None
    tier = next((tier for tier in price.tiers if tier.above_prompt_tokens == above), None)
    if tier is None:
        return None
    if line.component == "completion":
        return tier.completion
    if line.component == "cache" and line.modality in tier.cached:
        return tier.cached[line.modality]
    return tier.prompt.get(line.modality)
