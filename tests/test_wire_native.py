"""Runware's native wire: what is read from requests and responses, and how each task ends."""

from __future__ import annotations

import json
import uuid
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from costguard.billing import Figures
from costguard.errors import InvalidRequest
from costguard.wire.native import (
    CODE_CHARS_MAX,
    FREE_TASK_TYPES,
    MAX_TOKENS_MAX,
    Ack,
    Doubt,
    Ending,
    Envelope,
    Item,
    NotTasks,
    Refused,
    Success,
    Task,
    from_dict,
    judge,
    looks_guarded,
    outcomes,
    parse_request,
    parse_response,
    set_max_tokens,
)

UUID = "9ce1e395-ed82-4bd2-b224-c1e460e800f4"
OTHER = "dc5de2d2-c9ed-4153-840f-b47ef0ed368b"


def text_task(task_uuid: str = UUID, **more: Any) -> dict[str, Any]:
    return {"taskType": "textInference", "taskUUID": task_uuid, "model": "google:gemini@3-flash", **more}


def ready(task_uuid: str = UUID, **more: Any) -> dict[str, Any]:
    return text_task(task_uuid, includeCost=True, includeUsage=True, **more)


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def one(task: dict[str, Any]) -> Task:
    (read,) = parse_request(encoded([task])).tasks
    return read


def sent(body: bytes) -> Any:
    return json.loads(parse_request(body).body())


def said(body: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        parse_request(body)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None, "the original error carries the whole body"
    return str(caught.value)


# --- reading requests ---


def test_a_task_is_read_with_all_that_its_bill_depends_on() -> None:
    task = one(text_task(numberResults=3, settings={"maxTokens": 220}, deliveryMethod="async", webhookURL="https://x"))
    assert (task.uuid, task.task_type, task.model) == (UUID, "textInference", "google:gemini@3-flash")
    assert (task.billable, task.delivery, task.webhook) == (True, "async", True)
    assert (task.results, task.max_tokens) == (3, 220)
    assert task.raw["numberResults"] == 3


@pytest.mark.parametrize(
    "absent", [{}, dict.fromkeys(["deliveryMethod", "numberResults", "model", "settings", "webhookURL"])]
)
def test_what_is_absent_or_null_has_the_defaults(absent: dict[str, None]) -> None:
    task = one({"taskType": "imageInference", **absent})
    assert (task.model, task.delivery, task.webhook, task.results, task.max_tokens) == (None, "sync", False, 1, None)


def test_the_larger_of_two_allowances_counts() -> None:
    assert one(text_task(maxTokens=50)).max_tokens == 50
    assert one(text_task(maxTokens=50, settings={"maxTokens": 60})).max_tokens == 60
    assert one(text_task(maxTokens=70, settings={"maxTokens": 60})).max_tokens == 70


def test_a_body_that_needs_no_change_goes_out_byte_for_byte() -> None:
    body = b" [ " + encoded(ready(temperature=1.50)) + b' , {"taskType" : "getResponse"} ]\n'
    assert parse_request(body).body() is body


def test_array_and_object_form_are_kept() -> None:
    assert isinstance(sent(encoded(text_task())), dict)
    assert isinstance(sent(encoded([text_task()])), list)


def test_a_billable_task_tells_its_cost_whatever_the_caller_said() -> None:
    assert sent(encoded([text_task(includeCost=False, includeUsage=None)])) == [ready()]
    (image,) = sent(encoded([{"taskType": "imageInference", "taskUUID": UUID}]))
    assert image == {"taskType": "imageInference", "taskUUID": UUID, "includeCost": True}


def test_an_unknown_task_type_is_billable() -> None:
    assert one({"taskType": "teleport"}).billable


@pytest.mark.parametrize("task_type", sorted(FREE_TASK_TYPES))
def test_a_free_task_is_left_untouched_however_it_looks(task_type: str) -> None:
    body = encoded([{"taskType": task_type, "model": 5, "numberResults": "many", "deliveryMethod": [], "taskUUID": 7}])
    request = parse_request(body)
    assert request.body() is body
    assert not request.tasks[0].billable


@pytest.mark.parametrize("nothing", [{}, {"taskUUID": None}, {"taskUUID": ""}])
def test_a_task_without_a_uuid_gets_one_in_the_body_too(nothing: dict[str, Any]) -> None:
    request = parse_request(encoded([{"taskType": "textInference", **nothing}]))
    assert uuid.UUID(request.tasks[0].uuid).version == 4
    assert json.loads(request.body())[0]["taskUUID"] == request.tasks[0].uuid


@pytest.mark.parametrize("form", [b"%b", b" [ %b ] \n"])
def test_a_task_that_only_lacks_fields_gets_them_added_to_its_own_bytes(form: bytes) -> None:
    body = form % b'{"taskType": "textInference", "taskUUID": "x", "seed": 1.50, "text": "}" }'
    request = parse_request(body)
    assert request.body() == body.replace(b'"}" }', b'"}" ,"includeCost":true,"includeUsage":true}')
    set_max_tokens(request.tasks[0], 7)
    request.touch()
    assert json.loads(request.body()) in (request.tasks[0].raw, [request.tasks[0].raw])


def test_an_exponent_beyond_all_bounds_is_read_in_a_record_kept_as_text_too() -> None:
    record = {
        "taskType": "getTaskDetails",
        "taskUUID": "x",
        "response": '{"data":[{"taskUUID":"x","cost":1e999999999999999999999}]}',
    }
    envelope = parse_response(json.dumps({"data": [record]}).encode())
    assert envelope is not None
    assert envelope.details[0].task_uuid == "x"


def test_the_order_of_keys_is_kept() -> None:
    body = b'{"z":1,"taskType":"textInference","includeCost":false,"a":2,"taskUUID":"x"}'
    assert list(sent(body)) == ["z", "taskType", "includeCost", "a", "taskUUID", "includeUsage"]


@pytest.mark.parametrize("text", ["caf\\u00e9", "\\ud83d\\ude00", "\\ud800", "\\udc00 lone", "\\u0000", "é", "\\u2028"])
def test_every_string_survives_a_rewrite(text: str) -> None:
    body = f'[{{"taskType":"textInference","messages":["{text}"]}}]'.encode()
    assert sent(body)[0]["messages"] == json.loads(f'["{text}"]')


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.text().map("x".__add__), json_values, max_size=4), st.booleans())
def test_a_rewrite_changes_nothing_else(extra: dict[str, Any], ascii_only: bool) -> None:
    body = json.dumps([text_task(**extra)], ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert sent(body) == [ready(**extra)]


def test_from_dict_never_changes_the_callers_mapping() -> None:
    mine = text_task("", includeCost=False, settings={"maxTokens": 9})
    before = json.dumps(mine)
    task = from_dict(mine)
    assert json.dumps(mine) == before
    assert (task.max_tokens, task.raw["includeCost"], bool(task.uuid)) == (9, True, True)


@pytest.mark.parametrize("bad", [{}, {"taskType": 5}, {"taskType": "textInference", "numberResults": 0}])
def test_from_dict_refuses_what_the_wire_refuses(bad: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        from_dict(bad)


def test_from_dict_takes_one_task_only() -> None:
    with pytest.raises(InvalidRequest, match="found list"):
        from_dict([text_task()])  # type: ignore[arg-type]


def test_a_prompt_is_not_in_a_tasks_repr() -> None:
    assert "secret" not in repr(one(text_task(messages=["secret"])))


# --- refusing requests ---


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "it is empty"),
        (b"  \n", "it is empty"),
        (b"[{", "line 1 column 3"),
        (b"[{}] x", "Extra data at line 1 column 6"),
        (b'["\x01"]', "control character"),
        (b"\xef\xbb\xbf[]", "byte order mark"),
        (b'[{"taskType":"\xff"}]', "byte 14 is not UTF-8"),
        ("[]".encode("utf-16"), "byte 0 is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'[{"taskType":"t","a":[1,NaN]}]', "[0].a[1] is NaN"),
        (b'[{"taskType":"t","NaN":-Infinity}]', "[0].NaN is -Infinity"),
        (b'{"taskType":"t","settings":{"topP":1e999}}', "settings.topP is the number 1e999"),
        (b'{"taskType":"t","n":' + b"9" * 5000 + b"}", "n is a number of 5000 digits"),
        (
            b'[{"taskType":"t","settings":{"maxTokens":1,"a":[],"maxTokens":2}}]',
            "[0].settings has the key 'maxTokens' twice",
        ),
        (b'{"a":1,"a":1}', "the body has the key 'a' twice"),
    ],
)
def test_what_is_not_strict_json_is_refused_with_its_place(body: bytes, expected: str) -> None:
    message = said(body)
    assert expected in message
    assert "nothing was sent" in message


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (None, "found null"),
        ("textInference", "found a text"),
        (True, "found a boolean"),
        (1.5, "found a number"),
        ([], "found an empty array"),
        ([1], "element 0 is a number"),
        ([{}], "element 0 is an object without 'taskType'"),
        ({"model": "gpt"}, "element 0 is an object without 'taskType'"),
        ([[text_task()]], "element 0 is an array"),
    ],
)
def test_json_without_any_task_is_not_a_task_list(found: Any, expected: str) -> None:
    with pytest.raises(NotTasks) as caught:
        parse_request(encoded(found))
    assert expected in str(caught.value)


@pytest.mark.parametrize("element", [None, 5, {}, {"taskType": None}, {"taskType": 3}])
def test_one_element_that_is_no_task_spoils_the_list(element: Any) -> None:
    with pytest.raises(InvalidRequest, match="element 1 is") as caught:
        parse_request(encoded([text_task(), element]))
    assert not isinstance(caught.value, NotTasks)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"taskUUID": 5}, "taskUUID"),
        ({"taskUUID": "x" * 201}, "taskUUID"),
        ({"taskUUID": "a\nb"}, "taskUUID"),
        ({"taskUUID": "\ud800"}, "taskUUID"),
        ({"taskType": ""}, "taskType"),
        ({"taskType": "a\x00"}, "taskType"),
        ({"model": 5}, "model"),
        ({"model": ""}, "model"),
        ({"deliveryMethod": "pigeon"}, "deliveryMethod"),
        ({"deliveryMethod": ["sync"]}, "deliveryMethod"),
        *[({"numberResults": bad}, "numberResults") for bad in (0, -1, 101, True, 1.0)],
        *[({"numberResults": bad}, "numberResults") for bad in ("3", "")],
        *[({"settings": {"maxTokens": bad}}, "settings.maxTokens") for bad in (0, -1, MAX_TOKENS_MAX + 1, True, 4.5)],
        ({"maxTokens": 0}, "maxTokens"),
    ],
)  # fmt: skip
def test_a_field_that_the_bill_depends_on_is_refused_by_name(change: dict[str, Any], field: str) -> None:
    message = said(encoded([text_task(OTHER), text_task() | change]))
    assert f"task 1: {field}: expected" in message


def test_the_bounds_themselves_are_accepted() -> None:
    task = one(text_task(numberResults=100, settings={"maxTokens": MAX_TOKENS_MAX}))
    assert (task.results, task.max_tokens) == (100, MAX_TOKENS_MAX)


def test_two_billable_tasks_of_one_uuid_are_refused() -> None:
    assert "task 2 has the taskUUID of task 0" in said(encoded([text_task(), text_task(OTHER), text_task()]))


def test_a_poll_may_name_the_task_it_polls() -> None:
    request = parse_request(encoded([text_task(), {"taskType": "getResponse", "taskUUID": UUID}]))
    assert [task.billable for task in request.tasks] == [True, False]


@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode("utf-8")))
@example(b'{"taskType":"textInference","maxTokens":1e2}')
def test_any_bytes_are_tasks_or_an_invalid_request(body: bytes) -> None:
    try:
        request = parse_request(body)
    except InvalidRequest:
        return
    assert request.tasks
    json.loads(request.body())


@pytest.mark.parametrize("depth", range(50, 1500, 50))
def test_any_depth_is_written_as_it_was_read_or_refused(depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    try:
        written = parse_request(b'[{"taskType":"textInference","deep":' + deep + b"}]").body()
    except InvalidRequest:
        assert depth > 200
    else:
        assert deep in written


# --- which bodies may be tasks ---


@pytest.mark.parametrize(
    "body",
    [
        encoded([text_task()]),
        b'{ "taskType"\n : "textInference"}',
        b'[{"\\u0074askType":"x"}]',
        b'[{"tas\\u006bType":"x"}]',
        b'[{"tas\\u006BTyp\\u0065":"x"}]',
    ],
)
def test_a_task_list_looks_guarded_however_its_key_is_escaped(body: bytes) -> None:
    assert looks_guarded(body)
    assert parse_request(body).tasks


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        encoded({"model": "gpt", "messages": [{"content": 'what is {"taskType": "x"} in caf\u00e9?'}]}),
        encoded(["taskType"]),
        encoded({"task": "taskType"}),
    ],
)
def test_other_bodies_do_not_look_guarded(body: bytes) -> None:
    assert not looks_guarded(body)


# --- reading responses ---


def response(*data: Any, **more: Any) -> Envelope:
    found = parse_response(encoded({"data": list(data), **more}))
    assert found is not None
    return found


def result(task_uuid: str = UUID, **more: Any) -> dict[str, Any]:
    return {"taskType": "textInference", "taskUUID": task_uuid, "text": "hello", "cost": 0.5, **more}


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
                Figures(Decimal("0.1234567890123456789"), {"promptTokens": 3}),
                True,
                5,
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
    assert envelope.items[0].figures.cost == 1


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e99999999999999999999"])
def test_a_figure_that_is_no_number_stays_visible(literal: str) -> None:
    envelope = parse_response(f'{{"data":[{{"taskUUID":"u","cost":{literal}}}]}}'.encode())
    assert envelope is not None
    cost = envelope.items[0].figures.cost
    assert isinstance(cost, Decimal)
    assert not cost.is_finite()


@pytest.mark.parametrize(
    "more",
    [
        {"text": ""},
        {"cost": 0},
        {"usage": {}},
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
    "more", [{}, {"cost": None, "text": None}, {"webhookURL": "https://x"}, {"status": "processing"}]
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
    assert [item.figures.cost for item in envelope.items] == [Decimal("0.25")]
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


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([UUID, OTHER, "", "error", "processing"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["data", "errors", "error", "taskUUID", "taskType", "status", "response", "request", "code", "cost"]
        ),
        inner,
        max_size=4,
    ),
)  # fmt: skip


@given(st.binary(max_size=60) | junk.map(encoded))
def test_no_response_raises(body: bytes) -> None:
    envelope = parse_response(body)
    if envelope is not None:
        outcomes(envelope)
        assert all(isinstance(item.names, str) for item in envelope.items)


# --- the identity of a result ---


def test_a_result_is_called_by_its_index_and_its_seed() -> None:
    items = response(result(resultIndex=1, seed=5), result(seed=5), result()).items
    assert [item.names for item in items] == ["i:1 s:5", "s:5", ""]


@pytest.mark.parametrize("bad", [True, -1, "1", 1.0, None, 2**70])
def test_an_index_or_seed_that_is_none_is_no_name(bad: Any) -> None:
    assert response(result(resultIndex=bad, seed=bad)).items[0].names == ""


# --- endings ---


def tasks(*raw: dict[str, Any]) -> tuple[Task, ...]:
    return parse_request(encoded(list(raw))).tasks


def ending(status: int, envelope: Envelope | None, **task: Any) -> Ending:
    return judge(tasks(text_task(**task)), status, envelope).endings[UUID]


ERROR = {"code": "contentBlocked", "message": "your prompt said…", "taskUUID": UUID}
DOUBTFUL = {"code": "timeoutProvider", "message": "your prompt said…", "taskUUID": UUID}
UNNAMED = {"code": "invalidInput", "message": ""}
POLL = {"taskType": "getResponse", "taskUUID": OTHER}


def test_a_result_is_a_success() -> None:
    envelope = response(result())
    assert ending(200, envelope) == Success(envelope.items)


def test_a_result_without_a_figure_is_a_success_too() -> None:
    envelope = response({"taskUUID": UUID, "text": "hello"})
    assert ending(200, envelope) == Success(envelope.items)


@pytest.mark.parametrize("status", [300, 302, 399, 400, 401, 402, 403, 404, 405, 413, 415, 422, 429])
def test_a_status_that_refuses_releases(status: int) -> None:
    assert ending(status, None) == Refused(f"http {status}")
    assert ending(status, response(errors=[ERROR])) == Refused(f"http {status} contentBlocked")


@pytest.mark.parametrize(
    "status", [100, 199, 406, 407, 408, 409, 410, 418, 425, 451, 499, 500, 502, 503, 504, 599, 700]
)
def test_any_other_status_is_in_doubt_even_with_an_error_for_the_task(status: int) -> None:
    assert ending(status, None) == Doubt(f"http {status}")
    assert ending(status, response(errors=[ERROR])) == Doubt(f"http {status} contentBlocked")


@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("task_uuid", [UUID, ""])
def test_a_doubtful_error_of_the_task_or_of_nobody_leaves_doubt(status: int, task_uuid: str) -> None:
    envelope = response(errors=[{**DOUBTFUL, "taskUUID": task_uuid}])
    assert isinstance(ending(status, envelope), Doubt)


def test_a_doubtful_error_of_another_task_does_not_touch_this_one() -> None:
    envelope = response(errors=[{**DOUBTFUL, "taskUUID": OTHER}])
    assert isinstance(ending(400, envelope), Refused)


def test_an_error_for_the_task_in_a_2xx_releases() -> None:
    assert ending(200, response(errors=[ERROR])) == Refused("error contentBlocked")


def test_an_unreadable_2xx_is_in_doubt() -> None:
    assert ending(200, None) == Doubt("http 200 unreadable response")
    assert ending(204, parse_response(b"")) == Doubt("http 204 unreadable response")


def test_a_task_that_a_2xx_does_not_mention_is_in_doubt() -> None:
    assert ending(200, response(result(OTHER))) == Doubt("http 200 task not mentioned")


def test_data_and_errors_are_scoped_to_their_tasks() -> None:
    found = judge(
        tasks(text_task(), text_task(OTHER)), 200, response(result(), errors=[{**ERROR, "taskUUID": OTHER}])
    ).endings
    assert isinstance(found[UUID], Success)
    assert isinstance(found[OTHER], Refused)


@pytest.mark.parametrize("status", [302, 400, 429, 408, 500, 504])
def test_items_beside_an_error_status_settle_first(status: int) -> None:
    envelope = response(result(), errors=[ERROR])
    assert ending(status, envelope) == Success(envelope.items)


def test_an_unnamed_error_concerns_the_only_task_not_mentioned() -> None:
    pair = tasks(text_task(), text_task(OTHER))
    assert judge(pair, 200, response(result(), errors=[UNNAMED])).endings[OTHER] == Refused("error invalidInput")
    both = judge(pair, 200, response(errors=[UNNAMED])).endings
    assert {type(found) for found in both.values()} == {Doubt}


def test_an_unnamed_error_may_concern_a_poll_in_the_same_post() -> None:
    found = judge(tasks(text_task(), POLL), 200, response(errors=[UNNAMED]))
    assert isinstance(found.endings[UUID], Doubt)
    assert found.others == {}


def test_an_authentication_element_is_nobody_an_error_could_concern() -> None:
    found = judge(tasks({"taskType": "authentication", "apiKey": "k"}, text_task()), 200, response(errors=[UNNAMED]))
    assert found.endings == {UUID: Refused("error invalidInput")}


def test_unnamed_items_concern_the_only_task_not_mentioned() -> None:
    pair = tasks(text_task(), text_task(OTHER))
    envelope = response(result(), result(""))
    assert judge(pair, 200, envelope).endings[OTHER] == Success(envelope.items[1:])
    assert {type(e) for e in judge(pair, 200, response(result(""))).endings.values()} == {Doubt}


@pytest.mark.parametrize("how", [{"deliveryMethod": "async"}, {"webhookURL": "https://x"}])
@pytest.mark.parametrize("status", [200, 202, 400, 500])
def test_an_acknowledgement_keeps_the_hold(how: dict[str, Any], status: int) -> None:
    assert ending(status, response({"taskType": "textInference", "taskUUID": UUID}), **how) == Ack()


def test_processing_is_an_acknowledgement_for_any_delivery() -> None:
    assert ending(200, response(result(status="processing"))) == Ack()


def test_a_sync_item_that_says_nothing_is_in_doubt_unless_it_says_success() -> None:
    assert ending(200, response({"taskUUID": UUID})) == Doubt("http 200 item without a result")
    assert isinstance(ending(200, response({"taskUUID": UUID, "status": "success"})), Success)


def test_fewer_results_than_asked_are_a_success_that_says_so() -> None:
    envelope = response(result(seed=1), result(seed=2))
    assert ending(200, envelope, numberResults=3) == Success(envelope.items, False, "2 of 3 results")
    refused = response(result(seed=1), errors=[ERROR])
    assert ending(200, refused, numberResults=3) == Success(refused.items, False, "1 of 3 results")


@pytest.mark.parametrize(
    ("status", "errors"),
    [(200, [DOUBTFUL]), (200, [{**DOUBTFUL, "taskUUID": ""}]), (400, [DOUBTFUL]), (500, []), (408, [ERROR])],
)
def test_a_doubt_about_the_missing_results_keeps_the_rest_of_the_hold(status: int, errors: list[Any]) -> None:
    found = ending(status, response(result(), errors=errors), numberResults=3)
    assert isinstance(found, Success)
    assert found.partial
    assert found.reason.startswith("1 of 3 results")
    complete = ending(status, response(result(), errors=errors))
    assert isinstance(complete, Success)
    assert not complete.partial


def test_a_sibling_still_processing_keeps_the_rest_of_the_hold() -> None:
    found = ending(200, response(result(), {"taskUUID": UUID, "status": "processing"}), numberResults=2)
    assert isinstance(found, Success)
    assert found.partial
    assert len(found.items) == 1


def test_a_poll_brings_the_outcomes_of_other_tasks() -> None:
    envelope = response(
        result(OTHER), {"taskUUID": "third", "status": "processing"}, errors=[{**ERROR, "taskUUID": "4th"}]
    )
    found = judge(tasks(POLL), 200, envelope)
    assert found.endings == {}
    assert found.others == {
        OTHER: Success(envelope.items[:1]),
        "third": Ack(),
        "4th": Refused("error contentBlocked"),
    }


def test_a_poll_with_results_so_far_keeps_the_rest_of_the_hold() -> None:
    envelope = response(result(OTHER), {"taskUUID": OTHER, "status": "processing"})
    assert judge(tasks(POLL), 200, envelope).others == {
        OTHER: Success(envelope.items[:1], True, "more results under way")
    }


def test_a_polls_unnamed_item_belongs_to_the_one_task_polled() -> None:
    envelope = response(result(""))
    assert judge(tasks(POLL), 200, envelope).others == {OTHER: Success(envelope.items)}


def test_an_unnamed_item_beside_a_free_task_without_a_name_is_nobodys() -> None:
    assert judge(tasks({"taskType": "getResponse"}), 200, response(result(""))).others == {}


def test_results_beside_a_doubtful_error_keep_the_rest_of_the_hold() -> None:
    envelope = response(result(), errors=[DOUBTFUL])
    assert outcomes(envelope) == {UUID: Success(envelope.items, True, "error timeoutProvider")}


def test_a_doubtful_outcome_of_a_poll_is_in_doubt() -> None:
    assert judge(tasks(POLL), 200, response(errors=[{**DOUBTFUL, "taskUUID": OTHER}])).others == {
        OTHER: Doubt("error timeoutProvider")
    }


@pytest.mark.parametrize("status", [400, 404, 429, 500])
def test_a_poll_that_fails_says_nothing_of_its_task(status: int) -> None:
    assert judge(tasks(POLL), status, response(errors=[{**ERROR, "taskUUID": OTHER}])).others == {}
    with_item = judge(tasks(POLL), status, response(result(OTHER))).others
    assert isinstance(with_item[OTHER], Success)


def test_an_error_of_the_question_does_not_release_the_task() -> None:
    error = {**ERROR, "taskUUID": OTHER, "taskType": "getResponse"}
    assert isinstance(judge(tasks(POLL), 200, response(errors=[error])).others[OTHER], Doubt)


def test_answers_to_free_tasks_are_no_outcomes() -> None:
    asked = tasks({"taskType": "modelSearch", "taskUUID": OTHER})
    assert judge(asked, 200, response({"taskType": "modelSearch", "taskUUID": OTHER, "results": []})).others == {}


def test_outcomes_of_a_webhook_are_read_without_a_request() -> None:
    envelope = response(result(), result(""), errors=[{**ERROR, "taskUUID": OTHER}, UNNAMED])
    assert outcomes(envelope) == {UUID: Success(envelope.items[:1]), OTHER: Refused("error contentBlocked")}


def test_no_reason_quotes_a_message() -> None:
    for status in (200, 400, 500):
        for error in (ERROR, DOUBTFUL):
            found = ending(status, response(errors=[error]))
            assert isinstance(found, (Refused, Doubt))
            assert "prompt" not in found.reason


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["textInference", "imageInference", "getResponse"]), st.sampled_from([UUID, OTHER, ""])
        ),
        min_size=1,
        max_size=3,
        unique=True,
    ),
    st.integers(100, 600),
    st.none() | st.lists(junk, max_size=4).map(lambda data: {"data": data}) | junk,
    junk,
    st.integers(1, 3),
)
def test_every_billable_task_gets_exactly_one_ending(
    asked: list[tuple[str, str]], status: int, found: Any, errors: Any, results: int
) -> None:
    raw = [{"taskType": kind, "taskUUID": name, "numberResults": results} for kind, name in asked]
    try:
        request = parse_request(encoded(raw))
    except InvalidRequest:
        return  # two billable tasks of one name
    body = {**found, "errors": errors} if isinstance(found, dict) else found
    envelope = None if found is None else parse_response(encoded(body))
    judgement = judge(request.tasks, status, envelope)
    assert set(judgement.endings) == {task.uuid for task in request.tasks if task.billable}
    assert not set(judgement.endings) & set(judgement.others)
    assert "" not in judgement.others
    for end in (*judgement.endings.values(), *judgement.others.values()):
        assert isinstance(end, (Success, Ack, Refused, Doubt))
        if isinstance(end, Success):
            assert end.items
        if isinstance(end, Refused):
            assert status in range(200, 406) or status in (413, 415, 422, 429)
