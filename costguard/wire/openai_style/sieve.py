"""Keeps from the caller of a stream the one piece that it did not ask for; every other byte passes as it is."""

from __future__ import annotations

import json

from costguard.wire.sse import FRAME_MAX

_BEFORE = (b"event:", b"id:", b"retry:")
"""Lines that belong to the data behind them."""

_BEFORE_MAX = 16
"""So many of them are held back, and no more."""


class UsageSieve:
    """See `Sieve`. Drops the event of a chat's stream that tells usage and no choice, with the blank line behind it.

    Bytes are held back to the end of their line only. What is longer than `FRAME_MAX` passes.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._before: list[bytes] = []
        self._is_long = False
        """The beginning of this line has passed already."""
        self._has_dropped = False

    def feed(self, chunk: bytes) -> bytes:
        """What the caller is to have of it, and of what was held back."""
        looked = max(len(self._line) - 1, 0)  # its last byte may be a CR whose LF comes now
        self._line += chunk
        passed: list[bytes] = []
        begin = 0
        while (end := _line_end(self._line, max(begin, looked))) is not None:
            passed += self._whole(bytes(self._line[begin:end]))
            begin = end
        del self._line[:begin]
        if self._is_long or len(self._line) > FRAME_MAX:
            self._is_long = True
            passed += [*self._let_go(), bytes(self._line)]
            self._line.clear()
        return b"".join(passed)

    def end(self) -> bytes:
        """What is left when the stream is over."""
        passed = self._whole(bytes(self._line)) if self._line else []
        self._line.clear()
        return b"".join([*passed, *self._let_go()])

    def _let_go(self) -> list[bytes]:
        held, self._before = self._before, []
        return held

    def _whole(self, line: bytes) -> list[bytes]:
        if self._is_long:
            self._is_long = False
            return [line]
        has_dropped, self._has_dropped = self._has_dropped, False
        if not line.strip(b"\r\n"):
            return [] if has_dropped else [*self._let_go(), line]
        if line.startswith(_BEFORE) and len(self._before) < _BEFORE_MAX:
            self._before.append(line)
            return []
        if line.startswith(b"data:") and _is_usage_alone(line[5:]):
            self._before.clear()
            self._has_dropped = True
            return []
        return [*self._let_go(), line]


def _line_end(line: bytearray, start: int) -> int | None:
    """Where the first line ends that has its end behind `start`, CR, LF or CRLF included; None if it is to come."""
    found = [at for at in (line.find(b"\n", start), line.find(b"\r", start)) if at >= 0]
    if not found:
        return None
    at = min(found)
    if line[at] == 10:  # LF
        return at + 1
    if at + 1 == len(line):
        return None  # a CR: an LF may follow
    return at + 2 if line[at + 1] == 10 else at + 1


def _is_usage_alone(data: bytes) -> bool:
    """Whether it is the piece of a chat's stream that tells the usage and no choice."""
    if b'"usage"' not in data or b'"choices"' not in data:
        return False
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return False
    if not isinstance(value, dict) or value.get("error") or value.get("errors"):
        return False
    return value.get("choices") == [] and isinstance(value.get("usage"), dict)
