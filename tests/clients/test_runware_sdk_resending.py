"""The Runware SDK by websocket: calls that end before their answer comes, and tasks sent on behalf of a call."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import runware
import websockets
from conftest import a_task, only_task
from runware_sdk import run, unhurried, websocket
from websockets.asyncio.server import ServerConnection, serve

from costguard import BudgetExceeded, Guard

Use = Callable[[Any, "Provider"], Awaitable[Any]]


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    unhurried(monkeypatch)


class Provider:
    """Lets everybody in, and answers the tasks of `answered` connections with one result each, the first being 0."""

    def __init__(self, answered: Callable[[int], bool] = lambda _: True) -> None:
        self.answered = answered
        self.connections: list[ServerConnection] = []
        self.got: list[tuple[int, dict[str, Any]]] = []

    async def __call__(self, connection: ServerConnection) -> None:
        n = len(self.connections)
        self.connections.append(connection)
        async for message in connection:
            for task in json.loads(message):
                if task["taskType"] == "authentication":
                    item = {"taskType": "authentication", "connectionSessionUUID": "session"}
                    await connection.send(json.dumps({"data": [item]}))
                    continue
                self.got.append((n, task))
                if self.answered(n):
                    await self.answer(connection, task["taskUUID"])

    async def answer(self, connection: ServerConnection, name: str) -> None:
        item = {"taskType": "textInference", "taskUUID": name, "text": "Yes.", "cost": 0.00025}
        await connection.send(json.dumps({"data": [item]}))

    def names(self, n: int) -> list[str]:
        return [task["taskUUID"] for at, task in self.got if at == n]


def talking(guard: Guard, provider: Provider, use: Use, **options: Any) -> Any:
    """What `use` comes to with a client that is connected to `provider`."""

    async def main() -> Any:
        async with serve(provider, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            async with guard.wrap(websocket(f"ws://127.0.0.1:{port}/v1", **options)) as client:
                return await use(client, provider)

    return run(main())


async def until(is_so: Callable[[], Any]) -> None:
    while not is_so():
        await asyncio.sleep(0)


async def booked(guard: Guard) -> None:
    """All that was to be booked until now is."""
    done = threading.Event()
    guard.later(done.set)
    await asyncio.to_thread(done.wait, 10)


# --- calls that end before their answer comes ---


@pytest.mark.parametrize("how", ["cancel_event", "cancelled", "timeout", "another's error"])
def test_what_a_call_left_behind_is_in_doubt_while_its_connection_is_open_and_its_answer_still_counts(
    guard: Guard, how: str
) -> None:
    task = a_task(deliveryMethod="sync")

    async def use(client: Any, provider: Provider) -> None:
        cancel = asyncio.Event()
        options = runware.RunOptions(cancel_event=cancel, timeout=1 if how == "timeout" else None)
        calling = asyncio.create_task(client.run(task, options))
        await until(lambda: provider.got)
        if how == "cancel_event":
            cancel.set()
        elif how == "cancelled":
            calling.cancel()
        elif how == "another's error":
            said = {"code": "invalidModel", "message": "No.", "taskUUID": a_task()["taskUUID"]}
            await provider.connections[0].send(json.dumps({"errors": [said]}))
        with pytest.raises((runware.RunwareError, asyncio.CancelledError)):
            await calling
        await booked(guard)
        row = only_task(guard)
        assert (row.status, row.held > 0, row.reason) == (
            "unresolved",
            True,
            "its caller went away before it was answered",
        )
        (attempt,) = guard.ledger.attempts(row.task_uuid)
        assert attempt.ended_us is not None  # so that whoever asks may also release it
        await provider.answer(provider.connections[0], task["taskUUID"])
        provider.answered = lambda _: True
        await client.run(a_task(deliveryMethod="sync"))  # what came before is heard

    talking(guard, Provider(lambda _: False), use)
    assert [(row.status, row.held, row.charged) for row in guard.ledger.tasks()] == [("settled", 0, 250_000)] * 2


# --- what is sent on behalf of a call ---


async def lose(client: Any) -> None:
    """Break its connection, and do not yet let it connect again: what this gives lets it."""
    connect = client._config.dependencies.ws_connect
    may = asyncio.Event()

    async def when_it_may(url: str) -> Any:
        await may.wait()
        return await connect(url)

    client._config.dependencies.ws_connect = when_it_may
    client._ws_transport._ws.transport.abort()
    await until(lambda: not client.is_connected)
    client.let_it = may.set


def test_a_task_is_not_sent_for_a_call_that_ended_while_it_was_admitted_and_no_other_call_hears_of_it(
    guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard.set_budget("acme/wait", "0.0007", wait=60)  # one at its worst, and not two
    guard.set_budget("acme/none", "0.000001", wait=60)

    async def use(client: Any, provider: Provider) -> Any:
        await lose(client)
        calls = []
        for project in ("acme/wait", "acme/none", "acme/docs"):
            with guard.scope(project=project):
                calls.append(asyncio.create_task(client.run(a_task(deliveryMethod="sync"))))
        await until(lambda: len(client._ws_transport._in_flight) == 3)
        inside, go_on = threading.Event(), threading.Event()
        enter = guard.gate.enter

        def slowly(*args: Any) -> Any:
            inside.set()
            assert go_on.wait(10)
            return enter(*args)

        monkeypatch.setattr(guard.gate, "enter", slowly)
        client.let_it()
        await asyncio.to_thread(inside.wait, 10)
        calls[0].cancel()
        calls[1].cancel()
        await asyncio.wait(calls[:2])
        go_on.set()
        return await calls[2]

    provider = Provider()
    assert len(talking(guard, provider, use)) == 1
    assert len(provider.names(1)) == 1
    assert {row.project: (row.status, row.held) for row in guard.ledger.tasks()} == {
        "acme/docs": ("settled", 0),
        "acme/wait": ("released", 0),
    }


def test_a_refusal_that_finds_its_call_gone_is_told_to_no_other(guard: Guard) -> None:
    guard.set_budget("acme/none", "0.000001")

    async def use(client: Any, provider: Provider) -> Any:
        calling = asyncio.create_task(client.run(a_task(deliveryMethod="sync")))
        await until(lambda: provider.got)
        transport = client._ws_transport
        with guard.scope(project="acme/none"):
            transport._ws._calls.send_later([a_task()], transport._ws._send)
        await until(lambda: not transport._ws._calls._sendings)
        assert not calling.done()
        await provider.answer(provider.connections[0], provider.names(0)[0])
        return await calling

    assert len(talking(guard, Provider(lambda _: False), use)) == 1


def test_a_task_that_waits_for_room_keeps_no_other_and_the_client_connects_again_meanwhile(guard: Guard) -> None:
    guard.set_budget("acme/wait", "0.0007", wait=60)

    async def use(client: Any, provider: Provider) -> None:
        with guard.scope(project="acme/wait"):
            waiting = asyncio.create_task(client.run(a_task()))
        await until(lambda: provider.got)
        other = asyncio.create_task(client.run(a_task()))
        await until(lambda: len(provider.got) == 2)
        provider.connections[0].transport.abort()
        assert len(await other) == 1
        provider.connections[1].transport.abort()
        await until(lambda: len(provider.connections) == 3)
        assert len(await client.run(a_task())) == 1
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    talking(guard, Provider(lambda n: n > 0), use)


def test_of_tasks_that_go_out_together_only_those_that_a_connection_did_not_take_go_out_again(guard: Guard) -> None:
    first, second = a_task(deliveryMethod="sync"), a_task(deliveryMethod="sync")

    async def use(client: Any, provider: Provider) -> Any:
        await lose(client)
        connect = client._config.dependencies.ws_connect

        async def breaking(url: str) -> Any:
            connection = await connect(url)
            if len(provider.connections) == 2:
                send = connection.inner.send

                async def takes_one(message: str) -> None:
                    if second["taskUUID"] in message:
                        await until(lambda: provider.names(1))
                        connection.inner.transport.abort()
                        raise websockets.ConnectionClosedError(None, None)
                    await send(message)

                connection.inner.send = takes_one
            return connection

        client._config.dependencies.ws_connect = breaking
        calls = [asyncio.create_task(client.run(task)) for task in (first, second)]
        await until(lambda: len(client._ws_transport._in_flight) == 2)
        client.let_it()
        return await asyncio.gather(*calls, return_exceptions=True)

    provider = Provider(lambda n: n == 2)
    lost, found = talking(guard, provider, use)
    assert "Connection lost" in str(lost)
    assert len(found) == 1
    assert (provider.names(1), provider.names(2)) == ([first["taskUUID"]], [second["taskUUID"]])


def test_a_refusal_of_what_is_sent_again_for_a_call_from_before_the_guard_ends_that_call(guard: Guard) -> None:
    guard.set_budget("/", "0.000001", per="total")

    async def main() -> None:
        provider = Provider(lambda _: False)
        async with serve(provider, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            async with websocket(f"ws://127.0.0.1:{port}/v1") as client:
                calling = asyncio.create_task(client.run(a_task()))
                await until(lambda: provider.got)
                guard.wrap(client)
                provider.connections[0].transport.abort()
                with pytest.raises(runware.RunwareError, match="acme/search") as caught:
                    await calling
                assert not isinstance(caught.value, BudgetExceeded)
        assert len(provider.got) == 1

    run(main())
