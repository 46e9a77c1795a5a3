"""requests: ways that a request goes out and an answer is read which few take, and what the ledger makes of them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import requests
from conftest import FLASH, a_task, audit, only_task
from loopback import Bridge, Echo
from requests.adapters import BaseAdapter, HTTPAdapter
from roads import DONE, Scripted, frame
from urllib3.exceptions import NewConnectionError, ProxyError
from urllib3.util import Retry

from costguard import Guard
from costguard.clients.requests.messages import is_never_sent
from costguard.testing import StandIn

KIND = "requests.Session"
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


@pytest.fixture
def session(guard: Guard) -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.trust_env = False
        yield guard.wrap(made)


# --- what goes out ---


def again(status: int) -> Retry:
    return Retry(total=3, allowed_methods=None, backoff_factor=0, status_forcelist=[status])


class Busy(Echo):
    """503 at first."""

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = super().handle_request(request)
        return answer if len(self.requests) > 1 else httpx.Response(503, content=b"busy")


@pytest.mark.parametrize("content", [b"\x00" * 500, b"[1, 2]" + b" " * 500])
def test_a_file_for_another_host_is_sent_whole_at_every_retry(
    content: bytes, guard: Guard, make_client: MakeClient
) -> None:
    busy = Busy()
    client = make_client(KIND, guard, transport=busy, max_retries=again(503))
    assert client.post(url="https://else.test/upload", content=io.BytesIO(content)).status_code == 200
    assert [request.content for request in busy.requests] == [content] * 2
    assert guard.ledger.tasks() == []


def test_what_is_set_on_a_guarded_adapter_is_the_inner_ones(
    session: requests.Session, guard: Guard, standin: StandIn, url: str
) -> None:
    standin.fault("status:503")
    for adapter in session.adapters.values():
        vars_of: Any = adapter
        vars_of.max_retries = again(503)
    assert session.post(url, json=[a_task()]).status_code == 200
    assert only_task(guard).attempts == 2


class Insisting(HTTPAdapter):
    """An adapter that sends again by itself, and cannot connect the second time."""

    tries = 0

    def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            response = super().send(request, *args, **kwargs)
        except Exception:
            response = None
        if response is not None and response.status_code < 500:
            return response
        raise requests.ConnectTimeout("the second time")


@pytest.mark.parametrize("fault", ["status_billed:503", "drop_after"])
def test_an_error_of_connecting_proves_nothing_where_an_adapter_has_sent_before(
    fault: str, session: requests.Session, guard: Guard, standin: StandIn, url: str
) -> None:
    session.mount("http://", Insisting())
    standin.fault(fault)
    with pytest.raises(requests.ConnectTimeout):
        session.post(url, json=[a_task()])
    assert only_task(guard).status == "unresolved"
    audit(guard, standin)


def test_an_adapter_that_catches_what_it_meets_does_not_hide_a_retry(
    session: requests.Session, guard: Guard, standin: StandIn, url: str
) -> None:
    session.mount("http://", Insisting(max_retries=again(503)))
    standin.fault("status_billed:503", times=2)
    assert session.post(url, json=[a_task()]).status_code == 200
    assert (only_task(guard).attempts, len(standin.received)) == (3, 3)
    audit(guard, standin)


@pytest.mark.parametrize(
    ("cause", "proves"),
    [
        (NewConnectionError(None, "refused"), True),  # type: ignore[arg-type]
        (OSError("Tunnel connection failed: 403 Forbidden"), True),
        (ConnectionResetError(104, "reset"), False),
    ],
)
def test_an_error_of_a_proxy_proves_something_only_if_it_came_before_the_request(
    cause: Exception, proves: bool
) -> None:
    error = requests.exceptions.ProxyError(ProxyError("Unable to connect to proxy", cause))
    assert is_never_sent(error) is proves


@pytest.mark.parametrize("retries", [0, 1])
def test_a_connection_through_a_proxy_that_breaks_may_have_been_billed(
    retries: int, session: requests.Session, guard: Guard, standin: StandIn
) -> None:
    proxy = Bridge(standin.transport())
    session.proxies = {"http": f"http://127.0.0.1:{proxy.port}"}
    session.mount("http://", HTTPAdapter(max_retries=Retry(retries, read=False)))
    standin.fault("drop_after", times=2)
    try:
        with pytest.raises(requests.exceptions.ProxyError):
            session.post("http://else.test/v1", json=[a_task()])
    finally:
        proxy.close()
    assert (only_task(guard).status, only_task(guard).attempts) == ("unresolved", 1 + retries)
    assert len(standin.received) == 1 + retries
    audit(guard, standin)


# --- what comes back ---


def _until_empty(read: Callable[[], bytes]) -> bytes:
    return b"".join(iter(read, b""))


def _left_open(raw: Any) -> bytes:
    with raw as file:
        return bytes(file.read())


def _buffered(raw: Any) -> bytes:
    return io.BufferedReader(raw, 16).read()


def _drained(raw: Any) -> bytes:
    raw.drain_conn()
    return b""


RAW_READS: dict[str, Callable[[Any], bytes]] = {
    "readline": lambda raw: _until_empty(raw.readline),
    "readline of a size": lambda raw: _until_empty(lambda: raw.readline(5)),
    "readlines": lambda raw: b"".join(raw.readlines()),
    "readlines of a size": lambda raw: b"".join(raw.readlines(10**6)),
    "next": lambda raw: next(raw) + next(raw) + _until_empty(lambda: next(raw, b"")),
    "read1": lambda raw: _until_empty(raw.read1),
    "read1 of a size": lambda raw: _until_empty(lambda: raw.read1(9)),
    "data": lambda raw: raw.data,
    "with": _left_open,
    "BufferedReader": _buffered,
    "drain_conn": _drained,
    "in turns": lambda raw: raw.read(3) + raw.readline() + raw.read1(4) + raw.read(),
}


@pytest.mark.parametrize("how", RAW_READS)
def test_a_stream_is_heard_however_its_raw_is_read(
    how: str, session: requests.Session, guard: Guard, standin: StandIn, url: str
) -> None:
    standin.bill_retries_once = True
    task = a_task(deliveryMethod="stream", includeCost=True, includeUsage=True)
    with session.post(url, json=[task], stream=True) as response:
        ours = RAW_READS[how](response.raw)
    with requests.Session() as bare, bare.post(url, json=[task], stream=True) as response:
        assert RAW_READS[how](response.raw) == ours
    assert only_task(guard).status == "settled"
    audit(guard, standin)


@pytest.mark.parametrize("how", [name for name in RAW_READS if name != "drain_conn"])
def test_what_is_read_of_a_sieved_stream_is_no_more_than_was_asked_for(
    how: str, make_guard: Callable[..., Guard], standin: StandIn
) -> None:
    with standin.serve() as base, requests.Session() as session:
        guard = make_guard(endpoints=[base])
        guard.set_budget("/", 1, per="total")
        guard.wrap(session)
        with session.post(f"{base}/v1/chat/completions", json={**CHAT, "stream": True}, stream=True) as response:
            said = RAW_READS[how](response.raw)
    assert b"[DONE]" in said
    assert b'"usage":{' not in said.replace(b" ", b"")
    assert only_task(guard).status == "settled"


def test_read1_of_a_stream_ends_nothing_before_its_end(guard: Guard, make_client: MakeClient) -> None:
    task = a_task(deliveryMethod="stream", includeCost=True, includeUsage=True)
    sent = [frame(task, text="grey"), frame(task, finishReason="stop", cost=0.0001), DONE]
    client = make_client(KIND, guard, transport=Scripted(sent))
    with client.bare.post(client.url("/v1"), json=[task], stream=True) as response:
        assert _until_empty(response.raw.read1) == b"".join(sent)
    assert only_task(guard).status == "settled"


class Homemade(BaseAdapter):
    """An adapter with a response of its own making: `raw` is any file, or there is only content."""

    def __init__(self, standin: StandIn, form: str) -> None:
        super().__init__()
        self._standin = standin
        self._form = form

    def send(self, request: Any, *_: Any, **__: Any) -> requests.Response:
        reply = self._standin.handle("POST", "/v1", {}, request.body)
        response = requests.Response()
        response.status_code, response.url, response.request = 200, request.url, request
        response.headers.update(reply.headers)
        if self._form == "file":
            response.raw = io.BytesIO(b"".join(reply.chunks))
        else:
            response._content = b"".join(reply.chunks)
        return response

    def close(self) -> None:
        """Nothing to close."""


@pytest.mark.parametrize("form", ["file", "content"])
@pytest.mark.parametrize("delivery", ["sync", "stream"])
@pytest.mark.parametrize("is_stream", [True, False])
def test_a_response_of_an_adapters_own_making_is_read_as_ever(
    form: str, delivery: str, is_stream: bool, session: requests.Session, guard: Guard, standin: StandIn
) -> None:
    session.mount("http://", Homemade(standin, form))
    response = session.post("http://else.test/v1", json=[a_task(deliveryMethod=delivery)], stream=is_stream)
    said = b"".join(response.iter_content(7))
    assert b"[DONE]" in said if delivery == "stream" else json.loads(said)["data"]
    response.close()
    assert only_task(guard).status == "settled"
    audit(guard, standin)
