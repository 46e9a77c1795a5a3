"""A provider's figures -> what is charged, line by line: exact, and never an error.

Providers send figures that are missing, odd or absurd. Whatever comes, the charge's lines add up to the
charge, and what could not be used is named in `notes` and kept in `raw`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from costguard.errors import ConfigurationError
from costguard.ledger.charges import Basis, CacheReading, Charge, Line
from costguard.money import NANOS, from_provider, sum_known

if TYPE_CHECKING:
    from costguard.prices.price import Price

FIGURE_MAX = 1_000_000
"""USD. A provider's figure above this is taken for an error, not for a bill."""

COUNT_MAX = 10**9
"""Tokens or uses. A provider's count above this is taken for an error."""

ROUNDING_NANOS = 1_000
"""A provider's figures have 6 decimals or more: each leaf may be 0.000001 USD away from its true value."""

COST_GAP_NANOS = 5_000
"""`cost` is `total` rounded to 5 decimals: rounding alone explains a difference of 0.000005 USD."""

RAW_CHARS_MAX = 8_000
_RAW_STRING_CHARS = 40
_RAW_DEPTH = 10
_NAME_CHARS = 60

_FIGURE_TEXT = re.compile(r"[-+$ ]{0,3}[0-9][0-9.,eE+-]{0,38}|NaN|-?Infinity|[A-Z]{1,12}")
_NAME_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")


class Figures(NamedTuple):
    """What a provider says one result cost: its `cost` and `usage` values as parsed, Decimal for float.

    Either may be None (absent) or of any JSON shape; nothing about them is trusted.
    """

    cost: Any = None
    usage: Any = None

    def raw(self) -> str:
        """Both as compact canonical JSON in ASCII: keys sorted, equal numbers written equally.

        Long strings are cut, so that no answer's text can hide in a figure; NaN appears as a bare word.
        """
        return _compact({"cost": self.cost, "usage": self.usage}, _RAW_DEPTH)


def charge_each(
    items: Sequence[Figures],
    *,
    price: Price | None,
    prompt_expected: Mapping[str, int] | None,
    expected_nanos: int | None,
) -> list[Charge]:
    """A charge for each result of one task: its `costBreakdown.total`, else `cost`, else usage x price, else
    what was expected.

    `prompt_expected` (tokens by modality) and `expected_nanos` are those of ONE result. A result that says
    nothing is charged at `expected_nanos`, else at the dearest of its siblings. No charges at all when nothing
    is known of any: then the task stays unresolved, for unknown is never zero. Raises nothing, whatever the
    figures.
    """
    return [_charge(part) for part in _read(items, price, prompt_expected, expected_nanos)]


def _read(
    items: Sequence[Figures],
    price: Price | None,
    prompt_expected: Mapping[str, int] | None,
    expected_nanos: int | None,
) -> list[_Result]:
    """The results with what each is charged; none if nothing is known of any."""
    parts = [_Result(figures, price, prompt_expected) for figures in items]
    known = [part.nanos for part in parts if part.nanos is not None]
    assumed, source = expected_nanos, "charged as expected"
    if assumed is None:
        assumed, source = max(known, default=None), "charged as its dearest sibling"
    if assumed is None:
        return []
    for part in parts:
        if part.nanos is None:
            part.assume(assumed, source)
    return parts


def _charge(part: _Result) -> Charge:
    """The charge of a single result."""
    lines = part.lines
    if len({line[:2] for line in lines}) < len(lines):
        merged: dict[tuple[str, str], Line] = {}
        for line in lines:
            seen = merged.get(line[:2])
            merged[line[:2]] = line if seen is None else _joined(seen, line)
        lines = list(merged.values())
    return Charge(
        part.nanos or 0,
        part.basis,
        tuple([line for line in lines if line.nanos or line.quantity]),
        part.cost,
        part.total,
        part.computed,
        part.price_id,
        part.prompt_tokens,
        part.completion_tokens,
        part.reasoning_tokens,
        part.cached_tokens,
        part.cache_reading,
        part.odd,
        tuple(dict.fromkeys(part.notes)),
        f"[{part.figures.raw()}]"[:RAW_CHARS_MAX] if part.odd else None,
        1,
    )


class _UnreadableLeafError(Exception):
    """A leaf of a breakdown cannot be used, so none of its lines can."""


class _Result:
    """The figures of one result, read once: what is charged for it, and why."""

    __slots__ = (
        "basis",
        "cache",
        "cache_reading",
        "cached_tokens",
        "completion_tokens",
        "computed",
        "cost",
        "features",
        "figures",
        "lines",
        "nanos",
        "notes",
        "odd",
        "price_id",
        "prompt",
        "prompt_tokens",
        "reasoning_tokens",
        "total",
        "total_tokens",
    )

    def __init__(self, figures: Figures, price: Price | None, prompt_expected: Mapping[str, int] | None) -> None:
        self.figures = figures
        self.notes: list[str] = []
        self.odd = False
        self.nanos: int | None = None
        self.basis: Basis = "assumed"
        self.lines: list[Line] = []
        self.prompt: list[Line] = []
        self.cache: list[Line] = []
        self.features: list[Line] = []
        self.cache_reading: CacheReading | None = None

        usage = self._object(figures.usage, "usage")
        breakdown = self._object(usage.get("costBreakdown"), "costBreakdown")
        tokens = self._object(breakdown.get("tokens"), "costBreakdown.tokens")
        self.cost = self._amount(figures.cost, "cost")
        self.total = self._amount(breakdown.get("total"), "costBreakdown.total")
        self._read_counts(usage, tokens)
        leaves = self._read_leaves(breakdown, tokens) if breakdown else None

        if self.total is not None:
            self.basis = "breakdown"
            self._itemize(self.total, leaves)
        elif self.cost is not None:
            self.basis = "cost"
            self.nanos = self.cost
            self.lines.append(Line("unitemized", "", self.total_tokens, self.cost))
        self.computed: int | None = None
        self.price_id: str | None = None
        if price is not None and self.completion_tokens is not None:
            self._compute(price, self.completion_tokens, prompt_expected)

    def assume(self, nanos: int, source: str) -> None:
        """Nothing usable was said: charge `nanos`."""
        self.nanos = nanos
        self.lines = [Line("unitemized", "", self.total_tokens, nanos)]
        self.notes.append(f"no usable figure: {source}")

    def _odd(self, note: str) -> None:
        self.odd = True
        self.notes.append(note)

    def _object(self, value: Any, where: str) -> dict[str, Any]:
        """An object of the figures; absent or of another shape, an empty one."""
        if isinstance(value, dict):
            return value
        if value is not None:
            self._odd(f"{where} is not an object")
        return {}

    def _amount(self, value: Any, *where: str) -> int | None:
        """Nano-dollars of a figure in USD from 0 to `FIGURE_MAX`; None if it is absent or unusable."""
        nanos = _usable_nanos(value)
        if nanos is None and value is not None:
            self._odd(f"{' '.join(filter(None, where))} is unusable")
        return nanos

    def _count(self, value: Any, *where: str) -> int | None:
        """A count from 0 to `COUNT_MAX` (74.0 is one); None if it is absent or unusable."""
        if type(value) is int:
            if 0 <= value <= COUNT_MAX:
                return value
        elif value is None:
            return None
        elif type(value) is Decimal and value.is_finite() and 0 <= value <= COUNT_MAX and value == int(value):
            return int(value)
        self._odd(f"{' '.join(filter(None, where))} is unusable")
        return None

    def _read_counts(self, usage: dict[str, Any], tokens: dict[str, Any]) -> None:
        count = self._count
        self.prompt_tokens = count(usage.get("promptTokens"), "promptTokens")
        completion = count(usage.get("completionTokens"), "completionTokens")
        total = self.total_tokens = count(usage.get("totalTokens"), "totalTokens")
        details = usage.get("completionTokensDetails")
        reasoning = details.get("reasoningTokens") if isinstance(details, dict) else None
        self.reasoning_tokens = count(
            usage.get("thinkingTokens") if reasoning is None else reasoning, "reasoning tokens"
        )
        billed = tokens.get("completion")
        stated = count(billed.get("billableTokens"), "completion billableTokens") if isinstance(billed, dict) else None
        if stated is not None:
            completion = stated
        elif completion is not None and self.reasoning_tokens:
            # Runware's pages hold both readings of "reasoning tokens"; the total tells which one this is.
            beside = (self.prompt_tokens or 0) + completion + self.reasoning_tokens
            if self.reasoning_tokens > completion or total == beside:
                completion += self.reasoning_tokens
                self.notes.append("reasoning tokens counted beside the completion")
        self.completion_tokens = completion
        if total is None and self.prompt_tokens is not None and completion is not None:
            self.total_tokens = self.prompt_tokens + completion
        prompt_details = usage.get("promptTokensDetails")
        self.cached_tokens = count(
            prompt_details.get("cachedTokens") if isinstance(prompt_details, dict) else None, "cachedTokens"
        )

    def _read_leaves(self, breakdown: dict[str, Any], tokens: dict[str, Any]) -> list[Line] | None:
        """All leaves but prompt and cache, which get attributes; None if any leaf is unusable."""
        try:
            prompt = self._group(tokens.get("prompt"), "prompt")
            cache = self._group(tokens.get("cache"), "cache")
            rest = []
            completion = tokens.get("completion")
            if completion is not None:
                leaf = self._leaf(completion, "completion", "", "billableTokens")
                if leaf.quantity is None and self.completion_tokens:
                    leaf = leaf._replace(quantity=self.completion_tokens)
                rest.append(leaf)
            for name, feature in self._object(breakdown.get("features"), "features").items():
                if feature is None:
                    continue
                leaf = self._leaf(feature, f"feature:{_name(name)}", "", "count")
                rest.append(leaf)
                if leaf.nanos or leaf.quantity:
                    self.features.append(leaf)
        except _UnreadableLeafError as fault:
            self._odd(f"the breakdown cannot be itemized: {fault}")
            return None
        if self.prompt_tokens is None and prompt:
            self.prompt_tokens = sum_known([line.quantity for line in prompt])
        elif len(prompt) == 1 and prompt[0].quantity is None:
            prompt = [prompt[0]._replace(quantity=self.prompt_tokens)]
        self.prompt, self.cache = prompt, cache
        cached = sum_known([line.quantity for line in cache]) if cache else None
        if cached is not None:
            self.cached_tokens = cached
        return rest

    def _group(self, node: Any, component: str) -> list[Line]:
        """The leaves of the prompt or the cache: one a modality, or one for all."""
        if node is None:
            return []
        modalities = node.get("modalities") if isinstance(node, dict) else None
        if modalities is None or modalities == []:
            return [self._leaf(node, component, "", "billableTokens")]
        if not isinstance(modalities, list):
            raise _UnreadableLeafError(f"{component}.modalities")
        merged: dict[str, Line] = {}
        for leaf_node in modalities:
            name = _name(leaf_node.get("modality") if isinstance(leaf_node, dict) else None).upper()
            leaf = self._leaf(leaf_node, component, name, "tokens")
            merged[name] = _joined(merged[name], leaf) if name in merged else leaf
        return list(merged.values())

    def _leaf(self, node: Any, component: str, modality: str, count_key: str) -> Line:
        if not isinstance(node, dict):
            raise _UnreadableLeafError(f"{component} {modality}".rstrip())
        quantity = node.get(count_key)
        if type(quantity) is not int or not 0 <= quantity <= COUNT_MAX:
            quantity = self._count(quantity, component, modality, count_key)
        cost = node.get("cost")
        nanos = _usable_nanos(cost)
        if nanos is None:
            self._amount(cost, component, modality, "cost")  # says why
            if cost is not None or quantity:
                raise _UnreadableLeafError(f"{component} {modality}".rstrip())
            nanos = 0
        return Line(component, modality, quantity, nanos)

    def _itemize(self, total: int, rest: list[Line] | None) -> None:
        """Lines for `total`, and for what a larger `cost` exceeds it by."""
        unexplained = 0
        self.nanos = total
        if self.cost is not None and abs(self.cost - total) > COST_GAP_NANOS:
            self._odd("cost and costBreakdown.total differ: the larger is charged")
            self.nanos = max(self.cost, total)
            unexplained = self.nanos - total
        if rest is None or not (rest or self.prompt or self.cache):
            self.lines.append(Line("unitemized", "", self.total_tokens, total))
        else:
            self.lines = self._with_cache(total, rest)
            gap = total - sum([line.nanos for line in self.lines])
            if gap:
                leaves = [line for line in (*self.prompt, *self.cache, *rest) if line.nanos or line.quantity]
                if abs(gap) > ROUNDING_NANOS * len(leaves):
                    self._odd("the breakdown does not add up to its total")
                    unexplained += gap
                else:
                    self.lines.append(Line("rounding", "", None, gap))
        if unexplained:
            self.lines.append(Line("unexplained", "", None, unexplained))

    def _with_cache(self, total: int, rest: list[Line]) -> list[Line]:
        """All leaves that cost or count something, the cache counted once."""
        prompt = self.prompt
        cache = [line for line in self.cache if line.nanos or line.quantity]
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
        itemized = sum_known([line.quantity for line in self.prompt])
        cached = self.cached_tokens or 0
        if itemized is None or cached > itemized or self.prompt_tokens == itemized + cached:
            return "outside"
        return "inside"

    def _compute(self, price: Price, completion: int, prompt_expected: Mapping[str, int] | None) -> None:
        """The usage at our own prices, charged if there is no figure; nothing where it holds what has no price."""
        try:
            prompt = {line.modality: line.quantity or 0 for line in self.prompt if line.quantity != 0}
            if not prompt or "" in prompt or not all(prompt.values()):
                if not self.prompt_tokens:
                    return  # no prompt has 0 tokens: the usage is not known
                prompt = _split(self.prompt_tokens, prompt_expected or {}, price)
            cached: int | dict[str, int] = self.cached_tokens or 0
            by_modality = {line.modality: line.quantity for line in self.cache if line.quantity}
            if by_modality and "" not in by_modality:
                cached = by_modality
            if self.cache_reading == "outside" and cached:
                added = cached if isinstance(cached, dict) else {next(iter(prompt)): cached}
                for modality, tokens in added.items():
                    prompt[modality] = prompt.get(modality, 0) + tokens
                cached = added
            features = {line.component.removeprefix("feature:"): line.quantity or 0 for line in self.features}
            if not all(features.values()):
                return  # billed uses of a feature that are not counted
            if self.nanos is not None and not cached and not features:
                self.computed, self.price_id = price.nanos(prompt, completion), price.id
                return
            priced = price.cost(prompt, completion, cached, features)
        except ConfigurationError:
            return
        self.computed, self.price_id = priced.nanos, priced.price_id
        if self.nanos is None:
            self.basis = "computed"
            self.nanos = priced.nanos
            self.lines.extend(Line(*line) for line in priced.lines)
            self.notes.append("no usable figure: usage charged at the price list")
            if self.cached_tokens:
                self.notes.append("cached tokens taken as a part of the prompt")
            self.notes.extend(priced.notes)


def _usable_nanos(value: Any) -> int | None:
    """Nano-dollars of a figure in USD from 0 to `FIGURE_MAX`; None for anything else."""
    if type(value) is Decimal:
        return from_provider(value) if value.is_finite() and 0 <= value <= FIGURE_MAX else None
    return value * NANOS if type(value) is int and 0 <= value <= FIGURE_MAX else None


def _split(prompt_tokens: int, expected: Mapping[str, int], price: Price) -> dict[str, int]:
    """A prompt's tokens by modality: text as estimated, the rest to the dearest of the media present."""
    media = [modality for modality, tokens in expected.items() if tokens and modality != "TEXT"]
    if not media:
        return {"TEXT": prompt_tokens}
    text = min(expected.get("TEXT", 0), prompt_tokens)
    splits = [{"TEXT": text, modality: prompt_tokens - text} for modality in media]
    return splits[0] if len(splits) == 1 else max(splits, key=lambda split: price.cost(split).nanos)


def _without_cache(prompt: list[Line], cache: list[Line]) -> list[Line] | None:
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


def _name(value: Any) -> str:
    """The name of a modality or feature, fit to be stored."""
    if not isinstance(value, str) or not value or len(value) > _NAME_CHARS or not value.isprintable():
        raise _UnreadableLeafError("a name")
    return value


def _joined(a: Line, b: Line) -> Line:
    quantity = None if a.quantity is None or b.quantity is None else a.quantity + b.quantity
    return Line(a.component, a.modality, quantity, a.nanos + b.nanos)


def _compact(node: Any, depth: int) -> str:
    """Canonical JSON of a parsed value, bounded in depth and in the length of its strings."""
    if isinstance(node, str):
        # A text that is no figure may be a piece of an answer.
        return json.dumps(node if _FIGURE_TEXT.fullmatch(node) else "...")
    if node is None or isinstance(node, bool):
        return json.dumps(node)
    if isinstance(node, Decimal):
        if not node.is_finite() or abs(node.adjusted()) > _RAW_STRING_CHARS:
            return str(node)
        text = f"{node:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(node, int):
        return str(node)
    if depth == 0 or not isinstance(node, (dict, list)):
        return '"..."'
    if isinstance(node, list):
        return f"[{','.join([_compact(entry, depth - 1) for entry in node])}]"
    names = {key: key if _NAME_TEXT.fullmatch(str(key)) else "..." for key in node}
    entries = [f"{json.dumps(names[key])}:{_compact(node[key], depth - 1)}" for key in sorted(node, key=str)]
    return "{" + ",".join(entries) + "}"
