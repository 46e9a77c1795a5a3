"""Every client of the Runware SDK: guarded as `wrap` would, once it is about to be used."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from costguard.clients.runware import Wrapped, check_version, wrapped_of
from costguard.clients.seams import Seam, Seat, class_of

GUARDS = True
"""Without it, calls would be sent that nobody guards: by websocket."""


def seams(library: ModuleType, seat: Seat) -> tuple[Seam, ...]:
    """The places of `library`, which is runware-sdk; ConfigurationError for another one or version."""
    version = check_version()
    client = class_of(library, "Runware")
    around = functools.partial(_entering, seat, version)
    return (
        Seam(client, "connect", (), functools.partial(around, None)),
        Seam(client, "run", ("params",), functools.partial(around, 0)),
        Seam(client, "_utility", ("task_type", "params"), functools.partial(around, 1)),
        # `stream` comes through it, and a `run` that was taken from a client before.
        Seam(client, "_normalize_model_param", ("params",), functools.partial(around, None)),
    )


def _entered(seat: Seat, version: str, client: Any) -> Wrapped | None:
    """Put the guard into a client; None for one that has its caller's."""
    guard, wrapped = seat.guard, wrapped_of(client)
    if guard is None or (wrapped is not None and wrapped.is_own):
        return None
    if wrapped is None:
        wrapped = Wrapped(guard, client, version)
    wrapped.put_in(guard, lambda: seat.guard is not guard)
    return wrapped


def _entering(seat: Seat, version: str, at: int | None, original: Any) -> Any:
    """`at`: which argument of it are a task's parameters, if it sends one."""

    @functools.wraps(original)
    async def enter(self: Any, *args: Any, **kwargs: Any) -> Any:
        wrapped = _entered(seat, version, self)
        if wrapped is None or wrapped.calls is None or at is None:
            return await original(self, *args, **kwargs)
        return await wrapped.calls.named(functools.partial(original, self), at)(*args, **kwargs)

    return enter
