"""A request's body that comes as a stream: what is ours can be sent again, all else is what it is without a guard."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import httpx
import pytest
import requests
from conftest import AnyClient, a_task, audit, memory, module_of, only_task
from loopback import Bridge

import costguard
from costguard import Guard
from costguard.testing import StandIn

WAYS = ("bare", "installed", "wrapped")
ELSEWHERE = "https://other.example"


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    costguard.uninstall()


def put_under(way: str, guard: Guard, client: AnyClient) -> None:
    """Guard a client in one of the ways."""
    if way == "installed":
        costguard.install(guard)
    elif way == "wrapped":
        client.put_under(guard)


class Server:
    """A transport that takes bodies as a connection does, piece by piece.

    It redirects from `/from`, keeping the method, and challenges at `/secret`; `answers` has all else.
    """

    def __init__(self, module: Any, answers: Any = None) -> None:
        self.module = module
        self.answers = answers
        self.got: list[list[bytes]] = []
        self.on_request: Callable[[], object] = lambda: None

    @property
    def bodies(self) -> list[bytes]:
        """What was sent, whole."""
        return [b"".join(pieces) for pieces in self.got]

    def handle_request(self, request: Any) -> Any:
        self.on_request()
        self.got.append(list(request.stream))
        return self._answer(request) or self.answers.handle_request(self._again(request))

    async def handle_async_request(self, request: Any) -> Any:
        self.on_request()
        self.got.append([piece async for piece in request.stream])
        return self._answer(request) or await self.answers.handle_async_request(self._again(request))

    def _again(self, request: Any) -> Any:
        return self.module.Request("POST", request.url, headers=request.headers, content=self.bodies[-1])

    def _answer(self, request: Any) -> Any:
        if request.url.path == "/from":
            return self.module.Response(307, headers={"Location": "/v1"})
        if request.url.path == "/secret" and "Authorization" not in request.headers:
            challenge = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'
            return self.module.Response(401, headers={"WWW-Authenticate": challenge})
        return None if self.answers else self.module.Response(200, content=b"{}")

    def close(self) -> None:
        """Nothing to close."""

    async def aclose(self) -> None:
        """Nothing to close."""

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""


def pieces_of(*pieces: bytes, is_async: bool) -> Any:
    """A generator of one body."""

    def sync() -> Iterator[bytes]:
        yield from pieces

    async def asynchronous() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return asynchronous() if is_async else sync()


BODIES = {
    "no JSON": (b"col,umn\n", b"1,2\n"),
    "JSON": (b" \n", b'{"question": ', b'"Which harbours are open?"}'),
    "nothing": (),
}


@pytest.mark.parametrize("body", list(BODIES.values()), ids=list(BODIES))
@pytest.mark.parametrize("path", ["/from", "/secret"])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_ours_is_sent_once_and_not_again(
    kind: str, way: str, path: str, body: tuple[bytes, ...], guard: Guard, make_client: Callable[..., Any]
) -> None:
    module = module_of(kind)
    server = Server(module)
    client = make_client(kind, transport=server, base_url=ELSEWHERE)
    put_under(way, guard, client)
    auth = module.DigestAuth("me", "word") if path == "/secret" else None
    with pytest.raises(module.StreamConsumed):
        client.post(url=path, content=pieces_of(*body, is_async=client.is_async), auth=auth, follow_redirects=True)
    assert server.bodies == [b"".join(body)]
    assert guard.ledger.tasks() == []


@pytest.mark.parametrize("way", WAYS)
def test_what_can_be_iterated_again_is(kind: str, way: str, guard: Guard, make_client: Callable[..., Any]) -> None:
    class Pieces:
        def __iter__(self) -> Iterator[bytes]:
            return iter((b'{"a": ', b"1}"))

    class AsyncPieces:
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for piece in Pieces():
                yield piece

    server = Server(module_of(kind))
    client = make_client(kind, transport=server, base_url=ELSEWHERE)
    put_under(way, guard, client)
    content = AsyncPieces() if client.is_async else Pieces()
    assert client.post(url="/from", content=content, follow_redirects=True).status_code == 200
    assert server.bodies == [b'{"a": 1}'] * 2


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_ours_arrives_in_its_pieces(
    kind: str, way: str, guard: Guard, make_client: Callable[..., Any]
) -> None:
    server = Server(module_of(kind))
    client = make_client(kind, transport=server, base_url=ELSEWHERE)
    put_under(way, guard, client)
    for body in BODIES.values():
        client.post(content=pieces_of(*body, is_async=client.is_async))
    assert server.got == [list(body) for body in BODIES.values()]


def test_an_upload_that_is_no_json_is_read_as_it_is_sent(
    kind: str, guard: Guard, make_client: Callable[..., Any]
) -> None:
    server, given, then = Server(module_of(kind)), [], []

    def numbered() -> Iterator[bytes]:
        for n in range(3):
            given.append(n)
            yield b"%d" % n

    async def anumbered() -> AsyncIterator[bytes]:
        for piece in numbered():
            yield piece

    server.on_request = lambda: then.extend(given)
    client = make_client(kind, transport=server, base_url=ELSEWHERE)
    costguard.install(guard)
    client.post(content=anumbered() if client.is_async else numbered())
    assert (then, server.bodies) == ([0], [b"012"])


@pytest.mark.parametrize("way", WAYS[1:])
def test_tasks_that_come_as_a_stream_are_held_for_and_sent_again(
    kind: str, way: str, guard: Guard, standin: StandIn, make_client: Callable[..., Any]
) -> None:
    server = Server(module_of(kind), memory(standin, kind))
    client = make_client(kind, transport=server)
    put_under(way, guard, client)
    body = json.dumps([a_task()]).encode()
    content = pieces_of(body[:9], body[9:], is_async=client.is_async)
    assert client.post(url="/from", content=content, follow_redirects=True).status_code == 200
    assert len(server.got) == 2
    assert only_task(guard).status == "settled"
    audit(guard, standin)


# -- aiohttp and requests -----------------------------------------------------------------------


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, Server]]:
    """A server at an address of this machine, and that address."""
    server = Server(httpx)
    bridge = Bridge(server)
    yield f"http://127.0.0.1:{bridge.port}", server
    bridge.close()


def _by_aiohttp(url: str, body: Any, guard: Guard, way: str, **headers: str) -> int:
    async def call() -> int:
        middlewares = (guard.aiohttp_middleware,) if way == "wrapped" else ()
        async with (
            aiohttp.ClientSession(middlewares=middlewares) as session,
            session.post(url, data=body, headers=headers) as response,
        ):
            return response.status

    return asyncio.run(call())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("body", list(BODIES.values())[:2], ids=list(BODIES)[:2])
def test_aiohttp_follows_no_redirect_with_a_stream_that_is_not_ours(
    way: str, body: tuple[bytes, ...], guard: Guard, elsewhere: tuple[str, Server]
) -> None:
    url, server = elsewhere
    if way == "installed":
        costguard.install(guard)
    options = {"Content-Type": "application/json"}
    with pytest.raises(aiohttp.ClientPayloadError, match="consumed"):
        _by_aiohttp(f"{url}/from", pieces_of(*body, is_async=True), guard, way, **options)
    assert server.bodies == [b"".join(body)]


@pytest.mark.parametrize("way", WAYS)
def test_aiohttp_sends_a_file_that_cannot_be_wound_back(way: str, guard: Guard, elsewhere: tuple[str, Server]) -> None:
    url, server = elsewhere
    if way == "installed":
        costguard.install(guard)
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(b'{"a": 1}')
    with os.fdopen(reading, "rb") as file:
        headers = {"Content-Type": "application/json"}
        assert _by_aiohttp(f"{url}/to", file, guard, way, **headers) == 200
    assert server.bodies == [b'{"a": 1}']


@pytest.mark.parametrize("way", WAYS)
def test_requests_sends_a_stream_that_is_not_ours_as_it_does(
    way: str, guard: Guard, elsewhere: tuple[str, Server]
) -> None:
    url, server = elsewhere
    with requests.Session() as session:
        if way == "installed":
            costguard.install(guard)
        elif way == "wrapped":
            guard.wrap(session)
        session.post(f"{url}/from", data=pieces_of(*BODIES["JSON"], is_async=False))
        session.post(f"{url}/from", data=io.BytesIO(b'{"a": 1}'))
    assert server.bodies == [b"".join(BODIES["JSON"]), b"", b'{"a": 1}', b'{"a": 1}']
