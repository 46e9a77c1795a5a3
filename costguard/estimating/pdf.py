"""Pages of a PDF.

Read here: a PDF library unpacks and walks what a file tells it to, which no bound on reading it limits
(pypdf 7.1 took 8.8 s and 10,000 lines of log over a file of 68 KB).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from costguard.estimating.inline import BoundError, Bounds, Window

BYTES_MAX = 8 * 1024 * 1024
"""A larger PDF is not read: decoding it alone would take too long."""

INFLATED_MAX = 8 * 1024 * 1024
"""Bytes that all object streams of a PDF may unpack to."""

NAMES_MAX = 300_000
"""Names in a PDF, or in what it unpacks to: each one costs a look."""

ESCAPES_MAX = 2_000
"""Names of a PDF that begin with an escape: dear to read, and hardly ever written."""

NODES_MAX = 40_000
"""Pages and counts in a PDF, or in one object stream of it."""

PAGES_MAX = 20_000
"""More pages than any model reads: a count beyond is not believed."""

_WHOLE = Bounds(0, 0)  # it is read in one go, or not at all


class Pages(NamedTuple):
    """Pages of a document: what it holds, and the most it can be read to hold."""

    expected: int
    upper: int


def pdf_pages(text: str) -> Pages | None:
    """Pages of a base64 PDF; None if not known: too large, encrypted, or not readable as one.

    `expected` counts the page objects, packed ones too; `upper` is that or the largest `/Count`, which is
    what renderers go by. (An outline states one too: then `upper` is too high, never too low.)
    """
    try:
        data = Window(text, _WHOLE).whole(BYTES_MAX)
        if b"%PDF-" not in data[:1024]:
            return None
        pages, count, streams = _scan(data)
        for unpacked in _unpacked(data, streams):
            inner = _scan(unpacked)
            pages, count = pages + inner.pages, max(count, inner.largest)
    except (BoundError, ValueError, zlib.error):
        return None
    upper = max(pages, count)
    return Pages(pages or upper, upper) if 0 < upper <= PAGES_MAX else None


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
    if data.count(b"/") > NAMES_MAX or data.count(b"/#") > ESCAPES_MAX:
        raise BoundError
    pages = count = 0
    streams = []
    for number, found in enumerate(_NODE.finditer(data)):
        if number > NODES_MAX:
            raise BoundError
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
    packed_left, left = len(data), INFLATED_MAX
    for start, stop in streams:
        begin = _STREAM.search(data, stop, stop + _DICTIONARY_BYTES)
        end = -1 if begin is None else data.find(b"endstream", begin.end())
        if begin is None or end < 0 or left <= 0:
            raise BoundError
        packed_left -= end - start  # streams that lie in each other would be looked at again and again
        if packed_left < 0:
            raise BoundError
        inflate = zlib.decompressobj()
        unpacked = inflate.decompress(data[begin.end() : end], left)
        if not inflate.eof:
            raise BoundError
        left -= len(unpacked)
        yield unpacked
