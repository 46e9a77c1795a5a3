"""In-memory transports over a stand-in, for httpx and httpx2 alike."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from costguard.testing.records import Provider, Reply


class _Exchange:
    """What both transports share: module `module` (named, so that nothing is imported early) and stand-in."""

    def __init__(self, standin: Provider, module: str) -> None:
        self._standin = standin
        self._http: Any = importlib.import_module(module)

    def _ask(self, request: Any, body: bytes) -> Reply:
        reply = self._standin.handle(request.method, request.url.path, dict(request.headers), body)
        if reply.fault == "drop":
            raise self._http.ReadError("the connection was dropped", request=request)
        if reply.fault == "hang" and not reply.chunks:
            raise self._http.ReadTimeout("no answer came in time", request=request)
        return reply

    def _pieces(self, reply: Reply, request: Any) -> Iterator[bytes]:
        yield from reply.chunks
        if reply.fault == "cut":
            raise self._http.RemoteProtocolError("the peer closed before the body was complete", request=request)
        if reply.fault == "hang":
            raise self._http.ReadTimeout("the stream fell silent", request=request)


class Transport(_Exchange):
    """A transport for `Client`; see `StandIn.transport`."""

    def handle_request(self, request: Any) -> Any:
        """Answer a request of the module's own kind."""
        reply = self._ask(request, request.read())
        content = self._pieces(reply, request)
        return self._http.Response(reply.status, headers=reply.headers, content=content, request=request)

    def close(self) -> None:
        """Nothing to close: the stand-in outlives its transports."""

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class AsyncTransport(_Exchange):
    """A transport for `AsyncClient`; see `StandIn.async_transport`."""

    async def handle_async_request(self, request: Any) -> Any:
        """Answer a request of the module's own kind."""
        reply = self._ask(request, await request.aread())
        content = _awaited(self._pieces(reply, request))
        return self._http.Response(reply.status, headers=reply.headers, content=content, request=request)

    async def aclose(self) -> None:
        """Nothing to close: the stand-in outlives its transports."""

    async def __aenter__(self) -> AsyncTransport:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()


async def _awaited(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
