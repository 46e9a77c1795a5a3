"""A charge and its lines: what a provider billed for one result, as the ledger keeps it."""

from __future__ import annotations

from typing import Literal, NamedTuple

Basis = Literal["breakdown", "cost", "computed", "assumed", "correction"]
"""Where a charge's figure came from, strongest first; "correction" is an operator's word."""

CacheReading = Literal["inside", "outside"]
"""Whether the prompt's figures include those of the cache."""

_STRENGTH: tuple[Basis, ...] = ("breakdown", "cost", "computed", "assumed")

WEAK = ("computed", "assumed")
"""Bases that are not the provider's own figure: should that come later, it takes their place."""


class Line(NamedTuple):
    """One line of a charge: `quantity` (tokens or uses, None if unknown) for `nanos` (1e-9 USD).

    `component` is prompt, cache, completion, feature:NAME, rounding, unexplained or unitemized; the
    modality is "" where none applies. Only `rounding` and `unexplained` may be negative.
    """

    component: str
    modality: str
    quantity: int | None
    nanos: int


class Charge(NamedTuple):
    """What the provider billed for one result. Money in nano-dollars; the lines add up to `nanos`.

    `cost_nanos` and `total_nanos` are the provider's `cost` and `costBreakdown.total`; `computed_nanos` is
    the same usage at our own prices (entry `price_id`): each None where it is unknown, and so the counts of
    tokens. `reasoning_tokens` are a part of `completion_tokens`. `cache_reading` is None where nothing was
    cached or no reading adds up. `odd`: a figure was unusable or does not add up; `raw` then keeps the
    figures as JSON, at most `RAW_CHARS_MAX` characters. `results` is 1, but 0 for a correction and -1 where
    the ledger takes a charge back for a better figure.
    """

    nanos: int
    basis: Basis
    lines: tuple[Line, ...]
    cost_nanos: int | None
    total_nanos: int | None
    computed_nanos: int | None
    price_id: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    reasoning_tokens: int | None
    cached_tokens: int | None
    cache_reading: CacheReading | None
    odd: bool
    notes: tuple[str, ...]
    raw: str | None
    results: int


def weakest(*bases: Basis | None) -> Basis:
    """The weakest of some bases, at least one of them not None."""
    return max((basis for basis in bases if basis is not None), key=_STRENGTH.index)
