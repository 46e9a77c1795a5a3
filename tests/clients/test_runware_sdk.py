"""The Runware SDK: wrapped in place, guarded over HTTP, and refused where it is not known."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any

import aiohttp
import pytest
import runware
from conftest import Clock, a_task, sent_tasks
from runware_sdk import reconciled, rest, run, unhurried

from costguard import BudgetExceeded, ConfigurationError, Guard, InvalidRequest, LedgerError, UnpricedTask
from costguard.testing import StandIn

MakeGuard = Callable[..., Guard]


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    unhurried(monkeypatch)


@pytest.fixture
def standin() -> StandIn:
    return StandIn(result_index=True)


@pytest.fixture
def url(standin: StandIn) -> Iterator[str]:
    with standin.serve() as base:
        yield base


def flush(guard: Guard) -> None:
    done = threading.Event()
    guard.later(done.set)
    assert done.wait(10)


def calling(guard: Guard, url: str, *tasks: dict[str, Any], **options: Any) -> Any:
    """What a client under `guard` gives for each of `tasks`: its results, or its error."""

    async def main() -> Any:
        async with guard.wrap(rest(url, **options)) as client:
            return await asyncio.gather(*(client.run(task) for task in tasks), return_exceptions=True)

    return run(main())


# --- its roads over HTTP ---


@pytest.mark.parametrize("delivery", ["async", "sync"])
def test_a_run_of_several_results_is_charged_as_billed(
    guard: Guard, standin: StandIn, url: str, delivery: str, clock: Clock
) -> None:
    (found,) = calling(guard, url, a_task(numberResults=3, deliveryMethod=delivery))
    assert len(found) == 3
    (row,) = guard.ledger.tasks()
    assert row.status == "settled"
    assert row.charged == standin.billed() * 10**9
    assert sent_tasks(standin)[0]["taskType"] == ("getResponse" if delivery == "async" else "textInference")
    assert standin.received[0].tasks[0]["includeCost"] is True
    reconciled(guard, clock, standin)


def test_a_stream_is_charged_as_billed(guard: Guard, standin: StandIn, url: str, clock: Clock) -> None:
    async def main() -> Any:
        async with guard.wrap(rest(url)) as client:
            return await (await client.stream(a_task())).result()

    found = run(main())
    flush(guard)
    assert found.text
    (row,) = guard.ledger.tasks()
    assert row.status == "settled"
    assert row.charged == standin.billed() * 10**9
    reconciled(guard, clock, standin)


@pytest.mark.parametrize("fault", ["status:500", "status:429", "status_billed:503", "drop_after", "cut", "status:408"])
def test_what_the_sdk_sends_again_is_one_more_attempt_of_the_same_task(
    guard: Guard, standin: StandIn, url: str, fault: str, clock: Clock
) -> None:
    task = a_task(deliveryMethod="sync")
    standin.fault(fault, times=2)
    (found,) = calling(guard, url, task)
    assert len(found) == 1
    assert [received.tasks[0]["taskUUID"] for received in standin.received] == [task["taskUUID"]] * 3
    (row,) = guard.ledger.tasks()
    assert (row.attempts, row.charged > 0) == (3, True)
    reconciled(guard, clock, standin)


@pytest.mark.parametrize(("fault", "status"), [("item_error", "released"), ("error_timeout", "unresolved")])
def test_an_error_of_the_task_is_raised_as_the_sdks_and_is_not_lost(
    guard: Guard, standin: StandIn, url: str, fault: str, status: str, clock: Clock
) -> None:
    standin.fault(fault)
    (found,) = calling(guard, url, a_task(deliveryMethod="sync"))
    assert isinstance(found, runware.RunwareError)
    assert [row.status for row in guard.ledger.tasks()] == [status]
    reconciled(guard, clock, standin)


def test_a_cancelled_run_stays_held_until_the_provider_is_asked(
    guard: Guard, standin: StandIn, url: str, clock: Clock
) -> None:
    async def main() -> Any:
        cancel = asyncio.Event()
        async with guard.wrap(rest(url)) as client:
            calling = asyncio.create_task(client.run(a_task(), runware.RunOptions(cancel_event=cancel)))
            while not standin.bill:
                await asyncio.sleep(0)
            cancel.set()
            with pytest.raises(runware.RunwareError, match=r"(?i)abort"):
                await calling

    standin.polls_until_done = 10**9
    run(main())
    flush(guard)
    (row,) = guard.ledger.tasks()
    assert (row.charged, row.held > 0) == (0, True)
    reconciled(guard, clock, standin)


def test_a_client_closed_in_mid_stream_leaves_its_task_held_until_the_provider_is_asked(
    guard: Guard, standin: StandIn, url: str, clock: Clock
) -> None:
    async def main() -> None:
        client = guard.wrap(rest(url))
        stream = await client.stream(a_task())
        first = await anext(stream.text_stream)
        await client.close()
        assert first
        with pytest.raises(runware.RunwareError, match=r"(?i)abort"):
            await stream.result()

    standin.fault("hang")
    run(main())
    flush(guard)
    (row,) = guard.ledger.tasks()
    assert (row.status, row.held > 0) == ("unresolved", True)
    reconciled(guard, clock, standin)


def test_a_stream_is_booked_on_the_scope_that_asked_for_it_wherever_it_is_read(
    guard: Guard, url: str, standin: StandIn
) -> None:
    async def main() -> None:
        async with guard.wrap(rest(url)) as client:
            with guard.scope(project="acme/docs"):
                stream = await client.stream(a_task())
            with guard.scope(project="acme/other"):
                await stream.text()

    run(main())
    flush(guard)
    assert [row.project for row in guard.ledger.tasks()] == ["acme/docs"]


def test_a_session_of_the_callers_is_guarded_for_this_client_and_keeps_its_middlewares(
    guard: Guard, standin: StandIn, url: str
) -> None:
    seen: list[str] = []

    async def own(request: Any, handler: Any) -> Any:
        seen.append(request.method)
        return await handler(request)

    async def main() -> None:
        async with aiohttp.ClientSession(middlewares=(own, guard.aiohttp_middleware)) as session:
            client = rest(url, dependencies=runware.RuntimeDependencies(session=session))
            async with guard.wrap(client):
                await client.run(a_task(deliveryMethod="sync"))
                await (await client.stream(a_task())).text()
            assert not session.closed

    run(main())
    flush(guard)
    assert seen == ["POST", "POST"]
    assert [row.attempts for row in guard.ledger.tasks()] == [1, 1]
    assert sum(row.charged for row in guard.ledger.tasks()) == standin.billed() * 10**9


def test_a_client_that_has_its_session_open_is_guarded_from_then_on(guard: Guard, standin: StandIn, url: str) -> None:
    async def main() -> None:
        async with rest(url) as client:
            await client.run(a_task(deliveryMethod="sync"))
            guard.wrap(client)
            await client.run(a_task(deliveryMethod="sync"))

    run(main())
    assert (len(standin.bill), len(guard.ledger.tasks())) == (2, 1)


# --- refusals ---


def test_every_refusal_reaches_the_caller_of_run_as_itself_and_nothing_is_sent(
    guard: Guard, standin: StandIn, url: str
) -> None:
    unpriced = a_task(model="nobody:knows@1")
    unreadable = a_task(numberResults="many")
    (no_price, not_read) = calling(guard, url, unpriced, unreadable)
    guard.set_budget("acme", "0.000001")
    (no_room,) = calling(guard, url, a_task())
    kinds = (type(no_price), type(not_read), type(no_room))
    assert kinds == (UnpricedTask, InvalidRequest, BudgetExceeded)
    guard.close()
    assert standin.received == []


def test_a_refusal_reaches_the_reader_of_a_stream_as_itself_and_nothing_is_sent(
    guard: Guard, standin: StandIn, url: str
) -> None:
    async def main() -> None:
        async with guard.wrap(rest(url)) as client:
            stream = await client.stream(a_task())
            with pytest.raises(BudgetExceeded):
                async for _ in stream.text_stream:
                    pass
            with pytest.raises(BudgetExceeded):
                await (await client.stream(a_task())).result()

    guard.set_budget("acme", "0.000001")
    run(main())
    assert (standin.received, guard.ledger.tasks()) == ([], [])


def test_a_closed_guard_stops_run_and_stream_with_its_own_error(guard: Guard, standin: StandIn, url: str) -> None:
    async def main() -> None:
        async with guard.wrap(rest(url)) as client:
            guard.close()
            with pytest.raises(LedgerError, match="closed"):
                await client.run(a_task(), runware.RunOptions(cancel_event=asyncio.Event()))
            with pytest.raises(LedgerError, match="closed"):
                await (await client.stream(a_task())).text()

    run(main())
    assert standin.received == []


# --- what is wrapped, and what is not ---


def test_twice_is_once_and_a_second_guard_is_refused_until_the_first_is_closed(
    guard: Guard, make_guard: MakeGuard, standin: StandIn, url: str
) -> None:
    other = make_guard("acme/other")

    async def main() -> None:
        client = rest(url)
        assert guard.wrap(guard.wrap(client)) is client
        with pytest.raises(ConfigurationError, match="wrapped by another Guard"):
            other.wrap(client)
        await client.run(a_task(deliveryMethod="sync"))
        guard.close()
        other.wrap(client)
        await client.run(a_task(deliveryMethod="sync"))
        await client.close()

    run(main())
    assert sorted(row.project for row in other.ledger.tasks()) == ["acme/other", "acme/search"]
    assert sum(row.attempts for row in other.ledger.tasks()) == 2


def test_a_session_under_another_guard_is_refused(guard: Guard, make_guard: MakeGuard, url: str) -> None:
    async def main() -> None:
        async with aiohttp.ClientSession(middlewares=(make_guard().aiohttp_middleware,)) as session:
            with pytest.raises(ConfigurationError, match="another Guard"):
                guard.wrap(rest(url, dependencies=runware.RuntimeDependencies(session=session)))

    run(main())


def versions(monkeypatch: pytest.MonkeyPatch, **found: str) -> None:
    def version(name: str) -> str:
        if name.replace("-", "_") in found:
            return found[name.replace("-", "_")]
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("costguard.clients.runware.metadata.version", version)


@pytest.mark.parametrize("version", ["1.7.9", "1.9.0", "2.0", "0.0.0"])
def test_an_sdk_of_an_unknown_version_is_refused_by_its_number(
    guard: Guard, url: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions(monkeypatch, runware_sdk=version)
    with pytest.raises(ConfigurationError, match=rf"runware-sdk {version} is a version .* install runware-sdk 1\.8"):
        guard.wrap(rest(url))


def test_the_other_package_of_this_name_is_refused_by_name(
    guard: Guard, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions(monkeypatch, runware="0.5.24")
    monkeypatch.delattr(runware, "SDK_VERSION")
    with pytest.raises(ConfigurationError, match=r"`runware` 0\.5\.24 is installed: .* same import name"):
        guard.wrap(rest(url))
    versions(monkeypatch, runware="0.5.24", runware_sdk="1.8.0")
    with pytest.raises(ConfigurationError, match=r"`runware` 0\.5\.24 is installed beside runware-sdk 1\.8\.0"):
        guard.wrap(rest(url))


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        ("Runware", "_ensure_validation_session"),
        ("RestTransport", "_ensure_session"),
    ],
)
def test_a_private_place_that_is_gone_is_named_and_nothing_is_changed(
    guard: Guard, url: str, owner: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {"Runware": runware.Runware, "RestTransport": type(rest(url)._rest_transport)}
    client = rest(url)
    monkeypatch.delattr(kinds[owner], name)
    before = dict(client.__dict__)
    with pytest.raises(ConfigurationError, match=rf"runware-sdk 1\.8\.\d+: {owner}\.{name}"):
        guard.wrap(client)
    assert client.__dict__ == before


def test_nothing_else_of_the_sdk_is_taken_for_a_client(guard: Guard) -> None:
    with pytest.raises(TypeError, match=r"takes a runware\.Runware, got runware"):
        guard.wrap(runware.RuntimeDependencies())
