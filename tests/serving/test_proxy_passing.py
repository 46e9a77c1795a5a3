"""What passes through the proxy as it is, and what does not."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from conftest import a_task
from proxied import WAIT_S, Got, Plain, Served, raw

from costguard import ConfigurationError, Guard
from costguard.serving import app, proxy, upstream
from costguard.testing import StandIn
from costguard.wire.dialect import Problem
from costguard.wire.runware import problems

pytest_plugins = ("serving_fixtures",)

OK: tuple[int, list[tuple[str, str]], list[bytes]] = (200, [("content-length", "2")], [b"ok"])


def names(got: Got) -> dict[str, str]:
    return {name.lower(): value for name, value in got.headers}


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "POST"])
def test_what_is_not_guarded_passes_untouched(
    method: str, guard_of: Callable[..., Guard], serve: Callable[..., Served], web: httpx.Client
) -> None:
    answered = (
        207,
        [("content-length", "2"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Odd", "\xe9")],
        [b"ok"],
    )

    def answer(got: Got) -> Any:
        return answered if got.method != "HEAD" else (*answered[:2], [])

    body = None if method in ("GET", "HEAD") else b"\x00 not json"
    with Plain(answer) as api:
        proxy = serve(guard_of(api.url), api.url)
        response = web.request(
            method,
            f"{proxy.url}/v1/files/a%20b?q=%2F1&q=2",
            content=body,
            headers=[("Authorization", "Bearer KEY"), ("x-api-key", "K2"), ("X-Twice", "1"), ("X-Twice", "2")],
        )
    (got,) = api.got
    assert (got.method, got.path, got.body) == (method, "/v1/files/a%20b?q=%2F1&q=2", body or b"")
    assert [value for name, value in got.headers if name.lower() == "x-twice"] == ["1", "2"]
    assert names(got)["authorization"] == "Bearer KEY"
    assert names(got)["x-api-key"] == "K2"
    assert names(got)["host"] == urlsplit(api.url).netloc
    assert response.status_code == 207
    assert response.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert response.headers.raw[-1] == (b"x-odd", b"\xe9")
    assert response.content == (b"" if method == "HEAD" else b"ok")


def test_headers_of_one_connection_and_of_the_proxy_do_not_pass(
    guard_of: Callable[..., Guard], serve: Callable[..., Served], web: httpx.Client
) -> None:
    told = {
        "Connection": "keep-alive, X-Mine",
        "X-Mine": "1",
        "TE": "trailers",
        "Proxy-Authorization": "Basic x",
        "Forwarded": "for=10.0.0.1",
        "X-Forwarded-For": "10.0.0.1",
        "X-Forwarded-Proto": "https",
        "X-Project": "acme/web",
        "X-Kept": "1",
    }
    answered = (
        200,
        [("content-length", "2"), ("Connection", "X-Theirs"), ("X-Theirs", "1"), ("Keep-Alive", "5")],
        [b"ok"],
    )
    with Plain(lambda _: answered) as api:
        proxy = serve(guard_of(api.url), api.url, project_header="X-Project")
        response = web.get(f"{proxy.url}/v1/models", headers=told)
    assert {"x-kept", "accept", "user-agent", "host"} <= names(api.got[0]).keys()
    assert not names(api.got[0]).keys() & {name.lower() for name in told} - {"x-kept"}
    assert not {"x-theirs", "keep-alive"} & set(response.headers)


def test_redirects_are_not_followed_and_cookies_are_nobodys(
    guard_of: Callable[..., Guard], serve: Callable[..., Served], web: httpx.Client
) -> None:
    answered: tuple[int, list[tuple[str, str]], list[bytes]] = (
        307,
        [("content-length", "0"), ("Location", "/elsewhere"), ("Set-Cookie", "session=hers")],
        [],
    )
    with Plain(lambda _: answered) as api:
        proxy = serve(guard_of(api.url), api.url)
        for _ in range(2):
            with httpx.Client() as client:
                assert client.get(f"{proxy.url}/v1/models").headers["location"] == "/elsewhere"
    assert [got.path for got in api.got] == ["/v1/models"] * 2
    assert "cookie" not in names(api.got[1])


def test_an_encoded_answer_passes_as_it_came(
    guard_of: Callable[..., Guard], serve: Callable[..., Served], web: httpx.Client
) -> None:
    packed = gzip.compress(b"plain")
    answered = (200, [("content-length", str(len(packed))), ("Content-Encoding", "gzip")], [packed])
    with Plain(lambda _: answered) as api:
        proxy = serve(guard_of(api.url), api.url)
        with web.stream("GET", f"{proxy.url}/v1/models") as response:
            assert b"".join(response.iter_raw()) == packed
            assert response.headers["content-encoding"] == "gzip"


def test_an_answer_that_is_read_is_asked_for_in_no_encoding_that_cannot_be(
    own_guard: Guard, served: Served, standin: StandIn, web: httpx.Client
) -> None:
    standin.content_encoding = "gzip"
    for asked in ("br, gzip;q=0.5, zstd, *", "br", "gzip"):
        response = web.post(f"{served.url}/v1", json=[a_task()], headers={"Accept-Encoding": asked})
        assert "data" in response.json()
    assert [one.headers["accept-encoding"] for one in standin.received] == ["gzip;q=0.5", "identity", "gzip"]
    assert {row.status for row in own_guard.ledger.tasks()} == {"settled"}


def test_an_upload_that_is_not_guarded_is_passed_on_as_it_comes(
    guard_of: Callable[..., Guard], serve: Callable[..., Served]
) -> None:
    heard: list[bytes] = []
    first = threading.Event()

    def listen(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.settimeout(WAIT_S)
            while b"0\r\n\r\n" not in b"".join(heard)[-5:]:
                heard.append(connection.recv(65536))
                if b"first" in b"".join(heard):
                    first.set()
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=listen, args=(listening,))
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        proxy = serve(guard_of(url), url)
        parts = urlsplit(proxy.url)
        with socket.create_connection((str(parts.hostname), parts.port or 0), WAIT_S) as client:
            client.sendall(
                b"POST /v1/files HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
                b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            assert client.recv(65536).startswith(b"HTTP/1.1 100 ")
            client.sendall(b"5\r\nfirst\r\n")
            assert first.wait(WAIT_S)
            client.sendall(b"4\r\nlast\r\n0\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 204 ")
        thread.join()
    told = b"".join(heard)
    assert b"expect" not in told.lower()
    assert told.endswith(b"5\r\nfirst\r\n4\r\nlast\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "path",
    [
        "/V1",
        "/v1/%63hat/completions",
        "/v1/chat//completions",
        "/v1/chat/completions;x=1",
        "/v1/Chat/Completions",
        "/v1/chat/completions%20",
        "/v1/chat%2Fcompletions",
        "/v1%2fresponses",
        "/v1\\messages",
        "/v1/responses%3Fx",
        "/v1/responses%23x",
        "/v1/responses%00.txt",
        "/v1/%2563hat/completions",
        "/v1/re%C5%BFponses",
    ],
)
def test_another_spelling_of_a_guarded_path_is_refused(path: str, served: Served, standin: StandIn) -> None:
    body = json.dumps({"model": "m", "messages": []}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    told = raw(served.url, head.encode() + body)
    assert told.startswith(b"HTTP/1.1 400 ")
    assert b"pathNotPlain" in told
    assert standin.received == []


@pytest.mark.parametrize("target", ["http://elsewhere.example/v1/models", "*"])
def test_a_target_that_is_no_path_is_refused(target: str, served: Served, standin: StandIn) -> None:
    told = raw(served.url, f"OPTIONS {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert told.startswith(b"HTTP/1.1 400 ")
    assert standin.received == []


def test_a_body_that_must_be_read_has_a_bound(
    served: Served, standin: StandIn, web: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "BODY_BYTES_MAX", 100)
    response = web.post(f"{served.url}/v1/responses", json={"model": "m", "input": "x" * 100})
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"
    assert standin.received == []


@pytest.mark.parametrize("url", ["ftp://x", "https://", "https://u:p@x", "https://x?y=1", "https://[", "x"])
def test_an_upstream_that_is_no_address_is_an_error(url: str, make_guard: Callable[..., Guard]) -> None:
    with pytest.raises(ConfigurationError, match="upstream: "):
        app(make_guard(), url)


def test_an_upstream_that_the_guard_does_not_know_is_an_error_that_says_what_to_do(
    make_guard: Callable[..., Guard],
) -> None:
    with pytest.raises(ConfigurationError, match=r"Guard\(endpoints=\['https://llm.example/base/v1'\]\)"):
        app(make_guard(), "https://llm.example/base/")
    app(make_guard(), "https://api.runware.ai/v1/")


def test_an_upstream_below_a_path_gets_all_calls_there(
    guard_of: Callable[..., Guard], serve: Callable[..., Served], web: httpx.Client
) -> None:
    with Plain(lambda _: OK) as api:
        url = f"{api.url}/base/v1"
        proxy = serve(guard_of(url), url)
        assert web.get(f"{proxy.url}/v1/models").content == b"ok"
        assert web.post(f"{proxy.url}/v1", content=b"{").status_code == 400
    assert [got.path for got in api.got] == ["/base/v1/models"]


@pytest.mark.parametrize("length", [3, 5000])
@pytest.mark.parametrize("path", ["/v1", "/v1/files"])
def test_a_request_of_two_lengths_is_as_long_as_its_chunks(
    path: str, length: int, guard_of: Callable[..., Guard], serve: Callable[..., Served]
) -> None:
    body = json.dumps([a_task(includeCost=True, includeUsage=True)]).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n"
    chunks = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    with Plain(lambda _: OK) as api:
        told = raw(serve(guard_of(api.url), api.url).url, head.encode() + chunks)
    assert told.startswith(b"HTTP/1.1 200 ")
    assert [got.body for got in api.got] == [body]
    assert "content-length" not in names(api.got[0])


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "x-http-method", "X-Method-Override"])
def test_no_other_method_passes_for_a_post(
    name: str, guard_of: Callable[..., Guard], serve: Callable[..., Served], web: httpx.Client
) -> None:
    with Plain(lambda _: OK) as api:
        address = serve(guard_of(api.url), api.url).url
        for method in ("POST", "post", "DELETE"):
            web.put(f"{address}/v1", json=[a_task()], headers={name: method})
    assert [names(got).get(name.lower()) for got in api.got] == [None, None, "DELETE"]


def test_an_answer_that_fails_here_is_logged_without_its_words(
    guard_of: Callable[..., Guard], serve: Callable[..., Served], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(httpx.AsyncByteStream):
        async def __aiter__(self) -> Any:
            yield b"x"
            raise RuntimeError("sk-secret")

    api = httpx.MockTransport(lambda _: httpx.Response(200, stream=Broken()))
    url = "http://127.0.0.1:9"
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{serve(guard_of(url), url, transport=api).url}/v1/models")
    assert "an answer failed in the proxy: RuntimeError at " in caplog.text
    assert "sk-secret" not in caplog.text


def test_a_large_body_that_is_refused_is_read_beside_the_other_calls(
    served: Served, own_guard: Guard, web: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_guard.set_budget("acme", 0, per="total")
    read_by: list[str] = []
    write = problems.write

    def noted(problem: Problem, body: bytes) -> bytes:
        read_by.append(threading.current_thread().name)
        return write(problem, body)

    monkeypatch.setattr(problems, "write", noted)
    for content in ("x", "x" * proxy._LARGE_BYTES):
        task = a_task(content)
        refused = web.post(f"{served.url}/v1", json=[task])
        assert (refused.status_code, refused.json()["errors"][0]["taskUUID"]) == (402, task["taskUUID"])
    assert [name == served.thread.name for name in read_by] == [True, False]
