"""Runware's streams: bytes of server-sent events -> JSON frames, however they are split."""

from __future__ import annotations

from collections.abc import Iterator

EVENT_STREAM = "text/event-stream"

FRAME_MAX = 16 * 2**20
"""A frame longer than this (bytes) is skipped: no listener keeps a stream in memory."""

DONE = b"[DONE]"


class EventParser:
    """Incremental parser: `feed` any split of the bytes and get the data of each finished event.

    Lines may end in LF, CRLF or CR; comment lines are dropped; `data:` may lack its space; several
    data lines of one event are joined by a newline, as the standard says.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0
        self._after_cr = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The data of every event that this chunk completes."""
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        if not chunk:
            return
        self._after_cr = chunk.endswith(b"\r")
        lines = (self._rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > FRAME_MAX:
            self._rest = b":"
        for line in lines:
            if line:
                self._line(line)
            elif self._data:
                yield self._event()

    def end(self) -> Iterator[bytes]:
        """The data of an event that the stream ended in without its blank line."""
        if self._rest:
            self._line(self._rest)
            self._rest = b""
        if self._data:
            yield self._event()

    def _line(self, line: bytes) -> None:
        if line.startswith(b"data:") and self._size <= FRAME_MAX:
            value = line[5:]
            self._data.append(value.removeprefix(b" "))
            self._size += len(value)

    def _event(self) -> bytes:
        data, self._data, self._size = b"\n".join(self._data), [], 0
        return data
