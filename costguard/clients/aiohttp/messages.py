"""Requests and responses of aiohttp: read, changed, and passed on."""

from __future__ import annotations

import copy
import io
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from aiohttp.payload import AsyncIterablePayload, BytesIOPayload, BytesPayload, IOBasePayload

from costguard.clients import encodings
from costguard.clients.encodings import plain_response
from costguard.clients.guarding import begins_as_json, is_json
from costguard.exchange.effects import Claim
from costguard.exchange.endpoints import normal_host

_NEVER_SENT = (
    aiohttp.ClientConnectorError,
    aiohttp.ClientHttpProxyError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.InvalidURL,
    aiohttp.ServerFingerprintMismatch,
)
_OF_THE_BODY = ("Content-Length", "Transfer-Encoding", "Content-Encoding", "Content-Type", "Accept", "Expect")
"""Headers that another request to the same place has of its own."""


def address(request: Any) -> tuple[str, int | None, str]:
    """Host, port (None for the scheme's own) and path of a request."""
    url = request.url
    return normal_host(url.raw_host or ""), None if url.is_default_port() else url.port, url.raw_path


def media_type(message: Any) -> str:
    """Its Content-Type without parameters, in lower case; "" if there is none."""
    return str(message.headers.get("Content-Type", "")).partition(";")[0].strip().lower()


def _encoding(message: Any) -> str:
    return ", ".join(message.headers.getall("Content-Encoding", ())).strip().lower()


def httpx() -> Any:
    """Whose decoders undo what is encoded; not needed for most calls."""
    import httpx as library

    return library


class _Changed(BytesPayload):
    """A body of ours: a redirect passes it on, beside the headers that were meant for the first one."""


def passes(request: Any, claim: Claim) -> bool:
    """True for a request whose body is in memory, plain and of no wire."""
    payload = request.body
    return (
        isinstance(payload, BytesPayload)
        and not isinstance(payload, _Changed)
        and claim.passes(payload._value)
        and "Content-Encoding" not in request.headers
    )


class RequestBody:
    """The body of a request that may be ours; one that is not is a stream again when it is sent, if it was one."""

    def __init__(self, request: Any, claim: Claim) -> None:
        self._request = request
        self._claim = claim
        self._streamed: list[bytes] | None = None
        self._encoding = "" if request.compress else _encoding(request)  # what aiohttp compresses, it does when sending

    async def read(self) -> bytes | None:
        """The decoded body; None if it is a stream that is not ours to read, which it then still is."""
        payload = self._request.body
        if isinstance(payload, BytesPayload):
            body = bytes(payload._value)
        elif not payload:
            body = b""
        elif not self._claim.is_sure and not isinstance(payload, BytesIOPayload) and not self._says_json:
            return None
        elif isinstance(payload, AsyncIterablePayload) and getattr(payload, "_iter", None) is not None:
            streamed = await self._iterated(payload)
            if streamed is None:
                return None
            body = streamed
        else:
            body = await payload.as_bytes()
            if isinstance(payload, IOBasePayload) and payload.consumed:  # a file that cannot be wound back
                payload._value = io.BytesIO(body)
        if isinstance(payload, _Changed):
            await _give(self._request, body)  # the headers are those of the first one again
            return body
        return encodings.plain_body(httpx(), self._encoding, body, self._claim) if self._encoding else body

    @property
    def _says_json(self) -> bool:
        return is_json(media_type(self._request))

    async def _iterated(self, payload: Any) -> bytes | None:
        """An asynchronous iterator is read, as `as_bytes` would; None if it shows soon that it is not ours."""
        rest, pieces, is_seen = payload._iter, [], False
        async for piece in rest:
            pieces.append(piece)
            if not is_seen and piece.strip():
                is_seen = True
                if not self._claim.is_sure and not self._encoding and not begins_as_json(piece):
                    payload._iter = _again(pieces, rest)
                    return None
        payload._iter, payload._cached_chunks, self._streamed = None, pieces, pieces
        return b"".join(pieces)

    async def replace(self, body: bytes | None, is_ours: bool) -> None:
        """Send `body` instead, in place: a redirect or a retry of it then repeats the same tasks.

        None leaves it as it is; but what comes from an iterator, and is ours, is kept to be sent again.
        """
        if body is not None:
            await _give(self._request, body)
        elif self._streamed is not None and not is_ours:
            payload = self._request.body
            payload._iter, payload._cached_chunks = _again(self._streamed), None
        self._streamed = None


async def _again(pieces: list[bytes], rest: AsyncIterator[bytes] | None = None) -> AsyncIterator[bytes]:
    """What was read of an iterator, then the rest of it."""
    for piece in pieces:
        yield piece
    if rest is not None:
        async for piece in rest:
            yield piece


async def _give(request: Any, body: bytes) -> None:
    request.headers.pop("Content-Encoding", None)
    request.headers.pop("Transfer-Encoding", None)
    request.compress = request.chunked = None  # it is whole, and its length known
    content_type = request.headers.get("Content-Type", "application/json")
    await request.update_body(_Changed(body, content_type=content_type))


def is_never_sent(error: Exception) -> bool:
    """True if an error proves that the request never reached the provider."""
    return isinstance(error, _NEVER_SENT)


async def another(request: Any, body: bytes) -> Any:
    """A request like `request`, to the same place with the same key and by the same way, that sends `body`."""
    other = copy.copy(request)
    other.headers = request.headers.copy()
    for name in _OF_THE_BODY:
        other.headers.pop(name, None)
    other._body = other._continue = None  # those of the other one stay open
    other.compress = other.chunked = None
    await other.update_body(BytesPayload(body, content_type="application/json"))
    other.headers["Accept"] = "*/*"
    return other


class _Arrived:
    """In place of a connection, for a body that is all there."""

    connected = True
    _reading_paused = False  # aiohttp's readers before 3.13 look at it

    def pause_reading(self, *_: Any, **__: Any) -> None:
        """Nothing more comes."""

    def resume_reading(self, *_: Any, **__: Any) -> None:
        """Nothing more comes."""


def encoding_left(request: Any, response: Any) -> str:
    """The Content-Encoding that the session leaves to its caller to undo; "" if none."""
    return "" if request.session.auto_decompress else _encoding_of(response)


def _encoding_of(response: Any) -> str:
    encoding = _encoding(response)
    return "" if encoding == "identity" else encoding


def read_already(response: Any) -> bytes | None:
    """The decoded body of a response that a middleware behind this one has read; None if it is still to be read."""
    return None if response._body is None else _plain(response, response._body)


async def buffered(request: Any, response: Any) -> bytes:
    """Read a response, and let the caller read it again; returns the decoded body."""
    already = read_already(response)
    if already is not None:
        return already
    raw: bytes = await response.content.read()
    protocol: Any = _Arrived()
    content = aiohttp.StreamReader(protocol, len(raw) + 1, loop=request.loop)
    content.feed_data(raw)
    content.feed_eof()
    response.content = content
    return _plain(response, raw)


def _plain(response: Any, raw: bytes) -> bytes:
    """A body without the encoding that it may still have: each call can tell aiohttp to undo it or not."""
    encoding = _encoding_of(response)
    if encoding:
        try:
            raw.decode()
        except UnicodeDecodeError:  # nothing that is compressed is UTF-8, and JSON always is
            return plain_response(httpx(), encoding, raw)
    return raw
