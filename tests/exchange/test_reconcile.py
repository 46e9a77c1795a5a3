"""`reconcile` brings the ledger to the provider's bill, and never takes a hold from a task that may still be billed."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from conftest import API, AnyClient, Clock, a_task, memory, module_of, only_task
from roads import Provider, Scripted, agree, charged, details, read_stream, status, unknown

from costguard import BudgetExceeded, Guard
from costguard.errors import ConfigurationError, LedgerError
from costguard.exchange.reconcile import BATCH_TASKS, Reconciliation, parse_age
from costguard.testing import KINDS, StandIn

MakeClient = Callable[..., AnyClient]
MakeGuard = Callable[..., Guard]

DELIVERIES: dict[str, dict[str, Any]] = {
    "sync": {},
    "async": {"deliveryMethod": "async"},
    "stream": {"deliveryMethod": "stream"},
    "webhook": {"webhookURL": "https://hooks.example.com/costguard"},
}


def send(guard: Guard, transport: Any, *tasks: dict[str, Any]) -> None:
    """Send tasks through a guarded client, whatever comes of it."""
    with httpx.Client(base_url=API, transport=guard.transport(transport)) as client:
        try:
            client.post("/v1", json=list(tasks))
        except httpx.TransportError:
            return


def lose(guard: Guard, *tasks: dict[str, Any]) -> None:
    """Send tasks whose answer is lost."""
    send(guard, Scripted([httpx.ReadError("lost")], headers={}), *tasks)


def ask(guard: Guard, transport: Any, **options: Any) -> Reconciliation:
    with httpx.Client(base_url=API, transport=transport) as client:
        return guard.reconcile(client, **{"min_age": 0, **options})


def later(clock: Clock, **span: int) -> None:
    clock.now += timedelta(**span)


# --- every ending of every delivery comes to the bill ---


@pytest.mark.parametrize("delivery", DELIVERIES)
@pytest.mark.parametrize("fault", [None, "status:503", *(kind for kind in KINDS if kind != "status")])
def test_whatever_happened_one_reconcile_brings_the_bill(
    fault: str | None, delivery: str, guard: Guard, standin: StandIn, clock: Clock
) -> None:
    if fault:
        standin.fault(fault)
    send(guard, standin.transport(), a_task(numberResults=3, **DELIVERIES[delivery]))
    later(clock, days=1)
    assert ask(guard, standin.transport()).left == []
    assert agree(guard, standin)
    later(clock, seconds=1)
    assert ask(guard, standin.transport()).findings == [], "nothing is asked for twice"


def test_a_task_without_a_price_whose_figure_was_missing_is_charged_at_the_provider_s(
    guard: Guard, standin: StandIn
) -> None:
    guard.set_ceiling("painter:1@1", "0.01")
    standin.fault("no_cost")
    send(guard, standin.transport(), a_task(None, taskType="imageInference", model="painter:1@1", numberResults=2))
    assert status(guard) == ("unresolved", 1)
    ask(guard, standin.transport())
    assert agree(guard, standin)


def test_details_without_a_cost_are_charged_as_expected_and_not_asked_for_again(
    guard: Guard, standin: StandIn, clock: Clock
) -> None:
    standin.details_with_cost = False
    standin.fault("drop_after")
    send(guard, standin.transport(), a_task(numberResults=2))
    later(clock, seconds=1)
    assert [found.outcome for found in ask(guard, standin.transport()).findings] == ["settled"]
    row = only_task(guard)
    assert (row.basis, row.charged, row.held) == ("assumed", row.expected, 0)
    later(clock, seconds=1)
    assert ask(guard, standin.transport()).findings == []


def test_what_the_provider_cannot_price_either_is_asked_for_once(guard: Guard, standin: StandIn, clock: Clock) -> None:
    standin.details_with_cost = False
    standin.fault("no_cost")
    send(guard, standin.transport(), a_task())
    later(clock, seconds=1)
    assert [found.outcome for found in ask(guard, standin.transport()).findings] == ["settled"]
    later(clock, seconds=1)
    assert ask(guard, standin.transport()).findings == []
    assert only_task(guard).basis == "assumed"


def test_details_without_a_cost_of_a_task_without_a_price_leave_it_unresolved(guard: Guard) -> None:
    guard.set_ceiling("painter:1@1", "0.01")
    task = a_task(None, taskType="imageInference", model="painter:1@1")
    lose(guard, task)
    found = ask(guard, Provider(lambda _: (200, {"data": [details(task, {"imageURL": "https://x/1.png"})]})))
    assert [(one.outcome, one.reason) for one in found.left] == [
        ("open", "a result without a figure, and none can be computed")
    ]
    assert only_task(guard).held == 10_000_000


def test_a_task_that_is_still_processed_stays_and_settles_later(guard: Guard, standin: StandIn) -> None:
    standin.details_until_done = 1
    standin.fault("drop_after")
    send(guard, standin.transport(), a_task())
    assert [found.reason for found in ask(guard, standin.transport()).left] == ["it is still being processed"]
    assert status(guard) == ("unresolved", 1)
    ask(guard, standin.transport())
    assert agree(guard, standin)


def test_results_still_under_way_keep_their_share_held(guard: Guard) -> None:
    task = a_task(numberResults=2)
    lose(guard, task)
    told = details(task, {"cost": 0.0001, "text": "x", "seed": 1}, {"status": "processing"})
    assert [found.reason for found in ask(guard, Provider(lambda _: (200, {"data": [told]}))).left] == [
        "more results are under way"
    ]
    row = only_task(guard)
    assert row.upper is not None
    assert (row.status, row.charged, row.held) == ("unresolved", 100_000, row.upper // 2)


@pytest.mark.parametrize("delivery", ["sync", "stream", "async"])
def test_fewer_results_than_asked_for_settle_and_free_the_rest(delivery: str, guard: Guard) -> None:
    task = a_task(numberResults=4, deliveryMethod=delivery)
    lose(guard, task)
    told = details(task, {"cost": 0.0001, "text": "x"}, {"cost": 0.0001, "text": "y"})
    ask(guard, Provider(lambda _: (200, {"data": [told]})))
    assert (status(guard), only_task(guard).charged, only_task(guard).held) == (("settled", 1), 200_000, 0)


def test_more_results_than_were_settled_are_charged_too(guard: Guard) -> None:
    task = a_task(numberResults=2)
    body = {"data": [{**details(task, {"cost": 0.0001, "text": "x", "seed": 1})["response"]["data"][0]}],
            "errors": [{"code": "timeoutProvider", "message": "", "taskUUID": task["taskUUID"]}]}  # fmt: skip
    send(guard, Provider(lambda _: (200, body)), task)
    row = only_task(guard)
    assert row.upper is not None
    assert (row.status, row.charged, row.held) == ("unresolved", 100_000, row.upper // 2)
    told = details(task, {"cost": 0.0002, "text": "y", "seed": 2}, {"cost": 0.0001, "text": "x", "seed": 1})
    ask(guard, Provider(lambda _: (200, {"data": [told]})))
    assert (status(guard), only_task(guard).charged) == (("settled", 1), 300_000)


def test_only_errors_release(guard: Guard) -> None:
    task = a_task()
    lose(guard, task)
    told = details(task, errors=[{"code": "contentRejected", "message": "no"}])
    assert [found.reason for found in ask(guard, Provider(lambda _: (200, {"data": [told]}))).released] == [
        "getTaskDetails shows only errors contentRejected"
    ]
    assert status(guard) == ("released", 1)


@pytest.mark.parametrize("response", [None, {}, [], {"data": []}, "text"])
def test_details_without_a_response_change_nothing(response: Any, guard: Guard) -> None:
    task = a_task()
    lose(guard, task)
    told = {**details(task), "response": response}
    assert len(ask(guard, Provider(lambda _: (200, {"data": [told]}))).left) == 1
    assert status(guard) == ("unresolved", 1)


# --- not found ---


def working(done: list[str], cost: float = 0.0001) -> Provider:
    """A provider that does not know a task until its work is done: until its UUID is in `done`."""

    def answer(tasks: list[dict[str, Any]]) -> tuple[int, Any]:
        known = [
            details({**task, "taskType": "textInference"}, {"cost": cost, "text": "x", "seed": 1})
            for task in tasks
            if task["taskUUID"] in done
        ]
        errors = [unknown(task) for task in tasks if task["taskUUID"] not in done]
        return (200 if known else 404), {"data": known, "errors": errors}

    return Provider(answer)


@pytest.mark.parametrize("at", [200, 400, 404])
def test_a_task_the_provider_does_not_know_is_released_a_day_after_its_admission(
    at: int, guard: Guard, clock: Clock
) -> None:
    lose(guard, a_task())
    provider = Provider(lambda tasks: (at, {"errors": [unknown(one) for one in tasks]}))
    later(clock, hours=23, minutes=59)
    assert [found.reason for found in ask(guard, provider).left] == [
        "the provider does not know it, but may still be at work on it: it was sent too lately to be released"
    ]
    later(clock, minutes=1)
    assert [found.reason for found in ask(guard, provider).released] == ["the provider does not know it"]
    assert (status(guard), only_task(guard).held) == (("released", 1), 0)


def test_how_long_work_may_take_is_the_user_s_to_say(guard: Guard, clock: Clock) -> None:
    lose(guard, a_task())
    later(clock, minutes=9)
    assert ask(guard, working([]), unknown_age="10m").released == []
    later(clock, minutes=1)
    assert [found.outcome for found in ask(guard, working([]), unknown_age="10m").findings] == ["released"]


@pytest.mark.parametrize("fate", [True, False, None], ids=["dead", "alive", "out of sight"])
def test_a_killed_sender_s_task_is_not_released_while_its_work_may_go_on(
    fate: bool | None, guard: Guard, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = a_task()
    lose(guard, task)
    monkeypatch.setattr("costguard.ledger.accounting.reading.is_dead", lambda _: fate)
    done: list[str] = []
    later(clock, hours=2)
    assert [found.outcome for found in ask(guard, working(done)).findings] == ["open"]
    done.append(task["taskUUID"])
    assert [found.outcome for found in ask(guard, working(done)).findings] == ["settled"]
    assert charged(guard) == Decimal("0.0001")
    assert guard.verify().difference is None


def test_what_was_released_unknown_is_asked_for_once_more_and_charged_if_it_was_billed_after_all(
    guard: Guard, clock: Clock
) -> None:
    late, never = a_task(), a_task()
    lose(guard, late, never)
    later(clock, days=1)
    assert len(ask(guard, working([])).released) == 2
    later(clock, hours=23)
    assert ask(guard, working([])).findings == [], "not before as much time again is over"
    later(clock, hours=1)
    outcomes = {one.task_uuid: one.outcome for one in ask(guard, working([late["taskUUID"]])).findings}
    assert outcomes == {late["taskUUID"]: "settled", never["taskUUID"]: "released"}
    later(clock, days=30)
    assert ask(guard, working([late["taskUUID"], never["taskUUID"]])).findings == [], "once"
    assert charged(guard) == Decimal("0.0001")
    assert guard.verify().difference is None


def test_the_question_that_nobody_answered_is_asked_again(guard: Guard, clock: Clock) -> None:
    lose(guard, a_task())
    later(clock, days=1)
    ask(guard, working([]))
    later(clock, days=1)
    assert len(ask(guard, Provider(lambda _: (503, {}))).findings) == 1
    assert len(ask(guard, working([])).findings) == 1
    assert ask(guard, working([])).findings == []


@pytest.mark.parametrize("days", [0, 1, 40], ids=["before the second question", "after it", "in another month"])
def test_a_bill_that_comes_late_is_charged_to_the_attempt_and_window_it_belongs_to(
    days: int, make_guard: MakeGuard, clock: Clock
) -> None:
    guard = make_guard()
    guard.set_budget("acme", 1)
    task = a_task()
    with httpx.Client(base_url=API, transport=guard.transport(StandIn().transport())) as client:
        client.post("/v1", json=[task])
    settled = charged(guard)
    lose(guard, {**task})
    send(guard, Scripted([httpx.ConnectError("no")]), {**task})
    admitted = clock.now
    later(clock, days=1)
    ask(guard, working([]))
    assert [one.status for one in guard.ledger.attempts(task["taskUUID"])] == ["settled", "released", "released"]
    later(clock, days=days)
    if days:
        ask(guard, working([]))
    guard.observe({"taskType": "textInference", "taskUUID": task["taskUUID"], "text": "y", "cost": 0.5, "seed": 9})
    first, second, third = guard.ledger.attempts(task["taskUUID"])
    assert [one.status for one in (first, second, third)] == ["settled", "settled", "released"]
    assert (second.charged, third.charged) == (500_000_000, 0), "the one that never left cannot have been billed"
    assert charged(guard) == settled + Decimal("0.5")
    clock.now = admitted
    assert guard.status()[0].spent == charged(guard)
    assert guard.verify().difference is None


def test_what_the_provider_took_is_never_released_unknown(guard: Guard, standin: StandIn, clock: Clock) -> None:
    send(guard, standin.transport(), a_task(deliveryMethod="async"))
    later(clock, days=400)
    (found,) = ask(guard, working([])).findings
    assert (found.outcome, "once took it" in found.reason) == ("open", True)
    assert only_task(guard).held
    guard.resolve(found.task_uuid, reason="the provider's support says so")
    assert only_task(guard).status == "released"


def test_what_the_provider_was_once_at_work_on_is_never_released_unknown(guard: Guard, clock: Clock) -> None:
    task = a_task()
    lose(guard, task)
    told = details(task, {"status": "processing"})
    assert len(ask(guard, Provider(lambda _: (200, {"data": [told]}))).left) == 1
    later(clock, days=400)
    assert [found.outcome for found in ask(guard, working([])).findings] == ["open"]


AT_WORK: dict[str, dict[str, Any]] = {
    "a webhook": {"status": "processing"},
    "a webhook of a queue": {"status": "queued"},
    "one of several results": {"status": "success", "text": "x", "cost": 0.0001},
    "an error of its own that may be no end": {"status": "error", "error": {"code": "timeoutProvider"}},
}


@pytest.mark.parametrize("name", AT_WORK)
@pytest.mark.parametrize("road", ["observe", "poll"])
@pytest.mark.parametrize("model", [None, "somebody:unpriced@1"])
def test_what_a_poll_or_webhook_once_said_to_be_at_work_is_never_released_unknown(
    name: str, road: str, model: str | None, make_guard: MakeGuard, clock: Clock
) -> None:
    guard = make_guard()
    task = a_task(numberResults=3, **({"model": model} if model else {}))
    lose(guard, task)
    told = {"data": [{"taskType": "textInference", "taskUUID": task["taskUUID"], **AT_WORK[name]}]}
    for _ in range(2):
        if road == "observe":
            guard.observe(told)
        else:
            send(guard, Provider(lambda _: (200, told)), {"taskType": "getResponse", "taskUUID": task["taskUUID"]})
    later(clock, days=400)
    (found,) = ask(guard, working([])).findings
    assert (found.outcome, "once took it" in found.reason) == ("open", True)
    assert guard.verify().difference is None


def test_a_poll_that_finds_nothing_is_no_word_of_work(guard: Guard, clock: Clock) -> None:
    task = a_task()
    lose(guard, task)
    poll = {"taskType": "getResponse", "taskUUID": task["taskUUID"]}
    send(guard, Provider(lambda tasks: (200, {"errors": [unknown(one) for one in tasks]})), poll)
    later(clock, days=1)
    assert [found.outcome for found in ask(guard, working([])).findings] == ["released"]


@pytest.mark.parametrize("said", [{"delta": {"text": "Hel"}}, {"delta": {}}, {"status": "processing"}], ids=str)
def test_a_stream_that_spoke_of_its_task_is_never_released_unknown(
    said: dict[str, Any], guard: Guard, clock: Clock
) -> None:
    task = a_task(deliveryMethod="stream")
    spoken = {"taskType": "textInference", "taskUUID": task["taskUUID"], **said}
    send(guard, Scripted([b"data: " + json.dumps(spoken).encode() + b"\n\n"]), task)
    later(clock, days=400)
    assert [found.outcome for found in ask(guard, working([])).findings] == ["open"]


def test_an_answer_that_only_echoes_its_task_is_never_released_unknown(guard: Guard, clock: Clock) -> None:
    send(guard, Provider(lambda tasks: (200, {"data": [{"taskUUID": one["taskUUID"]} for one in tasks]})), a_task())
    assert only_task(guard).status == "unresolved"
    later(clock, days=400)
    assert [found.outcome for found in ask(guard, working([])).findings] == ["open"]


def test_a_task_sent_again_is_asked_for_once_more_where_only_the_first_is_on_record(guard: Guard, clock: Clock) -> None:
    task = a_task()
    lose(guard, task)
    ask(guard, working([task["taskUUID"]]))
    lose(guard, {**task})
    later(clock, days=1)
    assert ask(guard, working([task["taskUUID"]])).left == []
    assert [one.status for one in guard.ledger.attempts(task["taskUUID"])] == ["settled", "released"]
    later(clock, days=1)
    both = [{"cost": 0.0001, "text": "x", "seed": 1}, {"cost": 0.0002, "text": "y", "seed": 2}]
    ask(guard, Provider(lambda _: (200, {"data": [details(task, *both)]})))
    assert [one.charged for one in guard.ledger.attempts(task["taskUUID"])] == [100_000, 200_000]


@pytest.mark.parametrize(
    "answer",
    [
        (401, {"errors": [{"code": "invalidApiKey", "message": "API key not found."}]}),
        (403, {"errors": [{"code": "notFound", "message": "no such thing"}]}),
        (404, {"errors": [{"code": "notFound", "message": "there is no /v2 here"}]}),
        (500, {"errors": [{"code": "serverError", "message": "task not found"}]}),
        (503, {}),
        (200, {}),
        (200, {"data": []}),
        (200, "<html>"),
        (200, {"errors": [{"code": "timeoutProvider", "message": ""}]}),
    ],
    ids=str,
)
def test_an_answer_that_tells_nothing_of_the_task_changes_nothing(
    answer: tuple[int, Any], guard: Guard, clock: Clock
) -> None:
    lose(guard, a_task())
    later(clock, hours=2)
    (found,) = ask(guard, Provider(lambda _: answer)).findings
    assert found.outcome == "open"
    assert found.reason
    assert (status(guard), only_task(guard).held) == (("unresolved", 1), only_task(guard).upper)


def test_a_provider_that_cannot_be_reached_is_said_and_the_next_batch_is_asked_all_the_same(
    guard: Guard, standin: StandIn
) -> None:
    guard.set_budget("/", "100", per="total")
    tasks = [a_task() for _ in range(BATCH_TASKS + 5)]
    for task in tasks:
        standin.fault("drop_after")
        send(guard, standin.transport(), task)
    asked: list[int] = []
    inner = standin.transport()

    def first_fails(request: httpx.Request) -> httpx.Response:
        asked.append(len(json.loads(request.read())))
        if len(asked) == 1:
            raise httpx.ConnectError("nobody there")
        return inner.handle_request(request)

    steps: list[tuple[int, int]] = []
    found = ask(guard, httpx.MockTransport(first_fails), progress=lambda *step: steps.append(step))
    assert asked == [50, 5]
    assert steps == [(50, 55), (55, 55)]
    assert {one.reason for one in found.left} == {"the provider could not be asked: ConnectError"}
    assert (len(found.left), len(found.settled)) == (50, 5)
    assert ask(guard, inner).left == []
    assert agree(guard, standin)


# --- whom it asks ---


@pytest.mark.parametrize(
    ("base_url", "path"),
    [("https://api.runware.ai", "/v1"), ("https://api.runware.ai/", "/v1"), ("https://api.runware.ai/v1", "/v1"),
     ("https://api.runware.ai/v1/", "/v1"), ("https://llm.example/runware/v1/", "/runware/v1")],
)  # fmt: skip
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_client_s_base_url_is_the_endpoint(base_url: str, path: str, wrapped: bool, guard: Guard) -> None:
    task = a_task()
    lose(guard, task)
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"data": [details(task, {"cost": 0.0001, "text": "x"})]})

    headers = {"Authorization": "Bearer key"}
    with httpx.Client(base_url=base_url, headers=headers, transport=httpx.MockTransport(answer)) as client:
        guard.reconcile(guard.wrap(client) if wrapped else client)
    (request,) = seen
    assert (request.method, request.url.path, request.headers["Authorization"]) == ("POST", path, "Bearer key")
    assert json.loads(request.content) == [{"taskType": "getTaskDetails", "taskUUID": task["taskUUID"]}]
    assert (status(guard), only_task(guard).charged) == (("settled", 1), 100_000)


def test_a_client_without_a_base_url_is_refused(guard: Guard) -> None:
    with httpx.Client() as client, pytest.raises(ConfigurationError, match="no base_url"):
        guard.reconcile(client)


@pytest.mark.parametrize("wrapped", [False, True])
def test_every_kind_of_client_can_ask(
    wrapped: bool, kind: str, guard: Guard, standin: StandIn, make_client: MakeClient
) -> None:
    standin.fault("drop_after")
    send(guard, standin.transport(), a_task())
    client = make_client(kind, guard if wrapped else None, transport=memory(standin, kind))
    client.call(guard.areconcile if client.is_async else guard.reconcile, client.bare)
    assert agree(guard, standin)


def test_it_asks_under_trio_too(guard: Guard, standin: StandIn) -> None:
    standin.fault("drop_after")
    send(guard, standin.transport(), a_task())

    async def main() -> Reconciliation:
        async with httpx.AsyncClient(base_url=API, transport=standin.async_transport()) as client:
            return await guard.areconcile(client)

    assert len(trio.run(main).settled) == 1
    assert agree(guard, standin)


def test_a_held_task_is_asked_for_once_it_is_over_age_and_an_unresolved_one_at_once(
    guard: Guard, standin: StandIn, clock: Clock
) -> None:
    waiting, lost = a_task(deliveryMethod="async"), a_task()
    send(guard, standin.transport(), waiting)
    standin.fault("drop_after")
    send(guard, standin.transport(), lost)
    later(clock, seconds=60)
    assert [found.task_uuid for found in ask(guard, standin.transport(), min_age="60s").findings] == [lost["taskUUID"]]
    later(clock, seconds=1)
    assert [f.task_uuid for f in ask(guard, standin.transport(), min_age="60s").findings] == [waiting["taskUUID"]]
    assert agree(guard, standin)


def test_nothing_to_ask_asks_nothing(guard: Guard) -> None:
    provider = Provider(lambda _: (200, {}))
    assert ask(guard, provider).findings == []
    assert provider.asked == []


@pytest.mark.parametrize(
    ("age", "seconds"),
    [("60s", 60), ("5m", 300), ("2h", 7200), ("1d", 86400), ("7", 7), (" 60 s ", 60), (60, 60), (0, 0),
     (timedelta(minutes=1), 60)],
)  # fmt: skip
def test_an_age_is_read(age: Any, seconds: int) -> None:
    assert parse_age(age) == seconds * 1_000_000


@pytest.mark.parametrize("age", ["", "soon", "-1s", "1.5h", -1, True, None, 1.5, timedelta(seconds=-1)])
def test_what_is_no_age_is_refused(age: Any, guard: Guard) -> None:
    for name in ("min_age", "unknown_age"):
        with httpx.Client(base_url=API) as client, pytest.raises(ConfigurationError, match=f"^{name}: "):
            guard.reconcile(client, **{name: age})


# --- while others work ---


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize(
    "told",
    [
        lambda task: (404, {"errors": [unknown(task)]}),
        lambda task: (200, {"data": [details(task, errors=[{"code": "contentRejected", "message": "no"}])]}),
        lambda task: (200, {"data": [details(task, {"cost": 0.0001, "text": "x", "seed": 1})]}),
    ],
    ids=["not found", "only errors", "the results of an earlier attempt"],
)
@pytest.mark.parametrize("by_another_process", [False, True])
def test_a_call_in_flight_is_never_swept(
    told: Any, by_another_process: bool, guard: Guard, make_guard: MakeGuard, clock: Clock
) -> None:
    task = a_task()
    earlier = json.dumps({"data": [{**details(task, {"cost": 0.0001, "text": "x", "seed": 1})["response"]["data"][0]}]})
    is_settled = told(task)[0] == 200 and "data" in told(task)[1]["data"][0]["response"]
    if is_settled:
        send(guard, Scripted([earlier.encode()], headers={"content-type": "application/json"}), task)
    held: list[int] = []

    def meanwhile(_: int) -> None:
        later(clock, days=2)
        sweeper = make_guard() if by_another_process else guard
        for _ in range(2):
            ask(sweeper, Provider(lambda _: told(task)))
        held.append(only_task(guard).held)

    body = json.dumps({"data": [{**details(task, {"cost": 0.0002, "text": "y", "seed": 2})["response"]["data"][0]}]})
    send(guard, Scripted([body.encode()], headers={"content-type": "application/json"}, before=meanwhile), task)
    row = only_task(guard)
    assert row.upper is not None
    assert held == [row.upper // row.attempts]
    assert (row.status, row.charged) == ("settled", 300_000 if is_settled else 200_000)
    assert guard.verify().difference is None


def test_a_stream_in_flight_is_never_swept(guard: Guard, make_client: MakeClient, clock: Clock) -> None:
    from roads import DONE, frame

    task = a_task(deliveryMethod="stream")
    held: list[int] = []

    def meanwhile(n: int) -> None:
        later(clock, days=2)
        ask(guard, Provider(lambda tasks: (404, {"errors": [unknown(tasks[0])]})))
        held.append(only_task(guard).held)

    transport = Scripted([frame(task, text="x"), frame(task, finishReason="stop", cost=0.0001), DONE], before=meanwhile)
    read_stream(make_client("httpx.Client", guard, transport=transport), task)
    assert set(held) == {only_task(guard).upper}
    assert (status(guard), only_task(guard).charged) == (("settled", 1), 100_000)


@pytest.mark.parametrize(
    "told",
    [lambda task: (404, {"errors": [unknown(task)]}),
     lambda task: (200, {"data": [details(task, errors=[{"code": "contentRejected", "message": "no"}])]})],
    ids=["not found", "only errors"],
)  # fmt: skip
def test_an_answer_older_than_the_loss_of_a_call_does_not_release_it(told: Any, guard: Guard, clock: Clock) -> None:
    lost_before, lost_meanwhile = a_task(), a_task()
    lost_meanwhile["taskUUID"] = lost_before["taskUUID"]
    lose(guard, lost_before)
    later(clock, seconds=1)

    def stale(tasks: list[dict[str, Any]]) -> tuple[int, Any]:
        lose(guard, lost_meanwhile)
        later(clock, seconds=1)
        answer: tuple[int, Any] = told(tasks[0])
        return answer

    ask(guard, Provider(stale), unknown_age=0)
    assert [attempt.status for attempt in guard.ledger.attempts(lost_before["taskUUID"])] == ["released", "unresolved"]


@pytest.mark.usefixtures("each_engine")
def test_two_that_reconcile_at_once_charge_once(guard: Guard, standin: StandIn, make_guard: MakeGuard) -> None:
    guard.set_budget("/", "100", per="total")
    for _ in range(60):
        standin.fault("drop_after")
        send(guard, standin.transport(), a_task(numberResults=2))
    inner, both = standin.transport(), threading.Barrier(2)

    def together(request: httpx.Request) -> httpx.Response:
        response = inner.handle_request(request)
        both.wait(10)
        return response

    guards = [guard, make_guard()]
    threads = [threading.Thread(target=ask, args=(one, httpx.MockTransport(together))) for one in guards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert agree(guard, standin)


CRASHED = """
import sys, httpx
from costguard import Guard
path, url, body = sys.argv[1:]
client = Guard(path, "acme/search", durability="normal").wrap(httpx.Client(base_url=url, timeout=60))
client.post("/v1", content=body, headers={"Content-Type": "application/json"})
"""


@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("delivery", ["sync", "async", "webhook"])
def test_what_a_killed_process_left_is_recovered(
    delivery: str, ledger: Path, standin: StandIn, make_guard: MakeGuard
) -> None:
    guard = make_guard(clock=None)
    guard.set_budget("/", "1", per="total")
    task = a_task(numberResults=2, **DELIVERIES[delivery])
    standin.fault("hang")
    with standin.serve() as url:
        with subprocess.Popen([sys.executable, "-c", CRASHED, str(ledger), url, json.dumps([task])]) as child:
            while not standin.received:
                assert child.poll() is None
                threading.Event().wait(0.01)
            child.send_signal(signal.SIGKILL)
        assert status(guard) == ("unresolved", 1)
        with httpx.Client(base_url=url) as client:
            assert len(guard.reconcile(client).settled) == 1
    assert agree(guard, standin)


# --- the operator's hand ---


def test_an_operator_s_charge_ends_a_task_of_several_attempts(guard: Guard) -> None:
    task = a_task()
    lose(guard, task)
    lose(guard, task)
    guard.resolve(task["taskUUID"], charged="0.0003", reason="on the invoice")
    row = only_task(guard)
    assert (row.status, row.basis, row.charged, row.held) == ("settled", "correction", 300_000, 0)
    assert guard.verify().difference is None


@pytest.mark.parametrize("word", [None, "0.0003", "0"])
def test_the_provider_s_figure_replaces_an_operator_s_word_on_every_attempt(word: str | None, guard: Guard) -> None:
    task = a_task()
    lose(guard, task)
    lose(guard, task)
    guard.resolve(task["taskUUID"], charged=word, reason="a guess")
    for seed in (1, 2, 1):
        guard.observe({"taskUUID": task["taskUUID"], "status": "success", "seed": seed, "cost": 0.0001, "text": "x"})
    row = only_task(guard)
    assert (row.status, row.basis, row.charged) == ("settled", "cost", 200_000)
    assert guard.verify().difference is None


@pytest.mark.parametrize("word", [None, "0.0003"])
def test_a_direct_answer_after_an_operator_s_word_is_the_truth(word: str | None, guard: Guard) -> None:
    task = a_task()
    body = json.dumps({"data": [{**details(task, {"cost": 0.0001, "text": "x"})["response"]["data"][0]}]}).encode()
    resolve = lambda _: guard.resolve(task["taskUUID"], charged=word, reason="it hangs")  # noqa: E731
    send(guard, Scripted([body], headers={"content-type": "application/json"}, before=resolve), task)
    row = only_task(guard)
    assert (row.status, row.basis, row.charged, row.held) == ("settled", "cost", 100_000, 0)
    assert guard.verify().difference is None


@pytest.mark.parametrize("reason", ["", "  ", None])
def test_an_operator_says_why(reason: Any, guard: Guard) -> None:
    task = a_task()
    lose(guard, task)
    with pytest.raises(ConfigurationError, match="reason"):
        guard.resolve(task["taskUUID"], reason=reason)


def test_only_an_open_task_can_be_resolved(guard: Guard) -> None:
    with pytest.raises(ConfigurationError, match="nothing of it is open"):
        guard.resolve("unheard-of", reason="why not")


# --- before a refusal ---


def refusing(guard: Guard, clock: Clock, *, lost: int = 1) -> list[dict[str, Any]]:
    """Tasks lost over a minute ago that fill the budget."""
    tasks = [a_task() for _ in range(lost)]
    for task in tasks:
        lose(guard, task)
    upper = sum(row.upper or 0 for row in guard.ledger.tasks())
    guard.set_budget("/", Decimal(upper).scaleb(-9), per="total")
    later(clock, seconds=61)
    return tasks


class Answers(Provider):
    """Answers `getTaskDetails` by `told` and everything else well, and counts both."""

    def __init__(self, told: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
        def answer(tasks: list[dict[str, Any]]) -> tuple[int, Any]:
            data = []
            for task in tasks:
                if task["taskType"] == "getTaskDetails":
                    found = told(task)
                    data += [found] if found else []
                elif task["taskType"] == "textInference":
                    data.append(
                        {"taskUUID": task["taskUUID"], "taskType": "textInference", "cost": 0.0001, "text": "x"}
                    )
            return 200, {"data": data}

        super().__init__(answer)

    @property
    def questions(self) -> int:
        return sum(any(task["taskType"] == "getTaskDetails" for task in tasks) for tasks in self.asked)


def free(task: dict[str, Any]) -> dict[str, Any]:
    return details({**task, "taskType": "textInference"}, errors=[{"code": "contentRejected", "message": ""}])


def test_unresolved_tasks_are_asked_for_before_a_refusal_that_they_cause(
    kind: str, guard: Guard, clock: Clock, make_client: MakeClient
) -> None:
    lost = refusing(guard, clock, lost=3)
    provider = Answers(free)
    client = make_client(kind, guard, transport=provider, headers={"Authorization": "Bearer key"})
    assert client.post(a_task()).status_code == 200
    assert provider.asked[0] == [{"taskType": "getTaskDetails", "taskUUID": task["taskUUID"]} for task in lost]
    assert provider.questions == 1
    assert [row.status for row in guard.ledger.tasks()] == ["released"] * 3 + ["settled"]


def test_a_key_in_the_body_asks_too(kind: str, guard: Guard, clock: Clock, make_client: MakeClient) -> None:
    refusing(guard, clock)
    provider = Answers(free)
    key = {"taskType": "authentication", "apiKey": "key"}
    assert make_client(kind, guard, transport=provider).post(key, a_task()).status_code == 200
    assert provider.asked[0][0] == key


def test_tasks_are_asked_for_at_most_once_a_minute_each(
    kind: str, guard: Guard, clock: Clock, make_client: MakeClient
) -> None:
    refusing(guard, clock)
    provider = Answers(lambda _: None)
    client = make_client(kind, guard, transport=provider)
    questions = []
    for seconds in (0, 1, 59, 1, 59, 2):
        later(clock, seconds=seconds)
        with pytest.raises(BudgetExceeded) as stop:
            client.post(a_task())
        assert stop.value.unresolved > 0
        questions.append(provider.questions)
    assert questions == [1, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("failure", ["unreachable", "401", "500", "html", "silent"])
def test_the_refusal_stands_if_asking_fails(
    failure: str, kind: str, guard: Guard, clock: Clock, make_client: MakeClient
) -> None:
    refusing(guard, clock)
    module = module_of(kind)

    def answer(_: Any) -> tuple[int, Any]:
        match failure:
            case "unreachable":
                raise module.ConnectError("nobody there")
            case "silent":
                raise module.ReadTimeout("nothing came")
            case "html":
                return 200, "<html>"
            case _:
                return int(failure), {"errors": [{"code": "x", "message": "not found"}]}

    provider = Provider(answer)
    with pytest.raises(BudgetExceeded):
        make_client(kind, guard, transport=provider).post(a_task())
    assert len(provider.asked) == 1
    assert guard.verify().difference is None


@pytest.mark.parametrize("why", ["younger than a minute", "too large all the same", "held, not unresolved"])
def test_nobody_is_asked_where_it_would_not_help(
    why: str, guard: Guard, clock: Clock, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "held, not unresolved":
        send(
            guard,
            Provider(lambda tasks: (200, {"data": [{"taskUUID": tasks[0]["taskUUID"]}]})),
            a_task(deliveryMethod="async"),
        )
        guard.set_budget("/", Decimal(only_task(guard).held).scaleb(-9), per="total")
        later(clock, seconds=61)
    else:
        refusing(guard, clock)
    if why == "younger than a minute":
        clock.now -= timedelta(seconds=1)
    provider = Answers(free)
    task = a_task(settings={"maxTokens": 100_000}) if why == "too large all the same" else a_task()
    with pytest.raises(BudgetExceeded):
        make_client("httpx.Client", guard, transport=provider).post(task)
    assert provider.asked == []


def test_a_refusal_still_fires_its_alert_once(guard: Guard, clock: Clock, make_client: MakeClient, caplog: Any) -> None:
    refusing(guard, clock)
    client = make_client("httpx.Client", guard, transport=Answers(lambda _: None))
    for _ in range(2):
        with pytest.raises(BudgetExceeded):
            client.post(a_task())
    assert sum("refused a call" in record.message for record in caplog.records) == 1


def test_a_cancellation_while_asking_holds_nothing(guard: Guard, clock: Clock) -> None:
    lost = refusing(guard, clock)

    async def main() -> None:
        waiting = asyncio.Event()

        async def for_ever() -> None:
            waiting.set()
            await asyncio.Event().wait()

        transport = guard.async_transport(Scripted([b""], before=lambda _: for_ever()))
        async with httpx.AsyncClient(base_url=API, transport=transport) as client:
            call = asyncio.create_task(client.post("/v1", json=[a_task()]))
            await waiting.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    asyncio.run(main())
    assert only_task(guard).task_uuid == lost[0]["taskUUID"]
    assert guard.verify().difference is None


def test_a_ledger_that_fails_while_it_learns_is_said(
    guard: Guard, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    standin.fault("drop_after")
    send(guard, standin.transport(), a_task())

    def full(*_: Any) -> Any:
        raise LedgerError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(guard.ledger, "observe", full)
        with pytest.raises(LedgerError, match="disk is full"):
            ask(guard, standin.transport())
    assert status(guard) == ("unresolved", 1)
    ask(guard, standin.transport())
    assert agree(guard, standin)
    assert charged(guard) == standin.billed()


@pytest.mark.parametrize("code", [400, 404, 413, 422])
@pytest.mark.parametrize("is_named", [True, False])
def test_one_task_that_the_provider_cannot_take_does_not_keep_back_the_others(
    code: int, is_named: bool, guard: Guard, standin: StandIn, clock: Clock
) -> None:
    bad = a_task()
    sent = [a_task() for _ in range(6)]
    inner = standin.transport()

    def bill_and_lose(request: httpx.Request) -> httpx.Response:
        inner.handle_request(request)
        raise httpx.ReadError("lost")

    def answer(request: httpx.Request) -> httpx.Response:
        asked = [task["taskUUID"] for task in json.loads(request.content)]
        if bad["taskUUID"] in asked:
            error = {"code": "invalidTaskUUID", "message": "no", **({"taskUUID": bad["taskUUID"]} if is_named else {})}
            return httpx.Response(code, json={"errors": [error]})
        response: httpx.Response = inner.handle_request(request)
        return response

    lose(guard, bad)
    for task in sent:
        send(guard, httpx.MockTransport(bill_and_lose), task)
    later(clock, seconds=1)
    found = ask(guard, httpx.MockTransport(answer))
    assert (len(found.settled), [finding.task_uuid for finding in found.left]) == (6, [bad["taskUUID"]])
    assert charged(guard) == standin.billed()


def test_a_client_of_the_wrong_kind_is_refused_by_name(guard: Guard) -> None:
    with pytest.raises(TypeError, match="areconcile"):
        guard.reconcile(httpx.AsyncClient(base_url=API))
    with httpx.Client(base_url=API) as client, pytest.raises(TypeError, match=r"guard\.reconcile"):
        asyncio.run(guard.areconcile(client))
