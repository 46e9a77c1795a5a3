"""The Runware SDK by websocket: calls in flight, connections that break, and refusals that find their caller."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
import runware
import websockets
from conftest import Clock, a_task, only_task
from runware_sdk import reconciled, run, unhurried, websocket

from costguard import BudgetExceeded, ConfigurationError, Guard, InvalidRequest, LedgerError, UnpricedTask
from costguard.testing import StandIn

MakeGuard = Callable[..., Guard]
Use = Callable[[Any], Awaitable[Any]]
Serve = Callable[..., str]


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    unhurried(monkeypatch)


@pytest.fixture
def standin() -> StandIn:
    return StandIn(result_index=True)


@pytest.fixture
def serve(standin: StandIn) -> Iterator[Serve]:
    """Serve the stand-in by a websocket; see `StandIn.serve_websocket`."""
    with ExitStack() as stack:
        yield lambda **manner: stack.enter_context(standin.serve_websocket(**manner))


def calling(guard: Guard, url: str, *tasks: dict[str, Any], **options: Any) -> Any:
    """What a client under `guard` gives for each of `tasks`: its results, or its error."""

    async def main() -> Any:
        async with guard.wrap(websocket(url, **options)) as client:
            return await asyncio.gather(*(client.run(task) for task in tasks), return_exceptions=True)

    return run(main())


def work_of(standin: StandIn) -> list[str]:
    """The billable tasks that arrived, by name."""
    tasks = [task for received in standin.received for task in received.tasks]
    return [task["taskUUID"] for task in tasks if task["taskType"] == "textInference"]


def poll(task: dict[str, Any]) -> bool:
    return bool(task["taskType"] == "getResponse")


# --- its roads ---


@pytest.mark.parametrize("delivery", ["async", "sync"])
@pytest.mark.parametrize("apart", [False, True])
def test_a_run_of_several_results_is_charged_as_billed(
    guard: Guard, standin: StandIn, serve: Serve, delivery: str, apart: bool, clock: Clock
) -> None:
    (found,) = calling(guard, serve(apart=apart), a_task(numberResults=3, deliveryMethod=delivery))
    assert len(found) == 3
    row = only_task(guard)
    assert (row.status, row.held) == ("settled", 0)
    assert row.charged == standin.billed() * 10**9
    first = standin.received[0].tasks[0]
    assert (first["includeCost"], first["includeUsage"]) == (True, True)
    reconciled(guard, clock, standin)


def test_calls_in_flight_on_one_connection_are_each_charged_their_own(
    guard: Guard, standin: StandIn, serve: Serve, clock: Clock
) -> None:
    tasks = [a_task(f"Question {n}", deliveryMethod=("sync", "async")[n % 2]) for n in range(12)]
    found = calling(guard, serve(), *tasks)
    assert [len(results) for results in found] == [1] * 12
    charged = {row.task_uuid: row.charged for row in guard.ledger.tasks()}
    assert charged == {task["taskUUID"]: standin.billed(task["taskUUID"]) * 10**9 for task in tasks}
    reconciled(guard, clock, standin)


def test_results_without_any_name_that_cost_the_same_are_each_charged(
    guard: Guard, standin: StandIn, serve: Serve, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one message for each: what tells them apart is that they answer one task that asked for so many."""
    handle = standin.handle

    def nameless(*request: Any) -> Any:
        reply = handle(*request)
        body = json.loads(reply.chunks[0])
        for n, item in enumerate(body.get("data", ())):
            item.pop("resultIndex", None), item.pop("seed", None)
            item["imageURL"], item["imageUUID"] = f"https://im.example/{n}", f"image-{n}"
        reply.chunks[:] = [json.dumps(body).encode()]
        return reply

    monkeypatch.setattr(standin, "handle", nameless)
    guard.set_ceiling("some:image@1", "0.002")
    image = {"taskType": "imageInference", "model": "some:image@1", "numberResults": 3, "deliveryMethod": "sync"}
    (found,) = calling(guard, serve(apart=True), image)
    assert len(found) == 3
    row = only_task(guard)
    assert row.status == "settled"
    assert row.charged == 3 * Decimal("0.0019") * 10**9
    assert guard.verify().difference is None


def test_the_key_and_signs_of_life_go_out_as_they_are(guard: Guard, serve: Serve, standin: StandIn) -> None:
    sent: list[str] = []

    async def connect(url: str) -> Any:
        connection: Any = await websockets.connect(url)
        send = connection.send

        async def seen(message: Any) -> None:
            sent.append(message)
            await send(message)

        connection.send = seen
        return connection

    async def main() -> None:
        client: Any = guard.wrap(websocket(serve(), dependencies=runware.RuntimeDependencies(ws_connect=connect)))
        async with client:
            await client._ws_transport._ws.send(json.dumps([{"taskType": "ping", "ping": True}]))
            await client.run(a_task())

    run(main())
    assert json.loads(sent[0]) == [{"taskType": "authentication", "apiKey": "key"}]
    assert sent[1] == '[{"taskType": "ping", "ping": true}]'
    assert guard.ledger.task(json.loads(sent[2])[0]["taskUUID"]) is not None


def test_nothing_of_the_ledger_is_done_on_the_event_loop(guard: Guard, serve: Serve) -> None:
    threads: dict[str, set[int]] = {}

    def spy(owner: Any, name: str) -> None:
        known = getattr(owner, name)

        def seen(*args: Any, **options: Any) -> Any:
            threads.setdefault(name, set()).add(threading.get_ident())
            return known(*args, **options)

        setattr(owner, name, seen)

    spy(guard.gate, "enter")
    spy(guard.settlement, "answer")
    spy(guard.ledger, "attempts")
    calling(guard, serve(), a_task(), a_task(deliveryMethod="sync"))
    assert threads.keys() == {"enter", "answer", "attempts"}
    assert not any(threading.get_ident() in some for some in threads.values())


# --- endings ---


@pytest.mark.parametrize("fault", ["drop_before", "drop_after", "cut"])
@pytest.mark.parametrize("manner", ["billed twice", "billed once", "conflict"])
def test_a_task_that_is_sent_again_on_a_new_connection_is_one_more_attempt(
    guard: Guard, standin: StandIn, serve: Serve, fault: str, manner: str, clock: Clock
) -> None:
    if (fault, manner) == ("drop_before", "conflict"):
        return  # what never arrived is in nobody's way
    standin.bill_retries_once = manner == "billed once"
    standin.fault(fault)
    task = a_task()
    (found,) = calling(guard, serve(conflicts=manner == "conflict"), task)
    assert len(found) == 1
    row = only_task(guard)
    assert row.attempts == 2
    assert row.charged > 0
    assert row.charged + row.held >= standin.billed() * 10**9
    assert len(work_of(standin)) == (1 if manner == "conflict" else 2)
    reconciled(guard, clock, standin)


@pytest.mark.parametrize("fault", ["drop_before", "drop_after", "cut"])
def test_a_connection_that_breaks_between_polls_loses_nothing_and_charges_nothing_twice(
    guard: Guard, standin: StandIn, serve: Serve, fault: str, clock: Clock
) -> None:
    standin.fault(fault, times=3, match=poll)
    (found,) = calling(guard, serve(), a_task(numberResults=2))
    assert len(found) == 2
    assert (only_task(guard).attempts, len(work_of(standin))) == (1, 1)
    reconciled(guard, clock, standin)


@pytest.mark.parametrize("fault", ["drop_before", "drop_after", "cut"])
def test_an_answer_that_broke_off_leaves_its_task_held_until_the_provider_is_asked(
    guard: Guard, standin: StandIn, serve: Serve, fault: str, clock: Clock
) -> None:
    standin.fault(fault)
    (found,) = calling(guard, serve(), a_task(deliveryMethod="sync"))
    assert isinstance(found, runware.RunwareError)
    assert "Connection lost" in str(found)
    row = only_task(guard)
    assert (row.status, row.held > 0, row.charged) == ("unresolved", True, 0)
    reconciled(guard, clock, standin)


def test_a_connection_that_closes_in_good_order_leaves_held_what_it_did_not_answer(
    guard: Guard, standin: StandIn, serve: Serve, clock: Clock
) -> None:
    async def main() -> None:
        async with guard.wrap(websocket(serve())) as client:
            calling = asyncio.create_task(client.run(a_task(deliveryMethod="sync")))
            while not standin.bill:
                await asyncio.sleep(0)
            transport: Any = client._ws_transport
            await transport._ws.inner.close()
            with pytest.raises(runware.RunwareError, match="Connection lost"):
                await calling
            assert only_task(guard).status == "unresolved"
            assert len(await client.run(a_task())) == 1

    standin.fault("forget")
    run(main())
    reconciled(guard, clock, standin)


@pytest.mark.parametrize(
    ("fault", "status"), [("status:400", "released"), ("error_timeout", "unresolved"), ("item_error", "released")]
)
def test_an_error_of_the_task_is_raised_as_the_sdks(
    guard: Guard, standin: StandIn, serve: Serve, fault: str, status: str, clock: Clock
) -> None:
    standin.fault(fault)
    other = a_task(deliveryMethod="sync")
    (found,) = calling(guard, serve(), a_task(deliveryMethod="sync"))
    assert isinstance(found, runware.RunwareError)
    assert only_task(guard).status == status
    (found,) = calling(guard, serve(), other)
    assert len(found) == 1
    reconciled(guard, clock, standin)


@pytest.mark.parametrize("delivery", ["async", "sync"])
def test_a_cancelled_run_stays_held_until_the_provider_is_asked(
    guard: Guard, standin: StandIn, serve: Serve, delivery: str, clock: Clock
) -> None:
    async def main() -> None:
        cancel = asyncio.Event()
        async with guard.wrap(websocket(serve())) as client:
            options = runware.RunOptions(cancel_event=cancel)
            calling = asyncio.create_task(client.run(a_task(deliveryMethod=delivery), options))
            while not standin.bill:
                await asyncio.sleep(0)
            cancel.set()
            with pytest.raises(runware.RunwareError, match=r"(?i)abort"):
                await calling

    standin.polls_until_done = 10**9
    standin.fault("forget")
    run(main())
    row = only_task(guard)
    assert (row.held > 0, row.charged) == (True, 0)
    reconciled(guard, clock, standin)


def test_a_client_closed_in_mid_call_leaves_its_task_held_until_the_provider_is_asked(
    guard: Guard, standin: StandIn, serve: Serve, clock: Clock
) -> None:
    async def main() -> None:
        client = guard.wrap(websocket(serve()))
        await client.connect()
        calling = asyncio.create_task(client.run(a_task(deliveryMethod="sync")))
        while not standin.bill:
            await asyncio.sleep(0)
        await client.close()
        with pytest.raises(runware.RunwareError):
            await calling

    standin.fault("forget")
    run(main())
    assert only_task(guard).status == "unresolved"
    reconciled(guard, clock, standin)


# --- refusals ---


def test_every_refusal_reaches_the_caller_of_run_as_itself_and_nothing_is_sent(
    guard: Guard, standin: StandIn, serve: Serve
) -> None:
    url = serve()
    (no_price, not_read) = calling(guard, url, a_task(model="nobody:knows@1"), a_task(deliveryMethod="pigeon"))
    guard.set_budget("acme", "0.000001")
    refused = calling(guard, url, a_task(), a_task(deliveryMethod="sync"))
    kinds = [type(error) for error in (no_price, not_read, *refused)]
    assert kinds == [UnpricedTask, InvalidRequest, BudgetExceeded, BudgetExceeded]
    assert standin.received == []


def test_a_closed_guard_stops_a_run_with_its_own_error(guard: Guard, standin: StandIn, serve: Serve) -> None:
    async def main() -> None:
        async with guard.wrap(websocket(serve())) as client:
            guard.close()
            with pytest.raises(LedgerError, match="closed"):
                await client.run(a_task())

    run(main())
    assert standin.received == []


def test_calls_that_were_on_their_way_when_their_guard_was_closed_end_with_its_error_when_they_are_sent_again(
    guard: Guard, standin: StandIn, serve: Serve
) -> None:
    async def main() -> Any:
        async with guard.wrap(websocket(serve())) as client:
            calling = asyncio.create_task(client.run(a_task()))
            while not standin.bill:
                await asyncio.sleep(0)
            guard.close()
            transport: Any = client._ws_transport
            transport._ws.transport.abort()
            with pytest.raises(LedgerError, match="closed"):
                await calling

    standin.fault("forget")  # no acknowledgement, so that it is sent again
    run(main())
    assert len(work_of(standin)) == 1


def test_a_call_without_a_task_fails_as_the_sdks_own_does(guard: Guard, serve: Serve) -> None:
    async def main() -> None:
        client: Any = guard.wrap(websocket(serve()))
        with pytest.raises(TypeError, match="params"):
            await client.run()

    run(main())


def test_before_unresolved_tasks_cause_a_refusal_the_provider_is_asked_by_http(
    guard: Guard, standin: StandIn, serve: Serve, clock: Clock
) -> None:
    guard.set_budget("acme", "0.0011")  # one at its worst and one as it is billed, and not two at their worst
    standin.fault("drop_after")

    async def main(url: str) -> Any:
        async with guard.wrap(websocket(serve(), http_base_url=f"{url}/v1")) as client:
            with pytest.raises(runware.RunwareError):
                await client.run(a_task(deliveryMethod="sync"))
            with pytest.raises(BudgetExceeded, match="unknown outcome"):
                await client.run(a_task())
            clock.now += timedelta(minutes=2)
            return await client.run(a_task())

    with standin.serve() as url:
        assert len(run(main(url))) == 1
    asked = next(one for one in standin.received if one.tasks[0]["taskType"] == "getTaskDetails")
    assert asked.headers["authorization"] == "Bearer key"
    assert [row.status for row in guard.ledger.tasks()] == ["settled", "settled"]
    reconciled(guard, clock, standin)


def test_a_provider_that_does_not_say_by_http_what_became_of_tasks_does_not_keep_a_refusal_for_long(
    guard: Guard, standin: StandIn, serve: Serve, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard.set_budget("acme", "0.0011")
    standin.fault("drop_after")
    standin.fault("hang", match=lambda task: task["taskType"] == "getTaskDetails")
    monkeypatch.setattr("costguard.clients.runware.ASK_S", 0.01)

    async def main(url: str) -> None:
        async with guard.wrap(websocket(serve(), http_base_url=f"{url}/v1")) as client:
            with pytest.raises(runware.RunwareError):
                await client.run(a_task(deliveryMethod="sync"))
            clock.now += timedelta(minutes=2)
            with pytest.raises(BudgetExceeded):
                await client.run(a_task())

    with standin.serve() as url:
        run(main(url))


def test_other_methods_raise_a_refusal_as_itself(guard: Guard, standin: StandIn, serve: Serve) -> None:
    async def main() -> None:
        async with guard.wrap(websocket(serve())) as client:
            with pytest.raises(UnpricedTask):
                await client.image_upload({"image": "https://im.example/1"})
            with pytest.raises(UnpricedTask):
                await client.image_upload(params={"image": "https://im.example/1"})

    run(main())
    assert standin.received == []


def test_a_task_that_may_not_be_sent_again_ends_its_call_with_the_refusal_at_once_and_no_other(
    guard: Guard, standin: StandIn, serve: Serve, clock: Clock
) -> None:
    guard.set_budget("acme/small", "0.001")  # one at its worst, and not two
    standin.polls_until_done = 3

    async def main() -> Any:
        async with guard.wrap(websocket(serve())) as client:
            other = asyncio.create_task(client.run(a_task()))
            while not standin.bill:
                await asyncio.sleep(0)
            with guard.scope(project="acme/small"):
                refused = asyncio.create_task(client.run(a_task()))
            return await asyncio.gather(other, refused, return_exceptions=True)

    standin.fault("drop_after", match=lambda task: task["taskType"] == "textInference" and bool(standin.bill))
    found, error = run(main())
    assert len(found) == 1
    assert isinstance(error, BudgetExceeded)
    assert error.project == "acme/small"  # booked where its call is, whoever sent it
    assert len(work_of(standin)) == 2
    reconciled(guard, clock, standin)


def test_a_task_kept_until_the_connection_is_back_is_admitted_then_in_its_own_scope(
    guard: Guard, standin: StandIn, serve: Serve, clock: Clock
) -> None:
    guard.set_budget("acme/none", "0.000001")
    may_connect = asyncio.Event()
    connections: list[Any] = []

    async def connect(url: str) -> Any:
        if connections:
            await may_connect.wait()
        connections.append(await websockets.connect(url))
        return connections[-1]

    async def main() -> Any:
        dependencies = runware.RuntimeDependencies(ws_connect=connect)
        async with guard.wrap(websocket(serve(), dependencies=dependencies)) as client:
            connections[0].transport.abort()
            while client.is_connected:
                await asyncio.sleep(0)
            with guard.scope(project="acme/docs"):
                kept = asyncio.create_task(client.run(a_task()))
            with guard.scope(project="acme/none"):
                refused = asyncio.create_task(client.run(a_task(deliveryMethod="sync")))
            unpriced = asyncio.create_task(client.image_upload({"image": "https://im.example/1"}))
            transport: Any = client._ws_transport
            while len(transport._in_flight) < 3:
                await asyncio.sleep(0)
            may_connect.set()
            return await asyncio.gather(kept, refused, unpriced, return_exceptions=True)

    found, error, other = run(main())
    assert len(found) == 1
    assert (type(error), type(other)) == (BudgetExceeded, UnpricedTask)
    assert only_task(guard).project == "acme/docs"
    assert len(work_of(standin)) == 1
    reconciled(guard, clock, standin)


# --- what is wrapped ---


def test_a_client_that_is_connected_is_guarded_from_then_on(
    guard: Guard, standin: StandIn, serve: Serve, clock: Clock
) -> None:
    async def main() -> None:
        async with websocket(serve()) as client:
            await client.run(a_task())
            guard.wrap(client)
            tasks = [a_task(), a_task(deliveryMethod="sync")]
            await asyncio.gather(*(client.run(task) for task in tasks))
            assert sorted(row.task_uuid for row in guard.ledger.tasks()) == sorted(t["taskUUID"] for t in tasks)

    run(main())
    rows = guard.ledger.tasks()
    assert [row.charged for row in rows] == [standin.billed(row.task_uuid) * 10**9 for row in rows]


def test_a_client_that_is_connected_on_another_loop_is_refused_and_unchanged(guard: Guard, serve: Serve) -> None:
    with asyncio.Runner() as runner:
        client = websocket(serve())
        runner.run(client.connect())
        before = dict(client.__dict__)
        with pytest.raises(ConfigurationError, match="not on the event loop"):
            guard.wrap(client)
        assert client.__dict__ == before
        runner.run(client.close())


def test_when_a_guard_was_closed_another_takes_over_its_open_connection(
    guard: Guard, make_guard: MakeGuard, standin: StandIn, serve: Serve, clock: Clock
) -> None:
    other = make_guard("acme/other")

    async def main() -> None:
        async with guard.wrap(websocket(serve())) as client:
            with pytest.raises(ConfigurationError, match="wrapped by another Guard"):
                other.wrap(client)
            await client.run(a_task())
            guard.close()
            assert other.wrap(other.wrap(client)) is client
            await client.run(a_task())

    run(main())
    assert sorted(row.project for row in other.ledger.tasks()) == ["acme/other", "acme/search"]
    reconciled(other, clock, standin)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("Runware", "_utility"),
        ("WebSocketTransport", "_dispatch"),
        ("WebSocketTransport", "_receive_loop"),
        ("WebSocketTransport", "_default_connect"),
    ],
)
def test_a_private_place_that_is_gone_is_named_and_nothing_is_changed(
    guard: Guard, owner: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = websocket("ws://127.0.0.1:9/v1")
    monkeypatch.delattr({"Runware": runware.Runware, "WebSocketTransport": type(client._ws_transport)}[owner], name)
    before = dict(client.__dict__)
    with pytest.raises(ConfigurationError, match=rf"runware-sdk 1\.8\.\d+: {owner}\.{name}"):
        guard.wrap(client)
    assert client.__dict__ == before
    assert client._config.dependencies is None


@pytest.mark.parametrize("mode", ["observe", "off"])
def test_a_guard_that_refuses_nothing_lets_all_pass(
    make_guard: MakeGuard, standin: StandIn, serve: Serve, mode: str
) -> None:
    guard = make_guard(mode=mode)
    if mode == "observe":
        guard.set_budget("/", "0.000001", per="total")
    found = calling(guard, serve(), a_task(), a_task(deliveryMethod="sync"), a_task(model="nobody:knows@1"))
    assert [len(results) for results in found] == [1, 1, 1]
    if mode == "observe":
        assert sum(row.charged for row in guard.ledger.tasks()) == standin.billed() * 10**9
