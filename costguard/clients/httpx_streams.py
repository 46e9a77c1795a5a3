"""Streams of httpx and httpx2, passed on as they come while the guard listens."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

from costguard.clients.guarding import Guarding
from costguard.clients.httpx_messages import (
    forget_encoding,
    module_of,
    read_already,
    replace_content,
    stream_decoder,
)
from costguard.exchange.effects import Interrupted, Listen


def listen(response: Any, effect: Listen, guard: Guarding) -> bytes | None:
    """See `Listen`: for a synchronous client's response."""
    return _listen(response, effect, guard, "SyncByteStream", _SyncListening)


def alisten(response: Any, effect: Listen, guard: Guarding) -> bytes | None:
    """See `Listen`: for an asynchronous client's response."""
    return _listen(response, effect, guard, "AsyncByteStream", _AsyncListening)


def _listen(response: Any, effect: Listen, guard: Guarding, base: str, listening: type) -> bytes | None:
    whole = read_already(response)
    if whole is None:
        kind = _stream_class(getattr(module_of(response), base), listening)
        response.stream = kind(response, effect, guard)
    elif effect.sieve is not None:
        replace_content(response, effect.sieve.feed(whole) + effect.sieve.end())
    return whole


class _Listening:
    """A response's stream, passed on chunk by chunk as it comes; the guard listens on the side.

    With a sieve the caller gets decoded bytes, and a response that says so.
    """

    def __init__(self, response: Any, effect: Listen, guard: Guarding) -> None:
        self._inner = response.stream
        self._decoder = stream_decoder(response)
        self._hearing = effect.hearing
        self._guard = guard
        self._cut: str | None = "closed early"
        self._is_over = False
        is_able = self._decoder is None or self._decoder.is_able
        if not is_able:
            self._hearing.garble("the stream's encoding is none that this client can read")
        self._sieve = effect.sieve if is_able else None
        if self._sieve is not None:
            forget_encoding(response)

    def _hear(self, chunk: bytes) -> bytes:
        """Tell the guard of a chunk; what the caller is to have."""
        if self._decoder is None:
            self._hearing.feed(chunk)
            return chunk if self._sieve is None else self._sieve.feed(chunk)
        try:
            plain = self._decoder.decode(chunk)
        except Exception:  # each encoding has errors of its own
            self._hearing.garble("the stream's encoding cannot be read")
            if self._sieve is not None:
                raise
        else:
            self._hearing.feed(plain)
            if self._sieve is not None:
                return self._sieve.feed(plain)
        return chunk

    def _rest(self) -> bytes:
        """What the caller is still to have when the stream is over."""
        if self._sieve is None:
            return b""
        plain = b"" if self._decoder is None else self._decoder.flush()
        self._hearing.feed(plain)
        return self._sieve.feed(plain) + self._sieve.end()

    def __del__(self) -> None:
        if not getattr(self, "_is_over", True):
            # No thread may block here: whoever drops the last reference may hold any lock.
            hearing = self._hearing
            self._guard.later(lambda: hearing.end("dropped without being closed"))


class _SyncListening(_Listening):
    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._inner:
                passed = self._hear(chunk)
                if passed or self._sieve is None:
                    yield passed
            if rest := self._rest():
                yield rest
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
            self._hearing.end(self._cut)


class _AsyncListening(_Listening):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._inner:
                passed = self._hear(chunk)
                if passed or self._sieve is None:
                    yield passed
            if rest := self._rest():
                yield rest
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
            hearing, cut = self._hearing, self._cut
            try:
                await self._guard.offload(lambda: hearing.ending(cut))
            except Interrupted as interrupted:
                raise interrupted.cancellation from None


@functools.cache
def _stream_class(base: type, listening: type) -> Any:
    """Httpx's clients insist on streams of their own classes."""
    return type("GuardedStream", (listening, base), {})
