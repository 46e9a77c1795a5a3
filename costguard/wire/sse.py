"""Server-sent events, read as leniently as the clients that read them do.

By the standard an event is its `data:` lines up to a blank line. Met in the field as well: events divided by
single newlines, a byte order mark first, lines of bare JSON without `data:`, a whole JSON document in place
of a stream.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

EVENT_STREAM = "text/event-stream"

FRAME_MAX = 16 * 2**20
"""A frame longer than this (bytes) is skipped: no listener keeps a stream in memory."""

DONE = b"[DONE]"

_BOM = b"\xef\xbb\xbf"
_OPENERS = (b"{", b"[")
_TRIES_MAX = 8
"""How often one event is tried for being whole before its blank line: what never is must not cost a pass a line."""


def is_done(data: bytes) -> bool:
    """Whether some data is the end's mark, as it is or as a JSON text."""
    return data.strip(b' \t"') == DONE


class Event(NamedTuple):
    """The data of one event. `bare`: it came as JSON by itself, outside of any `data:` line."""

    data: bytes
    bare: bool = False


class EventParser:
    """Incremental parser: `feed` any split of the bytes and get each finished event.

    Lines may end in LF, CRLF or CR; comments and other fields are dropped; `data:` may lack its space; several
    data lines of one event are joined by a newline, unless they are whole by themselves.
    """

    def __init__(self) -> None:
        self._rest: list[bytes] = []
        self._rest_size = 0
        self._data: list[bytes] = []
        self._bare: list[bytes] = []
        self._size = 0
        self._tries = 0
        self._after_cr = False
        self._is_begun = False

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Every event that this chunk completes."""
        if not chunk:
            return
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        self._after_cr = chunk.endswith(b"\r")
        if b"\n" not in chunk and b"\r" not in chunk:  # a long line grows piece by piece, never copied
            self._keep(chunk)
            return
        lines = (b"".join(self._rest) + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest, self._rest_size = [], 0
        self._keep(lines.pop())
        for line in lines:
            yield from self._line(line)

    def end(self) -> Iterator[Event]:
        """What the stream ended in without its blank line."""
        if self._rest:
            rest, self._rest, self._rest_size = b"".join(self._rest), [], 0
            yield from self._line(rest)
        yield from self._event()
        yield from self._document()

    def _keep(self, piece: bytes) -> None:
        """The beginning of a line whose end is still to come; too long a one becomes a comment."""
        if piece:
            self._rest.append(piece)
            self._rest_size += len(piece)
            if self._rest_size > FRAME_MAX:
                self._rest = [b":"]

    def _line(self, line: bytes) -> Iterator[Event]:
        if not self._is_begun:
            self._is_begun = True
            line = line.removeprefix(_BOM)
        if line.startswith(b"data:"):
            yield from self._document()
            value = line[5:].removeprefix(b" ")
            if self._data and (is_done(value) or (value.lstrip().startswith(_OPENERS) and self._is_over())):
                yield from self._event()
            if self._size <= FRAME_MAX:
                self._data.append(value)
                self._size += len(value)
        elif not line:
            yield from self._event()
        elif line.startswith(b":"):
            return  # a comment: heartbeats are such
        elif self._bare or line.lstrip().startswith(_OPENERS):
            yield from self._event()
            yield from self._bare_line(line)

    def _bare_line(self, line: bytes) -> Iterator[Event]:
        """JSON outside of any `data:` line: whole on its line, or a document over several."""
        if self._size <= FRAME_MAX:
            self._bare.append(line)
            self._size += len(line)
        closes = line.startswith((b"}", b"]")) or len(self._bare) == 1
        if closes and (is_done(line) or self._is_whole(self._bare)):
            yield from self._document()

    def _is_over(self) -> bool:
        """Whether the event ended without its blank line: what opens JSON does not go on with it."""
        return not self._data[0].lstrip().startswith(_OPENERS) or self._is_whole(self._data)

    def _is_whole(self, lines: list[bytes]) -> bool:
        """Whether these lines are a JSON value, or the end's mark, already."""
        if not lines[-1].rstrip().endswith((b"}", b"]")):
            return False
        self._tries += 1
        if self._tries > _TRIES_MAX:
            return False
        joined = b"\n".join(lines)
        if is_done(joined):
            return True
        try:
            json.loads(joined)
        except (ValueError, RecursionError):
            return False
        return True

    def _event(self) -> Iterator[Event]:
        if self._data:
            data, self._data, self._size, self._tries = self._data, [], 0, 0
            yield Event(b"\n".join(data))

    def _document(self) -> Iterator[Event]:
        if self._bare:
            lines, self._bare, self._size, self._tries = self._bare, [], 0, 0
            yield Event(b"\n".join(lines), bare=True)
