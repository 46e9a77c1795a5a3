"""Every way a synchronous delivery can end, on each client: what becomes of the hold."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from conftest import CLIENTS, LIMIT, AnyClient, a_task, audit, every_client, memory, module_of, only_task, raised_by
from loopback import LOOPBACK

from costguard import Guard
from costguard.testing import StandIn

pytestmark = pytest.mark.usefixtures("each_engine")

Cause = Callable[[ModuleType, str, StandIn], Any]
"""Makes a transport for a kind of client over the stand-in, on which the next call ends in a certain way."""


class Ending(NamedTuple):
    cause: Cause
    status: str
    """Of the task in the ledger."""
    meets: int | str
    """What the caller meets: a status, or the exception's name in the client's library."""
    basis: str | None = None


def fault(kind: str) -> Cause:
    def cause(module: ModuleType, client_kind: str, standin: StandIn) -> Any:
        standin.fault(kind)
        return memory(standin, client_kind)

    return cause


def raising(name: str, *, billed: bool) -> Cause:
    """The transport raises, after the work was done and billed or without any."""

    def cause(module: Any, client_kind: str, standin: StandIn) -> Any:
        def handler(request: Any) -> Any:
            if billed:
                standin.handle("POST", "/v1", {}, request.content)
            raise getattr(module, name, RuntimeError)("on purpose")

        return module.MockTransport(handler)

    return cause


def answering(change: Callable[[dict[str, Any]], tuple[int, Any]], **headers: str) -> Cause:
    """The work is done and billed, and its answer is changed on the way back: to a status and JSON or bytes."""

    def cause(module: Any, client_kind: str, standin: StandIn) -> Any:
        def handler(request: Any) -> Any:
            reply = standin.handle("POST", "/v1", {}, request.content)
            status, body = change(json.loads(b"".join(reply.chunks)))
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            return module.Response(status, content=content, headers=headers)

        return module.MockTransport(handler)

    return cause


def beside_status(status: int) -> Cause:
    """The results, and an error that names no task, with an error's status."""
    return answering(lambda body: (status, {**body, "errors": [{"code": "serverError", "message": "no more"}]}))


def error(code: str, message: str, **fields: Any) -> dict[str, Any]:
    return {"code": code, "message": message, **fields}


SETTLED = {
    "breakdown": Ending(answering(lambda body: (200, body)), "settled", 200, "breakdown"),
    "cost only": Ending(fault("cost_only"), "settled", 200, "cost"),
    "usage only": Ending(fault("usage_only"), "settled", 200, "computed"),
    "no figure": Ending(fault("no_cost"), "settled", 200, "assumed"),
    "bare array": Ending(answering(lambda body: (200, body["data"])), "settled", 200, "breakdown"),
    "201": Ending(answering(lambda body: (201, body)), "settled", 201, "breakdown"),
    "items beside 400": Ending(beside_status(400), "settled", 400, "breakdown"),
    "items beside 500": Ending(beside_status(500), "settled", 500, "breakdown"),
    "gzip": Ending(
        answering(lambda body: (200, gzip.compress(json.dumps(body).encode())), **{"content-encoding": "gzip"}),
        "settled",
        200,
        "breakdown",
    ),
    "billed item with status error": Ending(
        answering(lambda body: (200, {"data": [{**body["data"][0], "status": "error", "code": "contentFilter"}]})),
        "settled",
        200,
        "breakdown",
    ),
}  # fmt: skip

RELEASED = {
    **{
        name: Ending(raising(name, billed=False), "released", name)
        for name in ("ConnectError", "ConnectTimeout", "PoolTimeout", "LocalProtocolError", "ProxyError")
    },
    **{
        str(status): Ending(fault(f"status:{status}"), "released", status)
        for status in (300, 304, 400, 401, 402, 403, 404, 405, 407, 413, 415, 422, 429)
    },
    **{str(status): Ending(fault(f"redirect:{status}"), "released", status) for status in (301, 302, 303, 307, 308)},
    "singular error": Ending(fault("singular_error"), "released", 400),
    "error entry, 200": Ending(fault("error_entry"), "released", 200),
    "error entry, 400": Ending(fault("error_entry:400"), "released", 400),
    "item with status error": Ending(fault("item_error"), "released", 200),
}

UNRESOLVED = {
    **{
        name: Ending(raising(name, billed=billed), "unresolved", name)
        for name, billed in (
            ("ReadTimeout", True), ("ReadError", True), ("WriteError", True), ("WriteTimeout", True),
            ("RemoteProtocolError", True), ("CloseError", True),
        )
    },
    **{
        str(status): Ending(fault(f"status:{status}"), "unresolved", status)
        for status in (408, 409, 410, 500, 501, 502, 503, 504, 529)
    },
    "500 after work": Ending(fault("status_billed:500"), "unresolved", 500),
    "an error of no library": Ending(raising("a bug in a transport", billed=True), "unresolved", "RuntimeError"),
    "html": Ending(fault("html"), "unresolved", 200),
    "cut": Ending(fault("cut"), "unresolved", "RemoteProtocolError"),
    "cut, yet complete for HTTP": Ending(
        answering(lambda body: (200, json.dumps(body).encode()[:-9])), "unresolved", 200
    ),
    "empty": Ending(answering(lambda body: (200, b"")), "unresolved", 200),
    "not gzip at all": Ending(
        answering(lambda body: (200, b"plain"), **{"content-encoding": "gzip"}), "unresolved", "DecodingError"
    ),
    "hang": Ending(fault("hang"), "unresolved", "ReadTimeout"),
    "dropped before work": Ending(fault("drop_before"), "unresolved", "ReadError"),
    "dropped after work": Ending(fault("drop_after"), "unresolved", "ReadError"),
    "task not mentioned": Ending(fault("forget"), "unresolved", 200),
    "another task mentioned": Ending(
        answering(lambda body: (200, {"data": [{**body["data"][0], "taskUUID": "another"}]})), "unresolved", 200
    ),
    "error of a timeout, 200": Ending(fault("error_timeout"), "unresolved", 200),
    "error of a timeout, 400": Ending(fault("error_timeout:400"), "unresolved", 400),
    "no content, 400": Ending(fault("no_content_400"), "unresolved", 400),
    "error of the provider": Ending(
        answering(lambda body: (422, {"errors": [error("providerError", "it failed")]})), "unresolved", 422
    ),
    "error of streaming": Ending(
        answering(lambda body: (400, {"error": error("x", "the stream broke")})), "unresolved", 400
    ),
    "item without a result": Ending(
        answering(lambda body: (200, {"data": [{"taskUUID": body["data"][0]["taskUUID"]}]})), "unresolved", 200
    ),
}  # fmt: skip

ENDINGS = {**SETTLED, **RELEASED, **UNRESOLVED}

RAISED = [name for name, ending in ENDINGS.items() if isinstance(ending.meets, str)]
"""Those that a transport raises: over a loopback port they come about by themselves, below."""


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in ENDINGS for kind in (*CLIENTS, *LOOPBACK) if kind in CLIENTS or name not in RAISED],
    indirect=["kind"],
)
def test_the_hold_ends_as_the_table_says(
    name: str, kind: str, guard: Guard, standin: StandIn, make_client: Callable[..., AnyClient]
) -> None:
    ending = ENDINGS[name]
    module = module_of(kind)
    client = make_client(kind, guard, transport=ending.cause(module, kind, standin))
    if isinstance(ending.meets, int):
        assert client.post(a_task()).status_code == ending.meets
    else:
        with pytest.raises(raised_by(kind, ending.meets)):
            client.post(a_task())
    check(guard, standin, ending.status, ending.basis)


def check(guard: Guard, standin: StandIn | None, status: str, basis: str | None = None) -> None:
    """The one task is as told, and budget and bill agree with it."""
    task = only_task(guard)
    assert (task.status, task.attempts) == (status, 1)
    assert task.upper is not None
    assert task.held == (task.upper if status == "unresolved" else 0)
    assert (task.charged > 0) == (status == "settled")
    assert guard.remaining() == LIMIT - Decimal(task.held + task.charged).scaleb(-9)
    if status == "settled":
        assert task.basis == basis
    else:
        assert task.reason
    audit(guard, standin)
    if status == "released" and standin is not None:
        assert not standin.bill
    if basis in ("breakdown", "cost", "computed") and standin is not None:
        assert standin.billed() * 10**9 == task.charged


# --- over real connections -----------------------------------------------------------------------------------


@every_client
@pytest.mark.parametrize(
    ("fault_kind", "status", "meets"),
    [
        (None, "settled", 200),
        ("cost_only", "settled", 200),
        ("redirect:308", "released", 308),
        ("status:400", "released", 400),
        ("status:429", "released", 429),
        ("status:503", "unresolved", 503),
        ("status_billed:500", "unresolved", 500),
        ("html", "unresolved", 200),
        ("cut", "unresolved", "RemoteProtocolError"),
        ("hang", "unresolved", "ReadTimeout"),
        ("drop_before", "unresolved", "RemoteProtocolError"),
        ("drop_after", "unresolved", "RemoteProtocolError"),
    ],
)
def test_the_hold_ends_so_over_a_real_connection_too(
    fault_kind: str | None,
    status: str,
    meets: int | str,
    kind: str,
    guard: Guard,
    standin: StandIn,
    make_client: Callable[..., AnyClient],
) -> None:
    if fault_kind:
        standin.fault(fault_kind)
    with standin.serve() as url:
        client = make_client(kind, guard, base_url=url, timeout=0.3 if fault_kind == "hang" else 30, trust_env=False)
        if isinstance(meets, int):
            assert client.post(a_task()).status_code == meets
        else:
            with pytest.raises(raised_by(kind, meets)):
                client.post(a_task())
        client.close()
    basis = ("cost" if fault_kind == "cost_only" else "breakdown") if status == "settled" else None
    check(guard, standin, status, basis)


@contextmanager
def closed_port() -> Iterator[dict[str, Any]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield {"base_url": f"http://127.0.0.1:{port}"}


@contextmanager
def full_backlog() -> Iterator[dict[str, Any]]:
    """A server that accepts nobody: connections beyond its backlog get no answer."""
    with socket.create_server(("127.0.0.1", 0), backlog=1) as server:
        waiting = [socket.socket() for _ in range(4)]
        for connection in waiting:
            connection.setblocking(False)
            connection.connect_ex(server.getsockname())
        yield {"base_url": f"http://127.0.0.1:{server.getsockname()[1]}", "timeout": 0.3}
        for connection in waiting:
            connection.close()


@contextmanager
def no_room_in_the_pool() -> Iterator[dict[str, Any]]:
    yield {"limits": 0, "timeout": 0.3}


@contextmanager
def a_header_that_is_none() -> Iterator[dict[str, Any]]:
    with StandIn().serve() as url:
        yield {"base_url": url, "headers": {"X-Note": "two\nlines"}}


@contextmanager
def a_proxy_that_refuses() -> Iterator[dict[str, Any]]:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            connection, _ = server.accept()
            with connection:
                while b"\r\n\r\n" not in connection.recv(65536):
                    pass
                connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        yield {"proxy": f"http://127.0.0.1:{server.getsockname()[1]}"}
        thread.join()


@pytest.mark.parametrize(
    ("situation", "error"),
    [
        (closed_port, "ConnectError"),
        (full_backlog, "ConnectTimeout"),
        (no_room_in_the_pool, "PoolTimeout"),
        (a_header_that_is_none, "LocalProtocolError"),
        (a_proxy_that_refuses, "ProxyError"),
    ],
)
def test_what_never_left_this_machine_is_released(
    situation: Any, error: str, kind: str, guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    with situation() as options:
        if options.get("limits") == 0:
            module = module_of(kind)
            options["limits"] = module.Limits(max_connections=0)
        client = make_client(kind, guard, trust_env=False, **options)
        with pytest.raises(getattr(client.module, error)):
            client.post(a_task())
    check(guard, None, "released")
    assert only_task(guard).reason == error


# --- redirects, retries, several tasks -----------------------------------------------------------------------


@every_client
@pytest.mark.parametrize("status", [307, 308])
def test_a_redirected_post_is_the_same_task_again_and_charged_once(
    status: int, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    standin.fault(f"redirect:{status}")
    response = client.post(a_task(taskUUID=None), follow_redirects=True)
    assert response.status_code == 200
    first, second = standin.received
    assert first.body == second.body
    task = only_task(guard)
    assert (task.status, task.attempts, task.held) == ("settled", 2, 0)
    assert task.charged == standin.billed() * 10**9
    audit(guard, standin)


@every_client
@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/octet-stream"])
def test_the_second_hop_is_guarded_whatever_the_body_calls_itself(
    content_type: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    standin.fault("redirect:308")
    body = json.dumps([a_task(includeCost=True, includeUsage=True)])
    client.post(content=body, headers={"content-type": content_type}, follow_redirects=True)
    assert only_task(guard).attempts == 2
    audit(guard, standin)


@every_client
@pytest.mark.parametrize("bills_once", [False, True])
def test_a_task_sent_again_after_a_lost_answer_is_held_for_again(
    bills_once: bool, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    standin.bill_retries_once = bills_once
    standin.fault("status_billed:503")
    task = a_task()
    client.post(task)
    client.post(task)
    row = only_task(guard)
    assert (row.attempts, row.status) == (2, "unresolved")
    assert row.held * 2 == row.upper
    assert row.charged > 0
    audit(guard, standin)


@every_client
def test_each_task_of_a_post_ends_by_itself(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    good, refused, doubtful, forgotten = (a_task() for _ in range(4))
    standin.fault("error_entry", task_uuid=refused["taskUUID"])
    standin.fault("error_timeout", task_uuid=doubtful["taskUUID"])
    standin.fault("forget", task_uuid=forgotten["taskUUID"])
    client.post(good, refused, doubtful, forgotten)
    found = {row.task_uuid: row.status for row in guard.ledger.tasks()}
    assert found == {
        good["taskUUID"]: "settled",
        refused["taskUUID"]: "released",
        doubtful["taskUUID"]: "unresolved",
        forgotten["taskUUID"]: "unresolved",
    }
    audit(guard, standin)


@every_client
def test_all_results_of_a_task_are_summed(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    client.post(a_task(numberResults=4))
    assert len(standin.bill) == 4
    check(guard, standin, "settled", "breakdown")


@pytest.mark.parametrize("method", ["basic", "digest-like"])
def test_an_auth_flow_that_sends_twice_is_charged_once(
    method: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    class Auth(client.module.Auth):  # type: ignore[name-defined,misc]
        requires_request_body = True

        def auth_flow(self, request: Any) -> Generator[Any, Any, None]:
            response = yield request
            if response.status_code == 401:
                request.headers["Authorization"] = "Bearer second"
                yield request

    standin.fault("status:401")
    auth = Auth() if method == "digest-like" else ("user", "word")
    response = client.post(a_task(), auth=auth)
    task = only_task(guard)
    if method == "basic":
        assert (response.status_code, task.status, task.attempts) == (401, "released", 1)
    else:
        assert (response.status_code, task.status, task.attempts) == (200, "settled", 2)
    audit(guard, standin)


# --- interrupted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("stage", ["send", "read"])
def test_an_interrupt_leaves_the_call_unresolved(
    stage: str, interrupt: type[BaseException], module: Any, guard: Guard, standin: StandIn
) -> None:
    def body() -> Iterator[bytes]:
        yield b'{"data":'
        raise interrupt

    def handler(request: Any) -> Any:
        standin.handle("POST", "/v1", {}, request.content)
        if stage == "send":
            raise interrupt
        return module.Response(200, content=body())

    with module.Client(base_url="http://test", transport=module.MockTransport(handler)) as client:
        guard.wrap(client)
        with pytest.raises(interrupt):
            client.post("/v1", json=[a_task()])
    check(guard, standin, "unresolved")
    assert only_task(guard).reason == interrupt.__name__


def blocking(monkeypatch: pytest.MonkeyPatch, guard: Guard, method: str) -> tuple[threading.Event, threading.Event]:
    """Make one method of the ledger wait: (it has begun, let it go on)."""
    begun, go = threading.Event(), threading.Event()
    original = getattr(guard.ledger, method)

    def slow(*args: Any, **options: Any) -> Any:
        begun.set()
        assert go.wait(30)
        return original(*args, **options)

    monkeypatch.setattr(guard.ledger, method, slow)
    return begun, go


class Halting:
    """An asynchronous transport that stops for ever while it sends or while its answer is read."""

    def __init__(self, module: Any, standin: StandIn, stage: str, halted: Callable[[], object]) -> None:
        self.module, self.standin, self.stage, self.halted = module, standin, stage, halted

    async def handle_async_request(self, request: Any) -> Any:
        await anyio.lowlevel.checkpoint()
        reply = self.standin.handle("POST", "/v1", {}, await request.aread())
        if self.stage == "send":
            self.halted()
            await anyio.sleep_forever()
        content = self._half(reply.chunks[0]) if self.stage == "read" else reply.chunks[0]
        return self.module.Response(200, content=content)

    async def _half(self, body: bytes) -> AsyncIterator[bytes]:
        yield body[: len(body) // 2]
        self.halted()
        await anyio.sleep_forever()

    async def __aenter__(self) -> Halting:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing to close."""


CANCELLED_AT = {
    "before": (None, 0),
    "hold": ("released", 0),
    "send": ("unresolved", 1),
    "read": ("unresolved", 1),
    "settlement": ("settled", 1),
}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("stage", CANCELLED_AT)
def test_a_cancellation_ends_the_hold_by_its_stage(
    stage: str, backend: str, module: Any, guard: Guard, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, sent = CANCELLED_AT[stage]
    begun, go = threading.Event(), threading.Event()
    if stage in ("hold", "settlement"):
        begun, go = blocking(monkeypatch, guard, "admission" if stage == "hold" else "conclusion")

    async def main() -> None:
        transport = Halting(module, standin, stage, begun.set)
        async with module.AsyncClient(base_url="http://test", transport=transport) as client:
            guard.wrap(client)

            async def call() -> None:
                await client.post("/v1", json=[a_task()])

            async with anyio.create_task_group() as group:
                if stage == "before":
                    group.cancel_scope.cancel()
                group.start_soon(call)
                if stage != "before":
                    await anyio.to_thread.run_sync(begun.wait, 30)
                    group.cancel_scope.cancel()
                    go.set()
            assert group.cancel_scope.cancelled_caught or stage == "settlement"

    anyio.run(main, backend=backend)
    assert len(standin.received) == sent
    if status is None:
        assert all(row.status == "released" for row in guard.ledger.tasks())
        assert guard.remaining() == LIMIT
    else:
        check(guard, standin, status, "breakdown" if status == "settled" else None)


@pytest.mark.parametrize("stage", ["send", "read"])
def test_a_timeout_of_asyncio_is_a_cancellation_and_reaches_the_caller(
    stage: str, module: Any, guard: Guard, standin: StandIn
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as limit:
            transport = Halting(module, standin, stage, lambda: limit.reschedule(loop.time()))
            async with module.AsyncClient(base_url="http://test", transport=transport) as client:
                await guard.wrap(client).post("/v1", json=[a_task()])

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    check(guard, standin, "unresolved")


@pytest.mark.parametrize("stage", ["send", "read"])
@pytest.mark.parametrize("end", ["closed", "forgotten"])
def test_a_coroutine_that_nobody_continues_leaves_its_call_unresolved(
    stage: str, end: str, module: Any, guard: Guard, standin: StandIn
) -> None:
    loop = asyncio.new_event_loop()
    client = module.AsyncClient(base_url="http://test", transport=Halting(module, standin, stage, loop.stop))
    call = guard.wrap(client).post("/v1", json=[a_task()])
    task = loop.create_task(call)
    task.add_done_callback(lambda _: pytest.fail("the call came to an end"))
    loop.set_exception_handler(lambda _, __: None)  # asyncio says that the task was destroyed: it was
    loop.run_forever()
    if end == "closed":
        call.close()
    loop.close()
    del call, task, client
    gc.collect()
    check(guard, standin, "unresolved")
    assert only_task(guard).reason == "the caller went away"


@pytest.mark.parametrize("stage", ["hold", "settlement"])
def test_a_loop_that_stops_while_the_ledger_works_leaks_no_hold(
    stage: str, module: Any, make_guard: Callable[..., Guard], standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = make_guard()
    guard.set_budget("/", LIMIT, per="total")
    begun, go = blocking(monkeypatch, guard, "admission" if stage == "hold" else "conclusion")
    loop = asyncio.new_event_loop()
    client = module.AsyncClient(base_url="http://test", transport=Halting(module, standin, "none", loop.stop))
    call = guard.wrap(client).post("/v1", json=[a_task()])
    task = loop.create_task(call)
    loop.set_exception_handler(lambda _, __: None)
    waiter = threading.Thread(target=lambda: begun.wait(30) and loop.call_soon_threadsafe(loop.stop))
    waiter.start()
    loop.run_forever()
    waiter.join()
    call.close()
    loop.close()
    del task
    go.set()
    guard.close()  # waits for what the ledger's thread still has to do
    after = make_guard()
    check(after, standin, "settled" if stage == "settlement" else "released", "breakdown")


# --- the process dies ----------------------------------------------------------------------------------------

VICTIM = """
import asyncio, sys
import httpx
from costguard import Guard

path, url, kind, task = sys.argv[1:]
guard = Guard(path, "acme/search")
if kind == "sync":
    guard.wrap(httpx.Client(base_url=url, trust_env=False, timeout=60)).post("/v1", content=task)
else:
    async def main():
        await guard.wrap(httpx.AsyncClient(base_url=url, trust_env=False, timeout=60)).post("/v1", content=task)
    asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_killed_process_leaves_its_call_held_and_unresolved(
    kind: str, make_guard: Callable[..., Guard], ledger: Path, standin: StandIn
) -> None:
    import costguard

    guard = make_guard(clock=None)
    guard.set_budget("/", LIMIT, per="total")
    standin.fault("hang")
    environment = {**os.environ, "PYTHONPATH": str(Path(costguard.__file__).parents[1])}
    with standin.serve() as url:
        command = [sys.executable, "-c", VICTIM, str(ledger), url, kind, json.dumps(a_task())]
        with subprocess.Popen(command, env=environment) as victim:
            while not standin.received:
                assert victim.poll() is None, "it ended by itself"
                time.sleep(0.01)
            assert only_task(guard).status == "held"
            victim.send_signal(signal.SIGKILL)
    check(guard, standin, "unresolved")
    assert "gone" in str(only_task(guard).reason)
