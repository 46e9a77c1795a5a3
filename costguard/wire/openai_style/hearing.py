"""A stream that answers one task: pieces in any split -> the usage, how far it came, and how the task ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from costguard.tasks import Task
from costguard.wire import sse
from costguard.wire.dialect import Doubt, Ending, Judgement, Refused
from costguard.wire.openai_style.answering import aliases, errors_of, is_told, name_of, read_object, success
from costguard.wire.runware.answers import WireError
from costguard.wire.runware.endings import said
from costguard.wire.runware.figures import Told
from costguard.wire.runware.stream import EVIDENCE_CHARS_MAX


class Piece(NamedTuple):
    """What one event of a stream says.

    `finished`: which results came to their end in it. `stops`: nothing comes behind it. `failed`: it says that the
    work failed.
    """

    usage: Any = None
    cost: Any = None
    name: str = ""
    finished: tuple[int, ...] = ()
    stops: bool = False
    failed: bool = False


Read = Callable[[Mapping[str, Any]], Piece]
"""How a wire reads an event."""


class Listening:
    """See `Listener`. Never raises, keeps no text.

    `whole` judges a response that is no stream, though one was asked for.
    """

    def __init__(self, task: Task, read: Read, whole: Callable[[bytes], Ending | None]) -> None:
        self._task = task
        self._read = read
        self._judge_whole = whole
        self._parser = sse.EventParser()
        self._told = Told()
        self._name = ""
        self._finished: set[int] = set()
        self._is_final = False
        """The usage was told at the end of every result, or behind it."""
        self._stops = False
        self._pieces = 0
        self._errors: list[WireError] = []
        self._failed = False
        self._bare: bytes | None = None

    @property
    def has_heard(self) -> bool:
        """True once anything came that can be read."""
        return self._pieces > 0 or bool(self._errors)

    def feed(self, chunk: bytes) -> None:
        """One chunk of decoded bytes."""
        for event in self._parser.feed(chunk):
            self._hear(event)

    def judge(self, cut: str | None) -> Judgement:
        """How the task ends; see `Listener`."""
        for event in self._parser.end():
            self._hear(event)
        ending = self._ending(cut)
        return Judgement({self._task.uuid: ending}, aliases=aliases(self._task, self._name, ending))

    def _hear(self, event: sse.Event) -> None:
        if sse.is_done(event.data):
            self._stops = True
            return
        value = read_object(event.data)
        if value is None:
            return
        piece = self._read(value)
        self._name = self._name or piece.name or (name_of(value) if event.bare else "")
        errors = errors_of(event.data) if value.get("error") or value.get("errors") else ()
        self._errors += errors
        self._bare = event.data if event.bare and not self._pieces else None
        if errors and piece == Piece():
            return
        self._pieces += 1
        self._failed = self._failed or piece.failed
        self._finished.update(piece.finished)
        self._stops = self._stops or piece.stops
        self._told = self._told.merged(Told(piece.cost, piece.usage))
        if len(self._finished) >= self._task.results and is_told(piece.cost, piece.usage):
            self._is_final = True

    def _ending(self, cut: str | None) -> Ending:
        if self._bare is not None and not self._stops:
            found = self._judge_whole(self._bare)
            if found is not None:
                return found
        told = self._told
        if self._is_final:  # whatever happened afterwards: it was told at the end
            return success(self._task, told.cost, told.usage)
        if self._errors or self._failed:
            first = self._errors[0] if self._errors else None
            if not self._pieces and not any(error.doubtful for error in self._errors):
                return Refused(said(first))
            code = f" {first.code}" if first is not None and first.code else ""
            return self._doubt(f"error in the stream{code}")
        if self._stops and (self._finished or is_told(told.cost, told.usage)):
            return success(self._task, told.cost, told.usage)
        return self._doubt(cut or "the stream ended before its last event")

    def _doubt(self, reason: str) -> Doubt:
        evidence: dict[str, object] = {"frames": self._pieces}
        if self._name:
            evidence["id"] = self._name
        if not self._told.is_empty:
            evidence["figures"] = [self._told.raw()[:EVIDENCE_CHARS_MAX]]
        return Doubt(reason, evidence, taken=self._pieces > 0)
