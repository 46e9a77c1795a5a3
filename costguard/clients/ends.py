"""Where requests leave a client library, and what is done about those that leave elsewhere.

Whatever sends by the library's own transport (httpx) or adapter (requests) is guarded there, where everything before it
(retries, caches, copies) is seen as it is. One of another kind is guarded from outside, as `wrap` would, and so is the
library's own while another tool's method stands in the place of ours.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from costguard.clients.guarding import Guarding, Hand, held, in_hand
from costguard.clients.seams import is_ours


class End:
    """The method `name` of the class `own`, of which clients choose one by their `choose`; `guarded` is the class that
    stands around one of another kind.
    """

    def __init__(self, own: Any, name: str, choose: str, guarded: Any) -> None:
        self._own = own
        self._name = name
        self._choose = choose
        self._guarded = guarded

    def is_in(self, end: Any) -> bool:
        """True for one that sends by the library's own, as it is with us in it."""
        found, known = getattr(end, self._name, None), getattr(self._own, self._name, None)
        return getattr(found, "__func__", found) is known and is_ours(known)

    def around(
        self, guard: Guarding, client: Any, request: Any, end: Any
    ) -> tuple[Any, AbstractContextManager[None]] | None:
        """What is to send a POST that leaves by `end` in the place of `client`, and within what; None for most, which
        their end guards.
        """
        if self.is_in(end):
            return None
        if not isinstance(end, self._guarded):
            return _Chosen(client, self._choose, self._guarded(guard, end)), nullcontext()
        if end.guard is guard:
            return None
        hand = Hand(end.guard, request)  # whoever wrapped a client has all of it, also what it does not look at
        hand.is_kept = True
        return client, held(hand)


class _Chosen:
    """A client that has chosen its `end`, for one request; all else of it is the client's."""

    def __init__(self, client: Any, choose: str, end: Any) -> None:
        self.__dict__.update({"_chosen_of": client, choose: lambda *_, **__: end})

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_chosen_of"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["_chosen_of"], name, value)


def is_looked_at(guard: Guarding, request: Any) -> bool:
    """False for what passes at an end: no POST, or in the hands of another guard."""
    if request.method != "POST":
        return False
    hand = in_hand.get()
    return hand is None or hand.request is not request or hand.guard is guard
