"""A second dialect is one file and one registration: nothing else in the house changes for it.

The tiny wire: `POST /tiny` with `{"ask": "…", "id": 7, "most": 50}`, where `"tell": true` makes it tell its
price. It answers `{"id": 7, "paid": "0.0012"}` or `{"id": 7, "no": "why"}`; with `"flow": true` in lines, such as
`paid 0.0012`, and `over` at the end.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import pytest
from conftest import FLASH, AnyClient, audit, module_of, only_task

from costguard import BudgetExceeded, Guard, InvalidRequest, wire
from costguard.money import from_provider
from costguard.tasks import Prompt, Task
from costguard.wire.dialect import (
    Ack,
    Answers,
    Dialect,
    Doubt,
    Ending,
    Figures,
    Judgement,
    Named,
    NotTasks,
    Problem,
    Refused,
    Request,
    Result,
    Success,
    Target,
)


class TinyRequest:
    def __init__(self, body: bytes, task: Task) -> None:
        self._body = body
        self.tasks: tuple[Task, ...] = (task,)
        self.changed = json.loads(body) != task.raw

    def body(self) -> bytes:
        return json.dumps(self.tasks[0].raw).encode() if self.changed else self._body

    def lower(self, task: Task, tokens: int) -> None:
        self.changed = True
        task.max_tokens = task.raw["most"] = tokens


class TinyListener:
    def __init__(self, uuid: str) -> None:
        self._uuid = uuid
        self._said = b""

    def feed(self, chunk: bytes) -> None:
        self._said += chunk

    def judge(self, cut: str | None) -> Judgement:
        lines = self._said.decode().split("\n")
        paid = [line.removeprefix("paid ") for line in lines if line.startswith("paid ")]
        if paid and (cut is None or "over" in lines):
            return Judgement({self._uuid: Success((result(paid[-1]),))})
        return Judgement({self._uuid: Doubt(cut or "it never told its price")})


class Tiny:
    name = "tiny"
    prefix = "tiny-"

    def claims(self, target: Target) -> bool | None:
        return target.path == "/tiny"

    def recognises(self, body: bytes) -> bool:
        return b'"ask"' in body

    def problem(self, problem: Problem, body: bytes) -> bytes:
        return json.dumps({"no": problem.message}).encode()

    def shows_tasks(self, body: bytes) -> bool:
        return self.recognises(body)

    def read(self, body: bytes) -> Request:
        try:
            told = json.loads(body)
        except ValueError:
            raise InvalidRequest("tiny: not JSON") from None
        if not isinstance(told, dict) or "ask" not in told:
            raise NotTasks("tiny: nothing is asked")
        return TinyRequest(body, self.task(told))

    def name_tasks(self, body: bytes) -> Named | None:
        return None

    def task(self, told: Mapping[str, Any]) -> Task:
        raw = {**told, "tell": True}
        return Task(
            uuid=f"tiny-{told['id']}",
            task_type="textInference",
            model=FLASH,
            billable=True,
            delivery="stream" if told.get("flow") else "sync",
            results=1,
            max_tokens=told.get("most"),
            raw=raw,
            prompt=Prompt((told["ask"],)),
        )

    def is_stream(self, tasks: Sequence[Task], status: int, content_type: str) -> bool:
        return status == 200 and tasks[0].delivery == "stream"

    def judge(self, tasks: Sequence[Task], status: int, body: bytes) -> Judgement:
        uuid = tasks[0].uuid
        if status != 200:
            return Judgement({uuid: Doubt(f"tiny {status}")})
        return Judgement({uuid: ending(json.loads(body))})

    def listen(self, tasks: Sequence[Task]) -> TinyListener:
        return TinyListener(tasks[0].uuid)

    def dialogue(self) -> None:
        return None

    def sieve(self, tasks: Sequence[Task]) -> None:
        return None

    def observe(self, payload: object) -> Judgement | None:
        if not isinstance(payload, dict) or "id" not in payload:
            return None
        return Judgement({}, {f"tiny-{payload['id']}": ending(payload)})

    def question(self, spellings: Iterable[str], request: Request | None) -> bytes | None:
        return None

    def answers(self, task_uuids: Iterable[str], status: int, body: bytes) -> Answers:
        return Answers({}, frozenset(), {}, "this wire is never asked", refused_whole=False, told=False)


def result(paid: str) -> Result:
    return Result(None, None, Figures(cost=from_provider(Decimal(paid))))


def ending(told: dict[str, Any]) -> Ending:
    if "paid" in told:
        return Success((result(told["paid"]),))
    return Refused(told["no"]) if "no" in told else Ack()


TINY: Dialect = Tiny()
HOST = "https://tiny.example"
ASKED = {"ask": "What colour is the harbour?", "id": 7, "most": 50}
PAID = {"id": 7, "paid": "0.000123"}


async def asynchronous(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


class Provider:
    """Answers in the tiny wire; keeps what arrived, and what the guard had in hand at that moment."""

    def __init__(self, guard: Guard, answer: Any = PAID, status: int = 200) -> None:
        self.guard = guard
        self.answer = answer
        self.status = status
        self.received: list[bytes] = []
        self.held: list[Decimal] = []

    def transport(self, kind: str) -> Any:
        """One for a kind of client. Bytes are streamed, all else is answered whole."""
        module = module_of(kind)

        def handle(request: Any) -> Any:
            self.received.append(request.content)
            self.held.append(sum((status.held for status in self.guard.status()), Decimal(0)))
            if not isinstance(self.answer, bytes):
                return module.Response(self.status, json=self.answer)
            pieces = [self.answer[at : at + 5] for at in range(0, len(self.answer), 5)]
            return module.Response(self.status, content=asynchronous(pieces) if "Async" in kind else iter(pieces))

        return module.MockTransport(handle)

    @property
    def last(self) -> Any:
        return json.loads(self.received[-1])


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "DIALECTS", (*wire.DIALECTS, TINY))


@pytest.fixture
def provider(guard: Guard) -> Provider:
    return Provider(guard)


@pytest.fixture
def tiny(kind: str, guard: Guard, provider: Provider, make_client: Callable[..., AnyClient]) -> AnyClient:
    """A guarded client of each kind over the tiny provider."""
    return make_client(kind, guard, transport=provider.transport(kind), base_url=HOST)


def ask(client: AnyClient, **more: Any) -> Any:
    return client.post(url="/tiny", json={**ASKED, **more})


def test_a_call_is_held_made_to_tell_its_price_and_settled_at_it(
    tiny: AnyClient, guard: Guard, provider: Provider
) -> None:
    upper = guard.gate.estimate(TINY.task(ASKED), guard.now_us(), guard.gate.options()).upper
    assert ask(tiny).json() == PAID
    assert provider.last == {**ASKED, "tell": True}
    assert provider.held == [upper]
    row = only_task(guard)
    assert (row.task_uuid, row.status, row.charged, row.held) == ("tiny-7", "settled", 123_000, 0)
    assert row.basis == "cost"
    audit(guard)


def test_a_body_that_needs_no_change_goes_out_byte_for_byte(tiny: AnyClient, provider: Provider) -> None:
    body = b' {"ask" : "x", "id": 7, "most": 9, "tell": true}\n'
    tiny.post(url="/tiny", content=body)
    assert provider.received == [body]


def test_the_allowance_is_clamped_to_what_is_left(tiny: AnyClient, guard: Guard, provider: Provider) -> None:
    guard.set_budget("acme", "0.0001", per="total", action="clamp")
    ask(tiny, most=5000)
    assert 0 < provider.last["most"] < 5000
    assert max(provider.held) <= Decimal("0.0002"), "held under both budgets, at the lowered allowance"
    assert only_task(guard).status == "settled"
    audit(guard)


def test_a_call_over_budget_is_refused_and_not_sent(tiny: AnyClient, guard: Guard, provider: Provider) -> None:
    guard.set_budget("acme", "0.000001", per="total")
    with pytest.raises(BudgetExceeded) as caught:
        ask(tiny)
    assert (caught.value.budget.project, caught.value.remaining) == ("acme", Decimal("0.000001"))
    assert provider.received == []
    assert guard.ledger.tasks() == []


def test_what_cannot_be_read_is_refused_and_not_sent(tiny: AnyClient, provider: Provider) -> None:
    with pytest.raises(InvalidRequest):
        tiny.post(url="/tiny", content=b"{")
    assert provider.received == []


def test_a_refusal_gives_the_hold_back(tiny: AnyClient, guard: Guard, provider: Provider) -> None:
    provider.answer = {"id": 7, "no": "it is night"}
    ask(tiny)
    row = only_task(guard)
    assert (row.status, row.charged, row.held, row.reason) == ("released", 0, 0, "it is night")
    audit(guard)


@pytest.mark.parametrize("told", [b"paid 0.000123\nover\n", b"grey\npaid 0.0001\nwet\npaid 0.000123\nover\n"])
def test_a_stream_is_heard_and_settled_at_its_figure(
    tiny: AnyClient, guard: Guard, provider: Provider, told: bytes
) -> None:
    provider.answer = told
    assert ask(tiny, flow=True).content == told
    row = only_task(guard)
    assert (row.status, row.charged, row.held, row.delivery) == ("settled", 123_000, 0, "stream")
    audit(guard)


@pytest.mark.parametrize("failure", [{"status": 500}, {"answer": b"grey\n", "flow": True}])
def test_an_outcome_in_doubt_stays_held_until_it_is_observed(
    tiny: AnyClient, guard: Guard, provider: Provider, failure: dict[str, Any]
) -> None:
    provider.status = failure.get("status", 200)
    provider.answer = failure.get("answer", PAID)
    ask(tiny, flow=failure.get("flow", False))
    before = only_task(guard)
    assert (before.status, before.charged) == ("unresolved", 0)
    assert before.held > 0
    assert guard.observe(PAID) == 1
    assert guard.observe(PAID) == 0
    row = only_task(guard)
    assert (row.status, row.charged, row.held) == ("settled", 123_000, 0)
    audit(guard)


def test_both_wires_are_observed_side_by_side(tiny: AnyClient, guard: Guard, provider: Provider) -> None:
    provider.answer = {"id": 7}
    ask(tiny)
    assert guard.observe([{"taskUUID": "tiny-7", "text": "x", "status": "processing"}]) == 0
    assert guard.observe({"id": 8, "paid": "0.5"}) == 0
    assert only_task(guard).status == "held"
    assert guard.observe(PAID) == 1


def test_native_tasks_and_other_posts_go_their_own_ways(tiny: AnyClient, guard: Guard, provider: Provider) -> None:
    provider.answer = {"data": [{"taskUUID": "n", "text": "grey", "cost": 0.0001}]}
    tiny.post({"taskType": "textInference", "taskUUID": "n", "model": FLASH, "settings": {"maxTokens": 50}}, url="/v1")
    assert provider.last[0]["includeCost"] is True
    assert (only_task(guard).task_uuid, only_task(guard).charged) == ("n", 100_000)
    tiny.post(url="/elsewhere", json=ASKED)
    assert provider.last == ASKED
    assert len(guard.ledger.tasks()) == 1


def test_without_its_registration_the_same_call_passes(
    tiny: AnyClient, guard: Guard, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "DIALECTS", (wire.NATIVE,))
    ask(tiny)
    assert provider.last == ASKED
    assert guard.ledger.tasks() == []
