"""Recorded responses are read by their own wire, wherever in a record they stand."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from recordings import an_item

from costguard.wire.dialect import Ack, Doubt, Record, Refused, Success, Told
from costguard.wire.recorded import is_piece, parse, tell

ITEM = an_item("a", cost="0.5", seed=7)
CHAT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "google-gemini-3-flash",
    "choices": [{"message": {"content": "A harbour."}}, {"message": {"content": "Another."}}],
    "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
}


def told(record: Any) -> list[Told]:
    return tell(parse(json.dumps(record)), lambda: "unnamed")


@pytest.mark.parametrize(
    "record",
    [
        ITEM,
        {"data": [ITEM]},
        {"data": ITEM},
        {"response": {"data": [ITEM]}},
        {"response": json.dumps({"data": [ITEM]})},
        {
            "request": [{"taskUUID": "a", "taskType": "textInference"}],
            "response": {"data": [an_item(cost="0.5", seed=7)]},
        },
        {"status": 200, "body": {"data": [ITEM]}},
        {"response": {"status_code": 200, "body": {"data": [ITEM]}}},
    ],
)
def test_an_item_is_read_wherever_it_stands(record: Any) -> None:
    (one,) = told(record)
    assert (one.task_uuid, one.task_type) == ("a", "textInference")
    assert isinstance(one.ending, Success)
    (result,) = one.ending.results
    assert (result.seed, result.figures.cost) == (7, 500_000_000)


@pytest.mark.parametrize(
    "record",
    [
        {"model": "m", "data": [an_item("a")]},
        {"request": {"model": "m"}, "response": {"data": [an_item("a")]}},
        {"request": [{"taskUUID": "b", "model": "n"}, {"taskUUID": "a", "model": "m"}],
         "response": {"data": [an_item("a")]}},
        {"data": [an_item("a", model="m")], "model": "n"},
        {"data": [{"taskType": "getTaskDetails", "request": {"taskUUID": "a", "model": "m"},
                   "response": {"data": [an_item("a")]}}]},
    ],
)  # fmt: skip
def test_the_model_is_the_one_that_the_record_or_its_request_names_for_the_task(record: Any) -> None:
    (one,) = told(record)
    assert (one.task_uuid, one.model, one.task_type) == ("a", "m", "textInference")


def test_errors_acknowledgements_and_doubts_are_told_apart() -> None:
    record = {
        "data": [an_item("a"), {"taskType": "imageInference", "taskUUID": "b"}],
        "errors": [{"taskUUID": "c", "code": "invalidModel"}, {"taskUUID": "d", "code": "timeoutProvider"}],
    }
    endings = {one.task_uuid: type(one.ending) for one in told(record)}
    assert endings == {"a": Success, "b": Ack, "c": Refused, "d": Doubt}


def test_what_the_provider_has_on_record_is_read_as_it_is() -> None:
    details = {"taskType": "getTaskDetails", "taskUUID": "a", "response": {"data": [an_item("a")]}}
    (one,) = told({"data": [details]})
    assert isinstance(one.ending, Record)
    assert one.ending.results is not None
    assert [result.figures.cost for result in one.ending.results] == [1_220_000]


def test_results_without_a_name_get_the_one_that_is_given_together() -> None:
    (one,) = told({"data": [an_item(), an_item()]})
    assert one.task_uuid == "unnamed"
    assert isinstance(one.ending, Success)
    assert len(one.ending.results) == 2


def test_the_usage_of_a_chat_is_one_result_however_many_choices_there_are() -> None:
    (one,) = told(CHAT)
    assert (one.task_uuid, one.model) == ("chatcmpl-1", "google-gemini-3-flash")
    assert isinstance(one.ending, Success)
    (result,) = one.ending.results
    figures = result.figures
    assert (figures.prompt_tokens, figures.completion_tokens, figures.total_tokens) == (100, 50, 150)
    assert (figures.cost, figures.odd) == (None, False)


@pytest.mark.parametrize(
    ("usage", "prompt", "completion", "cached", "reasoning"),
    [
        ({"prompt_tokens": 9, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4},
          "completion_tokens_details": {"reasoning_tokens": 3}}, 9, 5, 4, 3),
        ({"input_tokens": 9, "output_tokens": 5, "total_tokens": 14, "input_tokens_details": {"cached_tokens": 4},
          "output_tokens_details": {"reasoning_tokens": 3}}, 9, 5, 4, 3),
        ({"input_tokens": 9, "output_tokens": 5, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2},
         15, 5, 4, None),
        ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 17,
          "completion_tokens_details": {"reasoning_tokens": 3}}, 9, 8, None, 3),
    ],
)  # fmt: skip
def test_every_style_of_usage_is_read(
    usage: dict[str, Any], prompt: int, completion: int, cached: int | None, reasoning: int | None
) -> None:
    for record in (
        {**CHAT, "usage": usage},
        {"id": "1", "model": "m", **usage},
        {"response": {**CHAT, "usage": usage}},
    ):
        (one,) = told(record)
        assert isinstance(one.ending, Success)
        figures = one.ending.results[0].figures
        found = (figures.prompt_tokens, figures.completion_tokens, figures.cached_tokens, figures.reasoning_tokens)
        assert found == (prompt, completion, cached, reasoning)


def test_tokens_of_sound_are_not_read_as_text() -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 5, "prompt_tokens_details": {"audio_tokens": 60}}
    (one,) = told({**CHAT, "usage": usage})
    assert isinstance(one.ending, Success)
    assert {line.modality: line.quantity for line in one.ending.results[0].figures.prompt} == {"TEXT": 40, "AUDIO": 60}


def test_a_cost_within_or_beside_the_usage_is_the_providers_figure() -> None:
    for record in ({**CHAT, "cost": 0.25}, {**CHAT, "usage": {**CHAT["usage"], "cost": 0.25}}):
        (one,) = told(record)
        assert isinstance(one.ending, Success)
        assert one.ending.results[0].figures.cost == 250_000_000


def test_a_piece_of_a_stream_tells_nothing_and_is_known_as_one() -> None:
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": []}
    assert told(chunk) == []
    assert is_piece(chunk)
    assert not is_piece({"hello": 1})


@pytest.mark.parametrize("record", [{}, {"hello": 1}, {"data": []}, {"usage": "none"}, {"response": 7}, {"data": [1]}])
def test_what_holds_no_result_tells_nothing(record: Any) -> None:
    assert told(record) == []


def test_figures_keep_every_digit() -> None:
    (one,) = tell(parse('{"taskUUID": "a", "cost": 0.000001217}'), str)
    assert isinstance(one.ending, Success)
    assert one.ending.results[0].figures.cost == int(Decimal("0.000001217") * 10**9)


@pytest.mark.parametrize(
    ("name", "called"), [(7, "7"), ("7", "7"), (True, "unnamed"), (7.5, "unnamed"), (None, "unnamed")]
)
def test_a_whole_number_is_a_name(name: Any, called: str) -> None:
    (one,) = told({**CHAT, "id": name})
    assert one.task_uuid == called
