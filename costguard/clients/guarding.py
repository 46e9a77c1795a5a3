"""What a client's adapter needs of a guard, and how it knows a request that was sent on already."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from costguard.errors import InvalidRequest
from costguard.exchange.effects import Call, Claim
from costguard.exchange.flow import Desk
from costguard.refusals import BudgetExceeded, UnpricedTask

R = TypeVar("R")

OPTIONS = "costguard"
"""Key of our entry beside a request (options) and beside its response (the receipt)."""

REFUSALS = (BudgetExceeded, UnpricedTask, InvalidRequest)
"""What another guard further down the line raises instead of sending."""


class Guarding(Desk, Protocol):
    """A guard, as adapters see it."""

    is_closed: bool
    """True once it was closed: another guard may have its clients."""

    def claim(self, host: str, port: int | None, path: str) -> Claim | None:
        """Whose a POST may be; None if nobody's."""

    async def offload(self, run: Callable[[], Any]) -> Any:
        """Run `run` on another thread; it cannot be abandoned."""


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


def call_of(
    guard: Guarding,
    request: R,
    address: Callable[[R], tuple[str, int | None, str]],
    options: Callable[[R], object],
) -> Call | None:
    """What the guard needs to know of a POST; None for what it does not look at.

    `address` gives the request's host (as `normal_host` does), port (None for the scheme's own) and path, `options`
    what the caller laid beside it.
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
