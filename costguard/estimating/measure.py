"""What inline media say of themselves: image size, length of sound and video, pages of a PDF.

Anyone may have made these bytes, so every reader here is bounded before it begins: base64 is decoded only
where it is read, reads and decoded bytes are counted, and what passes a bound, or cannot be read, is None:
unknown. Headers can lie, so a length is believed only if the bytes could be so short.

Images are read with `imagesize` and sound and video with `tinytag` (the extra `media`; without them None).
PDFs are read here: a PDF library unpacks and walks what a file tells it to, which no bound on reading it
limits (pypdf 7.1 took 8.8 s and 10,000 lines of log over a file of 68 KB).
"""

from __future__ import annotations

import math
import re
import zlib
from binascii import a2b_base64
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import NamedTuple


class Bounds(NamedTuple):
    """The most one header may cost: reads and seeks, and bytes handed to the library, which may loop over them."""

    reads: int
    bytes: int


IMAGE_MAX = Bounds(2_000, 64 * 1024)
SOUND_MAX = Bounds(10_000, 256 * 1024)
"""Sound and video: a handful of reads, or three for each page of an Ogg file."""

PDF_BYTES_MAX = 8 * 1024 * 1024
"""A larger PDF is not read: decoding it alone would take too long."""

PDF_INFLATED_MAX = 8 * 1024 * 1024
"""Bytes that all object streams of a PDF may unpack to."""

PDF_NAMES_MAX = 300_000
"""Names in a PDF, or in what it unpacks to: each one costs a look."""

PDF_ESCAPES_MAX = 2_000
"""Names of a PDF that begin with an escape: dear to read, and hardly ever written."""

PDF_NODES_MAX = 40_000
"""Pages and counts in a PDF, or in one object stream of it."""

PDF_PAGES_MAX = 20_000
"""More pages than any model reads: a count beyond is not believed."""

WRAPPED_CHARS_MAX = 8 * 1024 * 1024
"""Base64 that is broken into lines is joined first, up to this many characters."""

LENGTH_MAX_S = 10**7
"""A length beyond (116 days) is not believed."""

BITRATE_MAX = {"audios": 13_000_000, "videos": 100_000_000}
"""Bits per second no medium passes: stereo of 32 bits at 192 kHz; 4K at 60 frames/s from a camera."""

_BLOCK_CHARS = 1024
_BLOCK_BYTES = _BLOCK_CHARS // 4 * 3


class Pages(NamedTuple):
    """Pages of a document: what it holds, and the most it can be read to hold."""

    expected: int
    upper: int


class _BoundError(Exception):
    """A bound of this module was passed."""


def image_size(text: str) -> tuple[int, int] | None:
    """Width and height in pixels of a base64 PNG, JPEG, GIF, WebP, BMP, HEIF or AVIF; None if not known."""
    try:
        import imagesize  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return None
    try:
        window = _Window(text, IMAGE_MAX)
        if _IMAGE.match(window.read(16)) is None:
            return None
        # Rotation would be sought all over the file, and swaps two numbers that count alike.
        width, height = imagesize.get(window, exif_rotation=False)
    except Exception:  # noqa: BLE001 - whatever hostile bytes make a library raise
        return None
    return (width, height) if width > 0 and height > 0 else None


def length_s(text: str, kind: str) -> Decimal | None:
    """Seconds of a base64 medium of `kind` "audios" or "videos", to the millisecond; None if not known.

    Sound: WAV, AIFF, MP3, FLAC, Ogg, MP4, WMA; video: MP4, QuickTime, WMV. None too where the file is too
    large for its length, at `BITRATE_MAX`.
    """
    try:
        from tinytag import TinyTag
    except ImportError:
        return None
    try:
        window = _Window(text)
        head = window.read(16)
        window.seek(0)
        if kind == "videos" and _VIDEO.match(head) is None:
            return None
        # Only the tags of an Ogg file are read: past them its pages are skipped, not searched for them.
        tag = TinyTag.get(file_obj=window, tags=head.startswith(b"OggS"))  # type: ignore[arg-type]
        length = tag.duration or 0.0
        if head.startswith((b"RIFF", b"FORM")) and tag.is_lossless and tag.bitrate:
            # A sound piped into a file claims the longest possible one.
            length = min(length, window.size * 8 / (tag.bitrate * 1000))
    except Exception:  # noqa: BLE001 - whatever hostile bytes make a library raise
        return None
    if not math.isfinite(length) or not 0 < length <= LENGTH_MAX_S or window.size * 8 > length * BITRATE_MAX[kind]:
        return None
    return Decimal(f"{length:.3f}") or None


def pdf_pages(text: str) -> Pages | None:
    """Pages of a base64 PDF; None if not known: too large, encrypted, or not readable as one.

    `expected` counts the page objects, packed ones too; `upper` is that or the largest `/Count`, which is
    what renderers go by. (An outline states one too: then `upper` is too high, never too low.)
    """
    try:
        data = _Window(text).whole(PDF_BYTES_MAX)
        if b"%PDF-" not in data[:1024]:
            return None
        pages, count, streams = _scan(data)
        for unpacked in _unpacked(data, streams):
            inner = _scan(unpacked)
            pages, count = pages + inner.pages, max(count, inner.largest)
    except (_BoundError, ValueError, zlib.error):
        return None
    upper = max(pages, count)
    return Pages(pages or upper, upper) if 0 < upper <= PDF_PAGES_MAX else None


# --- base64, decoded where it is read ---------------------------------------------------------------------


class _Window:
    """A file over base64 text, plain or URL-safe, padded or not. Counts what is read of it.

    ValueError for what is not base64, `_BoundError` past a bound.
    """

    def __init__(self, text: str, bounds: Bounds = SOUND_MAX) -> None:
        text = text.strip()
        if any(blank in text for blank in " \n\r\t"):
            if len(text) > WRAPPED_CHARS_MAX:
                raise _BoundError
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
        """All of it, if it is no more than `bytes_max`."""
        if self.size > bytes_max:
            raise _BoundError
        return self._decode(0, -(-len(self._text) // _BLOCK_CHARS))

    def _count(self, count: int) -> None:
        self._reads += 1
        self._bytes += count
        if self._reads > self._bounds.reads or self._bytes > self._bounds.bytes:
            raise _BoundError

    def _decode(self, first: int, blocks: int) -> bytes:
        chars = self._text[first * _BLOCK_CHARS : (first + blocks) * _BLOCK_CHARS]
        chars = chars.replace("-", "+").replace("_", "/")
        return a2b_base64(chars + "=" * (-len(chars) % 4), strict_mode=True)


_IMAGE = re.compile(rb"\x89PNG\r\n\x1a\n|\xff\xd8|GIF8[79]a|RIFF....WEBP|BM|....ftyp", re.DOTALL)
_VIDEO = re.compile(rb"....ftyp|\x30\x26\xb2\x75\x8e\x66\xcf\x11", re.DOTALL)


# --- PDF --------------------------------------------------------------------------------------------------


def _name(name: bytes) -> bytes:
    """A pattern for a PDF name: any letter of it may be written as `#` and its code."""
    return b"".join(b"(?:%c|#%02X|#%02x)" % (letter, letter, letter) for letter in name)


_END = rb"(?=[\0\s/<>\[\]()%]|\Z)"
_NODE = re.compile(
    b"/(?:" + _name(b"Type") + rb"[\0\s]*+/(?:(" + _name(b"Page") + b")|(" + _name(b"ObjStm") + b"))" + _END + b"|"
    + _name(b"Count") + rb"[\0\s]++(\d{1,10})" + _END + rb"([\0\s]++\d{1,5}[\0\s]++R)?)"
)  # fmt: skip
_STREAM = re.compile(rb"stream\r?\n")
_DICTIONARY_BYTES = 4096
"""How far from its type the data of an object stream may begin."""


class _Syntax(NamedTuple):
    """What plain PDF syntax shows: page objects, the largest `/Count`, and where object streams are described."""

    pages: int
    largest: int
    streams: list[tuple[int, int]]


def _scan(data: bytes) -> _Syntax:
    if data.count(b"/") > PDF_NAMES_MAX or data.count(b"/#") > PDF_ESCAPES_MAX:
        raise _BoundError
    pages = count = 0
    streams = []
    for number, found in enumerate(_NODE.finditer(data)):
        if number > PDF_NODES_MAX:
            raise _BoundError
        if found[1]:
            pages += 1
        elif found[2]:
            streams.append(found.span())
        elif found[4]:
            raise ValueError("a count that is written elsewhere")
        else:
            count = max(count, int(found[3]))
    return _Syntax(pages, count, streams)


def _unpacked(data: bytes, streams: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """What the object streams of a PDF unpack to."""
    packed_left, left = len(data), PDF_INFLATED_MAX
    for start, stop in streams:
        begin = _STREAM.search(data, stop, stop + _DICTIONARY_BYTES)
        end = -1 if begin is None else data.find(b"endstream", begin.end())
        if begin is None or end < 0 or left <= 0:
            raise _BoundError
        packed_left -= end - start  # streams that lie in each other would be looked at again and again
        if packed_left < 0:
            raise _BoundError
        inflate = zlib.decompressobj()
        unpacked = inflate.decompress(data[begin.end() : end], left)
        if not inflate.eof:
            raise _BoundError
        left -= len(unpacked)
        yield unpacked
