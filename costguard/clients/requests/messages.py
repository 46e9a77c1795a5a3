"""Requests and responses of the requests library: read, changed, and passed on."""

from __future__ import annotations

import io
import itertools
import ssl
from collections.abc import Iterable
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.exceptions import ChunkedEncodingError, ConnectionError, ConnectTimeout, InvalidURL, SSLError  # noqa: A004
from urllib3 import HTTPResponse
from urllib3.exceptions import (
    ClosedPoolError,
    ConnectTimeoutError,
    MaxRetryError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
)
from urllib3.exceptions import SSLError as Urllib3SSLError

from costguard.clients.encodings import plain_body, plain_response
from costguard.clients.guarding import begins_as_json, is_json
from costguard.exchange.effects import Claim
from costguard.exchange.endpoints import normal_host

_PEEK_BYTES = 64
_OF_THE_BODY = ("Content-Length", "Transfer-Encoding", "Content-Encoding")
"""Headers that speak of the body that was there before."""


def address(request: requests.PreparedRequest) -> tuple[str, int | None, str]:
    """Host, port (None for the scheme's own) and path of a request."""
    return _address(request.url or "")


@lru_cache(maxsize=1000)
def _address(url: str) -> tuple[str, int | None, str]:
    parts = urlsplit(url)
    port = None if parts.port == {"https": 443, "http": 80}.get(parts.scheme) else parts.port
    return normal_host(parts.hostname or ""), port, parts.path or "/"


def header(message: Any, name: str) -> str:
    """A header's value up to its parameters, in lower case; "" if it is not there."""
    value = message.headers.get(name) or ""
    return str(value.decode("latin-1") if isinstance(value, bytes) else value).partition(";")[0].strip().lower()


def encoding(message: Any) -> str:
    """Its Content-Encoding, in lower case; "" if there is none."""
    value = message.headers.get("Content-Encoding") or ""
    return str(value.decode("latin-1") if isinstance(value, bytes) else value).strip().lower()


def httpx() -> Any:
    """Whose decoders undo what is encoded; not needed for most calls."""
    import httpx as library

    return library


def passes(request: requests.PreparedRequest, claim: Claim) -> bool:
    """True for a request whose body is in memory, plain and of no wire."""
    body: Any = request.body
    plain = body.encode() if isinstance(body, str) else body
    return isinstance(plain, bytes) and claim.passes(plain) and "Content-Encoding" not in request.headers


class RequestBody:
    """The body of a request that may be ours, which is text, bytes, a file or an iterator."""

    def __init__(self, request: requests.PreparedRequest, claim: Claim) -> None:
        self._request: Any = request
        self._claim = claim
        self._streamed: bytes | None = None

    def read(self) -> bytes | None:
        """The decoded body; None if it is a stream that is not ours to read, which it then still is."""
        body = self._whole(self._request.body)
        found = encoding(self._request)
        return plain_body(httpx(), found, body, self._claim) if body and found else body

    def _whole(self, body: Any) -> bytes | None:
        if body is None:
            return b""
        if isinstance(body, str):
            return body.encode()
        if isinstance(body, (bytes, bytearray, memoryview)):
            return bytes(body)
        if not self._claim.is_sure and not is_json(header(self._request, "Content-Type")):
            return None
        return self._file(body) if hasattr(body, "read") else self._iterated(body)

    def _file(self, file: Any) -> bytes | None:
        """A file is read and wound back; one that cannot be is replaced by its content."""
        try:
            start = file.tell()
            file.seek(start)
        except (OSError, AttributeError, ValueError):
            self._streamed = _as_bytes(file.read())
            self._request.body = io.BytesIO(self._streamed)
            return self._streamed
        try:
            beginning = _as_bytes(file.read(_PEEK_BYTES))
            if self._may_be_tasks(beginning):
                self._streamed = beginning + _as_bytes(file.read())
            return self._streamed
        finally:
            file.seek(start)

    def _iterated(self, body: Iterable[Any]) -> bytes | None:
        """An iterator is read, and replaced by the same pieces."""
        rest = iter(body)
        pieces: list[bytes] = []
        for piece in rest:
            pieces.append(_as_bytes(piece))
            if len(pieces) == 1 and not self._may_be_tasks(pieces[0]):
                self._request.body = itertools.chain(pieces, rest)
                return None
        self._request.body = iter(pieces)
        self._streamed = b"".join(pieces)
        return self._streamed

    def _may_be_tasks(self, beginning: bytes) -> bool:
        """False for a stream that is JSON by no sign: a large upload is then not read into memory."""
        return self._claim.is_sure or bool(encoding(self._request)) or begins_as_json(beginning)

    def replace(self, body: bytes | None, is_ours: bool) -> None:
        """Send `body` instead, in place: a redirect of it then repeats the same tasks.

        None leaves it as it is; but what comes from a file or an iterator, and is ours, is kept to be sent again.
        """
        if body is not None:
            for name in _OF_THE_BODY:
                self._request.headers.pop(name, None)
            self._request.headers["Content-Length"] = str(len(body))
        elif is_ours:
            body = self._streamed
        if body is not None:
            self._request.body = body
            self._request._body_position = None  # there is nothing to wind back any more


def _as_bytes(piece: Any) -> bytes:
    return piece.encode() if isinstance(piece, str) else bytes(piece)


def another(request: requests.PreparedRequest, body: bytes) -> requests.PreparedRequest:
    """A request like `request`, to the same place with the same key, that sends `body`."""
    other: Any = request.copy()
    for name in (*_OF_THE_BODY, "Accept"):
        other.headers.pop(name, None)
    other.headers["Content-Type"] = "application/json"
    other.headers["Content-Length"] = str(len(body))
    other.body = body
    return other  # type: ignore[no-any-return]


def is_never_sent(error: Exception) -> bool:
    """True if an error proves that the request never reached the provider."""
    if isinstance(error, (ConnectTimeout, InvalidURL)) or is_never_connected(error):
        return True
    return isinstance(error, requests.RequestException) and any(
        isinstance(cause, Exception) and is_never_sent(cause) for cause in error.args
    )


def is_never_connected(error: object) -> bool:
    """As `is_never_sent`, for what urllib3 raises."""
    if isinstance(error, MaxRetryError):
        return is_never_connected(error.reason)
    if isinstance(error, Urllib3SSLError):  # a handshake that failed; any other may have come later
        return any(isinstance(cause, ssl.SSLCertVerificationError) for cause in error.args)
    if isinstance(error, ProxyError):
        return _is_before_the_proxy(error)
    return isinstance(error, (ConnectTimeoutError, NewConnectionError, ClosedPoolError))


def _is_before_the_proxy(error: ProxyError) -> bool:
    """True for a proxy that could not be reached, or would not let it through: one that broke later may be an error of
    the proxy's, too.
    """
    cause = error.args[1] if len(error.args) > 1 else None
    return is_never_connected(cause) or str(cause).startswith("Tunnel connection failed")


def read_already(response: Any) -> bytes | None:
    """The decoded body of a response that was read before, or made whole; None if it is still to be read."""
    if response._content is False and response.raw is not None:
        return None
    return response.content or b""


def buffered(response: Any) -> bytes:
    """Read a response, and let the caller read it again; returns the decoded body. Raises as requests does."""
    already = read_already(response)
    if already is not None:
        return already
    inner = response.raw
    if not hasattr(inner, "stream"):  # an adapter of the caller's own: requests reads it as it is
        raw = inner.read()
        inner.close()
        response.raw = io.BytesIO(raw)
        return bytes(raw)
    try:
        raw = b"".join(inner.stream(None, decode_content=False))
    except ProtocolError as error:
        raise ChunkedEncodingError(error) from None
    except ReadTimeoutError as error:
        raise ConnectionError(error) from None
    except Urllib3SSLError as error:
        raise SSLError(error) from None
    finally:
        inner.close()
        inner.release_conn()
    response.raw = HTTPResponse(
        body=_Arrived(raw),
        headers=inner.headers,
        status=inner.status,
        version=inner.version,
        reason=inner.reason,
        preload_content=False,
        decode_content=False,
        original_response=getattr(inner, "_original_response", None),  # cookies are read from it
        retries=inner.retries,
        request_method="POST",
        request_url=response.url,
    )
    found = encoding(response)
    return plain_response(httpx(), found, raw) if found else raw


class _Arrived(io.BytesIO):
    """A body that is all there, and closed when it was read to its end, as one from a connection is."""

    def read(self, amt: int | None = -1, /) -> bytes:
        found = super().read(amt)
        if self.tell() == len(self.getbuffer()):
            self.close()
        return found
