"""Where requests leave a client library, and what is done about those that leave elsewhere.

Whatever sends by the library's own transport (httpx) or adapter (requests) is guarded there, where everything before it
(retries, caches, copies) is seen as it is. One of another kind is guarded from outside, as `wrap` would.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

from costguard.clients.guarding import Guarding, Hand, held, in_hand

_outside: ContextVar[Any] = ContextVar("costguard_outside", default=None)
"""What stands for an end of another kind, for the request that is about to be given to it."""


class End:
    """The method `name` of the class `own`; `guarded` is the class that stands around one of another kind."""

    def __init__(self, own: Any, name: str, guarded: Any) -> None:
        self._own = own
        self._name = name
        self._guarded = guarded

    def is_in(self, other: Any) -> bool:
        """True for one that sends by the library's own."""
        return getattr(type(other), self._name, None) is getattr(self._own, self._name)

    def before(self, guard: Guarding, request: Any, end: Any) -> AbstractContextManager[None] | None:
        """What a client is to send a POST within, that leaves by `end`; None for most, of which their end knows."""
        if self.is_in(end):
            return None
        if not isinstance(end, self._guarded):
            return _from_outside(self._guarded(guard, end))
        if end.guard is guard:
            return None
        hand = Hand(end.guard, request)  # whoever wrapped a client has all of it, also what it does not look at
        hand.is_kept = True
        return held(hand)


@contextmanager
def _from_outside(guarded: Any) -> Iterator[None]:
    outer = _outside.get()
    _outside.set(guarded)
    try:
        yield
    finally:
        _outside.set(outer)  # not by a token: a coroutine may be closed in another context


def choosing(original: Any) -> Any:
    """Around the method by which a client chooses an end: for a request of ours, what stands around it."""

    @functools.wraps(original)
    def choose(*args: Any, **kwargs: Any) -> Any:
        found = original(*args, **kwargs)
        outside = _outside.get()
        return outside if outside is not None and outside.inner is found else found

    return choose


def is_looked_at(guard: Guarding, request: Any) -> bool:
    """False for what passes at an end: no POST, or in the hands of another guard."""
    if request.method != "POST":
        return False
    hand = in_hand.get()
    return hand is None or hand.request is not request or hand.guard is guard
