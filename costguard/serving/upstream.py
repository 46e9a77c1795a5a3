"""Where calls are passed on to, and the one guarded way there."""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import httpx

from costguard.clients.guarding import OPTIONS
from costguard.clients.httpx.messages import address, is_readable
from costguard.errors import ConfigurationError
from costguard.exchange.effects import Claim
from costguard.guard import Guard
from costguard.serving import headers
from costguard.serving.asgi import Scope, raw_path
from costguard.serving.caller import Body, Caller, has_body
from costguard.wire import NATIVE
from costguard.wire.dialect import Known

CONNECT_S = 10.0
"""A connection that is not made by then never is."""

BODY_BYTES_MAX = 256 * 2**20
"""Of a body that is read here: room for media as base64. What only passes through has no bound."""

VERSION = "/v1"
"""What every path of these APIs begins with."""

_CALLER = "costguard.caller"

_ESCAPED_MAX = 3
"""How often a path is unescaped by what it passes."""

_END = re.compile(r"[?#\0]")


class Passed(NamedTuple):
    """A request as it is passed on, and the wire that its caller is answered in where it is not."""

    request: httpx.Request
    speaks: Known


class NotPlainError(ValueError):
    """A path that cannot be passed on, or that means a guarded one, spelled so that it would pass for another."""


class Upstream:
    """An API at `url`, with or without its `/v1`.

    `timeout_s`: how long it may be silent; None: for ever. `transport`: what sends, for tests.
    """

    def __init__(
        self,
        guard: Guard,
        url: str,
        *,
        timeout_s: float | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._guard = guard
        self.url, self._base = _parse(url), _base(url)
        claim = guard.claim(*address(httpx.Request("POST", self._at(VERSION))))
        if guard.mode != "off" and (claim is None or not claim.is_sure):
            raise ConfigurationError(
                f"upstream: this guard does not know {url}; name it: Guard(endpoints=[{endpoint_of(url)!r}])"
            )
        self._host = self.url.netloc
        self.name = self.url.netloc.decode("ascii")
        """As it is told to callers."""
        self._timeout = {"connect": CONNECT_S, "read": timeout_s, "write": timeout_s, "pool": None}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        inner = httpx.AsyncHTTPTransport(limits=limits) if transport is None else transport
        self.transport = guard.async_transport(_Sending(inner))

    def _at(self, path: str, query: bytes = b"") -> httpx.URL:
        raw = (self._base + path).encode("latin-1")
        try:
            if not path.startswith("/"):
                raise NotPlainError
            return self.url.copy_with(raw_path=raw + b"?" + query if query else raw)
        except (httpx.InvalidURL, UnicodeError):
            raise NotPlainError from None

    def speaks(self, scope: Scope) -> Known:
        """The wire that a request is made in, by its path; Runware's own where that says nothing."""
        try:
            claim = self._claim(httpx.Request(scope.get("method", "GET"), self._at(raw_path(scope))))
        except NotPlainError:
            return NATIVE
        return _speaks(claim)

    def request(self, scope: Scope, caller: Caller, options: dict[str, Any], dropped: frozenset[bytes]) -> Passed:
        """What is passed on of a request, booked on what `options` say.

        `dropped`: headers that are not. `NotPlainError` for a path that cannot be.
        """
        path = raw_path(scope)
        is_sent = has_body(scope)
        request = httpx.Request(
            scope["method"],
            self._at(path, scope.get("query_string", b"")),
            stream=Body(caller, None) if is_sent else httpx.ByteStream(b""),
            extensions={"timeout": self._timeout, OPTIONS: options, _CALLER: caller},
        )
        claim = self._claim(request)
        is_read = claim is not None and request.method == "POST"
        told = headers.to_upstream(scope["headers"], dropped, is_read=is_read)
        if is_sent and all(name != b"content-length" for name, _ in told):
            told.append((b"transfer-encoding", b"chunked"))
        request.headers = httpx.Headers([(b"host", self._host), *told])
        if not is_sent:
            caller.watch()
        elif claim is not None and is_read and is_readable(request, claim):
            caller.request = request
            request.stream = Body(caller, BODY_BYTES_MAX)
        return Passed(request, _speaks(claim))

    def _claim(self, request: httpx.Request) -> Claim | None:
        host, port, path = address(request)
        claim, plain = self._guard.claim(host, port, path), self._guard.claim(host, port, _plain(path))
        if plain is not None and plain.is_sure and plain != claim:
            raise NotPlainError
        return claim

    async def aclose(self) -> None:
        """Close all connections."""
        await self.transport.aclose()


class _Sending(httpx.AsyncBaseTransport):
    """The last step: from here on a call may be billed."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        caller: Caller = request.extensions[_CALLER]
        caller.is_at_work = caller.request is request
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


def endpoint_of(url: str) -> str:
    """An API's address as `Guard(endpoints=…)` takes it: with the path of native tasks. ConfigurationError."""
    found = _parse(url)
    return str(found.copy_with(raw_path=(_base(url) + VERSION).encode("ascii")))


def _base(url: str) -> str:
    """What comes before `/v1` in the path of an API's address."""
    return _parse(url).raw_path.decode("ascii").rstrip("/").removesuffix(VERSION)


def _speaks(claim: Claim | None) -> Known:
    if claim is None or not claim.is_sure:
        return NATIVE
    return claim.dialects[0] if claim.dialects else claim.unmetered or NATIVE


def _plain(path: str) -> str:
    """A path as a careless server reads it.

    Case, escapes (of escapes, too), parameters, empty and dotted segments are nothing to it, and it ends where a query,
    a fragment or a text of C would.
    """
    found: list[str] = []
    for _ in range(_ESCAPED_MAX):
        path = unquote(path, errors="replace")
    for segment in _END.split(path, maxsplit=1)[0].replace("\\", "/").casefold().split("/"):
        name = segment.partition(";")[0].strip()
        if name == "..":
            found = found[:-1]
        elif name not in ("", "."):
            found.append(name)
    return "/" + "/".join(found)


def _parse(url: str) -> httpx.URL:
    try:
        parts = urlsplit(url)
        found = httpx.URL(url)
    except (ValueError, httpx.InvalidURL) as error:
        raise ConfigurationError(f"upstream: {url!r}: {error}") from None
    if parts.scheme not in ("http", "https") or not found.host or parts.query or parts.fragment or found.userinfo:
        raise ConfigurationError(f"upstream: {url!r} is not an address such as https://api.runware.ai")
    return found
