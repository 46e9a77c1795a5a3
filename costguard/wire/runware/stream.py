"""Runware's streams: bytes of server-sent events -> JSON frames, however they are split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from costguard.exchange.charging import Figures
from costguard.wire.runware import answers

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
        self._rest: list[bytes] = []
        self._rest_size = 0
        self._data: list[bytes] = []
        self._size = 0
        self._after_cr = False

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The data of every event that this chunk completes."""
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
            if line:
                self._line(line)
            elif self._data:
                yield self._event()

    def end(self) -> Iterator[bytes]:
        """The data of an event that the stream ended in without its blank line."""
        if self._rest:
            self._line(b"".join(self._rest))
            self._rest, self._rest_size = [], 0
        if self._data:
            yield self._event()

    def _keep(self, piece: bytes) -> None:
        """The beginning of a line whose end is still to come; too long a one becomes a comment."""
        if piece:
            self._rest.append(piece)
            self._rest_size += len(piece)
            if self._rest_size > FRAME_MAX:
                self._rest = [b":"]

    def _line(self, line: bytes) -> None:
        if line.startswith(b"data:") and self._size <= FRAME_MAX:
            value = line[5:]
            self._data.append(value.removeprefix(b" "))
            self._size += len(value)

    def _event(self) -> bytes:
        data, self._data, self._size = b"\n".join(self._data), [], 0
        return data


class Outcome(NamedTuple):
    """What a stream told of one task. `items` are its finished results with the last figures seen."""

    items: tuple[answers.Item, ...]
    errors: tuple[answers.WireError, ...]
    frames: int
    text_length: int
    is_done: bool
    is_complete: bool
    """True if every result that began came to its end."""
    has_totals: bool
    """True if every result that began finished and told its exact total."""


def _has_total(item: answers.Item) -> bool:
    """`cost` alone is rounded: the total may come on a later frame."""
    usage = item.figures.usage
    breakdown = usage.get("costBreakdown") if isinstance(usage, dict) else None
    return isinstance(breakdown, dict) and breakdown.get("total") is not None


class _Result:
    """One result of a stream as it grows: the last value of each figure wins."""

    def __init__(self) -> None:
        self.item: answers.Item | None = None
        self.finished = False

    def hear(self, frame: answers.Frame) -> None:
        new, old = frame.item, self.item
        if new is None:
            return
        if old is not None:
            cost = old.figures.cost if new.figures.cost is None else new.figures.cost
            usage = old.figures.usage if new.figures.usage is None else new.figures.usage
            new = new._replace(
                figures=Figures(cost, usage),
                seed=old.seed if new.seed is None else new.seed,
                has_result=old.has_result or new.has_result,
            )
        self.item = new
        self.finished = self.finished or frame.finished


class Reader:
    """Listens to a stream and sums up what it says of each task. Never raises, keeps no text.

    `tasks`: taskUUID -> number of results asked for.
    """

    def __init__(self, tasks: Mapping[str, int]) -> None:
        self._parser = EventParser()
        self._tasks = dict(tasks)
        self._results: dict[str, dict[int | None, list[_Result]]] = {}
        self._errors: dict[str, list[answers.WireError]] = {}
        self._frames: dict[str, int] = {}
        self._lengths: dict[str, int] = {}
        self._is_done = False

    def feed(self, chunk: bytes) -> None:
        """One chunk of decoded bytes."""
        for data in self._parser.feed(chunk):
            self._hear(data)

    def finish(self) -> None:
        """No more bytes will come."""
        for data in self._parser.end():
            self._hear(data)

    def _hear(self, data: bytes) -> None:
        if data.strip() == DONE:
            self._is_done = True
            return
        frame = answers.parse_frame(data)
        if frame is None:
            return
        for error in frame.errors:
            self._errors.setdefault(self._name(error.task_uuid), []).append(error)
        if frame.item is not None:
            uuid = self._name(frame.item.task_uuid)
            self._frames[uuid] = self._frames.get(uuid, 0) + 1
            self._lengths[uuid] = self._lengths.get(uuid, 0) + frame.text_length
            self._result(uuid, frame).hear(frame)

    def _result(self, task_uuid: str, frame: answers.Frame) -> _Result:
        """The result that `frame` belongs to. Without an index, text after a finished one begins the next."""
        index = frame.item.result_index if frame.item else None
        results = self._results.setdefault(task_uuid, {}).setdefault(index, [])
        is_next = bool(results) and results[-1].finished and (frame.text_length > 0 or frame.finished)
        if not results or (is_next and index is None and len(results) < self._tasks.get(task_uuid, 1)):
            results.append(_Result())
        return results[-1]

    def _name(self, task_uuid: str) -> str:
        """Some models stream an empty `taskUUID`: it means the one task there is."""
        return task_uuid or (next(iter(self._tasks)) if len(self._tasks) == 1 else "")

    def _unnamed_errors(self) -> list[answers.WireError]:
        """Errors that name none of several tasks: they cast doubt on all, and prove nothing of any."""
        return [replace(error, doubtful=True) for error in self._errors.get("", [])]

    def outcome(self, task_uuid: str) -> Outcome:
        """What was heard of `task_uuid`."""
        results = [result for found in self._results.get(task_uuid, {}).values() for result in found]
        ended = [r for r in results if r.item and (r.finished or r.item.figures.cost is not None)]
        items = tuple(r.item for r in ended if r.item)
        return Outcome(
            items,
            (*self._errors.get(task_uuid, []), *self._unnamed_errors()),
            self._frames.get(task_uuid, 0),
            self._lengths.get(task_uuid, 0),
            self._is_done,
            len(ended) == len(results),
            bool(ended) and all(r.finished for r in results) and all(_has_total(item) for item in items),
        )
