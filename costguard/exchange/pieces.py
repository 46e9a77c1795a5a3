"""A file of JSON, piece by piece, in flat memory: a line each, or the objects of an array however it is written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import IO, NamedTuple

PIECE_MAX = 16 * 2**20
"""Bytes of one line or object; a longer one is left out."""

CHUNK = 2**20
HEAD = 2**16
"""Bytes that tell how a file is written."""

_BOM = b"\xef\xbb\xbf"
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|["{}\[\]]', re.DOTALL)
_BETWEEN = re.compile(rb"[\s,\[\]]*+")
"""What may stand between the objects of arrays."""

_SCALAR = re.compile(rb'("[^"\\\n]{0,100}"|[-+.\w]{1,100})\s*+(?:[,\]]|$)')
"""What may stand in an array and is no object; short ones only."""

_SCALAR_MAX = 1000
_INDENT = re.compile(rb"\n[ \t]{0,100}")

TOO_LONG = f"longer than {PIECE_MAX // 2**20} MiB"
UNENDED = "an object that begins here has no end, or is too long"
NO_OBJECT = "not JSON"


class Piece(NamedTuple):
    """A line, or an object of an array: its number, from 1, its bytes, and why it is none."""

    number: int
    text: bytes
    why: str = ""


class Pieces:
    """The pieces of a file that is open for reading in bytes.

    After each piece `offset` and `digest` tell how far the file was read, and what all of that is; `number` is the
    piece's. `skip` goes on from there in a file that begins with the same bytes.
    """

    def __init__(self, file: IO[bytes], head: bytes) -> None:
        """`head`: the first bytes of the file, which may be read again; they tell how it is written."""
        self._file = file
        self.by_line = _is_by_line(head)
        self.offset = 0
        self.number = 0
        self._hash = blake2b(digest_size=16)

    @property
    def unit(self) -> str:
        """What a piece is called."""
        return "line" if self.by_line else "item"

    @property
    def digest(self) -> str:
        """Of all that was read."""
        return self._hash.hexdigest()

    def skip(self, size: int, number: int, digest: str) -> bool:
        """Go on after the first `size` bytes if their digest is `digest`; else from the beginning, and False."""
        read = blake2b(digest_size=16)
        left = size
        while left and (chunk := self._file.read(min(CHUNK, left))):
            read.update(chunk)
            left -= len(chunk)
        if left or read.hexdigest() != digest:
            self._file.seek(0)
            return False
        self._hash, self.offset, self.number = read, size, number
        return True

    def __iter__(self) -> Iterator[Piece]:
        return self._lines() if self.by_line else self._objects()

    def _took(self, raw: bytes) -> None:
        self._hash.update(raw)
        self.offset += len(raw)

    def _lines(self) -> Iterator[Piece]:
        read = self._file.readline
        while line := read(PIECE_MAX + 1):
            self.number += 1
            first, why = not self.offset, ""
            self._took(line)
            while len(line) > PIECE_MAX or (why and not line.endswith(b"\n")):
                why = TOO_LONG
                if line.endswith(b"\n"):
                    break
                line = read(CHUNK)
                if not line:
                    break
                self._took(line)
            text = b"" if why else line.strip()
            if first:
                text = text.removeprefix(_BOM)
            if text or why:
                yield Piece(self.number, text, why)

    def _objects(self) -> Iterator[Piece]:
        window = _Window(self._file, self._took)
        if not self.offset:
            window.skip(_BOM)
        begins = None
        while window.pass_by(_BETWEEN):
            begins = begins or window.line_begins()
            if window.ends_with(_SCALAR):
                self.number += 1
                yield Piece(self.number, window.take(window.end_of(_SCALAR)))
                continue
            end = window.end_of_object()
            self.number += 1
            if end is not None:
                yield Piece(self.number, window.take(end))
                continue
            why = UNENDED if window.is_object else NO_OBJECT
            found = window.find(begins)
            yield Piece(self.number, b"", why if found else f"{why}, and nothing behind it was read")


class _Window:
    """The part of a file that is looked at. `took` is told of all bytes that are used up."""

    def __init__(self, file: IO[bytes], took: Callable[[bytes], None]) -> None:
        self._file = file
        self._took = took
        self._buffer = b""
        self._at = 0
        self._is_end = False
        self._line = b""
        """What of the present line was used up, if it is short and blank."""
        self._more()

    def _more(self) -> bool:
        """Read on, and let go of what was used; False at the file's end."""
        chunk = self._file.read(max(CHUNK, len(self._buffer) - self._at))
        self._is_end = not chunk
        self._buffer, self._at = self._buffer[self._at :] + chunk, 0
        return not self._is_end

    @property
    def is_object(self) -> bool:
        """Whether an object begins here."""
        return self._buffer[self._at : self._at + 1] == b"{"

    def take(self, end: int) -> bytes:
        """Use up what is before `end`."""
        raw, self._at = self._buffer[self._at : end], end
        self._took(raw)
        newline = raw.rfind(b"\n")
        self._line = raw[newline:] if newline >= 0 else self._line + raw
        if not _INDENT.fullmatch(self._line):
            self._line = b""
        return raw

    def skip(self, prefix: bytes) -> None:
        """Use up `prefix`, if it is what comes."""
        if self._buffer.startswith(prefix, self._at):
            self.take(self._at + len(prefix))

    def pass_by(self, pattern: re.Pattern[bytes]) -> bool:
        """Use up what `pattern` matches; False if nothing comes behind it."""
        while True:
            found = pattern.match(self._buffer, self._at)
            self.take(found.end() if found else self._at)
            if self._at < len(self._buffer):
                return True
            if not self._more():
                return False

    def line_begins(self) -> bytes | None:
        """How a line begins that an object begins on: a newline, blanks, and its brace; None in a line of others."""
        return self._line + b"{" if self._line and self.is_object else None

    def end_of(self, pattern: re.Pattern[bytes]) -> int:
        """Where what `pattern` matches here ends."""
        found = pattern.match(self._buffer, self._at)
        return found.end(1) if found else self._at

    def ends_with(self, pattern: re.Pattern[bytes]) -> bool:
        """Whether `pattern` matches here, all of it."""
        while not self._is_end and len(self._buffer) - self._at < _SCALAR_MAX:
            self._more()
        return pattern.match(self._buffer, self._at) is not None

    def end_of_object(self) -> int | None:
        """Where the object that begins here ends; None if it does not within `PIECE_MAX`, or none begins."""
        while self.is_object:
            end = _end(self._buffer, self._at)
            if end is not None:
                return end if 0 < end - self._at <= PIECE_MAX else None
            if len(self._buffer) - self._at > PIECE_MAX or not self._more():
                return None
        return None

    def find(self, begins: bytes | None) -> bool:
        """Use up all before the next line that begins so; all there is, and False, if none does."""
        start = 1  # not this very place
        while begins is not None:
            found = self._buffer.find(begins, self._at + start)
            if found >= 0:
                self.take(found)
                return True
            self.take(max(self._at, len(self._buffer) - len(begins)))
            start = 0
            if self._is_end or not self._more():
                break
        self.take(len(self._buffer))
        while self._more():
            self.take(len(self._buffer))
        return False


def _end(buffer: bytes, at: int) -> int | None:
    """Where the object that begins at `at` ends; None if the buffer does first, and 0 if its brackets do not match."""
    still_open: list[int] = []
    for token in _TOKEN.finditer(buffer, at):
        if token.end() - token.start() > 1:
            continue
        mark = buffer[token.start()]
        if mark in _CLOSING:
            still_open.append(_CLOSING[mark])
        elif mark == b'"'[0]:
            return None
        elif still_open.pop() != mark:
            return 0
        elif not still_open:
            return token.end()
    return None


_CLOSING = {b"{"[0]: b"}"[0], b"["[0]: b"]"[0]}


def _is_by_line(head: bytes) -> bool:
    """Whether a file that begins so has a value a line; not if its first line is no whole value, but its beginning."""
    head = head.removeprefix(_BOM).lstrip()
    if not head.startswith((b"[", b"{")):
        return True
    first, newline, rest = head[:HEAD].partition(b"\n")
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        # A broken first line, if others begin as one does.
        return bool(newline) and head.startswith(b"{") and (rest.startswith(b"{") or b"\n{" in rest)
    return True
