"""A provider's figures -> what is charged, line by line: exact, and never an error.

Whatever figures come, the charge's lines add up to the charge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from costguard.errors import ConfigurationError
from costguard.ledger.charges import COST_GAP_NANOS, GAP_NOTE, Basis, CacheReading, Charge, Line
from costguard.money import sum_known
from costguard.outputs import Output
from costguard.prices.model import AnyPrice
from costguard.prices.output import OutputPrice
from costguard.prices.price import Price
from costguard.wire.dialect import Figures

_UNSAID = Output()

ROUNDING_NANOS = 1_000
"""A provider's figures have 6 decimals or more: each leaf may be 0.000001 USD away from its true value."""

RAW_CHARS_MAX = 8_000
"""Characters of a charge's figures that are kept where it is odd."""


def charge_each(
    items: Sequence[Figures],
    *,
    price: AnyPrice | None,
    prompt_expected: Mapping[str, int] | None,
    expected_nanos: int | None,
    asked: Output = _UNSAID,
) -> list[Charge]:
    """A charge for each result of one task: the total of its breakdown, else its cost, else usage x price, else
    what was expected.

    `prompt_expected` (tokens by modality) and `expected_nanos` are those of ONE result, and so is `asked`: what it is
    to be, where it is no text. A result that says nothing is charged at `expected_nanos`, else at the dearest of its
    siblings. No charges at all when nothing is known of any: then the task stays unresolved, for unknown is never
    zero. Raises nothing, whatever the figures.
    """
    return [_charge(part) for part in _read(items, price, prompt_expected, expected_nanos, asked)]


def _read(
    items: Sequence[Figures],
    price: AnyPrice | None,
    prompt_expected: Mapping[str, int] | None,
    expected_nanos: int | None,
    asked: Output,
) -> list[_Result]:
    """The results with what each is charged; none if nothing is known of any."""
    parts = [_Result(figures, price, prompt_expected, asked) for figures in items]
    unknown = [part for part in parts if part.nanos is None]
    if unknown:
        assumed, source = expected_nanos, "charged as expected"
        if assumed is None:
            known = [part.nanos for part in parts if part.nanos is not None]
            assumed, source = max(known, default=None), "charged as its dearest sibling"
        if assumed is None:
            return []
        for part in unknown:
            part.assume(assumed, source)
    return parts


def _charge(part: _Result) -> Charge:
    """The charge of a single result."""
    lines = part.lines
    if len({line[:2] for line in lines}) < len(lines):
        merged: dict[tuple[str, str], Line] = {}
        for line in lines:
            seen = merged.get(line[:2])
            merged[line[:2]] = line if seen is None else seen.joined(line)
        lines = list(merged.values())
    figures = part.figures
    return Charge(
        part.nanos or 0,
        part.basis,
        tuple(lines),
        figures.cost,
        figures.total,
        part.computed,
        part.price_id,
        figures.prompt_tokens,
        figures.completion_tokens,
        figures.reasoning_tokens,
        figures.cached_tokens,
        part.cache_reading,
        part.odd,
        tuple(dict.fromkeys(part.notes)),
        f"[{figures.raw()}]"[:RAW_CHARS_MAX] if part.odd else None,
        1,
    )


class _Result:
    """What is charged for one result, and why."""

    __slots__ = (
        "basis",
        "cache_reading",
        "computed",
        "figures",
        "lines",
        "nanos",
        "notes",
        "odd",
        "price_id",
    )

    def __init__(
        self, figures: Figures, price: AnyPrice | None, prompt_expected: Mapping[str, int] | None, asked: Output
    ) -> None:
        self.figures = figures
        self.notes = list(figures.notes)
        self.odd = figures.odd
        self.nanos: int | None = None
        self.basis: Basis = "assumed"
        self.lines: list[Line] = []
        self.cache_reading: CacheReading | None = None
        if figures.total is not None:
            self.basis = "breakdown"
            self._itemize(figures.total)
        elif figures.cost is not None:
            self.basis = "cost"
            self.nanos = figures.cost
            self.lines = self._unitemized(figures.cost)
        self.computed: int | None = None
        self.price_id: str | None = None
        if isinstance(price, OutputPrice):
            self._measure(price, figures.made.over(asked))
        elif price is not None and figures.completion_tokens is not None:
            self._compute(price, figures.completion_tokens, prompt_expected)

    def assume(self, nanos: int, source: str) -> None:
        """Nothing usable was said: charge `nanos`."""
        self.nanos = nanos
        self.lines = self._unitemized(nanos)
        self.notes.append(f"no usable figure: {source}")

    def _unitemized(self, nanos: int) -> list[Line]:
        tokens = self.figures.total_tokens
        return [Line("unitemized", "", tokens, nanos)] if nanos or tokens else []

    def _odd(self, note: str) -> None:
        self.odd = True
        self.notes.append(note)

    def _itemize(self, total: int) -> None:
        """Lines for `total`, and for what a larger `cost` exceeds it by."""
        figures = self.figures
        unexplained = 0
        self.nanos = total
        if figures.cost is not None and abs(figures.cost - total) > COST_GAP_NANOS:
            self._odd(GAP_NOTE)
            self.nanos = max(figures.cost, total)
            unexplained = self.nanos - total
        rest = figures.rest
        if rest is None or not (rest or figures.prompt or figures.cache):
            self.lines = self._unitemized(total)
        else:
            self.lines = self._with_cache(total, rest)
            gap = total - sum([line.nanos for line in self.lines])
            if gap:
                leaves = [line for line in (*figures.prompt, *figures.cache, *rest) if line.nanos or line.quantity]
                if abs(gap) > ROUNDING_NANOS * len(leaves):
                    self._odd("the breakdown does not add up to its total")
                    unexplained += gap
                else:
                    self.lines.append(Line("rounding", "", None, gap))
        if unexplained:
            self.lines.append(Line("unexplained", "", None, unexplained))

    def _with_cache(self, total: int, rest: Sequence[Line]) -> list[Line]:
        """All leaves that cost or count something, the cache counted once."""
        prompt: Sequence[Line] = self.figures.prompt
        cache = [line for line in self.figures.cache if line.nanos or line.quantity]
        if cache:
            if len(prompt) == 1 and len(cache) == 1 and not cache[0].modality:
                cache = [cache[0]._replace(modality=prompt[0].modality)]
            without = total - sum([line.nanos for line in (*prompt, *rest)])
            cache_nanos = sum([line.nanos for line in cache])
            tolerance = ROUNDING_NANOS * (len(prompt) + len(cache) + len(rest))
            inside, outside = abs(without), abs(without - cache_nanos)
            if min(inside, outside) <= tolerance:
                self.cache_reading = "inside" if inside < outside else "outside"
            if inside == outside and self.cache_reading:
                self.cache_reading = self._cache_reading_by_tokens()
            if self.cache_reading == "inside":
                fresh = _without_cache(prompt, cache)
                if fresh is None:
                    self.notes.append("the prompt's lines include the cache, which is not stated by modality")
                    cache = []
                else:
                    prompt = fresh
        return [line for line in (*prompt, *cache, *rest) if line.nanos or line.quantity]

    def _cache_reading_by_tokens(self) -> CacheReading:
        """A free cache leaves every sum as it is: let the counts decide, and inside be the usual reading."""
        itemized = sum_known([line.quantity for line in self.figures.prompt])
        cached = self.figures.cached_tokens or 0
        if itemized is None or cached > itemized or self.figures.prompt_tokens == itemized + cached:
            return "outside"
        return "inside"

    def _measure(self, price: OutputPrice, made: Output) -> None:
        """What was made at our own price, charged if there is no figure; a figure alone is of so much."""
        try:
            priced = price.cost(made)
        except ConfigurationError:
            return
        self.computed, self.price_id = priced.nanos, priced.price_id
        if self.nanos is None:
            self.basis = "computed"
            self.nanos = priced.nanos
            self.lines = [Line(*line) for line in priced.lines]
            self.notes.append("no usable figure: what was made is charged at the price list")
        elif self.basis == "cost":
            self.lines = [Line(*line)._replace(nanos=self.nanos) for line in priced.lines]

    def _compute(self, price: Price, completion: int, prompt_expected: Mapping[str, int] | None) -> None:
        """The usage at our own prices, charged if there is no figure; nothing where it holds what has no price."""
        figures = self.figures
        try:
            prompt = {line.modality: line.quantity or 0 for line in figures.prompt if line.quantity != 0}
            if not prompt or "" in prompt or not all(prompt.values()):
                if not figures.prompt_tokens:
                    return  # no prompt has 0 tokens: the usage is not known
                prompt = _split(figures.prompt_tokens, prompt_expected or {}, price)
            cached: int | dict[str, int] = figures.cached_tokens or 0
            by_modality = {line.modality: line.quantity for line in figures.cache if line.quantity}
            if by_modality and "" not in by_modality:
                cached = by_modality
            if self.cache_reading == "outside" and cached:
                added = cached if isinstance(cached, dict) else {next(iter(prompt)): cached}
                for modality, tokens in added.items():
                    prompt[modality] = prompt.get(modality, 0) + tokens
                cached = added
            features = {
                line.component.removeprefix("feature:"): line.quantity or 0
                for line in figures.rest or ()
                if (line.nanos or line.quantity) and line.component.startswith("feature:")
            }
            if not all(features.values()):
                return  # billed uses of a feature that are not counted
            if self.nanos is not None and not cached and not features:
                self.computed, self.price_id = price.nanos(prompt, completion), price.id
                return
            priced = price.cost(prompt, completion, cached, features)
            written = -(-price.nanos(prompt, 0) * figures.written_percent // (100 * (sum(prompt.values()) or 1)))
        except ConfigurationError:
            return
        self.computed, self.price_id = priced.nanos + written, priced.price_id
        if self.nanos is None:
            self.basis = "computed"
            self.nanos = self.computed
            self.lines.extend(Line(*line) for line in priced.lines)
            if written:
                self.lines.append(Line("feature:cache_write", "", None, written))
            self.notes.append("no usable figure: usage charged at the price list")
            if figures.cached_tokens:
                self.notes.append("cached tokens taken as a part of the prompt")
            self.notes.extend(priced.notes)


def _split(prompt_tokens: int, expected: Mapping[str, int], price: Price) -> dict[str, int]:
    """A prompt's tokens by modality: text as estimated, the rest to the dearest of the media present."""
    media = [modality for modality, tokens in expected.items() if tokens and modality != "TEXT"]
    if not media:
        return {"TEXT": prompt_tokens}
    text = min(expected.get("TEXT", 0), prompt_tokens)
    splits = [{"TEXT": text, modality: prompt_tokens - text} for modality in media]
    return splits[0] if len(splits) == 1 else max(splits, key=lambda split: price.cost(split).nanos)


def _without_cache(prompt: Sequence[Line], cache: Sequence[Line]) -> list[Line] | None:
    """The prompt's lines less the cache's; None where they do not fit into each other."""
    fresh = {line.modality: line for line in prompt}
    for line in cache:
        whole = fresh.get(line.modality)
        if whole is None or whole.quantity is None or line.quantity is None:
            return None
        quantity, nanos = whole.quantity - line.quantity, whole.nanos - line.nanos
        if quantity < 0 or nanos < 0:
            return None
        fresh[line.modality] = whole._replace(quantity=quantity, nanos=nanos)
    return list(fresh.values())
