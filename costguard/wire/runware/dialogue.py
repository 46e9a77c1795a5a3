"""A websocket on which tasks are sent and answered: frames in any order -> how each task ends, and what else is told.

A frame is read as any response is. What answers a task first is its own answer, and all of it: of several results each
may come in a frame of its own. All that comes later is told of the task by another road, as polls are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from typing import TypeVar

from costguard.tasks import Task
from costguard.wire import sse
from costguard.wire.dialect import Ack, Doubt, Ending, Heard, Success
from costguard.wire.runware import endings
from costguard.wire.runware.answers import Envelope, Item, WireError, parse_response
from costguard.wire.runware.requests import FREE_TASK_TYPES
from costguard.wire.runware.stream import Reader

NAMES_MAX = 10_000
"""Tasks that a connection remembers to have polled, and to have heard of as being at work."""

_FAILURE = re.compile(
    r"server|unavailable|gateway|internal|(?:standard|unknown|undefined|default|inference)_?error"
    r"|(?:processing|task)_?failed|connection|session|socket|shut_?down|restart|maintenance",
    re.IGNORECASE,
)
"""Codes of errors that go with a 5xx, as the SDK of Runware lists them, of work that failed, and of a connection that
the provider gives up, which says nothing of the work on it."""

_OK = 200
_NOTHING = Envelope((), (), ())

T = TypeVar("T")


class _Awaited:
    """A task that was sent, and what its own answer has told so far."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._results: list[Item] = []
        self._sign: Item | None = None
        self._reader = Reader([task]) if task.delivery == "stream" else None
        # What is not delivered in its answer is only acknowledged by it.
        self._is_later = task.delivery == "async" or task.webhook

    def hear(self, message: bytes, items: Sequence[Item], errors: Sequence[WireError]) -> Ending | None:
        """One frame of its answer; None while more are to come."""
        if self._reader is not None:
            self._reader.feed(b"data: " + b" ".join(message.splitlines()) + b"\n\n")
            return self._reader.judge(None).endings[self.task.uuid] if errors or self._reader.is_whole else None
        self._keep(items)
        is_whole = len(self._results) >= self.task.results
        if not (errors or self._is_later or is_whole):
            return None
        ending = self._judge(self._results if is_whole else self._told(), errors)
        if isinstance(ending, Success) and self._is_later and not errors and not is_whole:
            return ending._replace(partial=True)
        return ending

    def end(self, cut: str) -> Ending:
        """The connection is over."""
        if self._reader is not None:
            return self._reader.judge(cut).endings[self.task.uuid]
        ending = self._judge(self._told(), [WireError(self.task.uuid, "", cut, "", doubtful=True)])
        return replace(ending, reason=cut) if isinstance(ending, Doubt) else ending

    def _judge(self, items: Iterable[Item], errors: Sequence[WireError]) -> Ending:
        envelope = Envelope(tuple(items), tuple(errors), ())
        return endings.judge([self.task], _OK, envelope).endings[self.task.uuid]

    def _told(self) -> list[Item]:
        return [*self._results, *([] if self._sign is None else [self._sign])]

    def _keep(self, items: Iterable[Item]) -> None:
        """Those of one frame are different results; one that an earlier frame had says more of itself. Signs of life
        are one.
        """
        earlier = list(range(len(self._results)))
        for item in items:
            if not item.settles:
                self._sign = item if self._sign is None else self._sign._replace(told=self._sign.told.merged(item.told))
                continue
            found = next((n for n in earlier if _is_same(self._results[n], item)), None)
            if found is None:
                self._results.append(item)
                continue
            earlier.remove(found)
            known = self._results[found]
            self._results[found] = known._replace(
                told=known.told.merged(item.told),
                result_index=item.result_index if known.result_index is None else known.result_index,
                seed=item.seed if known.seed is None else known.seed,
            )


def _is_same(one: Item, other: Item) -> bool:
    """Whether both tell a name of the same result, and none that differs."""
    names = ((one.result_index, other.result_index), (one.seed, other.seed))
    both = [pair for pair in names if None not in pair]
    return bool(both) and all(mine == theirs for mine, theirs in both)


class Messages:
    """See `Dialogue`."""

    def __init__(self) -> None:
        self._awaited: dict[str, list[_Awaited]] = {}
        self._asked: dict[str, Task] = {}
        """What was asked for, as the task that last asked for it; and of that, what was not told yet."""
        self._untold: dict[str, None] = {}
        self._at_work: dict[str, None] = {}

    def sent(self, tasks: Sequence[Task]) -> None:
        """See `Dialogue`."""
        for task in tasks:
            if task.billable:
                self._awaited.setdefault(task.uuid, []).append(_Awaited(task))
            elif task.asks:
                _remember(self._asked, task.uuid, task)
                _remember(self._untold, task.uuid, None)

    def unsent(self, tasks: Sequence[Task]) -> None:
        """See `Dialogue`."""
        for task in tasks:
            self._drop(task.uuid, [one for one in self._awaited.get(task.uuid, []) if one.task is task])

    def unanswered(self, task_uuid: str) -> Sequence[Task]:
        """See `Dialogue`."""
        return [one.task for one in self._awaited.get(task_uuid, ())]

    def hear(self, message: bytes) -> Heard:
        """See `Dialogue`."""
        envelope = parse_response(message) or _NOTHING
        items, errors = endings.by_task(envelope.items, envelope.errors)
        errors = {uuid: [_without_status(error) for error in own] for uuid, own in errors.items()}
        self._name(items, errors, is_done=sse.is_done(message))
        ended = tuple(self._answered(message, items, errors))
        told = {**items, **errors, **{details.task_uuid: None for details in envelope.details}}
        asked = [self._asked[uuid] for uuid in told if uuid in self._asked]
        for uuid in told:
            self._untold.pop(uuid, None)
        rest = Envelope(tuple(chain(*items.values())), tuple(chain(*errors.values())), envelope.details)
        judgement = endings.judge(asked, _OK, rest)
        news = {uuid: ending for uuid, ending in judgement.others.items() if not self._is_known(uuid, ending)}
        return Heard(ended, judgement._replace(others=news))

    def end(self, cut: str) -> tuple[tuple[Task, Ending], ...]:
        """See `Dialogue`."""
        awaited, self._awaited = list(chain(*self._awaited.values())), {}
        return tuple([(one.task, one.end(cut)) for one in awaited])

    def _answered(
        self, message: bytes, items: dict[str, list[Item]], errors: dict[str, list[WireError]]
    ) -> Iterable[tuple[Task, Ending]]:
        """The tasks that this frame answers; what it says of them is taken from `items` and `errors`."""
        for uuid in [uuid for uuid in {**items, **errors} if uuid in self._awaited]:
            failed = errors.pop(uuid, [])
            own = [error for error in failed if error.task_type not in FREE_TASK_TYPES]
            if len(own) < len(failed):  # a poll of it failed
                errors[uuid] = [error for error in failed if error not in own]
            if uuid not in items and not own:
                continue
            told = items.pop(uuid, [])
            # Of two that were sent the first is at work, and the second is the one that is turned away.
            awaited = self._awaited[uuid][0 if told else -1]
            ending = awaited.hear(message, told, own)
            if ending is not None:
                self._drop(uuid, [awaited])
                self._is_known(uuid, ending)
                yield awaited.task, ending

    def _name(self, items: dict[str, list[Item]], errors: dict[str, list[WireError]], *, is_done: bool) -> None:
        """What names no task is of the only one that anything can come of; of several it says nothing that is sure."""
        unnamed, failed = items.pop("", []), errors.pop("", [])
        if not (unnamed or failed or is_done):
            return
        waited_for = [*self._awaited, *(uuid for uuid in self._untold if uuid not in self._awaited)]
        if len(waited_for) != 1 or waited_for[0] not in self._awaited:
            return
        uuid = waited_for[0]
        told = [item for item in unnamed if item.has_result or item.worked]
        if told or (is_done and self._awaited[uuid][0].task.delivery == "stream"):
            items[uuid] = [*items.get(uuid, []), *told]
        if failed:
            errors[uuid] = [*errors.get(uuid, []), *failed]

    def _is_known(self, uuid: str, ending: Ending) -> bool:
        """Whether it was heard before that the task is at work; that is said at every poll."""
        if not isinstance(ending, Ack):
            return False
        is_known = uuid in self._at_work
        _remember(self._at_work, uuid, None)
        return is_known

    def _drop(self, uuid: str, gone: Sequence[_Awaited]) -> None:
        left = [one for one in self._awaited.get(uuid, []) if one not in gone]
        if left:
            self._awaited[uuid] = left
        else:
            self._awaited.pop(uuid, None)


def _without_status(error: WireError) -> WireError:
    """An error as the status would have it that a frame lacks: what goes with a 5xx may come after the work."""
    is_failure = not error.code or _FAILURE.search(error.code) is not None
    return replace(error, doubtful=True) if is_failure and not error.of_item else error


def _remember(names: dict[str, T], uuid: str, value: T) -> None:
    names.pop(uuid, None)
    names[uuid] = value
    if len(names) > NAMES_MAX:
        del names[next(iter(names))]
