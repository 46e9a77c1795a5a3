"""The SDK's websockets: each connection that it has, and the calls that wait for what comes by them.

A call sends its own task, and has a refusal raised as itself. What the SDK sends on behalf of calls, when it has
connected again, is booked in the context of its call, and a refusal of it is brought to that call.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import copy_context
from typing import Any

import runware
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK
from websockets.protocol import State

from costguard.clients.guarding import REFUSALS
from costguard.clients.websockets import Message, Talk
from costguard.errors import CostguardError, LedgerError

_KEPT_BACK = (*REFUSALS, LedgerError)
_CODE = "costguardRefused"
"""Code of the error by which the SDK is told that a task of its was kept back."""

_SIGNS = ("authentication", "ping")
_SIGN_CHARS_MAX = 2_000

Send = Callable[[Message], Awaitable[None]]

log = logging.getLogger("costguard")


class _Waiting:
    """A call of the SDK under way: whose it is, and its task's sending by another, and what kept it back then."""

    def __init__(self) -> None:
        self.owner = asyncio.current_task()
        self.context = copy_context()
        self.sendings: set[asyncio.Task[None]] = set()
        self.refusal: CostguardError | None = None


class Calls:
    """The calls under way of one client, by the name of their task."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._waiting: dict[str, _Waiting] = {}
        self._sendings: set[asyncio.Task[None]] = set()
        """Those that no call waits for."""

    def named(self, call: Callable[..., Awaitable[Any]], at: int) -> Callable[..., Awaitable[Any]]:
        """`call`, whose argument number `at` are a task's parameters: it names its task, and raises its refusal."""

        @functools.wraps(call)
        async def guarded(*args: Any, **options: Any) -> Any:
            if len(args) <= at and "params" not in options:
                return await call(*args, **options)  # which says what is missing
            params: Mapping[str, Any] = options.pop("params") if len(args) <= at else args[at]
            name = str(params.get("taskUUID") or uuid.uuid4())
            given = (*args[:at], {**params, "taskUUID": name}, *args[at + 1 :])
            waiting = self._waiting[name] = _Waiting()
            try:
                return await call(*given, **options)
            except runware.RunwareError:
                if waiting.refusal is None:
                    raise
                raise waiting.refusal from None
            finally:
                if self._waiting.get(name) is waiting:
                    del self._waiting[name]
                    self._leave(name)
                for sending in waiting.sendings:
                    sending.cancel()

        return guarded

    def _leave(self, name: str) -> None:
        connection = self._transport._ws
        if isinstance(connection, Connection):
            connection.talk.leave_later(name, "its caller went away before it was answered")

    def strays(self, message: Message) -> list[Any]:
        """The tasks of `message`, if it is not the word of the call that sends it; else none."""
        current = asyncio.current_task()
        is_behind = current in self._transport._background_tasks
        if not is_behind and not any(one.owner is not current for one in self._waiting.values()):
            return []
        found = json.loads(message)
        tasks = found if isinstance(found, list) else [found]
        waiting = [self._waiting.get(str(task.get("taskUUID"))) for task in tasks if isinstance(task, dict)]
        is_other = any(one is not None and one.owner is not current for one in waiting)
        return tasks if is_behind or is_other else []

    def send_later(self, tasks: list[Any], send: Send) -> None:
        """Send tasks that are not the current call's, each when it is admitted. Whoever connected does not wait for it:
        until that one is done, the SDK does not connect again.
        """
        for task in tasks:
            waiting = self._waiting.get(str(task.get("taskUUID")))
            context = copy_context() if waiting is None else waiting.context.copy()
            sendings = self._sendings if waiting is None else waiting.sendings
            sending = asyncio.create_task(self._send(task, waiting, send), context=context)
            sendings.add(sending)
            sending.add_done_callback(sendings.discard)

    async def _send(self, task: Any, waiting: _Waiting | None, send: Send) -> None:
        name = str(task.get("taskUUID"))
        transport = self._transport
        try:
            await send(json.dumps([task]))
        except (ConnectionClosed, OSError):
            if name in transport._in_flight:
                transport._in_flight[name].sent = False  # so that the SDK sends it when it has connected again
        except _KEPT_BACK as error:
            if waiting is not None:
                waiting.refusal = error
            if name not in transport._task_callbacks:  # an error that finds no call is told to all of them
                transport.unsubscribe_from_task(name)
                log.error("a task that no call waits for was kept back: %s", error)
                return
            transport._dispatch({"errors": [{"code": _CODE, "message": str(error), "taskUUID": name}]})


def _is_of_the_connection(message: Message) -> bool:
    """Whether it is the key or a sign of life, which go out whatever becomes of the guard."""
    if len(message) > _SIGN_CHARS_MAX:
        return False
    try:
        found = json.loads(message)
    except ValueError:
        return False
    tasks = found if isinstance(found, list) else [found]
    return all(isinstance(task, dict) and task.get("taskType") in _SIGNS for task in tasks)


class Connection:
    """A websocket of the SDK's; what passes on it passes the guard of `talk`, until `is_out` says that it has left. All
    else of it is the inner one's.
    """

    def __init__(self, inner: Any, talk: Talk, calls: Calls, is_out: Callable[[], bool]) -> None:
        self._is_out = is_out
        self.inner = inner
        self.talk = talk
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        if name == "inner":
            raise AttributeError(name)
        return getattr(self.inner, name)

    async def send(self, message: Message) -> None:
        """As `ClientConnection.send`; raises the refusal of what is not to be sent."""
        if self._is_out() or _is_of_the_connection(message):
            await self.inner.send(message)
            return
        strays = self._calls.strays(message)
        if strays:
            self._calls.send_later(strays, self._send)
        else:
            await self._send(message)

    async def _send(self, message: Message) -> None:
        await self.talk.send(message, self.inner.send, self._is_open)

    def _is_open(self) -> bool:
        return getattr(self.inner, "state", State.OPEN) is State.OPEN

    async def recv(self, *args: Any, **options: Any) -> Any:
        """As `ClientConnection.recv`."""
        try:
            message = await self.inner.recv(*args, **options)
        except Exception as error:
            await self.talk.end(type(error).__name__)
            raise
        await self.talk.hear(message)
        return message

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            while True:
                yield await self.recv()
        except ConnectionClosedOK:
            return

    async def close(self, *args: Any, **options: Any) -> None:
        """As `ClientConnection.close`."""
        try:
            await self.inner.close(*args, **options)
        finally:
            await self.talk.end("closed before it was answered")
