"""How media are counted: a file for each kind, named as in `costguard.modalities`, with a function `count`.

The files are loaded when a task carries media of their kind: few do.
"""

from __future__ import annotations

from decimal import Decimal
from functools import cache
from importlib import import_module
from typing import Protocol

from costguard.estimating.counts import Count
from costguard.prices.model import MediaTokens


class Counter(Protocol):
    """Tokens of one medium by modality, measured or else as stated; None if its length is unknown.

    `inline` is its base64 text, None if it is not in the request itself: anyone may have made it. `tokens` are
    the model's, `stated` is what the caller says is the longest one, None if that is not said.
    """

    def __call__(self, inline: str | None, tokens: MediaTokens, stated: Decimal | None) -> dict[str, Count] | None:
        """Count one medium."""


@cache
def counter(kind: str) -> Counter:
    """The function that counts media of `kind`, a name of `costguard.modalities.KINDS`."""
    found: Counter = import_module(f"{__name__}.{kind}").count
    return found
