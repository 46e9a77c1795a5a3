"""A call in OpenAI's or Anthropic's form is known again by what the provider called its response: it is never booked
twice, and a lost one ends by a record that tells its name.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import FLASH, audit, only_task
from spools import look, weather

from costguard import Guard
from costguard.exchange.pieces import Piece
from costguard.exchange.recorded import Reader
from costguard.ledger.accounting.importing import Batch, Booking, Conflict, Importer, Mark, Source
from costguard.ledger.records import Called
from costguard.ledger.spooled import Ended, Writing
from costguard.money import NANOS
from costguard.testing import StandIn

pytestmark = pytest.mark.usefixtures("each_engine")

API = "https://api.runware.ai"
CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
PATHS = (CHAT, RESPONSES, MESSAGES)
ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": "Describe the harbour."}], "max_tokens": 100},
    RESPONSES: {"input": "Describe the harbour.", "max_output_tokens": 100},
    MESSAGES: {"messages": [{"role": "user", "content": "Describe the harbour."}], "max_tokens": 100},
}


class Provider:
    """The stand-in over httpx, which remembers its responses: `log` is each as a log keeps it, whole.

    `loses`: so many bytes of a response arrive, and the connection breaks; None: all. `says`: what it answers in place
    of the stand-in. `behind`: what happens once a response is made, before any of it arrives.
    """

    def __init__(self, standin: StandIn) -> None:
        self.standin = standin
        self.log: list[dict[str, Any]] = []
        self.loses: int | None = None
        self.says: httpx.Response | None = None
        self.behind: Callable[[dict[str, Any]], object] = bool

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if self.says is not None:
            return self.says
        asked = json.loads(request.content)
        asked.get("stream_options", {}).pop("include_usage", None)
        reply = self.standin.handle("POST", request.url.path, {}, request.content)
        said = b"".join(reply.chunks)
        if reply.status == 200:
            self.log.append(whole(request.url.path, said))
            self.behind(self.log[-1])
        sent = said if self.loses is None else said[: self.loses]
        pieces = iter([sent]) if self.loses is None else cut(sent)
        return httpx.Response(reply.status, headers=reply.headers, content=pieces)


def cut(sent: bytes) -> Any:
    yield sent
    raise httpx.ReadError("broken")


def whole(path: str, said: bytes) -> dict[str, Any]:
    """The response that was made, as a GET of it would tell, whether it came as a stream or not."""
    if said.startswith(b"{"):
        found: dict[str, Any] = json.loads(said)
        return found
    told = [json.loads(line[6:]) for line in said.split(b"\n") if line.startswith(b"data: {")]
    if path == RESPONSES:
        response: dict[str, Any] = told[-1]["response"]
        return response
    if path == CHAT:
        return {**told[-1], "object": "chat.completion", "choices": [{"index": 0}]}
    start, end = told[0]["message"], next(one for one in told if one["type"] == "message_delta")
    return {**start, "stop_reason": "end_turn", "usage": {**start["usage"], **end["usage"]}}


@pytest.fixture
def provider(standin: StandIn) -> Provider:
    return Provider(standin)


@pytest.fixture
def client(guard: Guard, provider: Provider) -> httpx.Client:
    return guard.wrap(httpx.Client(base_url=API, transport=httpx.MockTransport(provider)))


def post(client: httpx.Client, path: str, **more: Any) -> Any:
    body = {"model": FLASH, **ASKED[path], **more}
    try:
        return client.post(path, json=body)
    except httpx.ReadError:
        return None


def imported(guard: Guard, clock: Any, *responses: Any, project: str = "acme/search") -> tuple[Booking, list[Conflict]]:
    importer = Importer(guard.ledger, Source("log", project, "{}", "{}"))
    reader = Reader(guard.prices, at="at", model=None, timezone="UTC", now_us=guard.now_us)
    tasks = []
    for number, response in enumerate(responses, start=1):
        record = {"at": clock.now.isoformat(), "response": response}
        reading = reader.read(Piece(number, json.dumps(record).encode()))
        assert reading.faults == []
        tasks += reading.tasks
    return importer.add(guard.now_us(), Batch(tasks, len(responses), frozenset(), Mark()))


def booked(guard: Guard) -> tuple[int, int, int]:
    """Tasks, and what is charged and held of them."""
    rows = guard.ledger.tasks()
    return len(rows), sum(row.charged for row in rows), sum(row.held for row in rows)


def names(guard: Guard) -> list[Any]:
    """What the ledger knows calls by beside its own names."""
    return guard.ledger._engine.read(lambda tx: tx.all("SELECT name, task_uuid FROM aliases"))


def billed(standin: StandIn) -> int:
    return int(standin.billed() * NANOS)


def told_later(guard: Guard, clock: Any, road: str, response: Any) -> None:
    """What became of a call comes by another road."""
    if road == "import":
        _, conflicts = imported(guard, clock, response)
        assert conflicts == []
    else:
        guard.observe(response)
        guard.observe(json.dumps(response))


ROADS = ("import", "observe")


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_log_of_guarded_calls_books_none_of_them_again(
    road: str, path: str, is_stream: bool, client: Any, guard: Guard, provider: Provider, clock: Any
) -> None:
    for tells_cost in (True, False):
        provider.standin.tells_cost = tells_cost
        post(client, path, stream=is_stream)
    before = booked(guard)
    assert before == (2, billed(provider.standin), 0)
    for _ in range(2):
        for response in provider.log:
            told_later(guard, clock, road, response)
    assert booked(guard) == before
    audit(guard)


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize(("path", "more"), [(CHAT, {}), (CHAT, {"n": 3}), (RESPONSES, {}), (MESSAGES, {})])
def test_a_stream_that_was_lost_is_settled_by_its_record(
    road: str, path: str, more: dict[str, Any], client: Any, guard: Guard, provider: Provider, clock: Any
) -> None:
    provider.loses = 500
    post(client, path, stream=True, **more)
    assert only_task(guard).status == "unresolved"
    for _ in range(2):
        told_later(guard, clock, road, provider.log[0])
    assert booked(guard) == (1, billed(provider.standin), 0)
    assert only_task(guard).status == "settled"
    audit(guard)


@pytest.mark.parametrize("road", ROADS)
def test_a_response_that_is_made_in_the_background_is_settled_once_it_is_told(
    road: str, client: Any, guard: Guard, provider: Provider, clock: Any
) -> None:
    queued = {"id": "resp_9", "object": "response", "status": "queued", "model": FLASH, "usage": None}
    provider.says = httpx.Response(200, json=queued)
    post(client, RESPONSES, background=True)
    assert only_task(guard).held
    guard.observe({**queued, "status": "in_progress", "usage": {"input_tokens": 4, "output_tokens": 1}})
    assert only_task(guard).held
    usage = {"input_tokens": 4, "output_tokens": 9}
    for _ in range(2):
        told_later(guard, clock, road, {**queued, "status": "completed", "output": [], "usage": usage})
    row = only_task(guard)
    assert (row.status, row.held, row.charged) == ("settled", 0, 4 * 500 + 9 * 3000)
    audit(guard)


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("path", PATHS)
def test_a_name_that_fits_two_calls_changes_nothing_and_is_said(
    road: str, path: str, client: Any, guard: Guard, provider: Provider, clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    post(client, path)
    provider.says = httpx.Response(200, json=provider.log[0])
    post(client, path)
    before = booked(guard)
    other = {**provider.log[0], "usage": {**provider.log[0]["usage"], "cost": 0.5}}
    if road == "import":
        _, conflicts = imported(guard, clock, other)
        assert "2 tasks of this ledger were answered by that name" in conflicts[0].why
    else:
        with caplog.at_level(logging.WARNING, "costguard"):
            told_later(guard, clock, road, other)
        assert "2 tasks were answered by that name" in caplog.text
    assert booked(guard) == before
    audit(guard)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("ends", ["plain", "streamed", "cut"])
def test_what_was_imported_before_its_own_ending_came_is_charged_once(
    path: str, ends: str, client: Any, guard: Guard, provider: Provider, clock: Any
) -> None:
    provider.behind = lambda response: imported(guard, clock, response)
    provider.loses = 500 if ends == "cut" else None
    for tells_cost in (True, False):
        provider.standin.tells_cost = tells_cost
        post(client, path, stream=ends != "plain")
    assert sorted(row.status for row in guard.ledger.tasks()) == ["released", "released", "settled", "settled"]
    after = (4, billed(provider.standin), 0)
    assert booked(guard) == after
    for road in ROADS:
        for response in provider.log:
            told_later(guard, clock, road, response)
    assert booked(guard) == after
    assert not {response["id"] for response in provider.log} & set(guard.ledger.unconfirmed(guard.now_us()))
    audit(guard)


def test_what_its_own_ending_tells_better_takes_the_place_of_what_was_imported(
    client: Any, guard: Guard, provider: Provider, clock: Any
) -> None:
    def log(response: dict[str, Any]) -> None:
        usage = {key: value for key, value in response["usage"].items() if key != "cost"}
        imported(guard, clock, {**response, "usage": usage})

    provider.behind = log
    post(client, CHAT)
    (row,) = [row for row in guard.ledger.tasks() if row.charged]
    assert (row.task_uuid, row.basis) == (provider.log[0]["id"], "cost")
    assert booked(guard) == (2, billed(provider.standin), 0)
    audit(guard)


@pytest.mark.parametrize("why", ["older", "other figures", "other project", "a second call"])
def test_what_was_imported_by_that_name_of_another_call_takes_no_charge_away(
    why: str, client: Any, guard: Guard, provider: Provider, clock: Any
) -> None:
    said: dict[str, Any] = {"id": "chatcmpl-1", "model": FLASH, "choices": [{"index": 0}]}
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "cost": 0.25}
    logged = {**said, "usage": {**usage, "cost": 0.5} if why == "other figures" else usage}
    project = "acme/other" if why == "other project" else "acme/search"

    def answer(request: httpx.Request) -> httpx.Response:
        if why != "older" and len(guard.ledger.tasks()) == 1:
            imported(guard, clock, logged, project=project)
        return httpx.Response(200, json={**said, "usage": usage})

    if why == "older":
        imported(guard, clock, logged)
        clock.now += timedelta(seconds=1)
    own = guard.wrap(httpx.Client(base_url=API, transport=httpx.MockTransport(answer)))
    for _ in range(2 if why == "a second call" else 1):
        post(own, CHAT)
    charged = 750_000_000 if why == "other figures" else 500_000_000
    assert booked(guard) == (3 if why == "a second call" else 2, charged, 0)
    audit(guard)


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("name", ["5D41402A-BC4B-2A76-B971-9D911017C592", "A-1"])
def test_a_name_that_is_a_uuid_is_known_again_in_any_case(
    road: str, name: str, client: Any, guard: Guard, provider: Provider, clock: Any
) -> None:
    usage: dict[str, Any] = {"prompt_tokens": 3, "completion_tokens": 4}
    said: dict[str, Any] = {
        "id": name,
        "object": "chat.completion",
        "model": FLASH,
        "choices": [{"index": 0}],
        "usage": usage,
    }
    provider.says = httpx.Response(200, json=said)
    post(client, CHAT)
    before = booked(guard)
    for spelled in (name, name.lower()) if name.count("-") == 4 else (name,):
        told_later(guard, clock, road, {**said, "id": spelled})
    assert booked(guard) == before
    guard.observe({**said, "usage": {**usage, "cost": 0.25}})
    assert booked(guard) == (1, 250_000_000, 0)


def test_what_is_not_of_this_ledger_is_imported_as_ever(
    client: Any, guard: Guard, provider: Provider, clock: Any
) -> None:
    post(client, CHAT)
    stranger = {**provider.log[0], "id": "chatcmpl-stranger"}
    assert guard.observe(stranger) == 0
    came, conflicts = imported(guard, clock, stranger, provider.log[0])
    assert (came.tasks, came.known, conflicts) == (1, 1, [])
    assert booked(guard)[0] == 2
    audit(guard)


def test_a_record_that_says_otherwise_is_a_conflict(client: Any, guard: Guard, provider: Provider, clock: Any) -> None:
    post(client, CHAT)
    before = booked(guard)
    usage = provider.log[0]["usage"]
    _, conflicts = imported(guard, clock, {**provider.log[0], "usage": {**usage, "completion_tokens": 77, "cost": 3}})
    assert len(conflicts) == 1
    assert booked(guard) == before


@pytest.mark.parametrize("status", [400, 429])
def test_what_was_refused_has_no_name(status: int, client: Any, guard: Guard, provider: Provider) -> None:
    provider.says = httpx.Response(status, json={"id": "chatcmpl-1", "error": {"message": "no"}})
    post(client, CHAT)
    assert names(guard) == []


@pytest.mark.parametrize("name", ["", "x" * 300, "two\nlines", 7, None, {}])
def test_a_name_that_is_none_is_not_kept(name: Any, client: Any, guard: Guard, provider: Provider) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    provider.says = httpx.Response(200, json={"id": name, "choices": [{"index": 0}], "usage": usage})
    post(client, CHAT)
    assert only_task(guard).status == "settled"
    assert names(guard) == []


def test_a_record_of_the_guards_own_name_is_asked_for_first(
    client: Any, guard: Guard, provider: Provider, clock: Any
) -> None:
    post(client, CHAT)
    row = only_task(guard)
    assert names(guard) == [(provider.log[0]["id"], row.task_uuid)]
    booking, conflicts = imported(guard, clock, {**provider.log[0], "id": "chatcmpl-other", "taskUUID": row.task_uuid})
    assert (booking.known, booking.tasks, conflicts) == (1, 0, [])


def test_a_spool_keeps_the_name() -> None:
    ended = Ended("key", 1, (Called(0, "chatcmpl-1"),))
    assert Writing().record(Writing().text(ended)) == ended


@pytest.mark.parametrize("ends", ["plain", "cut"])
def test_what_was_imported_before_a_spool_was_told_is_charged_once(
    ends: str, make_guard: Callable[..., Guard], provider: Provider, clock: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("COSTGUARD_SPOOL", str(tmp_path / "spool"))
    with weather() as sky:
        guard = make_guard(path=tmp_path / "here.db", on_ledger_error="allow")
        client = guard.wrap(httpx.Client(base_url=API, transport=httpx.MockTransport(provider)))
        provider.loses = 500 if ends == "cut" else None
        sky.away = True
        post(client, CHAT, stream=ends == "cut")
        sky.away = False
        other = make_guard(path=tmp_path / "here.db")
        assert imported(other, clock, *provider.log)[1] == []
        assert booked(other) == (1, billed(provider.standin), 0)
        assert look(guard)
        for _ in range(2):
            assert booked(other) == (2, billed(provider.standin), 0)
            told_later(other, clock, "import", provider.log[0])
        audit(other)
