"""What passes an SDK reaches its caller alone, however calls lie in and beside one another."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from conftest import API, FLASH, a_task, audit
from sdks import for_once

from costguard import BudgetExceeded, Guard
from costguard.testing import StandIn

ASKED: Any = {"model": FLASH, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50}


@pytest.fixture
def plain(guard: Guard, standin: StandIn) -> httpx2.AsyncClient:
    """A guarded client of no SDK."""
    return guard.wrap(httpx2.AsyncClient(base_url=API, transport=standin.async_transport("httpx2")))


def empty(guard: Guard) -> None:
    """From now on every call is over budget."""
    guard.set_budget("/", "0.000000001", per="total")


def asker(guard: Guard, transport: Any, **options: Any) -> anthropic.AsyncAnthropic:
    """A wrapped client of an SDK that wraps whatever comes, over a transport; `options` are its own."""
    http_client = httpx2.AsyncClient(transport=transport, event_hooks=options.pop("event_hooks", None))
    made = anthropic.AsyncAnthropic(api_key="a-key", base_url=API, http_client=http_client, **options)
    for_once(made)
    return guard.wrap(made)


def keyed(guard: Guard, standin: StandIn, key: Any) -> openai.AsyncOpenAI:
    """A wrapped client that asks `key` for its key in every call."""
    http_client = httpx2.AsyncClient(transport=standin.async_transport("httpx2"))
    return guard.wrap(openai.AsyncOpenAI(api_key=key, base_url=f"{API}/v1", http_client=http_client))


class Between(httpx2.AsyncBaseTransport):
    """What a program puts before the stand-in: `does` is run before each request goes on."""

    def __init__(self, standin: StandIn, does: Callable[[], Any]) -> None:
        self._inner: Any = standin.async_transport("httpx2")
        self._does = does
        self.tries = 0

    async def handle_async_request(self, request: httpx2.Request) -> Any:
        self.tries += 1
        await self._does()
        return await self._inner.handle_async_request(request)


async def nothing() -> None:
    """Nothing stands between."""


def test_calls_of_tasks_that_share_a_context_end_in_any_order_and_leave_nothing(
    guard: Guard, standin: StandIn, plain: httpx2.AsyncClient
) -> None:
    async def run() -> None:
        context = contextvars.copy_context()
        gates = [asyncio.Event() for _ in range(2)]
        inside = [asyncio.Event() for _ in range(2)]

        async def wait(n: int) -> None:
            inside[n].set()
            await gates[n].wait()

        clients = [asker(guard, Between(standin, functools.partial(wait, n))) for n in range(2)]

        async def begun(n: int) -> asyncio.Task[Any]:
            task = asyncio.get_running_loop().create_task(clients[n].messages.create(**ASKED), context=context)
            await inside[n].wait()
            return task

        first, second = await begun(0), await begun(1)
        gates[0].set()
        await first
        standin.fault("status:429")
        empty(guard)
        gates[1].set()
        with pytest.raises(BudgetExceeded):
            await second
        alone = asyncio.get_running_loop().create_task(plain.post("/v1", json=[a_task()]), context=context)
        with pytest.raises(BudgetExceeded):
            await alone

    asyncio.run(run())
    assert len(standin.received) == 2
    audit(guard)


@pytest.mark.parametrize("when", ["within", "behind"])
def test_a_task_that_was_begun_in_a_call_has_errors_of_its_own(
    when: str, guard: Guard, standin: StandIn, plain: httpx2.AsyncClient
) -> None:
    async def run() -> None:
        over = asyncio.Event()
        begun: list[asyncio.Task[Any]] = []

        async def aside() -> Any:
            if when == "behind":
                await over.wait()
            with guard.scope(project="acme/poor"):
                return await plain.post("/v1", json=[a_task()])

        async def begin(request: object) -> None:
            begun.append(asyncio.create_task(aside()))
            if when == "within":
                await asyncio.wait(begun)

        guard.set_budget("acme/poor", "0.000000001", per="total")
        client = asker(guard, standin.async_transport("httpx2"), event_hooks={"request": [begin]})
        await client.messages.create(**ASKED)
        over.set()
        with pytest.raises(BudgetExceeded):
            await begun[0]

    asyncio.run(run())
    assert len(standin.received) == 1


def test_what_a_program_asks_within_a_call_it_may_catch(
    guard: Guard, standin: StandIn, plain: httpx2.AsyncClient
) -> None:
    found: list[str] = []

    async def key() -> str:
        with guard.scope(project="acme/poor"):
            try:
                await plain.post("/v1", json=[a_task()])
            except BudgetExceeded as stop:
                found.append(stop.project)
        return "a-key"

    guard.set_budget("acme/poor", "0.000000001", per="total")
    asyncio.run(keyed(guard, standin, key).chat.completions.create(**ASKED))
    assert found == ["acme/poor"]
    assert len(standin.received) == 1


def test_a_call_within_the_sending_of_another_arrives_as_itself_at_once(guard: Guard, standin: StandIn) -> None:
    found: list[type] = []
    inner = Between(standin, nothing)

    async def app() -> None:
        with guard.scope(project="acme/poor"):
            try:
                await asker(guard, inner).messages.create(**{**ASKED, "max_tokens": 40})
            except Exception as error:
                found.append(type(error))

    guard.set_budget("acme/poor", "0.000000001", per="total")
    asyncio.run(asker(guard, Between(standin, app)).messages.create(**ASKED))
    assert found == [BudgetExceeded]
    assert inner.tries == 0
    assert len(standin.received) == 1


@pytest.mark.parametrize("others", [0, 1])
def test_a_refusal_in_a_group_of_tasks_arrives_as_itself(others: int, guard: Guard, standin: StandIn) -> None:
    async def other() -> None:
        await asyncio.Event().wait()

    async def between(request: Any, call_next: Any) -> Any:
        async with asyncio.TaskGroup() as outer, asyncio.TaskGroup() as group:
            asked = group.create_task(call_next(request))
            for _ in range(others):
                outer.create_task(other())
        return asked.result()

    empty(guard)
    client = asker(guard, standin.async_transport("httpx2"), middleware=[between])
    with pytest.raises(BudgetExceeded):
        asyncio.run(client.messages.create(**ASKED))
    assert standin.received == []


def test_a_group_of_errors_that_are_the_programs_own_stays_as_it_is(guard: Guard, standin: StandIn) -> None:
    async def key() -> str:
        raise ExceptionGroup("both", [ValueError("one"), ValueError("two")])

    with pytest.raises(ExceptionGroup, match="both"):
        asyncio.run(keyed(guard, standin, key).chat.completions.create(**ASKED))


def test_a_call_that_is_dropped_during_another_leaves_that_one_alone(guard: Guard, standin: StandIn) -> None:
    dropped: list[Any] = []

    async def never(request: object) -> None:
        await asyncio.Event().wait()

    async def drop() -> None:
        dropped.pop().close()
        empty(guard)

    async def run() -> None:
        lost = asker(guard, standin.async_transport("httpx2"), event_hooks={"request": [never]})
        dropped.append(lost.messages.create(**ASKED))
        contextvars.copy_context().run(dropped[0].send, None)
        standin.fault("status:429")
        with pytest.raises(BudgetExceeded):
            await asker(guard, Between(standin, drop)).messages.create(**ASKED)

    asyncio.run(run())
    assert len(standin.received) == 1
    audit(guard)
