"""The asynchronous delivery: the acknowledgement keeps the hold, and any poll seen anywhere settles it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

import httpx
import pytest
from conftest import AnyClient, a_task, module_of, only_task
from roads import Provider, Scripted, agree, charged, status

from costguard import Guard
from costguard.errors import LedgerError
from costguard.testing import StandIn

MakeClient = Callable[..., AnyClient]


def an_async(**fields: Any) -> dict[str, Any]:
    return a_task(deliveryMethod="async", **fields)


def ack(task: dict[str, Any]) -> dict[str, Any]:
    return {"taskType": task["taskType"], "taskUUID": task["taskUUID"]}


def poll(task: dict[str, Any]) -> dict[str, Any]:
    return {"taskType": "getResponse", "taskUUID": task["taskUUID"]}


def test_the_acknowledgement_keeps_the_hold(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    client.post(an_async())
    task = only_task(guard)
    assert (task.status, task.held, task.charged) == ("held", task.upper, 0)
    assert standin.billed() > 0


def test_a_poll_that_says_processing_changes_nothing(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    standin.polls_until_done = 3
    task = an_async()
    client.post(task)
    for _ in range(3):
        client.post(poll(task))
        assert status(guard) == ("held", 1)
    client.post(poll(task))
    assert agree(guard, standin)


def test_cumulative_and_repeated_polls_charge_each_result_once(
    client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    task = an_async(numberResults=4)
    client.post(task)
    upper = only_task(guard).upper
    assert upper is not None
    charges, holds = [], []
    for _ in range(7):
        client.post(poll(task))
        charges.append(charged(guard))
        holds.append(only_task(guard).held)
    assert holds == [upper, upper * 3 // 4, upper // 2, upper // 4, 0, 0, 0]
    assert charges == sorted(charges)
    assert len(set(charges)) == 5
    assert agree(guard, standin)


def test_results_of_one_seed_are_told_apart_by_their_figures_within_one_answer(
    kind: str, guard: Guard, make_client: MakeClient
) -> None:
    task = an_async(numberResults=3, seed=7)
    found = {"taskType": "textInference", "taskUUID": task["taskUUID"], "status": "success", "seed": 7, "text": "x"}
    items = [{**found, "cost": cost} for cost in (0.0001, 0.0001, 0.0002)]
    make_client(kind, guard, transport=Scripted([], headers={})).post(task)
    for seen in (items[:1], items[:2], items, items):
        body = httpx.Response(200, json={"data": seen}).content
        answer = Scripted([body], headers={"content-type": "application/json"})
        make_client(kind, guard, transport=answer).post(poll(task))
    assert (status(guard), only_task(guard).charged) == (("settled", 1), 400_000)


def test_a_task_polled_twice_in_one_post_is_charged_once(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    standin.polls_until_done = 0
    task = an_async(numberResults=2, seed=7)
    client.post(task)
    for _ in range(2):
        client.post(poll(task), poll(task))
    assert agree(guard, standin)


def test_a_poll_settles_the_task_of_another_guard_on_the_same_ledger(
    kind: str, guard: Guard, standin: StandIn, client: AnyClient, make_guard: Callable[..., Guard]
) -> None:
    task = an_async()
    client.post(task)
    other = make_guard("somebody/else")
    with other.wrap(httpx.Client(base_url="https://api.runware.ai", transport=standin.transport())) as poller:
        for _ in range(2):
            poller.post("/v1", json=[poll(task)])
    assert only_task(guard).project == "acme/search"
    assert agree(guard, standin)


def test_polls_of_several_tasks_share_a_post(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    tasks = [an_async(), an_async(numberResults=2), an_async()]
    client.post(*tasks)
    for _ in range(3):
        client.post(*map(poll, tasks))
    assert agree(guard, standin)


def test_a_poll_of_a_task_that_is_not_in_the_ledger_changes_nothing(
    client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    task = an_async(includeCost=True)
    with httpx.Client(base_url="https://api.runware.ai", transport=standin.transport()) as bare:
        bare.post("/v1", json=[task])
    for _ in range(2):
        assert client.post(poll(task)).status_code == 200
    assert guard.ledger.tasks() == []


@pytest.mark.parametrize("fault", ["error_entry", "item_error"])
def test_an_error_in_a_poll_releases(fault: str, client: AnyClient, guard: Guard, standin: StandIn) -> None:
    standin.fault(fault)
    task = an_async()
    client.post(task)
    for _ in range(3):
        client.post(poll(task))
    assert status(guard) == ("released", 1)
    assert agree(guard, standin)


def test_a_doubtful_error_in_a_poll_is_unresolved_until_the_provider_tells(
    client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    standin.fault("error_timeout")
    task = an_async()
    client.post(task)
    for _ in range(2):
        client.post(poll(task))
    assert (status(guard), only_task(guard).held) == (("unresolved", 1), only_task(guard).upper)
    guard.reconcile(httpx.Client(base_url="https://x/v1", transport=standin.transport()))
    assert agree(guard, standin)


@pytest.mark.parametrize(
    ("fault", "basis"),
    [("cost_only", "cost"), ("usage_only", "computed"), ("no_cost", "assumed"), ("odd_total", "breakdown"),
     ("bad_breakdown", "breakdown"), ("negative", "computed"), ("nan", "computed"), ("huge", "computed")],
)  # fmt: skip
def test_a_poll_is_charged_at_the_best_figure_it_tells(
    fault: str, basis: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    standin.fault(fault)
    task = an_async()
    client.post(task)
    for _ in range(3):
        client.post(poll(task))
    row = only_task(guard)
    assert (row.status, row.basis) == ("settled", basis)
    assert row.charged == row.expected if basis == "assumed" else agree(guard, standin)


def test_what_has_neither_figure_nor_price_stays_held(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    guard.set_ceiling("other:1@1", "0.01")
    standin.fault("no_cost")
    task = an_async(model="other:1@1")
    client.post(task)
    for _ in range(3):
        client.post(poll(task))
    assert (status(guard), only_task(guard).held) == (("held", 1), 10_000_000)
    guard.reconcile(httpx.Client(base_url="https://x/v1", transport=standin.transport()), min_age=0)
    assert only_task(guard).status == "held", "not over age"


@pytest.mark.parametrize(
    "fault", ["status:404", "status:429", "status:401", "status:503", "html", "cut", "drop_before"]
)
def test_a_poll_that_fails_says_nothing_of_its_task(
    fault: str, kind: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    task = an_async()
    client.post(task)
    standin.fault(fault, match=lambda asked: asked["taskType"] == "getResponse")
    with suppress(client.module.TransportError):
        client.post(poll(task))
    assert status(guard) == ("held", 1)


def test_an_acknowledgement_that_was_lost_is_settled_by_a_poll(
    kind: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    standin.fault("html")
    task = an_async()
    client.post(task)
    assert status(guard) == ("unresolved", 1)
    for _ in range(2):
        client.post(poll(task))
    assert agree(guard, standin)


def test_a_poll_that_brings_the_provider_s_figure_replaces_what_was_assumed(
    kind: str, guard: Guard, make_client: MakeClient
) -> None:
    task = an_async()
    found = {"taskType": "textInference", "taskUUID": task["taskUUID"], "status": "success", "seed": 7, "text": "x"}
    make_client(kind, guard, transport=Scripted([], headers={})).post(task)
    for item, basis in ((found, "assumed"), ({**found, "cost": 0.0001}, "cost"), (found, "cost")):
        body = httpx.Response(200, json={"data": [item]}).content
        answer = Scripted([body], headers={"content-type": "application/json"})
        make_client(kind, guard, transport=answer).post(poll(task))
        assert only_task(guard).basis == basis
    assert only_task(guard).charged == 100_000
    assert guard.verify().difference is None


def test_a_poll_billed_above_the_hold_is_charged_in_full(kind: str, guard: Guard, make_client: MakeClient) -> None:
    task = an_async()
    item = {"taskType": "textInference", "taskUUID": task["taskUUID"], "status": "success", "text": "x", "cost": 1.5}
    provider = Provider(lambda tasks: (200, {"data": [item if tasks[0]["taskType"] == "getResponse" else ack(task)]}))
    client = make_client(kind, guard, transport=provider)
    client.post(task)
    client.post(poll(task))
    assert (charged(guard), guard.remaining()) == (Decimal("1.5"), Decimal("-0.5"))
    assert guard.verify().difference is None


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [("status:400", "released"), ("status:429", "released"), ("singular_error", "released"),
     ("status:503", "unresolved"), ("status_billed:500", "unresolved"), ("no_content_400", "unresolved"),
     ("html", "unresolved"), ("cut", "unresolved"), ("hang", "unresolved"), ("drop_before", "unresolved"),
     ("drop_after", "unresolved"), ("forget", "unresolved")],
)  # fmt: skip
@pytest.mark.parametrize("delivery", ["async", "webhook"])
def test_a_post_that_is_not_acknowledged_ends_as_any_other(
    delivery: str, fault: str, outcome: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    standin.fault(fault)
    with suppress(client.module.TransportError):
        client.post(an_async() if delivery == "async" else a_task(webhookURL="https://hooks.example.com/x"))
    assert status(guard) == (outcome, 1)


@pytest.mark.parametrize("delivery", ["async", "webhook"])
def test_a_post_that_never_left_is_released(delivery: str, kind: str, guard: Guard, make_client: MakeClient) -> None:
    def fail(_: Any) -> Any:
        raise module_of(kind).ConnectTimeout("nobody there")

    client = make_client(kind, guard, transport=Provider(fail))
    with pytest.raises(client.module.ConnectTimeout):
        client.post(an_async() if delivery == "async" else a_task(webhookURL="https://hooks.example.com/x"))
    assert status(guard) == ("released", 1)


def test_a_ledger_that_cannot_be_written_costs_nobody_the_answer_to_a_poll(
    client: AnyClient, guard: Guard, standin: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task = an_async()
    client.post(task)

    def full(*_: Any) -> Any:
        raise LedgerError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(guard.ledger, "observe", full)
        for _ in range(2):
            assert client.post(poll(task)).status_code == 200
    assert "the disk is full" in caplog.text
    assert status(guard) == ("held", 1)
    client.post(poll(task))
    assert agree(guard, standin)


def test_a_killed_process_s_task_is_settled_by_anybody_s_poll(
    client: AnyClient, guard: Guard, standin: StandIn, make_guard: Callable[..., Guard], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = an_async()
    client.post(task)
    monkeypatch.setattr("costguard.ledger.accounting.reading.is_dead", lambda _: True)
    assert status(guard) == ("unresolved", 1)
    for _ in range(2):
        client.post(poll(task))
    assert agree(guard, standin)


@pytest.mark.parametrize("code", ["rateLimitExceeded", "internalError", "taskNotFound", "invalidApiKey"])
def test_an_error_that_does_not_say_it_is_of_the_task_may_be_of_the_poll(code: str, guard: Guard) -> None:
    task = an_async()

    def answer(request: httpx.Request) -> httpx.Response:
        if b"getResponse" in request.content:
            return httpx.Response(200, json={"errors": [{"code": code, "message": "x", "taskUUID": task["taskUUID"]}]})
        return httpx.Response(200, json={"data": [ack(task)]})

    client = guard.wrap(httpx.Client(base_url="https://api.runware.ai", transport=httpx.MockTransport(answer)))
    client.post("/v1", json=[task])
    client.post("/v1", json=[poll(task)])
    assert only_task(guard).held == only_task(guard).upper


def test_a_result_listed_twice_in_one_poll_is_charged_once(guard: Guard) -> None:
    task = an_async()
    item = {**ack(task), "status": "success", "text": "grey", "seed": 1, "cost": 0.0001}

    def answer(request: httpx.Request) -> httpx.Response:
        data = [item, item] if b"getResponse" in request.content else [ack(task)]
        return httpx.Response(200, json={"data": data})

    client = guard.wrap(httpx.Client(base_url="https://api.runware.ai", transport=httpx.MockTransport(answer)))
    client.post("/v1", json=[task])
    client.post("/v1", json=[poll(task)])
    assert (only_task(guard).status, only_task(guard).charged) == ("settled", 100_000)
