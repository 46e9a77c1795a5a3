"""A charge and its lines: what a provider billed for one result, as the ledger keeps it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Literal, NamedTuple, NoReturn


def _no_fraction(literal: str) -> NoReturn:
    raise ValueError(f"{literal[:40]} is no whole number")


_write = json.JSONEncoder(separators=(",", ":")).encode
_read = json.JSONDecoder(parse_float=_no_fraction, parse_constant=_no_fraction).decode

Basis = Literal["breakdown", "cost", "computed", "assumed", "correction"]
"""Where a charge's figure came from, strongest first; "correction" is an operator's word."""

CacheReading = Literal["inside", "outside"]
"""Whether the prompt's figures include those of the cache."""

_STRENGTH: tuple[Basis, ...] = ("breakdown", "cost", "computed", "assumed")

COST_GAP_NANOS = 5_000
"""`cost` is `total` rounded to 5 decimals: rounding alone explains a difference of 0.000005 USD."""

GAP_NOTE = "cost and costBreakdown.total differ: the larger is charged"
"""Said of a charge whose `cost` and `total` differ by more than `COST_GAP_NANOS`."""

BEYOND_NOTE = "more results came than were asked for"
"""Said of the charge of a result beyond all that a task's attempts asked for."""

WEAK = ("computed", "assumed")
"""Bases that are not the provider's own figure: should that come later, it takes their place."""


class Line(NamedTuple):
    """One line of a charge: `quantity` (tokens or uses, None if unknown) for `nanos` (1e-9 USD).

    `component` is prompt, cache, completion, feature:NAME, rounding, unexplained or unitemized, or a meter of
    `costguard.outputs.PARTS`, whose parts are then the quantity, and the rate's name the modality; that is ""
    where none applies. Only `rounding` and `unexplained` may be negative.
    """

    component: str
    modality: str
    quantity: int | None
    nanos: int

    def joined(self, other: Line) -> Line:
        """Both as one line of this component and modality; a quantity is unknown if either is."""
        quantity = None if self.quantity is None or other.quantity is None else self.quantity + other.quantity
        return Line(self.component, self.modality, quantity, self.nanos + other.nanos)


def write_lines(lines: Iterable[Line]) -> str:
    """Lines as the ledger keeps them in a charge's row: a JSON array of their fields, one after the other."""
    return _write([field for line in lines for field in line])


def read_lines(told: str | None) -> list[Line]:
    """The lines of a charge's row; ValueError for what is none."""
    fields = _read(told) if told else []
    try:
        lines = [Line(*fields[at : at + 4]) for at in range(0, len(fields), 4)]
        sum([line.nanos + (line.quantity or 0) for line in lines])
    except TypeError as error:
        raise ValueError(f"lines of a charge: {error}") from error
    return lines


class Charge(NamedTuple):
    """What the provider billed for one result. Money in nano-dollars; the lines add up to `nanos`.

    `cost_nanos` and `total_nanos` are the provider's `cost` and `costBreakdown.total`; `computed_nanos` is
    the same usage at our own prices (entry `price_id`): each None where it is unknown, and so the counts of
    tokens. `reasoning_tokens` are a part of `completion_tokens`. `cache_reading` is None where nothing was
    cached or no reading adds up. `odd`: a figure was unusable or does not add up, or nobody asked for the
    result; `raw` then keeps the figures as JSON, cut to a few thousand characters. `results` is 1, but 0 for
    a correction and -1 where the ledger takes a charge back for a better figure.
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


def merged(old: Charge, new: Charge) -> Charge | None:
    """`old` with what `new`, another telling of the same result, adds to it; None if that is nothing.

    The stronger basis gives the lines; of two equal ones the larger amount, then the finer lines. Figures that
    only one of them tells are kept, of others the larger: nothing that is told later takes any away. A `cost`
    and a `total` that do not fit together are charged at the larger, what it exceeds the lines by being
    `unexplained`.
    """
    better, other = (new, old) if _worth(new) > _worth(old) else (old, new)
    cost, total = _known(old.cost_nanos, new.cost_nanos), _known(old.total_nanos, new.total_nanos)
    nanos, lines = better.nanos, better.lines
    # What is odd about a figure of our own says nothing of the provider's that takes its place.
    odd = better.odd or (other.odd and (other.basis not in WEAK or better.basis in WEAK))
    notes = (*better.notes, *(other.notes if odd and other.odd else ()))
    if BEYOND_NOTE in old.notes:
        odd, notes = True, (*notes, BEYOND_NOTE)
    if cost is not None and total is not None and abs(cost - total) > COST_GAP_NANOS:
        odd, notes = True, (*notes, GAP_NOTE)
        missing = max(cost, total) - nanos
        if missing > 0:
            rest = Line("unexplained", "", None, missing)
            named = next((line for line in lines if line.component == rest.component), None)
            lines = (*(line for line in lines if line is not named), named.joined(rest) if named else rest)
            nanos += missing
    priced = better if better.computed_nanos is not None else other
    found = better._replace(
        nanos=nanos,
        lines=lines,
        cost_nanos=cost,
        total_nanos=total,
        computed_nanos=priced.computed_nanos,
        price_id=priced.price_id,
        prompt_tokens=_known(old.prompt_tokens, new.prompt_tokens),
        completion_tokens=_known(old.completion_tokens, new.completion_tokens),
        reasoning_tokens=_known(old.reasoning_tokens, new.reasoning_tokens),
        cached_tokens=_known(old.cached_tokens, new.cached_tokens),
        cache_reading=better.cache_reading or other.cache_reading,
        odd=odd,
        notes=tuple(dict.fromkeys(notes)),
        raw=(better.raw or other.raw) if odd else None,
        results=old.results,
    )
    return None if found._replace(notes=old.notes, raw=old.raw) == old else found


def _worth(charge: Charge) -> tuple[int, int, bool, int]:
    """How good a telling is: its basis, its amount, and how finely it is itemized."""
    itemized = all(line.component != "unitemized" for line in charge.lines)
    counted = sum(line.quantity is not None for line in charge.lines)
    amount = charge.nanos if charge.total_nanos is None else charge.total_nanos
    return -_STRENGTH.index(charge.basis), amount, itemized, counted


def _known(a: int | None, b: int | None) -> int | None:
    """The figure that is known, the larger of two: they are cumulative."""
    return max((figure for figure in (a, b) if figure is not None), default=None)


def weakest(*bases: Basis | None) -> Basis:
    """The weakest of some bases, at least one of them not None."""
    return max((basis for basis in bases if basis is not None), key=_STRENGTH.index)
