"""Streams of httpx and httpx2, passed on as they come while the guard listens."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator
from typing import Any

from costguard.clients.guarding import Guarding
from costguard.clients.httpx.messages import (
    forget_encoding,
    module_of,
    read_already,
    replace_content,
    stream_decoder,
)
from costguard.clients.listening import Ear
from costguard.exchange.effects import Listen


def listen(response: Any, effect: Listen, guard: Guarding) -> bytes | None:
    """See `Listen`: for a synchronous client's response."""
    return _listen(response, effect, guard, "SyncByteStream", _SyncListening)


def alisten(response: Any, effect: Listen, guard: Guarding) -> bytes | None:
    """See `Listen`: for an asynchronous client's response."""
    return _listen(response, effect, guard, "AsyncByteStream", _AsyncListening)


def _listen(response: Any, effect: Listen, guard: Guarding, base: str, listening: type) -> bytes | None:
    whole = read_already(response)
    if whole is None:
        kind = stream_class(getattr(module_of(response), base), listening)
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
        self._ear = Ear(effect, guard, stream_decoder(response), undoes=True)
        self._cut: str | None = "closed early"
        if self._ear.is_sieving:
            forget_encoding(response)


class _SyncListening(_Listening):
    def __iter__(self) -> Iterator[bytes]:
        try:
            for chunk in self._inner:
                passed = self._ear.hear(chunk)
                if passed or not self._ear.is_sieving:
                    yield passed
            if rest := self._ear.rest():
                yield rest
        except Exception as error:
            self._cut = type(error).__name__
            raise
        self._cut = None
        self._ear.end(None)

    def close(self) -> None:
        """Close the inner stream; if it was not read to its end, its tasks are unresolved."""
        try:
            self._inner.close()
        finally:
            self._ear.end(self._cut)


class _AsyncListening(_Listening):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._inner:
                passed = self._ear.hear(chunk)
                if passed or not self._ear.is_sieving:
                    yield passed
            if rest := self._ear.rest():
                yield rest
        except Exception as error:
            self._cut = type(error).__name__
            raise
        self._cut = None
        await self._ear.aend(None)

    async def aclose(self) -> None:
        """Close the inner stream; if it was not read to its end, its tasks are unresolved."""
        try:
            await self._inner.aclose()
        finally:
            await self._ear.aend(self._cut)


@functools.cache
def stream_class(base: type, listening: type) -> Any:
    """Httpx's clients insist on streams of their own classes."""
    return type("GuardedStream", (listening, base), {})
