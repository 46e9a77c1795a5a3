"""Which results of a task are one and the same: what came by one road and comes again by another.

A result is known by its `resultIndex`, its `seed` and its figures, as far as each road tells them: what one
leaves untold fits anything, and two told values that differ rule it out. Figures are cumulative, though: of
one result they may grow, and be told late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from costguard.ledger.charges import COST_GAP_NANOS, WEAK, Basis, Charge

FIGURES = "f"
"""The part of a key that tells figures: cost, total (nano-USD), prompt and completion tokens. All others are names."""

_INDEX, _SEED = "i", "s"


def result_key(names: str, charge: Charge | None) -> str:
    """The key of a result: its names and, as far as its charge has them, the figures it was told with."""
    if charge is None:
        return names
    told = (charge.cost_nanos, charge.total_nanos, charge.prompt_tokens, charge.completion_tokens)
    figures = ",".join(["" if figure is None else str(figure) for figure in told])
    return f"{names} {FIGURES}:{figures}".lstrip() if figures.strip(",") else names


def merged_key(old: str, new: str, charge: Charge, *, named: bool) -> str:
    """The key of a result whose charge is merged to `charge`; with `named` with the names of both.

    A name that each tells differently is none: it counted something else.
    """
    names, others = _parts(old), _parts(new) if named else {}
    told = {name: value for name, value in {**others, **names}.items() if others.get(name, value) == value}
    told.pop(FIGURES, None)
    return result_key(" ".join([f"{name}:{value}" if name else value for name, value in told.items()]), charge)


class Booked(NamedTuple):
    """A result as the ledger charged it. `direct`: by its attempt's own response; amounts in nano-USD."""

    seq: int
    attempt_id: int
    key: str
    nanos: int
    basis: Basis
    direct: bool


def retells(old: Booked, key: str, charge: Charge) -> bool:
    """Whether a telling of a booked result has the same figures, as far as both have them.

    Of two amounts of the provider's the amounts count, else the tokens.
    """
    told = [_Told.read(one, None, 1).figures for one in (old.key, key)]
    if old.basis in WEAK or charge.basis in WEAK:
        return all(a == b for a, b, _ in _pairs(told[0][2:], told[1][2:]))
    amounts = _amounts(*told)
    return all(abs(a - b) <= gap for a, b, gap in amounts) if amounts else old.nanos == charge.nanos


class Same(NamedTuple):
    """A result that was seen is the known one `booked`.

    `tells`: what it tells belongs to that one and no other; else it may be another's, known or not, and it only
    says nothing new. `named`: and so do its names.
    """

    booked: Booked
    tells: bool
    named: bool


def same_results(
    known: Sequence[Booked],
    seen: Sequence[tuple[str, int | None]],
    *,
    capacity: int,
    room: int | None = None,
    whole: bool = False,
) -> list[Same | None]:
    """For each result seen (key, and nano-USD if it has a figure) the known one that it is; None: it is new.

    A known result is matched once, the surest pairs first. `capacity`: results that the task's attempts asked
    for; an index above it says nothing, for some models count chunks, and with one result none does. `room`: how
    many of them are not booked yet (`capacity` less `known`): without any, what is not ruled out by its names
    must be a known one, told late or grown. `whole`: `seen` lists all that was ever billed for the task, so that
    each known result must be in it.
    """
    if not known:
        return [None] * len(seen)
    is_full = (capacity - len(known) if room is None else room) <= 0
    come = [_Told.read(key, nanos, capacity) for key, nanos in seen]
    have = [_Told.read(one.key, one.nanos, capacity) for one in known]
    # An index that is the capacity shows that its road counts from 1.
    from_one = capacity in _indices(come) and 0 not in _indices(come)
    if 0 not in _indices(have) and (from_one or capacity in _indices(have)):
        have = [_from_zero(one) for one in have]
    if from_one:
        come = [_from_zero(one) for one in come]
    ranks = {
        (n, k): rank
        for n, new in enumerate(come)
        for k, old in enumerate(have)
        if (rank := _rank(old, new, is_full=is_full, whole=whole)) is not None
    }
    found: list[Same | None] = [None] * len(seen)
    left = set(range(len(known)))
    for n, k in sorted(ranks, key=lambda pair: (ranks[pair], pair)):
        if found[n] is not None or k not in left:
            continue
        old, new = have[k], come[n]
        rivals = [ranks[n, other] for other in left - {k} if (n, other) in ranks and have[other] != old]
        as_sure = [rank for rank in rivals if rank[:2] <= ranks[n, k][:2]]
        is_called = _shared_names(old, new) > 0 and not any(rank[0] <= _NAMED for rank in rivals)
        # Where all results are known, one of them it is; a figure of our own gives way first.
        is_only = is_full and (not as_sure or known[k].basis in WEAK)
        found[n] = Same(
            known[k],
            tells=whole or is_called or is_only or not old.names,
            named=is_called or capacity == 1,
        )
        left.remove(k)
    return found


class _Told(NamedTuple):
    """What a telling says of its result: names, the four figures of a key, and the amount charged for it."""

    names: Mapping[str, str]
    figures: tuple[int | None, ...]
    nanos: int | None

    @classmethod
    def read(cls, key: str, nanos: int | None, capacity: int) -> _Told:
        names = _parts(key)
        figures = names.pop(FIGURES, ",,,").split(",")
        if _INDEX in names and (capacity == 1 or int(names[_INDEX]) > capacity):
            del names[_INDEX]
        return cls(names, tuple([int(figure) if figure else None for figure in figures]), nanos)


def _indices(told: Sequence[_Told]) -> set[int]:
    return {int(one.names[_INDEX]) for one in told if _INDEX in one.names}


def _from_zero(told: _Told) -> _Told:
    """A telling of a road that counts from 1, counted from 0."""
    if _INDEX not in told.names:
        return told
    return told._replace(names={**told.names, _INDEX: str(int(told.names[_INDEX]) - 1)})


def _shared_names(old: _Told, new: _Told) -> int:
    """How many names both tell."""
    return len(old.names.keys() & new.names.keys())


_Rank = tuple[int, int, bool, int, bool]
_NAMED = 3
"""The last grade of those that share a name."""


def _rank(old: _Told, new: _Told, *, is_full: bool, whole: bool) -> _Rank | None:
    """How surely the two are one result, the smallest the surest; None if they are not."""
    shared = _shared_names(old, new)
    seeds = {told.names[_SEED] for told in (old, new) if _SEED in told.names}
    differing = [name for name, value in old.names.items() if new.names.get(name, value) != value]
    if differing and not (shared == 2 and len(seeds) == 1):  # a seed says more than an index
        return None
    if old == new:
        return 0, 0, False, 0, False
    money, counts = _amounts(old.figures, new.figures), _pairs(old.figures[2:], new.figures[2:])
    both = money + counts
    equal = sum(abs(a - b) <= gap for a, b, gap in both)
    fits, grows = equal == len(both), all(a <= b for a, b, _ in both)
    if shared:
        grade = _NAMED if not fits else 1 if equal else 2
    elif fits:
        grade = 4 if equal else 5
    elif is_full or whole:
        grade = 6 if grows else 7
    else:
        return None
    # Few results cost the same by chance, many have as many tokens.
    same_money = sum(abs(a - b) <= gap for a, b, gap in money)
    return grade, -same_money, old.nanos != new.nanos, -equal, old.names != new.names


_Pairs = list[tuple[int, int, int]]
"""Two figures, and the gap between them that is no difference."""


def _pairs(old: Sequence[int | None], new: Sequence[int | None], gap: int = 0) -> _Pairs:
    """The figures that both tell."""
    return [(a, b, gap) for a, b in zip(old, new, strict=True) if a is not None and b is not None]


def _amounts(old: Sequence[int | None], new: Sequence[int | None]) -> _Pairs:
    """The amounts that both tell; where they share none, the `cost` of one and the `total` of the other."""
    (cost, total), (new_cost, new_total) = old[:2], new[:2]
    return _pairs(old[:2], new[:2]) or _pairs((cost, total), (new_total, new_cost), COST_GAP_NANOS)


def _parts(key: str) -> dict[str, str]:
    """`"i:0 s:7 f:1220000,1217000,1138,216"` by its letters; a part without one is a name of its own."""
    return {name: value for name, _, value in (part.rpartition(":") for part in key.split())}
