"""What a guarded exchange is made of: the effects it asks for, and the small protocols that serve it.

Everything that yields effects, performs them or is told of them stands above this file.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple, Protocol

from costguard.exchange.receipt import Receipt
from costguard.ledger.engine import Steps
from costguard.wire.dialect import Dialect, Known, Sieve

AT_A_GLANCE = 2**18
"""Bytes of a body that is looked at where it is: a fraction of a millisecond. Larger ones are read elsewhere."""


class Claim(NamedTuple):
    """Whose a POST may be: the dialects to ask, and whether it is surely of the first.

    `unmetered`: a wire that cannot be read yet, which it is surely of, or whose paths it shares on a host that
    nobody named.
    """

    dialects: tuple[Dialect, ...]
    is_sure: bool
    unmetered: Known | None = None

    def passes(self, body: bytes) -> bool:
        """True for a body that is of no wire, as is seen at a glance: it needs no ledger, no thread and no waiting."""
        if self.is_sure or self.unmetered is not None or len(body) > AT_A_GLANCE:
            return False
        for one in self.dialects:  # noqa: SIM110  felt on each call to any other host
            if one.recognises(body):
                return False
        return True


class Call(NamedTuple):
    """A request about to be sent, as far as the guard looks at it."""

    host: str
    """Lower-case host, with `:port` if the URL states one."""
    path: str
    claim: Claim
    options: object
    """What the caller passed as `extensions["costguard"]`, or None."""


class Head(NamedTuple):
    """The beginning of a response."""

    status: int
    content_type: str


class ReadRequest:
    """Effect: the request's decoded body, or None if reading it would disturb a request that is not ours."""


class Work:
    """Effect: run a function that may block (ledger, counting) and send back what it returns.

    If that is `Steps`, run those, too, and send back what they come to.
    """

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
    """Effect: send `body`, which asks what became of tasks, where the request goes; sends back (status, body).

    `asked`: the tasks it asks for, each with its attempts that no request is under way for.
    """

    __slots__ = ("asked", "body", "dialect")

    def __init__(self, dialect: Dialect, body: bytes, asked: Mapping[str, frozenset[int]]) -> None:
        self.dialect = dialect
        self.body = body
        self.asked = asked


class Pause:
    """Effect: let `seconds` pass."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Hearing(Protocol):
    """What hears a stream on the side: `feed` never blocks; `end` may block, and books once."""

    def feed(self, chunk: bytes) -> None:
        """One decoded chunk, as it came."""

    def garble(self, reason: str) -> None:
        """What comes from here on cannot be decoded."""

    def end(self, error: str | None) -> None:
        """The stream ended: None if it was read to its end, else how it was cut."""

    def ending(self, error: str | None) -> Steps[None]:
        """The steps of `end`."""


class Listen:
    """Effect: pass the response's stream on as it comes, and tell `hearing` of every chunk and its end.

    The caller gets what `sieve` lets through, decoded; without one, every byte as it came. Sends back the decoded body
    instead, if something below has read all of it already; else None.
    """

    __slots__ = ("hearing", "sieve")

    def __init__(self, hearing: Hearing, sieve: Sieve | None = None) -> None:
        self.hearing = hearing
        self.sieve = sieve


Effect = ReadRequest | Work | Send | ReadResponse | Listen | Question | Pause
Flow = Generator[Effect, Any, None]


class SyncPort(Protocol):
    """What a client's adapter does for the synchronous driver."""

    def read_request(self) -> bytes | None:
        """See `ReadRequest`."""

    def send(self, effect: Send) -> Head:
        """See `Send`."""

    def read_response(self) -> bytes:
        """See `ReadResponse`."""

    def listen(self, effect: Listen) -> bytes | None:
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

    def listen(self, effect: Listen) -> bytes | None:
        """See `Listen`."""

    async def ask(self, question: Question) -> tuple[int, bytes]:
        """See `Question`."""

    async def pause(self, seconds: float) -> None:
        """See `Pause`."""


class Interrupted(BaseException):
    """Raised where work ran to its end on another thread although its task was cancelled meanwhile."""

    def __init__(self, value: object, cancellation: BaseException) -> None:
        self.value = value
        self.cancellation = cancellation
