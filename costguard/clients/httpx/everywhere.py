"""Every client of httpx and httpx2: guarded where the two transports of each library send."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

from costguard.clients.ends import End, is_looked_at
from costguard.clients.httpx import AsyncGuardedTransport, GuardedTransport, asend, look, send
from costguard.clients.seams import Seam, Seat, class_of

GUARDS = True
"""Without it, calls would be sent that nobody guards."""

_CHOOSE = "_transport_for_url"


def seams(library: ModuleType, seat: Seat) -> tuple[Seam, ...]:
    """The places of `library`, which is httpx or httpx2."""
    client, async_client = class_of(library, "Client"), class_of(library, "AsyncClient")
    transport, async_transport = class_of(library, "HTTPTransport"), class_of(library, "AsyncHTTPTransport")
    end = End(transport, "handle_request", _CHOOSE, GuardedTransport)
    async_end = End(async_transport, "handle_async_request", _CHOOSE, AsyncGuardedTransport)
    return (
        Seam(transport, "handle_request", ("request",), functools.partial(_handling, seat, send)),
        Seam(async_transport, "handle_async_request", ("request",), functools.partial(_handling, seat, asend)),
        Seam(client, "_send_single_request", ("request",), functools.partial(_sending, seat, end)),
        Seam(async_client, "_send_single_request", ("request",), functools.partial(_asending, seat, async_end)),
        Seam(client, _CHOOSE, ("url",), None),
        Seam(async_client, _CHOOSE, ("url",), None),
    )


class _Bare:
    """A transport as it is without us."""

    __slots__ = ("_original", "_transport")

    def __init__(self, transport: Any, original: Any) -> None:
        self._transport = transport
        self._original = original

    def handle_request(self, request: Any) -> Any:
        return self._original(self._transport, request)

    def handle_async_request(self, request: Any) -> Any:
        return self._original(self._transport, request)


def _handling(seat: Seat, sending: Any, original: Any) -> Any:
    """Of both kinds: what `sending` and `original` give is passed on, to be awaited or not."""

    @functools.wraps(original)
    def handle(self: Any, request: Any) -> Any:
        guard = seat.guard
        call = look(guard, request) if guard is not None and is_looked_at(guard, request) else None
        if guard is None or call is None:
            return original(self, request)
        return sending(guard, _Bare(self, original), request, call, self)

    return handle


def _sending(seat: Seat, end: End, original: Any) -> Any:
    @functools.wraps(original)
    def _send_single_request(self: Any, request: Any) -> Any:
        guard = seat.guard
        if guard is None or request.method != "POST":
            return original(self, request)
        around = end.around(guard, self, request, self._transport_for_url(request.url))
        if around is None:
            return original(self, request)
        sender, within = around
        with within:
            return original(sender, request)

    return _send_single_request


def _asending(seat: Seat, end: End, original: Any) -> Any:
    async def send_within(within: AbstractContextManager[None], sender: Any, request: Any) -> Any:
        with within:
            return await original(sender, request)

    @functools.wraps(original)
    def _send_single_request(self: Any, request: Any) -> Any:
        guard = seat.guard
        if guard is None or request.method != "POST":
            return original(self, request)
        around = end.around(guard, self, request, self._transport_for_url(request.url))
        if around is None:
            return original(self, request)
        sender, within = around
        return send_within(within, sender, request)

    return _send_single_request
