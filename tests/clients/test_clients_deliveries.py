"""Each client library over a loopback port, by every delivery: what the server bills is what the ledger says.

Each client is tried twice: with the guard in it, and as it is in a process that has a guard installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from typing import Any

import httpx
import pytest
from conftest import FLASH, AnyClient, a_task, audit, every_client
from loopback import flush
from roads import agree, read_stream

import costguard
from costguard import BudgetExceeded, Guard
from costguard.money import NANOS
from costguard.testing import StandIn

FORMS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Describe the harbour."}], "max_tokens": 100},
    "/v1/responses": {"input": "Describe the harbour.", "max_output_tokens": 100},
    "/v1/messages": {"messages": [{"role": "user", "content": "Describe the harbour."}], "max_tokens": 100},
}
each_form = pytest.mark.parametrize("path", FORMS)


@pytest.fixture
def url(standin: StandIn) -> Iterator[str]:
    """Where the stand-in is served."""
    with standin.serve() as served:
        yield served


@pytest.fixture
def guard(make_guard: Callable[..., Guard], url: str) -> Guard:
    """A guard that knows the stand-in, under a hard budget."""
    guard = make_guard(endpoints=[f"{url}/v1"])
    guard.set_budget("/", "1", per="total")
    return guard


@pytest.fixture(params=["wrapped", "installed"])
def client(
    request: pytest.FixtureRequest, kind: str, guard: Guard, url: str, make_client: Callable[..., AnyClient]
) -> Iterator[AnyClient]:
    """A client of each kind that calls the stand-in, guarded in each way."""
    is_wrapped = request.param == "wrapped"
    if not is_wrapped:
        costguard.install(guard)
    yield make_client(kind, guard if is_wrapped else None, base_url=url, trust_env=False)
    costguard.uninstall()


def asked(path: str, **more: Any) -> dict[str, Any]:
    return {"model": FLASH, **FORMS[path], **more}


def booked(guard: Guard) -> tuple[Decimal, Decimal | int]:
    """USD charged and held, when all is written."""
    flush(guard)
    rows = guard.ledger.tasks()
    return Decimal(sum(row.charged for row in rows)) / NANOS, Decimal(sum(row.held for row in rows)) / NANOS


@every_client
def test_native_calls_are_charged_at_the_bill(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    client.post(a_task(), a_task(numberResults=2))
    flush(guard)
    assert agree(guard, standin)


@every_client
def test_native_streams_are_charged_at_the_bill(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    seen: list[bytes] = []
    read_stream(client, a_task(deliveryMethod="stream"), on_chunk=seen.append)
    assert b"[DONE]" in b"".join(seen)
    flush(guard)
    assert agree(guard, standin)


@every_client
def test_native_polls_settle_at_the_bill(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    task = a_task(deliveryMethod="async", numberResults=2)
    client.post(task)
    assert booked(guard)[1] > 0
    for _ in range(4):
        client.post({"taskType": "getResponse", "taskUUID": task["taskUUID"]})
    flush(guard)
    assert agree(guard, standin)


@every_client
@pytest.mark.parametrize("delivery", ["sync", "stream", "async"])
def test_native_calls_that_were_lost_are_the_bill_after_one_reconcile(
    delivery: str, client: AnyClient, guard: Guard, standin: StandIn, url: str
) -> None:
    task = a_task(deliveryMethod=delivery)
    standin.fault("cut" if delivery == "stream" else "drop_after", task_uuid=task["taskUUID"])
    send: Callable[..., Any] = partial(read_stream, client) if delivery == "stream" else client.post
    with pytest.raises(Exception, match=r"(?s).*"):
        send(task)
    assert booked(guard)[1] >= standin.billed() > 0
    with httpx.Client(base_url=url, trust_env=False) as asking:
        guard.reconcile(asking, min_age="0s")
    flush(guard)
    assert agree(guard, standin)


@every_client
def test_over_budget_the_client_raises_the_refusal_itself_and_sends_nothing(
    client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    guard.set_budget("/", "0.000001", per="total")
    with pytest.raises(BudgetExceeded):
        client.post(a_task())
    with pytest.raises(BudgetExceeded):
        read_stream(client, a_task(deliveryMethod="stream"))
    for path in FORMS:
        with pytest.raises(BudgetExceeded):
            client.post(url=path, json=asked(path))
    assert (standin.received, guard.ledger.tasks()) == ([], [])


@every_client
@each_form
def test_calls_in_other_forms_are_charged_at_the_bill(
    path: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    assert b"harbour" in client.post(url=path, json=asked(path)).content
    assert booked(guard) == (standin.billed(), 0)
    audit(guard)


@every_client
@each_form
def test_streams_in_other_forms_are_charged_at_the_bill(
    path: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    seen: list[bytes] = []
    read_stream(client, url=path, json=asked(path, stream=True), on_chunk=seen.append)
    assert b"harbour" in b"".join(seen)
    assert booked(guard) == (standin.billed(), 0)
    audit(guard)


@every_client
@each_form
def test_calls_in_other_forms_that_were_lost_are_all_that_is_held(
    path: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    client.post(url=path, json=asked(path))
    paid = standin.billed()
    standin.fault("drop_after")
    with pytest.raises(Exception, match=r"(?s).*"):
        client.post(url=path, json=asked(path))
    standin.fault("cut")
    with pytest.raises(Exception, match=r"(?s).*"):
        read_stream(client, url=path, json=asked(path, stream=True))
    charged, held = booked(guard)
    assert charged == paid
    assert held >= standin.billed() - paid > 0
    assert [row.status for row in guard.ledger.tasks() if row.held] == ["unresolved"] * 2
    audit(guard)
