"""Media in the request itself: base64, decoded where it is read.

Anyone may have made these bytes, so every reader of them is bounded before it begins: reads and decoded bytes
are counted, and what passes a bound, or cannot be read, is unknown. Headers can lie, so a length is believed
only if the bytes could be so short.
"""

from __future__ import annotations

from binascii import a2b_base64
from typing import NamedTuple


class Bounds(NamedTuple):
    """The most one header may cost: reads and seeks, and bytes handed to the library, which may loop over them."""

    reads: int
    bytes: int


WRAPPED_CHARS_MAX = 8 * 1024 * 1024
"""Base64 that is broken into lines is joined first, up to this many characters."""

_BLOCK_CHARS = 1024
_BLOCK_BYTES = _BLOCK_CHARS // 4 * 3


class BoundError(Exception):
    """A bound on reading a medium was passed."""


class Window:
    """A file over base64 text, plain or URL-safe, padded or not. Counts what is read of it.

    ValueError for what is not base64, `BoundError` past a bound.
    """

    def __init__(self, text: str, bounds: Bounds) -> None:
        text = text.strip()
        if any(blank in text for blank in " \n\r\t"):
            if len(text) > WRAPPED_CHARS_MAX:
                raise BoundError
            text = "".join(text.split())
        padding = 2 if text.endswith("==") else int(text.endswith("="))
        self._text = text
        self._bounds = bounds
        self._at = self._reads = self._bytes = 0
        self.size = (len(text) - padding) * 3 // 4
        """Bytes of the medium."""

    def tell(self) -> int:
        """Where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to `offset` from the beginning (0), from here (1) or from the end (2)."""
        self._count(0)
        at = offset + (0, self._at, self.size)[whence]
        if at < 0:
            raise ValueError("negative seek position")
        self._at = at
        return at

    def read(self, count: int = -1) -> bytes:
        """Up to `count` bytes, or all that are left."""
        left = max(0, self.size - self._at)
        count = left if count is None or count < 0 else min(count, left)
        self._count(count)
        first, skipped = divmod(self._at, _BLOCK_BYTES)
        blocks = -(-(skipped + count) // _BLOCK_BYTES) if count else 0
        self._at += count
        return self._decode(first, blocks)[skipped : skipped + count]

    def whole(self, bytes_max: int) -> bytes:
        """All of it, whatever its bounds, if it is no more than `bytes_max`."""
        if self.size > bytes_max:
            raise BoundError
        return self._decode(0, -(-len(self._text) // _BLOCK_CHARS))

    def _count(self, count: int) -> None:
        self._reads += 1
        self._bytes += count
        if self._reads > self._bounds.reads or self._bytes > self._bounds.bytes:
            raise BoundError

    def _decode(self, first: int, blocks: int) -> bytes:
        chars = self._text[first * _BLOCK_CHARS : (first + blocks) * _BLOCK_CHARS]
        chars = chars.replace("-", "+").replace("_", "/")
        return a2b_base64(chars + "=" * (-len(chars) % 4), strict_mode=True)
