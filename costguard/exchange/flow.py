"""One guarded exchange as a generator without I/O.

It yields effects and is sent their values, or has their exceptions thrown in: a transport error is knowledge
too, for a timeout may have been billed. `drivers` runs it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Generator, Mapping
from typing import Any, Protocol

from costguard.errors import InvalidRequest, LedgerError
from costguard.exchange.admission import Admission
from costguard.exchange.effects import (
    Call,
    Effect,
    Flow,
    Head,
    Hearing,
    Listen,
    Pause,
    Question,
    ReadRequest,
    ReadResponse,
    Send,
    Work,
)
from costguard.exchange.receipt import Receipt, TaskReceipt
from costguard.ledger.engine import Steps
from costguard.wire.dialect import Dialect, Judgement

log = logging.getLogger("costguard")


class Entry(Protocol):
    """One POST at the gate."""

    def attempt(self) -> Steps[Admission | Question | Pause | None]:
        """Admit it, or say what to do before the next attempt; raises the refusal. None: send it unrecorded."""


class Books(Protocol):
    """Where endings are booked, in steps."""

    def conclude(self, admission: Admission, status: int, body: bytes) -> Steps[None]:
        """A whole response arrived."""

    def answer(self, admission: Admission, judgement: Judgement) -> Steps[None]:
        """What came says how some tasks of `admission` end, or of others."""

    def listen(self, admission: Admission) -> Hearing:
        """What hears the stream that answers `admission`, and books its end."""

    def lose(self, admission: Admission, reason: str) -> Steps[None]:
        """It was sent and its outcome is unknown."""

    def never_sent(self, admission: Admission, reason: str) -> Steps[None]:
        """It surely never left."""

    def learn(
        self,
        dialect: Dialect,
        asked: Mapping[str, frozenset[int]],
        status: int,
        body: bytes,
        min_age_us: int | None,
    ) -> object:
        """The answer to a question came."""


class Desk(Protocol):
    """What an exchange needs of the guard it is under."""

    @property
    def settlement(self) -> Books:
        """Where endings are booked."""

    def enter(self, call: Call, body: bytes) -> Entry | None:
        """Bring a POST to the gate; None if it is not to be guarded."""

    @property
    def is_off(self) -> bool:
        """True while nothing is guarded."""

    def unrecorded(self, options: object) -> str | None:
        """The project of tasks that are sent without a record, None if there are none such; see `Call.options`."""

    def work(self, run: Callable[[], Any]) -> Any:
        """Run `run` here and now, and the steps that it may return; the ledger is waited for as long as a call may."""

    def later(self, run: Callable[[], object]) -> None:
        """Run `run` behind whatever work of this guard is under way on its thread."""


def exchange(desk: Desk, call: Call) -> Flow:
    """One request and its response."""
    admission = yield from _begun(desk, call)
    if admission is None:
        return
    books = desk.settlement
    send = Send(admission.body, admission.receipt)
    try:
        head: Head = yield send
        if send.superseded:
            yield Work(lambda: books.lose(admission, "sent again further down"))
            return
        if admission.dialect.is_stream(admission.tasks, head.status, head.content_type):
            hearing = books.listen(admission)
            whole: bytes | None = yield Listen(hearing, admission.dialect.sieve(admission.tasks))
            if whole is not None:
                hearing.feed(whole)
                yield Work(lambda: hearing.ending(None))
            return
        raw: bytes = yield ReadResponse()
    except GeneratorExit:
        desk.work(lambda: books.lose(admission, "the caller went away"))
        raise
    except BaseException as error:
        reason = type(error).__name__
        ended = books.never_sent if send.never_sent or not send.handed else books.lose
        yield Work(lambda: ended(admission, reason))
        raise
    yield Work(lambda: books.conclude(admission, head.status, raw))


class Waiting(Protocol):
    """What waits for answers that come by themselves."""

    def expect(self, books: Books, admission: Admission) -> None:
        """This is about to be sent."""

    def forget(self, admission: Admission) -> None:
        """It never left."""


def message(desk: Desk, call: Call, waiting: Waiting) -> Flow:
    """One message out of a connection on which answers come when they come: `waiting` hears them."""
    admission = yield from _begun(desk, call)
    if admission is None:
        return
    books = desk.settlement
    send = Send(admission.body, admission.receipt)
    waiting.expect(books, admission)
    try:
        yield send
    except GeneratorExit:
        desk.work(lambda: books.lose(admission, "the caller went away"))
        raise
    except BaseException as error:
        reason = type(error).__name__
        is_unsent = send.never_sent or not send.handed
        if is_unsent:
            waiting.forget(admission)
        ended = books.never_sent if is_unsent else books.lose
        yield Work(lambda: ended(admission, reason))
        raise


def _begun(desk: Desk, call: Call) -> Generator[Effect, Any, Admission | None]:
    """What a request is admitted with; None if it was sent already, as nothing of it is guarded."""
    if desk.is_off:
        yield _unrecorded(desk, call, (yield from _body_if_readable()))
        return None
    body = yield from _body(desk, call)
    is_passed = body is None or call.claim.passes(body)
    admission = None if body is None or is_passed else (yield from _admitted(desk, call, body))
    if admission is None:
        yield _unrecorded(desk, call, body)
    return admission


def _body(desk: Desk, call: Call) -> Generator[Effect, Any, bytes | None]:
    """The request's body; where nothing is refused, None for one that cannot be read."""
    try:
        body: bytes | None = yield ReadRequest()
    except InvalidRequest as error:
        if desk.unrecorded(call.options) is None:
            raise
        log.error("not recorded, sent all the same (mode observe): %s", error)
        return None
    return body


def _body_if_readable() -> Generator[Effect, Any, bytes | None]:
    try:
        body: bytes | None = yield ReadRequest()
    except InvalidRequest:
        return None
    return body


def _unrecorded(desk: Desk, call: Call, body: bytes | None) -> Send:
    """Send a request that nothing is recorded of. Its tasks are named, as the provider wants them to be and as they
    are while costguard works; what they cost stays unknown.
    """
    for dialect in call.claim.dialects if body else ():
        if body is None or not dialect.recognises(body):
            continue
        project = desk.unrecorded(call.options)
        named = None if project is None else dialect.name_tasks(body)
        if project is not None and named is not None:
            tasks = [TaskReceipt(uuid, project, model, None, "unrecorded") for uuid, model in named.tasks]
            return Send(named.body, Receipt(tuple(tasks)))
    return Send(None)


def _admitted(desk: Desk, call: Call, body: bytes) -> Generator[Effect, Any, Admission | None]:
    """Knock until the gate opens or refuses; between two knocks it may want the truth of older calls."""
    knock = _Knock(desk, call, body)
    while True:
        try:
            answer = yield Work(knock)
        except GeneratorExit:
            # The thread may still be at it: what follows runs behind it.
            desk.later(functools.partial(_give_back, desk, knock))
            raise
        match answer:
            case Question():
                try:
                    status, reply = yield answer
                except Exception as error:  # noqa: BLE001  the refusal stands then, whatever it was
                    log.info("could not ask for unresolved tasks: %s", type(error).__name__)
                else:
                    learn = desk.settlement.learn
                    try:
                        yield Work(functools.partial(learn, answer.dialect, answer.asked, status, reply, None))
                    except LedgerError as error:  # the next knock says what that means
                        log.error("what became of unresolved tasks could not be written: %s", error)
            case Pause():
                yield answer
            case _:
                return knock.admission


class _Knock:
    """Brings one POST to the gate, and knocks again each time it is called."""

    is_droppable = True
    """Before it has begun nothing is held: a cancelled caller need not wait for its turn."""

    def __init__(self, desk: Desk, call: Call, body: bytes) -> None:
        self._desk = desk
        self._call = call
        self._body = body
        self._entry: Entry | None = None
        self.admission: Admission | None = None

    def __call__(self) -> Steps[Question | Pause | None]:
        if self._entry is None:
            self._entry = self._desk.enter(self._call, self._body)
            if self._entry is None:
                return None
        answer = yield from self._entry.attempt()
        if isinstance(answer, (Question, Pause)):
            return answer
        self.admission = answer
        return None


def _give_back(desk: Desk, knock: _Knock) -> Steps[None]:
    if knock.admission is not None:
        yield from desk.settlement.never_sent(knock.admission, "the caller went away before it was sent")
