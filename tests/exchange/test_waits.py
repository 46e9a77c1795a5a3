"""One bound for all that a call, or closing, waits for a ledger that others keep."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import CLIENTS, AnyClient, a_task, memory

from costguard import Guard
from costguard.errors import LedgerError
from costguard.ledger.engines.patience import Patience
from costguard.ledger.engines.sqlite import SqliteEngine
from costguard.testing import StandIn

MakeClient = Callable[..., AnyClient]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Patience]:
    """Another program keeps the ledger from here on: the wait that each attempt to write had."""
    waits: list[Patience] = []

    def keep(_: object, __: object, wait: Patience) -> Any:
        waits.append(wait)
        raise LedgerError("other processes keep the ledger's lock")

    monkeypatch.setattr(SqliteEngine, "_write", keep)
    return waits


def fall_behind(guard: Guard, endings: int) -> None:
    """Some endings are still to be written."""
    for number in range(endings):
        guard.settlement._backlog.append((number, ()))


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_call_with_endings_to_write_before_it_waits_once(
    kind: str, guard: Guard, standin: StandIn, make_client: MakeClient, kept: list[Patience]
) -> None:
    client = make_client(kind, guard, transport=memory(standin, kind))
    fall_behind(guard, 2)
    with pytest.raises(LedgerError, match="other processes"):
        client.post(a_task())
    assert len(kept) == 2, "the endings, and the call's own"
    assert len(set(map(id, kept))) == 1
    assert standin.received == []


@pytest.mark.parametrize("kind", CLIENTS)
def test_an_answer_that_tells_of_other_tasks_waits_once(
    kind: str, guard: Guard, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = a_task(deliveryMethod="async"), a_task()
    result = {"taskType": "textInference", "text": "x", "cost": 0.0001}
    told = [{**result, "taskUUID": task["taskUUID"]} for task in (first, other)]
    waits: list[Patience] = []
    write = SqliteEngine._write

    def watch(engine: SqliteEngine, op: Any, wait: Patience) -> Any:
        waits.append(wait)
        return write(engine, op, wait)

    monkeypatch.setattr(SqliteEngine, "_write", watch)

    def handler(request: Any) -> Any:
        module = __import__(type(request).__module__.partition(".")[0])
        waits.clear()
        return module.Response(200, json={"data": told})

    client = make_client(kind, guard)
    transport = client.module.MockTransport(handler)
    sending = guard.async_transport(transport) if client.is_async else guard.transport(transport)
    make_client(kind, None, transport=sending).post(other)
    assert len(set(map(id, waits))) == 1


def test_closing_waits_once_for_all_that_is_to_be_written(guard: Guard, kept: list[Patience]) -> None:
    fall_behind(guard, 3)
    guard.close()
    first, *rest = kept
    assert all(wait is first or wait.deadline < first.deadline for wait in rest), "the files have a shorter one"
