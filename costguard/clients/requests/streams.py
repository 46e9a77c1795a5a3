"""Streams of the requests library, read through as they come while the guard listens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from http.client import HTTPException
from typing import Any

import requests
from urllib3 import HTTPResponse
from urllib3.exceptions import HTTPError

from costguard.clients.encodings import Decoder
from costguard.clients.guarding import Guarding
from costguard.clients.listening import Ear
from costguard.clients.requests.messages import encoding, httpx
from costguard.exchange.effects import Listen


class Listening:
    """A response's `raw`, read through as it comes; the guard listens on the side.

    What reads is as urllib3's `HTTPResponse` has it, and all else is the inner one's. `_kept`: what a sieve let through
    and was not read yet.
    """

    def __init__(self, response: requests.Response, effect: Listen, guard: Guarding) -> None:
        raw: Any = response.raw
        if not hasattr(raw, "stream"):  # an adapter of the caller's own: any file
            raw = HTTPResponse(body=raw, preload_content=False, decode_content=False)
        self._inner = raw
        found = encoding(response)
        self._ear = Ear(effect, guard, None if found in ("", "identity") else Decoder(httpx(), found))
        if self._ear.is_sieving:
            response.headers.pop("Content-Length", None)  # it is less
        self._kept = bytearray()
        self._data: bytes | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":
            raise AttributeError(name)
        return getattr(self._inner, name)

    @property
    def closed(self) -> bool:
        """False while something is left to be read."""
        return self._inner.closed and not self._kept

    def stream(self, amt: int | None = 2**16, decode_content: bool | None = None) -> Iterator[bytes]:
        """As urllib3's, and so are the others."""
        yield from self._heard(self._inner.stream(amt, decode_content), amt, decode_content)

    def read_chunked(self, amt: int | None = None, decode_content: bool | None = None) -> Iterator[bytes]:
        """The chunks of the answer, as they come."""
        yield from self._heard(self._inner.read_chunked(amt, decode_content), amt, decode_content)

    def _heard(self, chunks: Iterable[bytes], amt: int | None, decode_content: bool | None) -> Iterator[bytes]:
        yield from self._pieces(amt)
        try:
            for chunk in chunks:
                self._kept += self._hear(chunk, decode_content)
                yield from self._pieces(amt)
        except Exception as error:
            self._ear.end(type(error).__name__)
            raise
        self._kept += self._ear.rest()
        self._ear.end(None)
        yield from self._pieces(amt)

    def _pieces(self, amt: int | None) -> Iterator[bytes]:
        """What is there, in pieces of at most `amt` bytes."""
        while self._kept:
            yield self._take(amt or None)

    def _hear(self, chunk: bytes, decode_content: bool | None) -> bytes:
        if self._inner.decode_content if decode_content is None else decode_content:
            return self._ear.hear_plain(chunk)
        return self._ear.hear(chunk)

    def read(self, amt: int | None = None, decode_content: bool | None = None, *args: Any, **kwargs: Any) -> bytes:
        """At most `amt` bytes, or all."""
        is_all = amt is None or amt < 0
        return self._read(is_all, self._inner.read, amt, decode_content, *args, **kwargs)

    def read1(self, amt: int | None = None, decode_content: bool | None = None) -> bytes:
        """At most `amt` bytes, of what one read of the connection gives."""
        return self._read(False, self._inner.read1, amt, decode_content)

    def _read(
        self, is_all: bool, method: Any, amt: int | None, decode_content: bool | None, *more: Any, **by: Any
    ) -> bytes:
        while not self._kept or is_all:
            try:
                found: bytes = method(amt, decode_content, *more, **by)
            except Exception as error:
                self._ear.end(type(error).__name__)
                raise
            self._kept += self._hear(found, decode_content)
            if is_all or (not found and amt != 0):
                self._kept += self._ear.rest()
                self._ear.end(None)
            if is_all or not found:  # nothing is the end: what was kept back must not look like it
                break
        return self._take(amt)

    def _take(self, amt: int | None) -> bytes:
        """Of what the sieve let through at once, as much as was asked for."""
        n = len(self._kept) if amt is None or amt < 0 else amt
        taken = bytes(self._kept[:n])
        del self._kept[:n]
        return taken

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`; the number of bytes."""
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def readline(self, size: int | None = -1) -> bytes:
        """A line, or `size` bytes of it."""
        line = bytearray()
        while size is None or size < 0 or len(line) < size:
            found = self.read(1)
            line += found
            if found in (b"", b"\n"):
                break
        return bytes(line)

    def readlines(self, hint: int | None = -1) -> list[bytes]:
        """The lines, until they have `hint` bytes or more."""
        lines: list[bytes] = []
        n = 0
        while line := self.readline():
            lines.append(line)
            n += len(line)
            if hint is not None and 0 < hint <= n:
                break
        return lines

    def __iter__(self) -> Iterator[bytes]:
        lines: Any = HTTPResponse.__iter__  # it asks nothing but `stream`
        return iter(lines(self))

    def __next__(self) -> bytes:
        if line := self.readline():
            return line
        raise StopIteration

    @property
    def data(self) -> bytes:
        """All that was not read yet, decoded; the same again when asked again."""
        if self._data is None:
            self._data = self.read(decode_content=True)
        return self._data

    def json(self) -> Any:
        """`data` as JSON."""
        return json.loads(self.data)

    def drain_conn(self) -> None:
        """Read to the end, for nobody."""
        with suppress(HTTPError, HTTPException, OSError):
            self.read()

    def __enter__(self) -> Listening:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it; if it was not read to its end, its tasks are unresolved."""
        try:
            self._inner.close()
        finally:
            self._ear.end("closed early")

    def release_conn(self) -> None:
        """Give the connection back; what is not read by now never will be."""
        try:
            self._inner.release_conn()
        finally:
            self._ear.end("closed early")
