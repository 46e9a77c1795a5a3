"""Runware's own SDK, `runware-sdk`: its HTTP sessions, its websockets, and its calls over these.

What it opens later is guarded as what it has open: a session by a middleware with each request, a websocket by what
`ws_connect` gives. Whether these are still the places where it does so is asked before anything is changed.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import replace
from importlib import metadata
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import runware

from costguard.clients.aiohttp import Middleware
from costguard.clients.guarding import Guarding, Hand, held, second_guard
from costguard.clients.runware.websockets import Calls, Connection
from costguard.clients.websockets import Talk
from costguard.errors import ConfigurationError
from costguard.exchange.endpoints import normal_host

C = TypeVar("C")

ASK_S = 30
"""Seconds that a refusal waits for the provider's word, where the client talks by websocket and HTTP may be shut."""

_KNOWN = (1, 8)
_ADVICE = "install runware-sdk 1.8 (`pip install 'runware-costguard[runware]'`)"
_MARK = "_costguard"
_PORTS = {"wss": 443, "ws": 80}
_OF_CLIENT = ("_config", "_utility", "run")
_OF_WEBSOCKET = (
    "_background_tasks", "_connect_lock", "_default_connect", "_dispatch", "_in_flight", "_receive_loop",
    "_receive_task", "_task_callbacks", "_ws", "unsubscribe_from_task",
)  # fmt: skip
"""What a websocket is guarded by, beside `ws_connect`."""


def wrap(guard: Guarding, client: C) -> C:
    """Put `guard` into a `runware.Runware`, in place, whether or not it is connected.

    ConfigurationError for a version that is not known, for one that is put together in another way, and for a client
    that is connected on another event loop than the one that this runs on.
    """
    version = check_version()
    if not isinstance(client, runware.Runware):
        raise TypeError(f"guard.wrap takes a runware.Runware, got {type(client).__module__}.{type(client).__name__}")
    wrapped = wrapped_of(client) or Wrapped(guard, client, version)
    if wrapped.is_own and wrapped.guard is not guard and not wrapped.guard.is_closed:
        raise second_guard("Runware client")
    wrapped.put_in(guard)
    wrapped.make_own()
    return client


def wrapped_of(client: Any) -> Wrapped | None:
    """What was put into a client; None for one that was never guarded."""
    found: Wrapped | None = client.__dict__.get(_MARK)
    return found


def check_version() -> str:
    """The installed version; ConfigurationError if it is not known, or is the other package of this name."""
    try:
        version = metadata.version("runware-sdk")
    except metadata.PackageNotFoundError:
        version = str(getattr(runware, "SDK_VERSION", ""))
    try:
        other = metadata.version("runware")
    except metadata.PackageNotFoundError:
        other = ""
    if other:
        beside = f" beside runware-sdk {version}, whose files it overwrites" if version else ""
        raise ConfigurationError(
            f"the package `runware` {other} is installed{beside}: costguard guards its successor of the same import"
            f" name; uninstall it and {_ADVICE}"
        )
    if tuple(int(part) for part in re.findall(r"[0-9]+", version)[:2]) != _KNOWN:
        raise ConfigurationError(
            f"runware-sdk {version or '(of no version)'} is a version that costguard does not know: {_ADVICE}"
        )
    return version


class Wrapped:
    """A client of the SDK, and the guard that was put in."""

    def __init__(self, guard: Guarding, client: Any, version: str) -> None:
        self.guard = guard
        self.is_own = False
        """Its caller wrapped it; False for the guard of the whole process."""
        self.calls: Calls | None = None
        """Those of its websocket, if that is how it speaks."""
        self._is_out: Callable[[], bool] = bool
        self._client = client
        self._version = version
        self._is_in = False

    def is_out(self) -> bool:
        """Whether the guard has left: what is sent from then on passes, what is on its way is still heard."""
        return self._is_out()

    def put_in(self, guard: Guarding, is_out: Callable[[], bool] = bool) -> None:
        """Look for every place first, then change them; of a client that has one already, change the guard.

        `is_out` says, at each call, whether the guard has left meanwhile; without it, it stays.
        """
        client = self._client
        if self._is_in and self.guard is guard and self._has_hold():
            self._is_out = is_out
            return
        own = self._seam(client, "_ensure_validation_session")
        rest, websocket = self._seam(client, "_rest_transport"), self._seam(client, "_ws_transport")
        if rest is None and websocket is None:
            raise self._gone(client, "_rest_transport")
        self._check_session(guard, client, "_validation_session")
        if rest is not None:
            self._check_session(guard, rest, "_session")
        ensure = own if rest is None else self._seam(rest, "_ensure_session")
        for owner, names in ((client, _OF_CLIENT), (websocket, _OF_WEBSOCKET)) if websocket is not None else ():
            for name in names:
                self._seam(owner, name)
        is_idle = websocket is None or (websocket._ws is None and not websocket._connect_lock.locked())
        loop = None if is_idle else self._running_loop(websocket)

        self.guard, self._is_out = guard, is_out
        if not self._is_in:
            self._is_in = True
            setattr(client, _MARK, self)
            self._put_into_sessions(own, rest, ensure)
            if websocket is not None:
                self._put_into_websockets(websocket)
        if loop is not None:
            self._take_over(websocket, loop)

    def make_own(self) -> None:
        """It was its caller who wrapped it."""
        if not self.is_own and self.calls is not None:
            self._client.run = self.calls.named(self._client.run, 0)
            self._client._utility = self.calls.named(self._client._utility, 1)
        self.is_own = True

    def _has_hold(self) -> bool:
        """Whether an open connection is in its hands: one that came while it was out is not."""
        connection = None if self.calls is None else self._client._ws_transport._ws
        return connection is None or isinstance(connection, Connection)

    def _put_into_sessions(self, own: Any, rest: Any, ensure: Any) -> None:
        self._own_session = own

        async def for_stream() -> Any:
            # It is sent when it is first read: what it is booked on is said by the block that asked for it.
            session, context = await own(), copy_context()
            return session if self.is_out() else _Session(session, _InContext(self.guard, context))

        async def for_run() -> Any:
            session = await ensure()
            return session if self.is_out() else _Session(session, Middleware(self.guard))

        self._client._ensure_validation_session = for_stream
        if rest is not None:
            rest._ensure_session = for_run

    def _put_into_websockets(self, transport: Any) -> None:
        config = self._client._config
        stated = config.dependencies
        connect = None if stated is None else stated.ws_connect
        calls = self.calls = Calls(transport)

        async def ws_connect(url: str) -> Any:
            connection = await (transport._default_connect if connect is None else connect)(url)
            return connection if self.is_out() else self._guarded(calls, connection)

        config.dependencies = replace(stated or runware.RuntimeDependencies(), ws_connect=ws_connect)

    def _guarded(self, calls: Calls, connection: Any) -> Connection:
        guard = self.guard
        url = urlsplit(self._client._config.ws_base_url)
        port = None if url.port == _PORTS.get(url.scheme) else url.port

        async def past(request: Any, handler: Any) -> Any:
            with held(Hand(guard, request)):  # a guard of the whole process would look at it
                return await handler(request)

        async def ask(body: bytes) -> tuple[int, bytes]:
            return await self._ask(body, past)

        talk = Talk(guard, host=normal_host(url.hostname or ""), port=port, path=url.path, ask=ask)
        return Connection(connection, talk, calls, self.is_out)

    async def _ask(self, body: bytes, past: Any) -> tuple[int, bytes]:
        """By HTTP, past every guard and all middlewares."""
        config, session = self._client._config, await self._own_session()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {config.api_key}"}
        limit = aiohttp.ClientTimeout(total=ASK_S)
        async with session.post(
            config.http_base_url, data=body, headers=headers, middlewares=(past,), timeout=limit
        ) as response:
            return response.status, await response.read()

    def _running_loop(self, websocket: Any) -> asyncio.AbstractEventLoop:
        """The event loop that the client is connected on, which must be the one that this runs on."""
        task = None if websocket._connect_lock.locked() else websocket._receive_task
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        if task is None or loop is None or task.get_loop() is not loop:
            raise ConfigurationError(
                "this Runware client is connected, or about to be, and not on the event loop that runs here:"
                " call guard.wrap before it connects, or in a coroutine of that loop"
            )
        return loop

    def _take_over(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        """Guard the connection that is open: what reads it begins anew, behind what it was told until now."""
        known, reader = transport._ws, transport._receive_task
        if isinstance(known, Connection):
            known.talk.end_later("another Guard took over")
        calls = self.calls or Calls(transport)
        transport._ws = self._guarded(calls, known.inner if isinstance(known, Connection) else known)

        async def read_on() -> None:
            await asyncio.wait({reader})
            await transport._receive_loop()

        reader.cancel()
        transport._receive_task = loop.create_task(read_on())

    def _seam(self, owner: Any, name: str) -> Any:
        try:
            return getattr(owner, name)
        except AttributeError:
            raise self._gone(owner, name) from None

    def _gone(self, owner: Any, name: str) -> ConfigurationError:
        return ConfigurationError(
            f"runware-sdk {self._version}: {type(owner).__name__}.{name}, by which costguard guards it, is not there;"
            f" nothing was changed. {_ADVICE[0].upper()}{_ADVICE[1:]}"
        )

    def _check_session(self, guard: Guarding, owner: Any, name: str) -> None:
        """A session of the caller's may have a guard of its own."""
        session = self._seam(owner, name)
        for one in () if session is None else _middlewares(session):
            if isinstance(one, Middleware) and one.guard is not guard and not one.guard.is_closed:
                raise second_guard("session")


class _InContext(Middleware):
    """Books what passes in `context`, not in that of whoever sends it."""

    def __init__(self, guard: Guarding, context: Context) -> None:
        super().__init__(guard)
        self._context = context

    async def __call__(self, request: Any, handler: Any) -> Any:
        return await asyncio.create_task(super().__call__(request, handler), context=self._context)


class _Session:
    """A session of aiohttp's; each request of it passes the guard, behind the session's own middlewares."""

    def __init__(self, inner: Any, middleware: Middleware) -> None:
        self._inner = inner
        self._middleware = middleware

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def post(self, url: Any, **options: Any) -> Any:
        """As `ClientSession.post`."""
        return self._inner.post(url, middlewares=self._middlewares(), **options)

    def request(self, method: str, url: Any, **options: Any) -> Any:
        """As `ClientSession.request`."""
        return self._inner.request(method, url, middlewares=self._middlewares(), **options)

    def _middlewares(self) -> tuple[Any, ...]:
        own = tuple(one for one in _middlewares(self._inner) if not _is_of(one, self._middleware.guard))
        return (*own, self._middleware)


def _is_of(middleware: object, guard: Guarding) -> bool:
    """Whether it is this guard's, or that of one that is closed."""
    return isinstance(middleware, Middleware) and (middleware.guard is guard or middleware.guard.is_closed)


def _middlewares(session: Any) -> tuple[Any, ...]:
    """A session's own; to state some with a request takes their place, and no public name tells which they are."""
    found = getattr(session, "_middlewares", None)
    if found is None:
        raise ConfigurationError(
            f"aiohttp {metadata.version('aiohttp')}: ClientSession._middlewares, by which costguard knows what a"
            " session does with its requests, is not there; use an aiohttp that costguard knows"
        )
    return tuple(found)
