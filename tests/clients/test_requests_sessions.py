"""requests: what its sessions do that no other client does, and what they leave alone."""

from __future__ import annotations

import gc
import gzip
import io
import json
import pickle
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
from conftest import a_task, audit, only_task, sent_tasks
from loopback import Echo, LoopClient, flush
from requests.adapters import HTTPAdapter
from roads import DONE, Scripted, frame
from urllib3.util import Retry

from costguard import BudgetExceeded, ConfigurationError, Guard, InvalidRequest
from costguard.testing import StandIn

KIND = "requests.Session"
MakeClient = Callable[..., Any]


@pytest.fixture
def client(guard: Guard, standin: StandIn, make_client: MakeClient) -> LoopClient:
    made: LoopClient = make_client(KIND, guard, transport=standin.transport())
    return made


@pytest.fixture
def url(standin: StandIn) -> Iterator[str]:
    """The stand-in's native endpoint, which no guard was told of."""
    with standin.serve() as base:
        yield f"{base}/v1"


@pytest.fixture
def session(guard: Guard) -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.trust_env = False
        yield guard.wrap(made)


# --- refusals and wrapping ---


def test_a_refusal_is_raised_as_itself_and_nothing_is_sent(client: LoopClient, guard: Guard, standin: StandIn) -> None:
    guard.set_budget("acme", "0.000001")
    with pytest.raises(BudgetExceeded):
        client.post(a_task())
    assert (standin.received, guard.ledger.tasks()) == ([], [])


def test_wrapping_twice_is_one_guard(session: requests.Session, guard: Guard, url: str) -> None:
    assert guard.wrap(session) is session
    session.post(url, json=[a_task()])
    assert only_task(guard).attempts == 1


def test_a_session_has_one_guard(
    session: requests.Session, guard: Guard, make_guard: Callable[..., Guard], tmp_path: Path, url: str
) -> None:
    other = make_guard(path=tmp_path / "other.db")
    with pytest.raises(ConfigurationError, match="another Guard"):
        other.wrap(session)
    with pytest.raises(ConfigurationError, match="another Guard"):
        other.requests_adapter(guard.requests_adapter())
    guard.close()
    other.wrap(session)
    session.post(url, json=[a_task()])
    assert only_task(other).status == "settled"


def test_an_adapter_that_is_mounted_later_is_guarded_too(session: requests.Session, guard: Guard, url: str) -> None:
    session.mount("http://127.0.0.1", HTTPAdapter(max_retries=1))
    session.post(url, json=[a_task()])
    assert only_task(guard).status == "settled"


def test_an_adapter_can_be_guarded_instead_of_a_session(guard: Guard, url: str) -> None:
    with requests.Session() as session:
        session.mount("http://", guard.requests_adapter())
        session.post(url, json=[a_task()])
    assert only_task(guard).status == "settled"
    with pytest.raises(TypeError, match="adapter"):
        guard.requests_adapter(object())


def test_a_pickled_session_is_guarded_too(session: requests.Session, guard: Guard, url: str) -> None:
    with pickle.loads(pickle.dumps(session)) as other:
        other.post(url, json=[a_task()])
        other.mount("http://", HTTPAdapter())
    flush(guard)
    assert only_task(guard).status == "settled"


def test_a_scope_is_of_its_thread(session: requests.Session, guard: Guard, url: str) -> None:
    meet = threading.Barrier(4)

    def post(name: str) -> None:
        with guard.scope(project=name, tags={"who": name}):
            meet.wait(30)
            session.post(url, json=[a_task(taskUUID=name)])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(post, "abcd"))
    assert {row.task_uuid: row.project for row in guard.ledger.tasks()} == {name: name for name in "abcd"}


def test_concurrent_calls_never_pass_the_limit(
    session: requests.Session, guard: Guard, standin: StandIn, url: str
) -> None:
    each = guard.estimate(a_task()).upper
    assert each is not None
    guard.set_budget("acme", each * 5)
    standin.fault("drop_after", times=20)  # so that nothing comes back, and exactly five fit

    def call(_: int) -> str:
        try:
            session.post(url, json=[a_task()])
        except (BudgetExceeded, requests.ConnectionError) as error:
            return type(error).__name__
        raise AssertionError("it was answered")

    with ThreadPoolExecutor(8) as pool:
        endings = list(pool.map(call, range(20)))
    assert endings.count("ConnectionError") == len(standin.received) == 5
    audit(guard, standin)


# --- what goes out ---


BODIES: dict[str, Callable[[bytes], Any]] = {
    "bytes": lambda body: body,
    "text": lambda body: body.decode(),
    "file": io.BytesIO,
    "generator": lambda body: iter([body[:9], body[9:]]),
    "generator of text": lambda body: iter([body.decode()]),
}


@pytest.mark.parametrize("form", BODIES)
@pytest.mark.parametrize("is_ready", [True, False])
def test_a_task_is_guarded_in_whatever_form_its_body_comes_and_a_redirect_repeats_it(
    form: str, is_ready: bool, session: requests.Session, guard: Guard, standin: StandIn, url: str
) -> None:
    standin.fault("redirect:308")
    body = json.dumps([a_task(includeCost=is_ready, includeUsage=is_ready)], indent=1).encode()
    response = session.post(url, data=BODIES[form](body))
    assert response.status_code == 200
    first, second = standin.received
    assert first.body == second.body
    assert (first.body == body) is is_ready
    assert (only_task(guard).status, only_task(guard).attempts) == ("settled", 2)
    audit(guard, standin)


def test_a_compressed_task_is_read_and_sent_plain_where_it_is_changed(
    session: requests.Session, guard: Guard, standin: StandIn, url: str
) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    session.post(url, data=gzip.compress(json.dumps([a_task()]).encode()), headers=headers)
    (sent,) = sent_tasks(standin)
    assert sent["includeCost"] is True
    assert only_task(guard).status == "settled"


def test_an_unreadable_body_to_the_native_endpoint_is_refused(client: LoopClient, standin: StandIn) -> None:
    with pytest.raises(InvalidRequest):
        client.post(content=iter([b"\x00", b"\xff"]))
    assert not standin.received


OTHERS: dict[str, Callable[[], dict[str, Any]]] = {
    "JSON": lambda: {"data": b'{ "a" :1}\n', "headers": {"Content-Type": "application/json"}},
    "form": lambda: {"data": {"taskType": "x"}},
    "multipart": lambda: {"files": {"f": ("n", b"taskType")}},
    "generator": lambda: {"data": iter([b"[ 1,", b"", b"2]"])},
    "generator of bytes": lambda: {"data": iter([b"\x00", b"\x01"])},
    "file": lambda: {"data": io.BytesIO(b"\x00" * 500)},
    "file of JSON": lambda: {"data": io.BytesIO(b"[1, 2]" + b" " * 500)},
    "empty": dict,
}


@pytest.mark.parametrize("form", OTHERS)
def test_what_is_not_ours_goes_out_byte_for_byte(form: str, guard: Guard, make_client: MakeClient) -> None:
    plain, echo = Echo(), Echo()
    for transport, under in ((plain, None), (echo, guard)):
        client = make_client(KIND, under, transport=transport)
        client.post(url="https://else.test/upload", **OTHERS[form]())
    (bare,), (ours,) = plain.requests, echo.requests

    def seen(request: httpx.Request) -> bytes:
        headers = b"".join(b"%b:%b\n" % pair for pair in request.headers.raw if pair[0] != b"Host")
        return re.sub(b"[0-9a-f]{32}", b"BOUNDARY", headers + request.content)

    assert seen(ours) == seen(bare)


def test_a_large_upload_that_is_no_json_is_not_read_early(session: requests.Session, url: str) -> None:
    taken: list[int] = []

    def pieces() -> Iterator[bytes]:
        for n in range(50):
            taken.append(n)
            yield b"\x00" * 10

    request = session.prepare_request(requests.Request("POST", url, data=pieces()))
    guarded: Any = session.get_adapter(url)
    guarded.inner = _Refusing()
    with pytest.raises(requests.ConnectionError):
        guarded.send(request)
    assert taken == [0]


class _Refusing(HTTPAdapter):
    def send(self, *_: Any, **__: Any) -> Any:
        raise requests.ConnectionError("not today")


# --- what comes back ---


def test_the_response_is_the_one_a_bare_session_gets(session: requests.Session, standin: StandIn, url: str) -> None:
    standin.bill_retries_once = True
    task = a_task(includeCost=True, includeUsage=True)
    ours = session.post(url, json=[task])
    with requests.Session() as bare:
        theirs = bare.post(url, json=[task])
    for name in ("status_code", "reason", "content", "text", "encoding", "url", "history", "ok", "is_redirect"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert {k: v for k, v in ours.headers.items() if k != "Date"} == {
        k: v for k, v in theirs.headers.items() if k != "Date"
    }
    assert ours.elapsed.total_seconds() > 0
    assert vars(ours)["costguard"].charged is not None


@pytest.mark.parametrize("how", ["content", "iter_content", "iter_lines", "raw", "raw in pieces", "not at all"])
def test_a_direct_answer_may_be_read_as_a_stream(how: str, session: requests.Session, guard: Guard, url: str) -> None:
    with session.post(url, json=[a_task()], stream=True) as response:
        match how:
            case "content":
                body = response.content
            case "iter_content":
                body = b"".join(response.iter_content(7))
            case "iter_lines":
                body = b"".join(response.iter_lines())
            case "raw":
                body = response.raw.read()
            case "raw in pieces":
                body = b"".join(iter(lambda: response.raw.read(11), b""))
            case _:
                body = b""
    assert how == "not at all" or json.loads(body)["data"][0]["text"]
    assert only_task(guard).status == "settled"


STREAM_READS: dict[str, Callable[[requests.Response], object]] = {
    "iter_content": lambda response: list(response.iter_content(5)),
    "iter_lines": lambda response: list(response.iter_lines()),
    "content": lambda response: response.content,
    "raw.read": lambda response: response.raw.read(decode_content=True),
    "raw.read in pieces": lambda response: list(iter(lambda: response.raw.read(50), b"")),
    "raw.stream": lambda response: list(response.raw.stream(50)),
    "raw lines": lambda response: list(response.raw),
}


@pytest.mark.parametrize("encoding", [None, "gzip"])
@pytest.mark.parametrize("how", STREAM_READS)
def test_a_stream_is_heard_however_it_is_read(
    how: str, encoding: str | None, session: requests.Session, guard: Guard, standin: StandIn, url: str
) -> None:
    standin.content_encoding = encoding
    with session.post(url, json=[a_task(deliveryMethod="stream")], stream=True) as response:
        STREAM_READS[how](response)
    assert only_task(guard).status == "settled"
    audit(guard, standin)


@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_a_stream_closed_early_is_unresolved(chunks: int, session: requests.Session, guard: Guard, url: str) -> None:
    with session.post(url, json=[a_task(deliveryMethod="stream")], stream=True) as response:
        for _, _ in zip(range(chunks), response.iter_content(None), strict=False):
            pass
    assert (only_task(guard).status, only_task(guard).reason) == ("unresolved", "closed early")


def test_a_stream_that_is_dropped_is_unresolved(session: requests.Session, guard: Guard, url: str) -> None:
    response = session.post(url, json=[a_task(deliveryMethod="stream")], stream=True)
    next(response.iter_content(None))
    del response
    gc.collect()
    flush(guard)
    assert (only_task(guard).status, only_task(guard).reason) == ("unresolved", "dropped without being closed")


def test_a_stream_that_nobody_asked_to_stream_is_settled(session: requests.Session, guard: Guard, url: str) -> None:
    assert b"[DONE]" in session.post(url, json=[a_task(deliveryMethod="stream")]).content
    assert only_task(guard).status == "settled"


def test_each_chunk_arrives_before_the_next_is_sent(guard: Guard, make_client: MakeClient) -> None:
    task = a_task(deliveryMethod="stream", includeCost=True, includeUsage=True)
    arrived: list[bytes] = []
    news = threading.Semaphore(1)
    sent = [*(frame(task, text=f"word {n}") for n in range(5)), frame(task, finishReason="stop", cost=0.0001), DONE]

    def hear(chunk: bytes) -> None:
        arrived.append(chunk)
        news.release()

    transport = Scripted(sent, before=lambda _: news.acquire(timeout=10))
    make_client(KIND, guard, transport=transport).read_stream("/v1", [task], chunks=None, on_chunk=hear)
    assert arrived == sent


def test_raise_for_status_and_cookies_are_as_ever(guard: Guard, standin: StandIn, make_client: MakeClient) -> None:
    standin.fault("status:400")
    client = make_client(KIND, guard, transport=standin.transport())
    with pytest.raises(requests.HTTPError, match="400"):
        client.post(a_task()).bare.raise_for_status()
    assert only_task(guard).status == "released"
    client = make_client(KIND, guard, transport=Echo())
    client.post(a_task())
    assert client.bare.cookies["seen"] == "1"


def test_a_body_that_is_not_what_its_encoding_says_is_unresolved(
    guard: Guard, standin: StandIn, make_client: MakeClient
) -> None:
    transport = Scripted([b"plain"], headers={"content-encoding": "gzip"})
    with pytest.raises(requests.exceptions.ContentDecodingError):
        make_client(KIND, guard, transport=transport).post(a_task())
    assert only_task(guard).status == "unresolved"


# --- sent again ---


def retrying(**options: Any) -> HTTPAdapter:
    return HTTPAdapter(max_retries=Retry(**{"total": 3, "allowed_methods": None, "backoff_factor": 0, **options}))


@pytest.mark.parametrize("fault", ["status:503", "status_billed:503", "drop_after", "drop_before"])
def test_each_sending_of_a_retried_post_is_an_attempt(
    fault: str, session: requests.Session, guard: Guard, standin: StandIn, url: str
) -> None:
    standin.fault(fault, times=2)
    session.mount("http://", retrying(status_forcelist=[503]))
    assert session.post(url, json=[a_task()]).json()["data"]
    assert len({request.body for request in standin.received}) == 1
    row = only_task(guard)
    assert (row.attempts, len(standin.received)) == (3, 3)
    assert row.upper is not None
    assert (row.status, row.held * 3) == ("unresolved", row.upper * 2)
    audit(guard, standin)


def test_a_retry_that_does_not_fit_is_refused_between_two_sendings(
    session: requests.Session, guard: Guard, standin: StandIn, url: str
) -> None:
    each = guard.estimate(a_task()).upper
    assert each is not None
    guard.set_budget("acme", each * 2)
    standin.fault("status_billed:503", times=5)
    session.mount("http://", retrying(total=5, status_forcelist=[503]))
    with pytest.raises(BudgetExceeded):
        session.post(url, json=[a_task()])
    assert len(standin.received) == 2
    audit(guard, standin)


@pytest.mark.parametrize("raises", [True, False])
def test_the_last_of_the_retries_ends_as_it_does_without_a_guard(
    raises: bool, session: requests.Session, guard: Guard, standin: StandIn, url: str
) -> None:
    standin.fault("status:429", times=3)
    session.mount("http://", retrying(total=1, status_forcelist=[429], raise_on_status=raises))
    if raises:
        with pytest.raises(requests.exceptions.RetryError, match="too many 429"):
            session.post(url, json=[a_task()])
    else:
        assert session.post(url, json=[a_task()]).status_code == 429
    assert (only_task(guard).status, only_task(guard).attempts) == ("released", 2)


def test_retries_of_a_connection_that_never_was_are_no_attempts(session: requests.Session, guard: Guard) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    session.mount("http://", retrying(total=2))
    with pytest.raises(requests.ConnectionError):
        session.post(f"http://127.0.0.1:{port}/v1", json=[a_task()])
    row = only_task(guard)
    assert (row.status, row.attempts, row.reason) == ("released", 1, "ConnectionError")


def test_retries_are_the_adapters_own_afterwards(session: requests.Session, standin: StandIn, url: str) -> None:
    inner = retrying(total=2, status_forcelist=[503])
    before = inner.max_retries
    session.mount("http://", inner)
    standin.fault("status:503")
    session.post(url, json=[a_task()])
    assert inner.max_retries is before
    assert type(before) is Retry


def test_a_challenge_is_answered_under_guard(guard: Guard, standin: StandIn, make_client: MakeClient) -> None:
    posts: list[Any] = []

    class Challenging:
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            posts.append(request)
            if "authorization" not in request.headers:
                said = 'Digest realm="r", nonce="n", qop="auth"'
                return httpx.Response(401, headers={"www-authenticate": said}, content=b"{}")
            reply = standin.handle("POST", "/v1", {}, request.content)
            return httpx.Response(200, content=b"".join(reply.chunks))

    client = make_client(KIND, guard, transport=Challenging())
    response = client.post(a_task(), auth=requests.auth.HTTPDigestAuth("me", "secret"))
    assert response.status_code == 200
    assert len(posts) == 2
    assert (only_task(guard).status, only_task(guard).attempts) == ("settled", 2)
    assert only_task(guard).charged == standin.billed() * Decimal(10) ** 9
