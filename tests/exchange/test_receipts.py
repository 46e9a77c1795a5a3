"""`response.extensions["costguard"]` tells what the exchange held and was charged."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import pytest
from conftest import API, AnyClient, a_task, only_task
from roads import DONE, Scripted, frame, read_stream

from costguard import Guard
from costguard.exchange.receipt import Receipt, TaskReceipt
from costguard.testing import StandIn

MakeClient = Callable[..., AnyClient]


def receipt(response: Any) -> Receipt:
    found = response.extensions["costguard"]
    assert isinstance(found, Receipt)
    return found


def only(response: Any) -> TaskReceipt:
    (task,) = receipt(response).tasks
    return task


def test_a_settled_call_tells_its_hold_and_its_charge(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    task = a_task(numberResults=2)
    told = only(client.post(task))
    row = only_task(guard)
    assert row.upper is not None
    assert (told.task_uuid, told.project, told.model) == (task["taskUUID"], "acme/search", "google:gemini@3-flash")
    assert (told.status, told.basis) == ("settled", "breakdown")
    assert told.held == Decimal(row.upper).scaleb(-9)
    assert told.charged == standin.billed()


def test_a_post_of_several_tasks_tells_each_and_the_sums(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    tasks = [a_task(), a_task(numberResults=3), a_task()]
    standin.fault("error_entry", task_uuid=tasks[2]["taskUUID"])
    told = receipt(client.post(*tasks))
    assert [task.task_uuid for task in told.tasks] == [task["taskUUID"] for task in tasks]
    assert [task.status for task in told.tasks] == ["settled", "settled", "released"]
    assert [task.charged for task in told.tasks] == [standin.billed(task["taskUUID"]) for task in tasks]
    assert told.charged == standin.billed()
    assert told.held == sum(Decimal(row.upper or 0).scaleb(-9) for row in guard.ledger.tasks())


@pytest.mark.parametrize(
    ("fault", "status", "basis"),
    [("status:400", "released", None), ("status_billed:503", "unresolved", None), ("forget", "unresolved", None),
     ("no_cost", "settled", "assumed"), ("usage_only", "settled", "computed"), ("cost_only", "settled", "cost")],
)  # fmt: skip
def test_a_receipt_tells_how_the_call_ended(
    fault: str, status: str, basis: str | None, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    standin.fault(fault)
    told = only(client.post(a_task()))
    row = only_task(guard)
    assert (told.status, told.basis) == (status, basis) == (row.status, row.basis)
    assert told.charged == {"unresolved": None}.get(status, Decimal(row.charged).scaleb(-9))


def test_an_acknowledgement_tells_that_it_is_held(client: AnyClient, guard: Guard) -> None:
    told = only(client.post(a_task(deliveryMethod="async")))
    assert (told.status, told.charged, told.basis) == ("held", None, None)
    assert receipt(client.post(a_task(deliveryMethod="async"))).charged is None


def test_a_stream_s_receipt_is_complete_once_the_stream_is(kind: str, guard: Guard, make_client: MakeClient) -> None:
    task = a_task(deliveryMethod="stream")
    sent = [frame(task, text="grey"), frame(task, finishReason="stop", cost=0.0001), DONE]
    response = read_stream(make_client(kind, guard, transport=Scripted(sent)), task)
    told = only(response)
    assert (told.status, told.charged, told.basis) == ("settled", Decimal("0.0001"), "cost")


def test_a_stream_s_receipt_is_there_before_its_end(guard: Guard, standin: StandIn) -> None:
    with (
        httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client,
        client.stream("POST", "/v1", json=[a_task(deliveryMethod="stream")]) as response,
    ):
        told = only(response)
        assert (told.status, told.charged) == ("held", None)
        assert told.held == Decimal(only_task(guard).held).scaleb(-9)
        response.read()
        assert (told.status, told.charged) == ("settled", standin.billed())


def test_a_stream_closed_early_tells_that_it_is_unresolved(client: AnyClient) -> None:
    told = only(read_stream(client, a_task(deliveryMethod="stream"), chunks=2))
    assert (told.status, told.charged) == ("unresolved", None)


def test_a_task_without_a_worst_case_tells_so(make_guard: Callable[..., Guard], standin: StandIn) -> None:
    guard = make_guard()
    with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:
        told = receipt(client.post("/v1", json=[a_task(model="other:1@1"), a_task()]))
    assert told.tasks[0].held is None
    assert told.held is None
    assert told.charged == standin.billed()


def test_what_is_not_guarded_has_no_receipt(client: AnyClient, standin: StandIn) -> None:
    task = a_task(deliveryMethod="async")
    client.post(task)
    for response in (
        client.post({"taskType": "getResponse", "taskUUID": task["taskUUID"]}),
        client.post({"taskType": "accountManagement", "taskUUID": task["taskUUID"]}),
        client.call(client.bare.get, "/v1"),
    ):
        assert "costguard" not in response.extensions
