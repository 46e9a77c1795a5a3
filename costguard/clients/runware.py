"""Runware's own SDK, `runware-sdk`: its HTTP sessions, its websockets, and its calls over these.

What it opens later is guarded as what it has open: a session by a middleware with each request, a websocket by what
`ws_connect` gives. Whether these are still the places where it does so is asked before anything is changed.
"""

from __future__ import annotations

import asyncio
import re
from contextvars import Context, copy_context
from importlib import metadata
from typing import Any, TypeVar

import runware

from costguard.clients.aiohttp import Middleware
from costguard.clients.guarding import Guarding, second_guard
from costguard.errors import ConfigurationError

C = TypeVar("C")

_KNOWN = (1, 8)
_ADVICE = "install runware-sdk 1.8 (`pip install 'runware-costguard[runware]'`)"
_MARK = "_costguard"


def wrap(guard: Guarding, client: C) -> C:
    """Put `guard` into a `runware.Runware`, in place, whether or not it is connected.

    ConfigurationError for a version that is not known, for one that is put together in another way, and for a client
    that is connected on another event loop than the one that this runs on.
    """
    version = check_version()
    if not isinstance(client, runware.Runware):
        raise TypeError(f"guard.wrap takes a runware.Runware, got {type(client).__module__}.{type(client).__name__}")
    held: Wrapped | None = client.__dict__.get(_MARK)
    if held is not None and held.guard is guard:
        return client
    if held is not None and not held.guard.is_closed:
        raise second_guard("Runware client")
    wrapped = Wrapped(guard, client, version) if held is None else held
    wrapped.put_in(guard)
    return client


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
    """A client of the SDK under `guard`."""

    def __init__(self, guard: Guarding, client: Any, version: str) -> None:
        self.guard = guard
        self._client = client
        self._version = version
        self._middleware = Middleware(guard)
        self._is_in = False

    def put_in(self, guard: Guarding) -> None:
        """Look for every place first, then change them; of a client that is wrapped already, change the guard."""
        client = self._client
        own = self._seam(client, "_ensure_validation_session")
        rest, websocket = self._seam(client, "_rest_transport"), self._seam(client, "_ws_transport")
        if rest is None and websocket is None:
            raise self._gone(client, "_rest_transport")
        ensure = None if rest is None else self._seam(rest, "_ensure_session")
        for owner, name in ((client, "_validation_session"), (rest, "_session")):
            if owner is not None:
                _check_session(guard, self._seam(owner, name))
        self.guard, self._middleware = guard, Middleware(guard)
        if self._is_in:
            return

        async def for_stream() -> Any:
            # It is sent when it is first read: what it is booked on is said by the block that asked for it.
            return _Session(await own(), self._middleware, copy_context())

        async def for_run() -> Any:
            return _Session(await ensure(), self._middleware)

        client._ensure_validation_session = for_stream
        if rest is not None:
            rest._ensure_session = for_run
        setattr(client, _MARK, self)
        self._is_in = True

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


def _check_session(guard: Guarding, session: Any) -> None:
    """A session of the caller's may have a guard of its own."""
    for one in () if session is None else _middlewares(session):
        if isinstance(one, Middleware) and one.guard is not guard and not one.guard.is_closed:
            raise second_guard("session")


class _Session:
    """A session of aiohttp's; each request of it passes the guard, behind the session's own middlewares.

    `context`: what a request is booked in, if not in that of whoever sends it.
    """

    def __init__(self, inner: Any, middleware: Middleware, context: Context | None = None) -> None:
        self._inner = inner
        self._context = context
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
        return (*own, self._middleware if self._context is None else self._in_context)

    async def _in_context(self, request: Any, handler: Any) -> Any:
        return await asyncio.create_task(self._middleware(request, handler), context=self._context)


def _is_of(middleware: object, guard: Guarding) -> bool:
    """Whether it is this guard's, or that of one that is closed."""
    return isinstance(middleware, Middleware) and (middleware.guard is guard or middleware.guard.is_closed)


def _middlewares(session: Any) -> tuple[Any, ...]:
    """A session's own; to state some with a request takes their place, and no public name tells which they are."""
    found = getattr(session, "_middlewares", None)
    if found is None:
        raise ConfigurationError(
            f"aiohttp {metadata.version('aiohttp')}: ClientSession._middlewares, by which costguard knows what a session"
            " does with its requests, is not there; make the session with `middlewares=(guard.aiohttp_middleware,)`,"
            " and use an aiohttp that costguard knows"
        )
    return tuple(found)
