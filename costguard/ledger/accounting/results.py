"""Which results of a task are one and the same: what came by one road and comes again by another.

A result is known by its `resultIndex`, its `seed` and its figures, as far as each road tells them: a
stream tells no seed, a record without its cost no figures, and a task sent again may repeat an index, or a
seed that its caller gave. A key holds all three, so that what any two of them share can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from costguard.ledger.charges import WEAK, Basis, Charge

FIGURES = "f"
"""The part of a key that tells figures. All others are names; results that differ in one are not the same."""


def result_key(names: str, charge: Charge | None) -> str:
    """The key of a result: its names and, as far as its charge has them, the figures it was told with."""
    if charge is None:
        return names
    told = (charge.cost_nanos, charge.total_nanos, charge.prompt_tokens, charge.completion_tokens)
    figures = ",".join(["" if figure is None else str(figure) for figure in told])
    return f"{names} {FIGURES}:{figures}".lstrip() if figures.strip(",") else names


class Booked(NamedTuple):
    """A result as the ledger charged it. `direct`: by its attempt's own response; amounts in nano-USD."""

    seq: int
    attempt_id: int
    key: str
    nanos: int
    basis: Basis
    direct: bool


def same_results(
    known: Sequence[Booked], seen: Sequence[tuple[str, int | None]], *, whole: bool = False
) -> list[Booked | None]:
    """For each result seen (key, and nano-USD if it has a figure) the known one that it is; None: it is new.

    A known result is matched once. The surest pairs go first: equal names, then equal figures, then, where
    one of the two tells too little to be told apart, what is left. `whole`: `seen` lists all that was ever
    billed for the task, so that each known result must be in it.
    """
    if not known:
        return [None] * len(seen)
    left = list(known)
    found: list[Booked | None] = [None] * len(seen)
    for wanted in range(_RANKS):
        for n, (key, nanos) in enumerate(seen):
            if found[n] is None:
                same = next((one for one in left if _rank(one, key, nanos, whole) == wanted), None)
                if same is not None:
                    found[n] = same
                    left.remove(same)
    return found


_RANKS = 7


def _rank(known: Booked, key: str, nanos: int | None, whole: bool) -> int | None:
    """How surely the two are one result, 0 the surest; None if they are not."""
    if known.key == key:
        return 0
    a, b = _parts(known.key), _parts(key)
    names = (a.keys() & b.keys()) - {FIGURES}
    if any(a[name] != b[name] for name in names):
        return None
    told = FIGURES in a and FIGURES in b
    same_figures = told and a[FIGURES] == b[FIGURES]
    same_amount = known.nanos == nanos
    if names:
        return 1 if same_figures else 2 if same_amount else 3
    if same_figures:
        return 4
    if whole or known.basis in WEAK or not told:
        return 5 if same_amount else 6
    return None


def _parts(key: str) -> dict[str, str]:
    """`"i:0 s:7 f:1220000,1217000,1138,216"` by its letters; a part without one is a name of its own."""
    return {name: value for name, _, value in (part.rpartition(":") for part in key.split())}
