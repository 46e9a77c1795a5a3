"""Streams of aiohttp, read through as they come while the guard listens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from costguard.clients.aiohttp.messages import encoding_left, httpx
from costguard.clients.encodings import Decoder
from costguard.clients.guarding import Guarding
from costguard.clients.listening import Ear
from costguard.exchange.effects import Listen


def listening(request: Any, response: Any, effect: Listen, guard: Guarding) -> Any:
    """In place of a response's `content`: what reads through it; see `Listen`."""
    encoding = encoding_left(request, response)
    ear = Ear(effect, guard, Decoder(httpx(), encoding) if encoding else None)
    return Sieved(response.content, ear) if ear.is_sieving else Heard(response.content, ear)


class Listening:
    """A response's `content`; the guard listens on the side.

    Its methods are those of `aiohttp.StreamReader`, and all else of it is the inner one's.
    """

    def __init__(self, inner: Any, ear: Ear) -> None:
        self._inner = inner
        self._ear = ear

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":
            raise AttributeError(name)
        return getattr(self._inner, name)

    async def _through(self, reading: Awaitable[Any]) -> Any:
        try:
            return await reading
        except asyncio.IncompleteReadError:  # its end, which came too early for who reads
            raise
        except Exception as error:
            await self._ear.aend(type(error).__name__)
            raise

    async def read(self, n: int = -1) -> Any:
        """As `StreamReader.read`, and so are the others."""
        raise NotImplementedError

    async def readany(self) -> Any:
        """What is there, or comes next."""
        raise NotImplementedError

    async def readchunk(self) -> Any:
        """What is there of an HTTP chunk, and whether it ends with it."""
        raise NotImplementedError

    async def readline(self, **options: Any) -> Any:
        """A line."""
        raise NotImplementedError

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Pieces(self.readline)

    def iter_chunked(self, n: int) -> AsyncIterator[bytes]:
        """Pieces of at most `n` bytes."""
        return _Pieces(lambda: self.read(n))

    def iter_any(self) -> AsyncIterator[bytes]:
        """Pieces as they come."""
        return _Pieces(self.readany)

    def iter_chunks(self) -> AsyncIterator[tuple[bytes, bool]]:
        """Pieces as they come, each with whether an HTTP chunk ends with it."""
        return _Pieces(self.readchunk, (b"", False))

    def set_exception(self, error: BaseException, *cause: Any) -> None:
        """How a response tells that it was released or closed: what is not read by now never will be."""
        self._inner.set_exception(error, *cause)
        self._ear.end_later("closed early")


class Heard(Listening):
    """Every byte as it comes, in the pieces that the inner one gives."""

    def __init__(self, inner: Any, ear: Ear) -> None:
        super().__init__(inner, ear)
        self._known = 0

    def _hear(self, found: bytes) -> None:
        if new := found[self._known :]:
            self._ear.hear(new)
        self._known = max(0, self._known - len(found))

    def unread_data(self, data: bytes) -> None:
        """Give back what was read last: it comes again, and was heard."""
        self._inner.unread_data(data)
        self._known += len(data)

    async def _heard(self, reading: Awaitable[Any]) -> Any:
        """What `reading` gives: bytes, or bytes and whether a chunk ends with them."""
        found = await self._through(reading)
        self._hear(found[0] if isinstance(found, tuple) else found)
        if self._inner.at_eof():
            await self._ear.aend(None)
        return found

    async def read(self, n: int = -1) -> Any:
        """See `Listening.read`."""
        if n >= 0:
            return await self._heard(self._inner.read(n))
        return b"".join([piece async for piece in self.iter_any()])  # heard as far as it came, if it is cut

    async def readany(self) -> Any:
        """See `Listening.readany`."""
        return await self._heard(self._inner.readany())

    async def readchunk(self) -> Any:
        """See `Listening.readchunk`."""
        return await self._heard(self._inner.readchunk())

    async def readexactly(self, n: int) -> Any:
        """So many bytes."""
        try:
            return await self._heard(self._inner.readexactly(n))
        except asyncio.IncompleteReadError as error:
            self._hear(error.partial)
            await self._ear.aend(None)
            raise

    async def readline(self, **options: Any) -> Any:
        """See `Listening.readline`."""
        return await self._heard(self._inner.readline(**options))

    async def readuntil(self, separator: bytes = b"\n", **options: Any) -> Any:
        """As far as `separator`."""
        return await self._heard(self._inner.readuntil(separator, **options))

    def read_nowait(self, n: int = -1) -> bytes:
        """What is there."""
        found: bytes = self._inner.read_nowait(n)
        self._hear(found)
        if self._inner.at_eof():
            self._ear.end_later(None)
        return found


class Sieved(Listening):
    """What the sieve lets through, in pieces of its own: `_kept` is what passed it and was not read yet."""

    def __init__(self, inner: Any, ear: Ear) -> None:
        super().__init__(inner, ear)
        self._kept = bytearray()
        self._is_over = False

    async def _come(self, is_enough: Callable[[], object]) -> None:
        """Wait until enough is kept, or no more comes."""
        while not self._is_over and not is_enough():
            self._pass(await self._through(self._inner.readany()))
            if self._inner.at_eof():
                self._pass_rest()
                await self._ear.aend(None)

    def _pass(self, found: bytes) -> None:
        self._kept += self._ear.hear(found)

    def _pass_rest(self) -> None:
        self._kept += self._ear.rest()
        self._is_over = True

    def _take(self, n: int) -> bytes:
        taken = bytes(self._kept[:n])
        del self._kept[:n]
        return taken

    async def read(self, n: int = -1) -> bytes:
        """See `Listening.read`."""
        await self._come(lambda: n == 0 or (n > 0 and self._kept))
        return self._take(len(self._kept) if n < 0 else n)

    async def readany(self) -> bytes:
        """See `Listening.readany`."""
        await self._come(lambda: self._kept)
        return self._take(len(self._kept))

    async def readchunk(self) -> tuple[bytes, bool]:
        """See `Listening.readchunk`."""
        found = await self.readany()
        return found, bool(found)

    async def readexactly(self, n: int) -> bytes:
        """So many bytes; asyncio.IncompleteReadError with what there is, if that is less."""
        await self._come(lambda: len(self._kept) >= n)
        if len(self._kept) < n:
            raise asyncio.IncompleteReadError(self._take(n), n)
        return self._take(n)

    async def readline(self, **options: Any) -> bytes:
        """See `Listening.readline`."""
        return await self.readuntil(**options)

    async def readuntil(self, separator: bytes = b"\n", **_: Any) -> bytes:
        """As far as `separator`, or the end."""
        await self._come(lambda: separator in self._kept)
        at = self._kept.find(separator)
        return self._take(len(self._kept) if at < 0 else at + len(separator))

    def read_nowait(self, n: int = -1) -> bytes:
        """What is there."""
        if not self._is_over:
            self._pass(self._inner.read_nowait(-1))
            if self._inner.at_eof():
                self._pass_rest()
                self._ear.end_later(None)
        return self._take(len(self._kept) if n < 0 else n)

    def unread_data(self, data: bytes) -> None:
        """Give back what was read last."""
        self._kept[:0] = data

    def at_eof(self) -> bool:
        """True if all was read."""
        return self._is_over and not self._kept


class _Pieces:
    """What `read` gives until that is `end`: no generator, which would be the loop's to close if it is left early."""

    def __init__(self, read: Callable[[], Awaitable[Any]], end: object = b"") -> None:
        self._read = read
        self._end = end

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        found = await self._read()
        if found == self._end:
            raise StopAsyncIteration
        return found
