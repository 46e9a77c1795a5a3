"""Calls in OpenAI's and Anthropic's form, end to end: held, told, charged, and lost ones listed."""

from __future__ import annotations

import contextlib
import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import httpx
import ledgers
import pytest
from conftest import API, FLASH, AnyClient, a_task, audit, memory, only_task
from hypothesis import given, settings
from hypothesis import strategies as st

from costguard import BudgetExceeded, ConfigurationError, Guard, InvalidRequest, UnpricedTask
from costguard.exchange.pieces import Piece
from costguard.exchange.recorded import Reader
from costguard.exchange.settlement import Finding
from costguard.ledger.accounting.importing import Batch, Importer, Mark, Source
from costguard.money import NANOS
from costguard.testing import StandIn

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
PATHS = (CHAT, RESPONSES, MESSAGES)
ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "Describe the harbour."}], "max_tokens": 100},
    RESPONSES: {"input": "Describe the harbour.", "max_output_tokens": 100},
    MESSAGES: {"messages": [{"role": "user", "content": "Describe the harbour."}], "max_tokens": 100},
}


def asked(path: str, **more: Any) -> dict[str, Any]:
    return {"model": FLASH, **ASKED[path], **more}


def post(client: AnyClient, path: str, **more: Any) -> Any:
    return client.post(url=path, json=asked(path, **more))


def billed(standin: StandIn) -> int:
    return int(standin.billed() * NANOS)


def booked(guard: Guard) -> tuple[int, int]:
    """Charged and held, in nano-USD, of all tasks."""
    rows = guard.ledger.tasks()
    return sum(row.charged for row in rows), sum(row.held for row in rows)


def streamed(client: AnyClient, path: str, **more: Any) -> bytes:
    """The bytes of a stream, as its caller gets them."""
    return b"".join(pieces(client, path, **more))


def pieces(client: AnyClient, path: str, **more: Any) -> list[bytes]:
    body = asked(path, **{"stream": True, **more})
    if not client.is_async:
        with client.bare.stream("POST", path, json=body) as response:
            return list(response.iter_bytes())

    async def read() -> list[bytes]:
        async with client.bare.stream("POST", path, json=body) as response:
            return [chunk async for chunk in response.aiter_bytes()]

    found: list[bytes] = client.call(read)
    return found


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("tells_cost", [True, False])
@pytest.mark.parametrize("cached", [0, 3])
@pytest.mark.parametrize("is_stream", [True, False])
def test_every_form_is_charged_at_the_bill(
    path: str,
    tells_cost: bool,
    cached: int,
    is_stream: bool,
    client: AnyClient,
    guard: Guard,
    standin: StandIn,
    ledger: Path,
) -> None:
    standin.tells_cost, standin.cached_tokens = tells_cost, cached
    for _ in range(2):
        if is_stream:
            assert b"harbour" in streamed(client, path)
        else:
            assert b"harbour" in post(client, path).content
    rows = guard.ledger.tasks()
    assert [(row.status, row.held) for row in rows] == [("settled", 0)] * 2
    assert {row.basis for row in rows} == {"cost" if tells_cost else "computed"}
    assert {row.delivery for row in rows} == {"stream" if is_stream else "sync"}
    assert booked(guard) == (billed(standin), 0)
    told = [found for (found,) in ledgers.rows(ledger, "SELECT cached_tokens FROM charges")]
    assert told == [cached, cached]
    audit(guard)


@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_needs_no_change_goes_out_byte_for_byte(path: str, client: AnyClient, standin: StandIn) -> None:
    body = b" " + json.dumps(asked(path), indent=2).encode() + b"\n"
    client.post(url=path, content=body)
    assert standin.received[-1].body == body


@pytest.mark.parametrize("path", PATHS)
def test_a_call_over_budget_is_refused_and_not_sent(
    path: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    guard.set_budget("acme", "0.000001", per="total")
    with pytest.raises(BudgetExceeded):
        post(client, path)
    assert standin.received == []
    assert guard.ledger.tasks() == []


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"model":"x"}', b'{"model":"x","messages":[],"input":"",'
                                  b'"max_tokens":-1,"max_output_tokens":0}'])  # fmt: skip
def test_what_cannot_be_read_is_refused_and_not_sent(
    path: str, body: bytes, client: AnyClient, standin: StandIn
) -> None:
    with pytest.raises(InvalidRequest):
        client.post(url=path, content=body)
    assert standin.received == []


@pytest.mark.parametrize("path", PATHS)
def test_a_model_without_a_price_is_refused_unless_it_has_a_ceiling(
    path: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    with pytest.raises(UnpricedTask):
        post(client, path, model="minimax:m2.7@0")
    assert standin.received == []
    guard.set_ceiling("minimax:m2.7@0", "0.01")
    post(client, path, model="minimax:m2.7@0")
    assert booked(guard) == (billed(standin), 0)
    assert only_task(guard).basis == "cost"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 429])
@pytest.mark.parametrize("is_stream", [True, False])
def test_an_error_before_work_gives_the_hold_back_and_is_the_callers_own(
    path: str, status: int, is_stream: bool, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    standin.fault(f"status:{status}")
    response = post(client, path, stream=is_stream)
    assert response.status_code == status
    assert "errors" in response.json()
    row = only_task(guard)
    assert (row.status, row.held, row.charged) == ("released", 0, 0)
    audit(guard)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fault", ["status_billed:500", "status_billed:503", "html", "forget", "error_timeout",
                                  "no_content_400"])  # fmt: skip
def test_an_answer_in_doubt_stays_held_until_somebody_says_what_it_came_to(
    path: str, fault: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    standin.fault(fault)
    post(client, path)
    row = only_task(guard)
    assert row.status == "unresolved"
    assert row.held >= billed(standin) > 0
    guard.resolve(row.task_uuid, charged=standin.billed(), reason="by the invoice")
    assert booked(guard) == (billed(standin), 0)
    audit(guard)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("fault", ["stream_cut", "stream_error", "drop_after", "hang", "cut"])
def test_a_stream_that_is_cut_stays_held_and_is_listed(
    path: str, fault: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    standin.fault(fault)
    try:
        streamed(client, path)
    except client.module.TransportError:
        assert fault in ("drop_after", "hang", "cut")
    row = only_task(guard)
    assert row.status == "unresolved"
    assert row.held >= billed(standin) > 0
    audit(guard)


@pytest.mark.parametrize("path", PATHS)
def test_a_stream_that_is_closed_early_stays_held(
    path: str, guard: Guard, standin: StandIn, make_client: Callable[..., AnyClient]
) -> None:
    client = make_client("httpx.Client", guard, transport=memory(standin, "httpx.Client"))
    with client.bare.stream("POST", path, json=asked(path, stream=True)) as response:
        next(response.iter_bytes())
    assert only_task(guard).status == "unresolved"


@pytest.mark.parametrize("path", PATHS)
def test_an_answer_without_a_figure_is_charged_as_expected(
    path: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    standin.fault("no_cost")
    post(client, path)
    standin.fault("stream_no_cost")
    streamed(client, path)
    rows = guard.ledger.tasks()
    assert [(row.status, row.basis, row.held) for row in rows] == [("settled", "assumed", 0)] * 2
    assert all(row.charged > 0 for row in rows)
    audit(guard)


def test_lost_calls_are_never_asked_for_and_each_is_told(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    for path in PATHS:
        standin.fault("html")
        post(client, path)
    standin.fault("no_cost")
    post(client, CHAT)  # charged as assumed, which nobody can confirm
    seen = len(standin.received)
    if client.is_async:
        found = client.call(guard.areconcile, client.bare, min_age=0)
    else:
        found = guard.reconcile(client.bare, min_age=0)
    assert len(standin.received) == seen
    assert [(one.outcome, one.told) for one in found.left] == [("open", None)] * 3
    assert all("cannot be asked" in one.reason for one in found.left)
    assert found.answered
    lost = [row.task_uuid for row in guard.ledger.tasks() if row.held]
    assert sorted(lost) == sorted(one.task_uuid for one in found.left)


def test_a_native_call_that_asks_does_not_ask_for_them(
    client: AnyClient, guard: Guard, standin: StandIn, clock: Any
) -> None:
    standin.fault("html")
    post(client, CHAT, max_tokens=1000)
    clock.now += timedelta(hours=1)
    guard.set_budget("/", Decimal(only_task(guard).held + 1000) / NANOS, per="total")
    with pytest.raises(BudgetExceeded):
        client.post(a_task())
    assert [one.path for one in standin.received] == [CHAT]


@pytest.mark.parametrize("path", PATHS)
def test_a_lost_call_is_settled_by_an_imported_record_that_names_it(
    path: str, client: AnyClient, guard: Guard, standin: StandIn, clock: Any
) -> None:
    answer = standin.handle("POST", path, {}, json.dumps(asked(path)).encode())
    standin.fault("html")
    post(client, path)
    row = only_task(guard)
    record = {"at": clock.now.isoformat(), "taskUUID": row.task_uuid, "response": json.loads(b"".join(answer.chunks))}
    for _ in range(2):
        importer = Importer(guard.ledger, Source("log", "acme/search", "{}", "{}"))
        reader = Reader(guard.prices, at="at", model=None, timezone="UTC", now_us=guard.now_us)
        reading = reader.read(Piece(1, json.dumps(record).encode()))
        assert reading.faults == []
        booking, conflicts = importer.add(guard.now_us(), Batch(reading.tasks, 1, frozenset(), Mark()))
        assert conflicts == []
    assert booking.known == 1
    assert booked(guard) == (int(standin.bill[0].amount * NANOS), 0)
    assert only_task(guard).status == "settled"
    audit(guard)


@pytest.mark.parametrize("results", [1, 3])
def test_a_lost_call_is_charged_as_expected_once_it_is_as_old_as_the_caller_said(
    results: int,
    make_guard: Callable[..., Guard],
    make_client: Callable[..., AnyClient],
    standin: StandIn,
    clock: Any,
) -> None:
    guard = make_guard(lost_after="2d")
    client = make_client("httpx.Client", guard, transport=memory(standin, "httpx.Client"))
    standin.fault("html", times=2)
    post(client, CHAT, n=results)
    post(client, CHAT, model="minimax:m2.7@0")  # of which nothing is expected
    expected = next(a.expected for a in guard.ledger.open_attempts() if a.model == FLASH)
    clock.now += timedelta(days=2, seconds=-1)
    assert [one.outcome for one in guard.reconcile(client.bare).findings] == ["open", "open"]
    clock.now += timedelta(seconds=1)
    assert [one.outcome for one in guard.reconcile(client.bare).findings] == ["settled", "open"]
    assert [one.outcome for one in guard.reconcile(client.bare).findings] == ["open"]
    row = next(row for row in guard.ledger.tasks() if row.model == FLASH)
    assert (row.status, row.basis, row.charged, row.held) == ("settled", "assumed", expected, 0)
    assert len(standin.received) == 2
    audit(guard)


def test_what_was_accepted_to_be_made_in_the_background_stays_held_until_it_is_as_old(
    make_guard: Callable[..., Guard], clock: Any
) -> None:
    guard = make_guard(lost_after="2d")
    queued: dict[str, Any] = {"id": "resp_1", "object": "response", "status": "queued", "output": [], "usage": None}
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=queued))
    with httpx.Client(transport=transport, base_url=API) as client:
        guard.wrap(client).post(RESPONSES, json=asked(RESPONSES, background=True))
        assert (only_task(guard).status, only_task(guard).delivery) == ("held", "async")
        clock.now += timedelta(days=1)
        assert len(guard.reconcile(client).left) == 1
        clock.now += timedelta(days=1)
        assert len(guard.reconcile(client).settled) == 1
    assert (only_task(guard).basis, only_task(guard).held) == ("assumed", 0)
    audit(guard)


def test_a_lost_call_stays_held_for_ever_if_nobody_said_otherwise(
    client: AnyClient, guard: Guard, standin: StandIn, clock: Any
) -> None:
    standin.fault("html")
    post(client, CHAT)
    clock.now += timedelta(days=3000)
    if not client.is_async:
        assert guard.reconcile(client.bare).left
    assert only_task(guard).status == "unresolved"


@pytest.mark.parametrize("bad", ["soon", -1, True, 1.5])
def test_an_age_that_is_none_is_refused(bad: Any, make_guard: Callable[..., Guard]) -> None:
    with pytest.raises(ConfigurationError, match="lost_after"):
        make_guard(lost_after=bad)


# --- what the guard asks for beside the caller, and keeps for itself ---


def test_a_stream_is_made_to_tell_its_usage_and_the_caller_gets_no_piece_of_it(
    client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    said = streamed(client, CHAT)
    assert standin.received[-1].tasks[0]["stream_options"] == {"include_usage": True}
    bare = b"".join(standin.handle("POST", CHAT, {}, json.dumps(asked(CHAT, stream=True)).encode()).chunks)
    chunks = [json.loads(line[6:]) for line in said.split(b"\n") if line.startswith(b"data: {")]
    assert chunks
    assert all(chunk["choices"] for chunk in chunks)
    assert said.endswith(b"data: [DONE]\n\n")
    assert len(chunks) == bare.count(b"data: {")


def test_a_caller_who_asked_for_the_usage_gets_every_byte(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    said = streamed(client, CHAT, stream_options={"include_usage": True})
    body = standin.received[-1].body
    assert json.loads(body)["stream_options"] == {"include_usage": True}
    assert b'"choices":[],"usage":{' in said
    assert only_task(guard).status == "settled"


@pytest.mark.parametrize("options", [None, {}, {"include_usage": False}, {"include_usage": None, "x": 1}])
def test_other_options_of_a_stream_are_kept(options: Any, client: AnyClient, standin: StandIn) -> None:
    said = streamed(client, CHAT, stream_options=options)
    assert standin.received[-1].tasks[0]["stream_options"] == {**(options or {}), "include_usage": True}
    assert b'"choices":[]' not in said


@pytest.mark.parametrize("last", [b"data: [DONE]", b"data: [DONE]\r", b": bye", b"id: 7"])
def test_a_stream_that_ends_in_mid_line_is_passed_on_to_its_end(last: bytes, guard: Guard, standin: StandIn) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        reply = standin.handle("POST", request.url.path, {}, request.content)
        return httpx.Response(200, headers=reply.headers, content=iter([*reply.chunks[:-1], last]))

    with httpx.Client(transport=httpx.MockTransport(answer), base_url=API) as client:
        said = guard.wrap(client).post(CHAT, json=asked(CHAT, stream=True)).content
    assert said.endswith(last)
    assert b'"choices":[]' not in said
    assert booked(guard) == (billed(standin), 0)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
@pytest.mark.parametrize("size", [None, 7])
def test_an_encoded_stream_is_sieved_decoded(
    encoding: str, size: int | None, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    plain = streamed(client, CHAT)
    standin.content_encoding, standin.chunk_bytes = encoding, size
    said = streamed(client, CHAT)
    assert b'"choices":[]' not in said
    assert said.count(b"data:") == plain.count(b"data:")
    assert {row.status for row in guard.ledger.tasks()} == {"settled"}
    assert booked(guard) == (billed(standin), 0)


def test_a_stream_that_something_below_has_read_is_sieved_too(guard: Guard, standin: StandIn) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        reply = standin.handle("POST", request.url.path, dict(request.headers), request.content)
        return httpx.Response(200, headers=reply.headers, content=b"".join(reply.chunks))

    with httpx.Client(transport=httpx.MockTransport(answer), base_url="https://api.runware.ai") as client:
        said = guard.wrap(client).post(CHAT, json=asked(CHAT, stream=True)).content
    assert b'"choices":[]' not in said
    assert b"[DONE]" in said
    assert booked(guard) == (billed(standin), 0)


@pytest.mark.parametrize("path", PATHS)
def test_any_split_of_a_stream_gives_the_caller_the_same_bytes_and_the_ledger_the_same_charge(
    path: str, make_guard: Callable[..., Guard], standin: StandIn
) -> None:
    guard = make_guard()
    body = asked(path, stream=True)
    told = {**body, "stream_options": {"include_usage": True}} if path == CHAT else body
    said = b"".join(standin.handle("POST", path, {}, json.dumps(told).encode()).chunks)
    alone = next((event for event in said.split(b"\n\n") if b'"choices":[]' in event), None)
    theirs = said if alone is None else said.replace(alone + b"\n\n", b"")
    assert (alone is not None) is (path == CHAT)
    cuts: list[int] = []

    def answer(request: httpx.Request) -> httpx.Response:
        places = [0, *sorted(cut % len(said) for cut in cuts), len(said)]
        headers = {"content-type": "text/event-stream"}
        return httpx.Response(200, headers=headers, content=(said[a:b] for a, b in pairwise(places)))

    with httpx.Client(transport=httpx.MockTransport(answer), base_url=API) as client:
        guard.wrap(client)

        @settings(max_examples=40)
        @given(st.lists(st.integers(0, 10**4), max_size=20))
        def split(places: list[int]) -> None:
            cuts[:] = places
            response = client.post(path, json=body)
            assert response.content == theirs
            assert response.extensions["costguard"].charged == standin.billed()

        split()


@pytest.mark.parametrize("path", [RESPONSES, MESSAGES])
def test_streams_that_tell_their_usage_by_themselves_pass_as_they_are(
    path: str, client: AnyClient, standin: StandIn
) -> None:
    body = asked(path, stream=True)
    said = streamed(client, path)
    assert json.loads(standin.received[-1].body) == body
    again = StandIn()
    assert said == b"".join(again.handle("POST", path, {}, json.dumps(body).encode()).chunks)


# --- allowances ---


def test_several_choices_are_held_and_charged_together(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    one = post(client, CHAT)
    three = post(client, CHAT, n=3)
    assert len(three.json()["choices"]) == 3 * len(one.json()["choices"])
    assert streamed(client, CHAT, n=2)
    held = [response.extensions["costguard"].held for response in (one, three)]
    assert held[1] == 3 * held[0]
    assert booked(guard) == (billed(standin), 0)
    audit(guard)


@pytest.mark.parametrize("path", PATHS)
def test_without_a_stated_allowance_the_models_maximum_is_held(path: str, client: AnyClient) -> None:
    body = {key: value for key, value in asked(path).items() if not key.startswith("max")}
    stated = post(client, path, **{next(key for key in ASKED[path] if key.startswith("max")): 65_536})
    unstated = client.post(url=path, json=body)
    assert unstated.extensions["costguard"].held == stated.extensions["costguard"].held


@pytest.mark.parametrize(
    ("path", "stated", "lowered"),
    [
        (CHAT, {}, {"max_completion_tokens"}),
        (CHAT, {"max_tokens": 60_000}, {"max_tokens"}),
        (CHAT, {"max_tokens": 50_000, "max_completion_tokens": 60_000}, {"max_tokens", "max_completion_tokens"}),
        (RESPONSES, {}, {"max_output_tokens"}),
        (MESSAGES, {}, {"max_tokens"}),
    ],
)
def test_the_allowance_is_clamped_to_what_is_left(
    path: str, stated: dict[str, int], lowered: set[str], client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    guard.set_budget("acme", "0.001", per="total", action="clamp")
    body = {key: value for key, value in asked(path).items() if not key.startswith("max")}
    response = client.post(url=path, json={**body, **stated})
    sent = standin.received[-1].tasks[0]
    assert {key for key in sent if key.startswith("max")} == lowered
    assert len({sent[key] for key in lowered}) == 1
    assert response.extensions["costguard"].tasks[0].clamped_to == sent[next(iter(lowered))] < 400
    assert booked(guard) == (billed(standin), 0)


# --- other hosts, modes and carriers ---


@pytest.fixture
def served(standin: StandIn) -> Iterator[str]:
    with standin.serve() as url:
        yield url


def test_a_named_endpoint_on_loopback_ends_with_the_ledger_at_the_bill(
    kind: str,
    served: str,
    standin: StandIn,
    make_guard: Callable[..., Guard],
    make_client: Callable[..., AnyClient],
    tmp_path: Path,
) -> None:
    guard = make_guard(path=tmp_path / "loopback.db", endpoints=[f"{served}/v1"])
    guard.set_budget("/", "1", per="total")
    client = make_client(kind, guard, base_url=served)
    lost = 0
    for path in PATHS:
        for more in ({}, {"stream": True}, {"stream": True}, {}):
            if not lost % 3:
                standin.fault("status_billed:500")
            lost += 1
            post(client, path, **more)
    rows = guard.ledger.tasks()
    open_rows = [row for row in rows if row.held]
    assert len(open_rows) == 4
    assert {row.status for row in open_rows} == {"unresolved"}
    assert {row.status for row in rows if not row.held} == {"settled"}
    charged, held = booked(guard)
    assert charged <= billed(standin) <= charged + held
    audit(guard)


@pytest.mark.parametrize("path", PATHS)
def test_the_same_path_elsewhere_is_sent_as_it_is_with_a_word(
    path: str, client: AnyClient, guard: Guard, standin: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        client.post(url=f"https://llm.example{path}", json=asked(path, stream=True))
    assert "not metered yet" in caplog.text
    assert guard.ledger.tasks() == []
    assert "stream_options" not in json.loads(standin.received[-1].body)


@pytest.mark.parametrize("path", PATHS)
def test_observe_records_and_never_refuses(
    path: str, make_guard: Callable[..., Guard], standin: StandIn, make_client: Callable[..., AnyClient]
) -> None:
    guard = make_guard(mode="observe")
    guard.set_budget("/", "0.000001", per="total")
    client = make_client("httpx.Client", guard, transport=memory(standin, "httpx.Client"))
    post(client, path)
    assert client.post(url=path, content=b"{").status_code == 400
    assert booked(guard) == (billed(standin), 0)


def test_a_guard_that_is_off_changes_nothing_and_gives_a_receipt(
    make_guard: Callable[..., Guard], standin: StandIn, make_client: Callable[..., AnyClient]
) -> None:
    client = make_client("httpx.Client", make_guard(mode="off"), transport=memory(standin, "httpx.Client"))
    body = json.dumps(asked(CHAT, stream=True)).encode()
    response = client.post(url=CHAT, content=body)
    assert standin.received[-1].body == body
    (task,) = response.extensions["costguard"].tasks
    assert (task.status, task.model) == ("unrecorded", FLASH)


MANNERS: dict[str, tuple[Any, ...]] = {
    "tells_cost": (False,),
    "cached_tokens": (4,),
    "figures_as_text": (True,),
    "stream_whole": (True,),
    "chunk_bytes": (3, 61),
    "content_encoding": ("gzip", "deflate-raw", "deflate, gzip"),
    "sse_crlf": (True,),
    "sse_space": (False,),
    "sse_heartbeats": (False,),
    "sse_bom": (True,),
    "sse_single_newline": (True,),
    "sse_content_type": ("application/json", None),
}
A_MANNER = st.fixed_dictionaries(
    {name: st.sampled_from((getattr(StandIn(), name), *values)) for name, values in MANNERS.items()}
)
LOST = ("status_billed:500", "html", "forget", "error_timeout", "drop_after", "cut", "hang", "no_content_400")
FREE = ("status:401", "status:429", "redirect:307", "error_entry")


@settings(max_examples=30)
@given(st.data())
def test_after_any_mix_what_is_held_is_what_was_lost_and_the_rest_is_the_bill(data: st.DataObject) -> None:
    standin = StandIn()
    transport: Any = standin.transport()
    with tempfile.TemporaryDirectory() as folder, httpx.Client(transport=transport, base_url=API) as client:
        guard = Guard(Path(folder) / "l.db", "acme", durability="normal")
        guard.set_budget("/", "1", per="total")
        guard.wrap(client)
        lost = []
        for _ in range(data.draw(st.integers(1, 5))):
            for name, value in data.draw(A_MANNER).items():
                setattr(standin, name, value)
            path, is_stream = data.draw(st.sampled_from(PATHS)), data.draw(st.booleans())
            fault = data.draw(st.sampled_from((None, None, *LOST, *FREE, *(["stream_cut"] if is_stream else []))))
            if fault is not None:
                standin.fault(fault)
            before = len(standin.bill)
            with contextlib.suppress(httpx.TransportError):
                client.post(path, json=asked(path, stream=is_stream))
            if fault is not None and len(standin.bill) > before:
                lost.append(standin.bill[-1].amount)
        rows = guard.ledger.tasks()
        assert len([row for row in rows if row.held]) <= len(lost)
        unresolved = [row for row in rows if row.status == "unresolved"]
        assert {row.status for row in rows if row not in unresolved} <= {"settled", "released"}
        charged, held = booked(guard)
        # A cut may come behind the figures: then the call is charged, and not lost.
        assert charged <= billed(standin) <= charged + held
        assert billed(standin) - charged <= sum(lost) * NANOS
        if len(unresolved) == len(lost):
            assert charged == billed(standin) - sum(lost) * NANOS
        assert guard.reconcile(client, min_age=0).left == [
            Finding(row.task_uuid, "open", ANY, None) for row in sorted(unresolved, key=lambda row: row.at_us)
        ]
        assert guard.verify().difference is None
        guard.close()
