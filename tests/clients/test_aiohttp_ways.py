"""aiohttp: ways that a request goes out and an answer is read which few take, and what the ledger makes of them."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from conftest import FLASH, a_task, audit, only_task
from loopback import Bridge, flush, in_session
from roads import DONE, Scripted, frame

from costguard import Guard
from costguard.testing import StandIn

KIND = "aiohttp.ClientSession"
MakeClient = Callable[..., Any]
CHAT: dict[str, Any] = {
    "model": FLASH,
    "messages": [{"role": "user", "content": "Describe the harbour."}],
    "max_tokens": 100,
}


@pytest.fixture
def url(standin: StandIn) -> Iterator[str]:
    """The stand-in's native endpoint, which no guard was told of."""
    with standin.serve() as base:
        yield f"{base}/v1"


# --- what goes out ---


def test_a_task_in_memory_is_guarded_though_nothing_says_it_is_json(guard: Guard, standin: StandIn, url: str) -> None:
    async def use(session: Any) -> None:
        await session.post(url, data=io.BytesIO(json.dumps([a_task()]).encode()))

    in_session(guard, use)
    assert only_task(guard).status == "settled"
    audit(guard, standin)


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize("way", ["the session's auth", "a proxy's auth", "not decompressed", "a middleware's header"])
def test_unresolved_tasks_are_asked_for_the_way_that_the_call_goes(
    way: str, guard: Guard, standin: StandIn, url: str, clock: Any
) -> None:
    each = guard.estimate(a_task()).upper
    assert each is not None
    guard.set_budget("acme", each * 19 / 10)
    standin.fault("status_billed:503")
    options: dict[str, Any] = {}
    proxy = Bridge(standin.transport())
    name, value = "authorization", "Basic " + base64.b64encode(b"me:secret").decode()
    match way:
        case "the session's auth":
            options["auth"] = aiohttp.BasicAuth("me", "secret")
        case "a proxy's auth":
            name = "proxy-authorization"
            options |= {"proxy": f"http://127.0.0.1:{proxy.port}", "proxy_auth": aiohttp.BasicAuth("me", "secret")}
        case "not decompressed":
            name = value = ""
            standin.content_encoding = "gzip"
            options["auto_decompress"] = False
        case _:

            async def signed(request: Any, handler: Any) -> Any:
                request.headers["Authorization"] = value
                return await handler(request)

            options["middlewares"] = (guard.aiohttp_middleware, signed)

    async def use(session: Any) -> None:
        await session.post(url, json=[a_task()])
        clock.now += timedelta(minutes=5)
        await session.post(url, json=[a_task()])

    try:
        in_session(guard, use, **options)
    finally:
        proxy.close()
    assert [row.status for row in guard.ledger.tasks()] == ["settled", "settled"]
    assert json.loads(standin.received[1].body)[0]["taskType"] == "getTaskDetails"
    assert [request.headers.get(name, "") for request in standin.received] == [value] * 3
    audit(guard, standin)


@pytest.mark.parametrize("error", [aiohttp.ServerFingerprintMismatch(b"a", b"b", "else.test", 443)])
def test_what_was_refused_before_the_request_went_out_is_released(error: Exception, guard: Guard, url: str) -> None:
    async def refusing(request: Any, handler: Any) -> Any:
        raise error

    async def use(session: Any) -> None:
        with pytest.raises(type(error)):
            await session.post(url, json=[a_task()])

    in_session(guard, use, middlewares=(guard.aiohttp_middleware, refusing))
    assert only_task(guard).status == "released"


# --- what comes back ---


@pytest.mark.parametrize("of_session", [True, False])
@pytest.mark.parametrize("of_call", [True, False])
def test_each_call_says_whether_its_answer_is_decompressed(
    of_session: bool, of_call: bool, guard: Guard, standin: StandIn, url: str
) -> None:
    standin.content_encoding = "gzip"

    async def use(session: Any) -> bytes:
        async with session.post(url, json=[a_task()], auto_decompress=of_call) as response:
            return bytes(await response.read())

    assert (in_session(guard, use, auto_decompress=of_session)[:2] == b"\x1f\x8b") is not of_call
    assert only_task(guard).status == "settled"
    audit(guard, standin)


@pytest.mark.parametrize("encoding", [None, "gzip"])
@pytest.mark.parametrize("decompresses", [True, False])
@pytest.mark.parametrize("delivery", ["sync", "stream"])
def test_an_answer_that_a_middleware_behind_has_read_is_settled(
    delivery: str, decompresses: bool, encoding: str | None, guard: Guard, standin: StandIn, url: str
) -> None:
    standin.content_encoding = encoding

    async def reading(request: Any, handler: Any) -> Any:
        response = await handler(request)
        await response.read()
        return response

    async def use(session: Any) -> bytes:
        async with session.post(url, json=[a_task(deliveryMethod=delivery)]) as response:
            return bytes(await response.read())

    middlewares = (guard.aiohttp_middleware, reading)
    assert in_session(guard, use, middlewares=middlewares, auto_decompress=decompresses)
    assert only_task(guard).status == "settled"
    audit(guard, standin)


def test_what_a_middleware_behind_has_read_of_a_stream_is_sieved(
    make_guard: Callable[..., Guard], standin: StandIn
) -> None:
    async def reading(request: Any, handler: Any) -> Any:
        response = await handler(request)
        assert b'"usage":{' in (await response.read()).replace(b" ", b"")
        return response

    async def use(session: Any) -> bytes:
        async with session.post(f"{base}/v1/chat/completions", json={**CHAT, "stream": True}) as response:
            return bytes(await response.read())

    with standin.serve() as base:
        guard = make_guard(endpoints=[base])
        guard.set_budget("/", 1, per="total")
        said = in_session(guard, use, middlewares=(guard.aiohttp_middleware, reading))
    assert b'"usage":{' not in said.replace(b" ", b"")
    assert b"[DONE]" in said
    assert only_task(guard).status == "settled"


async def _exactly(content: Any) -> bytes:
    found = b""
    with suppress(asyncio.IncompleteReadError):
        while True:
            found += await content.readexactly(50)
    return found


async def _exactly_too_many(content: Any) -> bytes:
    with pytest.raises(asyncio.IncompleteReadError) as caught:
        await content.readexactly(10**6)
    return caught.value.partial


async def _given_back(content: Any) -> bytes:
    first = await content.readany()
    content.unread_data(first[3:])
    return bytes(first[:3] + await content.read())


async def _in_turns(content: Any) -> bytes:
    lines = content.iter_chunked(9)
    found = await anext(lines) + await content.readuntil(b":") + await content.readexactly(7) + await content.readline()
    return bytes(found + await content.read())


READS: dict[str, Callable[[Any], Awaitable[bytes]]] = {
    "exactly": _exactly,
    "exactly too many": _exactly_too_many,
    "given back": _given_back,
    "in turns": _in_turns,
}


@pytest.mark.filterwarnings("ignore:unread_data:DeprecationWarning")
@pytest.mark.parametrize("how", READS)
def test_a_stream_is_heard_however_its_content_is_read(how: str, guard: Guard, standin: StandIn, url: str) -> None:
    standin.bill_retries_once = True
    task = a_task(deliveryMethod="stream", includeCost=True, includeUsage=True)

    async def use(session: Any) -> bytes:
        async with session.post(url, json=[task]) as response:
            return await READS[how](response.content)

    assert in_session(guard, use) == in_session(None, use)
    assert only_task(guard).status == "settled"
    audit(guard, standin)


def test_a_stream_read_at_once_and_cut_behind_its_exact_total_is_settled(guard: Guard, make_client: MakeClient) -> None:
    task = a_task(deliveryMethod="stream", includeCost=True, includeUsage=True)
    usage = {"costBreakdown": {"total": 0.0001}}
    arrived: list[bytes] = []
    last = frame(task, text="grey", finishReason="stop", cost=0.0001, usage=usage)
    client = make_client(KIND, guard, transport=Scripted([last, ConnectionError("cut")]))

    async def use() -> None:
        async with client.bare.post(client.url("/v1"), json=[task]) as response:
            with pytest.raises(aiohttp.ClientPayloadError):
                arrived.append(await response.content.read())

    client.call(use)
    flush(guard)
    assert not arrived
    assert (only_task(guard).status, only_task(guard).charged) == ("settled", 100_000)


def test_an_iteration_that_is_left_leaves_nothing_behind(guard: Guard, make_client: MakeClient) -> None:
    task = a_task(deliveryMethod="stream")
    client = make_client(KIND, guard, transport=Scripted([frame(task, text="grey"), DONE]))

    async def use() -> list[bytes]:
        ways: list[Callable[[Any], Any]] = [aiter, lambda content: content.iter_any(),
                                            lambda content: content.iter_chunks()]  # fmt: skip
        left = []
        for way in ways:
            async with client.bare.post(client.url("/v1"), json=[task]) as response:
                async for piece in way(response.content):
                    left.append(piece)
                    break
            assert not [other for other in asyncio.all_tasks() if other is not asyncio.current_task()]
        return left

    assert len(client.call(use)) == 3
