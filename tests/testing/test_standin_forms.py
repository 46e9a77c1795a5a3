"""The stand-in's other forms: what they answer, what they bill, and what is wrong with a request."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from standins import FLASH

from costguard.testing import Reply, StandIn, exact

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"model": FLASH, "messages": [{"role": "user", "content": "Describe the harbour."}]},
    RESPONSES: {"model": FLASH, "input": "Describe the harbour."},
    MESSAGES: {"model": FLASH, "max_tokens": 500, "messages": [{"role": "user", "content": "Describe the harbour."}]},
}


def ask(standin: StandIn, path: str, **more: Any) -> Reply:
    return standin.handle("POST", path, {}, json.dumps({**ASKED[path], **more}).encode())


def events(reply: Reply) -> list[Any]:
    lines = b"".join(reply.chunks).split(b"\n")
    return [exact.loads(line[6:]) for line in lines if line.startswith(b"data: {")]


@pytest.mark.parametrize("path", ASKED)
def test_the_cost_that_is_told_is_what_is_billed(path: str) -> None:
    standin = StandIn()
    told = exact.loads(b"".join(ask(standin, path).chunks))
    (bill,) = standin.bill
    assert told["usage"]["cost"] == bill.amount > 0
    assert (bill.task_uuid, bill.model) == (told["id"], FLASH)


def test_tokens_at_the_published_rates_are_the_bill() -> None:
    standin = StandIn(tells_cost=False)
    usage = exact.loads(b"".join(ask(standin, CHAT, n=2).chunks))["usage"]
    assert "cost" not in usage
    micros = usage["prompt_tokens"] * Decimal("0.5") + usage["completion_tokens"] * 3
    assert standin.billed() == micros / 10**6


def test_anthropics_input_leaves_out_what_was_cached_and_openais_does_not() -> None:
    standin = StandIn(cached_tokens=3)
    inside = exact.loads(b"".join(ask(standin, RESPONSES).chunks))["usage"]
    beside = exact.loads(b"".join(ask(standin, MESSAGES).chunks))["usage"]
    assert inside["input_tokens_details"]["cached_tokens"] == beside["cache_read_input_tokens"] == 3
    assert inside["input_tokens"] == beside["input_tokens"] + 3


def test_a_chats_stream_tells_its_usage_only_where_it_is_asked_to() -> None:
    standin = StandIn()
    bare = events(ask(standin, CHAT, stream=True))
    assert not any("usage" in event for event in bare)
    *others, last = events(ask(standin, CHAT, stream=True, stream_options={"include_usage": True}))
    assert {event["usage"] for event in others} == {None}
    assert (last["choices"], last["usage"]["cost"]) == ([], standin.bill[1].amount)
    assert len(others) == len(bare)


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
def test_events_are_named_by_their_type(path: str) -> None:
    said = b"".join(ask(StandIn(sse_heartbeats=False), path, stream=True).chunks).decode()
    for block in said.strip().split("\n\n"):
        name, data = block.split("\n")
        assert name.removeprefix("event: ") == json.loads(data[6:])["type"]


def test_an_answer_that_reached_its_allowance_says_so() -> None:
    standin = StandIn()
    chat = exact.loads(b"".join(ask(standin, CHAT, max_completion_tokens=5).chunks))
    assert (chat["choices"][0]["finish_reason"], chat["usage"]["completion_tokens"]) == ("length", 5)
    assert exact.loads(b"".join(ask(standin, RESPONSES, max_output_tokens=5).chunks))["status"] == "incomplete"
    assert exact.loads(b"".join(ask(standin, MESSAGES, max_tokens=5).chunks))["stop_reason"] == "max_tokens"


@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize("body", [b"[]", b"{}", b'{"model": 5}', b'{"model": "x"}', b"{"])
def test_a_request_that_is_wrong_is_turned_away_and_not_billed(path: str, body: bytes) -> None:
    standin = StandIn()
    reply = standin.handle("POST", path, {}, body)
    assert reply.status == 400
    assert exact.loads(b"".join(reply.chunks))["errors"]
    assert standin.bill == []


@pytest.mark.parametrize("path", ASKED)
def test_faults_strike_these_paths_too(path: str) -> None:
    standin = StandIn()
    standin.fault("status:429")
    standin.fault("error_entry:402")
    standin.fault("drop_after")
    assert [ask(standin, path).status for _ in range(2)] == [429, 402]
    assert standin.bill == []
    assert ask(standin, path).fault == "drop"
    assert len(standin.bill) == 1
