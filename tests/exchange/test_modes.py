"""A guard in odd places: without a ledger, in another process, on a client that had another one."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import API, AnyClient, a_task, audit

from costguard import ConfigurationError, Guard, LedgerError
from costguard.testing import StandIn

MakeGuard = Callable[..., Guard]


def clock() -> datetime:
    return datetime(2026, 11, 22, 12, tzinfo=UTC)


# --- a path that leads nowhere -------------------------------------------------------------------------------


@pytest.fixture(params=["no data folder", "user", "loop", "nul", "long", "text", "folder"])
def nowhere(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The path of a ledger that cannot be opened."""
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "text").write_text("Dear diary\n" * 300)
    (tmp_path / "file").touch()
    monkeypatch.delenv("COSTGUARD_DB", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file" / "data"))
    return {
        "no data folder": None,
        "user": "~nobody-of-that-name/x.db",
        "loop": tmp_path / "loop" / "x.db",
        "nul": "x\0.db",
        "long": "a" * 5000,
        "text": tmp_path / "text",
        "folder": tmp_path,
    }[str(request.param)]


def test_a_ledger_that_cannot_be_opened_is_a_ledger_error(nowhere: Any) -> None:
    with pytest.raises(LedgerError):
        Guard(nowhere)


def test_observe_says_so_and_a_program_goes_on_with_all_it_does(
    nowhere: Any, standin: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    with Guard(nowhere, "acme", mode="observe") as guard:
        assert "nothing is recorded, all calls are sent (mode observe)" in caplog.text
        assert guard.set_budget("acme", "0.0001", warn_at=(50,)).limit == Decimal("0.0001")
        assert "the budget on acme per month is not kept (mode observe)" in caplog.text
        guard.set_ceiling("painter:1@1", "0.01")
        assert (guard.budgets(), guard.ceilings(), guard.status(), guard.remaining()) == ([], {}, [], None)
        assert not guard.remove_budget("acme")
        assert not guard.remove_ceiling("painter:1@1")
        assert guard.estimate(a_task()).upper
        with guard.scope(project="acme/x"), httpx.Client(base_url=API, transport=standin.transport()) as client:
            guard.wrap(client)
            assert client.post("/v1", json=[a_task()]).status_code == 200
        with pytest.raises(LedgerError):
            guard.verify()


@pytest.mark.parametrize("mode", ["enforce", "observe"])
@pytest.mark.parametrize("path", [":memory:", "file:x.db", "file:///x.db?mode=ro", "FILE:x"])
def test_what_is_no_file_says_what_to_name(path: str, mode: str, caplog: pytest.LogCaptureFixture) -> None:
    said = "name a file" if "memory" in path else "name the file by its plain path"
    if mode == "observe":
        Guard(path, mode=mode).close()
        assert said in caplog.text
    else:
        with pytest.raises(ConfigurationError, match=said):
            Guard(path, mode=mode)


def test_mistakes_that_are_not_the_ledgers_are_errors_in_mode_observe_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="project"):
        Guard(tmp_path / "x.db", "acme//x", mode="observe")


# --- another process -----------------------------------------------------------------------------------------


def booked(guard: Guard, name: str) -> str:
    """What a worker does with the guard that it was given."""
    with (
        httpx.Client(base_url=API, transport=guard.transport(StandIn().transport())) as client,
        guard.scope(project=name),
    ):
        client.post("/v1", json=[a_task()])
    return f"{guard.project} {guard.remaining()}"


class Job:
    def __init__(self, guard: Guard) -> None:
        self.guard = guard

    def __call__(self, name: str) -> str:
        return booked(self.guard, name)


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_pool_books_on_the_ledger_of_the_guard_it_is_given(method: str, make_guard: MakeGuard) -> None:
    guard = make_guard("acme", clock=clock)
    guard.set_budget("acme", 1, per="total")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        told = [*pool.map(booked, [guard, guard], ["acme/a", "acme/b"]), *pool.map(Job(guard), ["acme/c"])]
    assert sorted(row.project for row in guard.ledger.tasks()) == ["acme/a", "acme/b", "acme/c"]
    assert told[-1] == f"acme {guard.remaining()}"
    audit(guard)


def test_a_guard_that_comes_back_is_the_same_and_a_closed_one_is_opened_anew(make_guard: MakeGuard) -> None:
    guard = make_guard(clock=clock, media_max={"video_s": 3}, endpoints=(name for name in ["llm.example"]))
    packed = pickle.dumps(guard)
    assert pickle.loads(packed) is guard
    assert copy.deepcopy(guard) is guard
    guard.close()
    with pickle.loads(packed) as anew:
        assert anew is not guard
        assert pickle.loads(packed) is anew
        assert anew.project == guard.project
        assert anew.claim("llm.example", None, "/v1").is_sure
        assert anew.estimate(a_task()).upper


def test_what_cannot_travel_says_what_to_do(make_guard: MakeGuard) -> None:
    with pytest.raises(TypeError, match=r"its on_alert cannot be pickled .* open a Guard in each process"):
        pickle.dumps(make_guard(on_alert=lambda alert: None, clock=clock))


# --- one client, one guard after the other -------------------------------------------------------------------


def test_a_client_may_be_wrapped_anew_once_its_guard_is_closed(
    client: AnyClient, guard: Guard, make_guard: MakeGuard, standin: StandIn
) -> None:
    client.post(a_task())
    for again in range(2, 4):
        guard.close()
        guard = make_guard()
        guard.wrap(client.bare)
        assert guard.wrap(client.bare) is client.bare
        client.post(a_task())
        assert len(guard.ledger.tasks()) == again
    layers, transport = 0, client.bare._transport
    while hasattr(transport, "guard"):
        layers, transport = layers + 1, transport.inner
    assert layers == 1
    audit(guard, standin)


def test_while_its_guard_is_open_the_error_says_how_to_go_on(
    client: AnyClient, make_guard: MakeGuard, standin: StandIn
) -> None:
    other = make_guard()
    with pytest.raises(ConfigurationError, match=r"still open.*close it first.*or make a new client"):
        other.wrap(client.bare)
    client.post(a_task())
    assert len(other.ledger.tasks()) == 1
