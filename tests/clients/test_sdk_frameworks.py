"""Frameworks on top of a wrapped client: LangChain and pydantic-ai are charged at the bill, and stopped as itself."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import openai
import pytest
from conftest import FLASH, audit
from langchain_openai import ChatOpenAI
from pydantic import SecretStr
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from sdks import own_http_client

from costguard import BudgetExceeded, Guard
from costguard.money import NANOS
from costguard.testing import StandIn

PROMPT = "Describe the harbour."


@pytest.fixture
def url(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The base URL of the stand-in's forms."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with standin.serve() as served:
        yield f"{served}/v1"


@pytest.fixture
def guard(make_guard: Callable[..., Guard], url: str) -> Guard:
    """A guard that knows the stand-in, under a hard budget."""
    guard = make_guard(endpoints=[url])
    guard.set_budget("/", "1", per="total")
    return guard


@pytest.fixture
def run() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    """Runs coroutines, all on one loop."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def client(guard: Guard, url: str) -> Iterator[openai.OpenAI]:
    """A wrapped client."""
    bare = own_http_client("openai.OpenAI", verify=False)
    with openai.OpenAI(api_key="a-key", base_url=url, http_client=bare) as made:
        yield guard.wrap(made)


@pytest.fixture
def aclient(guard: Guard, url: str, run: Any) -> Iterator[openai.AsyncOpenAI]:
    """A wrapped asynchronous client."""
    bare = own_http_client("openai.AsyncOpenAI", verify=False)
    made = openai.AsyncOpenAI(api_key="a-key", base_url=url, http_client=bare)
    yield guard.wrap(made)
    run(made.close())


def is_charged(guard: Guard, standin: StandIn, calls: int) -> None:
    rows = guard.ledger.tasks()
    assert [(row.status, row.held) for row in rows] == [("settled", 0)] * calls
    assert sum(row.charged for row in rows) == int(standin.billed() * NANOS)
    audit(guard)


def empty(guard: Guard) -> None:
    guard.set_budget("/", "0.000000001", per="total")


# -- LangChain ----------------------------------------------------------------------------------


def over_clients(client: openai.OpenAI, aclient: openai.AsyncOpenAI, url: str, **more: Any) -> ChatOpenAI:
    """A model over clients that were wrapped before."""
    return ChatOpenAI(
        model=FLASH,
        client=client.chat.completions,
        root_client=client,
        async_client=aclient.chat.completions,
        root_async_client=aclient,
        max_completion_tokens=100,
        **more,
    )


@pytest.mark.parametrize("uses_responses", [False, True])
def test_langchain_over_wrapped_clients(
    uses_responses: bool,
    client: openai.OpenAI,
    aclient: openai.AsyncOpenAI,
    guard: Guard,
    standin: StandIn,
    url: str,
    run: Any,
) -> None:
    model = over_clients(client, aclient, url, use_responses_api=uses_responses)

    async def streamed() -> list[str]:
        return [chunk.text async for chunk in model.astream(PROMPT)]

    assert "harbour" in model.invoke(PROMPT).text
    assert "harbour" in "".join(chunk.text for chunk in model.stream(PROMPT))
    assert "harbour" in run(model.ainvoke(PROMPT)).text
    assert "harbour" in "".join(run(streamed()))
    is_charged(guard, standin, 4)
    empty(guard)
    for ask in (
        lambda: model.invoke(PROMPT),
        lambda: list(model.stream(PROMPT)),
        lambda: run(model.ainvoke(PROMPT)),
        lambda: run(streamed()),
    ):
        with pytest.raises(BudgetExceeded):
            ask()
    assert len(standin.received) == 4


def test_langchain_whose_own_clients_are_wrapped(guard: Guard, standin: StandIn, url: str, run: Any) -> None:
    own, other = (own_http_client(f"openai.{name}", verify=False) for name in ("OpenAI", "AsyncOpenAI"))
    model = ChatOpenAI(
        model=FLASH,
        base_url=url,
        api_key=SecretStr("a-key"),
        http_client=own,
        http_async_client=other,
        max_completion_tokens=100,
    )
    guard.wrap(model.root_client)
    guard.wrap(model.root_async_client)
    model.invoke(PROMPT)
    run(model.ainvoke(PROMPT))
    list(model.bind(temperature=0.5).stream(PROMPT))
    is_charged(guard, standin, 3)
    empty(guard)
    with pytest.raises(BudgetExceeded):
        model.bind(temperature=0.5).invoke(PROMPT)
    with pytest.raises(BudgetExceeded):
        run(model.with_config(tags=["a"]).ainvoke(PROMPT))
    assert len(standin.received) == 3
    model.root_client.close()
    run(model.root_async_client.close())


# -- pydantic-ai --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [OpenAIChatModel, OpenAIResponsesModel])
def test_pydantic_ai_over_a_wrapped_client(
    kind: Any, aclient: openai.AsyncOpenAI, guard: Guard, standin: StandIn, run: Any
) -> None:
    model = kind(FLASH, provider=OpenAIProvider(openai_client=aclient))
    agent = Agent(model, model_settings={"max_tokens": 100})

    async def plain() -> str:
        return str((await agent.run(PROMPT)).output)

    async def streamed() -> str:
        async with agent.run_stream(PROMPT) as result:
            return str(await result.get_output())

    assert "harbour" in run(plain())
    assert "harbour" in run(streamed())
    is_charged(guard, standin, 2)
    empty(guard)
    for ask in (plain, streamed):
        with pytest.raises(BudgetExceeded):
            run(ask())
    assert len(standin.received) == 2
