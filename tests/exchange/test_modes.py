"""A guard in odd places: without a ledger, in another process, on a client that had another one."""

from __future__ import annotations

import copy
import json
import multiprocessing
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import API, AnyClient, a_task, audit, memory, sent_tasks
from hypothesis import given
from hypothesis import strategies as st

from costguard import ConfigurationError, Guard, LedgerError
from costguard.exchange import absence
from costguard.ledger.accounting.book import Ledger
from costguard.testing import StandIn
from costguard.wire import NATIVE

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


@pytest.mark.parametrize("mode", ["enforce", "observe", "off"])
def test_a_closed_guard_takes_nothing_on_and_says_what_to_do(mode: str, make_guard: MakeGuard) -> None:
    guard = make_guard(mode=mode)
    guard.close()
    for begin in (
        lambda: guard.wrap(httpx.Client()),
        guard.transport,
        guard.async_transport,
        guard.scope,
        guard.__enter__,
    ):
        with pytest.raises(ConfigurationError, match="this Guard is closed: make a new one"):
            begin()


def test_a_call_through_a_closed_guard_says_what_to_do(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    guard.close()
    with pytest.raises(LedgerError, match=r"is closed: make a new one.*nothing was sent"):
        client.post(a_task())
    assert not standin.received


# --- what is sent without a record ---------------------------------------------------------------------------


@pytest.fixture(params=["off", "observe, no ledger", "observe, a ledger that failed"])
def unrecorded(
    request: pytest.FixtureRequest, make_guard: MakeGuard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Guard:
    """A guard that records nothing."""
    mode, _, state = str(request.param).partition(", ")
    guard = make_guard(mode=mode, **({"path": tmp_path} if state == "no ledger" else {}))
    if state == "a ledger that failed":

        def fail(*_: object, **__: object) -> None:
            raise LedgerError("the disk is full")

        for name in ("admission", "change_budget", "remove_budget", "budgets", "balances", "set_ceiling", "ceilings",
                     "mean_completion"):  # fmt: skip
            monkeypatch.setattr(guard.ledger, name, fail)
    return guard


def test_a_task_without_a_name_gets_one_and_nothing_else(
    unrecorded: Guard, kind: str, make_client: Callable[..., AnyClient], standin: StandIn
) -> None:
    client = make_client(kind, unrecorded, transport=memory(standin, kind))
    nameless, named = a_task(taskUUID=None), a_task()
    for empty in ({}, {"taskUUID": None}, {"taskUUID": ""}):
        asked = [{**nameless, **empty}, named, {"taskType": "modelSearch", "search": "flash"}]
        response = client.call(client.bare.post, "/v1", json=asked)
        first, *others = sent_tasks(standin)
        assert len(first.pop("taskUUID")) == 36
        assert [first, *others] == [nameless, named, asked[2]]
        assert [(task.status, task.held, task.charged) for task in response.extensions["costguard"].tasks] == [
            ("unrecorded", None, None)
        ] * 2
        assert response.extensions["costguard"].charged is None


def test_one_task_keeps_its_own_bytes_and_only_the_name_is_added(unrecorded: Guard, standin: StandIn) -> None:
    task = json.dumps(a_task(taskUUID=None, note=1.10e1), indent=3)
    for body in (f" [ {task} ]\n", f"{task}\n"):
        with httpx.Client(base_url=API, transport=unrecorded.transport(standin.transport())) as client:
            response = client.post("/v1", content=body.encode())
        (receipt,) = response.extensions["costguard"].tasks
        end = body.rindex("}")
        assert standin.received[-1].body.decode() == f'{body[:end]},"taskUUID":"{receipt.task_uuid}"{body[end:]}'
        assert response.status_code == 200


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", {}),
        (b"hello", {}),
        (b"\xff", {}),
        (b'[{"taskType": "textInference", "model": "m", "model": "n"}]', {}),
        (b'[{"taskType": "textInference"}, {"taskType": 3}]', {}),
        (b'[{"taskType": "getResponse"}]', {}),
        (b'{"taskType": "textInference"} ', {"content-encoding": "gzip"}),
        (b"[" * 100_000, {}),
    ],
)
@pytest.mark.parametrize("host", [API, "https://other.example"])
def test_off_sends_what_it_cannot_read_byte_for_byte(
    host: str, body: bytes, headers: dict[str, str], make_guard: MakeGuard
) -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200)

    client = make_guard(mode="off").wrap(httpx.Client(transport=httpx.MockTransport(answer)))
    response = client.post(f"{host}/v1", content=body, headers=headers)
    assert sent[0].content == body
    assert sent[0].headers.items() >= headers.items()
    assert "costguard" not in response.extensions


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
TASKS = st.fixed_dictionaries(
    {"taskType": st.sampled_from(["textInference", "imageInference", "getResponse", "nextYears"])},
    optional={"taskUUID": st.none() | st.just("") | st.uuids().map(str) | JSON, "model": JSON, "messages": JSON},
)


@given(st.lists(TASKS | JSON, max_size=3) | TASKS | JSON, st.sampled_from([None, 2]))
def test_nothing_but_missing_names_is_ever_added(value: Any, indent: int | None) -> None:
    body = json.dumps(value, indent=indent).encode()
    named = NATIVE.name_tasks(body)
    sent = value if named is None or named.body is None else json.loads(named.body)
    before, after = (each if isinstance(each, list) else [each] for each in (value, sent))
    assert type(value) is type(sent)
    for old, new in zip(before, after, strict=True):
        if named is not None and old["taskType"] != "getResponse" and old.get("taskUUID") in (None, ""):
            assert new == old | {"taskUUID": new["taskUUID"]}
            assert len(new["taskUUID"]) == 36
        else:
            assert new == old


def test_off_reads_no_options_and_opens_no_ledger(make_guard: MakeGuard, ledger: Path, standin: StandIn) -> None:
    guard = make_guard(mode="off")
    with (
        guard.scope(project="//"),
        httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client,
    ):
        response = client.post("/v1", json=[a_task(taskUUID=None)], extensions={"costguard": {"projekt": 3}})
    assert response.extensions["costguard"].tasks[0].project == "acme/search"
    assert not ledger.exists()


def test_what_a_program_sets_and_asks_never_stops_it(unrecorded: Guard, caplog: pytest.LogCaptureFixture) -> None:
    assert unrecorded.set_budget("acme", "0.1").limit == Decimal("0.1")
    unrecorded.set_ceiling("painter:1@1", "0.01")
    assert unrecorded.estimate(a_task()).upper
    with pytest.raises(ConfigurationError):
        unrecorded.set_budget("//", 1)
    if unrecorded.mode == "observe":
        assert (unrecorded.budgets(), unrecorded.ceilings()) == ([], {})
        assert (unrecorded.status(), unrecorded.remaining()) == ([], None)
        assert "the budget on acme per month is not kept (mode observe)" in caplog.text


def test_off_with_a_ledger_that_cannot_be_used_never_stops_a_program(
    nowhere: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with Guard(nowhere, "acme", mode="off") as guard:
        guard.set_budget("acme", "0.1")
        assert (guard.status(), guard.remaining(), guard.budgets()) == ([], None, [])
        assert guard.estimate(a_task()).upper
    assert "the budget on acme per month is not kept (mode off)" in caplog.text


def test_mistakes_in_scopes_and_calls_are_errors_in_mode_observe_without_a_ledger_too(
    tmp_path: Path, standin: StandIn
) -> None:
    guard = Guard(tmp_path, mode="observe")
    with pytest.raises(ConfigurationError, match="slash"):
        guard.scope(project="//")
    with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:
        with pytest.raises(ConfigurationError, match="projekt"):
            client.post("/v1", json=[a_task()], extensions={"costguard": {"projekt": "x"}})
        with guard.scope(project="acme/x"):
            response = client.post("/v1", json=[a_task()])
    assert response.extensions["costguard"].tasks[0].project == "acme/x"


def looked() -> None:
    """Wait for a look for the ledger that is under way."""
    for thread in threading.enumerate():
        if thread.name == "costguard-reopen":
            thread.join()


def test_observe_records_again_once_the_ledger_can_be_opened(
    tmp_path: Path, standin: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(absence, "RETRY_S", 0)
    path = tmp_path / "x.db"
    path.mkdir()
    guard = Guard(path, "acme", mode="observe")
    with (
        guard,
        guard.scope(project="acme/x"),
        httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client,
    ):
        client.post("/v1", json=[a_task()])
        looked()
        path.rmdir()
        client.post("/v1", json=[a_task()])
        looked()
        assert "calls are recorded from here on" in caplog.text
        assert client.post("/v1", json=[a_task()]).extensions["costguard"].charged
        assert [row.project for row in guard.ledger.tasks()] == ["acme/x"]
        audit(guard)


def test_a_ledger_is_looked_for_once_in_a_while_and_no_call_waits_for_it(
    tmp_path: Path, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = threading.Semaphore(0), threading.Event()

    def opens() -> Ledger:
        asked.release()
        assert go_on.wait(30)
        raise LedgerError("still not there")

    guard = Guard(tmp_path, mode="observe")
    monkeypatch.setattr(absence, "RETRY_S", 0)
    guard._absence = absence.Absence(opens, guard._found)
    with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:
        for _ in range(3):
            assert client.post("/v1", json=[a_task()]).status_code == 200
        assert asked.acquire(timeout=30)
        assert not asked.acquire(blocking=False)
        monkeypatch.setattr(absence, "RETRY_S", 3600)
        go_on.set()
        looked()
        for _ in range(3):  # the first of them was due
            client.post("/v1", json=[a_task()])
            looked()
    assert [asked.acquire(blocking=False) for _ in range(2)] == [True, False]


def test_a_ledger_found_after_close_is_closed(tmp_path: Path) -> None:
    guard = Guard(tmp_path, mode="observe")
    guard.close()
    with Guard(tmp_path / "x.db") as other:
        found = Guard(tmp_path / "x.db").ledger
        guard._found(found)
        with pytest.raises(LedgerError, match="closed"):
            found.tasks()
        assert other.ledger.tasks() == []


@pytest.mark.parametrize("mode", ["observe", "off"])
def test_a_guard_without_a_data_folder_travels_as_any_other(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.delenv("COSTGUARD_DB", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file" / "data"))
    guard = Guard(mode=mode)
    packed = pickle.dumps(guard)
    assert pickle.loads(packed) is guard
    guard.close()
    with pickle.loads(packed) as anew:
        assert anew.mode == mode


PROGRAM = """
import sys
import httpx
from costguard import Guard
from costguard.testing import StandIn

guard = Guard(sys.argv[1], "acme", mode=sys.argv[2])
client = guard.wrap(httpx.Client(base_url="https://api.runware.ai", transport=StandIn().transport()))
guard.set_budget("acme", 1)
client.post("/v1", json=[{"taskType": "textInference", "model": "google:gemini@3-flash", "messages": []}])
guard.status()
guard.me = guard  # collected with the interpreter, if at all
"""


@pytest.mark.parametrize("mode", ["enforce", "observe", "off"])
def test_a_program_that_ends_with_its_guard_open_warns_of_nothing(mode: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path / "x.db"), mode],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
