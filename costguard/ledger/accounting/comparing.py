"""What an attempt was estimated at beside what was billed for it, by modality: what accuracy is made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from costguard.ledger.charges import Line
from costguard.modalities import REPORTED
from costguard.outputs import OUTPUT, PARTS

COST = "cost"
"""What is compared in nano-USD: the whole cost. All else is tokens, or parts of what is made."""

PROVIDED = ("breakdown", "cost")
"""Bases of the provider's own figures: only these say how good an estimate was."""

_NOT_COUNTS = frozenset(("media", OUTPUT))
_PROMPT, _WHOLE = frozenset(("prompt", "cache")), frozenset(("completion", *PARTS))


class Estimated(NamedTuple):
    """An attempt: results asked for and charged, nano-USD for all that were asked for, and its estimate's JSON."""

    asked: int
    seen: int
    expected: int | None
    upper: int | None
    estimate: str


class Compared(NamedTuple):
    """Of all charged results: tokens, parts of what is made, or of the `cost` nano-USD.

    `what`: a modality of the prompt, `completion`, a meter of `costguard.outputs.PARTS`, or `cost`.
    """

    what: str
    expected: int
    upper: int
    billed: int


def compare(attempt: Estimated, charges: Sequence[tuple[str, int, Sequence[Line]]]) -> list[Compared]:
    """Compare what was estimated with the standing charges (basis, nano-USD, lines) of a settled attempt.

    Nothing where it had no estimate (a ceiling stood in), or a figure of ours stands among its charges; and no tokens
    where a charge does not itemize them.
    """
    if attempt.expected is None or attempt.upper is None or attempt.seen < 1:
        return []
    if any(basis not in PROVIDED for basis, _, _ in charges):
        return []
    seen, asked = attempt.seen, attempt.asked
    whole = (-(-attempt.expected * seen // asked), -(-attempt.upper * seen // asked), sum(n for _, n, _ in charges))
    found = [Compared(COST, *whole)]
    billed = _tokens([line for _, _, lines in charges for line in lines])
    if billed is not None:
        estimated = _estimated(attempt.estimate, billed)
        for what in {**estimated, **billed}:
            expected, upper = estimated.get(what, (0, 0))
            found.append(Compared(what, expected * seen, upper * seen, billed.get(what, 0)))
    return [one for one in found if any(one[1:])]


def _tokens(lines: Sequence[Line]) -> dict[str, int] | None:
    """Billed tokens by modality and for `completion`, parts by meter; None where a line does not itemize them."""
    tokens: dict[str, int] = {}
    for component, modality, quantity, _ in lines:
        name = modality if component in _PROMPT else component if component in _WHOLE else None
        if component == "unitemized" or name == "" or (name and quantity is None):
            return None
        if name:
            tokens[name] = tokens.get(name, 0) + (quantity or 0)
    return tokens


def _estimated(estimate: str, billed: dict[str, int]) -> dict[str, tuple[int, int]]:
    """Tokens of one result: modality -> (expected, upper)."""
    found = {what: (count[0], count[1]) for what, count in json.loads(estimate).items() if what not in _NOT_COUNTS}
    for modality in found.keys() - billed.keys():
        # The provider may report a document's pages as images.
        told_as = next((name for name in REPORTED.get(modality, ()) if name in billed), None)
        if told_as is not None:
            own, other = found.pop(modality), found.get(told_as, (0, 0))
            found[told_as] = (own[0] + other[0], own[1] + other[1])
    return found
