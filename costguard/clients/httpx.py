"""httpx and httpx2: guarded transports. Both libraries have one API, so one adapter serves both.

Which of the two is at work is read from the request's own class: responses and streams are built from
the module that the client uses, and neither is imported here unless a default transport is asked for.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from costguard.errors import BudgetExceeded, ConfigurationError, InvalidRequest, UnpricedTask
from costguard.estimating import tokens
from costguard.exchange.flow import Call, Head, Interrupted, Listener, Question, Send, adrive, drive, exchange
from costguard.exchange.gate import OFF, normal_host
from costguard.exchange.offload import sleep

if TYPE_CHECKING:
    import httpx

    from costguard.guard import Guard

C = TypeVar("C")

OPTIONS = "costguard"
"""Key of our entry in `request.extensions` (options) and `response.extensions` (the receipt)."""


class _Hand:
    """A request that a guard has sent on: the same guard further down the line lets it pass, once.

    A second pass is a retry in between, and one more attempt: then what comes back is booked there.
    """

    __slots__ = ("guard", "is_retried", "is_used", "request")

    def __init__(self, guard: Guard, request: Any) -> None:
        self.guard = guard
        self.request = request
        self.is_used = False
        self.is_retried = False


_in_hand: ContextVar[_Hand | None] = ContextVar("costguard_in_hand", default=None)

_NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "LocalProtocolError", "UnsupportedProtocol")
_JSON = ("application/json", "text/json", "")


def wrap(guard: Guard, client: C) -> C:
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


def _client_module(client: object) -> ModuleType | None:
    for name in ("httpx", "httpx2"):
        module = sys.modules.get(name)
        if module is not None and isinstance(client, (module.Client, module.AsyncClient)):
            return module
    return None


def _guarded(guard: Guard, transport: Any, is_async: bool) -> Any:
    if isinstance(transport, (GuardedTransport, AsyncGuardedTransport)):
        if transport.guard is not guard:
            raise ConfigurationError("this client is wrapped by another Guard already; a client has one")
        return transport
    return AsyncGuardedTransport(guard, transport) if is_async else GuardedTransport(guard, transport)


def sync_transport(guard: Guard, inner: Any) -> httpx.BaseTransport:
    """A guarded transport around `inner`, or around a new `HTTPTransport` of the client's own library."""
    return cast("httpx.BaseTransport", _guarded(guard, _checked(inner, "handle_request", "HTTPTransport"), False))


def async_transport(guard: Guard, inner: Any) -> httpx.AsyncBaseTransport:
    """A guarded transport around `inner`, or around a new `AsyncHTTPTransport` of the client's own library."""
    tokens.preload()
    inner = _checked(inner, "handle_async_request", "AsyncHTTPTransport")
    return cast("httpx.AsyncBaseTransport", _guarded(guard, inner, True))


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
            self._made = getattr(_module(request), self._name)()
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

    def __init__(self, guard: Guard, inner: Any) -> None:
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
        call = _call(self.guard, request)
        if call is None:
            return self.inner.handle_request(request)
        port = _SyncPort(self.inner, request, self.guard, call.concern)
        drive(exchange(self.guard, call), port)
        return port.response


class AsyncGuardedTransport:
    """An asynchronous transport that guards what passes through it."""

    def __init__(self, guard: Guard, inner: Any) -> None:
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
        call = _call(self.guard, request)
        if call is None:
            return await self.inner.handle_async_request(request)
        port = _AsyncPort(self.inner, request, self.guard, call.concern)
        await adrive(exchange(self.guard, call), port, self.guard.offload)
        return port.response


class _SyncPort:
    """One request on its way through a synchronous transport."""

    def __init__(self, inner: Any, request: Any, guard: Guard, concern: str) -> None:
        self._concern = concern
        self._inner = inner
        self._request = request
        self._guard = guard
        self.response: Any = None

    def read_request(self) -> bytes | None:
        body: bytes | None = self._request.read() if _readable(self._request, self._concern) else None
        return body

    def send(self, effect: Send) -> Head:
        _replace_body(self._request, effect.body)
        outer, hand = _in_hand.get(), _Hand(self._guard, self._request)
        _in_hand.set(hand)
        effect.handed = True
        try:
            self.response = self._inner.handle_request(self._request)
        except Exception as error:
            effect.never_sent = _is_never_sent(error)
            raise
        finally:
            _in_hand.set(outer)
            effect.superseded = hand.is_retried
        return _head(self.response, effect)

    def read_response(self) -> bytes:
        stream = self.response.stream
        try:
            raw = b"".join(stream)
        finally:
            stream.close()
        return _buffered(self.response, raw)

    def listen(self, listener: Listener) -> None:
        kind = _stream_class(_module(self.response).SyncByteStream, _SyncListening)
        self.response.stream = kind(self.response.stream, listener, self._guard)

    def ask(self, question: Question) -> tuple[int, bytes]:
        response = self._inner.handle_request(_another(self._request, question.body))
        try:
            return response.status_code, response.read()
        finally:
            response.close()


class _AsyncPort:
    """One request on its way through an asynchronous transport."""

    def __init__(self, inner: Any, request: Any, guard: Guard, concern: str) -> None:
        self._concern = concern
        self._inner = inner
        self._request = request
        self._guard = guard
        self.response: Any = None

    async def read_request(self) -> bytes | None:
        body: bytes | None = await self._request.aread() if _readable(self._request, self._concern) else None
        return body

    async def send(self, effect: Send) -> Head:
        _replace_body(self._request, effect.body)
        outer, hand = _in_hand.get(), _Hand(self._guard, self._request)
        _in_hand.set(hand)
        effect.handed = True
        try:
            self.response = await self._inner.handle_async_request(self._request)
        except Exception as error:
            effect.never_sent = _is_never_sent(error)
            raise
        finally:
            _in_hand.set(outer)
            effect.superseded = hand.is_retried
        return _head(self.response, effect)

    async def read_response(self) -> bytes:
        stream = self.response.stream
        try:
            raw = b"".join([chunk async for chunk in stream])
        finally:
            await stream.aclose()
        return _buffered(self.response, raw)

    def listen(self, listener: Listener) -> None:
        kind = _stream_class(_module(self.response).AsyncByteStream, _AsyncListening)
        self.response.stream = kind(self.response.stream, listener, self._guard)

    async def ask(self, question: Question) -> tuple[int, bytes]:
        response = await self._inner.handle_async_request(_another(self._request, question.body))
        try:
            return response.status_code, await response.aread()
        finally:
            await response.aclose()

    async def pause(self, seconds: float) -> None:
        await sleep(seconds)


class _Listening:
    """A response's stream, passed on chunk by chunk as it comes; the guard listens on the side."""

    def __init__(self, inner: Any, listener: Listener, guard: Guard) -> None:
        self._inner = inner
        self._listener = listener
        self._guard = guard
        self._cut: str | None = "closed early"
        self._is_over = False

    def __del__(self) -> None:
        if not getattr(self, "_is_over", True):
            # No thread may block here: whoever drops the last reference may hold any lock.
            listener = self._listener
            self._guard.offload.later(lambda: listener.end("dropped without being closed"))


class _SyncListening(_Listening):
    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._inner:
                self._listener.feed(chunk)
                yield chunk
        except Exception as error:
            self._cut = type(error).__name__
            raise
        self._cut = None
        self._end()

    def close(self) -> None:
        """Close the inner stream; if it was not read to its end, its tasks are unresolved."""
        try:
            self._inner.close()
        finally:
            self._end()

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._listener.end(self._cut)


class _AsyncListening(_Listening):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._inner:
                self._listener.feed(chunk)
                yield chunk
        except Exception as error:
            self._cut = type(error).__name__
            raise
        self._cut = None
        await self._end()

    async def aclose(self) -> None:
        """Close the inner stream; if it was not read to its end, its tasks are unresolved."""
        try:
            await self._inner.aclose()
        finally:
            await self._end()

    async def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            listener, cut = self._listener, self._cut
            try:
                await self._guard.offload(lambda: listener.end(cut))
            except Interrupted as interrupted:
                raise interrupted.cancellation from None


@functools.cache
def _stream_class(base: type, listening: type) -> Any:
    """Httpx's clients insist on streams of their own classes."""
    return type("GuardedStream", (listening, base), {})


def _call(guard: Guard, request: Any) -> Call | None:
    """What the guard needs to know of a POST; None for what it does not look at."""
    if request.method != "POST":
        return None
    if guard.mode == OFF:
        return None
    hand = _in_hand.get()
    if hand is not None and hand.guard is guard and hand.request is request:
        if not hand.is_used:
            hand.is_used = True
            return None
        hand.is_retried = True
    url = request.url
    host, port = normal_host(url.raw_host.decode("ascii")), url.port
    path = url.raw_path.partition(b"?")[0].decode("ascii")
    concern = guard.gate.concerns(host, port, path)
    if concern is None:
        return None
    return Call(host if port is None else f"{host}:{port}", path, concern, request.extensions.get(OPTIONS))


def _header(message: Any, name: bytes) -> str:
    """A header's value up to its parameters, in lower case; "" if it is not there.

    Read from the raw list: a look-up by name in httpx decodes every header, which is felt on each call.
    """
    for key, value in message.headers.raw:
        if key.lower() == name:
            return str(value.partition(b";")[0].strip().lower().decode("latin-1"))
    return ""


_modules: dict[type, ModuleType] = {}


def _module(value: Any) -> ModuleType:
    """The module that made `value`: httpx or httpx2."""
    found = _modules.get(type(value))
    if found is None:
        names = [base.__module__.partition(".")[0] for base in type(value).__mro__]
        name = next((name for name in names if name in ("httpx", "httpx2")), None)
        if name is None:
            raise TypeError(f"neither httpx nor httpx2 made this {type(value).__name__}")
        found = _modules[type(value)] = sys.modules[name]
    return found


def _readable(request: Any, concern: str) -> bool:
    """True if the body must be read, or is in memory, or says it is JSON: other uploads are not ours to buffer."""
    # A redirected request has its bytes in its stream alone.
    if concern == "native" or hasattr(request, "_content") or isinstance(request.stream, _module(request).ByteStream):
        return True
    content_type = _header(request, b"content-type")
    return content_type in _JSON or content_type.endswith("+json")


def _replace_body(request: Any, body: bytes | None) -> None:
    """Give `request` another body, in place: a redirect or a retry of it then repeats the same tasks."""
    if body is None:
        return
    request.stream = _module(request).ByteStream(body)
    request._content = body
    request.headers["Content-Length"] = str(len(body))
    if _header(request, b"transfer-encoding"):
        del request.headers["Transfer-Encoding"]


def _is_never_sent(error: Exception) -> bool:
    if isinstance(error, (BudgetExceeded, UnpricedTask, InvalidRequest)):
        return True  # another guard, further down the line, refused it
    return any(
        base.__name__ in _NEVER_SENT and base.__module__.partition(".")[0] in ("httpx", "httpx2")
        for base in type(error).__mro__
    )


def _head(response: Any, effect: Send) -> Head:
    if effect.receipt is not None and effect.receipt.tasks:
        response.extensions[OPTIONS] = effect.receipt
    return Head(response.status_code, _header(response, b"content-type"), _header(response, b"content-encoding"))


def _another(request: Any, body: bytes) -> Any:
    """A request like `request`, to the same place with the same key, that sends `body`."""
    headers = [
        (name, value)
        for name, value in request.headers.raw
        if name.lower() not in (b"content-length", b"transfer-encoding", b"content-type", b"accept")
    ]
    extensions = {key: value for key, value in request.extensions.items() if key != OPTIONS}
    headers.append((b"Content-Type", b"application/json"))
    return type(request)("POST", request.url, headers=headers, content=body, extensions=extensions)


def _buffered(response: Any, raw: bytes) -> bytes:
    """Let the client read what was read already; returns the decoded body."""
    module = _module(response)
    response.stream = module.ByteStream(raw)
    encoding = _header(response, b"content-encoding")
    if not encoding:
        return raw
    try:
        decoded: bytes = module.Response(200, headers={"content-encoding": encoding}, content=raw).content
    except module.DecodingError:
        return b""
    return decoded
