"""`on_alert` is a plain function: an asynchronous one is refused at once, whatever it is wrapped in."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any

import httpx
import pytest
import trio
from conftest import API, a_task

from costguard import Alert, ConfigurationError, Guard
from costguard.testing import StandIn

MakeGuard = Callable[..., Guard]


async def asynchronous(alert: Alert) -> None:
    raise AssertionError(f"nobody awaits it: {alert}")


async def generator(alert: Alert) -> AsyncIterator[Alert]:
    yield alert


class Handler:
    async def __call__(self, alert: Alert) -> None:
        raise AssertionError(f"nobody awaits it: {alert}")

    async def method(self, alert: Alert) -> None:
        raise AssertionError(f"nobody awaits it: {alert}")


@pytest.mark.parametrize("mode", ["enforce", "observe", "off"])
@pytest.mark.parametrize(
    "on_alert",
    [
        asynchronous,
        generator,
        Handler(),
        Handler().method,
        functools.partial(asynchronous),
        functools.partial(functools.partial(Handler())),
    ],
    ids=["function", "generator", "object", "method", "partial", "partial of an object"],
)
def test_an_asynchronous_function_is_refused_when_the_guard_is_made(
    on_alert: Any, mode: str, make_guard: MakeGuard
) -> None:
    with pytest.raises(ConfigurationError, match=r"on_alert: expected a plain function.*call_soon_threadsafe"):
        make_guard(on_alert=on_alert, mode=mode)


def test_what_is_no_function_is_refused(make_guard: MakeGuard) -> None:
    with pytest.raises(ConfigurationError, match="on_alert: expected a function of one alert, found 'mail'"):
        make_guard(on_alert="mail")


def test_a_coroutine_that_a_plain_function_returns_is_said_and_warns_of_nothing(
    make_guard: MakeGuard, standin: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    def on_alert(alert: Alert) -> object:
        return asynchronous(alert)

    guard = make_guard(on_alert=on_alert)
    guard.set_budget("acme", "0.001", warn_at=(1,))
    with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:
        assert client.post("/v1", json=[a_task()]).status_code == 200
    assert "on_alert returned a coroutine, which was not awaited" in caplog.text


class Awaitable:
    def __await__(self) -> Generator[None]:
        yield


async def generated() -> AsyncIterator[None]:
    yield


@pytest.mark.parametrize("kind", ["object", "future", "generator"])
def test_whatever_else_wants_to_be_awaited_is_said(
    kind: str, make_guard: MakeGuard, standin: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        make = {"object": Awaitable, "future": loop.create_future, "generator": generated}[kind]
        guard = make_guard(on_alert=lambda alert: make())
        guard.set_budget("acme", "0.001", warn_at=(1,))
        with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:
            assert client.post("/v1", json=[a_task()]).status_code == 200
    assert "which was not awaited" in caplog.text


@pytest.mark.parametrize("loop", ["asyncio", "trio", "none"])
def test_an_alert_reaches_a_program_on_any_loop_as_the_error_says(
    loop: str, make_guard: MakeGuard, standin: StandIn
) -> None:
    told: list[Alert] = []
    hand_over: list[Callable[[Alert], object]] = []

    def on_alert(alert: Alert) -> None:
        hand_over[0](alert)

    guard = make_guard(on_alert=on_alert)
    guard.set_budget("acme", "0.001", warn_at=(1,))

    async def post() -> None:
        transport = guard.async_transport(standin.async_transport())
        async with httpx.AsyncClient(base_url=API, transport=transport) as client:
            await client.post("/v1", json=[a_task()])

    async def on_asyncio() -> None:
        queue: asyncio.Queue[Alert] = asyncio.Queue()
        running = asyncio.get_running_loop()
        hand_over.append(lambda alert: running.call_soon_threadsafe(queue.put_nowait, alert))
        await post()
        told.append(await queue.get())

    async def on_trio() -> None:
        send, receive = trio.open_memory_channel[Alert](9)
        token = trio.lowlevel.current_trio_token()
        hand_over.append(lambda alert: trio.from_thread.run_sync(send.send_nowait, alert, trio_token=token))
        await post()
        told.append(await receive.receive())

    if loop == "asyncio":
        asyncio.run(on_asyncio())
    elif loop == "trio":
        trio.run(on_trio)
    else:
        hand_over.append(told.append)
        with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:
            client.post("/v1", json=[a_task()])
    assert [alert.percent for alert in told] == [1]
