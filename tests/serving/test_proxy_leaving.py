"""Callers that go away, answers that break off, and a proxy that ends: nothing is lost, and all of it is listed."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from conftest import FLASH, a_task, audit
from proxied import WAIT_S, Got, Plain, Served, until

from costguard import Guard
from costguard.money import NANOS
from costguard.testing import StandIn

pytest_plugins = ("serving_fixtures",)

STREAM = [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")]
PIECE = b'data: {"choices":[{"index":0,"delta":{"content":"gull "},"finish_reason":null}]}\n\n'
ASKED = {"model": FLASH, "messages": [{"role": "user", "content": "x"}], "max_tokens": 100}
CHAT = "/v1/chat/completions"


def endless(_: Got) -> Any:
    def pieces() -> Iterator[bytes]:
        while True:
            yield PIECE

    return 200, STREAM, pieces()


async def leave_when(wait: Callable[[float], object], proxy: Served) -> None:
    """Make a call, and leave it once `wait` is over."""
    async with httpx.AsyncClient(timeout=WAIT_S) as client:
        call = asyncio.create_task(client.post(f"{proxy.url}/v1", json=[a_task()]))
        await asyncio.to_thread(wait, WAIT_S)
        call.cancel()
        await asyncio.wait([call])


def test_a_caller_that_leaves_in_mid_stream_ends_it_upstream_and_the_call_is_unresolved(
    guard_of: Callable[..., Guard], serve: Callable[..., Served]
) -> None:
    with Plain(endless) as api:
        guard = guard_of(api.url)
        proxy = serve(guard, api.url)
        with httpx.stream("POST", f"{proxy.url}{CHAT}", json={**ASKED, "stream": True}) as response:
            assert next(response.iter_raw()).startswith(b"data: ")
        assert api.is_cut.wait(WAIT_S)
        until(lambda: [row.reason for row in guard.ledger.tasks()] == ["closed early"])
    (row,) = guard.ledger.tasks()
    assert row.status == "unresolved"
    assert row.held > 0
    audit(guard)


def test_a_caller_that_does_not_read_holds_the_provider_back(
    guard_of: Callable[..., Guard], serve: Callable[..., Served]
) -> None:
    with Plain(endless) as api:
        proxy = serve(guard_of(api.url), api.url)
        with httpx.stream("POST", f"{proxy.url}{CHAT}", json={**ASKED, "stream": True}) as response:
            next(response.iter_raw())
            before = -1
            pause = threading.Event()
            while before != api.written:  # until nothing moves: every buffer on the way is full
                before = api.written
                pause.wait(0.3)
            assert len(PIECE) * api.written < 64 * 2**20


def test_a_caller_that_leaves_while_the_provider_works_is_charged_what_it_cost(
    guard_of: Callable[..., Guard], serve: Callable[..., Served], standin: StandIn
) -> None:
    is_asked, goes_on = threading.Event(), threading.Event()

    def slow(got: Got) -> Any:
        is_asked.set()
        assert goes_on.wait(WAIT_S)
        reply = standin.handle(got.method, got.path, dict(got.headers), got.body)
        body = b"".join(reply.chunks)
        return reply.status, [("content-type", "application/json"), ("content-length", str(len(body)))], [body]

    with Plain(slow) as api:
        guard = guard_of(api.url)
        proxy = serve(guard, api.url)
        asyncio.run(leave_when(is_asked.wait, proxy))
        until(lambda: [caller.is_gone for caller in proxy.proxy._calls.values()] == [True])
        goes_on.set()
        until(lambda: [row.status for row in guard.ledger.tasks()] == ["settled"])
    assert [row.charged for row in guard.ledger.tasks()] == [int(standin.billed() * NANOS)]


def test_a_caller_that_leaves_while_it_waits_for_money_is_never_sent(
    own_guard: Guard, served: Served, standin: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    task = a_task()
    estimate = own_guard.estimate(task)
    assert estimate.upper is not None
    own_guard.set_budget("acme", estimate.upper, per="total", wait=60)
    standin.fault("drop_after")
    httpx.post(f"{served.url}/v1", json=[task])  # its hold stays, and fills the budget

    def is_waiting(_: float) -> None:
        until(lambda: served.proxy._calls)

    asyncio.run(leave_when(is_waiting, served))
    until(lambda: not served.proxy._calls)
    assert len(standin.received) == 1
    assert len(own_guard.ledger.tasks()) == 1


def test_an_answer_that_breaks_off_breaks_off_for_the_caller_and_is_unresolved(
    own_guard: Guard, served: Served, standin: StandIn
) -> None:
    standin.fault("cut")
    with httpx.stream("POST", f"{served.url}{CHAT}", json={**ASKED, "stream": True}) as response:
        assert response.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            response.read()
    until(lambda: [row.status for row in own_guard.ledger.tasks()] == ["unresolved"])
    assert httpx.get(f"{served.url}/healthz").status_code == 200


def test_a_proxy_that_ends_lets_calls_end_and_takes_no_more(
    guard_of: Callable[..., Guard], serve: Callable[..., Served], standin: StandIn
) -> None:
    is_asked, goes_on = threading.Event(), threading.Event()

    def slow(got: Got) -> Any:
        is_asked.set()
        assert goes_on.wait(WAIT_S)
        reply = standin.handle(got.method, got.path, dict(got.headers), got.body)
        body = b"".join(reply.chunks)
        return reply.status, [("content-type", "application/json"), ("content-length", str(len(body)))], [body]

    answers: list[int] = []
    with Plain(slow) as api:
        guard = guard_of(api.url)
        proxy = serve(guard, api.url)
        with httpx.Client(timeout=WAIT_S) as kept:
            assert kept.get(f"{proxy.url}/healthz").status_code == 200  # a connection that stays open
            caller = threading.Thread(
                target=lambda: answers.append(
                    httpx.post(f"{proxy.url}/v1", json=[a_task()], timeout=WAIT_S).status_code
                )
            )
            caller.start()
            assert is_asked.wait(WAIT_S)
            proxy.end()
            until(lambda: proxy.proxy.is_draining)
            assert kept.get(f"{proxy.url}/healthz").json()["status"] == "shutting down"
            late = kept.post(f"{proxy.url}/v1", json=[a_task()])
            assert (late.status_code, late.json()["errors"][0]["code"]) == (503, "shuttingDown")
            goes_on.set()
            caller.join()
        proxy.thread.join()
    assert answers == [200]
    assert [(row.status, row.charged) for row in guard.ledger.tasks()] == [("settled", int(standin.billed() * NANOS))]


@pytest.mark.parametrize("is_stream", [True, False])
def test_calls_that_outlast_the_end_of_a_proxy_are_unresolved_and_listed(
    is_stream: bool, guard_of: Callable[..., Guard], serve: Callable[..., Served]
) -> None:
    is_asked, goes_on = threading.Event(), threading.Event()

    def answer(got: Got) -> Any:
        is_asked.set()
        if is_stream:
            return endless(got)
        assert goes_on.wait(WAIT_S)
        return 200, [("content-length", "0")], []

    ended: list[str] = []
    with Plain(answer) as api:
        guard = guard_of(api.url)
        proxy = serve(guard, api.url, drain_s=0)

        def call() -> None:
            try:
                answer = httpx.post(f"{proxy.url}{CHAT}", json={**ASKED, "stream": is_stream}, timeout=WAIT_S)
                ended.append(answer.json()["error"]["code"])
            except httpx.HTTPError as error:
                ended.append(type(error).__name__)

        caller = threading.Thread(target=call)
        caller.start()
        assert is_asked.wait(WAIT_S)
        if is_stream:
            until(lambda: api.written)
            until(lambda: not any(one.is_at_work for one in proxy.proxy._calls.values()))
        proxy.end()
        proxy.thread.join()
        rows = guard.ledger.tasks()
        goes_on.set()
        caller.join()
    assert ended == ["RemoteProtocolError" if is_stream else "shutting_down"]
    assert [row.status for row in rows] == ["unresolved"]
    assert rows[0].held > 0
    audit(guard)


def test_an_upload_that_is_given_up_is_never_sent(served: Served, own_guard: Guard, standin: StandIn) -> None:
    def half() -> Iterator[bytes]:
        yield json.dumps([a_task()]).encode()[:-1]
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        httpx.post(f"{served.url}/v1", content=half(), headers={"Content-Type": "application/json"})
    until(lambda: not served.proxy._calls)
    assert own_guard.ledger.tasks() == []
    assert standin.received == []
