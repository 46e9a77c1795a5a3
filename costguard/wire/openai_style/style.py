"""What all of these wires have in common as dialects: a request is one task, which the guard names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from costguard.errors import InvalidRequest
from costguard.tasks import Prompt, Task
from costguard.wire import openai_usage, sse, strict
from costguard.wire.dialect import (
    Ack,
    Answers,
    Doubt,
    Ending,
    Judgement,
    Named,
    Problem,
    Request,
    Sieve,
    Success,
    Target,
)
from costguard.wire.openai_style import problems
from costguard.wire.openai_style.answering import aliases, is_told, name_of, read_object, told_in, whole
from costguard.wire.openai_style.asking import TASK_TYPE, Asked, task_of
from costguard.wire.openai_style.hearing import Listening, Piece
from costguard.wire.openai_style.parts import Reading
from costguard.wire.openai_style.paths import is_known
from costguard.wire.runware.answers import read_value_of

_ANY = Task("", TASK_TYPE, None, True, "sync", 1, None, {})
"""In place of the task that a response from elsewhere is of."""


class Style(ABC):
    """See `Dialect`. A wire says where it is, how its prompt is read, and what its answers and pieces tell."""

    name: str
    prefix: str
    path: str
    limits: tuple[str, ...]
    """The fields that may state the allowance of completion tokens; the first is the one to lower."""
    asks_with: tuple[str, ...]
    """The fields of which one must be there: with it the model is asked."""

    @abstractmethod
    def gather(self, raw: Mapping[str, Any], reading: Reading) -> None:
        """Read what the model reads into `reading`."""

    @abstractmethod
    def answered(self, value: Mapping[str, Any], task: Task) -> Ending | None:
        """What an answer comes to that tells no figure; None if it is no answer."""

    @abstractmethod
    def piece(self, value: Mapping[str, Any]) -> Piece:
        """What an event of a stream says."""

    def forced(self, raw: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002
        """Fields that a request is to have so that its cost is told."""
        return {}

    def claims(self, target: Target) -> bool | None:
        """Its path is its own on hosts that are known; elsewhere it is nobody's."""
        return target.path.endswith(self.path) and is_known(target)

    def recognises(self, body: bytes) -> bool:
        """See `Dialect`."""
        return any(b'"%b"' % key.encode() in body for key in self.asks_with)

    def problem(self, problem: Problem, body: bytes) -> bytes:  # noqa: ARG002
        """See `Known`."""
        return problems.openai(problem)

    def shows_tasks(self, body: bytes) -> bool:
        """See `Dialect`."""
        return self.recognises(body)

    def read(self, body: bytes) -> Request:
        """See `Dialect`."""
        raw = strict.read(body)
        if not isinstance(raw, dict):
            raise strict.invalid(f"expected an object, as {self.name} takes it, found {strict.kind(raw)}")
        return Asked(self._task(raw), body, self.limits, self.forced(raw))

    def name_tasks(self, body: bytes) -> Named | None:
        """See `Dialect`: the names are for the receipt alone, the wire has none."""
        try:
            tasks = self.read(body).tasks
        except InvalidRequest:
            return None
        return Named(None, tuple([(task.uuid, task.model or task.task_type) for task in tasks]))

    def task(self, told: Mapping[str, Any]) -> Task:
        """See `Dialect`."""
        raw = dict(told)
        return Asked(self._task(raw), None, self.limits, self.forced(raw)).tasks[0]

    def _task(self, raw: dict[str, Any]) -> Task:
        if all(raw.get(key) is None for key in self.asks_with):
            raise strict.invalid(f"{self.name}: expected {' or '.join(map(repr, self.asks_with))} in it")
        return task_of(raw, self.prefix, self.limits, self._prompt(raw))

    def _prompt(self, raw: Mapping[str, Any]) -> Prompt:
        reading = Reading()
        try:
            self.gather(raw, reading)
        except RecursionError:
            raise strict.invalid("it is nested too deeply to be read") from None
        return reading.prompt()

    def is_stream(self, tasks: Sequence[Task], status: int, content_type: str) -> bool:
        """See `Dialect`."""
        return 200 <= status < 300 and (content_type == sse.EVENT_STREAM or tasks[0].delivery == "stream")

    def judge(self, tasks: Sequence[Task], status: int, body: bytes) -> Judgement:
        """See `Dialect`. A body of events is read as such, whatever it is labelled as."""
        (task,) = tasks
        value = read_object(body)
        found = whole(task, status, body, value, self.answered)
        if found is None:
            listening = self.listen(tasks)
            listening.feed(body)
            if listening.has_heard:
                return listening.judge(None)
            found = Doubt(f"http {status} unreadable response")
        return Judgement({task.uuid: found}, aliases=aliases(task, name_of(value or {}), found))

    def listen(self, tasks: Sequence[Task]) -> Listening:
        """See `Dialect`."""
        (task,) = tasks
        return Listening(task, self.piece, lambda body: whole(task, 200, body, read_object(body), self.answered))

    def dialogue(self) -> None:
        """See `Dialect`."""
        return

    def sieve(self, tasks: Sequence[Task]) -> Sieve | None:  # noqa: ARG002
        """See `Dialect`."""
        return None

    def observe(self, payload: object) -> Judgement | None:
        """See `Dialect`. A response, as a later GET tells it; its task is known by the provider's name of it."""
        value = read_value_of(payload)
        if not isinstance(value, dict) or not name_of(value):
            return None
        found = self.answered(value, _ANY)
        if is_told(*told_in(value)) and found is not None and not isinstance(found, Ack):
            found = openai_usage.alone(openai_usage.figures(*told_in(value)))
        elif isinstance(found, Success):
            return None  # no figure is told
        return None if found is None else Judgement({}, {name_of(value): found})

    def question(self, spellings: Iterable[str], request: Request | None) -> bytes | None:  # noqa: ARG002
        """There is none: what became of a lost call cannot be asked."""
        return None

    def answers(self, task_uuids: Iterable[str], status: int, body: bytes) -> Answers:  # noqa: ARG002
        """See `Dialect`."""
        return Answers({}, frozenset(), {}, f"{self.name} calls cannot be asked for", refused_whole=False, told=False)
