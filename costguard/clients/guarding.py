"""What a client's adapter needs of a guard, and how it knows a request that was sent on already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from costguard.errors import ConfigurationError, InvalidRequest
from costguard.exchange.effects import Call, Claim, Send
from costguard.exchange.flow import Desk
from costguard.refusals import BudgetExceeded, UnpricedTask

R = TypeVar("R")

OPTIONS = "costguard"
"""Key of our entry beside a request (options) and beside its response (the receipt)."""

REFUSALS = (BudgetExceeded, UnpricedTask, InvalidRequest, ConfigurationError)
"""What another guard further down the line raises instead of sending."""

_JSON = ("application/json", "text/json", "")
_JSON_BEGINS = b"[{\xef"
"""First bytes of a JSON array or object, the third one a byte order mark's."""


def is_json(content_type: str) -> bool:
    """True if a body says it is JSON, or nothing; `content_type` in lower case, without its parameters."""
    return content_type in _JSON or content_type.endswith("+json")


def begins_as_json(beginning: bytes) -> bool:
    """Whether a body may be a JSON array or object, by its first bytes; True for blanks, which tell nothing yet."""
    shown = beginning.lstrip()[:1]
    return not shown or shown in _JSON_BEGINS


class Guarding(Desk, Protocol):
    """A guard, as adapters see it."""

    mode: str
    """ "enforce", "observe" or "off"."""
    is_closed: bool
    """True once it was closed: another guard may have its clients."""

    def claim(self, host: str, port: int | None, path: str) -> Claim | None:
        """Whose a POST may be; None if nobody's."""

    async def offload(self, run: Callable[[], Any]) -> Any:
        """Run `run` on another thread; it cannot be abandoned."""


def second_guard(client: str) -> ConfigurationError:
    """What is said of a `client` that another guard has."""
    return ConfigurationError(
        f"this {client} is wrapped by another Guard already, which is still open, and a {client} has one: go on with"
        f" that Guard, or close it first (`guard.close()`), or make a new {client}"
    )


class Hand:
    """A request that a guard has sent on: the same guard further down the line lets it pass, once.

    A second pass is a retry in between, and one more attempt: then what comes back is booked there.
    """

    __slots__ = ("body", "guard", "is_kept", "is_retried", "is_used", "request")

    def __init__(self, guard: Guarding, request: object, body: bytes | None = None) -> None:
        self.guard = guard
        self.request = request
        self.body = body
        """What is sent, decoded, as far as it is known: a copy of the request is known by it."""
        self.is_kept = False
        """It only keeps others away: its own guard is yet to see the request."""
        self.is_used = False
        self.is_retried = False

    def passes(self) -> bool:
        """True the first time that the request is seen further down."""
        if self.is_kept:
            return False
        if self.is_used:
            self.is_retried = True
            return False
        self.is_used = True
        return True


in_hand: ContextVar[Hand | None] = ContextVar("costguard_in_hand", default=None)


class Handing:
    """The time in which a request is in the hands of what sends it; says of `effect` how that went.

    `is_never_sent` tells of a library's error whether it proves that the request never reached the provider. `body`:
    the request's own, decoded, if it was read.
    """

    __slots__ = ("_effect", "_hand", "_is_never_sent", "_outer")

    def __init__(
        self,
        guard: Guarding,
        request: object,
        effect: Send,
        is_never_sent: Callable[[Exception], bool],
        body: bytes | None,
    ) -> None:
        self._hand = Hand(guard, request, body if effect.body is None else effect.body)
        self._effect = effect
        self._is_never_sent = is_never_sent

    def __enter__(self) -> None:
        self._outer = in_hand.get()
        in_hand.set(self._hand)
        self._effect.handed = True

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        in_hand.set(self._outer)
        self._effect.superseded = self._hand.is_retried
        if isinstance(error, Exception) and not self._hand.is_retried:  # else it says nothing of the first sending
            self._effect.never_sent = isinstance(error, REFUSALS) or self._is_never_sent(error)


@contextmanager
def held(hand: Hand) -> Iterator[None]:
    """Let `hand` have a request for the time of a block: what no exchange is made of."""
    outer = in_hand.get()
    in_hand.set(hand)
    try:
        yield
    finally:
        in_hand.set(outer)  # not by a token: a coroutine may be closed in another context


def is_copy(guard: Guarding, request: object, body: bytes | None) -> bool:
    """Whether a body that was just read is one in hand, in another request: what stands between made a copy, or asks
    another library. It passes as the request itself would.
    """
    hand = in_hand.get()
    if hand is None or hand.request is request or body is None or hand.body != body:
        return False
    return hand.guard is not guard or hand.passes()


def call_of(
    guard: Guarding,
    request: R,
    address: Callable[[R], tuple[str, int | None, str]],
    passes: Callable[[R, Claim], bool],
    options: Callable[[R], object] = lambda _: None,
) -> Call | None:
    """What the guard needs to know of a POST; None for what it does not look at, or is nobody's at a glance.

    `address` gives the request's host (as `normal_host` does), port (None for the scheme's own) and path, `passes`
    whether its body is in memory, plain and of no wire (`Claim.passes`), `options` what the caller laid beside it, if
    that library has a place for it.
    """
    hand = in_hand.get()
    if hand is not None and hand.guard is guard and hand.request is request and hand.passes():
        return None
    host, port, path = address(request)
    claim = guard.claim(host, port, path)
    if claim is None or (guard.is_off and not claim.dialects) or passes(request, claim):
        return None
    return Call(host if port is None else f"{host}:{port}", path, claim, options(request))
