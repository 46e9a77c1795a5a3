"""Websockets without any SDK: what `Talk` asks of whoever has a connection, and what it promises."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
import websockets
from conftest import Clock, a_task, only_task
from runware_sdk import reconciled, run

from costguard import BudgetExceeded, Guard, LedgerError
from costguard.clients.websockets import Message, Talk
from costguard.testing import StandIn

PLACE: dict[str, Any] = {"host": "ws-api.runware.ai", "port": None, "path": "/v1"}


@pytest.fixture
def standin() -> StandIn:
    return StandIn(result_index=True)


class Wire:
    """Where messages go that are delivered."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.sent: list[Message] = []
        self.is_open = is_open

    async def __call__(self, message: Message) -> None:
        if not self.is_open:
            raise ConnectionError("closed")
        self.sent.append(message)


def flush(guard: Guard) -> None:
    done = threading.Event()
    guard.later(done.set)
    assert done.wait(10)


def test_a_connection_of_ones_own_ends_as_billed(guard: Guard, standin: StandIn, clock: Clock) -> None:
    task = a_task(numberResults=2)

    async def main(url: str) -> None:
        talk = Talk(guard, **PLACE)
        async with websockets.connect(url) as connection:
            await talk.send(json.dumps([task]), connection.send)
            for _ in range(2):
                await talk.hear(await connection.recv())
        await talk.end("closed")
        await talk.end("closed once more")

    with standin.serve_websocket(apart=True) as url:
        run(main(url))
    row = only_task(guard)
    assert row.status == "settled"
    assert row.charged == standin.billed() * 10**9
    reconciled(guard, clock, standin)


@pytest.mark.parametrize("kind", [str, bytes])
def test_a_message_keeps_its_kind_and_one_that_needs_no_change_its_bytes(
    guard: Guard, kind: Callable[[str], Message]
) -> None:
    wire, talk = Wire(), Talk(guard, **PLACE)
    plain = json.dumps([a_task()])
    whole = json.dumps([a_task(includeCost=True, includeUsage=True)], indent=1)
    messages = [one if kind is str else one.encode() for one in (plain, whole)]

    async def main() -> None:
        for message in messages:
            await talk.send(message, wire)
        await talk.end("closed")

    run(main())
    assert [type(one) for one in wire.sent] == [kind, kind]
    assert wire.sent[1] == messages[1]
    assert json.loads(wire.sent[0])[0]["includeCost"] is True


def test_a_refusal_delivers_nothing_and_leaves_the_connection_to_others(guard: Guard) -> None:
    wire, talk = Wire(), Talk(guard, **PLACE)
    guard.set_budget("acme/small", "0.000001")

    async def main() -> None:
        with guard.scope(project="acme/small"), pytest.raises(BudgetExceeded):
            await talk.send(json.dumps([a_task()]), wire)
        await talk.send(json.dumps([a_task()]), wire)

    run(main())
    assert len(wire.sent) == 1
    assert [row.project for row in guard.ledger.tasks()] == ["acme/search"]


def test_what_a_closed_connection_did_not_take_is_released_and_what_it_may_have_taken_is_not(guard: Guard) -> None:
    wire = Wire(is_open=False)

    async def main(is_open: bool) -> None:
        talk = Talk(guard, **PLACE)
        with pytest.raises(ConnectionError):
            await talk.send(json.dumps([a_task()]), wire, lambda: is_open)
        await talk.end("closed")

    run(main(False))
    assert [row.status for row in guard.ledger.tasks()] == ["released"]
    run(main(True))
    assert sorted(row.status for row in guard.ledger.tasks()) == ["released", "unresolved"]


def test_a_cancelled_sender_leaves_held_what_may_be_on_its_way_and_its_answer_still_counts(guard: Guard) -> None:
    task = a_task(deliveryMethod="sync")
    answer = {"data": [{"taskType": "textInference", "taskUUID": task["taskUUID"], "text": "Yes.", "cost": 0.00025}]}

    async def main() -> None:
        talk = Talk(guard, **PLACE)
        begun = asyncio.Event()

        async def slow(_: Message) -> None:
            begun.set()
            await asyncio.Event().wait()

        sending = asyncio.create_task(talk.send(json.dumps([task]), slow))
        await begun.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert only_task(guard).status == "unresolved"
        await talk.hear(json.dumps(answer))

    run(main())
    row = only_task(guard)
    assert row.status == "settled"
    assert row.charged == 250_000


def test_what_is_delivered_when_the_connection_is_over_is_in_doubt(guard: Guard) -> None:
    async def main() -> None:
        talk = Talk(guard, **PLACE)
        await talk.end("closed")
        await talk.send(json.dumps([a_task()]), Wire())

    run(main())
    row = only_task(guard)
    assert (row.status, row.reason) == ("unresolved", "sent when the connection was over")


def test_what_nobody_waits_for_any_more_is_in_doubt_until_its_answer_comes(guard: Guard) -> None:
    task, other = a_task(deliveryMethod="sync"), a_task(deliveryMethod="sync")
    item = {"taskType": "textInference", "taskUUID": task["taskUUID"], "text": "Yes.", "cost": 0.00025}

    async def main() -> None:
        talk = Talk(guard, **PLACE)
        for one in (task, other):
            await talk.send(json.dumps([one]), Wire())
        talk.leave_later(task["taskUUID"].upper(), "gone")
        await asyncio.to_thread(flush, guard)
        assert {row.task_uuid: (row.status, row.reason) for row in guard.ledger.tasks()} == {
            task["taskUUID"]: ("unresolved", "gone"),
            other["taskUUID"]: ("held", None),
        }
        await talk.hear(json.dumps({"data": [item]}))
        talk.leave_later(task["taskUUID"], "gone")
        await talk.end("closed")

    run(main())
    flush(guard)
    row = guard.ledger.task(task["taskUUID"])
    assert row is not None
    assert (row.status, row.charged) == ("settled", 250_000)


@pytest.mark.parametrize("failure", [LedgerError("full"), OSError("full")])
def test_whatever_fails_in_booking_costs_nobody_what_came(
    guard: Guard, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = a_task(deliveryMethod="sync")
    item = {"taskType": "textInference", "taskUUID": task["taskUUID"], "text": "Yes.", "cost": 0.00025}

    def fail(*_: object) -> None:
        raise failure

    async def main() -> None:
        talk = Talk(guard, **PLACE)
        await talk.send(json.dumps([task]), Wire())
        with monkeypatch.context() as patch:
            patch.setattr(guard.settlement, "answer", fail)
            await talk.hear(json.dumps({"data": [item]}))
        await talk.end("closed")

    run(main())
    assert only_task(guard).held > 0


def test_a_connection_that_is_dropped_without_an_end_ends_by_itself(guard: Guard) -> None:
    async def main() -> None:
        await Talk(guard, **PLACE).send(json.dumps([a_task()]), Wire())

    run(main())
    gc.collect()
    flush(guard)
    assert only_task(guard).status == "unresolved"


def test_the_same_result_by_two_connections_is_charged_once(guard: Guard, standin: StandIn, clock: Clock) -> None:
    task = a_task(deliveryMethod="async")
    poll = {"taskType": "getResponse", "taskUUID": task["taskUUID"]}
    standin.polls_until_done = 0

    async def main(url: str) -> None:
        for asked in ([task], [poll], [poll]):
            talk = Talk(guard, **PLACE)
            async with websockets.connect(url) as connection:
                await talk.send(json.dumps(asked), connection.send)
                await talk.hear(await connection.recv())
            await talk.end("closed")

    with standin.serve_websocket() as url:
        run(main(url))
    row = only_task(guard)
    assert (row.attempts, row.status) == (1, "settled")
    assert row.charged == standin.billed() * 10**9
    reconciled(guard, clock, standin)


def test_a_stream_by_websocket_is_charged_when_it_has_told_its_total(
    guard: Guard, standin: StandIn, clock: Clock
) -> None:
    async def main(url: str) -> None:
        talk = Talk(guard, **PLACE)
        async with websockets.connect(url) as connection:
            await talk.send(json.dumps([a_task(deliveryMethod="stream")]), connection.send)
            while only_task(guard).status == "held":
                await talk.hear(await connection.recv())
        await talk.end("closed")

    with standin.serve_websocket() as url:
        run(main(url))
    assert only_task(guard).status == "settled"
    reconciled(guard, clock, standin)


def test_messages_that_hold_no_tasks_pass_and_so_does_a_place_that_nobody_claims(guard: Guard) -> None:
    wire = Wire()

    async def main() -> None:
        await Talk(guard, host="chat.example", port=8080, path="/rooms").send('{"say": "hello"}', wire)
        talk = Talk(guard, **PLACE)
        await talk.send('[{"taskType": "ping", "ping": true}]', wire)
        await talk.hear('{"data": [{"taskType": "ping", "pong": true}]}')

    run(main())
    assert wire.sent == ['{"say": "hello"}', '[{"taskType": "ping", "ping": true}]']
    assert guard.ledger.tasks() == []
