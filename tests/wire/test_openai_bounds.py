"""Wires in OpenAI's and Anthropic's form: whatever a request may ask for, its worst case is no less than its bill."""

from __future__ import annotations

import json
from typing import Any

import pytest

from costguard.errors import InvalidRequest
from costguard.estimating.estimate import Estimate, estimate
from costguard.exchange.charging import charge_each
from costguard.ledger.charges import Charge
from costguard.prices.book import PriceBook
from costguard.tasks import Task
from costguard.wire import DIALECTS, NATIVE, UNMETERED
from costguard.wire.dialect import Ack, Dialect, Figures, Success, Target

CHAT, RESPONSES, MESSAGES = (one for one in DIALECTS if one is not NATIVE)
WIRES = (CHAT, RESPONSES, MESSAGES)
LEAST: dict[str, dict[str, Any]] = {
    CHAT.name: {"messages": [{"role": "user", "content": "x"}], "max_tokens": 10},
    RESPONSES.name: {"input": "x", "max_output_tokens": 10},
    MESSAGES.name: {"messages": [{"role": "user", "content": "x"}], "max_tokens": 10},
}
AT_US = 1_790_000_000_000_000

PRICED = """
model = "acme:scribe@1"
aliases = []
name = "Scribe"
tokenizer = "none"
task_type = "textInference"
context_tokens = 200_000
[completion]
default = 1000
max = 8000
[media]
image_expected = 1000
image_upper = 1500
image_grid = false
frame_expected = 64
frame_upper = 70
audio_per_s = 25
document_page = 600
[[prices]]
from = 2025-01-01
checked = 2025-01-01
source = "https://llm.example/prices"
[[prices.tiers]]
above_prompt_tokens = 0
prompt = { TEXT = "10", IMAGE = "4", DOCUMENT = "4", AUDIO = "4", VIDEO = "4" }
completion = "30"
"""
"""A model whose text is dearer than its media: what may be read beside the request is then text at worst."""


@pytest.fixture(scope="module")
def prices(tmp_path_factory: pytest.TempPathFactory) -> PriceBook:
    folder = tmp_path_factory.mktemp("prices")
    (folder / "scribe.toml").write_text(PRICED)
    return PriceBook.load(folder)


def task(wire: Dialect, **more: Any) -> Task:
    return wire.task({"model": "acme:scribe@1", **LEAST[wire.name], **more})


def estimated(prices: PriceBook, wire: Dialect, **more: Any) -> Estimate:
    return estimate(task(wire, **more), prices, AT_US)


def usd(tokens: int, per_million: int) -> int:
    return tokens * per_million * 1000


WHOLE = usd(200_000, 10)


@pytest.mark.parametrize(
    ("wire", "more"),
    [
        (RESPONSES, {"previous_response_id": "resp_1"}),
        (RESPONSES, {"conversation": {"id": "conv_1"}}),
        (RESPONSES, {"prompt": {"id": "pmpt_1"}}),
        (RESPONSES, {"input": [{"type": "item_reference", "id": "msg_1"}]}),
        (RESPONSES, {"input": [{"id": "msg_1"}]}),
        (RESPONSES, {"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}),
        (RESPONSES, {"input": [{"type": "web_search_call", "id": "ws_1"}]}),
        (CHAT, {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]}),
        (CHAT, {"data_sources": [{"type": "azure_search"}]}),
        (CHAT, {"extra_body": {"google": {"cached_content": "cachedContents/1"}}}),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}),
        (MESSAGES, {"messages": [{"role": "user", "content": [{"type": "web_search_tool_result"}]}]}),
    ],
)
def test_what_is_read_and_is_not_in_the_request_is_held_as_a_whole_context_of_the_dearest(
    wire: Dialect, more: dict[str, Any], prices: PriceBook
) -> None:
    upper = estimated(prices, wire, **more).upper_nanos
    assert upper is not None
    assert upper >= WHOLE


@pytest.mark.parametrize(
    "items",
    [
        [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"}],
        [{"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"conversation": "x"}'}],
        [{"role": "user", "content": [{"type": "input_text", "text": "previous_response_id"}]}],
    ],
)
def test_what_is_in_the_request_is_held_as_it_is(items: list[Any], prices: PriceBook) -> None:
    upper = estimated(prices, RESPONSES, input=items).upper_nanos
    assert upper is not None
    assert upper < WHOLE // 10


@pytest.mark.parametrize(
    ("wire", "more"),
    [
        (CHAT, {"tools": [{"googleSearch": {}}]}),
        (CHAT, {"tools": {"type": "web_search"}}),
        (CHAT, {"tools": ["web_search"]}),
        (CHAT, {"tools": [{"type": "functions_of_the_house"}]}),
        (CHAT, {"tools": [{"type": "builtin_function", "function": {"name": "$web_search"}}]}),
        (CHAT, {"web_search_options": {}}),
        (CHAT, {"search_parameters": {"mode": "auto"}}),
        (CHAT, {"enable_search": True}),
        (CHAT, {"plugins": [{"id": "web"}]}),
        (CHAT, {"models": ["acme:scribe@1", "acme:dearer@1"]}),
        (CHAT, {"prediction": {"type": "content", "content": "x"}}),
        (CHAT, {"modalities": "audio"}),
        (CHAT, {"modalities": ["text", "image"]}),
        (CHAT, {"service_tier": "priority"}),
        (RESPONSES, {"service_tier": ["priority"]}),
        (RESPONSES, {"tools": [{"type": "file_search", "vector_store_ids": ["vs"]}]}),
        (RESPONSES, {"tools": [{"type": "mcp", "name": "x"}]}),
        (MESSAGES, {"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]}),
        (MESSAGES, {"speed": "fast"}),
        (MESSAGES, {"inference_geo": "us"}),
        (MESSAGES, {"container": "c"}),
    ],
)
def test_what_may_cost_more_than_the_price_list_says_has_no_worst_case(
    wire: Dialect, more: dict[str, Any], prices: PriceBook
) -> None:
    found = estimated(prices, wire, **more)
    assert found.upper_nanos is None
    assert "no fee is known" in (found.unpriced or "")


@pytest.mark.parametrize(
    ("wire", "more"),
    [
        (CHAT, {"enable_search": False, "plugins": [], "service_tier": "flex", "modalities": ["text"]}),
        (CHAT, {"tools": [{"type": "function", "function": {"name": "f"}}, {"function": {"name": "g"}}]}),
        (RESPONSES, {"tools": [{"type": "function", "name": "f"}, {"type": "custom", "name": "g"}], "prompt": None}),
        (MESSAGES, {"tools": [{"name": "f"}, {"type": "bash_20250124", "name": "bash"}], "speed": "standard"}),
    ],
)
def test_what_costs_nothing_more_is_held_by_its_tokens(wire: Dialect, more: dict[str, Any], prices: PriceBook) -> None:
    upper = estimated(prices, wire, **more).upper_nanos
    assert upper is not None
    assert upper < WHOLE // 10


def test_a_tool_that_runs_there_is_held_with_its_fee_and_all_that_it_may_bring(tmp_path: Any) -> None:
    (tmp_path / "x.toml").write_text(PRICED + '[prices.features.web_search]\nfee = "0.01"\nmax_per_request = 3\n')
    upper = estimated(PriceBook.load(tmp_path), MESSAGES, tools=[{"type": "web_search_20250305"}]).upper_nanos
    assert upper == WHOLE + usd(10, 30) + 3 * 10_000_000


PDF = "data:application/pdf;base64,JVBERi0="


@pytest.mark.parametrize(
    ("part", "kinds"),
    [
        ({"type": "image_url", "image_url": {"url": PDF}}, {"images", "documents"}),
        ({"type": "image_url", "image_url": {"url": "DATA:Video/MP4;base64,AA"}}, {"images", "videos"}),
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}, {"images"}),
        ({"type": "file", "file": {"file_data": "data:text/csv;base64,AA"}}, {"documents", "content"}),
        ({"type": "file", "file": {"file_data": PDF, "file_id": "file-1"}}, {"documents"}),
        ({"type": "input_image", "image_url": "https://x.example/a", "file_id": "file-1"}, {"images"}),
        ({"type": "image", "source": {"type": "base64", "media_type": "application/pdf", "data": "AA"}},
         {"images", "documents"}),
        ({"type": "image_url", "source": {"type": "text", "data": ""}, "image_url": {"url": PDF}},
         {"images", "documents"}),
    ],
)  # fmt: skip
def test_a_medium_counts_as_the_part_calls_it_and_as_it_calls_itself(part: Any, kinds: set[str]) -> None:
    found = task(CHAT, messages=[{"role": "user", "content": [part]}]).prompt.media
    assert isinstance(found, dict)
    assert set(found) == kinds


def test_every_source_of_an_image_that_is_told_counts(prices: PriceBook) -> None:
    part = {"type": "input_image", "image_url": "https://x.example/a", "file_id": "file-1"}
    found = estimated(prices, RESPONSES, input=[{"role": "user", "content": [part]}])
    assert found.prompt["IMAGE"].upper == 3000


def test_a_document_that_is_written_out_counts_as_its_own_field_says() -> None:
    source = {"type": "text", "media_type": "text/plain", "content": "", "data": "the lighthouse"}
    part = {"type": "document", "source": source}
    assert "the lighthouse" in task(MESSAGES, messages=[{"role": "user", "content": [part]}]).prompt.texts


@pytest.mark.parametrize("more", [{"n": 2, "best_of": 5}, {"best_of": 5}, {"n": 5, "best_of": 2}, {"n": 5}])
def test_every_choice_that_is_made_is_held(more: dict[str, int], prices: PriceBook) -> None:
    one, found = estimated(prices, CHAT), estimated(prices, CHAT, **more)
    assert one.upper_nanos is not None
    assert found.upper_nanos == 5 * one.upper_nanos


@pytest.mark.parametrize("bad", [0, "3", 1.5, 1000, True])
def test_choices_that_cannot_be_read_are_refused(bad: Any) -> None:
    with pytest.raises(InvalidRequest, match="best_of"):
        task(CHAT, best_of=bad)


@pytest.mark.parametrize(("asked", "tokens", "sent"), [((5, 9), 7, (5, 7)), ((9, 5), 7, (7, 5)), ((9, 9), 7, (7, 7))])
def test_an_allowance_is_lowered_and_never_raised(asked: tuple[int, int], tokens: int, sent: tuple[int, int]) -> None:
    fields = ("max_tokens", "max_completion_tokens")
    request = CHAT.read(json.dumps({**LEAST[CHAT.name], **dict(zip(fields, asked, strict=True))}).encode())
    request.lower(request.tasks[0], tokens)
    body = json.loads(request.body())
    assert tuple(body[field] for field in fields) == sent


# --- caches ---


WRITES = [
    ({"type": "ephemeral"}, 125, {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 0}),
    ({"type": "ephemeral", "ttl": "5m"}, 125, {}),
    ({"type": "ephemeral", "ttl": "1h"}, 200, {"ephemeral_1h_input_tokens": 1000}),
]


def charged(prices: PriceBook, usage: Any) -> Charge:
    known = prices.find("acme:scribe@1")
    assert known is not None
    asked = task(MESSAGES)
    answer = {"id": "msg_1", "type": "message", "content": [], "usage": usage}
    ending = MESSAGES.judge([asked], 200, json.dumps(answer).encode()).endings[asked.uuid]
    assert isinstance(ending, Success)
    (found,) = charge_each([ending.results[0].figures], price=known.at(AT_US), prompt_expected=None, expected_nanos=7)
    return found


@pytest.mark.parametrize(("control", "percent", "kept"), WRITES)
def test_a_prompt_that_is_written_to_a_cache_is_held_and_charged_at_what_writing_costs(
    control: Any, percent: int, kept: dict[str, int], prices: PriceBook
) -> None:
    text = "a" * 1000
    plain = [{"type": "text", "text": text}]
    marked = [{**plain[0], "cache_control": control}]
    before = estimated(prices, MESSAGES, system=plain)
    found = estimated(prices, MESSAGES, system=marked)
    assert found.upper_nanos == usd(before.prompt["TEXT"].upper, 10) * percent // 100 + usd(10, 30)
    assert found.allowing(5).upper_nanos == found.upper_nanos - usd(5, 30)
    assert found.expected_nanos == before.expected_nanos
    usage = {"input_tokens": 10, "cache_creation_input_tokens": 1000, "cache_read_input_tokens": 0,
             "cache_creation": kept, "output_tokens": 10}  # fmt: skip
    charge = charged(prices, usage)
    assert charge.nanos == usd(10, 10) + usd(1000, 10) * percent // 100 + usd(10, 30)
    assert sum(line.nanos for line in charge.lines) == charge.nanos
    assert charge.nanos <= found.upper_nanos
    assert charge.prompt_tokens == 1010


def test_the_whole_request_may_be_written_to_a_cache(prices: PriceBook) -> None:
    assert task(MESSAGES, cache_control={"type": "ephemeral"}).prompt.percent == 125
    assert task(MESSAGES, tools=[{"name": "f", "cache_control": {"ttl": "1h"}}]).prompt.percent == 200
    assert task(MESSAGES, cache_control=None).prompt.percent == 100


# --- what is told ---


def figures(wire: Dialect, usage: Any, **beside: Any) -> Figures:
    shapes: dict[str, dict[str, Any]] = {
        CHAT.name: {"choices": [{"index": 0, "message": {}}]},
        RESPONSES.name: {"object": "response", "status": "completed", "output": []},
        MESSAGES.name: {"type": "message", "content": []},
    }
    asked = task(wire)
    body = json.dumps({**shapes[wire.name], **beside, "usage": usage}).encode()
    ending = wire.judge([asked], 200, body).endings[asked.uuid]
    assert isinstance(ending, Success)
    return ending.results[0].figures


@pytest.mark.parametrize(
    ("usage", "prompt", "cached"),
    [
        ({"input_tokens": 10, "cache_read_input_tokens": 5.0}, 15, 5),
        ({"input_tokens": 10.0, "cache_read_input_tokens": "5"}, 15, 5),
        ({"input_tokens": 10, "cache_read_input_tokens": None, "cache_creation_input_tokens": 7}, 17, None),
        ({"input_tokens": 10, "cache_read_input_tokens": -5}, None, None),
        ({"input_tokens": 10, "cache_creation_input_tokens": "many"}, None, None),
        ({"prompt_tokens": 20, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 3}, 20, 5),
        ({"input_tokens": 20, "input_tokens_details": {"cached_tokens": 5}, "cache_read_input_tokens": 5}, 20, 5),
    ],
)
def test_tokens_of_a_cache_are_counted_once_and_never_taken_away(usage: Any, prompt: Any, cached: Any) -> None:
    found = figures(MESSAGES, {**usage, "output_tokens": 3})
    assert (found.prompt_tokens, found.cached_tokens) == (prompt, cached)
    assert found.odd is (prompt is None)


def test_uses_that_a_usage_counts_are_charged_by_their_fee_or_not_at_all(tmp_path: Any, prices: PriceBook) -> None:
    usage = {"input_tokens": 10, "output_tokens": 10}
    told = {**usage, "server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 1}}
    assert charged(prices, told).basis == "assumed"
    assert charged(prices, {**usage, "server_tool_use": {"web_search_requests": 0}}).basis == "computed"
    (tmp_path / "x.toml").write_text(PRICED + '[prices.features.web_search]\nfee = "0.01"\nmax_per_request = 3\n')
    found = charged(PriceBook.load(tmp_path), told)
    assert (found.basis, found.nanos) == ("computed", usd(10, 10) + usd(10, 30) + 30_000_000)


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.name)
def test_a_dearer_tier_than_the_price_lists_makes_a_charge_odd(wire: Dialect) -> None:
    usage = {"input_tokens": 10, "output_tokens": 10}
    beside: dict[str, Any] = {} if wire is MESSAGES else {"service_tier": "priority"}
    within = {"service_tier": "priority"} if wire is MESSAGES else {}
    assert figures(wire, {**usage, **within}, **beside).odd
    assert not figures(wire, {**usage, **within, "cost": 0.1}, **beside).odd
    assert not figures(wire, usage, service_tier="default").odd


def test_a_charge_without_the_fees_that_may_be_due_says_so() -> None:
    asked = task(CHAT, web_search_options={})
    answer = {"choices": [{"index": 0}], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    ending = CHAT.judge([asked], 200, json.dumps(answer).encode()).endings[asked.uuid]
    assert isinstance(ending, Success)
    assert ending.results[0].figures.odd
    assert "search" in ending.results[0].figures.notes[-1]


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_a_response_on_its_way_is_not_settled_at_what_it_used_so_far(status: str) -> None:
    asked = task(RESPONSES, background=True)
    answer = {"id": "resp_1", "object": "response", "status": status, "usage": {"input_tokens": 3, "output_tokens": 1}}
    assert RESPONSES.judge([asked], 200, json.dumps(answer).encode()).endings[asked.uuid] == Ack()


def test_the_output_that_a_message_starts_with_is_no_figure_of_its_end() -> None:
    asked = task(MESSAGES, stream=True)
    opening = {"input_tokens": 10, "output_tokens": 1}
    events = [
        {"type": "message_start", "message": {"id": "msg_1", "usage": opening}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}},
        {"type": "message_stop"},
    ]
    listener = MESSAGES.listen([asked])
    for event in events:
        listener.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    ending = listener.judge(None).endings[asked.uuid]
    assert isinstance(ending, Success)
    assert (ending.results[0].figures.prompt_tokens, ending.results[0].figures.completion_tokens) == (10, None)


# --- paths ---


@pytest.mark.parametrize("path", ["/v1/responses/compact", "/v1/messages/batches", "/v1/completions"])
def test_paths_that_ask_a_model_and_are_not_read_are_known(path: str) -> None:
    target = Target("api.runware.ai", path)
    assert not any(wire.claims(target) for wire in WIRES)
    assert any(known.claims(target) for known in UNMETERED)


def test_a_message_of_a_thread_asks_no_model() -> None:
    target = Target("llm.example", "/v1/threads/thread_1/messages", "/v1")
    assert not any(wire.claims(target) for wire in WIRES)
