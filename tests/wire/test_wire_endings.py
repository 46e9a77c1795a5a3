"""How each task of a request ends."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wires import OTHER, SPELLINGS, UUID, encoded, junk, read, response, result, results, tasks, text_task

from costguard.errors import InvalidRequest
from costguard.wire.dialect import Ack, Doubt, Ending, Refused, Success
from costguard.wire.runware.answers import Envelope, parse_response
from costguard.wire.runware.endings import judge, outcomes
from costguard.wire.runware.requests import parse_request


def ending(status: int, envelope: Envelope | None, **task: Any) -> Ending:
    return judge(tasks(text_task(**task)), status, envelope).endings[UUID]


ERROR = {"code": "contentBlocked", "message": "your prompt said…", "taskUUID": UUID}
DOUBTFUL = {"code": "timeoutProvider", "message": "your prompt said…", "taskUUID": UUID}
UNNAMED = {"code": "invalidInput", "message": ""}
POLL = {"taskType": "getResponse", "taskUUID": OTHER}


def test_a_result_is_a_success() -> None:
    envelope = response(result())
    assert ending(200, envelope) == Success(results(envelope.items))


@pytest.mark.parametrize("task", [{"deliveryMethod": "async"}, {"webhookURL": "https://hooks.example/x"}])
def test_the_name_of_a_picture_that_is_to_come_is_an_acknowledgement_of_it(task: dict[str, Any]) -> None:
    named = {"taskUUID": UUID, "imageUUID": OTHER}
    assert ending(200, response(named), **task) == Ack()
    for told in ({"imageURL": "https://x.example/a.png"}, {"cost": 0.01}, {"status": "success"}):
        assert isinstance(ending(200, response({**named, **told}), **task), Success)


def test_the_name_of_a_picture_is_a_result_where_nothing_else_is_to_come() -> None:
    named = {"taskUUID": UUID, "imageUUID": OTHER}
    assert isinstance(ending(200, response(named)), Success)
    assert ending(200, response({**named, "status": "processing"})) == Ack()


def test_a_result_without_a_figure_is_a_success_too() -> None:
    envelope = response({"taskUUID": UUID, "text": "hello"})
    assert ending(200, envelope) == Success(results(envelope.items))


@pytest.mark.parametrize("status", [300, 302, 399, 400, 401, 402, 403, 404, 405, 407, 413, 415, 422, 429])
def test_a_status_that_refuses_releases(status: int) -> None:
    assert ending(status, None) == Refused(f"http {status}")
    assert ending(status, response(errors=[ERROR])) == Refused(f"http {status} contentBlocked")


@pytest.mark.parametrize("status", [100, 199, 406, 408, 409, 410, 418, 425, 451, 499, 500, 502, 503, 504, 599, 700])
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
    assert ending(status, envelope) == Success(results(envelope.items))


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
    assert judge(pair, 200, envelope).endings[OTHER] == Success(results(envelope.items[1:]))
    assert {type(e) for e in judge(pair, 200, response(result(""))).endings.values()} == {Doubt}


@pytest.mark.parametrize("how", [{"deliveryMethod": "async"}, {"webhookURL": "https://x"}])
@pytest.mark.parametrize("status", [200, 202, 400, 500])
def test_an_acknowledgement_keeps_the_hold(how: dict[str, Any], status: int) -> None:
    assert ending(status, response({"taskType": "textInference", "taskUUID": UUID}), **how) == Ack()


def test_processing_is_an_acknowledgement_for_any_delivery() -> None:
    assert ending(200, response(result(status="processing"))) == Ack()


def test_a_sync_item_that_says_nothing_is_in_doubt_unless_it_says_success() -> None:
    assert ending(200, response({"taskUUID": UUID})) == Doubt("http 200 item without a result", taken=True)
    assert isinstance(ending(200, response({"taskUUID": UUID, "status": "success"})), Success)


def test_fewer_results_than_asked_are_a_success_that_says_so() -> None:
    envelope = response(result(seed=1), result(seed=2))
    assert ending(200, envelope, numberResults=3) == Success(results(envelope.items), False, "2 of 3 results")
    refused = response(result(seed=1), errors=[ERROR])
    assert ending(200, refused, numberResults=3) == Success(results(refused.items), False, "1 of 3 results")


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
    assert len(found.results) == 1


def test_a_poll_brings_the_outcomes_of_other_tasks() -> None:
    envelope = response(
        result(OTHER), {"taskUUID": "third", "status": "processing"}, errors=[{**ERROR, "taskUUID": "4th"}]
    )
    found = judge(tasks(POLL), 200, envelope)
    assert found.endings == {}
    assert found.others == {
        OTHER: Success(results(envelope.items[:1])),
        "third": Ack(),
        "4th": Refused("error contentBlocked"),
    }


def test_a_poll_with_results_so_far_keeps_the_rest_of_the_hold() -> None:
    envelope = response(result(OTHER), {"taskUUID": OTHER, "status": "processing"})
    assert judge(tasks(POLL), 200, envelope).others == {
        OTHER: Success(results(envelope.items[:1]), True, "more results under way")
    }


def test_a_polls_unnamed_item_belongs_to_the_one_task_polled() -> None:
    envelope = response(result(""))
    assert judge(tasks(POLL), 200, envelope).others == {OTHER: Success(results(envelope.items))}


def test_an_unnamed_item_beside_a_free_task_without_a_name_is_nobodys() -> None:
    assert judge(tasks({"taskType": "getResponse"}), 200, response(result(""))).others == {}


def test_results_beside_a_doubtful_error_keep_the_rest_of_the_hold() -> None:
    envelope = response(result(), errors=[DOUBTFUL])
    assert outcomes(envelope).others == {
        UUID: Success(results(envelope.items), True, "error timeoutProvider", failed=True)
    }


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
    assert outcomes(envelope).others == {
        UUID: Success(results(envelope.items[:1])),
        OTHER: Refused("error contentBlocked"),
    }


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
            assert end.results
        if isinstance(end, Refused):
            assert status in range(200, 406) or status in (407, 413, 415, 422, 429)


# --- what was billed is never released ---

FIGURES: list[dict[str, Any]] = [
    {"cost": 0.25},
    {"usage": {"cost": 0.25}},
    {"usage": {"costBreakdown": {"total": 0.25}}},
    {"costBreakdown": {"total": 0.25}},
]
FAILED = {"taskUUID": UUID, "error": {"code": "contentBlocked", "message": ""}}


@pytest.mark.parametrize("figures", FIGURES)
@pytest.mark.parametrize(
    "shape",
    [
        lambda figures: {"data": [{**FAILED, **figures}]},
        lambda figures: {"data": {**FAILED, **figures}},
        lambda figures: {**FAILED, **figures},
        lambda figures: [{**FAILED, **figures}],
        lambda figures: {"data": [{"taskUUID": UUID, "status": "failed", "code": "c", **figures}]},
        lambda figures: {"data": [FAILED], **figures},
        lambda figures: {"data": [{"taskUUID": UUID, **figures}], "errors": [ERROR]},
        lambda figures: {"data": [figures], "errors": [ERROR]},
        lambda figures: {"errors": [ERROR], **figures},
        lambda figures: {"data": [figures], "errors": [UNNAMED]},
        lambda figures: {"error": " ", "data": [{"taskUUID": UUID, "error": [], **figures}]},
    ],
)
@pytest.mark.parametrize("status", [200, 400, 429, 500])
def test_figures_settle_whatever_error_stands_beside_them(shape: Any, figures: dict[str, Any], status: int) -> None:
    found = ending(status, read(encoded(shape(figures))))
    assert isinstance(found, Success)
    (one,) = found.results
    assert 250_000_000 in (one.figures.cost, one.figures.total)


@pytest.mark.parametrize("worked", [{"text": "grey water"}, {"delta": {"text": "grey water"}}, {"delta": "grey"}])
@pytest.mark.parametrize("status", [200, 400, 500])
def test_text_beside_an_error_without_figures_is_in_doubt(worked: dict[str, Any], status: int) -> None:
    assert isinstance(ending(status, response({**FAILED, **worked})), Doubt)
    assert isinstance(outcomes(response({**FAILED, **worked})).others[UUID], Doubt)
    assert isinstance(ending(200, response({**FAILED, "text": ""})), Refused)
    if "delta" in worked:
        assert isinstance(ending(status, response({"taskUUID": UUID, **worked}, errors=[ERROR])), Doubt)


def test_figures_that_name_nobody_beside_the_error_of_one_of_two_are_that_ones() -> None:
    pair = tasks(text_task(), text_task(OTHER))
    envelope = response(result(OTHER), {"cost": 0.25}, errors=[ERROR])
    assert judge(pair, 200, envelope).endings[UUID] == Success(results(envelope.items[1:]))


@pytest.mark.parametrize("status", [200, 400])
def test_figures_that_may_be_of_either_task_release_neither(status: int) -> None:
    pair = tasks(text_task(), text_task(OTHER))
    for errors in ([ERROR, {**ERROR, "taskUUID": OTHER}], [UNNAMED], []):
        found = judge(pair, status, response({"cost": 0.25}, {"cost": 0.5}, errors=errors)).endings
        released = {uuid for uuid, end in found.items() if isinstance(end, Refused)}
        assert not released, errors


@pytest.mark.parametrize("nothing", [" ", {}, [], None, [None], [{}], [" "]])
def test_an_error_that_says_nothing_ends_nothing(nothing: Any) -> None:
    assert ending(200, response(errors=nothing)) == Doubt("http 200 task not mentioned")
    assert ending(200, response({"taskUUID": UUID, "error": nothing})) == Doubt(
        "http 200 item without a result", taken=True
    )
    envelope = response(result(error=nothing), errors=nothing)
    assert ending(200, envelope) == Success(results(envelope.items))


@pytest.mark.parametrize("status", ["queued", "pending", "processing", "simmering", 7])
@pytest.mark.parametrize("figures", [{"cost": 0}, {"cost": 0.25, "usage": {"promptTokens": 3}}, {}])
def test_figures_of_what_is_under_way_end_nothing(status: Any, figures: dict[str, Any]) -> None:
    envelope = response({"taskUUID": UUID, "status": status, **figures})
    for how in ({}, {"deliveryMethod": "async"}, {"deliveryMethod": "stream"}):
        assert ending(200, envelope, **how) == Ack()
    polled = response({"taskUUID": OTHER, "status": status, **figures})
    assert judge(tasks(POLL), 200, polled).others == {OTHER: Ack()}


@pytest.mark.parametrize("asked", SPELLINGS)
@pytest.mark.parametrize("told", SPELLINGS)
def test_a_uuid_is_one_task_in_any_case(asked: str, told: str) -> None:
    assert isinstance(judge(tasks(text_task(asked)), 200, response(result(told))).endings[UUID], Success)
    refused = judge(tasks(text_task(asked)), 200, response(errors=[{**ERROR, "taskUUID": told}]))
    assert isinstance(refused.endings[UUID], Refused)
    poll = {"taskType": "getResponse", "taskUUID": asked}
    polled = judge(tasks(poll), 200, response(result(told)))
    assert (set(polled.others), polled.listed) == ({UUID}, frozenset({UUID}))


def test_a_name_that_is_no_uuid_is_another_task_in_another_case() -> None:
    found = judge(tasks(text_task("Harbour")), 200, response(result("harbour")))
    assert found.endings == {"Harbour": Doubt("http 200 task not mentioned")}
    assert set(found.others) == {"harbour"}


# --- the provider's own record ---


def details(**told: Any) -> Envelope:
    return response({"taskType": "getTaskDetails", "taskUUID": UUID, **told})


def test_a_record_with_results_is_all_there_ever_was() -> None:
    envelope = details(response={"data": [result(seed=1), result(seed=2)], "errors": [ERROR]})
    (found,) = judge(tasks({"taskType": "getTaskDetails", "taskUUID": UUID}), 200, envelope).records
    assert (found.task_uuid, found.waiting, found.reason) == (UUID, False, "getTaskDetails shows no further results")
    assert [one.names for one in found.results or ()] == ["s:1", "s:2"]


def test_a_record_of_nothing_but_errors_says_which() -> None:
    (found,) = outcomes(details(response={"errors": [ERROR]})).records
    assert (found.results, found.waiting) == ((), False)
    assert found.reason == "getTaskDetails shows only errors contentBlocked"


def test_a_failed_record_with_figures_is_a_result() -> None:
    (found,) = outcomes(details(response={"data": [{**FAILED, "cost": 0.25}]})).records
    assert [one.figures.cost for one in found.results or ()] == [250_000_000]


@pytest.mark.parametrize("status", ["processing", "queued", "simmering"])
def test_a_record_under_way_keeps_its_task_open(status: str) -> None:
    under_way = {"taskUUID": UUID, "status": status, "cost": 0}
    (found,) = outcomes(details(response={"data": [under_way]})).records
    assert (found.results, found.waiting) == (None, True)
    (found,) = outcomes(details(response={"data": [result(seed=1), under_way]})).records
    assert ([one.names for one in found.results or ()], found.waiting) == (["s:1"], True)


@pytest.mark.parametrize("nothing", [None, {}, [], {"data": []}, "not json", {"errors": [{}]}])
def test_a_record_without_a_response_keeps_its_task_open(nothing: Any) -> None:
    (found,) = outcomes(details(response=nothing)).records
    assert (found.results, found.waiting) == (None, True)
