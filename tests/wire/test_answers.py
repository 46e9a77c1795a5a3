"""What is read from responses."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wires import OTHER, SPELLINGS, UUID, encoded, junk, read, response, result, results, text_task

from costguard.wire.dialect import Ack
from costguard.wire.runware.answers import CODE_CHARS_MAX, Item, parse_response
from costguard.wire.runware.endings import outcomes
from costguard.wire.runware.figures import Told


def test_a_result_is_read_exactly_and_its_text_only_counted() -> None:
    envelope = parse_response(
        b'{"data":[{"taskType":"textInference","taskUUID":"u","text":"hello","seed":7,"resultIndex":2,'
        b'"status":"success","cost":0.1234567890123456789,"usage":{"promptTokens":3}}]}'
    )
    assert envelope == (
        (
            Item(
                "u",
                "textInference",
                "success",
                2,
                7,
                Told(Decimal("0.1234567890123456789"), {"promptTokens": 3}),
                True,
                5,
                worked=True,
            ),
        ),
        (),
        (),
    )


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"data":[{"cost":0.5}', b"[" * 100_000, b"[1] 2"])
def test_what_is_not_json_or_is_cut_is_unreadable(body: bytes) -> None:
    assert parse_response(body) is None


@pytest.mark.parametrize(
    "body", [b"1", b"null", b'"x"', b"{}", b"[]", b'{"data":null}', b'{"data":{"a":1},"errors":0}']
)
def test_json_of_no_known_shape_names_no_task(body: bytes) -> None:
    envelope = parse_response(body)
    assert envelope is not None
    assert not envelope.errors
    assert all(item.task_uuid == "" for item in envelope.items)


def test_a_bare_array_and_a_webhooks_bare_item_are_read() -> None:
    for body in (encoded([result()]), encoded(result()), encoded({"data": result()})):
        envelope = parse_response(body)
        assert envelope is not None
        assert [item.task_uuid for item in envelope.items] == [UUID]


def test_a_damaged_text_does_not_cost_the_figures() -> None:
    envelope = parse_response(b'\xef\xbb\xbf{"data":[{"taskUUID":"u","text":"\xff\n","cost":1}]}')
    assert envelope is not None
    assert envelope.items[0].told.cost == 1


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e99999999999999999999"])
def test_a_figure_that_is_no_number_stays_visible(literal: str) -> None:
    envelope = parse_response(f'{{"data":[{{"taskUUID":"u","cost":{literal}}}]}}'.encode())
    assert envelope is not None
    cost = envelope.items[0].told.cost
    assert isinstance(cost, Decimal)
    assert not cost.is_finite()


@pytest.mark.parametrize(
    "more",
    [
        {"text": "hi"},
        {"cost": 0.1},
        {"usage": {"promptTokens": 3}},
        {"finishReason": "stop"},
        {"imageURL": "https://x"},
        {"imageBase64Data": "x"},
        {"videoURL": "https://x"},
        {"outputs": {"files": []}},
    ],
)
def test_more_than_an_acknowledgement_is_a_result(more: dict[str, Any]) -> None:
    assert response({"taskType": "x", "taskUUID": UUID, **more}).items[0].has_result


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"cost": None, "text": None},
        {"webhookURL": "https://x"},
        {"status": "processing"},
        {"cost": 0},
        {"cost": "0.000", "usage": {"promptTokens": 0, "costBreakdown": {"total": 0.0}}},
        {"usage": {}, "text": "", "outputs": []},
    ],
)
def test_an_acknowledgement_is_no_result(more: dict[str, Any]) -> None:
    assert not response({"taskType": "x", "taskUUID": UUID, **more}).items[0].has_result


@pytest.mark.parametrize(
    "more",
    [
        {"errors": [{"code": "c", "message": "m", "taskUUID": UUID, "parameter": ["a", "b"]}]},
        {"errors": {"code": "c", "message": "m", "taskUUID": UUID}},
        {"error": {"code": "c", "message": "m", "taskUUID": UUID}},
        {"data": [{"taskUUID": UUID, "status": "error", "code": "c", "message": "m"}]},
        {"data": [{"taskUUID": UUID, "status": "error", "error": {"code": "c", "message": "m"}}]},
        {"taskUUID": UUID, "error": {"code": "c", "message": "m"}},
        {"taskUUID": UUID, "errors": [{"code": "c", "message": "m"}]},
    ],
)
def test_an_error_is_read_wherever_it_stands(more: dict[str, Any]) -> None:
    envelope = parse_response(encoded(more))
    assert envelope is not None
    (error,) = envelope.errors
    assert (error.task_uuid, error.code, error.message, error.doubtful) == (UUID, "c", "m", False)
    assert not envelope.items


def test_a_failed_item_that_was_billed_is_also_a_result() -> None:
    envelope = response({"taskUUID": UUID, "status": "error", "code": "c", "cost": 0.25})
    assert [item.told.cost for item in envelope.items] == [Decimal("0.25")]
    assert len(envelope.errors) == 1


@pytest.mark.parametrize(
    "text",
    [
        "timeout", "timeoutProvider", "Timed out", "request_timed_out", "TIME-OUT", "time out", "timedOut",
        "DEADLINE_EXCEEDED", "providerError", "Upstream Provider", "streamInterrupted", "no content", "noContent",
        "NO_CONTENT", "no-content",
    ],
)  # fmt: skip
def test_an_error_of_a_timeout_provider_stream_or_no_content_is_doubtful(text: str) -> None:
    for error in ({"code": text}, {"code": "x", "message": f"it was {text} this time"}, text):
        assert response(errors=[error]).errors[0].doubtful


@pytest.mark.parametrize(
    "text", ["invalidModel", "the value provided is no content type", "insufficient credits", "time is up"]
)
def test_other_errors_are_not_doubtful(text: str) -> None:
    assert response(errors=[{"code": text}]).errors[0].doubtful is (text == "the value provided is no content type")


def test_an_error_of_no_known_shape_is_doubtful() -> None:
    assert response(errors=[5]).errors[0].doubtful


def test_an_errors_code_is_short_and_printable_and_its_message_not_in_its_repr() -> None:
    error = response(errors=[{"code": "a\n\ud800" * 100, "message": "your prompt was"}]).errors[0]
    assert error.code.isprintable()
    assert 0 < len(error.code) <= CODE_CHARS_MAX
    assert "prompt" not in repr(error)
    assert response(errors=[{"code": 1002}]).errors[0].code == "1002"


@pytest.mark.parametrize("bad", [5, None, "\ud800", "a\nb", "x" * 201, ["u"]])
def test_a_task_uuid_that_cannot_be_one_names_nobody(bad: Any) -> None:
    assert response({"taskUUID": bad, "cost": 1}).items[0].task_uuid == ""


def test_task_details_hold_a_response_of_their_own() -> None:
    envelope = response(
        {"taskType": "getTaskDetails", "taskUUID": UUID, "request": text_task(), "response": {"data": [{"text": "x"}]}},
        {"taskType": "getTaskDetails", "request": text_task(OTHER), "response": {"errors": [{"code": "c"}]}},
        {"taskType": "getTaskDetails", "taskUUID": "third", "response": None},
    )
    assert not envelope.items
    first, second, third = envelope.details
    assert first.envelope is not None
    assert first.envelope.items[0].task_uuid == first.task_uuid == UUID
    assert second.envelope is not None
    assert second.envelope.errors[0].task_uuid == second.task_uuid == OTHER
    assert (third.task_uuid, third.envelope) == ("third", None)


def test_details_within_details_are_not_followed() -> None:
    nested: Any = {"data": [result()]}
    for _ in range(200):
        nested = {"data": [{"taskType": "getTaskDetails", "taskUUID": UUID, "response": nested}]}
    envelope = parse_response(encoded(nested))
    assert envelope is not None
    assert envelope.details[0].envelope == ((), (), ())


@given(st.binary(max_size=60) | junk.map(encoded))
def test_no_response_raises(body: bytes) -> None:
    envelope = parse_response(body)
    if envelope is not None:
        judgement = outcomes(envelope)
        assert "" not in judgement.others
        assert all(isinstance(one.names, str) for one in results(envelope.items))


def test_an_exponent_beyond_all_bounds_is_read_in_a_record_kept_as_text_too() -> None:
    record = {
        "taskType": "getTaskDetails",
        "taskUUID": "x",
        "response": '{"data":[{"taskUUID":"x","cost":1e999999999999999999999}]}',
    }
    envelope = parse_response(json.dumps({"data": [record]}).encode())
    assert envelope is not None
    assert envelope.details[0].task_uuid == "x"


# --- the identity of a result ---


def test_a_result_is_called_by_its_index_and_its_seed() -> None:
    items = response(result(resultIndex=1, seed=5), result(seed=5), result()).items
    assert [one.names for one in results(items)] == ["i:1 s:5", "s:5", ""]


@pytest.mark.parametrize("bad", [True, -1, "1", 1.0, None, 2**70])
def test_an_index_or_seed_that_is_none_is_no_name(bad: Any) -> None:
    (one,) = results(response(result(resultIndex=bad, seed=bad)).items)
    assert one.names == ""


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_uuid_is_one_name_in_any_case_wherever_it_is_told(spelling: str) -> None:
    details = {"taskType": "getTaskDetails", "response": {"data": [{"cost": 1}]}}
    envelope = response(
        result(spelling),
        {"taskUUID": spelling, "status": "error", "code": "c"},
        {**details, "taskUUID": spelling},
        {**details, "request": text_task(spelling)},
        errors=[{"code": "c", "taskUUID": spelling}],
    )
    assert [item.task_uuid for item in envelope.items] == [UUID]
    assert [error.task_uuid for error in envelope.errors] == [UUID, UUID]
    for one in envelope.details:
        assert one.envelope is not None
        assert one.task_uuid == one.envelope.items[0].task_uuid == UUID


def test_a_name_that_is_no_uuid_is_never_folded() -> None:
    assert [item.task_uuid for item in response(result("Harbour-1"), result("harbour-1")).items] == [
        "Harbour-1",
        "harbour-1",
    ]


# --- what a status comes to ---


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (None, ""), ("", ""), ("success", "success"), ("SUCCESS", "success"), ("processing", "waiting"),
        ("pending", "waiting"), ("Queued", "waiting"), ("simmering", "waiting"), (5, "waiting"), ({}, "waiting"),
    ],
)  # fmt: skip
def test_a_status_that_nobody_knows_is_no_end(said: Any, meant: str) -> None:
    (item,) = response({"taskUUID": UUID, "status": said}).items
    assert item.status == meant
    assert item.settles is (meant == "success")


@pytest.mark.parametrize("status", ["queued", "pending", "processing", "simmering", 5])
def test_figures_of_what_is_under_way_are_no_result(status: Any) -> None:
    (item,) = response(result(status=status, usage={"promptTokens": 3})).items
    assert (item.has_result, item.settles) == (True, False)
    assert outcomes(response(result(status=status))).others == {UUID: Ack()}


@pytest.mark.parametrize("status", ["error", "failed", "ERROR", "Failed"])
def test_every_word_for_a_failure_is_one(status: str) -> None:
    envelope = response({"taskUUID": UUID, "status": status, "code": "c"})
    assert [error.code for error in envelope.errors] == ["c"]
    assert not envelope.items


# --- errors, and what stands beside them ---


@pytest.mark.parametrize("nothing", [" ", "", "\n\t", {}, [], None, 0, False])
@pytest.mark.parametrize("member", ["error", "errors"])
def test_an_error_member_that_says_nothing_is_none(nothing: Any, member: str) -> None:
    assert response(result(**{member: nothing})) == response(result())
    assert response(result(), **{member: nothing}) == response(result())
    assert read(encoded(result(**{member: nothing}))) == read(encoded(result()))


@pytest.mark.parametrize("nothing", [[None], [" "], [{}], [[]], [""]])
def test_a_list_of_errors_that_say_nothing_is_none(nothing: Any) -> None:
    assert response(result(), errors=nothing) == response(result())


@pytest.mark.parametrize("member", ["error", "errors"])
def test_text_beside_an_error_is_work_that_may_have_been_billed(member: str) -> None:
    (error,) = response({"taskUUID": UUID, "text": "grey", member: {"code": "c"}}).errors
    assert error.doubtful
    (error,) = response({"taskUUID": UUID, "delta": {"text": "grey"}, member: {"code": "c"}}).errors
    assert error.doubtful
    (error,) = response({"taskUUID": UUID, "text": "", member: {"code": "c"}}).errors
    assert not error.doubtful


FIGURES: list[dict[str, Any]] = [
    {"cost": 0.25},
    {"usage": {"cost": 0.25}},
    {"usage": {"costBreakdown": {"total": 0.25}}},
    {"costBreakdown": {"total": 0.25}},
    {"costBreakdown": {"total": 0.25}, "usage": {"promptTokens": 3}},
]


@pytest.mark.parametrize("figures", FIGURES)
@pytest.mark.parametrize(
    "shape",
    [
        lambda item: {"data": [item]},
        lambda item: {"data": item},
        lambda item: item,
        lambda item: [item],
        lambda item: {"data": [item, result(OTHER)]},
        lambda item: {"data": [{key: item[key] for key in ("taskUUID", "error")}], **item, "error": None},
    ],
)
def test_figures_beside_an_error_count_in_every_shape(figures: dict[str, Any], shape: Any) -> None:
    envelope = read(encoded(shape({"taskUUID": UUID, "error": {"code": "c"}, **figures})))
    assert [error.code for error in envelope.errors] == ["c"]
    told = next(item.told for item in envelope.items if item.task_uuid == UUID).read()
    assert 250_000_000 in (told.cost, told.total)


@pytest.mark.parametrize("figures", FIGURES)
def test_figures_beside_the_data_are_those_of_its_one_item(figures: dict[str, Any]) -> None:
    for data in ({"taskUUID": UUID, "text": "x"}, [{"taskUUID": UUID, "text": "x"}]):
        (item,) = read(encoded({"data": data, **figures})).items
        told = item.told.read()
        assert 250_000_000 in (told.cost, told.total)


def test_a_null_within_the_item_takes_nothing_away_from_the_figures_beside_it() -> None:
    inside: dict[str, Any] = {"taskUUID": UUID, "cost": None, "usage": {"promptTokens": 3}}
    (item,) = read(encoded({"data": [inside], "cost": 0.25, "usage": {"completionTokens": 4}})).items
    told = item.told.read()
    assert (told.cost, told.prompt_tokens, told.completion_tokens) == (250_000_000, 3, 4)
