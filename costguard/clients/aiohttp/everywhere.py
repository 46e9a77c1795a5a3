"""Every session of aiohttp: given our middleware, behind its own ones, at each request."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from costguard.clients.aiohttp import Middleware
from costguard.clients.guarding import Guarding, in_hand
from costguard.clients.seams import Seam, Seat, class_of

GUARDS = True
"""Without it, calls would be sent that nobody guards."""


def seams(library: ModuleType, seat: Seat) -> tuple[Seam, ...]:
    """The place of aiohttp."""
    session = class_of(library, "ClientSession")
    return (Seam(session, "_request", ("method", "str_or_url"), functools.partial(_requesting, seat)),)


class _Everywhere(Middleware):
    """The last of all middlewares, which lets pass what another guard has in hand."""

    def __init__(self, guard: Guarding) -> None:
        self.guard = guard

    async def __call__(self, request: Any, handler: Any) -> Any:
        hand = in_hand.get()
        if request.method != "POST" or (hand is not None and hand.request is request and hand.guard is not self.guard):
            return await handler(request)
        return await self.send(request, handler)


def _requesting(seat: Seat, original: Any) -> Any:
    last: _Everywhere | None = None

    @functools.wraps(original)
    def _request(self: Any, method: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal last
        guard = seat.guard
        if guard is None or not isinstance(method, str) or method.upper() != "POST":
            return original(self, method, *args, **kwargs)
        given = kwargs.get("middlewares")
        own = self._middlewares if given is None else given
        if any(isinstance(one, Middleware) and one.guard is not guard for one in own):
            return original(self, method, *args, **kwargs)
        ours = last
        if ours is None or ours.guard is not guard:
            ours = last = _Everywhere(guard)
        return original(self, method, *args, **{**kwargs, "middlewares": (*own, ours)})

    return _request
