"""aiohttp and requests over real connections, with the face of `conftest.AnyClient`.

What stands for the provider are the transports that tests make for httpx: a server on a loopback port asks them.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import httpx
import requests
from aiohttp.abc import AbstractResolver
from requests.adapters import HTTPAdapter

from costguard import Guard

LOOPBACK = ("aiohttp.ClientSession", "requests.Session")

_ERRORS: dict[str, dict[str, Any]] = {
    "aiohttp.ClientSession": {
        "ConnectError": aiohttp.ClientConnectorError,
        "ConnectTimeout": aiohttp.ConnectionTimeoutError,
        "PoolTimeout": aiohttp.ConnectionTimeoutError,
        "ProxyError": aiohttp.ClientHttpProxyError,
        "ReadTimeout": aiohttp.SocketTimeoutError,
        "DecodingError": aiohttp.ClientPayloadError,
    },
    "requests.Session": {
        "ConnectError": requests.ConnectionError,
        "ConnectTimeout": requests.ConnectTimeout,
        "ProxyError": requests.exceptions.ProxyError,
        "ReadTimeout": requests.ReadTimeout,
        "DecodingError": requests.exceptions.ContentDecodingError,
    },
}
_CUT: dict[str, Any] = {
    "aiohttp.ClientSession": (aiohttp.ClientPayloadError, aiohttp.ClientOSError, aiohttp.ServerDisconnectedError),
    "requests.Session": (requests.exceptions.ChunkedEncodingError, requests.ConnectionError),
}
"""A connection that broke, whenever it did."""


class Bridge:
    """A server on a loopback port, which answers as an httpx transport does; where that raises, it hangs up."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.bridge = self  # type: ignore[attr-defined]
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Echo:
    """Answers as httpx's transports do, and keeps what came."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """200 with an empty object and a cookie."""
        self.requests.append(request)
        return httpx.Response(200, json={}, headers={"set-cookie": "seen=1"})


def flush(guard: Guard) -> None:
    """Wait for what a guard was to book later."""
    done = threading.Event()
    guard.later(done.set)
    assert done.wait(60)


def in_session(guard: Guard | None, use: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
    """What `use` gives, of a session of aiohttp of its own under `guard`."""

    async def main() -> Any:
        middlewares = options.pop("middlewares", () if guard is None else (guard.aiohttp_middleware,))
        async with aiohttp.ClientSession(middlewares=middlewares, **options) as session:
            return await use(session)

    try:
        return asyncio.run(main())
    finally:
        if guard is not None:
            flush(guard)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Any

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Quiet."""

    def do_POST(self) -> None:
        headers = [(name.encode(), value.encode("latin-1")) for name, value in self.headers.items()]
        url = self.path if "//" in self.path else f"http://{self.headers['Host']}{self.path}"
        request = httpx.Request(self.command, url, headers=headers, content=self._body())
        request.headers = httpx.Headers(headers)
        try:
            response = self.server.bridge.transport.handle_request(request)
        except Exception:
            self.close_connection = True
            return
        try:
            self._answer(response)
        except Exception:
            self.close_connection = True
        finally:
            response.close()

    do_GET = do_PUT = do_POST

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _answer(self, response: httpx.Response) -> None:
        self.send_response(response.status_code)
        for name, value in response.headers.raw:
            if name.lower() != b"transfer-encoding":
                self.send_header(name.decode(), value.decode("latin-1"))
        has_body = response.status_code not in (204, 304)
        is_chunked = has_body and "content-length" not in response.headers
        if is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        stream: Any = response.stream
        for chunk in stream:  # as it is, also where it was read already
            if chunk and has_body:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if is_chunked else chunk)
        if is_chunked:
            self.wfile.write(b"0\r\n\r\n")


class _ToBridge(HTTPAdapter):
    """Whatever host a request names, it goes to the bridge, if there is one."""

    def __init__(self, port: int | None, **options: Any) -> None:
        self._port = port
        super().__init__(**options)

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        if self._port is None:
            return super().get_connection_with_tls_context(*args, **options)
        return self.poolmanager.connection_from_host("127.0.0.1", self._port, "http")

    def get_connection(self, *args: Any, **options: Any) -> Any:
        """What requests before 2.32 asks."""
        if self._port is None:
            return super().get_connection(*args, **options)
        return self.poolmanager.connection_from_host("127.0.0.1", self._port, "http")


class _Resolver(AbstractResolver):
    """The same for aiohttp."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def resolve(self, host: str, port: int = 0, family: Any = 0) -> Any:
        return [
            {"hostname": host, "host": "127.0.0.1", "port": self._port, "family": 2, "proto": 6, "flags": 0},
        ]

    async def close(self) -> None:
        """Nothing to close."""


class LoopClient:
    """A session of aiohttp or requests, called as if it were httpx's; `bare` is the session itself."""

    def __init__(
        self,
        kind: str,
        *,
        base_url: str = "https://api.runware.ai",
        transport: Any = None,
        timeout: float | None = 30,
        proxy: str | None = None,
        trust_env: bool = False,
        max_retries: Any = 0,
    ) -> None:
        self.kind = kind
        self.is_async = kind.startswith("aiohttp")
        self._timeout = timeout
        self._proxy = proxy
        self._bridge = None if transport is None else Bridge(transport)
        self._base_url = base_url
        self._runner = asyncio.Runner() if self.is_async else None
        self._guard: Guard | None = None
        self.bare: Any
        if self.is_async:
            self.bare = self.call(self._session)
            return
        self.bare = requests.Session()
        self.bare.trust_env = False
        if proxy is not None:
            self.bare.proxies = {"http": proxy, "https": proxy}
        for prefix in ("http://", "https://"):
            self.bare.mount(
                prefix, _ToBridge(None if self._bridge is None else self._bridge.port, max_retries=max_retries)
            )

    async def _session(self) -> Any:
        connector = aiohttp.TCPConnector(resolver=None if self._bridge is None else _Resolver(self._bridge.port))
        limit = aiohttp.ClientTimeout(sock_connect=self._timeout, sock_read=self._timeout)
        middlewares = () if self._guard is None else (self._guard.aiohttp_middleware,)
        return aiohttp.ClientSession(connector=connector, timeout=limit, proxy=self._proxy, middlewares=middlewares)

    def put_under(self, guard: Guard) -> None:
        """Put `guard` into the session."""
        if not self.is_async:
            guard.wrap(self.bare)
            return
        self.call(self.bare.close)
        self._guard = guard
        self.bare = self.call(self._session)

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """As `AnyClient.call`."""
        result = function(*args, **options)
        if self._runner is None:
            return result
        return self._runner.run(result, context=contextvars.copy_context())

    def url(self, url: str) -> str:
        """Where a call goes: the bridge knows no TLS."""
        full = url if urlsplit(url).scheme else f"{self._base_url}{url}"
        return full if self._bridge is None else full.replace("https://", "http://", 1)

    def request(self, method: str, url: str = "/v1", **options: Any) -> Any:
        """One call, with the options of httpx that the tests use; its answer, read."""
        given = dict(options)
        given["allow_redirects"] = given.pop("follow_redirects", False)
        if "content" in given:
            given["data"] = given.pop("content")
        if self.is_async:
            return self.call(self._arequest, method, self.url(url), given)
        response = self.bare.request(method, self.url(url), timeout=self._timeout, **given)
        return _face(response, response.content, response.status_code)

    async def _arequest(self, method: str, url: str, options: dict[str, Any]) -> Any:
        async with self.bare.request(method, url, **options) as response:
            return _face(response, await response.read(), response.status)

    def post(self, *tasks: Any, url: str = "/v1", **options: Any) -> Any:
        """POST tasks as a JSON array, or what `options` say instead."""
        if tasks:
            options["json"] = list(tasks)
        return self.request("POST", url, **options)

    def read_stream(self, url: str, body: Any, *, chunks: int | None, on_chunk: Callable[[bytes], None]) -> Any:
        """See `roads.read_stream`."""
        if self.is_async:
            try:
                return self.call(self._aread_stream, self.url(url), body, chunks, on_chunk)
            finally:
                self._wait_for_the_books()
        with self.bare.post(self.url(url), json=body, stream=True, timeout=self._timeout) as response:
            for n, chunk in enumerate(response.iter_content(None), start=1):
                on_chunk(chunk)
                if n == chunks:
                    break
        return _face(response, b"", response.status_code)

    async def _aread_stream(self, url: str, body: Any, chunks: int | None, on_chunk: Callable[[bytes], None]) -> Any:
        async with self.bare.post(url, json=body) as response:
            n = 0
            async for chunk in response.content.iter_any():
                on_chunk(chunk)
                n += 1
                if n == chunks:
                    break
        return _face(response, b"", response.status)

    def _wait_for_the_books(self) -> None:
        """What a released response of aiohttp comes to is written behind its back."""
        if self._guard is not None and not self._guard.is_closed:
            flush(self._guard)

    def close(self) -> None:
        """Close the session, its event loop and the bridge."""
        with ExitStack() as ending:  # all of it, whatever fails: what is left would fail another test
            if self._bridge is not None:
                ending.callback(self._bridge.close)
                self._bridge = None
            if self._runner is None:
                self.bare.close()
                return
            ending.callback(self._runner.close)
            if not self.bare.closed:
                self.call(self.bare.close)


def _face(response: Any, content: bytes, status: int) -> Any:
    def read_json() -> Any:
        return httpx.Response(status, content=content).json()

    receipt = getattr(response, "costguard", None)
    extensions = {} if receipt is None else {"costguard": receipt}
    return SimpleNamespace(
        status_code=status, content=content, json=read_json, headers=response.headers, extensions=extensions,
        history=response.history, bare=response,
    )  # fmt: skip


def error_of(kind: str, name: str) -> Any:
    """The exceptions of a kind of session that stand for httpx's of this name."""
    return _ERRORS[kind].get(name, _CUT[kind])
