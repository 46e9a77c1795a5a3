"""What a misspelt name was probably meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from costguard.ledger.accounting.book import Ledger

NEAR = 0.7
"""How alike two names must be, from 0 to 1, as difflib counts it."""


def did_you_mean(text: str, known: Iterable[str]) -> str:
    """`; did you mean 'acme/search'?` with up to three of `known` that look like `text`, or nothing."""
    import difflib

    spellings: dict[str, list[str]] = {}
    for name in dict.fromkeys(known):
        spellings.setdefault(name.casefold(), []).append(name)
    near = difflib.get_close_matches(text.casefold(), spellings, n=3, cutoff=NEAR)
    names = [name for spelling in near for name in spellings[spelling] if name != text][:3]
    return f"; did you mean {' or '.join(map(repr, names))}?" if names else ""


def hint(ledger: Ledger, what: str, text: str) -> str:
    """What `did_you_mean` finds for a project, model or month (`what`) that the ledger has nothing of, else nothing."""
    known = ledger.named(what)
    return "" if text in known else did_you_mean(text, known)
