"""`guard.observe` takes a result from anywhere, any number of times and in any order: webhooks above all."""

from __future__ import annotations

import json
import random
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from typing import Any

import httpx
import pytest
from conftest import AnyClient, a_task, only_task
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from roads import Scripted, agree, charged, evidence, status

from costguard import Guard
from costguard.errors import ConfigurationError, LedgerError
from costguard.testing import StandIn, Webhook

MakeClient = Callable[..., AnyClient]


def hooked(**fields: Any) -> dict[str, Any]:
    return a_task(webhookURL="https://hooks.example.com/costguard", **fields)


def post(guard: Guard, standin: StandIn, *tasks: dict[str, Any]) -> list[Webhook]:
    """Send tasks through a guarded client; the webhooks that are owed for them."""
    with httpx.Client(base_url="https://api.runware.ai", transport=guard.transport(standin.transport())) as client:
        client.post("/v1", json=list(tasks))
    return standin.webhooks


def item(task: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"taskType": "textInference", "taskUUID": task["taskUUID"], "status": "success", "text": "x", **fields}


@pytest.mark.parametrize("delivery", ["sync", "async"])
@pytest.mark.parametrize("envelope", [False, True])
def test_a_webhook_settles_its_task_and_a_second_one_changes_nothing(
    delivery: str, envelope: bool, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    standin.webhook_envelope, standin.webhook_times = envelope, 2
    client.post(hooked(deliveryMethod=delivery))
    assert status(guard) == ("held", 1)
    assert [guard.observe(webhook.body) for webhook in standin.webhooks] == [1, 0]
    assert agree(guard, standin)


def test_webhooks_of_several_results_settle_in_any_order(guard: Guard, standin: StandIn) -> None:
    standin.webhook_times = 3
    webhooks = post(guard, standin, hooked(numberResults=3), hooked(numberResults=2))
    random.Random(7).shuffle(webhooks)
    assert sum(guard.observe(webhook.body) for webhook in webhooks) == 5
    assert agree(guard, standin)


@pytest.mark.parametrize(
    "form",
    [
        lambda body: body,
        lambda body: body.decode(),
        bytearray,
        json.loads,
        lambda body: [json.loads(body)],
        lambda body: {"data": [json.loads(body)]},
        lambda body: [json.loads(body), json.loads(body)],
    ],
    ids=["bytes", "text", "bytearray", "dict", "list", "response", "the same twice"],
)
def test_a_result_is_taken_in_any_form(form: Callable[[bytes], Any], guard: Guard, standin: StandIn) -> None:
    (webhook,) = post(guard, standin, hooked(seed=7))
    assert guard.observe(form(webhook.body)) == 1
    assert guard.observe(form(webhook.body)) == 0
    assert agree(guard, standin)


@pytest.mark.parametrize("junk", [b"", b"not json", "[", 7, None, object()])
def test_what_is_no_result_is_said(junk: object, guard: Guard) -> None:
    with pytest.raises(ConfigurationError, match="observe: expected a result"):
        guard.observe(junk)


@pytest.mark.parametrize("nothing", [b"[]", b"{}", b'"text"', b"7", b'{"data": [7, null]}', b'{"taskUUID": "unknown"}'])
def test_what_tells_of_no_task_of_ours_changes_nothing(nothing: bytes, guard: Guard) -> None:
    assert guard.observe(nothing) == 0
    assert guard.ledger.tasks() == []


def test_a_webhook_for_the_ledger_of_another_program_changes_nothing_here(
    guard: Guard, standin: StandIn, make_guard: Callable[..., Guard], tmp_path: Any
) -> None:
    (webhook,) = post(make_guard(path=tmp_path / "other.db"), standin, hooked())
    assert guard.observe(webhook.body) == 0
    assert guard.ledger.tasks() == []


def test_a_webhook_is_booked_by_any_process_on_the_project_of_its_call(
    guard: Guard, standin: StandIn, make_guard: Callable[..., Guard]
) -> None:
    (webhook,) = post(guard, standin, hooked())
    assert make_guard("somebody/else").observe(webhook.body) == 1
    assert only_task(guard).project == "acme/search"
    assert agree(guard, standin)


def test_an_error_in_a_webhook_releases(guard: Guard, standin: StandIn) -> None:
    task = hooked()
    post(guard, standin, task)
    refused = {"errors": [{"code": "contentRejected", "message": "no", "taskUUID": task["taskUUID"]}]}
    assert guard.observe(refused) == 1
    assert status(guard) == ("released", 1)


def test_a_doubtful_error_in_a_webhook_is_unresolved_until_the_result_comes(guard: Guard, standin: StandIn) -> None:
    task = hooked()
    (webhook,) = post(guard, standin, task)
    guard.observe({"errors": [{"code": "timeoutProvider", "message": "", "taskUUID": task["taskUUID"]}]})
    assert (status(guard), only_task(guard).held) == (("unresolved", 1), only_task(guard).upper)
    guard.observe(webhook.body)
    assert agree(guard, standin)


@pytest.mark.parametrize(
    ("fault", "basis"),
    [("cost_only", "cost"), ("usage_only", "computed"), ("no_cost", "assumed"), ("odd_total", "breakdown"),
     ("bad_breakdown", "breakdown"), ("negative", "computed"), ("nan", "computed"), ("huge", "computed")],
)  # fmt: skip
def test_a_webhook_is_charged_at_the_best_figure_it_tells(
    fault: str, basis: str, guard: Guard, standin: StandIn
) -> None:
    standin.fault(fault)
    (webhook,) = post(guard, standin, hooked())
    guard.observe(webhook.body)
    row = only_task(guard)
    assert (row.status, row.basis) == ("settled", basis)
    assert row.charged == row.expected if basis == "assumed" else agree(guard, standin)


def test_what_has_neither_figure_nor_price_stays_held(guard: Guard, standin: StandIn) -> None:
    guard.set_ceiling("other:1@1", "0.01")
    task = hooked(model="other:1@1")
    (webhook,) = post(guard, standin, task)
    assert guard.observe(item(task, seed=json.loads(webhook.body)["seed"])) == 0
    assert (status(guard), only_task(guard).held) == (("held", 1), 10_000_000)
    guard.observe(webhook.body)
    assert agree(guard, standin)


def test_a_parsed_float_is_read_by_its_shortest_text(guard: Guard, standin: StandIn) -> None:
    task = hooked()
    post(guard, standin, task)
    guard.observe(item(task, cost=0.1 + 0.2))
    assert charged(guard) == Decimal("0.3")


def test_a_late_webhook_after_a_release_is_charged_all_the_same(
    guard: Guard, standin: StandIn, make_client: MakeClient
) -> None:
    task = a_task()
    standin.fault("status:429")
    post(guard, standin, task)
    assert status(guard) == ("released", 1)
    assert guard.observe(item(task, seed=7, cost=0.0001)) == 1
    assert guard.observe(item(task, seed=7, cost=0.0001)) == 0
    assert (status(guard), only_task(guard).charged) == (("settled", 1), 100_000)
    assert guard.verify().difference is None


def test_a_webhook_billed_above_the_hold_is_charged_in_full(guard: Guard, standin: StandIn) -> None:
    task = hooked()
    post(guard, standin, task)
    guard.observe(item(task, cost=1.5))
    assert (charged(guard), guard.remaining()) == (Decimal("1.5"), Decimal("-0.5"))
    assert guard.verify().difference is None


# --- beside the direct response ---


@pytest.mark.parametrize("webhook_first", [True, False])
@pytest.mark.parametrize("results", [1, 3])
@pytest.mark.parametrize("seen", [1, 3])
def test_a_result_that_comes_directly_and_by_webhook_is_charged_once(
    webhook_first: bool, results: int, seen: int, kind: str, guard: Guard, make_client: MakeClient
) -> None:
    task = a_task(numberResults=results)
    items = [item(task, seed=seed, cost=0.0001 * (seed + 1)) for seed in range(results)]
    body = json.dumps({"data": items}).encode()

    def webhooks(when: bool) -> None:
        if webhook_first is when:
            for one in items[:seen]:
                guard.observe(one)

    direct = Scripted([body], headers={"content-type": "application/json"}, before=lambda _: webhooks(True))
    make_client(kind, guard, transport=direct).post(task)
    webhooks(False)
    assert status(guard) == ("settled", 1)
    assert only_task(guard).charged == sum(range(1, results + 1)) * 100_000
    assert guard.verify().difference is None


def test_a_webhook_while_the_request_is_under_way_does_not_end_it(guard: Guard) -> None:
    task = a_task(numberResults=2)
    states: list[Any] = []

    def meanwhile(_: int) -> None:
        guard.observe(item(task, seed=1, cost=0.0001))
        guard.observe({"errors": [{"code": "contentRejected", "message": "no", "taskUUID": task["taskUUID"]}]})
        guard.observe({"errors": [{"code": "timeoutProvider", "message": "", "taskUUID": task["taskUUID"]}]})
        row = only_task(guard)
        states.append((row.status, row.charged, row.held * 2 == row.upper))

    body = json.dumps({"data": [item(task, seed=1, cost=0.0001), item(task, seed=2, cost=0.0002)]}).encode()
    direct = Scripted([body], headers={"content-type": "application/json"}, before=meanwhile)
    with httpx.Client(base_url="https://api.runware.ai", transport=guard.transport(direct)) as client:
        client.post("/v1", json=[task])
    assert states == [("held", 100_000, True)]
    assert (status(guard), only_task(guard).charged) == (("settled", 1), 300_000)


def test_a_direct_figure_replaces_what_a_webhook_without_one_had_assumed(guard: Guard) -> None:
    task = a_task()
    body = json.dumps({"data": [item(task, seed=1, cost=0.0001)]}).encode()
    direct = Scripted(
        [body],
        headers={"content-type": "application/json"},
        before=lambda _: guard.observe(item(task, seed=1)) and None,
    )
    with httpx.Client(base_url="https://api.runware.ai", transport=guard.transport(direct)) as client:
        client.post("/v1", json=[task])
    row = only_task(guard)
    assert (row.status, row.basis, row.charged) == ("settled", "cost", 100_000)
    assert guard.verify().difference is None


def test_what_was_assumed_leaves_no_trace_in_the_report_once_the_figure_came(guard: Guard, standin: StandIn) -> None:
    standin.fault("no_cost")
    task = hooked()
    (webhook,) = post(guard, standin, task)
    guard.observe(webhook.body)
    truth = json.loads(webhook.body)
    usage = {"promptTokens": 4, "completionTokens": 2, "costBreakdown": {"total": 0.00001, "tokens": {
        "prompt": {"modalities": [{"modality": "TEXT", "tokens": 4, "cost": 0.000002}]},
        "completion": {"billableTokens": 2, "cost": 0.000008}}}}  # fmt: skip
    guard.observe({**truth, "cost": 0.00001, "usage": usage})
    rows = guard.ledger.usage(("modality",), "2026-11-22", "2026-11-23")
    assert [(*row.keys, row.tokens, row.nanos) for row in rows if row.nanos or row.tokens] == [
        ("completion", "", 2, 8_000),
        ("prompt", "TEXT", 4, 2_000),
    ]
    assert guard.verify().difference is None


@pytest.mark.parametrize(
    ("tampering", "said"),
    [("UPDATE entries SET replaces = 1 WHERE replaces IS NOT NULL", "takes back .*, which was not charged"),
     ("UPDATE entries SET replaces = (SELECT min(replaces) FROM entries) WHERE spent < 0", "is taken back 2 times")],
)  # fmt: skip
def test_verify_names_a_charge_that_was_taken_back_wrongly(
    tampering: str, said: str, guard: Guard, standin: StandIn, ledger: Any
) -> None:
    task = hooked(numberResults=2)
    post(guard, standin, task)
    for seed in (1, 2):
        guard.observe(item(task, seed=seed))
        guard.observe(item(task, seed=seed, cost=0.0001))
    assert guard.verify().difference is None
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute("DROP TRIGGER entries_no_update")
        connection.execute(tampering)
        connection.commit()
    assert re.search(said, guard.verify().difference or "")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations([0, 1, 2] * 3), names=st.booleans())
def test_any_order_of_any_repetition_comes_to_the_same(
    order: list[int], names: bool, make_guard: Callable[..., Guard], tmp_path_factory: pytest.TempPathFactory
) -> None:
    guard = make_guard(path=tmp_path_factory.mktemp("any") / "ledger.db")
    task = hooked(numberResults=3)
    post(guard, StandIn(), task)
    for n in order:
        guard.observe(item(task, cost=0.0001 * (n + 1), **({"seed": n} if names else {})))
    assert (status(guard), only_task(guard).charged) == (("settled", 1), 600_000)
    guard.close()


def test_a_ledger_that_cannot_be_written_is_said_so_that_the_sender_sends_it_again(
    guard: Guard, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    (webhook,) = post(guard, standin, hooked())

    def full(*_: Any) -> Any:
        raise LedgerError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(guard.ledger, "observe", full)
        with pytest.raises(LedgerError, match="disk is full"):
            guard.observe(webhook.body)
    guard.observe(webhook.body)
    assert agree(guard, standin)


def test_no_text_of_a_webhook_is_kept(guard: Guard, standin: StandIn) -> None:
    from roads import ledger_bytes

    task = hooked()
    post(guard, standin, task)
    guard.observe(item(task, text="the heron's own secret", cost=0.0001))
    assert b"heron" not in ledger_bytes(guard)
    assert evidence(guard) == {}
