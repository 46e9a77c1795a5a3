"""httpx and httpx2: guarded transports. Both libraries have one API, so one adapter serves both."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any, TypeVar

from costguard.clients.carrying import carry
from costguard.clients.guarding import Guarding, Hand, Handing, call_of, held, second_guard
from costguard.clients.httpx.bodies import AsyncBody, SyncBody
from costguard.clients.httpx.messages import address, another, buffered, head, is_never_sent, module_of, options, passes
from costguard.clients.httpx.streams import alisten, listen
from costguard.errors import CostguardError
from costguard.estimating import tokens
from costguard.exchange.drivers import adrive, drive
from costguard.exchange.effects import Call, Claim, Head, Listen, Question, Send
from costguard.exchange.flow import exchange
from costguard.exchange.offload import sleep

C = TypeVar("C")


def wrap(guard: Guarding, client: C) -> C:
    """Put `guard` around every transport of `client`, in place."""
    module = _client_module(client)
    if module is None:
        raise TypeError(
            "guard.wrap takes an httpx or httpx2 Client or AsyncClient,"
            f" got {type(client).__module__}.{type(client).__name__}"
        )
    is_async = isinstance(client, module.AsyncClient)
    inner: Any = client
    transport = _guarded(guard, inner._transport, is_async)
    mounts = {
        pattern: None if mounted is None else _guarded(guard, mounted, is_async)
        for pattern, mounted in inner._mounts.items()
    }
    inner._transport, inner._mounts = transport, mounts
    if is_async:
        tokens.preload()
    return client


def is_client(value: object) -> bool:
    """True for an httpx or httpx2 Client or AsyncClient."""
    return _client_module(value) is not None


def is_of(client: Any, transport: object) -> bool:
    """True for a transport that `client` sends by."""
    return any(transport is own for own in (client._transport, *client._mounts.values()))


def _client_module(client: object) -> ModuleType | None:
    for name in ("httpx", "httpx2"):
        module = sys.modules.get(name)
        if module is not None and isinstance(client, (module.Client, module.AsyncClient)):
            return module
    return None


def _guarded(guard: Guarding, transport: Any, is_async: bool) -> Any:
    while isinstance(transport, (GuardedTransport, AsyncGuardedTransport)):
        if transport.guard is guard:
            return transport
        if not transport.guard.is_closed:
            raise second_guard("client")
        transport = transport.inner
    return AsyncGuardedTransport(guard, transport) if is_async else GuardedTransport(guard, transport)


def sync_transport(guard: Guarding, inner: Any) -> Any:
    """A guarded transport around `inner`, or around a new `HTTPTransport` of the client's own library."""
    return _guarded(guard, _checked(inner, "handle_request", "HTTPTransport"), False)


def async_transport(guard: Guarding, inner: Any) -> Any:
    """A guarded transport around `inner`, or around a new `AsyncHTTPTransport` of the client's own library."""
    tokens.preload()
    inner = _checked(inner, "handle_async_request", "AsyncHTTPTransport")
    return _guarded(guard, inner, True)


def _checked(inner: Any, method: str, default: str) -> Any:
    if inner is None:
        return _Default(default)
    if not hasattr(inner, method):
        raise TypeError(f"expected a transport with {method}(), got {type(inner).__module__}.{type(inner).__name__}")
    return inner


class _Default:
    """The default transport, made when the first request shows whether httpx or httpx2 is at work."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._made: Any = None

    def _of(self, request: Any) -> Any:
        if self._made is None:
            self._made = getattr(module_of(request), self._name)()
        return self._made

    def __enter__(self) -> _Default:
        return self

    def __exit__(self, *exc: Any) -> None:
        self.close()

    async def __aenter__(self) -> _Default:
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self.aclose()

    def handle_request(self, request: Any) -> Any:
        return self._of(request).handle_request(request)

    async def handle_async_request(self, request: Any) -> Any:
        return await self._of(request).handle_async_request(request)

    def close(self) -> None:
        if self._made is not None:
            self._made.close()

    async def aclose(self) -> None:
        if self._made is not None:
            await self._made.aclose()


class GuardedTransport:
    """A synchronous transport that guards what passes through it."""

    def __init__(self, guard: Guarding, inner: Any) -> None:
        self.guard = guard
        self.inner = inner

    def __enter__(self) -> GuardedTransport:
        self.inner.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.inner.__exit__(*exc)

    def close(self) -> None:
        """Close the inner transport."""
        self.inner.close()

    def handle_request(self, request: Any) -> Any:
        """Send `request` under guard and return the inner transport's response."""
        call = look(self.guard, request)
        if call is None:
            return self.inner.handle_request(request)
        return send(self.guard, self.inner, request, call, self)


class AsyncGuardedTransport:
    """An asynchronous transport that guards what passes through it."""

    def __init__(self, guard: Guarding, inner: Any) -> None:
        self.guard = guard
        self.inner = inner

    async def __aenter__(self) -> AsyncGuardedTransport:
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self.inner.__aexit__(*exc)

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self.inner.aclose()

    async def handle_async_request(self, request: Any) -> Any:
        """Send `request` under guard and return the inner transport's response."""
        call = look(self.guard, request)
        if call is None:
            return await self.inner.handle_async_request(request)
        return await asend(self.guard, self.inner, request, call, self)


def look(guard: Guarding, request: Any) -> Call | None:
    """What the guard needs to know of a request; None for what it does not look at, or is nobody's at a glance."""
    if request.method != "POST":
        return None
    return call_of(guard, request, address, passes, options)


def send(guard: Guarding, inner: Any, request: Any, call: Call, transport: object) -> Any:
    """Send `request` under `guard` by the transport `inner`, and return its response.

    `transport`: the one that the client has, which errors come out of.
    """
    port = _SyncPort(inner, request, guard, call.claim)
    try:
        drive(exchange(guard, call), port, guard.work)
    except CostguardError as error:
        carry(error, transport)
    return port.response


async def asend(guard: Guarding, inner: Any, request: Any, call: Call, transport: object) -> Any:
    """As `send`, for asynchronous transports."""
    port = _AsyncPort(inner, request, guard, call.claim)
    try:
        await adrive(exchange(guard, call), port, guard.offload)
    except CostguardError as error:
        carry(error, transport)
    return port.response


class _SyncPort:
    """One request on its way through a synchronous transport."""

    def __init__(self, inner: Any, request: Any, guard: Guarding, claim: Claim) -> None:
        self._body = SyncBody(guard, request, claim)
        self._inner = inner
        self._request = request
        self._guard = guard
        self.response: Any = None

    def read_request(self) -> bytes | None:
        return self._body.read()

    def send(self, effect: Send) -> Head:
        self._body.replace(effect)
        with Handing(self._guard, self._request, effect, is_never_sent, self._body.plain):
            self.response = self._inner.handle_request(self._request)
        return head(self.response, effect)

    def read_response(self) -> bytes:
        stream = self.response.stream
        try:
            raw = b"".join(stream)
        finally:
            stream.close()
        return buffered(self.response, raw)

    def listen(self, effect: Listen) -> bytes | None:
        return listen(self.response, effect, self._guard)

    def ask(self, question: Question) -> tuple[int, bytes]:
        request = another(self._request, question.body)
        with held(Hand(self._guard, request)):
            response = self._inner.handle_request(request)
        try:
            return response.status_code, response.read()
        finally:
            response.close()


class _AsyncPort:
    """One request on its way through an asynchronous transport."""

    def __init__(self, inner: Any, request: Any, guard: Guarding, claim: Claim) -> None:
        self._body = AsyncBody(guard, request, claim)
        self._inner = inner
        self._request = request
        self._guard = guard
        self.response: Any = None

    async def read_request(self) -> bytes | None:
        return await self._body.read()

    async def send(self, effect: Send) -> Head:
        self._body.replace(effect)
        with Handing(self._guard, self._request, effect, is_never_sent, self._body.plain):
            self.response = await self._inner.handle_async_request(self._request)
        return head(self.response, effect)

    async def read_response(self) -> bytes:
        stream = self.response.stream
        try:
            raw = b"".join([chunk async for chunk in stream])
        finally:
            await stream.aclose()
        return buffered(self.response, raw)

    def listen(self, effect: Listen) -> bytes | None:
        return alisten(self.response, effect, self._guard)

    async def ask(self, question: Question) -> tuple[int, bytes]:
        request = another(self._request, question.body)
        with held(Hand(self._guard, request)):
            response = await self._inner.handle_async_request(request)
        try:
            return response.status_code, await response.aread()
        finally:
            await response.aclose()

    async def pause(self, seconds: float) -> None:
        await sleep(seconds)
