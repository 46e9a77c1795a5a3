"""The bodies of httpx's and httpx2's requests: read to see whose they are; what is not ours is put back as it was."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from costguard.clients import encodings
from costguard.clients.guarding import begins_as_json, is_copy
from costguard.clients.httpx.messages import is_readable, module_of, replace_body, request_encoding
from costguard.clients.httpx.streams import stream_class
from costguard.exchange.effects import Claim, Send


class _Body:
    """The body of a request that may be ours. `read` is in it what it is in a port; then comes `replace`."""

    def __init__(self, guard: Any, request: Any, claim: Claim) -> None:
        self._guard = guard
        self._request = request
        self._claim = claim
        self._streamed: tuple[list[bytes], Any] | None = None
        self.plain: bytes | None = None
        """What was read, decoded."""

    def _whole(self) -> bytes | None:
        """The body as it is to be sent, if all of it is in memory."""
        content: bytes | None = getattr(self._request, "_content", None)
        if content is None and isinstance(self._request.stream, module_of(self._request).ByteStream):
            content = b"".join(self._request.stream)  # a redirected request has its bytes there alone
        return content

    def _may_be_tasks(self, beginning: bytes) -> bool:
        return self._claim.is_sure or bool(request_encoding(self._request)) or begins_as_json(beginning)

    def _taken(self, body: bytes) -> bytes | None:
        encoding = request_encoding(self._request)
        if encoding:
            body = encodings.plain_body(module_of(self._request), encoding, body, self._claim)
        if is_copy(self._guard, self._request, body):
            return None
        self.plain = body
        return body

    def _took(self, pieces: list[bytes]) -> bytes | None:
        """Keep a stream that was read to its end, so that it can be sent again; `replace` may undo that."""
        self._streamed = pieces, self._request.stream
        body = b"".join(pieces)
        self._request._content = body
        self._request.stream = module_of(self._request).ByteStream(body)
        return self._taken(body)

    def _put_back(self, pieces: list[bytes], rest: Any, inner: Any, base: str, kind: type) -> None:
        self._request.stream = stream_class(getattr(module_of(self._request), base), kind)(pieces, rest, inner)

    def _replace(self, effect: Send, base: str, kind: type) -> None:
        replace_body(self._request, effect.body)
        if self._streamed is not None and not (effect.receipt is not None and effect.receipt.tasks):
            del self._request._content
            self._put_back(*_without_rest(self._streamed), base, kind)
        self._streamed = None


def _without_rest(streamed: tuple[list[bytes], Any]) -> tuple[list[bytes], None, Any]:
    return streamed[0], None, streamed[1]


class SyncBody(_Body):
    """Of a synchronous client's request."""

    def read(self) -> bytes | None:
        """The decoded body; None if it is a stream that is not ours to read, which it then still is."""
        whole = self._whole()
        if whole is not None:
            return self._taken(whole)
        if not is_readable(self._request, self._claim):
            return None
        inner, pieces, is_seen = self._request.stream, [], False
        rest = iter(inner)
        for piece in rest:
            pieces.append(piece)
            if not is_seen and piece.strip():
                is_seen = True
                if not self._may_be_tasks(piece):
                    self._put_back(pieces, rest, inner, "SyncByteStream", _SyncAgain)
                    return None
        return self._took(pieces)

    def replace(self, effect: Send) -> None:
        """Give the request the body that it is to be sent with; what is not ours is a stream again if it was one."""
        self._replace(effect, "SyncByteStream", _SyncAgain)


class AsyncBody(_Body):
    """Of an asynchronous client's request."""

    async def read(self) -> bytes | None:
        """As `SyncBody.read`."""
        whole = self._whole()
        if whole is not None:
            return self._taken(whole)
        if not is_readable(self._request, self._claim):
            return None
        inner, pieces, is_seen = self._request.stream, [], False
        rest = aiter(inner)
        async for piece in rest:
            pieces.append(piece)
            if not is_seen and piece.strip():
                is_seen = True
                if not self._may_be_tasks(piece):
                    self._put_back(pieces, rest, inner, "AsyncByteStream", _AsyncAgain)
                    return None
        return self._took(pieces)

    def replace(self, effect: Send) -> None:
        """As `SyncBody.replace`."""
        self._replace(effect, "AsyncByteStream", _AsyncAgain)


class _Again:
    """A request's stream of which some was read before: that, then the rest; later it is what it always was."""

    def __init__(self, pieces: list[bytes], rest: Any, inner: Any) -> None:
        self._pieces: list[bytes] | None = pieces
        self._rest = rest
        self._inner = inner


class _SyncAgain(_Again):
    def __iter__(self) -> Iterator[bytes]:
        pieces, self._pieces = self._pieces, None
        if pieces is None:
            yield from self._inner
            return
        yield from pieces
        if self._rest is not None:
            yield from self._rest

    def close(self) -> None:
        """Close the inner one."""
        self._inner.close()


class _AsyncAgain(_Again):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        pieces, self._pieces = self._pieces, None
        if pieces is None:
            async for piece in self._inner:
                yield piece
            return
        for piece in pieces:
            yield piece
        if self._rest is not None:
            async for piece in self._rest:
                yield piece

    async def aclose(self) -> None:
        """Close the inner one."""
        await self._inner.aclose()
