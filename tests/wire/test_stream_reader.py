"""Streams are read right however their bytes are split, and never keep what they say."""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from costguard.testing import StandIn
from costguard.wire.runware import stream as sse
from costguard.wire.runware.stream import DONE, FRAME_MAX, EventParser, Reader

UUID = "8d1f2c1a-1111-4111-8111-000000000001"
OTHER = "8d1f2c1a-1111-4111-8111-000000000002"


def parse(*chunks: bytes) -> list[bytes]:
    """All events of a stream that came in these chunks."""
    parser = EventParser()
    found = [event for chunk in chunks for event in parser.feed(chunk)]
    return found + list(parser.end())


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    """`stream` in pieces, some of them empty."""
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in pairwise(places)]


def frame(uuid: str = UUID, **fields: Any) -> bytes:
    return b"data: " + json.dumps({"taskType": "textInference", "taskUUID": uuid, **fields}).encode() + b"\n\n"


def text(said: str = "grey water", uuid: str = UUID, **fields: Any) -> bytes:
    return frame(uuid, delta={"text": said}, **fields)


def end(uuid: str = UUID, **fields: Any) -> bytes:
    return frame(uuid, delta={}, finishReason="stop", **fields)


def heard(*chunks: bytes, results: int = 1, more: dict[str, int] | None = None) -> Reader:
    reader = Reader({UUID: results, **(more or {})})
    for chunk in chunks:
        reader.feed(chunk)
    reader.finish()
    return reader


END_OF_STREAM = b"data: [DONE]\n\n"


# --- the parser ---

data_lines = st.binary(max_size=12).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b""))
endings = st.sampled_from([b"\n", b"\r\n", b"\r"])
events = st.lists(st.lists(data_lines, min_size=1, max_size=3), max_size=4)


@given(events, endings, st.booleans(), st.lists(st.integers(0, 10_000), max_size=8), st.booleans())
def test_any_split_of_the_bytes_gives_the_same_events(
    wanted: list[list[bytes]], ending: bytes, space: bool, cuts: list[int], heartbeats: bool
) -> None:
    lines = []
    for event in wanted:
        if heartbeats:
            lines += [b": keep-alive", b""]
        # A value that begins with a blank needs the blank that is dropped.
        lines += [b"data:" + (b" " if space or line.startswith(b" ") else b"") + line for line in event] + [b""]
    stream = b"".join(line + ending for line in lines)
    assert parse(*split(stream, cuts)) == [b"\n".join(event) for event in wanted]


@example([b"data: a\r\n", b"\n", b"data:b\n"])
@given(st.lists(st.sampled_from([b"data: a\n", b"data:b\r\n", b": c\r", b"data\n", b"\n", b"\r", b"\r\n"])))
def test_one_byte_at_a_time_is_as_good_as_all_at_once(pieces: list[bytes]) -> None:
    stream = b"".join(pieces)
    assert parse(*(stream[at : at + 1] for at in range(len(stream)))) == parse(stream)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
def test_every_line_ending_of_the_standard_is_one(ending: bytes) -> None:
    assert parse(ending.join([b"data: one", b"", b": heartbeat", b"", b"data:two", b"data: three", b"", b""])) == [
        b"one",
        b"two\nthree",
    ]


def test_an_event_without_its_blank_line_counts_at_the_end_of_the_stream() -> None:
    assert parse(b"data: one\n\ndata: two") == [b"one", b"two"]


def test_other_fields_and_blanks_beyond_the_first_are_as_the_standard_says() -> None:
    assert parse(b"event: x\nid: 7\nretry: 5\ndata:  two blanks\n\n") == [b" two blanks"]


def test_a_frame_beyond_all_bounds_is_dropped_and_what_follows_is_heard() -> None:
    piece = b"x" * 2**20
    parser = EventParser()
    found = list(parser.feed(b"data: "))
    for _ in range(FRAME_MAX // 2**20 + 2):
        found += parser.feed(piece)
    assert len(parser._rest) <= FRAME_MAX
    found += parser.feed(b"\n\ndata: next\n\n")
    assert found == [b"next"]


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_no_bytes_raise(junk: bytes, cuts: list[int]) -> None:
    reader = heard(*split(b"data: " + junk, cuts), *split(junk, cuts))
    assert reader.outcome(UUID).items == ()


# --- what a stream tells ---


@given(st.lists(st.integers(0, 100_000), max_size=10), st.booleans(), st.booleans(), st.booleans(), st.integers(1, 4))
def test_a_stream_tells_the_bill_however_it_is_written(
    cuts: list[int], crlf: bool, late: bool, nameless: bool, results: int
) -> None:
    standin = StandIn(sse_crlf=crlf, sse_late_cost=late, sse_empty_uuid=nameless)
    task = {
        "taskType": "textInference", "taskUUID": UUID, "model": "google:gemini@3-flash", "includeCost": True,
        "includeUsage": True, "deliveryMethod": "stream", "numberResults": results, "settings": {"maxTokens": 40},
        "messages": [{"role": "user", "content": "Describe the harbour."}],
    }  # fmt: skip
    reply = standin.handle("POST", "/v1", {}, json.dumps([task]).encode())
    outcome = heard(*split(b"".join(reply.chunks), cuts), results=results).outcome(UUID)
    assert [item.figures.usage["costBreakdown"]["total"] for item in outcome.items] == [b.amount for b in standin.bill]
    assert (outcome.is_done, outcome.is_complete, outcome.has_totals, outcome.errors) == (True, True, True, ())


def test_the_last_value_of_a_figure_wins_and_a_late_one_counts() -> None:
    outcome = heard(text(cost=0.1), end(cost=0.2), frame(cost=0.3), END_OF_STREAM).outcome(UUID)
    assert [item.figures.cost for item in outcome.items] == [Decimal("0.3")]


def test_frames_and_text_are_counted_by_task_and_not_kept() -> None:
    thought = frame(delta={"reasoningContent": "hm"})
    reader = heard(text("grey"), thought, text("no", uuid=OTHER), END_OF_STREAM, more={OTHER: 1})
    assert (reader.outcome(UUID).frames, reader.outcome(UUID).text_length) == (2, 6)
    assert (reader.outcome(OTHER).frames, reader.outcome(OTHER).text_length) == (1, 2)
    assert "grey" not in repr(vars(reader))


def test_results_are_told_apart_by_index_in_any_order() -> None:
    outcome = heard(
        text(resultIndex=0), text(resultIndex=1), end(resultIndex=1, cost=0.2), text(resultIndex=0),
        end(resultIndex=0, cost=0.1), END_OF_STREAM, results=2,
    ).outcome(UUID)  # fmt: skip
    assert sorted((item.names, item.figures.cost) for item in outcome.items) == [
        ("i:0", Decimal("0.1")),
        ("i:1", Decimal("0.2")),
    ]


def test_without_an_index_text_after_the_end_begins_the_next_result() -> None:
    outcome = heard(text(), end(), frame(cost=0.1), text(), end(cost=0.2), END_OF_STREAM, results=2).outcome(UUID)
    assert [item.figures.cost for item in outcome.items] == [Decimal("0.1"), Decimal("0.2")]


def test_no_more_results_are_heard_than_were_asked_for() -> None:
    outcome = heard(text(), end(cost=0.1), text(), end(cost=0.2), END_OF_STREAM, results=1).outcome(UUID)
    assert [item.figures.cost for item in outcome.items] == [Decimal("0.2")]


def test_a_result_that_began_and_did_not_end_makes_the_stream_incomplete() -> None:
    outcome = heard(text(), end(cost=0.1), text(), results=2).outcome(UUID)
    assert (len(outcome.items), outcome.is_complete, outcome.has_totals, outcome.is_done) == (1, False, False, False)


def test_an_empty_task_uuid_means_the_one_task_there_is() -> None:
    assert len(heard(text(uuid=""), end(uuid="", cost=0.1), END_OF_STREAM).outcome(UUID).items) == 1
    among_two = heard(end(uuid="", cost=0.1), END_OF_STREAM, more={OTHER: 1})
    assert among_two.outcome(UUID).items == among_two.outcome(OTHER).items == ()


def test_an_error_frame_is_an_error_of_its_task_or_of_all() -> None:
    named = b'data: {"errors":[{"code":"x","taskUUID":"%s"}]}\n\n' % OTHER.encode()
    reader = heard(named, b'data: {"error":{"code":"y"}}\n\n', END_OF_STREAM, more={OTHER: 1})
    assert [error.code for error in reader.outcome(UUID).errors] == ["y"]
    assert [error.code for error in reader.outcome(OTHER).errors] == ["x", "y"]


@pytest.mark.parametrize("done", [b"data: [DONE]\n\n", b"data:[DONE]\r\n\r\n", b"data: [DONE]"])
def test_the_end_is_said_by_done_alone(done: bytes) -> None:
    assert heard(end(cost=0.1), done).outcome(UUID).is_done
    assert not heard(end(cost=0.1)).outcome(UUID).is_done
    assert sse.EVENT_STREAM == "text/event-stream"
    assert DONE == b"[DONE]"
