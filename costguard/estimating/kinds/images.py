"""Images: a published maximum each, and what is likely by their size in pixels."""

from __future__ import annotations

import math
import re
from decimal import Decimal

from costguard.estimating.counts import Count
from costguard.estimating.inline import Bounds, Window
from costguard.prices.model import MediaTokens

READ_MAX = Bounds(2_000, 64 * 1024)
"""What the header of an image may cost."""

_HEAD = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8|GIF8[79]a|RIFF....WEBP|BM|....ftyp", re.DOTALL)


def count(inline: str | None, tokens: MediaTokens, stated: Decimal | None) -> dict[str, Count] | None:  # noqa: ARG001
    """IMAGE tokens, as `Counter` describes; never unknown."""
    expected, upper = tokens.counts["image_expected"], tokens.counts["image_upper"]
    size = image_size(inline) if inline and tokens.flags.get("image_grid") else None
    return {"IMAGE": Count(expected if size is None else _grid(*size, upper), upper)}


def image_size(text: str) -> tuple[int, int] | None:
    """Width and height in pixels of a base64 PNG, JPEG, GIF, WebP, BMP, HEIF or AVIF; None if not known.

    Read with `imagesize` (the extra `media`); without it None.
    """
    try:
        import imagesize  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return None
    try:
        window = Window(text, READ_MAX)
        if _HEAD.match(window.read(16)) is None:
            return None
        # Rotation would be sought all over the file, and swaps two numbers that count alike.
        width, height = imagesize.get(window, exif_rotation=False)
    except Exception:  # noqa: BLE001 - whatever hostile bytes make a library raise
        return None
    return (width, height) if width > 0 and height > 0 else None


def _grid(width: int, height: int, tokens: int) -> int:
    """Tokens of an image scaled to fill a grid of at most `tokens` square patches, its aspect ratio kept."""
    rows, columns = math.isqrt(tokens * height // width), math.isqrt(tokens * width // height)
    if not rows or not columns:
        return min(max(width // height, height // width), tokens)
    return rows * columns
