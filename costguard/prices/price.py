"""One dated price list: tokens by modality -> cost lines, exactly.

A rate is an `int` of nano-USD per 1,000,000 tokens (what a price file's "0.5" becomes: 500,000,000),
so a line is one integer product, rounded once to a nano-dollar.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple, NoReturn

from costguard.budgets import from_us
from costguard.errors import ConfigurationError
from costguard.money import to_usd

PER_TOKENS = 1_000_000
"""The number of tokens a rate is stated for."""

COUNT_MAX = 10**9
"""No single count of tokens or uses may pass this: with the highest rate a line stays within 64 bits."""

_HALF = PER_TOKENS // 2


class PriceLine(NamedTuple):
    """One line of a cost: `quantity` tokens (or uses, for a feature) for `nanos` (1e-9 USD).

    `component` is "prompt", "cache", "completion" or "feature:NAME"; `modality` is "TEXT", "IMAGE", …
    for prompt and cache, and "" for the others.
    """

    component: str
    modality: str
    quantity: int
    nanos: int

    @property
    def cost(self) -> Decimal:
        """The line's cost in USD."""
        return to_usd(self.nanos)


class PricedCost(NamedTuple):
    """What some usage costs by a price list: the lines add up to `nanos`, to the nano-dollar.

    `price_id` names the entry used; `notes` say what a reader must know, such as an absent cached rate.
    Counts of 0 have no line.
    """

    nanos: int
    lines: tuple[PriceLine, ...]
    price_id: str
    notes: tuple[str, ...]

    @property
    def total(self) -> Decimal:
        """The cost in USD."""
        return to_usd(self.nanos)


class FeatureFee(NamedTuple):
    """The fee for one use of a feature (nano-dollars), and the most uses one request can make."""

    nanos_per_unit: int
    max_per_request: int


class Tier(NamedTuple):
    """Rates (nano-USD per 1M tokens) of a request with more than `above_prompt_tokens` in its prompt.

    `prompt` and `cached` are by modality; `cached` holds only the rates that are published.
    """

    above_prompt_tokens: int
    prompt: Mapping[str, int]
    cached: Mapping[str, int]
    completion: int


@dataclass(frozen=True, slots=True)
class Price:
    """One dated entry of a model's price list. Its `tiers` ascend from 0; `features` are fees by name.

    `checked` is the ISO date a person last compared the entry with `source`.
    """

    id: str
    effective_us: int
    """When it comes into force: microseconds from 1970 UTC."""
    checked: str
    source: str
    note: str
    tiers: tuple[Tier, ...]
    features: Mapping[str, FeatureFee]

    @property
    def effective_from(self) -> datetime:
        """When it comes into force (UTC); it holds until the next entry does."""
        return from_us(self.effective_us)

    def cost(
        self,
        prompt: Mapping[str, int],
        completion: int = 0,
        cached: int | Mapping[str, int] = 0,
        features: Mapping[str, int] | None = None,
        *,
        round_up: bool = False,
    ) -> PricedCost:
        """Price `prompt` tokens by modality, `completion` tokens and `features` uses by name.

        `cached` counts tokens of `prompt`, by modality; a plain int is taken from TEXT first, then from
        the other modalities in alphabetical order. Without a cached rate they cost the full input rate,
        and `notes` say so. The tier is decided by all prompt tokens, cached ones included: strictly above
        a threshold, the whole request takes the upper rates. Each line is rounded to a nano-dollar:
        half-even, or up with `round_up`.

        ConfigurationError names an argument that is not a count from 0 to `COUNT_MAX`, cached tokens
        beyond the prompt's, and a modality or feature without a price.
        """
        tokens_total = 0
        for modality, tokens in prompt.items():
            if type(tokens) is not int or not 0 <= tokens <= COUNT_MAX:
                _refuse_count(f"prompt[{modality!r}]", tokens)
            tokens_total += tokens
        if type(completion) is not int or not 0 <= completion <= COUNT_MAX:
            _refuse_count("completion", completion)
        tier = self.tier(tokens_total)
        hits = None if type(cached) is int and cached == 0 else _cached_by_modality(prompt, cached)
        notes: tuple[str, ...] = ()
        lines = []
        rates = tier.prompt
        for modality, tokens in prompt.items():
            if not tokens:
                continue
            rate = rates.get(modality)
            if rate is None:
                self._refuse_modality(modality)
            fresh = tokens - hits.get(modality, 0) if hits else tokens
            if fresh:
                lines.append(PriceLine("prompt", modality, fresh, _nanos(rate * fresh, round_up)))
        for modality, tokens in hits.items() if hits else ():
            rate = tier.cached.get(modality)
            if rate is None:
                rate = rates[modality]
                notes += (f"cached {modality} at the full input rate: {self.id} states no cached rate for it",)
            lines.append(PriceLine("cache", modality, tokens, _nanos(rate * tokens, round_up)))
        if completion:
            nanos = _nanos(tier.completion * completion, round_up)
            lines.append(PriceLine("completion", "", completion, nanos))
        if features:
            lines.extend(self._feature_lines(features))

        nanos = 0
        for line in lines:
            nanos += line.nanos
        return PricedCost(nanos, tuple(lines), self.id, notes)

    def nanos(self, prompt: Mapping[str, int], completion: int) -> int:
        """`cost(prompt, completion).nanos`, for a `completion` known to be good: without lines, at half the time."""
        tier = self.tier(sum(prompt.values()))
        nanos = _nanos(tier.completion * completion, False)
        for modality, tokens in prompt.items():
            if not 0 <= tokens <= COUNT_MAX:
                _refuse_count(f"prompt[{modality!r}]", tokens)
            rate = tier.prompt.get(modality)
            if rate is not None:
                nanos += _nanos(rate * tokens, False)
            elif tokens:
                self._refuse_modality(modality)
        return nanos

    def tier(self, prompt_tokens: int) -> Tier:
        """The rates of a request with so many tokens in its prompt, cached ones included."""
        tier = self.tiers[0]
        for upper_tier in self.tiers[1:]:
            if prompt_tokens > upper_tier.above_prompt_tokens:
                tier = upper_tier
        return tier

    def worst_nanos(self, prompt_upper: Mapping[str, int], completion: int, context_tokens: int) -> int:
        """The dearest cost (nano-dollars) of any prompt within `prompt_upper` and the context.

        `prompt_upper` bounds the tokens of each modality, `context_tokens` their sum: the most expensive
        modality fills the context first. A lower tier may be dearer, so every tier that such a prompt can
        reach is tried. `completion` tokens come on top; feature fees do not (see `fee`).

        Never below `cost` of such a prompt at either rounding, however much of it is cached: where a rate
        is no whole number of nano-dollars a token, one nano-dollar is added for each line it can make.
        ConfigurationError as for `cost`, but the bounds themselves may be of any size.
        """
        present = []
        for modality, tokens in prompt_upper.items():
            if type(tokens) is not int or tokens < 0:
                _refuse_count(f"prompt_upper[{modality!r}]", tokens)
            if tokens:
                if modality not in self.tiers[0].prompt:
                    self._refuse_modality(modality)
                present.append(modality)
        if type(completion) is not int or not 0 <= completion <= COUNT_MAX:
            _refuse_count("completion", completion)
        if type(context_tokens) is not int or not 0 <= context_tokens <= COUNT_MAX:
            _refuse_count("context_tokens", context_tokens)

        reach = min(sum(prompt_upper.values()), context_tokens)
        worst = 0
        for number, tier in enumerate(self.tiers):
            if number and reach <= tier.above_prompt_tokens:
                break
            last = number + 1 == len(self.tiers)
            room = reach if last else min(reach, self.tiers[number + 1].above_prompt_tokens)
            rates = tier.prompt
            product = 0
            lines_rounded = 0
            for modality in sorted(present, key=rates.__getitem__, reverse=True):
                rate = rates[modality]
                taken = min(room, prompt_upper[modality])
                room -= taken
                product += rate * taken
                if rate % PER_TOKENS:
                    lines_rounded += 2  # its prompt line and its cache line
            nanos = _nanos(product, True) + lines_rounded + _nanos(tier.completion * completion, True)
            worst = max(worst, nanos)
        return worst

    def fee(self, feature: str) -> FeatureFee | None:
        """The published fee of `feature` and its maximum per request, or None: unpriced, never free."""
        return self.features.get(feature)

    def _feature_lines(self, features: Mapping[str, int]) -> Iterable[PriceLine]:
        for name, uses in features.items():
            if type(uses) is not int or not 0 <= uses <= COUNT_MAX:
                _refuse_count(f"features[{name!r}]", uses)
            if not uses:
                continue
            fee = self.features.get(name)
            if fee is None:
                raise ConfigurationError(
                    f"features[{name!r}]: unpriced, {self.id} states no fee for it; fees known:"
                    f" {', '.join(sorted(self.features)) or 'none'}; add it to a price file of your own"
                )
            yield PriceLine(f"feature:{name}", "", uses, fee.nanos_per_unit * uses)

    def _refuse_modality(self, modality: str) -> NoReturn:
        raise ConfigurationError(
            f"prompt[{modality!r}]: {self.id} has no rate for this modality; it prices"
            f" {', '.join(sorted(self.tiers[0].prompt))}; add a rate to a price file of your own"
        )


def _nanos(product: int, round_up: bool) -> int:
    """Rate × tokens, divided by `PER_TOKENS` and rounded half-even, or up."""
    nanos, rest = divmod(product, PER_TOKENS)
    if rest and (round_up or rest > _HALF or (rest == _HALF and nanos & 1)):
        nanos += 1
    return nanos


def _cached_by_modality(prompt: Mapping[str, int], cached: int | Mapping[str, int]) -> dict[str, int]:
    """The cached part of each modality's tokens, zeros left out."""
    if isinstance(cached, Mapping):
        for modality, tokens in cached.items():
            if type(tokens) is not int or tokens < 0:
                _refuse_count(f"cached[{modality!r}]", tokens)
            if tokens > prompt.get(modality, 0):
                raise ConfigurationError(
                    f"cached[{modality!r}]: {tokens} tokens, but the prompt has {prompt.get(modality, 0)};"
                    " cached tokens are counted in the prompt too"
                )
        return {modality: tokens for modality, tokens in cached.items() if tokens}
    if type(cached) is not int or cached < 0:
        _refuse_count("cached", cached)
    hits = {}
    left = cached
    for modality in sorted(prompt, key=lambda name: (name != "TEXT", name)):
        taken = min(left, prompt[modality])
        if taken:
            hits[modality] = taken
            left -= taken
    if left:
        raise ConfigurationError(
            f"cached: {cached} tokens, but the prompt has {cached - left}; those are counted in it too"
        )
    return hits


def _refuse_count(what: str, value: object) -> NoReturn:
    raise ConfigurationError(f"{what}: expected a whole number from 0 to {COUNT_MAX}, got {value!r}")
