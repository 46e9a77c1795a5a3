"""aiohttp: what its sessions do that no other client does, and what they leave alone."""

from __future__ import annotations

import asyncio
import gc
import gzip
import io
import json
import re
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import httpx
import pytest
from conftest import a_task, audit, only_task, sent_tasks
from loopback import Echo, LoopClient, flush, in_session
from roads import DONE, Scripted, frame

from costguard import BudgetExceeded, ConfigurationError, Guard, InvalidRequest
from costguard.testing import StandIn

KIND = "aiohttp.ClientSession"
MakeClient = Callable[..., Any]
Use = Callable[[Any], Awaitable[Any]]


@pytest.fixture
def client(guard: Guard, standin: StandIn, make_client: MakeClient) -> LoopClient:
    made: LoopClient = make_client(KIND, guard, transport=standin.transport())
    return made


@pytest.fixture
def url(standin: StandIn) -> Iterator[str]:
    """The stand-in's native endpoint, which no guard was told of."""
    with standin.serve() as base:
        yield f"{base}/v1"


# --- refusals and wrapping ---


def test_a_refusal_is_raised_as_itself_and_nothing_is_sent(client: LoopClient, guard: Guard, standin: StandIn) -> None:
    guard.set_budget("acme", "0.000001")
    with pytest.raises(BudgetExceeded):
        client.post(a_task())
    assert (standin.received, guard.ledger.tasks()) == ([], [])


def test_a_session_that_is_made_cannot_be_wrapped_and_the_error_says_how_to_make_it(guard: Guard) -> None:
    async def use(session: Any) -> None:
        guard.wrap(session)

    with pytest.raises(TypeError, match=r"middlewares=\(guard.aiohttp_middleware,\)"):
        in_session(guard, use)


def test_the_same_guard_twice_is_once(guard: Guard, url: str) -> None:
    async def use(session: Any) -> None:
        await session.post(url, json=[a_task()])

    in_session(guard, use, middlewares=(guard.aiohttp_middleware, guard.aiohttp_middleware))
    assert only_task(guard).attempts == 1


def test_two_guards_on_a_session_are_refused_and_nothing_is_sent(
    guard: Guard, make_guard: Callable[..., Guard], tmp_path: Any, standin: StandIn, url: str
) -> None:
    other = make_guard(path=tmp_path / "other.db")

    async def use(session: Any) -> None:
        await session.post(url, json=[a_task()])

    with pytest.raises(ConfigurationError, match="another Guard"):
        in_session(guard, use, middlewares=(guard.aiohttp_middleware, other.aiohttp_middleware))
    assert (standin.received, other.ledger.tasks(), only_task(guard).status) == ([], [], "released")


def test_a_scope_is_of_its_asyncio_task(guard: Guard, url: str) -> None:
    async def use(session: Any) -> None:
        async def post(name: str) -> None:
            with guard.scope(project=name):
                await asyncio.sleep(0)
                await session.post(url, json=[a_task(taskUUID=name)])

        await asyncio.gather(*map(post, "abcd"))

    in_session(guard, use)
    assert {row.task_uuid: row.project for row in guard.ledger.tasks()} == {name: name for name in "abcd"}


def test_one_guard_serves_sessions_of_many_loops(guard: Guard, url: str) -> None:
    async def use(session: Any) -> None:
        await asyncio.gather(*(session.post(url, json=[a_task()]) for _ in range(5)))

    threads = [threading.Thread(target=in_session, args=(guard, use)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row.status for row in guard.ledger.tasks()] == ["settled"] * 20
    audit(guard)


def test_concurrent_calls_never_pass_the_limit(guard: Guard, standin: StandIn, url: str) -> None:
    each = guard.estimate(a_task()).upper
    assert each is not None
    guard.set_budget("acme", each * 5)
    standin.fault("drop_after", times=20)  # so that nothing comes back, and exactly five fit

    async def use(session: Any) -> list[Any]:
        calls = (session.post(url, json=[a_task()]) for _ in range(20))
        return await asyncio.gather(*calls, return_exceptions=True)

    endings = in_session(guard, use)
    assert sum(isinstance(ending, BudgetExceeded) for ending in endings) == 15
    assert len(standin.received) == 5
    audit(guard, standin)


# --- what goes out ---


async def pieces(*some: bytes) -> AsyncIterator[bytes]:
    for piece in some:
        yield piece


BODIES: dict[str, Callable[[bytes], Any]] = {
    "bytes": lambda body: body,
    "text": lambda body: body.decode(),
    "file": io.BytesIO,
    "stream": lambda body: pieces(body[:9], body[9:]),
}


@pytest.mark.parametrize("form", BODIES)
@pytest.mark.parametrize("is_ready", [True, False])
def test_a_task_is_guarded_in_whatever_form_its_body_comes_and_a_redirect_repeats_it(
    form: str, is_ready: bool, guard: Guard, standin: StandIn, url: str
) -> None:
    standin.fault("redirect:308")
    body = json.dumps([a_task(includeCost=is_ready, includeUsage=is_ready)], indent=1).encode()

    async def use(session: Any) -> None:
        headers = {"Content-Type": "application/json"}
        async with session.post(url, data=BODIES[form](body), headers=headers) as response:
            assert response.status == 200

    in_session(guard, use)
    first, second = standin.received
    assert first.body == second.body
    assert first.headers["content-type"] == second.headers["content-type"] == "application/json"
    assert (first.body == body) is is_ready
    assert (only_task(guard).status, only_task(guard).attempts) == ("settled", 2)
    audit(guard, standin)


@pytest.mark.parametrize("how", ["by hand", "by aiohttp"])
@pytest.mark.parametrize("redirected", [False, True])
def test_a_compressed_task_is_read_and_sent_plain_where_it_is_changed(
    how: str, redirected: bool, guard: Guard, standin: StandIn, url: str
) -> None:
    if redirected:
        standin.fault("redirect:307")

    async def use(session: Any) -> None:
        body = json.dumps([a_task()]).encode()
        headers = {"Content-Type": "application/json"}
        if how == "by hand":
            body = gzip.compress(body)
            headers |= {"Content-Encoding": "gzip", "Content-Length": str(len(body))}
        async with session.post(url, data=body, headers=headers, compress=how == "by aiohttp" or None) as response:
            assert response.status == 200

    in_session(guard, use)
    (sent,) = sent_tasks(standin)
    assert sent["includeCost"] is True
    assert only_task(guard).status == "settled"


def test_an_unreadable_body_to_the_native_endpoint_is_refused(client: LoopClient, standin: StandIn) -> None:
    with pytest.raises(InvalidRequest):
        client.post(content=b"\x00\xff")
    assert not standin.received


def multipart() -> aiohttp.FormData:
    form = aiohttp.FormData()
    form.add_field("f", b"taskType", filename="n")
    return form


OTHERS: dict[str, Callable[[], dict[str, Any]]] = {
    "JSON": lambda: {"data": b'{ "a" :1}\n', "headers": {"Content-Type": "application/json"}},
    "form": lambda: {"data": {"taskType": "x"}},
    "multipart": lambda: {"data": multipart()},
    "stream": lambda: {"data": pieces(b"[ 1,", b"2]")},
    "stream of JSON": lambda: {"data": pieces(b"[ 1,", b"2]"), "headers": {"Content-Type": "application/json"}},
    "file": lambda: {"data": io.BytesIO(b"\x00" * 500)},
    "compressed": lambda: {"data": b"[1, 2]", "compress": "deflate"},
    "empty": dict,
}


@pytest.mark.parametrize("form", OTHERS)
def test_what_is_not_ours_goes_out_byte_for_byte(form: str, guard: Guard, make_client: MakeClient) -> None:
    plain, echo = Echo(), Echo()
    for transport, under in ((plain, None), (echo, guard)):
        make_client(KIND, under, transport=transport).post(url="https://else.test/upload", **OTHERS[form]())
    (bare,), (ours,) = plain.requests, echo.requests

    def seen(request: httpx.Request) -> bytes:
        headers = b"".join(b"%b:%b\n" % pair for pair in request.headers.raw)
        return re.sub(b"[0-9a-f]{32}", b"BOUNDARY", headers + request.content)

    assert seen(ours) == seen(bare)


def test_an_upload_to_elsewhere_is_not_read_early(guard: Guard) -> None:
    taken: list[int] = []

    async def upload() -> AsyncIterator[bytes]:
        taken.append(1)
        yield b"\x00"

    async def never(request: Any, handler: Any) -> Any:
        raise aiohttp.ClientError("not today")

    async def use(session: Any) -> None:
        await session.post("http://else.test/", data=upload())

    with pytest.raises(aiohttp.ClientError, match="not today"):
        in_session(guard, use, middlewares=(guard.aiohttp_middleware, never))
    assert taken == []


# --- what comes back ---

READS: dict[str, Use] = {
    "read": lambda response: response.read(),
    "text": lambda response: response.text(),
    "content.read": lambda response: response.content.read(),
    "content.read in pieces": lambda response: _all(lambda: response.content.read(7)),
    "readany": lambda response: _all(response.content.readany),
    "readline": lambda response: _all(response.content.readline),
    "readuntil": lambda response: _all(lambda: response.content.readuntil(b"e")),
    "lines": lambda response: _listed(response.content),
    "iter_any": lambda response: _listed(response.content.iter_any()),
    "iter_chunked": lambda response: _listed(response.content.iter_chunked(9)),
    "iter_chunks": lambda response: _listed(response.content.iter_chunks()),
}


async def _all(read: Callable[[], Awaitable[bytes]]) -> bytes:
    found = b""
    while piece := await read():
        found += piece
    return found


async def _listed(items: Any) -> bytes:
    return b"".join([item[0] if isinstance(item, tuple) else item async for item in items])


@pytest.mark.parametrize("how", READS)
@pytest.mark.parametrize("delivery", ["sync", "stream"])
@pytest.mark.parametrize("encoding", [None, "gzip"])
def test_an_answer_is_what_a_bare_session_gets_however_it_is_read(
    how: str, delivery: str, encoding: str | None, guard: Guard, standin: StandIn, url: str
) -> None:
    standin.content_encoding = encoding
    standin.bill_retries_once = True
    task = a_task(deliveryMethod=delivery, includeCost=True, includeUsage=True)

    async def use(session: Any) -> Any:
        async with session.post(url, json=[task]) as response:
            return await READS[how](response), response.status, response.reason, response.method, response.history

    assert in_session(guard, use) == in_session(None, use)
    assert only_task(guard).status == "settled"
    audit(guard, standin)


@pytest.mark.parametrize("delivery", ["sync", "stream"])
def test_an_answer_that_the_session_does_not_decompress_is_read_on_the_side(
    delivery: str, guard: Guard, standin: StandIn, url: str
) -> None:
    standin.content_encoding = "gzip"

    async def use(session: Any) -> bytes:
        async with session.post(url, json=[a_task(deliveryMethod=delivery)]) as response:
            return bytes(await response.read())

    assert in_session(guard, use, auto_decompress=False)[:2] == b"\x1f\x8b"
    assert only_task(guard).status == "settled"


def test_the_receipt_is_beside_the_response(guard: Guard, url: str) -> None:
    async def use(session: Any) -> Any:
        async with session.post(url, json=[a_task()]) as response:
            return response.costguard

    assert in_session(guard, use).charged is not None


@pytest.mark.parametrize("way", ["release", "close", "async with", "break"])
def test_a_stream_closed_early_is_unresolved(way: str, guard: Guard, make_client: MakeClient) -> None:
    task = a_task(deliveryMethod="stream")
    go_on = threading.Event()
    sent = [frame(task, text="grey"), frame(task, finishReason="stop", cost=0.0001), DONE]
    transport = Scripted(sent, before=lambda n: None if n == 0 else go_on.wait(10) and None)
    client = make_client(KIND, guard, transport=transport)

    async def use() -> None:
        response = await client.bare.post(client.url("/v1"), json=[task])
        assert await response.content.readline()
        match way:
            case "release":
                response.release()
            case "close":
                response.close()
            case "async with":
                async with response:
                    pass
            case _:
                async with response:
                    async for _ in response.content:
                        break
        go_on.set()

    client.call(use)
    flush(guard)
    assert (only_task(guard).status, only_task(guard).reason) == ("unresolved", "closed early")


def test_a_stream_that_is_dropped_is_unresolved(guard: Guard, url: str) -> None:
    async def use(session: Any) -> None:
        response = await session.post(url, json=[a_task(deliveryMethod="stream")])
        await response.content.readline()
        await response.content.wait_eof()  # as long as something may come, its connection keeps it
        del response
        gc.collect()

    in_session(guard, use)
    assert (only_task(guard).status, only_task(guard).reason) == ("unresolved", "dropped without being closed")


def test_each_chunk_arrives_before_the_next_is_sent(guard: Guard, make_client: MakeClient) -> None:
    task = a_task(deliveryMethod="stream", includeCost=True, includeUsage=True)
    arrived: list[bytes] = []
    news = threading.Semaphore(1)
    sent = [*(frame(task, text=f"word {n}") for n in range(5)), frame(task, finishReason="stop", cost=0.0001), DONE]

    def hear(chunk: bytes) -> None:
        arrived.append(chunk)
        news.release()

    def wait(_: int) -> None:
        assert news.acquire(timeout=10)

    make_client(KIND, guard, transport=Scripted(sent, before=wait)).read_stream(
        "/v1", [task], chunks=None, on_chunk=hear
    )
    assert arrived == sent


def test_raise_for_status_and_cookies_are_as_ever(guard: Guard, standin: StandIn, url: str) -> None:
    standin.fault("status:400")

    async def use(session: Any) -> None:
        with pytest.raises(aiohttp.ClientResponseError) as caught:
            await session.post(url, json=[a_task()])
        assert caught.value.status == 400

    in_session(guard, use, raise_for_status=True)
    assert only_task(guard).status == "released"


def test_a_cookie_of_a_guarded_answer_is_kept(guard: Guard, make_client: MakeClient) -> None:
    client = make_client(KIND, guard, transport=Echo())
    client.post(a_task())
    assert [cookie.key for cookie in client.bare.cookie_jar] == ["seen"]


# --- how a call ends ---


class Silent:
    """Tells that a request has come, or half of its answer was read, and then keeps silent until told."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.has_come: Callable[[], object] = lambda: None
        self.go_on = threading.Event()
        self._stream = Scripted([frame(task, text="grey"), DONE], before=lambda n: self.go_on.wait(60 * n) and None)
        self._is_stream = task["deliveryMethod"] == "stream"

    def handle_request(self, request: httpx.Request) -> Any:
        self.has_come()
        if self._is_stream:
            return self._stream.handle_request(request)
        self.go_on.wait(60)
        raise ConnectionError


HOUR = 3600
LIMITS = {
    "cancel": (None, aiohttp.ClientTimeout()),
    "asyncio.timeout": (HOUR, aiohttp.ClientTimeout()),
    "total": (None, aiohttp.ClientTimeout(total=HOUR)),
    "sock_read": (None, aiohttp.ClientTimeout(sock_read=HOUR)),
}


@pytest.mark.parametrize("moment", ["before the answer", "in a stream"])
@pytest.mark.parametrize("by", LIMITS)
def test_a_call_that_is_cancelled_or_runs_out_of_time_is_unresolved(
    moment: str, by: str, guard: Guard, make_client: MakeClient
) -> None:
    task = a_task(deliveryMethod="stream" if moment == "in a stream" else "sync")
    silent = Silent(task)
    client = make_client(KIND, guard, transport=silent)
    limit, timeout = LIMITS[by]

    async def use() -> None:
        loop: Any = asyncio.get_running_loop()
        call: Any = asyncio.current_task()
        started = loop.time

        def strike() -> None:
            if by == "cancel":
                call.cancel()
            else:
                loop.time = lambda: started() + 2 * HOUR  # the clock of its timers, so that none needs to be waited for

        if moment == "before the answer":
            silent.has_come = lambda: loop.call_soon_threadsafe(strike)
        async with asyncio.timeout(limit):
            async with client.bare.post(client.url("/v1"), json=[task], timeout=timeout) as response:
                await response.content.readline()
                strike()
                await response.read()

    try:
        with pytest.raises((TimeoutError, asyncio.CancelledError)):
            client.call(use)
    finally:
        silent.go_on.set()
    flush(guard)
    assert (only_task(guard).status, only_task(guard).attempts) == ("unresolved", 1)
    audit(guard)


def test_a_connection_that_never_was_is_released(guard: Guard) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    async def use(session: Any) -> None:
        await session.post(f"http://127.0.0.1:{port}/v1", json=[a_task()])

    with pytest.raises(aiohttp.ClientConnectorError):
        in_session(guard, use)
    assert (only_task(guard).status, only_task(guard).reason) == ("released", "ClientConnectorError")


def test_an_error_of_connecting_proves_nothing_where_a_middleware_behind_has_sent_before(
    guard: Guard, standin: StandIn, url: str
) -> None:
    async def again(request: Any, handler: Any) -> Any:
        await handler(request)
        raise aiohttp.ConnectionTimeoutError("the second time")

    async def use(session: Any) -> None:
        await session.post(url, json=[a_task()])

    with pytest.raises(aiohttp.ConnectionTimeoutError):
        in_session(guard, use, middlewares=(guard.aiohttp_middleware, again))
    assert only_task(guard).status == "unresolved"
    audit(guard, standin)


def test_each_sending_of_a_retrying_middleware_before_the_guard_is_an_attempt(
    guard: Guard, standin: StandIn, url: str
) -> None:
    standin.fault("status_billed:503", times=2)

    async def again(request: Any, handler: Any) -> Any:
        while (response := await handler(request)).status == 503:
            pass
        return response

    async def use(session: Any) -> int:
        async with session.post(url, json=[a_task()]) as response:
            return int(response.status)

    assert in_session(guard, use, middlewares=(again, guard.aiohttp_middleware)) == 200
    assert (only_task(guard).attempts, len(standin.received)) == (3, 3)
    audit(guard, standin)


def test_a_digest_challenge_is_answered_under_guard(guard: Guard, standin: StandIn, make_client: MakeClient) -> None:
    class Challenging:
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if "authorization" not in request.headers:
                said = 'Digest realm="r", nonce="n", qop="auth"'
                return httpx.Response(401, headers={"www-authenticate": said}, content=b"{}")
            reply = standin.handle("POST", "/v1", {}, request.content)
            return httpx.Response(200, content=b"".join(reply.chunks))

    client = make_client(KIND, guard, transport=Challenging())
    digest: Any = aiohttp.DigestAuthMiddleware("me", "secret")
    response = client.post(a_task(), middlewares=(digest, guard.aiohttp_middleware))
    assert response.status_code == 200
    assert (only_task(guard).status, only_task(guard).attempts) == ("settled", 2)


def test_unresolved_tasks_are_asked_for_before_a_refusal_they_cause(
    guard: Guard, standin: StandIn, url: str, clock: Any
) -> None:
    from datetime import timedelta

    each = guard.estimate(a_task()).upper
    assert each is not None
    guard.set_budget("acme", each * 19 / 10)
    standin.fault("status_billed:503")

    async def use(session: Any) -> None:
        await session.post(url, json=[a_task()])
        clock.now += timedelta(minutes=5)
        await session.post(url, json=[a_task()])

    in_session(guard, use, headers={"Authorization": "Bearer key"})
    assert [row.status for row in guard.ledger.tasks()] == ["settled", "settled"]
    assert standin.received[1].headers["authorization"] == "Bearer key"
    audit(guard, standin)
