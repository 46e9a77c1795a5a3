"""The manners of the stand-in that concern every road: names, figures, roads, polls, encodings, requests."""

from __future__ import annotations

import gzip
import json
import zlib
from decimal import Decimal
from typing import Any

import httpx
import httpx2
import pytest
from standins import PRO, a_task, about, ask, frames, over_loopback

from costguard.errors import ConfigurationError
from costguard.testing import StandIn, exact, seeds

ENCODINGS = ("gzip", "deflate", "deflate-raw", "br", "zstd", "deflate, gzip", "deflate-raw, br")
READERS = [(library, encoding) for encoding in ENCODINGS for library in (httpx, httpx2)]
READERS.remove((httpx2, "zstd"))  # it reads zstd by another package


def the_item(standin: StandIn, **fields: Any) -> dict[str, Any]:
    """The result of one task over a real connection."""
    _, body = over_loopback(standin, a_task(**fields))
    (item,) = exact.loads(body)["data"]
    assert isinstance(item, dict)
    return item


def total(item: dict[str, Any]) -> Any:
    return item["usage"]["costBreakdown"]["total"]


# --- figures and names


def test_figures_as_text_keep_six_decimals_and_every_digit() -> None:
    standin = StandIn(figures_as_text=True, completion_tokens=92)
    item = the_item(standin, seed=0)
    assert (item["cost"], total(item)) == ("0.000280", "0.000278")
    assert item["usage"]["costBreakdown"]["tokens"]["cache"]["cost"] == "0.000000"
    assert Decimal(total(item)) == standin.billed()
    assert item["usage"]["promptTokens"] == 4
    longer = StandIn(figures_as_text=True, item_cost=Decimal("0.123456789"))
    assert the_item(longer, taskType="imageInference")["cost"] == "0.123456789"


def test_counts_as_text_leave_the_money_a_number() -> None:
    item = the_item(StandIn(counts_as_text=True), seed=1)
    plain = the_item(StandIn(), seed=1)
    usage, told = item["usage"], plain["usage"]
    for name in ("promptTokens", "completionTokens", "totalTokens"):
        assert usage[name] == str(told[name])
    assert usage["completionTokensDetails"] == {"reasoningTokens": "72"}
    leaf = usage["costBreakdown"]["tokens"]["prompt"]["modalities"][0]
    assert (type(leaf["tokens"]), type(leaf["cost"])) == (str, Decimal)
    assert usage["costBreakdown"]["features"]["search"]["count"] == "0"


def test_a_breakdown_without_total_still_has_the_leaves_that_add_up_to_the_bill() -> None:
    standin = StandIn(breakdown_total=False)
    parts = the_item(standin)["usage"]["costBreakdown"]
    assert {"total", "totalDisplay"}.isdisjoint(parts)
    tokens = parts["tokens"]
    assert tokens["prompt"]["modalities"][0]["cost"] + tokens["completion"]["cost"] == standin.billed()


def test_the_cost_can_stand_in_the_usage() -> None:
    item, cost_only = the_item(StandIn(usage_cost=True), seed=3), the_item(StandIn(usage_cost=True), includeUsage=False)
    assert "cost" not in item
    assert item["usage"]["cost"] == the_item(StandIn(), seed=3)["cost"]
    assert cost_only["usage"].keys() == {"cost"}


@pytest.mark.parametrize("case", ["upper", "lower"])
@pytest.mark.parametrize("road", ["sync", "stream", "async"])
def test_names_are_answered_in_the_other_case_and_understood_in_both(case: Any, road: str) -> None:
    standin = StandIn(uuid_case=case, polls_until_done=0)
    task = a_task(deliveryMethod=road)
    task["taskUUID"] = task["taskUUID"].upper() if case == "lower" else task["taskUUID"]
    told = getattr(task["taskUUID"], case)()
    assert told != task["taskUUID"]
    _, body = over_loopback(standin, task)
    assert {frame["taskUUID"] for frame in frames(body)} == {told}
    for name in (told, task["taskUUID"]):
        for question in ("getResponse", "getTaskDetails"):
            (item,) = ask(standin, {"taskType": question, "taskUUID": name})["data"]
            assert item["taskUUID"] == told
    assert item["request"]["taskUUID"] == task["taskUUID"], "a quoted request is the client's own words"
    assert [bill.task_uuid for bill in standin.bill] == [task["taskUUID"]]


def test_a_blank_error_stands_on_successes_only() -> None:
    standin = StandIn(blank_error=True, polls_until_done=0)
    task = a_task()
    assert ask(standin, task)["data"][0]["error"] == " "
    assert ask(standin, about("getResponse", task))["data"][0]["error"] == " "
    assert ask(standin, about("getTaskDetails", task))["data"][0]["response"]["data"][0]["error"] == " "
    _, stream = over_loopback(standin, a_task(deliveryMethod="stream"))
    assert [frame.get("error") for frame in frames(stream)][-1] == " "
    assert standin.billed(task["taskUUID"]) > 0


def test_an_item_can_have_text_figures_and_an_error_and_is_billed() -> None:
    standin = StandIn()
    standin.fault("item_and_error")
    item = the_item(standin)
    assert item["text"]
    assert item["error"]["code"]
    assert total(item) == standin.billed() > 0


# --- one result by several roads


def the_roads(standin: StandIn, **fields: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What a stream's last frame, the webhook and the poll tell of one result."""
    task = a_task(deliveryMethod="stream", webhookURL="https://example.com/hook", **fields)
    _, stream = over_loopback(standin, task)
    (webhook,) = (exact.loads(owed.body) for owed in standin.webhooks)
    (polled,) = ask(standin, about("getResponse", task))["data"]
    return frames(stream)[-1], webhook, polled


def test_one_result_is_told_differently_by_stream_webhook_and_poll() -> None:
    standin = StandIn(polls_until_done=0, stream_figures="cost", poll_figures="breakdown")
    streamed, webhook, polled = the_roads(standin)
    assert "usage" not in streamed
    assert "cost" not in polled
    assert polled["usage"].keys() == {"costBreakdown"}
    assert streamed["cost"] == webhook["cost"]
    assert total(polled) == total(webhook) == standin.billed()
    assert webhook["usage"]["promptTokens"] > 0
    assert [bill.amount for bill in standin.bill] == [total(webhook)]


@pytest.mark.parametrize("road", ["stream", "webhook", "poll"])
def test_a_road_can_tell_the_tokens_alone(road: str) -> None:
    standin = StandIn(polls_until_done=0)
    setattr(standin, f"{road}_figures", "tokens")
    told = dict(zip(("stream", "webhook", "poll"), the_roads(standin), strict=True))
    assert "cost" not in told[road]
    assert told[road]["usage"]["completionTokens"] > 0
    assert "costBreakdown" not in told[road]["usage"]
    assert all("cost" in told[other] for other in told if other != road)


def test_a_whole_answer_to_a_streamed_task_tells_what_its_road_tells() -> None:
    headers, body = over_loopback(StandIn(stream_whole=True, stream_figures="cost"), a_task(deliveryMethod="stream"))
    assert headers["content-type"].startswith("application/json")
    (item,) = exact.loads(body)["data"]
    assert item["text"]
    assert ("cost" in item, "usage" in item) == (True, False)


# --- polls


def test_polls_say_queued_and_pending_with_a_cost_of_zero_before_processing() -> None:
    standin = StandIn(poll_statuses=("queued", "pending"), polls_until_done=2)
    task = a_task(deliveryMethod="async")
    ask(standin, task)
    polls = [ask(standin, about("getResponse", task))["data"] for _ in range(5)]
    told = [(item["status"], item.get("cost")) for poll in polls for item in poll]
    assert told[:4] == [("queued", 0), ("pending", 0), ("processing", None), ("processing", None)]
    assert told[4][0] == "success"
    assert total(polls[4][0]) == standin.billed() > 0


def test_polls_and_webhooks_can_use_words_nobody_knows() -> None:
    standin = StandIn(poll_statuses=("dreaming",), polls_until_done=0, done_status="delivered")
    task = a_task(deliveryMethod="async", webhookURL="https://example.com/hook")
    ask(standin, task)
    statuses = [ask(standin, about("getResponse", task))["data"][0]["status"] for _ in range(2)]
    assert statuses == ["dreaming", "delivered"]
    assert exact.loads(standin.webhooks[0].body)["status"] == "delivered"


# --- encodings


@pytest.mark.parametrize(("library", "encoding"), READERS)
def test_answers_and_refusals_are_really_encoded_and_clients_read_them(library: Any, encoding: str) -> None:
    standin = StandIn(content_encoding=encoding)
    task = {**seeds()[0].request, "model": PRO, "includeCost": True, "includeUsage": True}
    plain = b"".join(StandIn().handle("POST", "/v1", {}, json.dumps(task).encode()).chunks)
    with standin.serve() as url, library.Client(base_url=url) as client:
        response = client.post("/v1", json=task)
        refused = client.post("/v1", json=[])
        with client.stream("POST", "/v1", json=task) as raw:
            encoded = b"".join(raw.iter_raw())
    assert response.headers["content-encoding"] == encoding.replace("deflate-raw", "deflate")
    assert response.content == plain
    assert len(encoded) == int(response.headers["content-length"]) < len(plain)
    assert b"taskUUID" not in encoded
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (400, "invalidBody")


def test_deflate_has_a_zlib_frame_and_raw_deflate_none() -> None:
    bodies = {}
    for encoding in ("deflate", "deflate-raw"):
        _, bodies[encoding] = over_loopback(StandIn(content_encoding=encoding), a_task())
    assert exact.loads(zlib.decompress(bodies["deflate"]))["data"]
    assert exact.loads(zlib.decompress(bodies["deflate-raw"], wbits=-15))["data"]
    with pytest.raises(zlib.error):
        zlib.decompress(bodies["deflate-raw"])


def test_a_stack_of_encodings_is_applied_in_the_order_of_its_header() -> None:
    headers, body = over_loopback(StandIn(content_encoding="deflate, gzip"), a_task())
    assert headers["content-encoding"] == "deflate, gzip"
    assert exact.loads(zlib.decompress(gzip.decompress(body)))["data"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_stream_is_flushed_per_chunk_so_that_each_frame_can_be_read_when_it_comes(encoding: str) -> None:
    task = a_task(deliveryMethod="stream")
    plain = StandIn().handle("POST", "/v1", {}, json.dumps(task).encode()).chunks
    standin = StandIn(content_encoding=encoding)
    # The silence after half of the chunks shows that those before it can be read without the rest.
    standin.fault("hang")
    read: list[bytes] = []
    with standin.serve() as url, httpx.Client(base_url=url, timeout=httpx.Timeout(5, read=0.3)) as client:
        with client.stream("POST", "/v1", json=task) as response, pytest.raises(httpx.ReadTimeout):
            read.extend(response.iter_bytes())
        assert b"".join(read) == b"".join(plain[: len(plain) // 2])
        with client.stream("POST", "/v1", json={**task, "taskUUID": "again"}) as response:
            assert "content-length" not in response.headers
            assert frames(response.read())[-1]["usage"]["costBreakdown"]["total"] == standin.bill[-1].amount


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_an_encoded_stream_can_be_cut_into_pieces_anywhere(encoding: str) -> None:
    standin = StandIn(content_encoding=encoding, chunk_bytes=3)
    with standin.serve() as url, httpx.Client(base_url=url) as client:
        body = client.post("/v1", json=a_task(deliveryMethod="stream")).content
    assert frames(body)[-1]["usage"]["costBreakdown"]["total"] == standin.billed()


def test_an_encoded_answer_can_be_cut() -> None:
    standin = StandIn(content_encoding="gzip")
    standin.fault("cut")
    reply = standin.handle("POST", "/v1", {}, json.dumps(a_task()).encode())
    assert len(reply.chunks[0]) == int(reply.headers["content-length"]) // 2
    with pytest.raises(EOFError):
        gzip.decompress(reply.chunks[0])


@pytest.mark.parametrize("encoding", ["lzw", "", "gzip,,br"])
def test_an_unknown_content_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(ConfigurationError, match="content encoding"):
        ask(StandIn(content_encoding=encoding), a_task())


@pytest.mark.parametrize(("encoding", "package"), [("br", "brotli"), ("zstd", "zstandard")])
def test_an_encoding_whose_package_is_missing_names_it(
    monkeypatch: pytest.MonkeyPatch, encoding: str, package: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(ConfigurationError, match=f"pip install {package}"):
        ask(StandIn(content_encoding=encoding), a_task())


# --- requests


def test_a_request_body_in_gzip_is_understood_and_kept_as_it_came() -> None:
    standin = StandIn()
    task = a_task()
    sent = gzip.compress(json.dumps([task]).encode())
    _, body = over_loopback(standin, body=sent, Content_Encoding="gzip")
    assert exact.loads(body)["data"][0]["taskUUID"] == task["taskUUID"]
    assert standin.received[0].body == sent
    assert standin.received[0].tasks == [task]


@pytest.mark.parametrize(("encoding", "status"), [("gzip", 400), ("compress", 415), ("identity", 200)])
def test_a_body_that_is_not_what_its_header_says_is_refused(encoding: str, status: int) -> None:
    standin = StandIn()
    reply = standin.handle("POST", "/v1", {"Content-Encoding": encoding}, json.dumps(a_task()).encode())
    assert reply.status == status
    assert bool(standin.bill) == (status == 200)
