"""One guarded exchange as a generator without I/O, and the two drivers that run it.

The generator yields effects and is sent their values, or has their exceptions thrown in: a transport
error is knowledge too, for a timeout may have been billed. Both drivers are the same few lines; the
asynchronous one runs `Work` on a thread, so that an event loop never waits for a lock or a disk.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from costguard.exchange.receipt import Receipt
from costguard.wire.runware.stream import EVENT_STREAM

log = logging.getLogger("costguard")

if TYPE_CHECKING:
    from costguard.exchange.gate import Admission, Entry
    from costguard.guard import Guard


class Call(NamedTuple):
    """A request about to be sent, as far as the guard looks at it."""

    host: str
    """Lower-case host, with `:port` if the URL states one."""
    path: str
    concern: str
    """Why the guard looks at it: see `Gate.concerns`."""
    options: object
    """What the caller passed as `extensions["costguard"]`, or None."""


class Head(NamedTuple):
    """The beginning of a response."""

    status: int
    content_type: str
    encoding: str
    """Its Content-Encoding, "" if none."""


class ReadRequest:
    """Effect: the request's body, or None if reading it would disturb a request that is not ours."""


class Work:
    """Effect: run a function that may block (ledger, counting) and send back what it returns."""

    __slots__ = ("run",)

    def __init__(self, run: Callable[[], Any]) -> None:
        self.run = run


class Send:
    """Effect: send the request, with `body` in place of its own unless None; sends back the `Head`.

    `handed` says whether the transport ever had it: before that, nothing can have been billed.
    `superseded`: the same guard saw the request again further down, so the response was booked there.
    `never_sent` is set by the client's adapter for errors that prove the same. The adapter lays `receipt`
    beside the response.
    """

    __slots__ = ("body", "handed", "never_sent", "receipt", "superseded")

    def __init__(self, body: bytes | None, receipt: Receipt | None = None) -> None:
        self.body = body
        self.receipt = receipt
        self.handed = False
        self.never_sent = False
        self.superseded = False


class ReadResponse:
    """Effect: read the whole response and send back its decoded body."""


class Question:
    """Effect: send `body` (getTaskDetails) where the request goes; sends back (status, body).

    `asked`: the tasks it asks for, each with its attempts that no request is under way for.
    """

    __slots__ = ("asked", "body")

    def __init__(self, body: bytes, asked: Mapping[str, frozenset[int]]) -> None:
        self.body = body
        self.asked = asked


class Pause:
    """Effect: let `seconds` pass."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Listen:
    """Effect: pass the response's stream on as it comes, and tell `listener` of every chunk and its end."""

    __slots__ = ("listener",)

    def __init__(self, listener: Listener) -> None:
        self.listener = listener


class Listener(Protocol):
    """What hears a stream: never blocks in `feed`; `end` is called once and may block."""

    def feed(self, chunk: bytes) -> None:
        """One chunk, as it came."""

    def end(self, error: str | None) -> None:
        """The stream ended: None if it was read to its end, else how it was cut."""


Effect = ReadRequest | Work | Send | ReadResponse | Listen | Question | Pause
Flow = Generator[Effect, Any, None]


def exchange(guard: Guard, call: Call) -> Flow:
    """One request and its response under `guard`."""
    body = yield ReadRequest()
    admission = None if body is None else (yield from _admitted(guard, call, body))
    if admission is None:
        yield Send(None)
        return
    settlement = guard.settlement
    send = Send(admission.body, admission.receipt)
    try:
        head: Head = yield send
        if send.superseded:
            yield Work(lambda: settlement.lose(admission, "sent again further down"))
            return
        if _is_stream(head, admission):
            yield Listen(settlement.listen(admission, head.encoding))
            return
        raw: bytes = yield ReadResponse()
    except GeneratorExit:
        settlement.lose(admission, "the caller went away")
        raise
    except BaseException as error:
        reason = type(error).__name__
        ended = settlement.never_sent if send.never_sent or not send.handed else settlement.lose
        yield Work(lambda: ended(admission, reason))
        raise
    yield Work(lambda: settlement.conclude(admission, head.status, raw))


def _admitted(guard: Guard, call: Call, body: bytes) -> Generator[Effect, Any, Admission | None]:
    """Knock until the gate opens or refuses; between two knocks it may want the truth of older calls."""
    knock = _Knock(guard, call, body)
    while True:
        try:
            answer = yield Work(knock)
        except GeneratorExit:
            # The thread may still be at it: what follows runs behind it.
            guard.offload.later(functools.partial(_give_back, guard, knock))
            raise
        match answer:
            case Question():
                try:
                    status, reply = yield answer
                except Exception as error:  # noqa: BLE001  the refusal stands then, whatever it was
                    log.info("could not ask for unresolved tasks: %s", type(error).__name__)
                else:
                    yield Work(functools.partial(guard.learn, answer.asked, status, reply))
            case Pause():
                yield answer
            case _:
                return knock.admission


class _Knock:
    """Brings one POST to the gate, and knocks again each time it is called."""

    def __init__(self, guard: Guard, call: Call, body: bytes) -> None:
        self._guard = guard
        self._call = call
        self._body = body
        self._entry: Entry | None = None
        self.admission: Admission | None = None

    def __call__(self) -> Question | Pause | None:
        if self._entry is None:
            self._entry = self._guard.enter(self._call, self._body)
            if self._entry is None:
                return None
        answer = self._entry.attempt()
        if isinstance(answer, (Question, Pause)):
            return answer
        self.admission = answer
        return None


def _give_back(guard: Guard, knock: _Knock) -> None:
    if knock.admission is not None:
        guard.settlement.never_sent(knock.admission, "the caller went away before it was sent")


def _is_stream(head: Head, admission: Admission) -> bool:
    if not 200 <= head.status < 300:
        return False
    if head.content_type == EVENT_STREAM or "json" in head.content_type:
        return head.content_type == EVENT_STREAM
    return any(task.delivery == "stream" for task in admission.tasks)


class SyncPort(Protocol):
    """What a client's adapter does for the synchronous driver."""

    def read_request(self) -> bytes | None:
        """See `ReadRequest`."""

    def send(self, effect: Send) -> Head:
        """See `Send`."""

    def read_response(self) -> bytes:
        """See `ReadResponse`."""

    def listen(self, listener: Listener) -> None:
        """See `Listen`."""

    def ask(self, question: Question) -> tuple[int, bytes]:
        """See `Question`."""


class AsyncPort(Protocol):
    """What a client's adapter does for the asynchronous driver."""

    async def read_request(self) -> bytes | None:
        """See `ReadRequest`."""

    async def send(self, effect: Send) -> Head:
        """See `Send`."""

    async def read_response(self) -> bytes:
        """See `ReadResponse`."""

    def listen(self, listener: Listener) -> None:
        """See `Listen`."""

    async def ask(self, question: Question) -> tuple[int, bytes]:
        """See `Question`."""

    async def pause(self, seconds: float) -> None:
        """See `Pause`."""


def drive(flow: Flow, port: SyncPort) -> None:
    """Run `flow` to its end on the calling thread."""
    try:
        effect = next(flow)
        while True:
            try:
                value = _perform(effect, port)
            except BaseException as error:  # noqa: BLE001  it is the flow that decides
                effect = flow.throw(error)
            else:
                effect = flow.send(value)
    except StopIteration:
        return


def _perform(effect: Effect, port: SyncPort) -> Any:
    match effect:
        case Work():
            return effect.run()
        case Send():
            return port.send(effect)
        case ReadRequest():
            return port.read_request()
        case ReadResponse():
            return port.read_response()
        case Listen():
            port.listen(effect.listener)
        case Question():
            return port.ask(effect)
        case Pause():
            time.sleep(effect.seconds)
    return None


async def adrive(flow: Flow, port: AsyncPort, offload: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
    """Run `flow` to its end; `offload` runs a function on another thread and cannot be abandoned.

    A cancellation during `Work` is delivered at the next effect, so that the flow always learns
    what its work came to.
    """
    try:
        effect = next(flow)
        while True:
            try:
                match effect:
                    case Work():
                        value = await offload(effect.run)
                    case Send():
                        value = await port.send(effect)
                    case ReadRequest():
                        value = await port.read_request()
                    case ReadResponse():
                        value = await port.read_response()
                    case Listen():
                        port.listen(effect.listener)
                        value = None
                    case Question():
                        value = await port.ask(effect)
                    case Pause():
                        await port.pause(effect.seconds)
                        value = None
            except GeneratorExit:
                flow.close()
                raise
            except Interrupted as interrupted:
                try:
                    flow.send(interrupted.value)
                except BaseException:  # noqa: BLE001  over either way: what is left is to be cancelled
                    raise interrupted.cancellation from None
                effect = flow.throw(interrupted.cancellation)
            except BaseException as error:  # noqa: BLE001  it is the flow that decides
                effect = flow.throw(error)
            else:
                effect = flow.send(value)
    except StopIteration:
        return


class Interrupted(BaseException):
    """Raised by `offload` when the task was cancelled while its work ran to the end."""

    def __init__(self, value: object, cancellation: BaseException) -> None:
        self.value = value
        self.cancellation = cancellation
