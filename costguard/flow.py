"""One guarded exchange as a generator without I/O, and the two drivers that run it.

The generator yields effects and is sent their values, or has their exceptions thrown in: a transport
error is knowledge too, for a timeout may have been billed. Both drivers are the same few lines; the
asynchronous one runs `Work` on a thread, so that an event loop never waits for a lock or a disk.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from costguard.wire.sse import EVENT_STREAM

if TYPE_CHECKING:
    from costguard.guard import Admission, Guard


class Call(NamedTuple):
    """A request about to be sent, as far as the guard looks at it."""

    host: str
    """Lower-case host, with `:port` if the URL states one."""
    path: str
    content_type: str
    options: object
    """What the caller passed as `extensions["costguard"]`, or None."""


class Head(NamedTuple):
    """The beginning of a response."""

    status: int
    content_type: str


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
    `never_sent` is set by the client's adapter for errors that prove the same.
    """

    __slots__ = ("body", "handed", "never_sent")

    def __init__(self, body: bytes | None) -> None:
        self.body = body
        self.handed = False
        self.never_sent = False


class ReadResponse:
    """Effect: read the whole response and send back its decoded body."""


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


Effect = ReadRequest | Work | Send | ReadResponse | Listen
Flow = Generator[Effect, Any, None]


def exchange(guard: Guard, call: Call) -> Flow:
    """One request and its response under `guard`."""
    body = yield ReadRequest()
    admission: Admission | None = None
    if body is not None:
        admission = yield Work(lambda: guard.admit(call, body))
    if admission is None:
        yield Send(None)
        return
    send = Send(admission.body)
    try:
        head: Head = yield send
        if head.content_type.startswith(EVENT_STREAM) and head.status < 300:
            yield Listen(guard.listen(admission))
            return
        raw: bytes = yield ReadResponse()
    except GeneratorExit:
        guard.lose(admission, "the caller went away")
        raise
    except BaseException as error:
        reason = type(error).__name__
        released = send.never_sent or not send.handed
        yield Work(lambda: guard.never_sent(admission, reason) if released else guard.lose(admission, reason))
        raise
    yield Work(lambda: guard.conclude(admission, head.status, raw))


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
