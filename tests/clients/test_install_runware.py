"""`costguard.install` and the Runware SDK: its websockets, which no other seam sees, and what it sends by HTTP."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import runware
from conftest import Clock, a_task, only_task
from runware_sdk import reconciled, rest, run, unhurried, websocket

import costguard
from costguard import BudgetExceeded, ConfigurationError, Guard
from costguard.testing import StandIn

MakeGuard = Callable[..., Guard]
Make = Callable[[], Any]


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    unhurried(monkeypatch)
    yield
    costguard.uninstall()


@pytest.fixture
def standin() -> StandIn:
    return StandIn(result_index=True)


@pytest.fixture(params=["websocket", "rest"])
def make(request: pytest.FixtureRequest, standin: StandIn) -> Iterator[Make]:
    """Makes a client of the stand-in, by each transport."""
    with ExitStack() as stack:
        if request.param == "rest":
            url = stack.enter_context(standin.serve())
            yield lambda: rest(url)
        else:
            url = stack.enter_context(standin.serve_websocket())
            yield lambda: websocket(url)


@pytest.fixture
def socket(standin: StandIn) -> Iterator[Make]:
    with standin.serve_websocket() as url:
        yield lambda: websocket(url)


async def asking(client: Any, **task: Any) -> Any:
    async with client:
        return await client.run(a_task(**task))


@pytest.mark.parametrize("delivery", ["async", "sync"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_a_client_made_before_or_after_is_guarded(
    make: Make, order: str, delivery: str, guard: Guard, standin: StandIn, clock: Clock
) -> None:
    async def main() -> None:
        client = make() if order == "before" else None
        costguard.install(guard)
        await asking(client or make(), deliveryMethod=delivery)

    run(main())
    row = only_task(guard)
    assert (row.status, row.attempts) == ("settled", 1)
    assert row.charged == standin.billed() * 10**9
    reconciled(guard, clock, standin)


def test_a_client_that_is_connected_already_is_guarded(socket: Make, guard: Guard, standin: StandIn) -> None:
    async def main() -> None:
        async with socket() as client:
            ask = client.run
            await ask(a_task())
            assert guard.ledger.tasks() == []
            costguard.install(guard)
            await ask(a_task())
            await client.run(a_task())

    run(main())
    rows = guard.ledger.tasks()
    assert [row.status for row in rows] == ["settled"] * 2
    assert {row.task_uuid for row in rows} == {bill.task_uuid for bill in standin.bill[1:]}
    assert all(row.charged == standin.billed(row.task_uuid) * 10**9 for row in rows)


def test_beyond_the_budget_nothing_is_sent(make: Make, guard: Guard, standin: StandIn) -> None:
    guard.set_budget("/", "0.000001", per="total")
    costguard.install(guard)
    with pytest.raises(BudgetExceeded):
        run(asking(make()))
    assert standin.received == []


@pytest.mark.parametrize("order", ["wrapped first", "used first"])
def test_a_client_that_is_wrapped_too_is_guarded_once(make: Make, order: str, guard: Guard, standin: StandIn) -> None:
    costguard.install(guard)

    async def main() -> None:
        client = make()
        if order == "used first":
            await client.connect()
        await asking(guard.wrap(client))

    run(main())
    assert only_task(guard).attempts == 1
    assert only_task(guard).charged == standin.billed() * 10**9


@pytest.mark.parametrize("order", ["wrapped first", "used first"])
def test_a_wrapped_client_keeps_its_own_guard_and_uninstall_leaves_it(
    make: Make, order: str, guard: Guard, make_guard: MakeGuard, tmp_path: Path
) -> None:
    own = make_guard(path=tmp_path / "own.db")
    costguard.install(guard)

    async def main() -> None:
        async with make() if order == "used first" else own.wrap(make()) as client:
            own.wrap(client)
            await client.run(a_task())
            costguard.uninstall()
            await client.run(a_task())

    run(main())
    assert guard.ledger.tasks() == []
    assert [row.status for row in own.ledger.tasks()] == ["settled"] * 2


def test_after_uninstall_a_call_is_as_it_was_and_a_second_install_guards_it_again(
    make: Make, guard: Guard, make_guard: MakeGuard, tmp_path: Path
) -> None:
    other = make_guard(path=tmp_path / "other.db")

    async def main() -> None:
        async with make() as client:
            for installed in (guard, None, guard, other, None):
                if installed is None:
                    costguard.uninstall()
                elif installed is other:
                    costguard.uninstall()
                    costguard.install(other)
                else:
                    costguard.install(installed)
                await client.run(a_task())

    run(main())
    assert [len(each.ledger.tasks()) for each in (guard, other)] == [2, 1]
    assert not hasattr(runware.Runware.run, "__wrapped__")


def test_a_connection_that_came_while_nothing_was_installed_is_guarded_then(socket: Make, guard: Guard) -> None:
    async def main() -> None:
        costguard.install(guard)
        client = socket()
        await client.connect()
        costguard.uninstall()
        await client._ws_transport._teardown_socket(close_socket=True)
        await client._ws_transport.connect()
        costguard.install(guard)
        await asking(client)

    run(main())
    assert only_task(guard).status == "settled"


def test_what_is_on_its_way_at_uninstall_is_settled(socket: Make, guard: Guard, standin: StandIn, clock: Clock) -> None:
    standin.polls_until_done = 3

    async def main() -> None:
        costguard.install(guard)
        async with socket() as client:
            call = asyncio.create_task(client.run(a_task()))
            while not standin.bill:
                await asyncio.sleep(0)
            costguard.uninstall()
            await call

    run(main())
    assert only_task(guard).held == 0
    reconciled(guard, clock, standin)


def test_a_subclass_is_entered_once_a_call(socket: Make, guard: Guard) -> None:
    calls: list[str] = []

    class Telling(runware.Runware):
        async def run(self, *args: Any, **options: Any) -> Any:
            calls.append("run")
            return await super().run(*args, **options)

    costguard.install(guard)
    client = socket()
    client.__class__ = Telling
    run(asking(client))
    assert calls == ["run"]
    assert only_task(guard).attempts == 1


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        ({"runware-sdk": "1.9.0"}, r"runware-sdk 1\.9\.0 is a version that costguard does not know"),
        ({"runware": "0.5.24"}, r"the package `runware` 0\.5\.24 is installed: costguard guards its successor"),
    ],
)
def test_a_version_that_is_not_known_is_refused_by_name(
    installed: dict[str, str], said: str, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = metadata.version

    def version(name: str) -> str:
        if name not in ("runware", "runware-sdk"):
            return known(name)
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(runware, "SDK_VERSION", "", raising=False)
    with pytest.raises(ConfigurationError, match=said):
        costguard.install(guard)


PROGRAM = """
import asyncio, sys
import runware
async def main():
    async with runware.Runware(api_key="key", ws_base_url=sys.argv[1]) as client:
        found = await client.run({
            "taskType": "textInference", "model": "google:gemini@3-flash", "settings": {"maxTokens": 120},
            "messages": [{"role": "user", "content": "Which harbours are open?"}], "deliveryMethod": "sync",
        })
        print(len(found))
asyncio.run(main())
"""


def test_a_program_that_was_never_changed_is_guarded_by_websocket(tmp_path: Path, standin: StandIn) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)
    with standin.serve_websocket() as url:
        done = subprocess.run(
            [sys.executable, "-m", "costguard", "--db", tmp_path / "ledger.db", "run", "--project", "acme", "--",
             sys.executable, tmp_path / "app.py", url],
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert f"1 task of acme, {standin.billed()} USD charged" in done.stderr
    with Guard(tmp_path / "ledger.db") as guard:
        assert only_task(guard).status == "settled"
