"""What a client's adapter needs of a guard, and how it knows a request that was sent on already."""

from __future__ import annotations

from collections.abc import Callable
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


def is_json(content_type: str) -> bool:
    """True if a body says it is JSON, or nothing; `content_type` in lower case, without its parameters."""
    return content_type in _JSON or content_type.endswith("+json")


class Guarding(Desk, Protocol):
    """A guard, as adapters see it."""

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

    __slots__ = ("guard", "is_retried", "is_used", "request")

    def __init__(self, guard: Guarding, request: object) -> None:
        self.guard = guard
        self.request = request
        self.is_used = False
        self.is_retried = False


in_hand: ContextVar[Hand | None] = ContextVar("costguard_in_hand", default=None)


class Handing:
    """The time in which a request is in the hands of what sends it; says of `effect` how that went.

    `is_never_sent` tells of a library's error whether it proves that the request never reached the provider.
    """

    __slots__ = ("_effect", "_hand", "_is_never_sent", "_outer")

    def __init__(
        self, guard: Guarding, request: object, effect: Send, is_never_sent: Callable[[Exception], bool]
    ) -> None:
        self._hand = Hand(guard, request)
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


def call_of(
    guard: Guarding,
    request: R,
    address: Callable[[R], tuple[str, int | None, str]],
    options: Callable[[R], object] = lambda _: None,
) -> Call | None:
    """What the guard needs to know of a POST; None for what it does not look at.

    `address` gives the request's host (as `normal_host` does), port (None for the scheme's own) and path, `options`
    what the caller laid beside it, if that library has a place for it.
    """
    hand = in_hand.get()
    if hand is not None and hand.guard is guard and hand.request is request:
        if not hand.is_used:
            hand.is_used = True
            return None
        hand.is_retried = True
    host, port, path = address(request)
    claim = guard.claim(host, port, path)
    if claim is None or (guard.is_off and not claim.dialects):
        return None
    return Call(host if port is None else f"{host}:{port}", path, claim, options(request))
