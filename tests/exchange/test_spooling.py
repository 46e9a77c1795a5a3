"""A ledger that is away: by default no call is sent; with `on_ledger_error="allow"` calls go on and are told later."""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import API, CLIENTS, AnyClient, a_task, audit, memory, only_task
from spools import AWAY, Weather, look, outage_of, spool_files, weather

from costguard import Alert, BudgetExceeded, ConfigurationError, Guard, LedgerError, money
from costguard.exchange import outage
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.engines import patience
from costguard.ledger.engines.patience import Patience
from costguard.ledger.spool import Spool, spool_folder
from costguard.testing import StandIn

MakeGuard = Callable[..., Guard]
MakeClient = Callable[..., AnyClient]
Post = Callable[..., Any]

LIMIT = Decimal("0.004")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COSTGUARD_SPOOL", str(tmp_path / "spool"))
    return tmp_path / "spool"


@pytest.fixture
def sky() -> Iterator[Weather]:
    with weather() as found:
        yield found


@pytest.fixture
def allowing(make_guard: MakeGuard, sky: Weather) -> Guard:
    """A guard that lets calls go on, under a hard budget for a few of them."""
    guard = make_guard(on_ledger_error="allow")
    guard.set_budget("acme", LIMIT, per="total", warn_at=(10,))
    return guard


@pytest.fixture
def post(allowing: Guard, standin: StandIn, make_client: MakeClient) -> Post:
    return make_client("httpx.Client", allowing, transport=memory(standin, "httpx.Client")).post


def settled(guard: Guard, standin: StandIn, tasks: int) -> bool:
    """Every task is charged what it was billed, and no budget is short of it."""
    rows = guard.ledger.tasks()
    assert {(row.status, row.attempts) for row in rows} == {("settled", 1)}
    assert [money.to_usd(row.charged) for row in rows] == [standin.billed(row.task_uuid) for row in rows]
    (budget,) = guard.status()
    assert (budget.spent, budget.held) == (standin.billed(), Decimal(0))
    audit(guard, standin)
    return len(rows) == tasks


# --- block, the default ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLIENTS)
def test_by_default_nothing_is_sent_and_the_error_names_the_other_choice(
    kind: str, guard: Guard, sky: Weather, standin: StandIn, make_client: MakeClient, folder: Path
) -> None:
    client = make_client(kind, guard, transport=memory(standin, kind))
    sky.away = True
    with pytest.raises(LedgerError, match=rf'{AWAY}; nothing is sent .* Guard\(on_ledger_error="allow"\) would'):
        client.post(a_task())
    assert standin.received == []
    assert spool_files(folder) == []
    assert guard.degraded is None


@pytest.mark.parametrize("options", [{"on_ledger_error": "ignore"}, {"ledger_wait": "soon"}, {"ledger_wait": -1}])
def test_settings_that_mean_nothing_are_errors(options: dict[str, Any], ledger: Path) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Guard(ledger, **options)
    assert not ledger.exists()


# --- allow -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLIENTS)
def test_calls_go_on_nobody_waits_again_and_all_is_told_once_the_ledger_is_back(
    kind: str, allowing: Guard, sky: Weather, standin: StandIn, make_client: MakeClient, folder: Path
) -> None:
    client = make_client(kind, allowing, transport=memory(standin, kind))
    client.post(a_task())
    sky.away = True
    responses = [client.post(a_task())]
    asked = sky.asked
    responses += [client.post(a_task()) for _ in range(2)]
    assert sky.asked == asked, "the first one's failure is enough"
    assert [response.status_code for response in responses] == [200] * 3
    receipts = [response.extensions["costguard"].tasks[0] for response in responses]
    assert [receipt.status for receipt in receipts] == ["settled"] * 3
    assert all(receipt.charged_nanos == standin.billed(receipt.task_uuid) * 10**9 for receipt in receipts)
    missed = allowing.degraded
    assert missed is not None
    assert (missed.records, missed.upper) == (6, Decimal("0.001824"))
    assert not look(allowing)
    sky.away = False
    assert look(allowing)
    assert allowing.degraded is None
    assert spool_files(folder) == []
    assert settled(allowing, standin, tasks=4)
    client.post(a_task())
    assert spool_files(folder) == []
    assert settled(allowing, standin, tasks=5)


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_call_is_on_the_disk_before_it_is_sent_and_nothing_that_it_says(
    kind: str, allowing: Guard, sky: Weather, make_client: MakeClient, folder: Path
) -> None:
    task = a_task("SECRET-PROMPT")
    kept: list[str] = []
    answer = {"taskType": "textInference", "taskUUID": task["taskUUID"], "text": "SECRET-ANSWER", "cost": -1}

    def handler(request: Any) -> Any:
        kept.extend(path.read_text() for path in spool_files(folder))
        return client.module.Response(200, json={"data": [answer, {**answer, "taskUUID": a_task()["taskUUID"]}]})

    client = make_client(kind, None)
    transport = client.module.MockTransport(handler)
    sending = allowing.async_transport(transport) if client.is_async else allowing.transport(transport)
    headers = {"Authorization": "Bearer SECRET-KEY"}
    sky.away = True
    make_client(kind, None, transport=sending, headers=headers).post(task)
    (before,) = kept
    assert task["taskUUID"] in before
    (path,) = spool_files(folder)
    after = path.read_text()
    assert after.startswith(before)
    assert after.count("\n") == before.count("\n") + 2, "its own ending, and what was told of another task"
    assert "SECRET" not in after
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)] == [0o600, 0o700]


def test_no_budget_is_known_while_the_ledger_is_away_and_each_is_again_once_it_is_back(
    allowing: Guard, post: Post, sky: Weather, standin: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    sky.away = True
    for _ in range(9):
        post(a_task())
    assert [record.message.partition(":")[0] for record in caplog.records].count("degraded") == 1
    assert (allowing.remaining(), allowing.status(), allowing.budgets()) == (None, [], [])
    sky.away = False
    look(allowing)
    assert "the ledger is back: 18 records were written, budgets are checked again" in caplog.text
    while allowing.remaining() == LIMIT - standin.billed():
        try:
            post(a_task())
        except BudgetExceeded:
            break
    assert settled(allowing, standin, tasks=len(standin.bill))


def test_thresholds_that_were_passed_meanwhile_fire_once_the_ledger_is_back(
    make_guard: MakeGuard, allowing: Guard, sky: Weather, standin: StandIn, make_client: MakeClient
) -> None:
    alerts: list[Alert] = []
    guard = make_guard(on_ledger_error="allow", on_alert=alerts.append)
    client = make_client("httpx.Client", guard, transport=standin.transport())
    sky.away = True
    for _ in range(3):
        client.post(a_task())
    assert alerts == []
    sky.away = False
    look(guard)
    assert [alert.percent for alert in alerts] == [10]


def test_an_answer_of_the_ledger_that_got_lost_is_neither_held_nor_charged_twice(
    allowing: Guard, post: Post, sky: Weather, standin: StandIn
) -> None:
    for lost in (True, False, True):
        sky.lost = lost
        post(a_task(), a_task())
        sky.lost = False
        look(allowing)
    assert settled(allowing, standin, tasks=6)


def test_a_call_that_began_while_the_ledger_was_away_may_end_once_it_is_back(
    allowing: Guard, sky: Weather, standin: StandIn, folder: Path
) -> None:
    inner = standin.transport()

    def back(request: httpx.Request) -> httpx.Response:
        sky.away = False
        assert look(allowing)
        assert only_task(allowing).status == "held"
        return inner.handle_request(request)

    sky.away = True
    with httpx.Client(base_url=API, transport=allowing.transport(httpx.MockTransport(back))) as client:
        client.post("/v1", json=[a_task()])
    assert spool_files(folder) == []
    assert settled(allowing, standin, tasks=1)


@pytest.mark.parametrize("deliver", ["observe", "poll"])
def test_what_is_told_of_a_task_by_another_road_is_kept_and_told_after_it(
    deliver: str, allowing: Guard, post: Post, sky: Weather, standin: StandIn
) -> None:
    sky.away = True
    task = a_task(deliveryMethod="async")
    post(task)
    poll = {"taskType": "getResponse", "taskUUID": task["taskUUID"]}
    with httpx.Client(base_url=API, transport=standin.transport()) as bare:
        for _ in range(1 + standin.polls_until_done):
            if deliver == "poll":
                post(poll)
            else:
                assert allowing.observe(bare.post("/v1", json=[poll]).content) == 0
    sky.away = False
    look(allowing)
    assert settled(allowing, standin, tasks=1)


def test_streams_are_told_too(allowing: Guard, sky: Weather, standin: StandIn) -> None:
    sky.away = True
    with (
        httpx.Client(base_url=API, transport=allowing.transport(standin.transport())) as client,
        client.stream("POST", "/v1", json=[a_task(deliveryMethod="stream")]) as response,
    ):
        response.read()
    sky.away = False
    look(allowing)
    assert settled(allowing, standin, tasks=1)


def test_a_full_spool_keeps_calls_from_being_sent_and_takes_the_end_of_those_that_were(
    allowing: Guard, post: Post, sky: Weather, standin: StandIn, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "BYTES_MAX", 100)
    sky.away = True
    post(a_task())
    with pytest.raises(LedgerError, match=rf"the spool {folder}.* is full .* nothing is sent .*{AWAY}$"):
        post(a_task())
    assert len(standin.received) == 1
    sky.away = False
    look(allowing)
    assert settled(allowing, standin, tasks=1)
    post(a_task())
    assert settled(allowing, standin, tasks=2)


def test_a_disk_that_takes_nothing_keeps_calls_from_being_sent_and_endings_wait_in_memory(
    allowing: Guard, sky: Weather, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = standin.transport()

    def fail(*_: object) -> None:
        raise LedgerError("No space left on device")

    def fill(request: httpx.Request) -> httpx.Response:
        monkeypatch.setattr(Spool, "append", fail)
        return inner.handle_request(request)

    append = Spool.append
    with httpx.Client(base_url=API, transport=allowing.transport(httpx.MockTransport(fill))) as client:
        sky.away = True
        assert client.post("/v1", json=[a_task()]).status_code == 200
        with pytest.raises(LedgerError, match="No space left"):
            client.post("/v1", json=[a_task()])
        monkeypatch.setattr(Spool, "append", append)
        sky.away = False
        look(allowing)
        client.post("/v1", json=[a_task()])
        monkeypatch.setattr(Spool, "append", append)
    allowing.settlement.drain()
    assert settled(allowing, standin, tasks=2)


def test_what_a_program_sets_meanwhile_is_set_once_the_ledger_is_back(
    allowing: Guard, sky: Weather, caplog: pytest.LogCaptureFixture
) -> None:
    sky.away = True
    assert allowing.set_budget("acme/x", "0.5").limit == Decimal("0.5")
    allowing.set_ceiling("painter:1@1", "0.01")
    allowing.remove_budget("acme", per="total")
    with pytest.raises(ConfigurationError):
        allowing.set_budget("acme//x", 1)
    assert "the budget on acme/x per month is put off until the ledger is back" in caplog.text
    sky.away = False
    look(allowing)
    assert [str(budget) for budget in allowing.budgets()] == ["acme/x per month"]
    assert allowing.ceilings() == {"painter:1@1": Decimal("0.01")}


def test_a_record_that_the_ledger_does_not_take_keeps_out_no_other_and_is_not_lost(
    allowing: Guard, post: Post, sky: Weather, standin: StandIn, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    admission, bad = Ledger.admission, a_task()["taskUUID"]

    def refuse(ledger: Ledger, project: str, at_us: int, tasks: Any, **options: Any) -> Any:
        if tasks[0].task_uuid == bad:
            raise LedgerError("a text that this database cannot hold")
        return admission(ledger, project, at_us, tasks, **options)

    monkeypatch.setattr(Ledger, "admission", refuse)
    post(a_task(taskUUID=bad))
    post(a_task())
    assert not look(allowing)
    assert len(standin.received) == 2
    assert [row.status for row in allowing.ledger.tasks()] == ["settled"]
    post(a_task())
    assert [row.status for row in allowing.ledger.tasks()] == ["settled"] * 2, "the ledger is not away"
    missed = allowing.degraded
    assert missed is not None
    assert missed.records == 2
    monkeypatch.setattr(Ledger, "admission", admission)
    assert look(allowing)
    assert settled(allowing, standin, tasks=3)


@pytest.mark.parametrize(
    "text",
    [
        '{"is":"Begun","key":"k","project":"acme","at_us":"soon","tasks":[]}',
        '{"is":"Begun","key":"k","project":7,"at_us":7,"tasks":[1]}',
        '{"is":"Heard","key":"k","at_us":7,"told":7}',
        '{"is":"Other","key":"k"}',
        "[1]",
    ],
)
def test_a_record_that_another_version_has_left_stops_no_program_and_stays(
    tmp_path: Path, folder: Path, make_guard: MakeGuard, text: str
) -> None:
    ledger = tmp_path / "ledger.db"
    left = Spool(spool_folder(str(ledger)))
    left.append([text])
    left.close()
    make_guard(path=ledger, on_ledger_error="allow").close()
    guard = make_guard(path=ledger, on_ledger_error="allow")
    assert len(spool_files(folder)) == 1
    assert guard.degraded is not None


# --- opening and closing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_a_guard_that_is_made_while_the_ledger_is_away_goes_on(
    mode: str, make_guard: MakeGuard, sky: Weather, standin: StandIn, make_client: MakeClient, ledger: Path
) -> None:
    sky.away = True
    guard = make_guard(mode=mode, on_ledger_error="allow")
    guard.set_budget("acme", LIMIT, per="total")
    make_client("httpx.Client", guard, transport=standin.transport()).post(a_task())
    with pytest.raises(LedgerError, match=AWAY):
        guard.verify()
    sky.away = False
    assert look(guard)
    assert settled(guard, standin, tasks=1)


def test_mistakes_are_errors_while_the_ledger_is_away_too(make_guard: MakeGuard, tmp_path: Path) -> None:
    make_guard(timezone="Europe/Berlin")
    for options in ({"timezone": "Asia/Tokyo"}, {"path": "file:x.db"}, {"path": "mystery://host/name"}):
        with pytest.raises(ConfigurationError):
            make_guard(on_ledger_error="allow", **options)


def test_without_a_place_for_a_spool_a_guard_that_allows_cannot_be_made(make_guard: MakeGuard, folder: Path) -> None:
    folder.touch()
    with pytest.raises(LedgerError, match="COSTGUARD_SPOOL"):
        make_guard(on_ledger_error="allow")
    make_guard(on_ledger_error="allow", mode="observe")
    make_guard()


def test_closing_tells_what_can_be_told(
    allowing: Guard, post: Post, sky: Weather, standin: StandIn, folder: Path
) -> None:
    sky.away = True
    post(a_task())
    sky.away = False
    allowing.close()
    assert spool_files(folder) == []
    with Guard(allowing._settings["path"], durability="normal") as other:
        assert settled(other, standin, tasks=1)


def test_closing_leaves_what_cannot_be_told_to_any_guard_that_comes_after(
    allowing: Guard,
    post: Post,
    make_guard: MakeGuard,
    sky: Weather,
    standin: StandIn,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    sky.away = True
    post(a_task())
    allowing.close()
    (path,) = spool_files(folder)
    assert f"{path} keeps what the ledger is to be told" in caplog.text
    sky.away = False
    other = make_guard()
    assert f"writing 2 records that another program left in {path}" in caplog.text
    assert spool_files(folder) == []
    assert settled(other, standin, tasks=1)


@pytest.mark.parametrize("is_away", [True, False])
def test_a_call_that_ends_after_its_guard_was_closed_is_told_too(
    is_away: bool, allowing: Guard, make_guard: MakeGuard, sky: Weather, standin: StandIn
) -> None:
    inner = standin.transport()

    def close(request: httpx.Request) -> httpx.Response:
        allowing.close()
        sky.away = is_away
        return inner.handle_request(request)

    sky.away = True
    with httpx.Client(base_url=API, transport=allowing.transport(httpx.MockTransport(close))) as client:
        client.post("/v1", json=[a_task()])
    sky.away = False
    assert settled(make_guard(), standin, tasks=1)


# --- waiting and looking ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_call_waits_for_the_ledger_as_long_as_it_is_told_to(
    kind: str, make_guard: MakeGuard, standin: StandIn, make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = make_guard(ledger_wait=timedelta(seconds=1.5))
    client = make_client(kind, guard, transport=memory(standin, kind))
    lefts: list[float] = []
    conclusion, admission = Ledger.conclusion, Ledger.admission

    def watch(do: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **options: Any) -> Any:
            wait = patience.current.get()
            lefts.append(wait.deadline - time.monotonic() if wait else patience.WAIT_S)
            return do(*args, **options)

        return watched

    monkeypatch.setattr(Ledger, "admission", watch(admission))
    monkeypatch.setattr(Ledger, "conclusion", watch(conclusion))
    client.post(a_task())
    client.post(a_task(deliveryMethod="stream"))
    assert len(lefts) == 4
    assert max(lefts) <= 1.5


def test_a_caller_that_gave_up_waiting_says_nothing_of_the_ledger(allowing: Guard) -> None:
    wait = Patience(10)
    wait.give_up()
    token = patience.current.set(wait)
    try:
        outage_of(allowing).failed(LedgerError("busy"))
    finally:
        patience.current.reset(token)
    assert not outage_of(allowing).is_away


def test_a_thread_looks_for_the_ledger_and_ends_when_it_is_told_all(
    allowing: Guard, post: Post, sky: Weather, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "PAUSE_S", (0.01, 0.02))
    for tasks in (1, 2):
        sky.away = True
        post(a_task())
        (thread,) = [each for each in threading.enumerate() if each.name == "costguard-spool"]
        assert thread.daemon
        sky.away = False
        thread.join(30)
        assert not thread.is_alive()
        assert settled(allowing, standin, tasks=tasks)


def test_pauses_grow_to_the_longest(allowing: Guard, sky: Weather, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    kept = outage_of(allowing)

    def wait(pause_s: float) -> bool:
        pauses.append(pause_s)
        return len(pauses) > 8

    monkeypatch.setattr(outage, "PAUSE_S", (0.5, 30.0))
    monkeypatch.setattr(kept._bell, "wait", wait)
    sky.away = True
    kept.since_us = 1
    kept._run()
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_lock_that_another_program_keeps_is_waited_for_once(
    make_guard: MakeGuard, standin: StandIn, ledger: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import fcntl

    caplog.set_level(logging.INFO)
    guard = make_guard(on_ledger_error="allow", ledger_wait=0)
    fd = os.open(f"{ledger}-lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:
        for _ in range(3):
            client.post("/v1", json=[a_task()])
    assert "degraded" in caplog.text
    assert "keep the ledger's lock" in caplog.text
    os.close(fd)
    assert look(guard)
    assert [row.status for row in guard.ledger.tasks()] == ["settled"] * 3
    audit(guard, standin)
