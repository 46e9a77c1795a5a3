"""The odd corners where a guard must fail closed, and the switch that must work when nothing else does."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import API, AnyClient, Clock, a_task, audit, memory, only_task

from costguard import BudgetExceeded, ConfigurationError, Guard, InvalidRequest, LedgerError
from costguard.testing import StandIn

MakeGuard = Callable[..., Guard]


class Outer:
    """A retry transport of the user's own, for one."""

    def __init__(self, transport: Any) -> None:
        self.transport = transport

    def handle_request(self, request: Any) -> Any:
        return self.transport.handle_request(request)

    async def handle_async_request(self, request: Any) -> Any:
        return await self.transport.handle_async_request(request)

    def close(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


def test_a_call_that_passes_the_same_guard_twice_is_held_and_charged_once(
    kind: str, guard: Guard, standin: StandIn, make_client: Callable[..., AnyClient]
) -> None:
    guarded: Any = guard.async_transport if kind.endswith("AsyncClient") else guard.transport
    client = make_client(kind, guard, transport=Outer(guarded(memory(standin, kind))))
    assert client.post(a_task()).status_code == 200
    assert only_task(guard).attempts == 1
    audit(guard, standin)


def test_a_retry_between_two_layers_of_a_guard_is_an_attempt_of_its_own(guard: Guard, standin: StandIn) -> None:
    class Retry(Outer):
        def handle_request(self, request: Any) -> Any:
            try:
                return self.transport.handle_request(request)
            except httpx.TransportError:
                return self.transport.handle_request(request)

    standin.fault("drop_after")
    client = httpx.Client(base_url=API, transport=Retry(guard.transport(standin.transport())))  # type: ignore[arg-type]
    guard.wrap(client).post("/v1", json=[a_task()])
    row = only_task(guard)
    assert (row.attempts, row.status) == (2, "unresolved")
    assert row.charged == standin.bill[1].amount * 10**9
    assert row.held
    audit(guard, standin)


@pytest.mark.parametrize("then", ["refused", "never connected"])
def test_a_retry_that_never_left_says_nothing_of_what_was_sent_before_it(
    then: str, guard: Guard, standin: StandIn
) -> None:
    class Retry(Outer):
        def handle_request(self, request: Any) -> Any:
            assert self.transport.handle_request(request).status_code == 500
            if then == "refused":
                guard.set_budget("/", "0.000000001", per="total")
                return self.transport.handle_request(request)
            self.transport.handle_request(request)
            raise httpx.ConnectError("refused")

    standin.fault("status_billed:500", times=2)
    client = httpx.Client(base_url=API, transport=Retry(guard.transport(standin.transport())))  # type: ignore[arg-type]
    with pytest.raises(BudgetExceeded if then == "refused" else httpx.ConnectError):
        guard.wrap(client).post("/v1", json=[a_task()])
    row = only_task(guard)
    assert row.status == "unresolved"
    assert row.held >= standin.billed() * 10**9
    audit(guard, standin)


def test_the_same_request_object_sent_twice_at_once_is_held_twice(make_guard: MakeGuard, standin: StandIn) -> None:
    guard = make_guard()
    upper = guard.estimate(a_task()).upper
    assert upper is not None
    guard.set_budget("/", upper, per="total")
    inner = standin.async_transport()

    async def slow(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.05)
        response: httpx.Response = await inner.handle_async_request(request)
        return response

    async def hedge() -> list[object]:
        client = guard.wrap(httpx.AsyncClient(base_url=API, transport=httpx.MockTransport(slow)))
        request = client.build_request("POST", "/v1", json=[a_task()])
        return list(await asyncio.gather(client.send(request), client.send(request), return_exceptions=True))

    found = sorted(type(outcome).__name__ for outcome in asyncio.run(hedge()))
    assert found == ["BudgetExceeded", "Response"]
    assert len(standin.received) == 1


def test_what_an_inner_guard_refuses_is_released_by_the_outer_one(make_guard: MakeGuard, tmp_path: Path) -> None:
    strict = Guard(tmp_path / "strict.db")
    strict.set_budget("/", "0")
    outer = make_guard()
    client = outer.wrap(httpx.Client(base_url=API, transport=Outer(strict.transport(StandIn().transport()))))  # type: ignore[arg-type]
    with pytest.raises(BudgetExceeded):
        client.post("/v1", json=[a_task()])
    assert only_task(outer).status == "released"
    strict.close()


def test_a_default_transport_is_made_of_the_clients_own_library(
    kind: str, guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    transport: Any = guard.async_transport() if kind.endswith("AsyncClient") else guard.transport()
    standin = StandIn()
    with standin.serve() as url:
        client = make_client(kind, guard, transport=transport, base_url=url)
        assert client.post(a_task()).status_code == 200
        client.close()
    audit(guard, standin)


def test_a_transport_of_the_wrong_sort_is_refused_before_anything_is_held(guard: Guard) -> None:
    with pytest.raises(TypeError, match=r"handle_request\(\), got httpx\.AsyncHTTPTransport"):
        guard.transport(httpx.AsyncHTTPTransport())


def test_unresolved_tasks_are_asked_for_only_where_they_were_sent_and_never_freed_unasked(
    make_guard: MakeGuard, clock: Clock
) -> None:
    guard = make_guard()
    seen: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        task = json.loads(request.content)[0]
        seen.append((request.url.host, task["taskType"]))
        if task["taskType"] == "getTaskDetails":
            error = {"code": "taskNotFound", "taskUUID": task["taskUUID"]}
            return httpx.Response(200, json={"errors": [error]})
        raise httpx.ReadTimeout("lost")

    client = guard.wrap(httpx.Client(transport=httpx.MockTransport(answer)))
    upper = guard.estimate(a_task()).upper
    assert upper is not None
    guard.set_budget("/", upper, per="total")
    with pytest.raises(httpx.ReadTimeout):
        client.post(f"{API}/v1", json=[a_task()])
    clock.now += timedelta(minutes=5)
    with pytest.raises(BudgetExceeded):
        client.post("https://other.example/llm", json=[a_task()])
    with pytest.raises(BudgetExceeded):
        client.post(f"{API}/v1", json=[a_task()])
    assert seen == [("api.runware.ai", "textInference"), ("api.runware.ai", "getTaskDetails")]
    assert only_task(guard).status == "unresolved"


def test_an_answer_that_comes_after_close_is_still_booked(ledger: Path, standin: StandIn) -> None:
    guard = Guard(ledger)
    sent, closed = threading.Event(), threading.Event()
    inner = standin.transport()

    def slow(request: httpx.Request) -> httpx.Response:
        sent.set()
        closed.wait(10)
        response: httpx.Response = inner.handle_request(request)
        return response

    client = guard.wrap(httpx.Client(base_url=API, transport=httpx.MockTransport(slow)))
    call = threading.Thread(target=client.post, args=("/v1",), kwargs={"json": [a_task()]})
    call.start()
    assert sent.wait(10)
    guard.close()
    closed.set()
    call.join()
    with pytest.raises(LedgerError, match="closed"):
        client.post("/v1", json=[a_task()])
    with Guard(ledger) as again:
        assert only_task(again).status == "settled"
        audit(again, standin)


def test_an_answer_after_close_goes_into_no_other_ledger(ledger: Path, standin: StandIn) -> None:
    guard = Guard(ledger)
    client = guard.wrap(httpx.Client(base_url=API, transport=standin.transport()))
    with client.stream("POST", "/v1", json=[a_task(deliveryMethod="stream")]) as response:
        guard.close()
        for file in ledger.parent.glob(f"{ledger.name}*"):
            file.unlink()
        response.read()
    assert not ledger.exists()


@pytest.mark.parametrize("mode", ["off", " OFF ", "observe"])
def test_off_and_observe_send_without_a_ledger_in_good_health(
    mode: str, tmp_path: Path, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.db").write_text("not a ledger, and longer than a header of SQLite's would have to be " * 3)
    monkeypatch.setenv("COSTGUARD", mode)
    guard = Guard(tmp_path / "x.db")
    client = guard.wrap(httpx.Client(base_url=API, transport=standin.transport()))
    with guard.scope(project="acme"):
        assert client.post("/v1", json=[a_task()]).status_code == 200
    with pytest.raises(LedgerError, match="not a SQLite file"):
        guard.ledger.tasks()
    guard.close()


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("https://[::1]:8080/v1", "https://[::1]:8080/v1"),
        ("[::1]", "https://[::1]:9/v1"),
        ("https://llm.example:443/v1", "https://llm.example/v1"),
        ("https://münchen.example/v1", "https://xn--mnchen-3ya.example/v1"),
        ("llm.example.", "https://LLM.example/v1/"),
        ("https://llm.example/api", "https://llm.example./api"),
    ],
)
def test_an_endpoint_is_known_in_all_its_spellings(
    endpoint: str, url: str, make_guard: MakeGuard, standin: StandIn
) -> None:
    client = make_guard(endpoints=[endpoint]).wrap(httpx.Client(transport=standin.transport()))
    with pytest.raises(InvalidRequest, match="not JSON"):
        client.post(url, content=b"hello")
    assert not standin.received


def test_endpoints_as_one_text_are_refused(ledger: Path) -> None:
    with pytest.raises(ConfigurationError, match="expected a list"):
        Guard(ledger, endpoints="llm.example")


@pytest.mark.parametrize("depth", [900, 960, 970, 975, 980, 985, 990, 1490, 1500, 9_980, 9_995, 100_000])
def test_a_task_nested_deeply_is_booked_or_refused_whatever_this_python_can_nest(
    guard: Guard, standin: StandIn, depth: int
) -> None:
    client = guard.wrap(httpx.Client(base_url=API, transport=standin.transport()))
    task = a_task(includeCost=True, includeUsage=True)
    deep = json.dumps([task])[:-2] + ', "x": ' + "[" * depth + "]" * depth + "}]"
    try:
        client.post("/v1", content=deep.encode())
    except InvalidRequest:
        assert not standin.received
        assert not guard.ledger.tasks()
    else:
        assert depth < 100_000
        assert len(standin.received) == len(guard.ledger.tasks()) == 1


def test_a_ledger_deleted_while_in_use_stops_the_next_call(guard: Guard, ledger: Path, standin: StandIn) -> None:
    client = guard.wrap(httpx.Client(base_url=API, transport=standin.transport()))
    client.post("/v1", json=[a_task()])
    for file in ledger.parent.glob(f"{ledger.name}*"):
        file.unlink()
    with pytest.raises(LedgerError, match="was deleted, moved or replaced"):
        client.post("/v1", json=[a_task()])
    assert len(standin.received) == 1


def test_a_symbolic_link_to_a_ledger_shares_its_lock(ledger: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere" / "link.db"
    with Guard(ledger):
        link.symlink_to(ledger)
        with Guard(link):
            assert [file.name for file in link.parent.iterdir()] == ["link.db"]


def test_verify_names_a_damaged_file(guard: Guard, ledger: Path, tmp_path: Path, standin: StandIn) -> None:
    client = guard.wrap(httpx.Client(base_url=API, transport=standin.transport()))
    for _ in range(20):
        client.post("/v1", json=[a_task()])
    guard.close()
    copy = tmp_path / "copy.db"
    shutil.copy(ledger, copy)
    with copy.open("r+b") as file:
        file.seek(8 * 4096)
        file.write(b"\xff" * 4096)
    try:
        with Guard(copy) as damaged:
            found = damaged.verify().difference
    except LedgerError as error:
        found = str(error)
    assert found is not None
