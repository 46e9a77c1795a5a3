"""The same task sent again is one more possible bill: one task, several attempts, each held, each charged once."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import httpx
import pytest
from conftest import API, AnyClient, Clock, a_task, only_task
from roads import DONE, Provider, Scripted, agree, details, frame, read_stream, status

from costguard import BudgetExceeded, Guard, money
from costguard.testing import StandIn

MakeClient = Callable[..., AnyClient]
JSON = {"content-type": "application/json"}
A, B = {"cost": 0.0001}, {"cost": 0.0002}


def send(
    guard: Guard, task: dict[str, Any], *items: dict[str, Any], before: Callable[[], object] = lambda: None
) -> None:
    """Send `task` once; it is answered with `items`, or lost if there are none."""
    named = [{"taskType": task["taskType"], "taskUUID": task["taskUUID"], "text": "x", **item} for item in items]
    chunk: Any = json.dumps({"data": named}).encode() if items else httpx.ReadError("lost")

    def call(_: int) -> None:
        before()

    with httpx.Client(base_url=API, transport=guard.transport(Scripted([chunk], headers=JSON, before=call))) as client:
        try:
            client.post("/v1", json=[task])
        except httpx.ReadError:
            assert not items


def webhook(guard: Guard, task: dict[str, Any], **item: Any) -> int:
    return guard.observe({"taskUUID": task["taskUUID"], "status": "success", "text": "x", **item})


def reconcile(guard: Guard, task: dict[str, Any], *items: dict[str, Any]) -> None:
    """Ask a provider that has `items` on record, and is at work on nothing."""
    provider: Any = Provider(lambda _: (200, {"data": [details(task, *({"text": "x", **item} for item in items))]}))
    with httpx.Client(base_url=API, transport=provider) as client:
        guard.reconcile(client, min_age=0, unknown_age=0)


def attempts(guard: Guard, task: dict[str, Any]) -> list[tuple[str, int]]:
    """Status and charge, in units of 0.0001 USD, of each attempt."""
    return [(attempt.status, attempt.charged // 100_000) for attempt in guard.ledger.attempts(task["taskUUID"])]


def settled(guard: Guard, units: int) -> bool:
    """The only task is charged `units` of 0.0001 USD, and nothing of it is held."""
    row = only_task(guard)
    assert (row.status, row.charged, row.held) == ("settled", units * 100_000, 0)
    assert guard.verify().difference is None
    return True


def test_each_sending_is_held_for(guard: Guard) -> None:
    task = a_task()
    for n in (1, 2, 3):
        send(guard, task)
        row = only_task(guard)
        assert (row.attempts, row.held) == (n, row.upper)


def test_a_retry_that_does_not_fit_is_refused_and_nothing_is_sent(guard: Guard, make_client: MakeClient) -> None:
    task = a_task()
    send(guard, task)
    guard.set_budget("/", "0.001", per="total")
    provider: Any = Provider(lambda _: (200, {}))
    with pytest.raises(BudgetExceeded):
        make_client("httpx.Client", guard, transport=provider).post(task)
    assert provider.asked == []
    assert status(guard) == ("unresolved", 1)


@pytest.mark.parametrize("fault", ["drop_after", "status_billed:503", "hang", "error_timeout", "html", "cut"])
@pytest.mark.parametrize("seed", [None, 7])
def test_retries_that_are_billed_each_time_are_charged_each_time(
    fault: str, seed: int | None, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    task = a_task(seed=seed, numberResults=2)
    standin.fault(fault, times=2)
    for _ in range(3):
        with suppress(client.module.TransportError):
            client.post(task)
    assert status(guard) == ("unresolved", 3)
    guard.reconcile(httpx.Client(base_url=API, transport=standin.transport()))
    assert len(standin.bill) == 6
    assert agree(guard, standin)


@pytest.mark.parametrize("fault", ["status:503", "status:408", "drop_before"])
def test_retries_that_were_billed_once_are_charged_once(
    fault: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    task = a_task()
    standin.fault(fault)
    for _ in range(2):
        with suppress(client.module.TransportError):
            client.post(task)
    assert status(guard) == ("unresolved", 2)
    guard.reconcile(httpx.Client(base_url=API, transport=standin.transport()), unknown_age=0)
    assert [status for status, _ in attempts(guard, task)] == ["released", "settled"]
    assert agree(guard, standin)


def test_a_server_that_bills_a_task_once_however_often_it_is_sent_is_charged_once(
    client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    standin.bill_retries_once = True
    task = a_task(numberResults=2)
    standin.fault("status_billed:500")
    for _ in range(2):
        client.post(task)
    guard.reconcile(httpx.Client(base_url=API, transport=standin.transport()), unknown_age=0)
    assert agree(guard, standin)


@pytest.mark.parametrize("results", [1, 3])
def test_asynchronous_retries_are_charged_for_what_was_billed(
    results: int, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    task = a_task(deliveryMethod="async", numberResults=results, seed=7)
    standin.fault("status_billed:503")
    client.post(task)
    client.post(task)
    for _ in range(2 * results + 2):
        client.post({"taskType": "getResponse", "taskUUID": task["taskUUID"]})
    assert len(standin.bill) == 2 * results
    assert agree(guard, standin)


@pytest.mark.parametrize("delivery", ["sync", "async", "stream"])
@pytest.mark.parametrize("fault", ["drop_after", "error_timeout", "forget", "stream_cut"])
def test_a_task_without_a_worst_case_is_recovered_too(
    fault: str, delivery: str, make_guard: Callable[..., Guard], standin: StandIn, clock: Clock
) -> None:
    guard = make_guard()  # without a hard budget, or it would be refused
    task = a_task(model="other:1@1", deliveryMethod=delivery, numberResults=3)
    standin.fault(fault)
    with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:
        for n in range(4):
            with suppress(httpx.TransportError):
                client.post("/v1", json=[task if n < 2 else {"taskType": "getResponse", "taskUUID": task["taskUUID"]}])
        clock.now += timedelta(seconds=1)
        guard.reconcile(client, min_age=0)
    row = only_task(guard)
    assert (row.upper, row.held) == (None, 0)
    assert agree(guard, standin)


def test_of_a_task_without_a_worst_case_what_is_missing_is_asked_for(make_guard: Callable[..., Guard]) -> None:
    guard = make_guard()
    task = a_task(model="other:1@1", numberResults=2)
    first, second = {"seed": 1, **A}, {"seed": 2, **B}
    send(guard, task)
    webhook(guard, task, **first)
    assert attempts(guard, task) == [("unresolved", 1)]
    reconcile(guard, task, first, second)
    assert settled(guard, 3)


# --- results that look alike ---

NAMES: dict[str, list[dict[str, Any]]] = {
    "own seeds": [{"seed": 1}, {"seed": 2}],
    "the caller's seed in both": [{"seed": 7}, {"seed": 7}],
    "index 0 in both": [{"resultIndex": 0}, {"resultIndex": 0}],
    "index and seed the same in both": [{"resultIndex": 0, "seed": 7}, {"resultIndex": 0, "seed": 7}],
    "index the same, seeds their own": [{"resultIndex": 0, "seed": 1}, {"resultIndex": 0, "seed": 2}],
    "counted indexes": [{"resultIndex": 0}, {"resultIndex": 1}],
    "no names at all": [{}, {}],
}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("second", [A, B], ids=["equal figures", "other figures"])
@pytest.mark.parametrize("names", NAMES)
def test_a_lost_answer_and_a_retry_s_are_both_charged(
    names: str, second: dict[str, Any], order: tuple[int, int], guard: Guard
) -> None:
    first_item, second_item = {**NAMES[names][0], **A}, {**NAMES[names][1], **second}
    task = a_task(seed=7)
    send(guard, task)
    send(guard, task, second_item)
    assert attempts(guard, task) == [("unresolved", 0), ("settled", second["cost"] // 0.0001)]
    on_record = [first_item, second_item]
    for _ in range(2):
        reconcile(guard, task, *(on_record[n] for n in order))
    assert settled(guard, 1 + round(second["cost"] / 0.0001))


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("webhooks", [[0], [1], [0, 1], [1, 0], [0, 0, 1, 1]])
@pytest.mark.parametrize("when", ["before the retry", "while it runs", "after it"])
def test_webhooks_of_both_attempts_beside_a_direct_answer_come_to_the_bill(
    when: str, webhooks: list[int], names: str, guard: Guard
) -> None:
    items = [{**NAMES[names][0], **A}, {**NAMES[names][1], **B}]
    task = a_task(seed=7)

    def hook(now: str) -> None:
        if now == when:
            for n in webhooks:
                webhook(guard, task, **items[n])

    send(guard, task)
    hook("before the retry")
    send(guard, task, items[1], before=lambda: hook("while it runs"))
    hook("after it")
    reconcile(guard, task, *items)
    assert settled(guard, 3)


def test_a_result_that_a_webhook_put_on_an_older_attempt_is_not_charged_again(guard: Guard) -> None:
    task = a_task()
    item = {"seed": 2, **A}
    send(guard, task)
    send(guard, task, item, before=lambda: webhook(guard, task, **item))
    assert attempts(guard, task) == [("settled", 1), ("unresolved", 0)]
    reconcile(guard, task, item)
    assert attempts(guard, task) == [("settled", 1), ("released", 0)]
    assert settled(guard, 1)


def test_only_the_results_that_are_booked_elsewhere_are_left_out(guard: Guard) -> None:
    task = a_task(numberResults=2)
    first, second = {"seed": 1, **A}, {"seed": 2, **B}
    send(guard, task)
    send(guard, task, first, second, before=lambda: webhook(guard, task, **first))
    row = only_task(guard)
    assert row.upper is not None
    assert (row.charged, row.held) == (300_000, row.upper // 2)
    reconcile(guard, task, first, second)
    assert settled(guard, 3)


def test_details_that_show_less_than_was_settled_change_nothing(guard: Guard) -> None:
    task = a_task()
    send(guard, task, {"seed": 1, **A})
    send(guard, task, {"seed": 2, **B})
    send(guard, task)
    reconcile(guard, task, {"seed": 2, **B})
    assert attempts(guard, task) == [("settled", 1), ("settled", 2), ("released", 0)]
    assert settled(guard, 3)


def test_details_that_show_more_than_attempts_can_hold_are_charged_in_full(guard: Guard) -> None:
    task = a_task()
    send(guard, task)
    reconcile(guard, task, {"seed": 1, **A}, {"seed": 2, **A}, {"seed": 3, **B})
    assert settled(guard, 4)


@pytest.mark.parametrize("seed", [None, 7])
def test_a_direct_answer_after_its_release_is_charged(seed: int | None, guard: Guard, clock: Clock) -> None:
    task = a_task()
    item = {"seed": seed, **A}
    send(guard, task)
    guard.resolve(task["taskUUID"], reason="it never came")
    assert status(guard) == ("released", 1)
    assert webhook(guard, task, **item) == 1
    assert settled(guard, 1)


@pytest.mark.parametrize("items", [[{"seed": 1, **A}], []], ids=["a result", "only errors"])
def test_an_attempt_beyond_what_the_record_shows_is_released_only_when_no_work_takes_so_long(
    items: list[dict[str, Any]], guard: Guard, clock: Clock
) -> None:
    task = a_task()
    on_record = details(task, *items, errors=None if items else [{"code": "contentRejected", "message": "no"}])

    def ask(unknown_age: str = "24h") -> list[Any]:
        transport: Any = Provider(lambda _: (200, {"data": [on_record]}))
        with httpx.Client(base_url=API, transport=transport) as client:
            return guard.reconcile(client, unknown_age=unknown_age).findings

    send(guard, task)
    clock.now += timedelta(hours=1)
    send(guard, task)
    first = ("settled", 1) if items else ("released", 0)
    for _ in range(2):
        clock.now += timedelta(hours=11)
        assert [(one.outcome, "too lately" in one.reason) for one in ask()] == [("open", True)]
        assert attempts(guard, task) == [first, ("unresolved", 0)]
    assert only_task(guard).held, "its room is nobody else's"
    clock.now += timedelta(hours=2)
    assert [one.outcome for one in ask()] == [first[0]]
    assert attempts(guard, task) == [first, ("released", 0)]
    clock.now += timedelta(hours=24)
    on_record = details(task, *items, {"seed": 2, "text": "x", **B})
    assert [one.outcome for one in ask()] == ["settled"], "asked for once more, as much later"
    assert sum(charged for _, charged in attempts(guard, task)) == first[1] + 2
    assert ask() == []
    assert guard.verify().difference is None


def test_a_call_that_asks_by_itself_frees_no_attempt_beyond_what_the_record_shows(
    guard: Guard, clock: Clock, make_client: MakeClient
) -> None:
    task = a_task()
    send(guard, task)
    send(guard, task)
    upper = only_task(guard).held // 2
    guard.set_budget("/", money.to_usd(2 * upper), per="total")
    clock.now += timedelta(days=2)
    answer: Any = Provider(lambda _: (200, {"data": [details(task, {"text": "x", "seed": 1, "cost": 0.0006})]}))
    with pytest.raises(BudgetExceeded):
        make_client("httpx.Client", guard, transport=answer).post(a_task())
    assert attempts(guard, task) == [("settled", 6), ("unresolved", 0)]


# --- streams ---


@pytest.mark.parametrize("fault", ["stream_cut", "stream_error", "cut", "drop_after", "status_billed:504"])
@pytest.mark.parametrize("results", [1, 3])
def test_a_stream_that_broke_and_its_retry_are_both_charged(
    fault: str, results: int, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    task = a_task(deliveryMethod="stream", numberResults=results, seed=7)
    standin.fault(fault)
    for _ in range(2):
        with suppress(client.module.TransportError):
            read_stream(client, task)
    guard.reconcile(httpx.Client(base_url=API, transport=standin.transport()))
    assert len(standin.bill) == 2 * results
    assert agree(guard, standin)


@pytest.mark.parametrize("cost", [True, False])
def test_a_streamed_result_is_found_again_in_a_record_that_names_it(cost: bool, guard: Guard) -> None:
    task = a_task(deliveryMethod="stream")
    send(guard, task)
    figures = {"cost": 0.0002} if cost else {}
    transport = Scripted([frame(task, text="x"), frame(task, finishReason="stop", **figures), DONE])
    with httpx.Client(base_url=API, transport=guard.transport(transport)) as client:
        client.post("/v1", json=[task])
    reconcile(guard, task, {"seed": 1, **A}, {"seed": 2, **B})
    assert settled(guard, 3)


@pytest.mark.parametrize("word", [None, "0.0005"])
def test_a_stream_that_ends_after_an_operator_s_word_is_the_truth(word: str | None, guard: Guard) -> None:
    task = a_task(deliveryMethod="stream")

    def resolve(n: int) -> None:
        if n == 1:
            guard.resolve(task["taskUUID"], charged=word, reason="it takes too long")

    chunks = [frame(task, text="x"), frame(task, finishReason="stop", cost=0.0002), DONE]
    with httpx.Client(base_url=API, transport=guard.transport(Scripted(chunks, before=resolve))) as client:
        client.post("/v1", json=[task])
    assert settled(guard, 2)
