"""Sound: tokens a second."""

from __future__ import annotations

from decimal import Decimal

from costguard.estimating.counts import Count
from costguard.estimating.lengths import length, sound
from costguard.prices.model import MediaTokens

BITRATE_MAX = 13_000_000
"""Bits per second no sound passes: stereo of 32 bits at 192 kHz."""


def count(inline: str | None, tokens: MediaTokens, stated: Decimal | None) -> dict[str, Count] | None:
    """AUDIO tokens, as `Counter` describes. `stated` is in seconds."""
    found = length(inline, stated, BITRATE_MAX)
    return None if found is None else {"AUDIO": sound(found, tokens)}
