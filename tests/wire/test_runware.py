"""The native wire as the rest of the house asks it: whose a POST is, what is asked and what is answered."""

from __future__ import annotations

import json
from typing import Any

import pytest
from wires import OTHER, SPELLINGS, UUID, encoded, ready, result, tasks, text_task

from costguard.errors import InvalidRequest
from costguard.wire import NATIVE, UNMETERED
from costguard.wire.dialect import Ack, Doubt, NotTasks, Success, Target

ERROR = {"code": "taskNotFound", "message": ""}


@pytest.mark.parametrize(
    ("target", "claimed"),
    [
        (Target("api.runware.ai", "/v1"), True),
        (Target("runware.ai", "/v1"), True),
        (Target("api.runware.ai", "/v2"), None),
        (Target("notrunware.ai", "/v1"), None),
        (Target("runware.ai.example", "/v1"), None),
        (Target("llm.example", "/v1"), None),
        (Target("llm.example", "/v1", "/v1"), True),
        (Target("llm.example", "/tasks", "/tasks"), True),
        (Target("llm.example", "/v1/chat", "/v1"), None),
    ],
)
def test_native_endpoints_are_surely_its_own_and_any_other_post_may_be(target: Target, claimed: bool | None) -> None:
    assert NATIVE.claims(target) is claimed


def test_a_path_that_is_not_metered_is_known_on_the_same_hosts() -> None:
    known, path = UNMETERED[0], "/v1/completions"
    assert known.claims(Target("api.runware.ai", path))
    assert known.claims(Target("llm.example", path, "/v1"))
    assert known.claims(Target("llm.example", path)) is None
    assert known.claims(Target("api.runware.ai", "/v1")) is False


@pytest.mark.parametrize(
    ("body", "shows"),
    [
        (encoded([text_task(numberResults=0)]), True),
        (b'{"taskType":"t","a":1,"a":2}', True),
        (b'[{"taskType":"t","a":NaN}]', True),
        (b"[" * 100_000, False),
        (b'[{"taskType":', False),
        (encoded({"messages": ["taskType"]}), False),
        (encoded({"nested": {"taskType": "t"}}), False),
    ],
)
def test_a_body_that_cannot_be_read_may_show_tasks_all_the_same(body: bytes, shows: bool) -> None:
    with pytest.raises(InvalidRequest):
        NATIVE.read(body)
    assert NATIVE.shows_tasks(body) is shows


def test_a_readable_body_of_another_kind_is_told_apart() -> None:
    with pytest.raises(NotTasks):
        NATIVE.read(encoded({"model": "gpt"}))


@pytest.mark.parametrize(
    ("delivery", "status", "content_type", "is_stream"),
    [
        ("stream", 200, "text/event-stream", True),
        ("stream", 200, "application/json", True),
        ("stream", 200, "", True),
        ("stream", 400, "text/event-stream", False),
        ("sync", 200, "text/event-stream", True),
        ("sync", 200, "application/json", False),
        ("async", 503, "application/json", False),
    ],
)
def test_whoever_asked_for_a_stream_is_answered_by_one(
    delivery: str, status: int, content_type: str, is_stream: bool
) -> None:
    assert NATIVE.is_stream(tasks(text_task(deliveryMethod=delivery)), status, content_type) is is_stream


def test_a_whole_response_and_a_stream_of_it_are_judged_alike() -> None:
    asked = tasks(text_task())
    body = encoded({"data": [result()]})
    listener = NATIVE.listen(asked)
    listener.feed(body)
    for judgement in (NATIVE.judge(asked, 200, body), listener.judge(None)):
        found = judgement.endings[UUID]
        assert isinstance(found, Success)
        assert [one.figures.cost for one in found.results] == [500_000_000]
    assert NATIVE.judge(asked, 200, b"<html>").endings == {UUID: Doubt("http 200 unreadable response")}


@pytest.mark.parametrize("wrap", [lambda item: item, lambda item: [item], lambda item: {"data": [item]}])
@pytest.mark.parametrize("write", [lambda found: found, encoded, lambda found: encoded(found).decode()])
def test_a_result_from_anywhere_is_observed_in_any_form(wrap: Any, write: Any) -> None:
    judgement = NATIVE.observe(write(wrap(result())))
    assert judgement is not None
    assert judgement.endings == {}
    (found,) = judgement.others.values()
    assert isinstance(found, Success)
    assert [one.figures.cost for one in found.results] == [500_000_000]


def test_what_is_no_result_is_observed_as_nothing() -> None:
    assert NATIVE.observe(5) is None
    assert NATIVE.observe(b"<html>") is None
    empty = NATIVE.observe({})
    assert empty is not None
    assert (empty.endings, empty.others, empty.records) == ({}, {}, ())
    waiting = NATIVE.observe({"taskUUID": UUID, "status": "queued", "cost": 0})
    assert waiting is not None
    assert waiting.others == {UUID: Ack()}


# --- the question what became of tasks ---


def test_a_question_keeps_each_spelling_and_carries_the_key_of_its_body() -> None:
    asked = [{"taskType": "getTaskDetails", "taskUUID": name} for name in (UUID.upper(), "x")]
    bare = NATIVE.question([UUID.upper(), "x"], None)
    assert bare is not None
    assert json.loads(bare) == asked
    key = {"taskType": "authentication", "apiKey": "k"}
    carried = NATIVE.question([UUID.upper(), "x"], NATIVE.read(encoded([key, ready()])))
    assert carried is not None
    assert json.loads(carried) == [key, *asked]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_answer_is_of_its_task_in_any_case(spelling: str) -> None:
    record = {"taskType": "getTaskDetails", "taskUUID": spelling, "response": {"data": [result(spelling)]}}
    found = NATIVE.answers([UUID], 200, encoded({"data": [record]}))
    assert set(found.records) == {UUID}
    unknown = NATIVE.answers([UUID], 200, encoded({"errors": [{**ERROR, "taskUUID": spelling}]}))
    assert unknown.unknown == {UUID}
    refused = NATIVE.answers([UUID], 200, encoded({"errors": [{"code": "slow", "taskUUID": spelling}]}))
    assert (refused.unknown, refused.refusals) == (frozenset(), {UUID: "the provider answered slow"})


@pytest.mark.parametrize("status", [401, 403, 407, 408, 409, 429, 500, 503])
def test_an_error_of_the_question_says_nothing_of_any_task(status: int) -> None:
    body = encoded({"errors": [{**ERROR, "taskUUID": UUID}, {**ERROR, "taskUUID": OTHER}]})
    found = NATIVE.answers([UUID, OTHER], status, body)
    assert (found.records, found.unknown, found.refusals, found.told) == ({}, frozenset(), {}, False)
    assert str(status) in found.general


@pytest.mark.parametrize("status", [200, 400, 404])
def test_a_task_that_is_not_found_is_unknown_and_no_other(status: int) -> None:
    found = NATIVE.answers([UUID, OTHER], status, encoded({"errors": [{**ERROR, "taskUUID": UUID}]}))
    assert found.unknown == {UUID}
    assert OTHER not in found.refusals
    nobody = NATIVE.answers([UUID, OTHER], status, encoded({"errors": [ERROR]}))
    assert nobody.unknown == frozenset(), "an error that names nobody releases nobody"
