"""What Runware says one result cost: its `cost` and `usage`, merged over tellings, read into exact figures.

Figures that are missing, odd or absurd are met in the field: whatever could not be used is named in `notes`,
and what was told is kept as `raw`. Nothing here raises.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, NamedTuple

from costguard.ledger.charges import Line
from costguard.money import NANOS, from_provider, sum_known
from costguard.outputs import Output
from costguard.wire.dialect import Figures
from costguard.wire.runware.tellings import (
    COUNT_MAX,
    FIGURE_MAX,
    compact,
    is_finite,
    merge,
    number,
    says_something,
)

_NAME_CHARS = 60
_ZERO, _FIGURE_MAX = Decimal(0), Decimal(FIGURE_MAX)


class Told(NamedTuple):
    """The `cost` and `usage` of one result as parsed, Decimal for float; either may be None or of any shape.

    `made`: what the result is told to be, where it is no text; no figure by itself.
    """

    cost: Any = None
    usage: Any = None
    made: Output = Output()

    @property
    def is_empty(self) -> bool:
        """True if nothing was told."""
        return self.cost is None and self.usage is None

    @property
    def is_nothing(self) -> bool:
        """True if no figure was told but zeros: they stand where nothing is known yet."""
        return not says_something(self.cost) and not says_something(self.usage)

    def raw(self) -> str:
        """Both as compact canonical JSON in ASCII: keys sorted, equal numbers written equally.

        Long strings are cut, so that no answer's text can hide in a figure; NaN appears as a bare word.
        """
        return compact({"cost": self.cost, "usage": self.usage})

    def merged(self, later: Told) -> Told:
        """Both tellings of one result, field by field: what is untold takes nothing away, no figure falls."""
        made = later.made.over(self.made)
        if self.is_empty or later.is_empty:
            return (later if self.is_empty else self)._replace(made=made)
        return Told(merge(self.cost, later.cost, FIGURE_MAX), merge(self.usage, later.usage), made)

    @property
    def has_total(self) -> bool:
        """True if the exact total was told: `cost` alone is rounded, and a zero may stand for what is to come."""
        breakdown = self.usage.get("costBreakdown") if isinstance(self.usage, dict) else None
        return isinstance(breakdown, dict) and bool(_usable_nanos(breakdown.get("total")))

    def read(self) -> Figures:
        """The figures, exactly."""
        return _Reading(self).figures()


class _UnreadableLeafError(Exception):
    """A leaf of a breakdown cannot be used, so none of its lines can."""


class _Reading:
    """One result's figures, read once."""

    __slots__ = (
        "cache",
        "cached_tokens",
        "completion_tokens",
        "cost",
        "is_thin",
        "notes",
        "odd",
        "prompt",
        "prompt_tokens",
        "reasoning_tokens",
        "rest",
        "told",
        "total",
        "total_tokens",
    )

    def __init__(self, told: Told) -> None:
        self.told = told
        self.notes: list[str] = []
        self.odd = False
        self.is_thin = False
        """A leaf is there and does not tell its cost."""
        self.prompt: list[Line] = []
        self.cache: list[Line] = []
        usage = self._object(told.usage, "usage")
        breakdown = self._object(usage.get("costBreakdown"), "costBreakdown")
        tokens = self._object(breakdown.get("tokens"), "costBreakdown.tokens")
        self.cost = self._amount(told.cost, "cost")
        within = self._amount(usage.get("cost"), "usage.cost")
        if within is not None and (self.cost is None or within > self.cost):
            self.cost = within  # some models tell the cost within the usage: of two the larger
        self.total = self._amount(breakdown.get("total"), "costBreakdown.total")
        self._read_counts(usage, tokens)
        self.rest = self._read_leaves(breakdown, tokens) if breakdown else None
        self._check_counts(usage, tokens)
        if not self.total and self.rest is not None:
            self._add_up(breakdown)

    def figures(self) -> Figures:
        """What was read."""
        return Figures(
            self.cost,
            self.total,
            tuple(self.prompt),
            tuple(self.cache),
            None if self.rest is None else tuple(self.rest),
            self.prompt_tokens,
            self.completion_tokens,
            self.reasoning_tokens,
            self.cached_tokens,
            self.total_tokens,
            self.odd,
            tuple(self.notes),
            self.told.raw,
            made=self.told.made,
        )

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
        if value is None:
            return None
        nanos = _usable_nanos(value)
        if nanos is None:
            self._odd(f"{' '.join(filter(None, where))} is unusable")
        return nanos

    def _count(self, value: Any, *where: str) -> int | None:
        """A count from 0 to `COUNT_MAX` (74.0 and "74" are one); None if it is absent or unusable."""
        if value is None or (type(value) is int and 0 <= value <= COUNT_MAX):
            return value
        count = usable_count(value)
        if count is None:
            self._odd(f"{' '.join(filter(None, where))} is unusable")
        return count

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

    def _check_counts(self, usage: dict[str, Any], tokens: dict[str, Any]) -> None:
        """Tokens that their parts do not explain may be tokens that somebody pays for."""
        prompt, completion, total = self.prompt_tokens, self.completion_tokens, self.total_tokens
        if prompt is not None and completion is not None and total is not None and total != prompt + completion:
            beside = (self.reasoning_tokens or 0, self.cached_tokens or 0)
            if usage.get("totalTokens") is not None and total - prompt - completion not in (*beside, sum(beside)):
                self._odd("totalTokens is not the sum of its parts")
        if self.prompt and prompt is not None:
            itemized = sum_known([line.quantity for line in self.prompt])
            if (
                itemized is not None
                and itemized != prompt
                and abs(prompt - itemized) not in (0, self.cached_tokens or 0)
            ):
                self._odd("promptTokens is not the sum of its modalities")
        billed = tokens.get("completion")
        if completion is not None and isinstance(billed, dict):
            text, reasoning = billed.get("textTokens"), billed.get("reasoningTokens")
            if type(text) is not int or type(reasoning) is not int:
                text, reasoning = usable_count(text), usable_count(reasoning)
            if text is not None and reasoning is not None and text + reasoning != completion:
                self._odd("the completion's billableTokens are not the sum of their parts")

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
                if feature is not None:
                    rest.append(self._leaf(feature, f"feature:{_name(name)}", "", "count"))
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
        priced = [leaf for leaf in modalities if isinstance(leaf, dict) and leaf.get("cost") is not None]
        if not priced and _usable_nanos(node.get("cost")) is not None:
            # The cost is told of the group alone.
            name = _name(modalities[0].get("modality")).upper() if _is_single(modalities) else ""
            return [self._leaf(node, component, name, "billableTokens")]
        merged: dict[str, Line] = {}
        for leaf_node in modalities:
            name = _name(leaf_node.get("modality") if isinstance(leaf_node, dict) else None).upper()
            leaf = self._leaf(leaf_node, component, name, "tokens")
            merged[name] = leaf.joined(merged[name]) if name in merged else leaf
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
            self.is_thin = self.is_thin or component in ("prompt", "completion")
            if cost is not None or quantity:
                raise _UnreadableLeafError(f"{component} {modality}".rstrip())
            nanos = 0
        return Line(component, modality, quantity, nanos)

    def _add_up(self, breakdown: dict[str, Any]) -> None:
        """The total of a breakdown that tells its leaves and not their sum, if no leaf is known to be missing."""
        leaves = [*self.prompt, *self.cache, *(self.rest or ())]
        told = {line.component for line in leaves}
        total = sum(line.nanos for line in leaves)
        if self.total == 0 and total:
            self._odd("the breakdown's total is 0, and its leaves are not: they were added up")
            self.total = total
        if not leaves or self.is_thin or breakdown.get("total") is not None:
            return
        if (self.prompt_tokens != 0 and "prompt" not in told) or (
            self.completion_tokens != 0 and "completion" not in told
        ):
            return
        self.total = total
        self.notes.append("the breakdown tells no total: its leaves were added up")


def _is_single(modalities: list[Any]) -> bool:
    return len(modalities) == 1 and isinstance(modalities[0], dict)


def _usable_nanos(value: Any) -> int | None:
    """Nano-dollars of a figure in USD from 0 to `FIGURE_MAX`; None for anything else."""
    kind = type(value)
    if kind is Decimal:
        return from_provider(value) if value.is_finite() and _ZERO <= value <= _FIGURE_MAX else None
    if kind is int:
        return value * NANOS if 0 <= value <= FIGURE_MAX else None
    return _usable_nanos(number(value)) if kind is str else None


def usable_count(value: Any) -> int | None:
    """A count from 0 to `COUNT_MAX`; None for anything else."""
    found = number(value)
    if found is None or not is_finite(found) or not 0 <= found <= COUNT_MAX or found != int(found):
        return None
    return int(found)


def _name(value: Any) -> str:
    """The name of a modality or feature, fit to be stored."""
    if not isinstance(value, str) or not value or len(value) > _NAME_CHARS or not value.isprintable():
        raise _UnreadableLeafError("a name")
    return value
