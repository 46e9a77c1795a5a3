"""Errors of costguard past libraries that retry and wrap whatever a transport raises.

Such a library catches every `Exception`. So where a call of its is under way, the guarded transport raises a carrier,
which is none, and the library's own entry, as costguard puts it into a client, turns that back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, NoReturn, TypeVar

from costguard.clients.guarding import in_hand
from costguard.errors import CostguardError

R = TypeVar("R")

_is_within: ContextVar[bool] = ContextVar("costguard_within_a_call", default=False)


class _Carried(BaseException):
    """`error` on its way through a library; its text is that of the error, for whoever traces what passes."""

    def __init__(self, error: CostguardError) -> None:
        super().__init__(str(error))
        self.error = error


def carry(error: CostguardError) -> NoReturn:
    """Raise `error`: past the library whose call is under way, if there is one, and this transport is the outermost."""
    hand = in_hand.get()
    if _is_within.get() and (hand is None or hand.is_kept):
        raise _Carried(error)
    raise error


def calling(run: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    """`run(…)`, a library's entry; what `carry` raises within comes out of it as itself."""
    outer = _is_within.get()
    _is_within.set(True)
    try:
        return run(*args, **kwargs)
    except _Carried as carried:
        error = carried.error
    finally:
        _is_within.set(outer)  # not by a token: a coroutine may be closed in another context
    try:
        raise error
    finally:
        del error  # it holds this frame


async def acalling(run: Callable[..., Awaitable[R]], *args: Any, **kwargs: Any) -> R:
    """`calling` for an entry that is awaited."""
    outer = _is_within.get()
    _is_within.set(True)
    try:
        return await run(*args, **kwargs)
    except _Carried as carried:
        error = carried.error
    finally:
        _is_within.set(outer)  # not by a token: a coroutine may be closed in another context
    try:
        raise error
    finally:
        del error  # it holds this frame
