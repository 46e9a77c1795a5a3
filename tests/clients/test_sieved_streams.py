"""A stream whose usage the guard asked for, in every way that a client's stream can be read: the caller gets what it
would have got without a guard, and the ledger the bill.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import pairwise
from typing import Any

import aiohttp
import httpx
import pytest
import requests
from conftest import FLASH, audit, only_task
from hypothesis import given
from hypothesis import strategies as st
from loopback import Bridge

from costguard import Guard
from costguard.money import NANOS
from costguard.testing import StandIn

ASKED: dict[str, Any] = {
    "model": FLASH,
    "messages": [{"role": "user", "content": "Describe the harbour."}],
    "max_tokens": 100,
    "stream": True,
}
PATH = "/v1/chat/completions"
ALONE = b'"choices":[],"usage":{'


def encoded(text: bytes, encoding: str | None) -> bytes:
    return gzip.compress(text) if encoding else text


class Provider:
    """Answers with the stand-in's stream in pieces of `size`; `said` is all of it, `theirs` what a caller who did not
    ask for the usage is to have.
    """

    def __init__(self, standin: StandIn, size: int | None, encoding: str | None = None, *, whole: bool = False) -> None:
        self.standin = standin
        self.said = b""
        self._size, self._encoding, self._whole = size, encoding, whole
        self._bridge = Bridge(httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        reply = self.standin.handle("POST", request.url.path, {}, request.content)
        self.said = b": hello\r\n\r\n" + b"".join(reply.chunks)
        sent = encoded(self.said, self._encoding)
        headers = {"content-type": "text/event-stream", **({"content-encoding": "gzip"} if self._encoding else {})}
        if self._whole:
            headers["content-length"] = str(len(sent))
        places = [*range(0, len(sent), self._size or len(sent)), len(sent)]
        return httpx.Response(200, headers=headers, content=(sent[a:b] for a, b in pairwise(places)))

    @property
    def theirs(self) -> bytes:
        alone = next(event for event in self.said.split(b"\n\n") if ALONE in event)
        return self.said.replace(alone + b"\n\n", b"")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._bridge.port}{PATH}"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._bridge.port}/v1"

    def close(self) -> None:
        self._bridge.close()


MakeProvider = Callable[..., Provider]


@pytest.fixture
def provider(standin: StandIn) -> Iterator[MakeProvider]:
    made: list[Provider] = []

    def make(size: int | None = None, encoding: str | None = None, *, whole: bool = False) -> Provider:
        made.append(Provider(standin, size, encoding, whole=whole))
        return made[-1]

    yield make
    for one in made:
        one.close()


def is_settled_at_the_bill(guard: Guard, standin: StandIn) -> bool:
    row = only_task(guard)
    audit(guard)
    return (row.status, row.held, row.charged) == ("settled", 0, int(standin.billed() * NANOS))


# --- requests ---


def at_most(n: int, read: Callable[[], bytes]) -> bytes:
    """All of it; no piece is longer than was asked for."""
    found = b""
    while piece := read():
        assert len(piece) <= n
        found += piece
    return found


def joined(n: int | None, pieces: Any) -> bytes:
    listed = list(pieces)
    assert all(piece and (n is None or len(piece) <= n) for piece in listed)
    return b"".join(listed)


def copied(response: requests.Response) -> bytes:
    into = io.BytesIO()
    shutil.copyfileobj(response.raw, into, 9)
    return into.getvalue()


def into_a_buffer(response: requests.Response) -> bytes:
    found, buffer = b"", bytearray(7)
    while n := response.raw.readinto(memoryview(buffer)):
        found += buffer[:n]
    return found


def mixed(response: requests.Response) -> bytes:
    raw = response.raw
    return bytes(raw.read(3) + raw.readline() + raw.read1(5) + raw.read())


REQUESTS: dict[str, Callable[[requests.Response], bytes]] = {
    "content": lambda response: bytes(response.content),
    "iter_content 1": lambda response: joined(1, response.iter_content(1)),
    "iter_content 7": lambda response: joined(7, response.iter_content(7)),
    "iter_content": lambda response: joined(None, response.iter_content(None)),
    "iter_lines": lambda response: b"".join(response.iter_lines(5)),
    "raw.read": lambda response: response.raw.read(),
    "raw.read all": lambda response: response.raw.read(-1),
    "raw.read 5": lambda response: at_most(5, lambda: response.raw.read(5)),
    "raw.read 5000": lambda response: at_most(5000, lambda: response.raw.read(5000)),
    "raw.read1 5": lambda response: at_most(5, lambda: response.raw.read1(5)),
    "raw.read1": lambda response: at_most(100_000, response.raw.read1),
    "raw.stream 9": lambda response: joined(9, response.raw.stream(9)),
    "raw.readinto": into_a_buffer,
    "raw.readline": lambda response: b"".join(iter(response.raw.readline, b"")),
    "raw.readline 5": lambda response: at_most(5, lambda: response.raw.readline(5)),
    "raw.readlines": lambda response: b"".join(response.raw.readlines()),
    "raw lines": lambda response: b"".join(response.raw),
    "raw.data": lambda response: response.raw.data + response.raw.data[:0],
    "copyfileobj": copied,
    "buffered": lambda response: io.BufferedReader(response.raw, 6).read(),
    "mixed": mixed,
}


def by_requests(guard: Guard, url: str, read: Callable[[requests.Response], bytes], **more: Any) -> bytes:
    with requests.Session() as session:
        session.trust_env = False
        guard.wrap(session)
        with session.post(url, json={**ASKED, **more}, stream=True) as response:
            return read(response)


@pytest.mark.parametrize("how", REQUESTS)
@pytest.mark.parametrize(("size", "whole"), [(None, False), (13, False), (13, True)])
def test_whatever_way_requests_reads_the_caller_gets_its_bytes(
    how: str, size: int | None, whole: bool, provider: MakeProvider, make_guard: Callable[..., Guard], standin: StandIn
) -> None:
    other = provider(size, whole=whole)
    guard = make_guard(endpoints=[other.endpoint])
    said = by_requests(guard, other.url, REQUESTS[how])
    assert said == (b"".join(other.theirs.splitlines()) if how == "iter_lines" else other.theirs)
    assert is_settled_at_the_bill(guard, standin)


@pytest.mark.parametrize("how", ["content", "iter_content 7", "iter_lines"])
def test_an_encoded_stream_that_requests_decodes_is_sieved(
    how: str, provider: MakeProvider, make_guard: Callable[..., Guard], standin: StandIn
) -> None:
    other = provider(13, "gzip")
    guard = make_guard(endpoints=[other.endpoint])
    said = by_requests(guard, other.url, REQUESTS[how])
    assert said == (b"".join(other.theirs.splitlines()) if how == "iter_lines" else other.theirs)
    assert is_settled_at_the_bill(guard, standin)


@pytest.mark.parametrize("how", ["raw.read", "raw.read 5", "raw.stream 9", "raw.read1"])
def test_an_encoded_stream_that_is_read_as_it_came_passes_whole_and_is_heard(
    how: str, provider: MakeProvider, make_guard: Callable[..., Guard], standin: StandIn
) -> None:
    other = provider(13, "gzip")
    guard = make_guard(endpoints=[other.endpoint])
    assert gzip.decompress(by_requests(guard, other.url, REQUESTS[how])) == other.said
    assert is_settled_at_the_bill(guard, standin)


@pytest.mark.parametrize("n", [0, 1, 40])
def test_a_sieved_stream_of_requests_that_is_left_early_stays_held(
    n: int, provider: MakeProvider, make_guard: Callable[..., Guard]
) -> None:
    other = provider(13)
    guard = make_guard(endpoints=[other.endpoint])
    by_requests(guard, other.url, lambda response: response.raw.read(n))
    assert only_task(guard).status == "unresolved"


def test_a_length_that_is_not_the_callers_is_not_told(provider: MakeProvider, make_guard: Callable[..., Guard]) -> None:
    other = provider(None, whole=True)
    guard = make_guard(endpoints=[other.endpoint])
    with requests.Session() as session:
        session.trust_env = False
        response = guard.wrap(session).post(other.url, json=ASKED)
    assert "Content-Length" not in response.headers
    assert response.content == other.theirs
    with httpx.Client(trust_env=False) as client:
        answer = guard.wrap(client).post(other.url, json=ASKED)
    assert "content-length" not in answer.headers
    assert answer.content == other.theirs


# --- aiohttp ---


async def until_empty(n: int | None, read: Callable[[], Awaitable[bytes]]) -> bytes:
    found = b""
    while piece := await read():
        assert n is None or len(piece) <= n
        found += piece
    return found


async def listed(items: AsyncIterator[Any], n: int | None = None) -> bytes:
    found = [item[0] if isinstance(item, tuple) else item async for item in items]
    assert all(piece and (n is None or len(piece) <= n) for piece in found)
    return b"".join(found)


async def exactly(response: Any) -> bytes:
    content = response.content
    assert await content.readexactly(0) == b""
    found: bytes = await content.readexactly(10)
    with pytest.raises(asyncio.IncompleteReadError) as short:
        await content.readexactly(10**6)
    assert short.value.expected == 10**6
    assert content.at_eof()
    assert await content.read() == b""
    return found + short.value.partial


async def without_waiting(response: Any) -> bytes:
    content = response.content
    found: bytes = await content.readany()
    while not content.at_eof():
        found += content.read_nowait(5) or await content.readany()
    return found


async def cancelled(response: Any) -> bytes:
    """A read that is given up takes nothing away."""
    found = b""
    while not response.content.at_eof():
        reading = asyncio.ensure_future(response.content.readline())
        await asyncio.sleep(0)
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            found += await reading
    return found


AIOHTTP: dict[str, Callable[[Any], Awaitable[bytes]]] = {
    "read": lambda response: response.read(),
    "content.read": lambda response: response.content.read(),
    "content.read 7": lambda response: until_empty(7, lambda: response.content.read(7)),
    "readany": lambda response: until_empty(None, response.content.readany),
    "readline": lambda response: until_empty(None, response.content.readline),
    "readuntil": lambda response: until_empty(None, lambda: response.content.readuntil(b"\n\n")),
    "readexactly": exactly,
    "read_nowait": without_waiting,
    "cancelled": cancelled,
    "lines": lambda response: listed(response.content),
    "iter_any": lambda response: listed(response.content.iter_any()),
    "iter_chunked": lambda response: listed(response.content.iter_chunked(9), 9),
    "iter_chunks": lambda response: listed(response.content.iter_chunks()),
}


def by_aiohttp(
    guard: Guard, url: str, read: Callable[[Any], Awaitable[Any]], *, behind: tuple[Any, ...] = (), **options: Any
) -> Any:
    async def run() -> Any:
        middlewares = (guard.aiohttp_middleware, *behind)
        async with (
            aiohttp.ClientSession(middlewares=middlewares, **options) as session,
            session.post(url, json=ASKED) as response,
        ):
            return await read(response)

    return asyncio.run(run())


@pytest.mark.parametrize("how", AIOHTTP)
@pytest.mark.parametrize(("size", "encoding"), [(None, None), (13, None), (13, "gzip")])
def test_whatever_way_aiohttp_reads_the_caller_gets_its_bytes(
    how: str,
    size: int | None,
    encoding: str | None,
    provider: MakeProvider,
    make_guard: Callable[..., Guard],
    standin: StandIn,
) -> None:
    other = provider(size, encoding)
    guard = make_guard(endpoints=[other.endpoint])
    assert by_aiohttp(guard, other.url, AIOHTTP[how]) == other.theirs
    assert is_settled_at_the_bill(guard, standin)


def test_an_encoded_stream_that_aiohttp_is_to_leave_as_it_is_passes_whole_and_is_heard(
    provider: MakeProvider, make_guard: Callable[..., Guard], standin: StandIn
) -> None:
    other = provider(13, "gzip")
    guard = make_guard(endpoints=[other.endpoint])
    said = by_aiohttp(guard, other.url, AIOHTTP["content.read 7"], auto_decompress=False)
    assert gzip.decompress(said) == other.said
    assert is_settled_at_the_bill(guard, standin)


@pytest.mark.parametrize("encoding", [None, "gzip"])
@pytest.mark.parametrize("auto", [True, False])
def test_a_stream_that_a_middleware_behind_has_read_is_sieved_and_settled(
    encoding: str | None, auto: bool, provider: MakeProvider, make_guard: Callable[..., Guard], standin: StandIn
) -> None:
    other = provider(13, encoding)
    guard = make_guard(endpoints=[other.endpoint])

    async def reads(request: Any, handler: Any) -> Any:
        response = await handler(request)
        await response.read()
        return response

    said = by_aiohttp(guard, other.url, AIOHTTP["read"], behind=(reads,), auto_decompress=auto)
    is_encoded = encoding is not None and not auto
    assert (gzip.decompress(said) if is_encoded else said) == (other.said if is_encoded else other.theirs)
    assert is_settled_at_the_bill(guard, standin)


def test_a_sieved_stream_of_aiohttp_that_is_left_early_stays_held(
    provider: MakeProvider, make_guard: Callable[..., Guard]
) -> None:
    other = provider(13)
    guard = make_guard(endpoints=[other.endpoint])
    assert by_aiohttp(guard, other.url, lambda response: response.content.readline())
    done = threading.Event()
    guard.later(done.set)  # behind what ends the stream
    assert done.wait(10)
    assert only_task(guard).status == "unresolved"


# --- any split ---


@given(st.lists(st.integers(0, 10_000), max_size=12), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_any_split_of_a_stream_is_read_in_pieces_of_any_size_by_requests(cuts: list[int], end: bytes) -> None:
    chunks = [b'data: {"choices":[{"index":0}]}', b"", b'data: {"choices":[],"usage":{"prompt_tokens":1}}', b"",
              b": beat", b"data: [DONE]", b""]  # fmt: skip
    said = b"".join(chunk + end for chunk in chunks)
    theirs = b"".join(chunk + end for chunk in [*chunks[:2], *chunks[4:]])
    places = [0, *sorted(cut % len(said) for cut in cuts), len(said)]
    raw = raw_of([said[a:b] for a, b in pairwise(places)])
    found = [raw.read(1 + n % 7) for n in range(len(said))]
    assert all(len(piece) <= 7 for piece in found)
    assert b"".join(found) == theirs
    assert raw.read(3) == b""


def raw_of(pieces: list[bytes]) -> Any:
    """The guarded `raw` of a response whose connection gives these pieces, over a guard that only listens."""
    from costguard.clients.requests.streams import Listening
    from costguard.exchange.effects import Listen
    from costguard.wire.openai_style.sieve import UsageSieve

    left = list(pieces)

    class Inner:
        decode_content = False
        closed = False

        def read(self, amt: int | None, *_: Any) -> bytes:
            while left and not left[0]:
                left.pop(0)
            if not left:
                return b""
            taken, left[0] = left[0][:amt], left[0][amt:] if amt else b""
            return taken

        def close(self) -> None:
            self.closed = True

    class Hearing:
        def feed(self, chunk: bytes) -> None:
            """Nobody listens."""

        def end(self, cut: str | None) -> None:
            """Nor now."""

    response = requests.Response()
    response.raw = Inner()
    hearing: Any = Hearing()
    guard: Any = None
    return Listening(response, Listen(hearing, UsageSieve()), guard)


def test_what_the_provider_got_asks_for_the_usage(
    provider: MakeProvider, make_guard: Callable[..., Guard], standin: StandIn
) -> None:
    other = provider()
    guard = make_guard(endpoints=[other.endpoint])
    said = by_requests(guard, other.url, REQUESTS["content"], stream_options={"include_usage": False, "x": 1})
    assert json.loads(standin.received[-1].body)["stream_options"] == {"include_usage": True, "x": 1}
    assert ALONE not in said
    said = by_requests(guard, other.url, REQUESTS["content"], stream_options={"include_usage": True})
    assert said == other.said
