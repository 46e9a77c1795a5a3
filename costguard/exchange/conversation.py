"""A connection of messages (a websocket), on which requests and answers pass in any order and by the task's name.

A message out is admitted and sent as a request is (`flow.message`); what comes in is heard on the side. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from costguard.exchange.admission import Admission
from costguard.exchange.effects import Call, Flow
from costguard.exchange.flow import Books, Desk, message
from costguard.ledger.engine import Steps
from costguard.tasks import Task, canonical
from costguard.wire.dialect import Dialect, Dialogue, Doubt, Ending, Judgement

Booking = Callable[[], Steps[None]]
"""What is to be written; it may block."""


class Conversation:
    """What passes on one connection under a guard. Nothing here blocks; of the connection's own thread only."""

    def __init__(self, desk: Desk, dialect: Dialect, dialogue: Dialogue) -> None:
        self._desk = desk
        self._dialect = dialect
        self._dialogue = dialogue
        self._awaited: dict[int, tuple[Books, Admission]] = {}
        """By the `id` of each task that is not answered yet."""

    @property
    def is_at_rest(self) -> bool:
        """True if all that was sent is answered."""
        return not self._awaited

    def message(self, call: Call) -> Flow:
        """One message out."""
        return message(self._desk, call, self)

    def expect(self, books: Books, admission: Admission) -> None:
        """See `Waiting`."""
        self._awaited.update({id(held.task): (books, admission) for held in admission.held.values()})
        self._dialogue.sent(admission.tasks)

    def forget(self, admission: Admission) -> None:
        """See `Waiting`."""
        self._dialogue.unsent(admission.tasks)
        for held in admission.held.values():
            self._awaited.pop(id(held.task), None)

    def hear(self, message: bytes) -> Booking | None:
        """One message in; None if it tells nothing that is to be written."""
        if self._desk.is_off and not self._awaited:
            return None
        heard = self._dialogue.hear(message)
        ended = self._of(heard.ended)
        if not (ended or heard.judgement.others or heard.judgement.records):
            return None
        return lambda: self._book(ended, heard.judgement)

    def leave(self, task_uuid: str, reason: str) -> Booking | None:
        """Nobody waits for a task any more: if it is not answered it is in doubt; its answer counts, should it come."""
        left = [(*self._awaited[id(task)], task) for task in self._dialogue.unanswered(canonical(task_uuid))]
        doubt = Doubt(reason)
        ended = [(books, admission, Judgement({task.uuid: doubt})) for books, admission, task in left]
        return (lambda: self._book(ended, None)) if ended else None

    def end(self, reason: str) -> Booking | None:
        """Nothing more comes in; None if nothing is to be written."""
        ended = self._of(self._dialogue.end(reason))
        return (lambda: self._book(ended, None)) if ended else None

    def _of(self, ended: Sequence[tuple[Task, Ending]]) -> list[tuple[Books, Admission, Judgement]]:
        return [(*self._awaited.pop(id(task)), Judgement({task.uuid: ending})) for task, ending in ended]

    def _book(self, ended: Sequence[tuple[Books, Admission, Judgement]], beside: Judgement | None) -> Steps[None]:
        for books, admission, judgement in ended:
            yield from books.answer(admission, judgement)
        if beside is not None and (beside.others or beside.records):
            yield from self._desk.settlement.answer(Admission(self._dialect, None, (), {}), beside)
