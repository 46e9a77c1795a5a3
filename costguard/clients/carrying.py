"""Errors of costguard past libraries that retry and wrap whatever a transport raises.

Such a library catches every `Exception`. So where a call of its is under way, its own transport raises a carrier,
which is none, and the library's entry, as costguard puts it into a client, turns that back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn, TypeVar

from costguard.errors import CostguardError

R = TypeVar("R")

Owns = Callable[[object], bool]
"""Whether a transport is one that a library's call sends by: whatever else is used meanwhile has another caller."""


class _Call:
    """A call of a library under way. What was begun in it, such as a task, may know of it when it is over."""

    __slots__ = ("is_over", "owns")

    def __init__(self, owns: Owns) -> None:
        self.owns = owns
        self.is_over = False


_calls: ContextVar[tuple[_Call, ...]] = ContextVar("costguard_calls_of_libraries", default=())


class _Carried(BaseException):
    """`error` on its way through a library; its text is that of the error, for whoever traces what passes."""

    def __init__(self, error: CostguardError) -> None:
        super().__init__(str(error))
        self.error = error


def carry(error: CostguardError, transport: object) -> NoReturn:
    """Raise `error`, which comes out of `transport`: past the library whose call sends by it, if there is one."""
    if any(call.owns(transport) for call in _calls.get() if not call.is_over):
        raise _Carried(error)
    raise error


def calling(owns: Owns, run: Callable[..., R], *args: Any, **kwargs: Any) -> R:
    """`run(…)`, a library's entry; what `carry` raises within comes out of it as itself."""
    try:
        with _under_way(owns):
            return run(*args, **kwargs)
    except (_Carried, BaseExceptionGroup) as raised:
        error = _carried_by(raised)
        if error is None:
            raise
    try:
        raise error
    finally:
        del error  # it holds this frame


async def acalling(owns: Owns, run: Callable[..., Awaitable[R]], *args: Any, **kwargs: Any) -> R:
    """`calling` for an entry that is awaited."""
    try:
        with _under_way(owns):
            return await run(*args, **kwargs)
    except (_Carried, BaseExceptionGroup) as raised:
        error = _carried_by(raised)
        if error is None:
            raise
    try:
        raise error
    finally:
        del error  # it holds this frame


@contextmanager
def _under_way(owns: Owns) -> Iterator[None]:
    call = _Call(owns)
    _calls.set((*(other for other in _calls.get() if not other.is_over), call))
    try:
        yield
    finally:
        call.is_over = True
        # Tasks may share a context, and a coroutine may be closed in another one: nothing but this call is taken out.
        _calls.set(tuple(other for other in _calls.get() if other is not call))


def _carried_by(raised: BaseException) -> CostguardError | None:
    """What a carrier, or a group of tasks that one went through, carries; the first of several."""
    if isinstance(raised, _Carried):
        return raised.error
    if isinstance(raised, BaseExceptionGroup):
        return next((found for one in raised.exceptions if (found := _carried_by(one)) is not None), None)
    return None
