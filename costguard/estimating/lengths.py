"""Seconds of sound and video, as measured of a medium in the request itself or else as the caller states.

Read with `tinytag` (the extra `media`); without it nothing is measured.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import NamedTuple

from costguard.estimating.counts import Count, up
from costguard.estimating.inline import Bounds, Window
from costguard.prices.model import MediaTokens

READ_MAX = Bounds(10_000, 256 * 1024)
"""What the header of a sound or video may cost: a handful of reads, or three for each page of an Ogg file."""

LENGTH_MAX_S = 10**7
"""A length beyond (116 days) is not believed."""


class Length(NamedTuple):
    """Seconds as measured, or the most there can be, as the caller states."""

    seconds: Decimal
    stated: bool


def length(
    inline: str | None, stated: Decimal | None, bitrate_max: int, head: re.Pattern[bytes] | None = None
) -> Length | None:
    """The length of a medium: measured of `inline` (see `length_s`), or else as `stated`; None if unknown."""
    seconds = length_s(inline, bitrate_max, head) if inline else None
    if seconds is not None:
        return Length(seconds, stated=False)
    return None if stated is None else Length(stated, stated=True)


def sound(length: Length, tokens: MediaTokens) -> Count:
    """AUDIO tokens of a sound, or of a video's."""
    rate = tokens.counts["audio_per_s"]
    # Encoders pad, and a provider may round: a measured bound is a second longer.
    longest = length.seconds if length.stated else length.seconds + 1
    return Count(up(length.seconds * rate), up(longest * rate))


def length_s(text: str, bitrate_max: int, head: re.Pattern[bytes] | None = None) -> Decimal | None:
    """Seconds of a base64 sound or video, to the millisecond; None if not known.

    Sound: WAV, AIFF, MP3, FLAC, Ogg, MP4, WMA; video: MP4, QuickTime, WMV. None too where its first bytes do
    not match `head`, or where it is too large for its length at `bitrate_max` (bits per second).
    """
    try:
        from tinytag import TinyTag
    except ImportError:
        return None
    try:
        window = Window(text, READ_MAX)
        first = window.read(16)
        window.seek(0)
        if head is not None and head.match(first) is None:
            return None
        # Only the tags of an Ogg file are read: past them its pages are skipped, not searched for them.
        tag = TinyTag.get(file_obj=window, tags=first.startswith(b"OggS"))  # type: ignore[arg-type]
        length = tag.duration or 0.0
        if first.startswith((b"RIFF", b"FORM")) and tag.is_lossless and tag.bitrate:
            # A sound piped into a file claims the longest possible one.
            length = min(length, window.size * 8 / (tag.bitrate * 1000))
    except Exception:  # noqa: BLE001 - whatever hostile bytes make a library raise
        return None
    if not math.isfinite(length) or not 0 < length <= LENGTH_MAX_S or window.size * 8 > length * bitrate_max:
        return None
    return Decimal(f"{length:.3f}") or None
