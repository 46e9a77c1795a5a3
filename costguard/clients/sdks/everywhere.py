"""Every client of OpenAI's and Anthropic's SDKs: their calls are guarded by the library they stand on; here costguard's
errors come through them as what they are.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from costguard.clients.carrying import acalling, calling
from costguard.clients.guarding import in_hand
from costguard.clients.seams import Seam, Seat, class_of

GUARDS = False
"""Without it, a refusal is tried again and wrapped by the SDK, and still nothing is sent."""


def seams(library: ModuleType, seat: Seat) -> tuple[Seam, ...]:
    """The places of `library`, which is openai or anthropic: the method that each call goes through."""
    client, async_client = (class_of(library, f"_base_client.{name}") for name in ("SyncAPIClient", "AsyncAPIClient"))
    takes = ("cast_to", "options")
    return (
        Seam(client, "request", takes, functools.partial(_requesting, seat)),
        Seam(async_client, "request", takes, functools.partial(_arequesting, seat)),
    )


def _requesting(seat: Seat, original: Any) -> Any:
    @functools.wraps(original)
    def request(*args: Any, **kwargs: Any) -> Any:
        if seat.guard is None:
            return original(*args, **kwargs)
        return calling(_is_outermost, original, *args, **kwargs)

    return request


def _arequesting(seat: Seat, original: Any) -> Any:
    @functools.wraps(original)
    async def request(*args: Any, **kwargs: Any) -> Any:
        if seat.guard is None:
            return await original(*args, **kwargs)
        return await acalling(_is_outermost, original, *args, **kwargs)

    return request


def _is_outermost(transport: object) -> bool:  # noqa: ARG001
    """Which of its transports a client sends by is not known here: it is whichever no other one of ours sends for."""
    hand = in_hand.get()
    return hand is None or hand.is_kept
