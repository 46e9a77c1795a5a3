"""Wires in OpenAI's and Anthropic's form: what is read of a request, and what answers and streams tell."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costguard.errors import InvalidRequest
from costguard.tasks import Task
from costguard.wire import DIALECTS, NATIVE, dialect_of
from costguard.wire.dialect import Ack, Dialect, Doubt, Ending, Figures, Refused, Success, Target
from costguard.wire.openai_style.sieve import UsageSieve

CHAT, RESPONSES, MESSAGES = (one for one in DIALECTS if one is not NATIVE)
WIRES = (CHAT, RESPONSES, MESSAGES)
PATHS = dict(zip(("/v1/chat/completions", "/v1/responses", "/v1/messages"), WIRES, strict=True))
LEAST: dict[str, dict[str, Any]] = {
    CHAT.name: {"model": "m", "messages": []},
    RESPONSES.name: {"model": "m", "input": ""},
    MESSAGES.name: {"model": "m", "messages": []},
}


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def task(wire: Dialect, **more: Any) -> Task:
    return wire.task({**LEAST[wire.name], **more})


def judged(wire: Dialect, status: int, value: Any, **more: Any) -> Ending:
    asked = task(wire, **more)
    body = value if isinstance(value, bytes) else encoded(value)
    return wire.judge([asked], status, body).endings[asked.uuid]


def sse(*values: Any, done: bool = True) -> bytes:
    return b"".join(b"data: " + encoded(value) + b"\n\n" for value in values) + (b"data: [DONE]\n\n" if done else b"")


def heard(wire: Dialect, said: bytes, cut: str | None = None, size: int | None = None, **more: Any) -> Ending:
    asked = task(wire, stream=True, **more)
    listener = wire.listen([asked])
    for at in range(0, len(said), size or len(said) or 1):
        listener.feed(said[at : at + (size or len(said))])
    return listener.judge(cut).endings[asked.uuid]


def figures(ending: Ending) -> Figures:
    assert isinstance(ending, Success), ending
    (result,) = ending.results
    return result.figures


def counts(ending: Ending) -> tuple[int | None, int | None, int | None, int | None]:
    """Prompt, cached, completion, reasoning tokens."""
    found = figures(ending)
    return found.prompt_tokens, found.cached_tokens, found.completion_tokens, found.reasoning_tokens


# --- whose a POST is ---


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_its_own_on_known_hosts_alone(path: str) -> None:
    for wire in WIRES:
        is_own = PATHS[path] is wire
        assert wire.claims(Target("api.runware.ai", path)) is is_own
        assert wire.claims(Target("llm.example", f"/openai{path}", "/openai/v1")) is is_own
        assert not wire.claims(Target("llm.example", path))
        assert not wire.claims(Target("api.runware.ai", f"{path}/count"))


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
def test_a_task_gets_a_new_name_that_says_which_wire_it_is_of(wire: Dialect) -> None:
    first, second = task(wire), task(wire)
    assert first.uuid != second.uuid
    assert dialect_of(first.uuid) is dialect_of(second.uuid) is wire
    assert dialect_of("9ce1e395-ed82-4bd2-b224-c1e460e800f4") is NATIVE


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
def test_there_is_no_question_for_a_lost_call(wire: Dialect) -> None:
    assert wire.question(["x"], None) is None
    assert not wire.answers(["x"], 200, b"{}").told
    assert wire.observe({"id": "x", "usage": {"prompt_tokens": 1}}) is None


# --- what is asked ---


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
@pytest.mark.parametrize(
    "bad",
    [{"model": 7}, {"model": "x" * 300}, {"model": ""}, {"stream": "yes"}, {"stream": 1}, {"n": 0}, {"n": 1000},
     {"n": True}],
)  # fmt: skip
def test_what_decides_the_cost_and_cannot_be_read_is_refused(wire: Dialect, bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        wire.read(encoded({**LEAST[wire.name], **bad}))


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
@pytest.mark.parametrize("bad", [0, -1, 1.5, "5", True, 10**9])
def test_an_allowance_that_cannot_be_read_is_refused(wire: Dialect, bad: Any) -> None:
    for key in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        body = encoded({**LEAST[wire.name], key: bad})
        if key in {CHAT: ("max_tokens", "max_completion_tokens"), MESSAGES: ("max_tokens",)}.get(
            wire, ("max_output_tokens",)
        ):
            with pytest.raises(InvalidRequest, match=key):
                wire.read(body)


def test_of_two_allowances_the_larger_is_held() -> None:
    assert task(CHAT, max_tokens=5, max_completion_tokens=9).max_tokens == 9
    assert task(CHAT, max_tokens=9, max_completion_tokens=5).max_tokens == 9
    assert task(CHAT, max_tokens=9, max_completion_tokens=None).max_tokens == 9
    assert task(RESPONSES, max_output_tokens=7).max_tokens == 7
    assert task(MESSAGES).max_tokens is None


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
def test_the_callers_own_mapping_is_not_changed(wire: Dialect) -> None:
    told = {**LEAST[wire.name], "stream": True}
    before = json.dumps(told)
    wire.task(told)
    assert json.dumps(told) == before


def media(wire: Dialect, **more: Any) -> Any:
    return task(wire, **more).prompt.media


DATA = "data:image/png;base64,AAAA"
VIDEO = "data:video/mp4;base64,AAAA"


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ({"type": "image_url", "image_url": {"url": DATA, "detail": "low"}}, {"images": [DATA]}),
        ({"type": "image_url", "image_url": "https://x.example/a.png"}, {"images": ["https://x.example/a.png"]}),
        ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, {"audios": ["AAAA"]}),
        ({"type": "video_url", "video_url": {"url": VIDEO}}, {"videos": [VIDEO]}),
        ({"type": "file", "file": {"file_data": "data:application/pdf;base64,AA"}},
         {"documents": ["data:application/pdf;base64,AA"]}),
        ({"type": "file", "file": {"file_id": "file-1"}}, {"documents": ["file-1"]}),
        ({"type": "file", "file": {}}, {"content": [True]}),
        ({"type": "hologram", "data": "x"}, {"content": [True]}),
        ({"type": 7}, {"content": [True]}),
    ],
)  # fmt: skip
def test_media_of_a_chat_count_by_their_kind_and_the_unknown_as_the_whole_context(part: Any, found: Any) -> None:
    assert media(CHAT, messages=[{"role": "user", "content": [{"type": "text", "text": "x"}, part]}]) == found


@pytest.mark.parametrize(
    ("wire", "field", "part", "found"),
    [
        (RESPONSES, "input", {"type": "input_image", "image_url": DATA}, {"images": [DATA]}),
        (RESPONSES, "input", {"type": "input_image", "file_id": "f"}, {"images": ["f"]}),
        (RESPONSES, "input", {"type": "input_file", "file_url": "https://x.example"},
         {"documents": ["https://x.example"]}),
        (RESPONSES, "input", {"role": "user", "content": [{"type": "input_image", "image_url": DATA}]},
         {"images": [DATA]}),
        (RESPONSES, "input", {"type": "function_call_output", "output": [{"type": "input_image", "image_url": DATA}]},
         {"images": [DATA]}),
        (RESPONSES, "input", {"type": "item_reference", "id": "x"}, {"content": [True]}),
        (MESSAGES, "messages", {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA"}},
         {"images": ["AA"]}),
        (MESSAGES, "messages", {"type": "document", "source": {"type": "url", "url": "https://x.example"}},
         {"documents": ["https://x.example"]}),
        (MESSAGES, "messages", {"type": "tool_result", "content": [{"type": "image", "source": {"type": "file",
         "file_id": "f"}}]}, {"images": ["f"]}),
        (MESSAGES, "messages", {"type": "document", "source": {"type": "text", "data": "written out"}}, None),
    ],
)  # fmt: skip
def test_media_of_the_other_wires(wire: Dialect, field: str, part: Any, found: Any) -> None:
    value = [{"role": "user", "content": [part]}] if field == "messages" else [part]
    assert media(wire, **{field: value}) == found


@pytest.mark.parametrize("stored", ["previous_response_id", "conversation"])
def test_what_is_stored_there_counts_as_the_whole_context(stored: str) -> None:
    assert media(RESPONSES, **{stored: "x"}) == {stored: [True]}
    assert RESPONSES.task({"model": "m", "prompt": {"id": "p"}}).prompt.media == {"prompt": [True]}


WORD = "fathomless"


@pytest.mark.parametrize(
    ("wire", "more"),
    [
        *[(wire, {"messages": [{"role": "user", "content": content}]})
          for wire in (CHAT, MESSAGES)
          for content in (WORD, [{"type": "text", "text": WORD}], [WORD])],
        (CHAT, {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": WORD}}]}]}),
        (CHAT, {"messages": [{"role": "user", "name": WORD, "content": ""}]}),
        (CHAT, {"messages": [{"role": "assistant", "content": [{"type": "refusal", "refusal": WORD}]}]}),
        (CHAT, {"messages": WORD}),
        (CHAT, {"response_format": {"type": "json_schema", "json_schema": {"name": WORD}}}),
        (CHAT, {"something_new": [WORD]}),
        (RESPONSES, {"input": WORD}),
        (RESPONSES, {"instructions": WORD}),
        (RESPONSES, {"text": {"format": {"name": WORD}}}),
        (RESPONSES, {"input": [{"role": "user", "content": WORD}]}),
        (RESPONSES, {"input": [{"type": "message", "content": [{"type": "input_text", "text": WORD}]}]}),
        (RESPONSES, {"input": [{"type": "function_call", "arguments": WORD}]}),
        (RESPONSES, {"input": [{"type": "function_call_output", "output": WORD}]}),
        (MESSAGES, {"system": WORD}),
        (MESSAGES, {"system": [{"type": "text", "text": WORD}]}),
        (MESSAGES, {"messages": [{"role": "user", "content": [{"type": "tool_use", "input": {"x": WORD}}]}]}),
        (MESSAGES, {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": WORD}]}]}),
        (MESSAGES, {"messages": [{"role": "user", "content": [{"type": "document", "title": WORD, "source":
         {"type": "content", "content": [{"type": "text", "text": WORD}]}}]}]}),
        *[(wire, {"tools": [{"type": "function", "function": {"name": WORD}}]}) for wire in (CHAT, RESPONSES)],
        (MESSAGES, {"tools": [{"name": WORD, "input_schema": {}}]}),
    ],
)  # fmt: skip
def test_every_text_that_the_model_reads_is_counted(wire: Dialect, more: dict[str, Any]) -> None:
    assert WORD in "\n".join(task(wire, **more).prompt.texts)
    assert task(wire, **more).prompt.media is None


@given(st.sampled_from(WIRES), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["text", "image", "message"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["type", "content", "text", "role", "source", "image", "data", "url", "output"]), inner,
        max_size=4),
    max_leaves=12,
))  # fmt: skip
def test_any_content_is_read_or_refused(wire: Dialect, content: Any) -> None:
    field = "input" if wire is RESPONSES else "messages"
    try:
        request = wire.read(encoded({"model": "m", field: content}))
    except InvalidRequest:
        assert content is None
    else:
        assert not request.changed


@pytest.mark.parametrize(
    ("wire", "more", "features"),
    [
        (CHAT, {"tools": [{"type": "function"}, {"type": "custom"}]}, ()),
        (CHAT, {"web_search_options": {}}, ("search",)),
        (CHAT, {"modalities": ["text", "audio"]}, ("audio output",)),
        (CHAT, {"service_tier": "priority"}, ("service_tier priority",)),
        (CHAT, {"service_tier": "flex"}, ()),
        (
            RESPONSES,
            {"tools": [{"type": "web_search"}, {"type": "web_search"}, {"type": "mcp"}]},
            ("web_search", "mcp"),
        ),
        (MESSAGES, {"tools": [{"name": "x"}, {"type": "custom"}, {"type": "bash_20250124"}]}, ()),
        (MESSAGES, {"tools": [{"type": "web_search_20250305"}]}, ("web_search",)),
        (MESSAGES, {"mcp_servers": [{}]}, ("mcp_servers",)),
    ],
)
def test_what_may_cost_a_fee_is_named(wire: Dialect, more: dict[str, Any], features: tuple[str, ...]) -> None:
    assert task(wire, **more).prompt.features == features


def test_a_body_gets_the_option_at_its_end_and_is_else_as_it_was() -> None:
    body = b'{"model": "m", "messages": [1.50], "stream" : true}\n'
    request = CHAT.read(body)
    assert request.changed
    assert request.body() == body.replace(b"true}", b'true,"stream_options":{"include_usage":true}}')
    request.lower(request.tasks[0], 7)
    assert json.loads(request.body())["max_completion_tokens"] == 7
    assert json.loads(request.body())["stream_options"] == {"include_usage": True}


# --- whole answers ---

USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 30,
    "total_tokens": 50,
    "prompt_tokens_details": {"cached_tokens": 12},
    "completion_tokens_details": {"reasoning_tokens": 25},
}
OUTPUT_USAGE = {
    "input_tokens": 20,
    "input_tokens_details": {"cached_tokens": 12},
    "output_tokens": 30,
    "output_tokens_details": {"reasoning_tokens": 25},
    "total_tokens": 50,
}
BESIDE = {
    "input_tokens": 5,
    "cache_read_input_tokens": 12,
    "cache_creation_input_tokens": 3,
    "output_tokens": 30,
}
ANSWER: dict[str, dict[str, Any]] = {
    CHAT.name: {"id": "c", "choices": [{"index": 0, "message": {"content": "x"}}]},
    RESPONSES.name: {"id": "r", "object": "response", "status": "completed", "output": []},
    MESSAGES.name: {"id": "m", "type": "message", "content": []},
}


def test_cached_tokens_are_within_the_prompt_or_beside_it_as_each_wire_has_them() -> None:
    assert counts(judged(CHAT, 200, {**ANSWER[CHAT.name], "usage": USAGE})) == (20, 12, 30, 25)
    assert counts(judged(RESPONSES, 200, {**ANSWER[RESPONSES.name], "usage": OUTPUT_USAGE})) == (20, 12, 30, 25)
    found = judged(MESSAGES, 200, {**ANSWER[MESSAGES.name], "usage": BESIDE})
    assert counts(found) == (20, 12, 30, None)
    assert figures(found).written_percent == 3 * 25


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
def test_the_cost_is_exact_wherever_it_is_told(wire: Dialect) -> None:
    body = b'{"usage":{"prompt_tokens":1,"input_tokens":1,"completion_tokens":1,"output_tokens":1,"cost":0.000123457}}'
    assert figures(judged(wire, 200, body)).cost == 123_457
    beside = b'{"cost":0.000123457,"usage":{"prompt_tokens":1,"input_tokens":1}}'
    assert figures(judged(wire, 200, beside)).cost == 123_457


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
@pytest.mark.parametrize("status", [400, 429, 500])
def test_a_figure_beside_an_error_was_billed(wire: Dialect, status: int) -> None:
    assert figures(judged(wire, status, {"error": {"message": "x"}, "usage": USAGE})).prompt_tokens == 20


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
@pytest.mark.parametrize(
    ("status", "body", "ending"),
    [
        (400, {"errors": [{"code": "bad", "message": "x"}]}, Refused("http 400 bad")),
        (401, {"error": {"code": None, "type": "authentication_error", "message": "x"}},
         Refused("http 401 authentication_error")),
        (429, {"type": "error", "error": {"type": "rate_limit_error", "message": "x"}},
         Refused("http 429 rate_limit_error")),
        (404, b"", Refused("http 404")),
        (307, b"", Refused("http 307")),
        (400, {"errors": [{"code": "providerNoContent", "message": "x"}]}, Doubt("http 400 providerNoContent")),
        (408, b"", Doubt("http 408")),
        (500, b"<html>", Doubt("http 500")),
        (529, {"type": "error", "error": {"type": "overloaded_error"}}, Doubt("http 529 overloaded_error")),
        (200, {"errors": [{"code": "bad", "message": "x"}]}, Refused("http 200 bad")),
        (200, {"error": {"type": "timeout_error"}}, Doubt("http 200 timeout_error")),
        (200, b"", Doubt("http 200 unreadable response")),
        (200, b"<html>", Doubt("http 200 unreadable response")),
        (200, b'{"usage":', Doubt("http 200 unreadable response")),
        (200, b"[]", Doubt("http 200 unreadable response")),
        (200, {}, Doubt("http 200 without an answer")),
    ],
)  # fmt: skip
def test_a_status_and_its_errors_end_a_call_as_native_ones_do(
    wire: Dialect, status: int, body: Any, ending: Ending
) -> None:
    assert judged(wire, status, body) == ending


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 0}, "x", {"prompt_tokens": "many"}])
def test_an_answer_without_a_figure_is_a_success_for_each_choice(wire: Dialect, usage: Any) -> None:
    found = judged(wire, 200, {**ANSWER[wire.name], "usage": usage}, n=3)
    assert isinstance(found, Success)
    assert len(found.results) == 3
    assert {one.figures.completion_tokens for one in found.results} == {None}


@pytest.mark.parametrize(
    ("status", "ending"),
    [("queued", Ack), ("in_progress", Ack), ("failed", Doubt), ("cancelled", Doubt), ("incomplete", Success)],
)
def test_a_response_ends_as_its_status_says(status: str, ending: type) -> None:
    assert isinstance(judged(RESPONSES, 200, {**ANSWER[RESPONSES.name], "status": status}), ending)
    failed = {**ANSWER[RESPONSES.name], "status": "failed", "error": {"code": "server_error"}, "usage": OUTPUT_USAGE}
    assert figures(judged(RESPONSES, 200, failed)).completion_tokens == 30


# --- streams ---


def chunk(*finished: int, delta: str = "", **more: Any) -> dict[str, Any]:
    if delta:
        return {"id": "c", "choices": [{"index": 0, "delta": {"content": delta}, "finish_reason": None}], **more}
    return {"id": "c", "choices": [{"index": at, "delta": {}, "finish_reason": "stop"} for at in finished], **more}


ALONE = {"id": "c", "choices": [], "usage": USAGE}
STREAMS: dict[str, bytes] = {
    CHAT.name: sse(chunk(delta="grey\n\n é"), chunk(0), ALONE),
    RESPONSES.name: sse(
        {"type": "response.created", "response": {"id": "r", "usage": None}},
        {"type": "response.output_text.delta", "delta": "grey"},
        {"type": "response.completed", "response": {**ANSWER[RESPONSES.name], "usage": OUTPUT_USAGE}},
        done=False,
    ),
    MESSAGES.name: sse(
        {"type": "message_start", "message": {"id": "m", "usage": {**BESIDE, "output_tokens": 1}}},
        {"type": "content_block_delta", "delta": {"text": "grey"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 30}},
        {"type": "message_stop"},
        done=False,
    ),
}


@given(st.sampled_from(WIRES), st.integers(1, 40), st.booleans(), st.booleans())
def test_any_split_of_a_stream_tells_the_same(wire: Dialect, size: int, crlf: bool, is_cut: bool) -> None:
    said = STREAMS[wire.name]
    said = said.replace(b"\n", b"\r\n") if crlf else said
    found = heard(wire, said, "closed early" if is_cut else None, size)
    assert counts(found) == (20, 12, 30, None if wire is MESSAGES else 25)


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
def test_a_stream_that_is_cut_before_its_figures_is_in_doubt_and_one_cut_behind_them_is_not(wire: Dialect) -> None:
    events = STREAMS[wire.name].split(b"\n\n")
    for kept in range(len(events)):
        found = heard(wire, b"\n\n".join(events[:kept]) + b"\n\n", "ReadError")
        is_told = b'"output_tokens": 30' in b"".join(events[:kept]) or b'"choices": []' in b"".join(events[:kept])
        assert isinstance(found, Success if is_told else Doubt), kept
        if not is_told:
            assert found.reason == "ReadError"


def test_the_name_of_a_stream_that_was_cut_is_kept_as_evidence() -> None:
    found = heard(CHAT, sse(chunk(delta="grey"), done=False), "ReadError")
    assert isinstance(found, Doubt)
    assert found.taken
    assert found.evidence == {"frames": 1, "id": "c"}


def test_usage_that_grows_with_every_piece_is_final_only_at_the_end_of_all_choices() -> None:
    growing = [chunk(delta="x", usage={"prompt_tokens": 20, "completion_tokens": n}) for n in (1, 2)]
    assert isinstance(heard(CHAT, sse(*growing, done=False), "ReadError"), Doubt)
    half = [*growing, chunk(1, usage={"prompt_tokens": 20, "completion_tokens": 3})]
    assert isinstance(heard(CHAT, sse(*half, done=False), "ReadError", n=2), Doubt)
    both = [*half, chunk(0, usage={"prompt_tokens": 20, "completion_tokens": 9})]
    assert counts(heard(CHAT, sse(*both, done=False), "ReadError", n=2))[2] == 9


def test_no_figure_falls() -> None:
    late = sse(chunk(0), ALONE, {**ALONE, "usage": {"prompt_tokens": 0, "completion_tokens": 2}})
    assert counts(heard(CHAT, late))[:3] == (20, 12, 30)


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
def test_an_error_in_a_stream_leaves_it_in_doubt_once_anything_came(wire: Dialect) -> None:
    begun = STREAMS[wire.name].split(b"\n\n")[0] + b"\n\n"
    error = sse({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}, done=False)
    found = heard(wire, begun + error)
    assert isinstance(found, Doubt)
    assert found.reason == "error in the stream overloaded_error"
    assert heard(wire, error) == Refused("error overloaded_error")
    assert counts(heard(wire, STREAMS[wire.name] + error))[2] == 30


@pytest.mark.parametrize("usage", [None, OUTPUT_USAGE])
@pytest.mark.parametrize("kind", ["failed", "incomplete", "completed"])
def test_the_last_event_of_responses_tells_the_usage_however_it_ended(kind: str, usage: Any) -> None:
    response = {
        "id": "r",
        "status": kind,
        "usage": usage,
        "error": {"code": "server_error"} if kind == "failed" else None,
    }
    found = heard(RESPONSES, sse({"type": f"response.{kind}", "response": response}, done=False))
    if usage is None and kind == "failed":
        assert isinstance(found, Doubt)
    else:
        assert isinstance(found, Success)
        assert found.results[0].figures.completion_tokens == (30 if usage else None)


@pytest.mark.parametrize("kind", ["failed", "cancelled"])
def test_a_response_that_failed_without_a_word_is_told_from_one_that_was_cut(kind: str) -> None:
    event = {"type": f"response.{kind}", "response": {"id": "r", "status": kind, "usage": None, "error": None}}
    found = heard(RESPONSES, sse(event, done=False))
    assert isinstance(found, Doubt)
    assert found.reason == "error in the stream"


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
@pytest.mark.parametrize("said", [b"", b"data: [DONE]\n\n", b": ping\n\n", b"<html>", b"data: {\n\n", b"{}"])
def test_a_stream_that_says_nothing_is_in_doubt(wire: Dialect, said: bytes) -> None:
    assert isinstance(heard(wire, said), Doubt)


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
def test_a_whole_answer_in_place_of_a_stream_and_a_stream_in_place_of_an_answer_are_read(wire: Dialect) -> None:
    usage = {CHAT.name: USAGE, RESPONSES.name: OUTPUT_USAGE, MESSAGES.name: BESIDE}[wire.name]
    assert counts(heard(wire, encoded({**ANSWER[wire.name], "usage": usage})))[2] == 30
    assert counts(judged(wire, 200, STREAMS[wire.name]))[2] == 30


@given(st.sampled_from(WIRES), st.integers(0, 5), st.binary(max_size=200))
def test_nothing_raises_whatever_comes(wire: Dialect, size: int, said: bytes) -> None:
    heard(wire, said, None, size or None)
    judged(wire, 200, said)


# --- the sieve ---


def sieved(said: bytes, *cuts: int) -> bytes:
    sieve = UsageSieve()
    places = [0, *sorted(min(cut, len(said)) for cut in cuts), len(said)]
    return b"".join(sieve.feed(said[a:b]) for a, b in pairwise(places)) + sieve.end()


PIECES = st.sampled_from(
    [
        "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}],\"usage\":null}",
        "data:{\"choices\":[],\"usage\":null}",
        "data: {\"choices\":[],\"prompt_filter_results\":[]}",
        "data: [DONE]",
        ": keep-alive",
        "event: message",
        "id: 7",
        "",
        "data: {\"choices\":[],",
        "\"usage\":{}}",
        "noise",
    ]
)  # fmt: skip
DROPPED = 'data: {"id":"c","choices":[],"usage":{"prompt_tokens":1}}'


@given(
    st.lists(PIECES, max_size=8),
    st.lists(PIECES, max_size=8),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.lists(st.integers(0, 600), max_size=12),
    st.sampled_from(["", "event: usage\n", "id: 9\n"]),
)
def test_of_any_stream_in_any_split_the_usage_alone_is_kept_back(
    before: list[str], after: list[str], end: str, cuts: list[int], head: str
) -> None:
    # What belongs to the event that is dropped is dropped with it: the line before it must not be of that kind.
    before = [*before, "noise"]
    opening, closing = ("".join(line + end for line in lines).encode() for lines in (before, after))
    dropped = (head.replace("\n", end) + DROPPED + end + end).encode()
    assert sieved(opening + dropped + closing, *cuts) == opening + closing
    assert sieved(opening + closing, *cuts) == opening + closing


@pytest.mark.parametrize("tail", [b"", b"\n", b"\r", b"\r\n", b"\n\n"])
def test_a_stream_may_end_with_it_anyhow(tail: bytes) -> None:
    said = b"data: x\n\n"
    for cut in range(len(said) + len(DROPPED) + 2):
        assert sieved(said + DROPPED.encode() + tail, cut) == said


def test_a_line_passes_as_soon_as_it_is_whole_and_a_huge_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    sieve = UsageSieve()
    assert sieve.feed(b"data: 1\n\ndata: ") == b"data: 1\n\n"
    assert sieve.feed(b"2\n") == b"data: 2\n"
    monkeypatch.setattr("costguard.wire.openai_style.sieve.FRAME_MAX", 10)
    assert sieve.feed(b"data: 345678") == b"data: 345678"
    assert sieve.feed(b"9") == b"9"
    assert sieve.feed(b"0\ndata: ") == b"0\n"
    assert sieve.end() == b"data: "
