"""What is read from requests, and what is refused."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wires import OTHER, SPELLINGS, UUID, encoded, ready, text_task

from costguard.errors import InvalidRequest
from costguard.tasks import Task
from costguard.wire.dialect import NotTasks
from costguard.wire.runware.requests import (
    FREE_TASK_TYPES,
    MAX_TOKENS_MAX,
    from_dict,
    looks_guarded,
    parse_request,
)


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
    request.lower(request.tasks[0], 7)
    assert json.loads(request.body()) in (request.tasks[0].raw, [request.tasks[0].raw])


@pytest.mark.parametrize(
    ("stated", "lowered"),
    [
        ({}, {"settings": {"maxTokens": 7}}),
        ({"settings": None}, {"settings": {"maxTokens": 7}}),
        ({"settings": {"topP": 1}}, {"settings": {"topP": 1, "maxTokens": 7}}),
        ({"settings": {"maxTokens": 60}}, {"settings": {"maxTokens": 7}}),
        ({"maxTokens": 50}, {"maxTokens": 7}),
        ({"maxTokens": 50, "settings": {"topP": 1}}, {"maxTokens": 7, "settings": {"topP": 1}}),
        ({"maxTokens": 50, "settings": {"maxTokens": 60}}, {"maxTokens": 7, "settings": {"maxTokens": 7}}),
    ],
)
def test_an_allowance_is_lowered_where_the_caller_stated_it(stated: dict[str, Any], lowered: dict[str, Any]) -> None:
    body = encoded([ready(OTHER), ready(**stated)])
    request = parse_request(body)
    assert (request.changed, request.body()) == (False, body)
    request.lower(request.tasks[1], 7)
    assert json.loads(request.body()) == [ready(OTHER), ready(**lowered)]
    assert (request.changed, request.tasks[1].max_tokens, request.tasks[0].max_tokens) == (True, 7, None)


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


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_uuid_is_one_name_in_any_case_and_goes_out_as_the_caller_wrote_it(spelling: str) -> None:
    request = parse_request(encoded([ready(spelling)]))
    (task,) = request.tasks
    assert (task.uuid, task.spelling) == (UUID, None if spelling == UUID else spelling)
    assert json.loads(request.body()) == [ready(spelling)]
    with pytest.raises(InvalidRequest, match="task 1 has the taskUUID of task 0"):
        parse_request(encoded([ready(), ready(spelling)]))


def test_a_name_that_is_no_uuid_is_never_folded() -> None:
    request = parse_request(encoded([ready("Harbour-1"), ready("harbour-1"), ready(UUID + "A"), ready(UUID + "a")]))
    assert [task.uuid for task in request.tasks] == ["Harbour-1", "harbour-1", UUID + "A", UUID + "a"]
    assert {task.spelling for task in request.tasks} == {None}


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
