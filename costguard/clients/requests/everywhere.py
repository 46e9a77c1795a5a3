"""Every session of requests: guarded where `HTTPAdapter` sends."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from costguard.clients.ends import End, is_looked_at
from costguard.clients.requests import GuardedAdapter, send
from costguard.clients.seams import Seam, Seat, class_of

GUARDS = True
"""Without it, calls would be sent that nobody guards."""


def seams(library: ModuleType, seat: Seat) -> tuple[Seam, ...]:
    """The places of requests."""
    adapter, session = class_of(library, "adapters.HTTPAdapter"), class_of(library, "Session")
    end = End(adapter, "send", "get_adapter", GuardedAdapter)
    return (
        Seam(adapter, "send", ("request",), functools.partial(_adapter_sending, seat)),
        Seam(session, "send", ("request",), functools.partial(_session_sending, seat, end)),
        Seam(session, "get_adapter", ("url",), None),
    )


def _adapter_sending(seat: Seat, original: Any) -> Any:
    def bare(adapter: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        return original(adapter, request, *args, **kwargs)

    @functools.wraps(original)
    def send_(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        guard = seat.guard
        if guard is None or not is_looked_at(guard, request):
            return original(self, request, *args, **kwargs)
        return send(guard, bare, self, request, args, kwargs, connection=self)

    return send_


def _session_sending(seat: Seat, end: End, original: Any) -> Any:
    @functools.wraps(original)
    def send_(self: Any, request: Any, **kwargs: Any) -> Any:
        guard = seat.guard
        if guard is None or request.method != "POST":
            return original(self, request, **kwargs)
        around = end.around(guard, self, request, self.get_adapter(url=request.url))
        if around is None:
            return original(self, request, **kwargs)
        sender, within = around
        with within:
            return original(sender, request, **kwargs)

    return send_
