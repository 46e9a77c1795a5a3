"""Websockets through the proxy: not guarded yet, so they pass where nothing is refused, and only there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from proxied import WAIT_S, Served
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import serve as serve_sync

from costguard import ConfigurationError, Guard, tokens
from costguard.serving import app

pytest_plugins = ("serving_fixtures",)


@pytest.fixture
def far() -> Iterator[str]:
    """A websocket that says everything twice, and leaves when it is told to."""

    def echo(connection: Any) -> None:
        for message in connection:
            if message == "leave":
                connection.close(4001, "as you wish")
                return
            connection.send(message)
            connection.send(message)

    def choose(_: Any, offered: Any) -> Any:
        return "tasks" if "tasks" in offered else None

    with serve_sync(echo, "127.0.0.1", 0, select_subprotocol=choose, max_size=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()
        thread.join()


def address(served: Served, path: str = "/v1") -> str:
    return served.url.replace("http", "ws", 1) + path


def test_under_a_guard_that_enforces_they_are_refused_and_the_answer_says_so(own_guard: Guard, served: Served) -> None:
    with pytest.raises(InvalidStatus) as caught, connect(address(served)):
        pass
    assert caught.value.response.status_code == 403
    assert b'"websocketNotMetered"' in (caught.value.response.body or b"")


@pytest.mark.parametrize("mode", ["observe", "off"])
def test_where_nothing_is_refused_they_pass_both_ways(
    mode: str, far: str, upstream: str, make_guard: Callable[..., Guard], serve: Callable[..., Served]
) -> None:
    proxy = serve(make_guard(mode=mode, endpoints=[f"{upstream}/v1"]), upstream, upstream_ws=far)
    with connect(address(proxy), subprotocols=["other", "tasks"], max_size=None) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "tasks"
        for message in ("text", b"\x00bytes", "x" * 2**21):
            socket.send(message)
            assert [socket.recv(WAIT_S), socket.recv(WAIT_S)] == [message, message]
        socket.send("leave")
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(WAIT_S)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 4001


def test_tokens_are_asked_for_before_there_is_a_connection(
    far: str, upstream: str, make_guard: Callable[..., Guard], serve: Callable[..., Served]
) -> None:
    guard = make_guard(mode="observe", endpoints=[f"{upstream}/v1"])
    text, kept = tokens.make("acme/web", "", 1, "me")
    guard.ledger.add_token(kept)
    proxy = serve(guard, upstream, upstream_ws=far)
    for path in ("/v1", "/t/wrong/v1"):
        with pytest.raises(InvalidStatus) as caught, connect(address(proxy, path)):
            pass
        assert caught.value.response.status_code == 401
    with connect(address(proxy, f"/t/{text}/v1")) as socket:
        socket.send("x")
        assert socket.recv(WAIT_S) == "x"


def test_an_upstream_that_is_not_there_or_says_no_is_told_so(
    upstream: str, make_guard: Callable[..., Guard], serve: Callable[..., Served]
) -> None:
    def refuse(connection: Any, request: Any) -> Any:
        return connection.respond(401, "who are you?")

    guard = make_guard(mode="observe", endpoints=[f"{upstream}/v1"])
    with serve_sync(lambda _: None, "127.0.0.1", 0, process_request=refuse) as stern:
        thread = threading.Thread(target=stern.serve_forever)
        thread.start()
        proxy = serve(guard, upstream, upstream_ws=f"ws://127.0.0.1:{stern.socket.getsockname()[1]}")
        with pytest.raises(InvalidStatus) as caught, connect(address(proxy)):
            pass
        assert (caught.value.response.status_code, caught.value.response.body) == (401, b"who are you?")
        stern.shutdown()
        thread.join()
    with pytest.raises(InvalidStatus) as caught, connect(address(proxy)):
        pass
    assert caught.value.response.status_code == 502


def test_a_proxy_that_ends_closes_them(
    far: str, upstream: str, make_guard: Callable[..., Guard], serve: Callable[..., Served]
) -> None:
    proxy = serve(make_guard(mode="observe", endpoints=[f"{upstream}/v1"]), upstream, upstream_ws=far)
    with connect(address(proxy)) as socket:
        proxy.end()
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(WAIT_S)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1001


@pytest.mark.parametrize("url", ["http://x", "ws://", "wss://u:p@x/v1", "wss://x/v1?y=1"])
def test_an_address_that_is_none_is_an_error(url: str, make_guard: Callable[..., Guard]) -> None:
    with pytest.raises(ConfigurationError, match="upstream_ws: "):
        app(make_guard(), "https://api.runware.ai", upstream_ws=url)


def test_runwares_own_are_known(make_guard: Callable[..., Guard]) -> None:
    assert app(make_guard(), "https://api.runware.ai/v1")._sockets.name == "ws-api.runware.ai"
