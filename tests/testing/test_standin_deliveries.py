"""The stand-in's roads: async and polls, `getTaskDetails`, webhooks and streams."""

from __future__ import annotations

import json
from decimal import Decimal

import httpx
import pytest
from standins import a_task, about, ask, stream_events, webhook_receiver

from costguard.testing import StandIn, Webhook, exact, seeds

pytest_plugins = ("standin_fixtures",)

# --- async, polls, details, webhooks


def test_an_async_task_is_acknowledged_then_polled_cumulatively_and_repeatedly(url: str) -> None:
    task = a_task(deliveryMethod="async", numberResults=2)
    with httpx.Client(base_url=url) as client:
        ack = client.post("/v1", json=[task]).json()
        assert ack == {"data": [{"taskType": "textInference", "taskUUID": task["taskUUID"]}]}
        polls = [client.post("/v1", json=[about("getResponse", task)]).json()["data"] for _ in range(4)]
    statuses = [[item["status"] for item in poll] for poll in polls]
    assert statuses == [["processing"], ["success", "processing"], ["success"] * 2, ["success"] * 2]
    assert polls[1][0] == polls[2][0]
    assert polls[2] == polls[3]
    assert all("cost" in item for item in polls[3])


def test_polls_can_be_done_at_once() -> None:
    standin = StandIn(polls_until_done=0)
    task = a_task(deliveryMethod="async")
    ask(standin, task)
    assert ask(standin, about("getResponse", task))["data"][0]["status"] == "success"


def test_details_give_the_request_and_the_response_of_a_past_task(standin: StandIn) -> None:
    task = a_task(settings={"temperature": 0.42})
    answer = ask(standin, task)
    (details,) = ask(standin, about("getTaskDetails", task))["data"]
    assert details["request"] == {**task, "settings": {"temperature": Decimal("0.42")}}
    assert details == {**about("getTaskDetails", task), "request": details["request"], "response": answer}


def test_details_can_lack_the_cost_and_can_lag_behind() -> None:
    standin = StandIn(details_with_cost=False, details_until_done=1)
    task = a_task()
    ask(standin, task)
    lagging, done = (ask(standin, about("getTaskDetails", task))["data"][0]["response"] for _ in range(2))
    assert lagging["data"][0]["status"] == "processing"
    assert {"cost", "usage"}.isdisjoint(done["data"][0])


@pytest.mark.parametrize("task_type", ["getTaskDetails", "getResponse"])
def test_an_unknown_task_is_not_found_and_does_not_hide_known_ones(standin: StandIn, task_type: str) -> None:
    known, unknown = a_task(), a_task()
    ask(standin, known)
    reply = standin.handle("POST", "/v1", {}, json.dumps(about(task_type, unknown)).encode())
    assert reply.status == standin.not_found_status
    answer = ask(standin, about(task_type, known), about(task_type, unknown))
    assert answer["data"][0]["taskUUID"] == known["taskUUID"]
    assert answer["errors"][0]["taskUUID"] == unknown["taskUUID"]
    assert "not found" in answer["errors"][0]["message"]


def test_webhooks_come_once_per_result_twice_if_told_and_again_after_a_failure(web: httpx.Client) -> None:
    standin = StandIn(webhook_times=2)
    with webhook_receiver(iter([500] + [204] * 4)) as (hook, got):
        task = a_task(webhookURL=hook, numberResults=2)
        with standin.serve() as url:
            assert "text" not in web.post(f"{url}/v1", json=[task]).json()["data"][0]
    assert [item["status"] for item in got] == ["success"] * 5
    assert len({item["seed"] for item in got}) == 2
    assert {item["taskUUID"] for item in got} == {task["taskUUID"]}
    assert {(item["seed"], item["usage"]["costBreakdown"]["total"]) for item in got} == {
        (item["seed"], item["usage"]["costBreakdown"]["total"])
        for item in ask(standin, about("getTaskDetails", task))["data"][0]["response"]["data"]
    }


def test_webhooks_for_other_hosts_are_recorded_and_never_sent(
    web: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Webhook] = []

    def post(webhook: Webhook) -> bool:
        sent.append(webhook)
        return True

    monkeypatch.setattr("costguard.testing.server._post", post)
    standin = StandIn(webhook_envelope=True)
    hooks = ["https://example.com/hook", "http://127.0.0.1:9/hook"]
    with standin.serve() as url:
        for hook in hooks:
            web.post(f"{url}/v1", json=[a_task(webhookURL=hook)])
    assert [webhook.url for webhook in standin.webhooks] == hooks
    assert [webhook.url for webhook in sent] == hooks[1:]
    assert exact.loads(standin.webhooks[0].body)["data"][0]["status"] == "success"


# --- streams


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("crlf", [False, True])
def test_a_stream_says_what_a_plain_answer_says(web: httpx.Client, late: bool, crlf: bool) -> None:
    plain = ask(StandIn(), seeds()[2].request | {"includeCost": True})["data"][0]
    standin = StandIn(sse_late_cost=late, sse_crlf=crlf, sse_space=not crlf, sse_empty_uuid=late, chunk_bytes=7)
    task = {**seeds()[2].request, "includeCost": True, "deliveryMethod": "stream"}
    with standin.serve() as url, web.stream("POST", f"{url}/v1", json=[task]) as response:
        assert response.headers["content-type"] == "text/event-stream"
        body = response.read()
    *events, done = stream_events(body)
    frames = [exact.loads(event) for event in events]
    assert done == "[DONE]"
    assert "".join(frame["delta"].get("text", "") for frame in frames) == plain["text"]
    assert [f["delta"]["reasoningContent"] for f in frames if "reasoningContent" in f["delta"]] == plain[
        "reasoningContent"
    ]
    assert {frame["taskUUID"] for frame in frames} == {"" if late else task["taskUUID"]}
    assert [frame.get("finishReason") for frame in frames[-2:]] == (["length", None] if late else [None, "length"])
    assert frames[-1]["cost"] == standin.billed() == Decimal("0.02394")
    assert (b"\r\n" in body, b"data: " in body) == (crlf, not crlf)
    assert b": keep-alive" in body


def test_a_stream_tells_no_cost_when_not_asked(standin: StandIn) -> None:
    task = a_task(deliveryMethod="stream", includeCost=False, includeUsage=False)
    reply = standin.handle("POST", "/v1", {}, json.dumps(task).encode())
    assert b"cost" not in b"".join(reply.chunks)
    assert standin.billed() > 0


def test_streams_arrive_chunk_by_chunk_in_memory_and_over_a_socket(standin: StandIn, url: str) -> None:
    def pieces(client: httpx.Client) -> int:
        with client.stream("POST", "/v1", json=a_task(deliveryMethod="stream")) as response:
            return sum(1 for _ in response.iter_raw())

    with httpx.Client(base_url="http://standin", transport=standin.transport()) as client:
        assert pieces(client) > 5
    standin.chunk_delay_s = 0.01
    with httpx.Client(base_url=url) as client:
        assert pieces(client) > 5
