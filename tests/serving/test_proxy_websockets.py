"""Websockets through the proxy: held before a frame goes out, settled by what comes in, refused in the wire's words."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from socket import create_server
from typing import Any

import pytest
import runware
import websockets
from conftest import a_task, audit
from proxied import WAIT_S, Served, raw, until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve as serve_sync

from costguard import ConfigurationError, Guard, tokens
from costguard.money import NANOS
from costguard.serving import app, door
from costguard.testing import StandIn

pytest_plugins = ("serving_fixtures",)


@pytest.fixture
def far(standin: StandIn) -> Iterator[str]:
    """The stand-in on a websocket."""
    with standin.serve_websocket() as url:
        yield url


@pytest.fixture
def talk_guard(far: str, upstream: str, make_guard: Callable[..., Guard]) -> Guard:
    guard = make_guard(endpoints=[f"{upstream}/v1", far])
    guard.set_budget("/", 1, per="total")
    return guard


@pytest.fixture
def talks(talk_guard: Guard, upstream: str, far: str, serve: Callable[..., Served]) -> Served:
    """A proxy before both."""
    return serve(talk_guard, upstream, upstream_ws=far)


def address(served: Served, path: str = "/v1") -> str:
    return served.url.replace("http", "ws", 1) + path


def test_many_tasks_on_one_connection_are_charged_as_billed(talks: Served, talk_guard: Guard, standin: StandIn) -> None:
    sent = [a_task() for _ in range(5)]
    with connect(address(talks)) as socket:
        socket.send(json.dumps([{"taskType": "authentication", "apiKey": "KEY"}]))
        assert json.loads(socket.recv(WAIT_S))["data"][0]["taskType"] == "authentication"
        socket.send(json.dumps(sent[:2]))
        for task in sent[2:]:
            socket.send(json.dumps([task]).encode())
        told = [json.loads(socket.recv(WAIT_S))["data"][0]["taskUUID"] for _ in sent]
        assert sorted(told) == sorted(task["taskUUID"] for task in sent)
        socket.send(json.dumps([a_task(deliveryMethod="stream")]))
        while "finishReason" not in str(socket.recv(WAIT_S)):
            pass
    until(lambda: {row.status for row in talk_guard.ledger.tasks()} == {"settled"})
    assert sum(row.charged for row in talk_guard.ledger.tasks()) == int(standin.billed() * NANOS)
    audit(talk_guard)


def test_a_frame_over_budget_is_refused_and_the_connection_goes_on(
    talks: Served, talk_guard: Guard, standin: StandIn
) -> None:
    talk_guard.set_budget("acme", 0, per="total")
    refused = a_task()
    with connect(address(talks)) as socket:
        socket.send(json.dumps([refused]))
        (error,) = json.loads(socket.recv(WAIT_S))["errors"]
        assert (error["code"], error["taskUUID"]) == ("budgetExceeded", refused["taskUUID"])
        socket.send(b"[{")
        assert json.loads(socket.recv(WAIT_S))["errors"][0]["code"] == "invalidRequest"
        talk_guard.remove_budget("acme", per="total")
        socket.send(json.dumps([a_task()]))
        assert "data" in json.loads(socket.recv(WAIT_S))
    assert len(standin.received) == 1


@pytest.mark.parametrize("fault", ["drop_after", "cut"])
def test_a_connection_that_breaks_leaves_what_was_sent_unresolved(
    fault: str, talks: Served, talk_guard: Guard, standin: StandIn
) -> None:
    standin.fault(fault)
    with connect(address(talks)) as socket:
        socket.send(json.dumps([a_task()]))
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(WAIT_S)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1011
    until(lambda: [row.status for row in talk_guard.ledger.tasks()] == ["unresolved"])
    audit(talk_guard, standin)


def test_a_caller_that_leaves_leaves_its_task_unresolved_and_the_upstream_is_left(
    upstream: str, make_guard: Callable[..., Guard], serve: Callable[..., Served]
) -> None:
    heard, left = threading.Event(), threading.Event()

    def listen(connection: Any) -> None:
        connection.recv()
        heard.set()
        try:
            connection.recv()
        except ConnectionClosed:
            left.set()

    with serve_sync(listen, "127.0.0.1", 0) as silent:
        thread = threading.Thread(target=silent.serve_forever)
        thread.start()
        far = f"ws://127.0.0.1:{silent.socket.getsockname()[1]}"
        guard = make_guard(endpoints=[f"{upstream}/v1", far])
        proxy = serve(guard, upstream, upstream_ws=far)
        with connect(address(proxy)) as socket:
            socket.send(json.dumps([a_task()]))
            assert heard.wait(WAIT_S)
        assert left.wait(WAIT_S)
        until(lambda: [row.status for row in guard.ledger.tasks()] == ["unresolved"])
        silent.shutdown()
        thread.join()


def test_tokens_and_projects_are_asked_for_before_there_is_a_connection(
    talks: Served, talk_guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "FRESH_S", 0)
    text, kept = tokens.make("acme/web", "", 1, "me")
    talk_guard.ledger.add_token(kept)
    for path, headers in (("/v1", {}), ("/t/wrong/v1", {}), ("/v1", {"X-Costguard-Token": text[:-1]})):
        with pytest.raises(InvalidStatus) as caught, connect(address(talks, path), additional_headers=headers):
            pass
        assert caught.value.response.status_code == 401
        assert b"errors" in (caught.value.response.body or b"")
    for path, headers in ((f"/t/{text}/v1", {}), ("/v1", {"X-Costguard-Token": text})):
        with connect(address(talks, path), additional_headers=headers) as socket:
            socket.send(json.dumps([a_task()]))
            socket.recv(WAIT_S)
    assert [row.project for row in talk_guard.ledger.tasks()] == ["acme/web"] * 2


def test_a_token_that_is_revoked_ends_its_connection_once_nothing_is_waited_for(
    upstream: str, make_guard: Callable[..., Guard], serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "FRESH_S", 0)
    goes_on = threading.Event()
    got: list[str] = []

    def listen(connection: Any) -> None:
        for frame in connection:
            got.append(frame)
            goes_on.wait(WAIT_S)
            (task,) = json.loads(frame)
            told = {"taskType": task["taskType"], "taskUUID": task["taskUUID"], "text": "x", "cost": 0.0001}
            connection.send(json.dumps({"data": [told]}))

    with serve_sync(listen, "127.0.0.1", 0) as slow:
        thread = threading.Thread(target=slow.serve_forever)
        thread.start()
        far = f"ws://127.0.0.1:{slow.socket.getsockname()[1]}"
        guard = make_guard(endpoints=[f"{upstream}/v1", far])
        text, kept = tokens.make("acme/web", "", 1, "me")
        guard.ledger.add_token(kept)
        proxy = serve(guard, upstream, upstream_ws=far)
        with connect(address(proxy), additional_headers={"X-Costguard-Token": text}) as socket:
            socket.send(json.dumps([a_task()]))
            until(lambda: got)
            guard.ledger.revoke_token(kept.id, 2)
            refused = a_task()
            socket.send(json.dumps([refused]))
            (error,) = json.loads(socket.recv(WAIT_S))["errors"]
            assert (error["code"], error["taskUUID"]) == ("tokenRefused", refused["taskUUID"])
            goes_on.set()
            assert json.loads(socket.recv(WAIT_S))["data"][0]["cost"] == 0.0001
            with pytest.raises(ConnectionClosed):
                socket.recv(WAIT_S)
        slow.shutdown()
        thread.join()
    assert [(row.status, row.charged) for row in guard.ledger.tasks()] == [("settled", 100_000)]
    assert len(got) == 1


@pytest.mark.parametrize("mode", ["enforce", "observe"])
@pytest.mark.parametrize("target", ["@127.0.0.1:{port}/v1", "/v1#x"])
def test_a_target_that_is_no_path_leads_a_websocket_nowhere(
    target: str, mode: str, far: str, upstream: str, make_guard: Callable[..., Guard], serve: Callable[..., Served]
) -> None:
    proxy = serve(make_guard(mode=mode, endpoints=[f"{upstream}/v1", far]), upstream, upstream_ws=far)
    asked = (
        "Host: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        told = raw(proxy.url, f"GET {target.format(port=elsewhere.getsockname()[1])} HTTP/1.1\r\n{asked}".encode())
        assert told.startswith(b"HTTP/1.1 400 ")
        assert b"pathNotPlain" in told
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


def test_a_websocket_that_is_not_native_is_refused_under_a_guard_that_enforces(talks: Served) -> None:
    with pytest.raises(InvalidStatus) as caught, connect(address(talks, "/v1/realtime")):
        pass
    assert caught.value.response.status_code == 403


def test_an_upstream_that_is_not_there_or_says_no_is_told_so(
    upstream: str, make_guard: Callable[..., Guard], serve: Callable[..., Served]
) -> None:
    def refuse(connection: Any, request: Any) -> Any:
        return connection.respond(401, "who are you?")

    with serve_sync(lambda _: None, "127.0.0.1", 0, process_request=refuse) as stern:
        thread = threading.Thread(target=stern.serve_forever)
        thread.start()
        far = f"ws://127.0.0.1:{stern.socket.getsockname()[1]}"
        proxy = serve(make_guard(endpoints=[f"{upstream}/v1", far]), upstream, upstream_ws=far)
        with pytest.raises(InvalidStatus) as caught, connect(address(proxy)):
            pass
        assert (caught.value.response.status_code, caught.value.response.body) == (401, b"who are you?")
        stern.shutdown()
        thread.join()
    with pytest.raises(InvalidStatus) as caught, connect(address(proxy)):
        pass
    assert caught.value.response.status_code == 502


def test_a_proxy_that_ends_closes_what_is_at_rest_and_lets_the_others_be_answered(
    upstream: str, make_guard: Callable[..., Guard], serve: Callable[..., Served], standin: StandIn
) -> None:
    heard, goes_on = threading.Event(), threading.Event()

    def slow(connection: Any) -> None:
        for message in connection:
            heard.set()
            assert goes_on.wait(WAIT_S)
            reply = standin.handle("POST", "/v1", {}, message if isinstance(message, bytes) else message.encode())
            connection.send(b"".join(reply.chunks).decode())

    with serve_sync(slow, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        far = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        guard = make_guard(endpoints=[f"{upstream}/v1", far])
        proxy = serve(guard, upstream, upstream_ws=far)
        with connect(address(proxy)) as idle, connect(address(proxy)) as busy:
            busy.send(json.dumps([a_task()]))
            assert heard.wait(WAIT_S)
            proxy.end()
            with pytest.raises(ConnectionClosed) as caught:
                idle.recv(WAIT_S)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1001
            goes_on.set()
            assert "data" in json.loads(busy.recv(WAIT_S))
            with pytest.raises(ConnectionClosed):
                busy.recv(WAIT_S)
        proxy.thread.join()
        server.shutdown()
        thread.join()
    assert [(row.status, row.charged) for row in guard.ledger.tasks()] == [("settled", int(standin.billed() * NANOS))]


def test_what_outlasts_the_end_of_a_proxy_is_unresolved(
    talk_guard: Guard, upstream: str, make_guard: Callable[..., Guard], serve: Callable[..., Served]
) -> None:
    heard = threading.Event()

    async def main() -> None:
        async def silent(connection: Any) -> None:
            await connection.recv()
            heard.set()
            await connection.wait_closed()

        async with websockets.serve(silent, "127.0.0.1", 0) as server:
            far = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            guard = make_guard(endpoints=[f"{upstream}/v1", far])
            proxy = serve(guard, upstream, upstream_ws=far, drain_s=0)
            async with websockets.connect(address(proxy)) as socket:
                await socket.send(json.dumps([a_task()]))
                assert await asyncio.to_thread(heard.wait, WAIT_S)
                proxy.end()
                await asyncio.to_thread(proxy.thread.join)
            assert [row.status for row in guard.ledger.tasks()] == ["unresolved"]

    asyncio.run(main())


@pytest.mark.parametrize("transport", ["rest", "websocket"])
def test_the_runware_sdk_needs_nothing_but_the_address(
    transport: str, talks: Served, talk_guard: Guard, standin: StandIn
) -> None:
    async def main() -> Any:
        options = {"http_base_url": f"{talks.url}/v1"} if transport == "rest" else {"ws_base_url": address(talks)}
        async with runware.Runware(api_key="KEY", transport=transport, retry_delay=0, **options) as client:
            return await asyncio.gather(*(client.run(a_task(deliveryMethod="sync")) for _ in range(3)))

    assert [len(results) for results in asyncio.run(main())] == [1] * 3
    until(lambda: {row.status for row in talk_guard.ledger.tasks()} == {"settled"})
    assert sum(row.charged for row in talk_guard.ledger.tasks()) == int(standin.billed() * NANOS)


@pytest.mark.parametrize("url", ["http://x", "ws://", "wss://u:p@x/v1", "wss://x/v1?y=1"])
def test_an_address_that_is_none_is_an_error(url: str, make_guard: Callable[..., Guard]) -> None:
    with pytest.raises(ConfigurationError, match="upstream_ws: "):
        app(make_guard(), "https://api.runware.ai", upstream_ws=url)


def test_runwares_own_are_known_and_others_are_to_be_named(make_guard: Callable[..., Guard]) -> None:
    assert app(make_guard(), "https://api.runware.ai")._sockets.name == "ws-api.runware.ai"
    with pytest.raises(ConfigurationError, match=r"Guard\(endpoints=\['wss://elsewhere.example/v1'\]\)"):
        app(make_guard(), "https://api.runware.ai", upstream_ws="wss://elsewhere.example")
