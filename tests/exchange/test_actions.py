"""What a budget does instead of refusing at once: `clamp` lowers `maxTokens`, `wait` lets held money come back."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import pytest
import trio
from conftest import API, AnyClient, a_task, memory, only_task, sent_tasks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from roads import Provider, Scripted, agree

from costguard import BudgetExceeded, Guard
from costguard.testing import StandIn

MakeClient = Callable[..., AnyClient]
MakeGuard = Callable[..., Guard]


def upper(guard: Guard, max_tokens: int, **fields: Any) -> Decimal:
    """USD that a task may cost with that allowance."""
    found = guard.estimate(a_task(settings={"maxTokens": max_tokens}, **fields)).upper
    assert found is not None
    return found


def allowances(tasks: list[dict[str, Any]]) -> list[int]:
    return [task["settings"]["maxTokens"] for task in tasks]


@pytest.fixture
def free_guard(make_guard: MakeGuard) -> Guard:
    """A guard without a budget."""
    return make_guard()


# --- clamp ---


def test_clamp_lowers_max_tokens_to_what_is_left_to_the_token(
    kind: str, free_guard: Guard, standin: StandIn, make_client: MakeClient
) -> None:
    free_guard.set_budget("/", upper(free_guard, 137), per="total", action="clamp")
    client = make_client(kind, free_guard, transport=memory(standin, kind))
    task = a_task(settings={"maxTokens": 4000, "temperature": 0.5})
    client.post(task)
    (sent,) = sent_tasks(standin)
    assert sent["settings"] == {"maxTokens": 137, "temperature": 0.5}
    assert {**sent, "settings": task["settings"]} == {**task, "includeCost": True, "includeUsage": True}
    assert agree(free_guard, standin)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    limit=st.integers(1, 40_000),
    asked=st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 4)), min_size=1, max_size=3),
    floor=st.integers(1, 200),
)
def test_clamp_takes_the_most_that_fits_and_never_goes_under_the_floor(
    limit: int, asked: list[tuple[int, int]], floor: int, make_guard: MakeGuard, tmp_path_factory: Any
) -> None:
    guard = make_guard(path=tmp_path_factory.mktemp("clamp") / "ledger.db")
    guard.set_budget("/", Decimal(limit).scaleb(-6), per="total", action="clamp", floor=floor)
    standin = StandIn()
    tasks = [a_task(settings={"maxTokens": tokens}, numberResults=results) for tokens, results in asked]

    def cost(level: int) -> Decimal:
        return sum((upper(guard, min(tokens, level), numberResults=results) for tokens, results in asked), Decimal(0))

    most = max(tokens for tokens, _ in asked)
    with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:
        if cost(min(floor, most)) > Decimal(limit).scaleb(-6):
            with pytest.raises(BudgetExceeded):
                client.post("/v1", json=tasks)
            assert standin.received == []
            return
        client.post("/v1", json=tasks)
    sent = allowances(sent_tasks(standin))
    level = max(sent)
    assert sent == [min(tokens, level) for tokens, _ in asked]
    assert level == most or cost(level) <= Decimal(limit).scaleb(-6) < cost(level + 1)
    assert level >= min(floor, most)
    assert agree(guard, standin)
    guard.close()


def test_what_fits_is_not_clamped(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    guard.set_budget("/", 1, per="total", action="clamp")
    response = client.post(a_task())
    assert allowances(sent_tasks(standin)) == [200]
    (told,) = response.extensions["costguard"].tasks
    assert (told.clamped_from, told.clamped_to) == (None, None)
    assert only_task(guard).clamped_from is None


def test_a_clamp_is_said_in_the_log_the_receipt_and_the_ledger(
    kind: str, free_guard: Guard, standin: StandIn, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    free_guard.set_budget("/", upper(free_guard, 50), per="total", action="clamp")
    task = a_task(settings={"maxTokens": 900})
    response = make_client(kind, free_guard, transport=memory(standin, kind)).post(task)
    (told,) = response.extensions["costguard"].tasks
    assert (told.clamped_from, told.clamped_to, told.held) == (900, 50, upper(free_guard, 50))
    row = only_task(free_guard)
    assert (row.clamped_from, row.upper) == (900, int(upper(free_guard, 50) * 10**9))
    assert [
        record.levelno for record in caplog.records if "allowance lowered from 900 to 50 tokens" in record.message
    ] == [logging.WARNING]


@pytest.mark.parametrize("stated", [{}, {"settings": {}}, {"maxTokens": 5000, "settings": None}, {"settings": None}])
def test_an_allowance_that_was_not_stated_is_stated(
    stated: dict[str, Any], free_guard: Guard, standin: StandIn, make_client: MakeClient
) -> None:
    free_guard.set_budget("/", upper(free_guard, 60), per="total", action="clamp")
    client = make_client("httpx.Client", free_guard, transport=standin.transport())
    task = {key: value for key, value in a_task().items() if key != "settings"} | stated
    task = {key: value for key, value in task.items() if value is not None}
    client.post(task)
    (sent,) = sent_tasks(standin)
    assert sent.get("maxTokens", sent.get("settings", {}).get("maxTokens")) == 60


def test_a_floor_is_kept_and_then_refuses(free_guard: Guard, standin: StandIn, make_client: MakeClient) -> None:
    free_guard.set_budget("/", upper(free_guard, 99), per="total", action="clamp", floor=100)
    client = make_client("httpx.Client", free_guard, transport=standin.transport())
    with pytest.raises(BudgetExceeded) as stop:
        client.post(a_task(settings={"maxTokens": 900}))
    assert stop.value.requested == upper(free_guard, 900)
    assert standin.received == []
    free_guard.set_budget("/", upper(free_guard, 100), per="total", action="clamp", floor=100)
    client.post(a_task(settings={"maxTokens": 900}))
    assert allowances(sent_tasks(standin)) == [100]


def test_a_task_cap_is_clamped_for_each_task(free_guard: Guard, standin: StandIn, make_client: MakeClient) -> None:
    free_guard.set_budget("/", upper(free_guard, 70), per="task", action="clamp")
    client = make_client("httpx.Client", free_guard, transport=standin.transport())
    client.post(a_task(settings={"maxTokens": 900}), a_task(settings={"maxTokens": 30}))
    assert allowances(sent_tasks(standin)) == [70, 30]


def test_two_clamping_budgets_are_both_kept(free_guard: Guard, standin: StandIn, make_client: MakeClient) -> None:
    free_guard.set_budget("/", upper(free_guard, 80), per="total", action="clamp")
    free_guard.set_budget("acme", upper(free_guard, 40), per="month", action="clamp")
    make_client("httpx.Client", free_guard, transport=standin.transport()).post(a_task(settings={"maxTokens": 900}))
    assert allowances(sent_tasks(standin)) == [40]


def test_a_blocking_budget_refuses_whatever_another_would_clamp(
    free_guard: Guard, standin: StandIn, make_client: MakeClient
) -> None:
    free_guard.set_budget("/", upper(free_guard, 40), per="total")
    free_guard.set_budget("acme", upper(free_guard, 80), per="month", action="clamp")
    with pytest.raises(BudgetExceeded):
        make_client("httpx.Client", free_guard, transport=standin.transport()).post(a_task(settings={"maxTokens": 900}))


def test_a_retry_of_a_clamped_body_asks_for_what_it_asked_first(
    free_guard: Guard, standin: StandIn, make_client: MakeClient
) -> None:
    free_guard.set_budget("/", upper(free_guard, 70) * 2, per="total", action="clamp")
    client = make_client("httpx.Client", free_guard, transport=standin.transport())
    standin.fault("status:503")
    task = a_task(settings={"maxTokens": 70})
    client.post(task)
    client.post({**task, "settings": {"maxTokens": 900}})
    assert allowances(sent_tasks(standin)) == [70]
    assert task["settings"] == {"maxTokens": 70}, "the caller's own task is not changed"


def test_a_stream_is_clamped_too(kind: str, free_guard: Guard, standin: StandIn, make_client: MakeClient) -> None:
    from roads import read_stream

    free_guard.set_budget("/", upper(free_guard, 50), per="total", action="clamp")
    client = make_client(kind, free_guard, transport=memory(standin, kind))
    read_stream(client, a_task(deliveryMethod="stream", settings={"maxTokens": 900}))
    assert allowances(sent_tasks(standin)) == [50]
    assert agree(free_guard, standin)


# --- wait, and busy or exceeded ---


def holding(free_guard: Guard, release: threading.Event | None = None) -> Any:
    """A transport whose answer waits for `release`; then the call turns out to have been free."""

    def wait(_: int) -> None:
        if release is not None:
            assert release.wait(20)

    return free_guard.transport(
        Scripted([b'{"errors": [{"code": "x", "message": "no"}]}'], status=400,
                 headers={"content-type": "application/json"}, before=wait)
    )  # fmt: skip


def test_a_refusal_tells_busy_from_exceeded(free_guard: Guard, standin: StandIn, make_client: MakeClient) -> None:
    one = upper(free_guard, 200)
    free_guard.set_budget("/", one * 3 / 2, per="total")
    client = make_client("httpx.Client", free_guard, transport=standin.transport())
    with pytest.raises(BudgetExceeded, match=r"USD left\b") as stop:
        client.post(a_task(settings={"maxTokens": 900}))
    assert (stop.value.busy, stop.value.unresolved) == (False, Decimal(0))
    client.post(a_task(deliveryMethod="async"))
    with pytest.raises(BudgetExceeded, match=r"is busy: .* USD is held") as stop:
        client.post(a_task())
    assert (stop.value.busy, stop.value.unresolved) == (True, Decimal(0))
    assert stop.value.remaining == one / 2


def test_a_refusal_tells_what_of_the_held_money_is_unresolved(
    free_guard: Guard, standin: StandIn, make_client: MakeClient
) -> None:
    one = upper(free_guard, 200)
    free_guard.set_budget("/", one * 3 / 2, per="total")
    client = make_client("httpx.Client", free_guard, transport=standin.transport())
    standin.fault("status:503")
    client.post(a_task())
    with pytest.raises(BudgetExceeded, match=r"unknown outcome .*costguard reconcile") as stop:
        client.post(a_task())
    assert (stop.value.busy, stop.value.unresolved) == (True, one)


def test_a_limit_of_zero_is_exceeded_and_never_busy(
    free_guard: Guard, standin: StandIn, make_client: MakeClient
) -> None:
    client = make_client("httpx.Client", free_guard, transport=standin.transport())
    client.post(a_task(deliveryMethod="async"))
    free_guard.set_budget("/", 0, per="total", wait=30)
    with pytest.raises(BudgetExceeded) as stop:
        client.post(a_task())
    assert not stop.value.busy


def test_a_call_waits_for_held_money_and_is_sent(free_guard: Guard, standin: StandIn) -> None:
    free_guard.set_budget("/", upper(free_guard, 200), per="total", wait=20)
    release, second = threading.Event(), a_task()
    with (
        httpx.Client(base_url=API, transport=holding(free_guard, release)) as first,
        httpx.Client(base_url=API, transport=free_guard.transport(standin.transport())) as other,
    ):
        holder = threading.Thread(target=first.post, args=("/v1",), kwargs={"json": [a_task()]})
        holder.start()
        while not free_guard.ledger.tasks():
            time.sleep(0.005)
        waiter = threading.Thread(target=other.post, args=("/v1",), kwargs={"json": [second]})
        waiter.start()
        time.sleep(0.1)
        assert standin.received == []
        release.set()
        holder.join()
        waiter.join()
    assert agree(free_guard, standin)
    row = free_guard.ledger.task(second["taskUUID"])
    assert row is not None
    assert row.status == "settled"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_asynchronous_call_waits_without_holding_up_the_loop(
    backend: str, free_guard: Guard, standin: StandIn
) -> None:
    import anyio

    free_guard.set_budget("/", upper(free_guard, 200), per="total", wait=20)
    ticks = 0

    async def main() -> None:
        nonlocal ticks
        released = anyio.Event()
        answer = Scripted(
            [b'{"errors": [{"code": "x", "message": "no"}]}'], status=400,
            headers={"content-type": "application/json"}, before=lambda _: released.wait(),
        )  # fmt: skip
        async with (
            httpx.AsyncClient(base_url=API, transport=free_guard.async_transport(answer)) as first,
            httpx.AsyncClient(base_url=API, transport=free_guard.async_transport(standin.async_transport())) as other,
            anyio.create_task_group() as group,
        ):

            async def post(client: httpx.AsyncClient) -> None:
                await client.post("/v1", json=[a_task()])

            group.start_soon(post, first)
            while not free_guard.ledger.tasks():
                await anyio.sleep(0.005)
            group.start_soon(post, other)
            for _ in range(10):
                await anyio.sleep(0.01)
                ticks += 1
            assert standin.received == []
            released.set()

    if backend == "trio":
        trio.run(main)
    else:
        asyncio.run(main())
    assert ticks == 10
    assert agree(free_guard, standin)


def test_a_wait_is_bounded_and_ends_in_the_refusal(
    kind: str, free_guard: Guard, standin: StandIn, make_client: MakeClient
) -> None:
    client = make_client(kind, free_guard, transport=memory(standin, kind))
    client.post(a_task(deliveryMethod="async"))
    free_guard.set_budget("/", upper(free_guard, 200), per="total", wait=0.15)
    start = time.monotonic()
    with pytest.raises(BudgetExceeded) as stop:
        client.post(a_task())
    assert time.monotonic() - start >= 0.15
    assert stop.value.busy
    assert len(standin.received) == 1


def test_nobody_waits_for_what_can_never_fit(free_guard: Guard, standin: StandIn, make_client: MakeClient) -> None:
    client = make_client("httpx.Client", free_guard, transport=standin.transport())
    client.post(a_task(deliveryMethod="async"))
    free_guard.set_budget("/", upper(free_guard, 200), per="total", wait=600)
    with pytest.raises(BudgetExceeded) as stop:
        client.post(a_task(settings={"maxTokens": 900}))
    assert not stop.value.busy


def test_a_cancellation_ends_the_wait_and_holds_nothing(free_guard: Guard, standin: StandIn) -> None:
    free_guard.set_budget("/", upper(free_guard, 200), per="total", wait=600)

    async def main() -> None:
        transport = free_guard.async_transport(standin.async_transport())
        async with httpx.AsyncClient(base_url=API, transport=transport) as client:
            await client.post("/v1", json=[a_task(deliveryMethod="async")])
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.post("/v1", json=[a_task()])

    asyncio.run(main())
    assert len(free_guard.ledger.tasks()) == len(standin.received) == 1


def test_many_that_wait_all_get_their_turn(free_guard: Guard, make_client: MakeClient) -> None:
    free_guard.set_budget("/", upper(free_guard, 200) * 2, per="total", wait=30)
    client = make_client("httpx.Client", free_guard, transport=Provider(lambda tasks: (400, {"errors": []})))
    threads = [threading.Thread(target=client.post, args=(a_task(),)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row.status for row in free_guard.ledger.tasks()] == ["released"] * 16
    assert free_guard.verify().difference is None
