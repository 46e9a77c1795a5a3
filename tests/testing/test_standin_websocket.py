"""The stand-in on a websocket: one bill with its HTTP, one frame a task, and connections that break where told."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import a_task
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import ClientConnection, connect

from costguard.testing import StandIn


def talk(connection: ClientConnection, *tasks: dict[str, Any]) -> None:
    connection.send(json.dumps(list(tasks)))


def told(connection: ClientConnection) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(connection.recv(10))
    return found


def test_each_task_is_answered_by_a_frame_and_billed_once() -> None:
    standin = StandIn()
    with standin.serve_websocket() as url, connect(url) as connection:
        talk(connection, {"taskType": "authentication", "apiKey": "any"}, {"taskType": "ping", "ping": True})
        assert "connectionSessionUUID" in told(connection)["data"][0]
        assert told(connection) == {"data": [{"taskType": "ping", "pong": True}]}
        tasks = [a_task(), a_task(numberResults=2)]
        talk(connection, *tasks)
        assert [len(told(connection)["data"]) for _ in tasks] == [1, 2]
    assert [bill.task_uuid for bill in standin.bill] == [task["taskUUID"] for task in (tasks[0], tasks[1], tasks[1])]


def test_results_come_apart_and_a_task_that_is_known_is_turned_away_if_it_is_told_to() -> None:
    standin, task = StandIn(), a_task(numberResults=2)
    with standin.serve_websocket(apart=True, conflicts=True) as url, connect(url) as connection:
        talk(connection, task)
        assert [len(told(connection)["data"]) for _ in range(2)] == [1, 1]
        talk(connection, task)
        assert told(connection)["errors"][0]["code"] == "conflictTaskUUID"
    assert len(standin.bill) == 2


def test_a_stream_is_a_frame_for_each_of_its_events() -> None:
    with StandIn().serve_websocket() as url, connect(url) as connection:
        talk(connection, a_task(deliveryMethod="stream"))
        (first,) = told(connection)["data"]
        assert first["delta"]["text"]


@pytest.mark.parametrize(("fault", "billed"), [("drop_before", 0), ("drop_after", 1), ("cut", 1)])
def test_a_connection_breaks_where_it_is_told_to(fault: str, billed: int) -> None:
    standin = StandIn()
    standin.fault(fault)
    with standin.serve_websocket() as url, connect(url) as connection:
        talk(connection, a_task())
        with pytest.raises(ConnectionClosedError):
            told(connection)
    assert len(standin.bill) == billed
