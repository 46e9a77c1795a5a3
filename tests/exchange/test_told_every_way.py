"""The same truth by every road: what was billed is never released, and a zero that stands for nothing ends nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from conftest import AnyClient, a_task, audit, only_task
from roads import DONE, SSE, Provider, Scripted, charged, details, read_stream

from costguard import Guard

CLIENT = "httpx.Client"
FIGURES: dict[str, dict[str, Any]] = {
    "cost": {"cost": 0.0005},
    "usage.cost": {"usage": {"cost": "0.0005"}},
    "breakdown": {"usage": {"costBreakdown": {"total": 0.0005}}},
}
Road = Callable[[Guard, Callable[..., AnyClient], dict[str, Any], dict[str, Any]], None]


def directly(status: int) -> Road:
    def road(guard: Guard, make_client: Callable[..., AnyClient], task: dict[str, Any], told: dict[str, Any]) -> None:
        make_client(CLIENT, guard, transport=Provider(lambda _: (status, told))).post(task)

    return road


def streamed(guard: Guard, make_client: Callable[..., AnyClient], task: dict[str, Any], told: dict[str, Any]) -> None:
    chunks = [b"data: " + json.dumps(told).encode() + b"\n\n", DONE]
    read_stream(make_client(CLIENT, guard, transport=Scripted(chunks)), {**task, "deliveryMethod": "stream"})


def lost(guard: Guard, make_client: Callable[..., AnyClient], task: dict[str, Any]) -> None:
    make_client(CLIENT, guard, transport=Provider(lambda _: (500, {}))).post(task)


def by_webhook(guard: Guard, make_client: Callable[..., AnyClient], task: dict[str, Any], told: dict[str, Any]) -> None:
    lost(guard, make_client, task)
    guard.observe(told)


def by_poll(guard: Guard, make_client: Callable[..., AnyClient], task: dict[str, Any], told: dict[str, Any]) -> None:
    lost(guard, make_client, task)
    poll = {"taskType": "getResponse", "taskUUID": task["taskUUID"]}
    make_client(CLIENT, guard, transport=Provider(lambda _: (200, told))).post(poll)


def by_record(guard: Guard, make_client: Callable[..., AnyClient], task: dict[str, Any], told: dict[str, Any]) -> None:
    lost(guard, make_client, task)
    record = {**details(task), "response": told}
    guard.reconcile(make_client(CLIENT, transport=Provider(lambda _: (200, {"data": [record]}))).bare, min_age=0)


ROADS: dict[str, Road] = {
    "200": directly(200),
    "400": directly(400),
    "500": directly(500),
    "stream": streamed,
    "webhook": by_webhook,
    "poll": by_poll,
    "record": by_record,
}


def entry(task: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"code": "contentBlocked", "message": "no", "taskUUID": task["taskUUID"], **more}


SHAPES: dict[str, Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]] = {
    "in an error of the list": lambda task, told: {"errors": [entry(task, **told)]},
    "in the only error": lambda task, told: {"error": entry(task, **told)},
    "in the error of an item": lambda task, told: {
        "data": [{"taskUUID": task["taskUUID"], "status": "error", "error": {"code": "contentBlocked", **told}}]
    },
    "beside the error of an item": lambda task, told: {
        "data": [{"taskUUID": task["taskUUID"], "status": "error", "error": {"code": "contentBlocked"}, **told}]
    },
}


@pytest.mark.parametrize("figures", FIGURES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("road", ROADS)
def test_an_error_that_tells_what_it_cost_is_charged(
    road: str, shape: str, figures: str, guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    task = a_task()
    ROADS[road](guard, make_client, task, SHAPES[shape](task, FIGURES[figures]))
    assert str(charged(guard)) == "0.000500000"
    audit(guard)


DOUBTFUL = {"code": "timeoutProvider", "message": "the provider timed out"}


@pytest.mark.parametrize("road", ["200", "500", "stream", "webhook", "poll"])
def test_a_doubtful_error_beside_a_zero_keeps_the_hold(
    road: str, guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    task = a_task()
    item = {"taskUUID": task["taskUUID"], "status": "error", "cost": 0, "error": DOUBTFUL}
    ROADS[road](guard, make_client, task, {"data": [item]})
    assert (only_task(guard).status, only_task(guard).charged) == ("unresolved", 0)
    assert only_task(guard).held > 0


@pytest.mark.parametrize("more", [{"cost": 0}, {"cost": 0, "usage": {}}, {"text": "", "outputs": []}, {"usage": None}])
def test_an_acknowledgement_that_carries_zeros_is_one(
    more: dict[str, Any], guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    task = a_task(deliveryMethod="async")
    told = {"data": [{"taskType": task["taskType"], "taskUUID": task["taskUUID"], **more}]}
    make_client(CLIENT, guard, transport=Provider(lambda _: (200, told))).post(task)
    assert (only_task(guard).status, only_task(guard).charged) == ("held", 0)


@pytest.mark.parametrize("made", [{"toolCalls": [{"name": "f"}]}, {"imageURL": "https://x"}, {"outputs": {"f": 1}}])
@pytest.mark.parametrize("where", ["stream", "whole", "same item", "delta"])
def test_what_was_worked_for_is_not_released_by_an_error(
    where: str, made: dict[str, Any], guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    task = a_task()
    item = {"taskUUID": task["taskUUID"], **made}
    if where == "stream":
        frames = [{**item}, {"errors": [entry(task)]}]
        chunks = [b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in frames]
        read_stream(
            make_client(CLIENT, guard, transport=Scripted([*chunks, DONE])), {**task, "deliveryMethod": "stream"}
        )
    else:
        told = {
            "whole": {"data": [item], "errors": [entry(task)]},
            "same item": {"data": [{**item, "error": {"code": "contentBlocked"}}]},
            "delta": {"data": [{"taskUUID": task["taskUUID"], "delta": made}], "errors": [entry(task)]},
        }[where]
        make_client(CLIENT, guard, transport=Provider(lambda _: (200, told))).post(task)
    row = only_task(guard)
    assert row.status != "released"
    assert row.held or row.charged


@pytest.mark.parametrize("zero", [{"cost": 0}, {"usage": {"costBreakdown": {"total": 0}}}])
def test_a_zero_is_no_exact_total_of_a_stream_that_was_cut(
    zero: dict[str, Any], guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    task = a_task(deliveryMethod="stream")
    frames = [{"delta": {"text": "words"}}, {"delta": {}, "finishReason": "stop", **zero}]
    chunks = [b"data: " + json.dumps({"taskUUID": task["taskUUID"], **f}).encode() + b"\n\n" for f in frames]
    read_stream(make_client(CLIENT, guard, transport=Scripted(chunks)), task)
    assert only_task(guard).status == "unresolved"


def test_events_beside_an_error_status_are_read(guard: Guard, make_client: Callable[..., AnyClient]) -> None:
    task = a_task(deliveryMethod="stream")
    told = {"errors": [entry(task, code="noContent", message="the provider returned no content")]}
    body = b"data: " + json.dumps(told).encode() + b"\n\n"
    make_client(CLIENT, guard, transport=Scripted([body], status=400)).post(task)
    assert only_task(guard).status == "unresolved"


@pytest.mark.parametrize("content_type", ["text/event-stream", "application/json", "text/plain"])
def test_events_in_answer_to_a_task_that_asked_for_none_are_read(
    content_type: str, guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    task = a_task()
    told = {"taskUUID": task["taskUUID"], "delta": {"text": "hi"}, "finishReason": "stop", "cost": 0.0002}
    body = b"data: " + json.dumps(told).encode() + b"\n\n" + DONE
    headers = {**SSE, "content-type": content_type}
    assert make_client(CLIENT, guard, transport=Scripted([body], headers=headers)).post(task).content == body
    assert (only_task(guard).status, str(charged(guard))) == ("settled", "0.000200000")


def test_figures_told_once_for_several_results_are_charged_once(
    guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    task = a_task(numberResults=2)
    items = [{"taskUUID": task["taskUUID"], "text": text} for text in ("one", "two")]
    make_client(CLIENT, guard, transport=Provider(lambda _: (200, {"data": items, "cost": 0.0007}))).post(task)
    assert (only_task(guard).status, str(charged(guard))) == ("settled", "0.000700000")
