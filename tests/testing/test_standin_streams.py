"""The manners of the stand-in's streams, byte by byte over real connections."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from standins import a_task, frames, over_loopback, stream_events

from costguard.testing import StandIn, exact

EVERY: dict[str, dict[str, Any]] = {
    "byte order mark": {"sse_bom": True},
    "single newlines": {"sse_single_newline": True},
    "bare lines": {"sse_bare": True},
    "pings": {"sse_pings": True},
    "no [DONE]": {"sse_done": False},
    "as JSON": {"sse_content_type": "application/json"},
    "no content type": {"sse_content_type": None},
    "data as an object": {"sse_envelope": "object"},
    "data as a list": {"sse_envelope": "list"},
    "usage split": {"sse_split_usage": True},
    "zeros at the end": {"sse_trailing_zeros": True},
    "figures twice": {"sse_repeat_figures": True, "result_index": True},
    "index per chunk": {"sse_chunk_index": True},
    "all at once": {
        "sse_bom": True, "sse_bare": True, "sse_pings": True, "sse_done": False, "sse_envelope": "list",
        "sse_split_usage": True, "sse_trailing_zeros": True, "sse_repeat_figures": True, "chunk_bytes": 5,
    },
}  # fmt: skip


def streamed(standin: StandIn, **fields: Any) -> bytes:
    """The bytes of one streamed task."""
    return over_loopback(standin, a_task(deliveryMethod="stream", **fields))[1]


@pytest.mark.parametrize("name", EVERY)
def test_every_manner_tells_the_same_text_and_the_same_bill(name: str) -> None:
    standin = StandIn(**EVERY[name])
    told = frames(streamed(standin, seed=5))
    assert "".join(frame["delta"].get("text", "") for frame in told) == "".join(
        frame["delta"].get("text", "") for frame in frames(streamed(StandIn(), seed=5))
    )
    totals = {
        frame["usage"]["costBreakdown"]["total"] for frame in told if "costBreakdown" in frame.get("usage", {})
    } - {0}
    assert totals == {standin.billed()}


def test_a_byte_order_mark_comes_first_and_once() -> None:
    body = streamed(StandIn(sse_bom=True))
    assert body.startswith(b"\xef\xbb\xbf")
    assert body.count(b"\xef\xbb\xbf") == 1


@pytest.mark.parametrize("crlf", [False, True])
def test_frames_can_be_divided_by_single_newlines(crlf: bool) -> None:
    body = streamed(StandIn(sse_single_newline=True, sse_crlf=crlf))
    assert b"\n\n" not in body.replace(b"\r\n", b"\n")
    assert body.count(b"\r\n") == (body.count(b"\n") if crlf else 0)
    assert len(stream_events(body)) > 3


def test_bare_lines_are_json_and_nothing_else() -> None:
    lines = streamed(StandIn(sse_bare=True)).splitlines()
    assert lines.pop() == b"[DONE]"
    assert all(exact.loads(line)["taskType"] == "textInference" for line in lines)


def test_pings_are_events_of_that_name_between_the_frames() -> None:
    body = streamed(StandIn(sse_pings=True))
    assert b'event: ping\ndata: {"type":"ping"}\n\n' in body
    assert b"ping" not in streamed(StandIn())


def test_a_stream_can_end_without_done() -> None:
    whole, bare = streamed(StandIn(), seed=1), streamed(StandIn(sse_done=False), seed=1)
    assert whole.endswith(b"data: [DONE]\n\n")
    assert b"[DONE]" not in bare
    assert "finishReason" in frames(bare)[-1]


@pytest.mark.parametrize("content_type", ["application/json", None])
def test_a_stream_can_come_under_another_content_type_or_none(content_type: str | None) -> None:
    headers, body = over_loopback(StandIn(sse_content_type=content_type), a_task(deliveryMethod="stream"))
    assert headers["content-type"] == content_type
    assert stream_events(body)[-1] == "[DONE]"


def test_frames_can_hold_their_item_as_an_object_or_several_items_in_a_list() -> None:
    one = [exact.loads(event)["data"] for event in stream_events(streamed(StandIn(sse_envelope="object")))[:-1]]
    assert all(isinstance(item, dict) for item in one)
    body = streamed(StandIn(sse_envelope="list", result_index=True), numberResults=2)
    several = [exact.loads(event)["data"] for event in stream_events(body)[:-1]]
    assert any({item["resultIndex"] for item in items} == {0, 1} for items in several), "two results in one frame"
    assert max(len(items) for items in several) == 3


def test_usage_can_be_split_over_frames() -> None:
    first, *_, last, breakdown, cost = frames(streamed(StandIn(sse_split_usage=True)))
    assert first["usage"].keys() == {"promptTokens"}
    assert first["delta"]["text"]
    assert last["finishReason"]
    assert last["usage"].keys() == {"completionTokens", "totalTokens", "completionTokensDetails"}
    assert breakdown["usage"].keys() == {"costBreakdown"}
    assert "usage" not in cost
    assert cost["cost"] > 0


def test_a_trailing_frame_of_zeros_has_the_shape_of_the_true_figures() -> None:
    standin = StandIn(sse_trailing_zeros=True)
    true, zeros = frames(streamed(standin))[-2:]
    assert true["usage"]["costBreakdown"]["total"] == standin.billed() > 0
    assert (zeros["cost"], zeros["usage"]["completionTokens"], zeros["usage"]["costBreakdown"]["total"]) == (0, 0, 0)
    assert zeros["usage"].keys() == true["usage"].keys()


def test_the_last_figures_can_come_again_without_their_index() -> None:
    body = streamed(StandIn(sse_repeat_figures=True, result_index=True), numberResults=2)
    end, again = frames(body)[-2:]
    assert end["resultIndex"] == 1
    assert "resultIndex" not in again
    assert (again["cost"], again["usage"]) == (end["cost"], end["usage"])


def test_the_result_index_can_count_the_chunks() -> None:
    told = frames(streamed(StandIn(sse_chunk_index=True), numberResults=2))
    assert [frame["resultIndex"] for frame in told] == list(range(len(told)))


def test_a_stream_can_be_told_as_one_whole_answer() -> None:
    standin = StandIn(stream_whole=True)
    headers, body = over_loopback(standin, a_task(deliveryMethod="stream"))
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert exact.loads(body)["data"][0]["usage"]["costBreakdown"]["total"] == standin.billed()


@pytest.mark.parametrize(("kind", "has_text"), [("stream_error_cost", True), ("stream_error_alone", False)])
@pytest.mark.parametrize("results", [1, 3])
def test_an_error_frame_carries_the_figures_of_its_result(kind: str, has_text: bool, results: int) -> None:
    standin = StandIn()
    standin.fault(kind)
    body = streamed(standin, numberResults=results)
    told = frames(body)
    errors = [frame for frame in told if "error" in frame]
    assert bool([frame for frame in told if frame.get("delta", {}).get("text")]) == has_text
    assert not any("finishReason" in frame for frame in told)
    assert len(errors) == results
    assert sum((error["usage"]["costBreakdown"]["total"] for error in errors), Decimal(0)) == standin.billed()
    assert all(error["error"]["code"] and error["cost"] for error in errors)
    assert stream_events(body)[-1] == "[DONE]"
