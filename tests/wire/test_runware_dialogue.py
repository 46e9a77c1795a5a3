"""A websocket of Runware's tasks: which frame ends which task, and what is only told of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from costguard.tasks import Task
from costguard.wire.dialect import Ack, Doubt, Heard, Refused, Success
from costguard.wire.runware import dialogue
from costguard.wire.runware.dialogue import Messages
from costguard.wire.runware.requests import parse_request

ONE, TWO = "6f0e2a52-8a1b-4c5d-9e3f-0a1b2c3d4e5f", "7a1f3b63-9b2c-4d6e-8f40-1b2c3d4e5f60"


def asked(name: str = ONE, **fields: Any) -> Task:
    raw = {"taskType": "textInference", "taskUUID": name, "model": "google:gemini@3-flash", **fields}
    (task,) = parse_request(json.dumps([raw]).encode()).tasks
    return task


def item(name: str = ONE, **fields: Any) -> dict[str, Any]:
    return {"taskType": "textInference", "taskUUID": name, **fields}


def result(name: str = ONE, cost: str = "0.001", **fields: Any) -> dict[str, Any]:
    return item(name, text="Yes.", cost=cost, **fields)


def failed(name: str | None = ONE, code: str = "invalidModel", **fields: Any) -> dict[str, Any]:
    return {"code": code, "message": "No.", **({} if name is None else {"taskUUID": name}), **fields}


def hear(talk: Messages, *data: Any, errors: Any = None) -> Heard:
    told: dict[str, Any] = {"data": list(data)} if data else {}
    return talk.hear(json.dumps(told if errors is None else {**told, "errors": errors}).encode())


def talking(*tasks: Task) -> Messages:
    talk = Messages()
    talk.sent(tasks)
    return talk


def costs(ending: object) -> list[int | None]:
    assert isinstance(ending, Success)
    return [one.figures.cost for one in ending.results]


def test_a_result_ends_the_task_that_asked_for_it_and_no_other() -> None:
    one, two = asked(), asked(TWO)
    ((task, ending),), judgement = hear(talking(one, two), result(TWO))
    assert task is two
    assert costs(ending) == [1_000_000]
    assert not judgement.others


def test_results_that_come_one_by_one_end_their_task_together_at_the_last() -> None:
    talk = talking(asked(numberResults=3))
    assert [hear(talk, result(cost=cost)).ended for cost in ("0.001", "0.001")] == [(), ()]
    ((_, ending),), _ = hear(talk, result())
    assert costs(ending) == [1_000_000] * 3


def test_a_named_result_that_comes_again_is_one_and_what_it_tells_anew_counts() -> None:
    talk = talking(asked(numberResults=2))
    hear(talk, item(text="Yes.", resultIndex=0))
    assert hear(talk, result(resultIndex=0)).ended == ()
    ((_, ending),), _ = hear(talk, result(cost="0.002", resultIndex=1))
    assert costs(ending) == [1_000_000, 2_000_000]


def test_what_a_later_frame_names_more_fully_is_the_same_result() -> None:
    talk = talking(asked(numberResults=2))
    hear(talk, item(text="Yes.", resultIndex=0))
    assert hear(talk, result(resultIndex=0, seed=5)).ended == ()
    assert hear(talk, result(seed=5)).ended == ()
    ((_, ending),), _ = hear(talk, result(cost="0.002", resultIndex=1, seed=5))
    assert costs(ending) == [1_000_000, 2_000_000]
    assert isinstance(ending, Success)
    assert [(one.result_index, one.seed) for one in ending.results] == [(0, 5), (1, 5)]


def test_results_of_one_frame_are_different_ones_whatever_they_are_called() -> None:
    ((_, ending),), _ = hear(talking(asked(numberResults=2)), result(seed=5), result(seed=5))
    assert costs(ending) == [1_000_000] * 2


def test_a_picture_that_is_named_before_it_is_made_is_no_result() -> None:
    task = asked(taskType="imageInference", numberResults=2)
    talk = talking(task)

    def picture(n: int, **fields: Any) -> dict[str, Any]:
        return {"taskType": "imageInference", "taskUUID": ONE, "imageUUID": f"image-{n}", **fields}

    for n in (0, 1):
        assert hear(talk, picture(n, progress=50)).ended == ()
    assert hear(talk, picture(0, imageURL="https://im.example/0", cost="0.001", progress=100)).ended == ()
    ((_, ending),), _ = hear(talk, picture(1, imageURL="https://im.example/1", cost="0.001"))
    assert costs(ending) == [1_000_000] * 2


def test_an_acknowledgement_ends_the_answer_to_an_async_task_and_is_news_once() -> None:
    talk = talking(asked(deliveryMethod="async"))
    ((_, ending),), _ = hear(talk, item())
    assert ending == Ack()
    assert hear(talk, item(status="processing")) == Heard((), hear(talk).judgement)
    late = hear(talk, result(status="success")).judgement
    assert costs(late.others[ONE]) == [1_000_000]


def test_an_async_task_that_is_told_a_part_of_its_results_at_once_waits_for_the_rest() -> None:
    ((_, ending),), _ = hear(talking(asked(deliveryMethod="async", numberResults=2)), result(status="success"))
    assert isinstance(ending, Success)
    assert ending.partial


def test_a_sign_of_life_is_no_answer_to_a_task_that_waits_for_its_result() -> None:
    talk = talking(asked())
    assert hear(talk, item(status="processing")).ended == ()
    assert hear(talk, {"taskType": "ping", "pong": True}).ended == ()
    ((_, ending),), _ = hear(talk, result())
    assert costs(ending) == [1_000_000]
    assert isinstance(ending, Success)
    assert not ending.partial


def test_an_error_of_the_task_ends_it_and_what_came_before_it_counts() -> None:
    talk = talking(asked(numberResults=2), asked(TWO))
    hear(talk, result())
    ended = hear(talk, errors=[failed(), failed(TWO)]).ended
    (_, first), (_, second) = ended
    assert costs(first) == [1_000_000]
    assert isinstance(second, Refused)
    assert talk.end("ConnectionClosed") == ()


@pytest.mark.parametrize(
    "code",
    [
        *("providerTimeout", "serviceUnavailable", "internalServerError", "serverError", "inferenceError", ""),
        *("connectionExpired", "sessionEnded", "maintenance"),
    ],
)
def test_an_error_that_may_come_after_the_work_releases_nothing(code: str) -> None:
    ((_, ending),), _ = hear(talking(asked()), errors=[failed(code=code)])
    assert isinstance(ending, Doubt)


def test_of_a_task_sent_twice_the_second_is_the_one_that_is_turned_away() -> None:
    first, second = asked(), asked()
    talk = talking(first, second)
    ((task, ending),), _ = hear(talk, errors=[failed(code="conflictTaskUUID")])
    assert task is second
    assert isinstance(ending, Refused)
    ((task, _),), _ = hear(talk, result())
    assert task is first


def test_what_polls_tell_lists_the_results_so_far_and_their_errors_prove_nothing() -> None:
    (poll,) = parse_request(json.dumps([{"taskType": "getResponse", "taskUUID": ONE}]).encode()).tasks
    talk = talking(poll)
    told = hear(talk, result(status="success"), result(status="success")).judgement
    assert costs(told.others[ONE]) == [1_000_000] * 2
    assert told.listed == {ONE}
    assert isinstance(hear(talk, errors=[failed()]).judgement.others[ONE], Doubt)


def test_a_poll_that_failed_does_not_end_the_task_it_asked_for() -> None:
    talk = talking(asked())
    assert hear(talk, errors=[failed(taskType="getResponse")]).ended == ()
    assert len(hear(talk, result()).ended) == 1


def test_a_record_of_a_past_task_is_told_as_such() -> None:
    record = {"taskType": "getTaskDetails", "taskUUID": ONE, "response": {"data": [result()]}}
    (found,) = hear(talking(), record).judgement.records
    assert (found.task_uuid, found.waiting) == (ONE, False)


def test_an_unknown_task_that_was_asked_for_by_its_record_is_not_refused_by_that() -> None:
    (question,) = parse_request(json.dumps([{"taskType": "getTaskDetails", "taskUUID": ONE}]).encode()).tasks
    assert not hear(talking(question), errors=[failed(code="taskNotFound")]).judgement.others


def test_what_names_no_task_is_of_the_only_one_that_waits_and_else_of_none() -> None:
    ((_, ending),), _ = hear(talking(asked()), errors=[failed(None)])
    assert isinstance(ending, Refused)
    ((_, ending),), _ = hear(talking(asked()), {"taskType": "textInference", "text": "Yes.", "cost": "0.001"})
    assert costs(ending) == [1_000_000]
    talk = talking(asked(), asked(TWO))
    assert hear(talk, errors=[failed(None)]).ended == ()
    assert [type(ending) for _, ending in talk.end("ConnectionClosed")] == [Doubt, Doubt]
    (poll,) = parse_request(json.dumps([{"taskType": "getResponse", "taskUUID": TWO}]).encode()).tasks
    assert hear(talking(asked(), poll), errors=[failed(None)]).ended == ()


@pytest.mark.parametrize("message", [b"", b"not JSON", b"[]", b"null", b'{"data": 7}', b"\xff\xfe", b"[DONE]", b"[[["])
def test_what_cannot_be_read_tells_nothing(message: bytes) -> None:
    talk = talking(asked())
    assert talk.hear(message).ended == ()
    assert [type(ending) for _, ending in talk.end("ConnectionClosed")] == [Doubt]


def test_a_connection_that_ends_leaves_in_doubt_what_is_missing_and_says_why() -> None:
    talk = talking(asked(numberResults=2), asked(TWO))
    hear(talk, result())
    (_, some), (_, none) = talk.end("ConnectionClosed")
    assert isinstance(some, Success)
    assert (len(some.results), some.partial) == (1, True)
    assert none == Doubt("ConnectionClosed")
    assert talk.end("ConnectionClosed") == ()


def test_what_is_not_answered_is_known_by_its_name() -> None:
    first, second, other = asked(), asked(), asked(TWO)
    talk = talking(first, second, other)
    assert list(talk.unanswered(ONE)) == [first, second]
    hear(talk, result())
    assert list(talk.unanswered(ONE)) == [second]
    hear(talk, result())
    assert not talk.unanswered(ONE)


def test_what_never_left_is_waited_for_no_longer() -> None:
    task, other = asked(), asked(TWO)
    talk = talking(task, other)
    talk.unsent([task])
    assert [found for found, _ in talk.end("ConnectionClosed")] == [other]


def test_a_stream_ends_when_it_has_told_its_total_or_with_its_mark() -> None:
    told: dict[str, Any] = {"usage": {"costBreakdown": {"total": "0.001"}}, "cost": "0.001"}
    talk = talking(asked(deliveryMethod="stream"), asked(TWO))
    assert hear(talk, item(delta={"text": "Y"})).ended == ()
    assert hear(talk, item(delta={"text": "es"}, finishReason="stop")).ended == ()
    ((_, ending),), _ = hear(talk, item(**told))
    assert isinstance(ending, Success)
    assert [one.figures.total for one in ending.results] == [1_000_000]
    talk = talking(asked(deliveryMethod="stream"))
    hear(talk, {"taskType": "textInference", "taskUUID": "", "delta": {"text": "Yes"}})
    hear(talk, item(finishReason="stop", cost="0.001"))
    ((_, ending),) = talk.hear(b"[DONE]").ended
    assert costs(ending) == [1_000_000]


def test_a_frame_of_a_stream_may_have_lines_of_its_own() -> None:
    told: dict[str, Any] = {"usage": {"costBreakdown": {"total": "0.001"}}, "cost": "0.001", "finishReason": "stop"}
    frame = json.dumps({"data": [item(delta={"text": "Yes"}, **told)]}, indent=2).encode()
    ((_, ending),) = talking(asked(deliveryMethod="stream")).hear(frame).ended
    assert isinstance(ending, Success)
    assert [one.figures.total for one in ending.results] == [1_000_000]


def test_a_stream_that_is_cut_is_in_doubt() -> None:
    talk = talking(asked(deliveryMethod="stream"))
    hear(talk, item(delta={"text": "Y"}))
    ((_, ending),) = talk.end("ConnectionClosed")
    assert isinstance(ending, Doubt)


def test_only_so_many_names_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialogue, "NAMES_MAX", 2)
    talk = talking()
    for n in range(5):
        hear(talk, item(f"task-{n}", status="processing"))
    assert hear(talk, item("task-4", status="processing")).judgement.others == {}
    assert hear(talk, item("task-0", status="processing")).judgement.others == {"task-0": Ack()}
