"""What a stream tells is the same in every manner of telling it, and none of its text is kept."""

from __future__ import annotations

import gc
import itertools
import json
from decimal import Decimal
from types import FunctionType, ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wires import IMAGE, OTHER, SPELLINGS, UUID, encoded, exactly, same, split, tasks, text_task

from costguard.testing import StandIn
from costguard.wire import NATIVE
from costguard.wire.dialect import Ack, Doubt, Ending, Figures, Judgement, Refused, Result, Success
from costguard.wire.runware.figures import Told
from costguard.wire.runware.stream import EVIDENCE_CHARS_MAX, Reader

DONE = b"data: [DONE]\n\n"


def a_frame(uuid: str = UUID, **fields: Any) -> dict[str, Any]:
    return {"taskType": "textInference", "taskUUID": uuid, **fields}


def sent(payload: Any) -> bytes:
    return f"data: {exactly(payload)}\n\n".encode()


def frame(uuid: str = UUID, **fields: Any) -> bytes:
    return sent(a_frame(uuid, **fields))


def text(said: str = "grey water", uuid: str = UUID, **fields: Any) -> bytes:
    return frame(uuid, delta={"text": said}, **fields)


def end(uuid: str = UUID, **fields: Any) -> bytes:
    return frame(uuid, delta={}, finishReason="stop", **fields)


def a_reader(results: int = 1, more: dict[str, int] | None = None) -> Reader:
    asked = {UUID: results, **(more or {})}
    return Reader(tasks(*(text_task(uuid, numberResults=n, deliveryMethod="stream") for uuid, n in asked.items())))


def heard(*chunks: bytes, results: int = 1, more: dict[str, int] | None = None, cut: str | None = None) -> Judgement:
    reader = a_reader(results, more)
    for chunk in chunks:
        reader.feed(chunk)
    return reader.judge(cut)


def ended(*chunks: bytes, results: int = 1, cut: str | None = None) -> Ending:
    return heard(*chunks, results=results, cut=cut).endings[UUID]


def success(*chunks: bytes, results: int = 1, cut: str | None = None) -> Success:
    found = ended(*chunks, results=results, cut=cut)
    assert isinstance(found, Success)
    return found


def costs(found: Ending) -> list[int | None]:
    assert isinstance(found, Success)
    return [one.figures.cost for one in found.results]


def comparable(ending: Ending) -> Any:
    """An ending without the spelling that its figures were told in."""
    if isinstance(ending, Success):
        return ending._replace(results=tuple(one._replace(figures=same(one.figures)) for one in ending.results))
    return ending


CENT = 10_000_000
"""Nano-dollars."""


# --- the bill, in every manner of telling it ---


def a_stream_task(results: int) -> dict[str, Any]:
    return {
        "taskType": "textInference", "taskUUID": UUID, "model": "google:gemini@3-flash", "includeCost": True,
        "includeUsage": True, "deliveryMethod": "stream", "numberResults": results, "settings": {"maxTokens": 40},
        "messages": [{"role": "user", "content": "Describe the harbour."}],
    }  # fmt: skip


FLAGS = (
    "sse_crlf", "sse_space", "sse_heartbeats", "sse_pings", "sse_bom", "sse_single_newline", "sse_bare",
    "sse_late_cost", "sse_split_usage", "sse_trailing_zeros", "sse_repeat_figures", "sse_chunk_index",
    "sse_empty_uuid", "result_index", "figures_as_text", "counts_as_text", "breakdown_total", "usage_cost",
    "blank_error", "stream_whole",
)  # fmt: skip


@given(
    st.sets(st.sampled_from(FLAGS)),
    st.sampled_from([None, "object", "list"]),
    st.sampled_from([None, "upper", "lower"]),
    st.integers(1, 4),
    st.lists(st.integers(0, 100_000), max_size=10),
)
def test_a_stream_tells_the_bill_however_it_is_written(
    flags: set[str], envelope: Any, case: Any, results: int, cuts: list[int]
) -> None:
    manners: dict[str, Any] = {flag: flag in flags for flag in FLAGS}
    standin = StandIn(sse_envelope=envelope, uuid_case=case, **manners)
    reply = standin.handle("POST", "/v1", {}, json.dumps([a_stream_task(results)]).encode())
    whole = reply.body if reply.chunks is None else b"".join(reply.chunks)
    found = success(*split(whole, cuts), results=results)
    billed = sorted(int(one.amount * 10**9) for one in standin.bill)
    assert sorted(one.figures.total or 0 for one in found.results) == billed
    assert (found.partial, found.reason) == (False, "")
    assert not any(one.figures.odd for one in found.results)


def written(payloads: list[Any], how: dict[str, Any]) -> bytes:
    """The bytes of a stream of these frames, in one of the manners that are met."""
    if how["listed"]:
        payloads = [{"data": payloads[at : at + how["listed"]]} for at in range(0, len(payloads), how["listed"])]
    line_end: str = how["line_end"]
    lines: list[str] = []
    for payload in payloads:
        if how["noise"]:
            lines += [": alive", "event: ping", 'data: {"type":"ping"}', ""]
        told = exactly(payload)
        if how["bare"]:
            lines.append(told)
        else:
            if how["noise"]:
                lines.append("id: 7")
            lines += [f"data:{how['space']}{told}", *[""] * how["blank"]]
    lines += ["[DONE]" if how["bare"] else f"data:{how['space']}{how['done']}", ""]
    return (b"\xef\xbb\xbf" if how["bom"] else b"") + line_end.join(lines).encode()


manners = st.fixed_dictionaries(
    {
        "line_end": st.sampled_from(["\n", "\r\n", "\r"]),
        "space": st.sampled_from(["", " "]),
        "blank": st.integers(0, 2),
        "bom": st.booleans(),
        "noise": st.booleans(),
        "bare": st.booleans(),
        "listed": st.sampled_from([0, 1, 2, 5]),
        "done": st.sampled_from(["[DONE]", '"[DONE]"', " [DONE] "]),
    }
)

SPLIT_USAGE: list[dict[str, Any]] = [
    a_frame(delta={"text": "grey"}, usage={"promptTokens": 1138}),
    a_frame(delta={"reasoningContent": "wet"}, error=" "),
    a_frame(
        delta={}, finishReason="stop", usage={key: IMAGE.usage[key] for key in ("completionTokens", "totalTokens")}
    ),
    a_frame(usage={"costBreakdown": IMAGE.usage["costBreakdown"]}, seed=5),
    a_frame(usage={"completionTokensDetails": {"reasoningTokens": 209}}),
    a_frame(cost=str(IMAGE.cost)),
    a_frame(cost=0, usage={"promptTokens": 0, "costBreakdown": {"total": 0}}),
]
FAILURE = {"code": "contentBlocked", "message": "", "taskUUID": UUID}
STREAMS: dict[str, list[dict[str, Any]]] = {
    "a result": SPLIT_USAGE,
    "an error with figures": [
        a_frame(delta={"text": "grey"}),
        a_frame(error=FAILURE, cost=IMAGE.cost, usage=IMAGE.usage),
    ],
    "text, then an error": [a_frame(delta={"text": "grey"}), a_frame(error=FAILURE)],
    "an error alone": [a_frame(error=FAILURE)],
    "nothing": [a_frame(delta={})],
    "figures under way": [a_frame(status="queued", cost=0), a_frame(status="processing", cost=0)],
}


@pytest.mark.parametrize("name", STREAMS)
@given(how=manners, cuts=st.lists(st.integers(0, 100_000), max_size=10), results=st.integers(1, 2))
def test_every_manner_and_every_split_is_judged_the_same(
    name: str, how: dict[str, Any], cuts: list[int], results: int
) -> None:
    plain = ended(*(sent(payload) for payload in STREAMS[name]), DONE, results=results)
    found = ended(*split(written(STREAMS[name], how), cuts), results=results)
    assert comparable(found) == comparable(plain)


def test_the_streams_of_these_manners_end_as_they_should() -> None:
    found = {name: ended(*(sent(payload) for payload in payloads), DONE) for name, payloads in STREAMS.items()}
    assert comparable(found["a result"]) == comparable(
        Success(success(end(cost=IMAGE.cost, usage=IMAGE.usage, seed=5), DONE).results)
    )
    with_figures = found["an error with figures"]
    assert isinstance(with_figures, Success)
    assert [one.figures.total for one in with_figures.results] == [1_217_000]
    assert isinstance(found["text, then an error"], Doubt)
    assert isinstance(found["an error alone"], Refused)
    assert isinstance(found["nothing"], Doubt)
    assert isinstance(found["figures under way"], Doubt)


@given(
    st.sampled_from([None, 1, 2, "\t"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.lists(st.integers(0, 100_000), max_size=10),
)
def test_a_whole_document_in_place_of_a_stream_is_a_response(
    indent: Any, line_end: str, bom: bool, cuts: list[int]
) -> None:
    for item, kind in (({"text": "x", "cost": 0.01}, Success), ({"error": FAILURE}, Refused), ({}, Doubt)):
        document = json.dumps({"data": [{"taskUUID": UUID, **item}]}, indent=indent).replace("\n", line_end)
        found = ended(*split(("\ufeff" * bom + document + line_end).encode(), cuts))
        assert isinstance(found, kind)
        assert costs(found) == [CENT] if isinstance(found, Success) else True
    acked = json.dumps({"data": [{"taskUUID": UUID, "status": "processing"}]}, indent=indent).encode()
    assert ended(*split(acked, cuts)) == Ack()


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_no_bytes_raise(junk: bytes, cuts: list[int]) -> None:
    judgement = heard(*split(b"data: " + junk, cuts), *split(junk, cuts))
    assert not isinstance(judgement.endings[UUID], (Success, Refused))
    assert set(judgement.endings) == {UUID}


# --- one result is one result ---

FIGURES: dict[str, Any] = {"cost": 0.01}


@given(
    st.permutations(
        [{"promptTokens": 1138}, {"costBreakdown": IMAGE.usage["costBreakdown"]}, {"completionTokens": 216}]
    )
)
def test_usage_split_over_frames_is_one_usage_in_any_order(parts: list[dict[str, Any]]) -> None:
    found = success(text(), *(frame(delta={}, usage=part) for part in parts), end(), frame(cost=IMAGE.cost), DONE)
    (one,) = found.results
    assert one.figures.total == 1_217_000
    assert (one.figures.prompt_tokens, one.figures.completion_tokens) == (1138, 216)


def test_a_figure_that_grows_is_told_by_its_largest_and_a_late_one_counts() -> None:
    for order in itertools.permutations([0.01, 0.02, 0.03]):
        first, second, third = order
        assert costs(ended(text(cost=first), end(cost=second), frame(cost=third), DONE)) == [3 * CENT]


def test_zeros_after_the_figures_take_nothing_away() -> None:
    zeros = frame(delta={}, cost=0, usage={"promptTokens": 0, "costBreakdown": {"total": 0}})
    for stream in ([text(), end(cost=0.01), zeros], [text(), zeros, end(cost=0.01)], [zeros, text(), end(cost=0.01)]):
        (one,) = success(*stream, DONE).results
        assert one.figures.cost == CENT


def test_results_are_told_apart_by_index_in_any_order() -> None:
    found = success(
        text(resultIndex=0), text(resultIndex=1), end(resultIndex=1, cost=0.02), text(resultIndex=0),
        end(resultIndex=0, cost=0.01), DONE, results=2,
    )  # fmt: skip
    assert sorted((one.names, one.figures.cost) for one in found.results) == [("i:0", CENT), ("i:1", 2 * CENT)]


def test_a_result_that_began_without_its_index_is_the_one_that_tells_it() -> None:
    found = success(text(), text(resultIndex=0), end(resultIndex=0, cost=0.01), DONE, results=2)
    assert [(one.result_index, one.figures.cost) for one in found.results] == [(0, CENT)]
    assert not found.partial


@given(st.permutations([0, 0, 0, 1, 1, 1, 2, 2, 2]))
def test_frames_of_several_indices_may_take_turns_in_any_way(order: list[int]) -> None:
    left: dict[int, list[dict[str, Any]]] = {
        index: [{"delta": {"text": "x"}}, {"finishReason": "stop"}, {"cost": 0.01 * (index + 1)}] for index in range(3)
    }
    frames = [frame(resultIndex=index, **left[index].pop(0)) for index in order]
    found = success(*frames, DONE, results=3)
    assert {one.result_index: one.figures.cost for one in found.results} == {0: CENT, 1: 2 * CENT, 2: 3 * CENT}
    assert not found.partial


def test_without_an_index_text_after_the_end_begins_the_next_result() -> None:
    found = ended(text(), end(), frame(cost=0.01), text(), end(cost=0.02), DONE, results=2)
    assert costs(found) == [CENT, 2 * CENT]


def test_no_more_results_are_heard_than_were_asked_for() -> None:
    assert costs(ended(text(), end(cost=0.01), text(), end(cost=0.02), DONE)) == [2 * CENT]


@pytest.mark.parametrize(
    "indices", [[0, 1, 2, 3], [7, None, 8, None], [None, 0, 0, 0], [3, 3, 3, 3], [0, None, None, 1]]
)
def test_the_one_result_of_a_task_is_one_whatever_index_it_is_told_with(indices: list[int | None]) -> None:
    fields: list[dict[str, Any]] = [
        {"delta": {"text": "a"}},
        {"delta": {"text": "b"}},
        {"finishReason": "stop", "cost": 0.01},
        {"cost": 0.01},
    ]
    frames = [
        frame(**(field if index is None else {**field, "resultIndex": index}))
        for field, index in zip(fields, indices, strict=True)
    ]
    (one,) = success(*frames, DONE).results
    assert (one.figures.cost, one.result_index) == (CENT, None)


@pytest.mark.parametrize("results", [2, 3, 4])
@pytest.mark.parametrize("late", [False, True])
def test_more_indices_than_results_are_none(results: int, late: bool) -> None:
    fields: list[dict[str, Any]] = []
    for n in range(results):
        figures = {"cost": 0.01 * (n + 1)}
        fields += [{"delta": {"text": "a"}}, {"delta": {"text": "b"}}]
        fields += [{"finishReason": "stop"}, figures] if late else [{"finishReason": "stop", **figures}]
    found = success(*(frame(resultIndex=at, **field) for at, field in enumerate(fields)), DONE, results=results)
    assert [one.figures.cost for one in found.results] == [CENT * (n + 1) for n in range(results)]
    assert {one.result_index for one in found.results} == {None}
    assert not found.partial


@pytest.mark.parametrize("index", [{}, {"resultIndex": 0}])
@pytest.mark.parametrize("again", [{}, {"usage": {"promptTokens": 3}}])
def test_last_figures_once_more_on_a_frame_without_the_index_are_no_further_result(
    index: dict[str, Any], again: dict[str, Any]
) -> None:
    figures: dict[str, Any] = {"cost": 0.01, "usage": {"promptTokens": 3}}
    told = {"cost": 0.01, **again}
    # An end by itself may be that of a result without a text, unless an index told them apart.
    repeats = [frame(delta={}, **told), frame(**told), frame(**told) * 3, *[end(**told)] * len(index)]
    for repeat in repeats:
        found = success(text(**index), end(**index, **figures), repeat, DONE, results=2)
        assert [one.figures.cost for one in found.results] == [CENT]


def test_last_figures_of_several_once_more_are_no_further_result() -> None:
    for index in range(2):
        both = [text(resultIndex=n) + end(resultIndex=n, cost=0.01 * (n + 1)) for n in range(2)]
        found = success(*both, frame(delta={}, cost=0.01 * (index + 1)), DONE, results=3)
        assert sorted(one.figures.cost or 0 for one in found.results) == [CENT, 2 * CENT]


@pytest.mark.parametrize(
    "index", [lambda at, seed: at, lambda at, seed: 0, lambda at, seed: seed, lambda at, seed: None]
)
@given(order=st.permutations([1, 1, 2, 2, 3, 3]))
def test_seeds_that_differ_are_different_results_whatever_the_index(index: Any, order: list[int]) -> None:
    left: dict[int, list[dict[str, Any]]] = {
        seed: [{"delta": {"text": "x"}}, {"finishReason": "stop", "cost": 0.01 * seed}] for seed in (1, 2, 3)
    }
    frames = [frame(seed=seed, resultIndex=index(at, seed), **left[seed].pop(0)) for at, seed in enumerate(order)]
    found = success(*frames, DONE, results=3)
    assert {one.seed: one.figures.cost for one in found.results} == {1: CENT, 2: 2 * CENT, 3: 3 * CENT}
    assert not found.partial


def test_equal_figures_of_different_seeds_are_different_results() -> None:
    assert costs(ended(end(seed=1, cost=0.01), end(seed=2, cost=0.01), DONE, results=2)) == [CENT, CENT]


# --- what else a frame may hold ---


@pytest.mark.parametrize(
    "payload",
    [
        {"data": a_frame(error=FAILURE, cost=0.01)},
        {"data": [a_frame(error=FAILURE, cost=0.01)]},
        {"data": [a_frame(cost=0.01)], "errors": [FAILURE]},
        {"data": [], "errors": [FAILURE], "taskUUID": UUID, "cost": 0.01},
        a_frame(error=FAILURE, cost=0.01),
        a_frame(errors=[FAILURE], costBreakdown={"total": 0.01}),
        a_frame(status="error", code="c", usage={"cost": 0.01}),
        {"errors": [FAILURE], "usage": {"cost": 0.01}},
        [a_frame(error=FAILURE), a_frame(cost=0.01)],
    ],
)
@pytest.mark.parametrize("before", [b"", text()])
def test_an_error_and_figures_in_one_frame_both_count(payload: Any, before: bytes) -> None:
    found = ended(before, sent(payload), DONE)
    assert isinstance(found, Success)
    (one,) = found.results
    assert CENT in (one.figures.cost, one.figures.total)


def test_several_items_in_one_frame_all_count() -> None:
    pair = {"data": [a_frame(text="a", cost=0.01, resultIndex=0), a_frame(text="b", cost=0.02, resultIndex=1)]}
    assert costs(ended(sent(pair), DONE, results=2)) == [CENT, 2 * CENT]
    both = heard(sent({"data": [a_frame(cost=0.01), a_frame(OTHER, cost=0.02)]}), DONE, more={OTHER: 1}).endings
    assert (costs(both[UUID]), costs(both[OTHER])) == ([CENT], [2 * CENT])


@pytest.mark.parametrize("worked", [{"text": "grey"}, {"delta": {"text": "grey"}}, {"delta": "grey"}])
def test_text_beside_an_error_without_figures_is_in_doubt(worked: dict[str, Any]) -> None:
    for stream in (
        [frame(error=FAILURE, **worked)],
        [frame(**worked), frame(error=FAILURE)],
        [frame(error=FAILURE), frame(**worked)],
        [sent({"data": a_frame(**worked), "errors": [FAILURE]})],
    ):
        assert isinstance(ended(*stream, DONE), Doubt)


def test_an_error_alone_refuses_unless_it_is_doubtful() -> None:
    assert ended(frame(error=FAILURE), DONE) == Refused("error contentBlocked")
    assert isinstance(ended(frame(error={**FAILURE, "code": "timeoutProvider"}), DONE), Doubt)


@pytest.mark.parametrize("nothing", [" ", {}, [], None, [{}]])
def test_an_error_that_says_nothing_is_none(nothing: Any) -> None:
    found = success(text(error=nothing), end(cost=0.01, errors=nothing), sent({"error": nothing}), DONE)
    assert (costs(found), found.partial) == ([CENT], False)
    assert isinstance(ended(frame(error=nothing), DONE), Doubt)


@pytest.mark.parametrize("status", ["queued", "pending", "processing", "simmering", 9])
def test_figures_of_what_is_under_way_are_no_result(status: Any) -> None:
    assert isinstance(ended(frame(status=status, cost=0.01), DONE), Doubt)
    assert isinstance(ended(text(status=status), end(status=status, cost=0.01), DONE), Doubt)
    found = success(frame(status=status, cost=0), text(status=status), end(status="success", cost=0.01), DONE)
    assert (costs(found), found.partial) == ([CENT], False)


def test_figures_of_nobody_among_several_tasks_release_none() -> None:
    errors = [frame(uuid, error={**FAILURE, "taskUUID": uuid}) for uuid in (UUID, OTHER)]
    assert {type(one) for one in heard(*errors, DONE, more={OTHER: 1}).endings.values()} == {Refused}
    found = heard(*errors, sent({"cost": 0.01}), DONE, more={OTHER: 1}).endings
    assert {type(one) for one in found.values()} == {Doubt}


def test_an_empty_task_uuid_means_the_one_task_there_is() -> None:
    assert costs(ended(text(uuid=""), end(uuid="", cost=0.01), DONE)) == [CENT]
    among_two = heard(end(uuid="", cost=0.01), DONE, more={OTHER: 1}).endings
    assert {type(one) for one in among_two.values()} == {Doubt}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_uuid_is_one_task_in_any_case(spelling: str) -> None:
    assert costs(ended(text(uuid=spelling), end(uuid=spelling.lower(), cost=0.01), DONE)) == [CENT]
    reader = Reader(tasks(text_task(spelling, deliveryMethod="stream")))
    reader.feed(end(uuid=UUID, cost=0.01) + DONE)
    assert costs(reader.judge(None).endings[UUID]) == [CENT]


def test_an_error_frame_is_an_error_of_its_task_or_of_all() -> None:
    named = sent({"errors": [{"code": "x", "taskUUID": OTHER}]})
    found = heard(named, sent({"error": {"code": "y"}}), DONE, more={OTHER: 1}).endings
    assert found[UUID] == Doubt("error in the stream y", {"frames": 0, "text_length": 0})
    assert found[OTHER] == Doubt("error in the stream x", {"frames": 0, "text_length": 0})
    alone = heard(named, DONE, more={OTHER: 1}).endings
    assert alone == {UUID: Doubt("the stream said nothing of the task", {"frames": 0, "text_length": 0}),
                     OTHER: Refused("error x")}  # fmt: skip


# --- the end, and streams without one ---

WHOLE = {"costBreakdown": {"total": 0.01}}


@pytest.mark.parametrize(
    "done",
    [b"data: [DONE]\n\n", b"data:[DONE]\r\n\r\n", b"data: [DONE]", b'data: "[DONE]"\n', b"[DONE]\n", b"data: [DONE]\r"],
)
@pytest.mark.parametrize("cut", [None, "closed early", "ReadError", "dropped without being closed"])
def test_done_is_the_end_whatever_came_after_or_how_the_reader_left(done: bytes, cut: str | None) -> None:
    plain = success(text(), end(cost=0.01), DONE)
    for after in (b"", b"\n\n", b"\n\n: alive\n\n", b"\n\n" + frame(delta={}), b"\n\n" + b'data: {"type":"ping"}\n\n'):
        found = ended(text(), end(cost=0.01), done, after, cut=cut)
        assert comparable(found) == comparable(plain)
    assert not plain.partial


def test_figures_after_done_still_count() -> None:
    assert costs(ended(text(), end(), DONE, frame(cost=0.01), cut="closed early")) == [CENT]


@pytest.mark.parametrize("cut", [None, "closed early"])
def test_a_stream_without_its_end_is_in_doubt_unless_all_was_told(cut: str | None) -> None:
    said = cut or "the stream ended without [DONE]"
    found = ended(text(), end(cost=0.01), cut=cut)
    assert isinstance(found, Doubt)
    assert found.reason == said
    assert found.evidence == {"frames": 2, "text_length": 10, "figures": ['{"cost":0.01,"usage":null}']}
    whole = success(text(), end(usage=WHOLE), cut=cut)
    assert (whole.partial, [one.figures.total for one in whole.results]) == (False, [CENT])
    short = success(text(), end(usage=WHOLE), cut=cut, results=2)
    assert (short.partial, short.reason) == (True, said)
    unusable = ended(text(), end(usage={"costBreakdown": {"total": -1}}), cut=cut)
    assert isinstance(unusable, Doubt)
    begun = ended(text(), end(usage=WHOLE), text(), cut=cut, results=2)
    assert isinstance(begun, Doubt)
    nothing = ended(cut=cut)
    assert nothing == Doubt(said, {"frames": 0, "text_length": 0})


def test_a_result_that_began_and_did_not_end_keeps_the_rest_of_the_hold() -> None:
    found = success(text(), end(cost=0.01), text(), DONE, results=2)
    assert (costs(found), found.partial, found.reason) == ([CENT], True, "1 of 2 results came whole")


def test_fewer_results_than_asked_are_all_there_are_once_the_stream_ended() -> None:
    found = success(text(), end(cost=0.01), DONE, results=3)
    assert (costs(found), found.partial) == ([CENT], False)
    doubtful = frame(error={"code": "timeoutProvider"})
    assert success(text(), end(cost=0.01), doubtful, DONE, results=3).partial


# --- what is kept ---


def kept_texts(root: object) -> list[object]:
    """Every text and all bytes that an object holds, however deep."""
    seen: dict[int, object] = {}
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if id(node) not in seen and not isinstance(node, (type, ModuleType, FunctionType)):
            seen[id(node)] = node
            waiting += gc.get_referents(node)
    return [node for node in seen.values() if isinstance(node, (str, bytes))]


def test_frames_and_text_are_counted_by_task_and_not_kept() -> None:
    reader = a_reader(more={OTHER: 1})
    thought = frame(delta={"reasoningContent": "hm"})
    for chunk in (text("grey"), thought, text("no", uuid=OTHER), frame(text="grey too", error={"message": "grey"})):
        reader.feed(chunk)
    kept = [node for node in kept_texts(reader) if "grey" in str(node)]
    judgement = reader.judge(None)
    ending = judgement.endings[OTHER]
    assert isinstance(ending, Doubt)
    assert ending.evidence == {"frames": 1, "text_length": 2}
    assert {node for node in kept_texts(judgement) if "grey" in str(node)} == set()
    assert [node for node in kept if node != "grey"] == [], "an error's message alone is kept, while it is heard"


def test_evidence_of_a_stream_that_was_cut_is_short_and_without_text() -> None:
    many = {f"f{n}": {"count": 1, "cost": 0.5, "said": "grey water"} for n in range(500)}
    found = ended(text(), end(usage={"costBreakdown": {"features": many}}), cut="ReadError")
    assert isinstance(found, Doubt)
    figures = found.evidence["figures"]
    assert isinstance(figures, list)
    assert [len(told) for told in figures] == [EVIDENCE_CHARS_MAX]
    assert "grey" not in encoded(dict(found.evidence)).decode()


def test_figures_of_a_stream_are_read_exactly() -> None:
    (one,) = success(end(cost=Decimal("0.000000001"), usage=IMAGE.usage), DONE).results
    assert isinstance(one.figures, Figures)
    assert (one.figures.cost, one.figures.total) == (1, 1_217_000)


# --- whatever comes ---

fields = st.fixed_dictionaries(
    {"taskUUID": st.sampled_from([UUID, UUID.upper(), ""])},
    optional={
        "delta": st.sampled_from([{}, {"text": "grey"}, {"reasoningContent": "wet"}, "grey"]),
        "text": st.sampled_from(["", "grey"]),
        "cost": st.sampled_from([0, 0.01, 0.02, "0.01", None, -1, "x"]),
        "usage": st.sampled_from([None, {}, {"promptTokens": 3}, {"cost": 0.01}, {"costBreakdown": {"total": 0.02}}]),
        "error": st.sampled_from([FAILURE, " ", None, [], {}]),
        "errors": st.sampled_from([[FAILURE], [], None]),
        "finishReason": st.sampled_from(["stop", None]),
        "resultIndex": st.integers(0, 5),
        "seed": st.integers(0, 2),
        "status": st.sampled_from(["success", "error", "processing", "queued", "simmering", None, ""]),
    },
)
payloads = st.lists(fields, min_size=1, max_size=4)
envelopes = st.sampled_from(
    [
        lambda items: items[0] if len(items) == 1 else items,
        lambda items: {"data": items},
        lambda items: {"data": items[0]} if len(items) == 1 else {"data": items, "errors": []},
        lambda items: {"data": items, "errors": [FAILURE]},
    ]
)


def billed(item: dict[str, Any]) -> int:
    """The least that an item says was billed; 0 if it says nothing, or is under way."""
    if item.get("status") not in ("success", "error", None, ""):
        return 0
    found = Told(item.get("cost"), item.get("usage")).read()
    return max(found.cost or 0, found.total or 0)


def charged(one: Result) -> int:
    return max(one.figures.cost or 0, one.figures.total or 0)


@given(st.lists(st.tuples(payloads, envelopes), max_size=6), st.integers(1, 3), st.sampled_from([None, "ReadError"]))
def test_no_stream_releases_or_undercuts_what_was_billed(
    frames: list[tuple[list[dict[str, Any]], Any]], results: int, cut: str | None
) -> None:
    items = [item for told, _ in frames for item in told]
    chunks = [sent(envelope(told)) for told, envelope in frames]
    whole = ended(*chunks, DONE, results=results, cut=cut)
    found = ended(*chunks, results=results, cut=cut)
    most = max((billed(item) for item in items), default=0)
    if most or any(item.get("text") or item.get("delta") for item in items):
        assert not isinstance(whole, Refused)
        assert not isinstance(found, Refused)
    if most:
        assert isinstance(whole, Success)
        assert sum(charged(one) for one in whole.results) >= most
    by_seed: dict[int, int] = {}
    for item in items:
        if "seed" in item and billed(item):
            by_seed[item["seed"]] = max(billed(item), by_seed.get(item["seed"], 0))
    if isinstance(whole, Success) and len(by_seed) <= results:
        assert sum(charged(one) for one in whole.results) >= sum(by_seed.values())


@given(payloads, envelopes, st.sampled_from([200, 202, 302, 400, 402, 407, 429, 408, 409, 500, 503]), st.integers(1, 3))
def test_no_response_releases_or_undercuts_what_was_billed(
    items: list[dict[str, Any]], envelope: Any, status: int, results: int
) -> None:
    asked = tasks(text_task(numberResults=results))
    found = NATIVE.judge(asked, status, exactly(envelope(items)).encode()).endings[UUID]
    least = sum(billed(item) for item in items if item["taskUUID"])
    if least or any(item.get("text") or item.get("delta") for item in items):
        assert not isinstance(found, Refused)
    if least:
        assert isinstance(found, Success)
        assert sum(charged(one) for one in found.results) >= least
    if status in (408, 409, 500, 503):
        assert not isinstance(found, Refused)
