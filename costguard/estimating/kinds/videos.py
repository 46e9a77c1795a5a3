"""Video: a frame a second, and its sound."""

from __future__ import annotations

import re
from decimal import Decimal

from costguard.estimating.counts import Count, up
from costguard.estimating.lengths import length, sound
from costguard.prices.model import MediaTokens

BITRATE_MAX = 100_000_000
"""Bits per second no video passes: 4K at 60 frames/s from a camera."""

HEAD = re.compile(rb"....ftyp|\x30\x26\xb2\x75\x8e\x66\xcf\x11", re.DOTALL)


def count(inline: str | None, tokens: MediaTokens, stated: Decimal | None) -> dict[str, Count] | None:
    """VIDEO and AUDIO tokens, as `Counter` describes. `stated` is in seconds."""
    found = length(inline, stated, BITRATE_MAX, HEAD)
    if found is None:
        return None
    if found.stated:
        frames = Count(up(found.seconds), up(found.seconds))
    else:
        frames = Count(max(1, int(found.seconds)), int(found.seconds) + 1)
    expected, upper = tokens.counts["frame_expected"], tokens.counts["frame_upper"]
    return {"VIDEO": Count(frames.expected * expected, frames.upper * upper), "AUDIO": sound(found, tokens)}
