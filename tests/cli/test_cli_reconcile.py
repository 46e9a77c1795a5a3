"""`costguard reconcile` and `costguard tasks resolve`: what is asked, booked, left, and decided by hand."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from conftest import API, Clock, a_task, audit

from costguard import Guard
from costguard.cli import main
from costguard.cli.app import Session
from costguard.testing import StandIn

Run = Callable[..., Result]
Lose = Callable[..., str]

ROOT = Path(__file__).parents[2]
KEY = "rw-key-of-this-test"
NOWHERE = "http://127.0.0.1:9"
"""The discard port: nobody listens."""


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWARE_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def run(ledger: Path, clock: Clock) -> Run:
    """Run a command on the test's ledger at the test's time."""

    def invoke(*args: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, args, obj=Session(ledger, clock))
        assert result.exit_code == code, (result.stdout, result.stderr, result.exc_info)
        assert "Traceback" not in result.stderr
        assert KEY not in result.output
        return result

    return invoke


@pytest.fixture
def lose(guard: Guard, standin: StandIn) -> Lose:
    """Send a task whose answer is lost to a fault; its UUID."""

    def send(fault: str = "drop_after", **fields: Any) -> str:
        task = a_task(**fields)
        if fault:
            standin.fault(fault)
        guarded = guard.transport(standin.transport())
        with contextlib.suppress(httpx.TransportError), httpx.Client(base_url=API, transport=guarded) as client:
            client.post("/v1", json=[task])
        assert the(guard, task["taskUUID"]).status in ("unresolved", "held")
        return str(task["taskUUID"])

    return send


def the(guard: Guard, task_uuid: str) -> Any:
    """A task as the ledger has it."""
    task = guard.ledger.task(task_uuid)
    assert task is not None
    return task


def document(result: Result) -> Any:
    found = json.loads(result.stdout)
    assert found["schema"] == 1
    return found


def reconciled(run: Run, url: str, *args: str, code: int = 0) -> Any:
    return document(run("reconcile", "--url", url, "--format", "json", *args, code=code))


# -- reconcile ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1", "/v1/", "", "/"])
def test_a_lost_answer_is_settled_at_what_was_billed(
    run: Run, lose: Lose, guard: Guard, standin: StandIn, path: str
) -> None:
    lost = lose()
    with standin.serve() as url:
        found = reconciled(run, url + path)
    charged = standin.billed(lost)
    assert found == {
        "schema": 1,
        "asked": 1,
        "settled": [{"task_uuid": lost, "charged": str(charged.normalize()), "reason": None}],
        "released": [],
        "left": [],
    }
    assert (the(guard, lost).charged, the(guard, lost).held) == (int(charged * 10**9), 0)
    assert standin.received[-1].headers["authorization"] == f"Bearer {KEY}"
    audit(guard, standin)


def test_what_the_provider_does_not_know_is_released_only_when_it_is_old_enough(
    run: Run, lose: Lose, guard: Guard, standin: StandIn, clock: Clock
) -> None:
    lost = lose("drop_before")
    with standin.serve() as url:
        clock.now += timedelta(minutes=5)
        young = reconciled(run, url, "--unknown-age", "6m")
        assert [entry["task_uuid"] for entry in young["left"]] == [lost]
        assert set(young["left"][0]) == {"task_uuid", "reason"}
        assert "does not know it" in young["left"][0]["reason"]
        assert the(guard, lost).status == "unresolved"
        old = reconciled(run, url, "--unknown-age", "5m")
    assert old["released"] == [{"task_uuid": lost, "reason": "the provider does not know it"}]
    assert (the(guard, lost).status, the(guard, lost).held) == ("released", 0)
    audit(guard)


def test_a_task_that_is_still_worked_on_stays_held(
    run: Run, lose: Lose, guard: Guard, standin: StandIn, clock: Clock
) -> None:
    standin.details_until_done = 1
    waiting = lose("", deliveryMethod="async")
    clock.now += timedelta(hours=1)
    with standin.serve() as url:
        found = reconciled(run, url)
        assert found["left"] == [{"task_uuid": waiting, "reason": "it is still being processed"}]
        assert the(guard, waiting).held > 0
        assert [entry["task_uuid"] for entry in reconciled(run, url)["settled"]] == [waiting]
    audit(guard, standin)


def test_a_young_task_that_is_held_is_not_asked_for(run: Run, lose: Lose, guard: Guard, standin: StandIn) -> None:
    lose("", deliveryMethod="async")
    with standin.serve() as url:
        assert reconciled(run, url)["asked"] == 0
    assert [task["taskType"] for received in standin.received for task in received.tasks] == ["textInference"]


def test_nothing_to_ask_is_fine_without_a_request(run: Run, guard: Guard) -> None:
    assert reconciled(run, NOWHERE) == {"schema": 1, "asked": 0, "settled": [], "released": [], "left": []}
    assert run("reconcile").stdout == "Asked for 0: 0 settled, 0 released, 0 left\n"


def test_a_provider_that_cannot_be_reached_is_an_error_and_changes_nothing(run: Run, lose: Lose, guard: Guard) -> None:
    lost = lose()
    before = the(guard, lost)
    result = run("reconcile", "--url", NOWHERE, "--format", "json", code=1)
    assert document(result)["left"] == [{"task_uuid": lost, "reason": "the provider could not be asked: ConnectError"}]
    assert result.stderr.startswith(f"Error: {NOWHERE} told nothing of any task: ")
    assert the(guard, lost) == before


@pytest.mark.parametrize("fault", ["status:401", "status:403", "status:429", "status:500", "html", "redirect"])
def test_a_provider_that_does_not_answer_the_question_is_an_error_and_changes_nothing(
    run: Run, lose: Lose, guard: Guard, standin: StandIn, clock: Clock, fault: str
) -> None:
    lost = lose()
    before = the(guard, lost)
    clock.now += timedelta(days=1)
    standin.fault(fault, match=lambda task: task["taskType"] == "getTaskDetails")
    with standin.serve() as url:
        found = reconciled(run, url, code=1)
        assert [entry["task_uuid"] for entry in found["left"]] == [lost]
        assert the(guard, lost) == before
        assert [entry["task_uuid"] for entry in reconciled(run, url)["settled"]] == [lost]


def test_a_wrong_address_is_an_error_and_releases_nothing(
    run: Run, lose: Lose, guard: Guard, standin: StandIn, clock: Clock
) -> None:
    lost = lose("drop_before")
    before = the(guard, lost)
    clock.now += timedelta(days=1)
    with standin.serve() as url:
        found = reconciled(run, f"{url}/v2", code=1)
    assert found["left"] == [{"task_uuid": lost, "reason": "the provider answered notFound"}]
    assert the(guard, lost) == before


def test_a_refused_key_releases_nothing_whatever_words_it_is_refused_with(
    lose: Lose, guard: Guard, clock: Clock
) -> None:
    lost = lose()
    clock.now += timedelta(days=1)
    error = {"code": "apiKeyNotFound", "message": "No such key: it was not found.", "taskUUID": lost}
    for status in (401, 403, 429):
        refusing = httpx.MockTransport(lambda _, status=status: httpx.Response(status, json={"errors": [error]}))
        with httpx.Client(base_url="https://api.runware.ai/v1", transport=refusing) as client:
            result = guard.reconcile(client)
        assert (result.released, result.answered) == ([], False)
        assert the(guard, lost).status == "unresolved"


def test_one_batch_that_fails_does_not_make_an_error_of_the_others(
    run: Run, lose: Lose, guard: Guard, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("costguard.exchange.reconcile.BATCH_TASKS", 1)
    first, second = lose(), lose()
    standin.fault("status:503", match=lambda task: task["taskType"] == "getTaskDetails")
    with standin.serve() as url:
        found = reconciled(run, url)
    assert [entry["task_uuid"] for entry in found["left"]] == [first]
    assert [entry["task_uuid"] for entry in found["settled"]] == [second]


def test_the_table_and_the_csv_name_every_task_with_its_outcome(
    run: Run, lose: Lose, guard: Guard, standin: StandIn, clock: Clock
) -> None:
    settled, unknown = lose(), lose("drop_before")
    with standin.serve() as url:
        table = run("reconcile", "--url", url, "--min-age", "1h").stdout
        clock.now += timedelta(hours=24)
        rows = list(csv.DictReader(io.StringIO(run("reconcile", "--url", url, "--format", "csv").stdout)))
    outcomes = {line.split()[0]: line.split()[1] for line in table.splitlines() if line[:36] in (settled, unknown)}
    assert outcomes == {settled: "settled", unknown: "left"}
    assert table.endswith("\nAsked for 2: 1 settled, 0 released, 1 left\n")
    assert rows == [
        {"task_uuid": unknown, "outcome": "released", "charged": "", "reason": "the provider does not know it"}
    ]


@pytest.mark.parametrize(
    ("key", "said"), [(None, "is not set"), (" ", "is not set"), ("schlüssel", "holds no API key")]
)
def test_a_missing_key_is_named_and_nothing_is_asked(
    run: Run, lose: Lose, standin: StandIn, monkeypatch: pytest.MonkeyPatch, key: str | None, said: str
) -> None:
    lose()
    if key is None:
        monkeypatch.delenv("RUNWARE_API_KEY")
    else:
        monkeypatch.setenv("RUNWARE_API_KEY", key)
    with standin.serve() as url:
        result = run("reconcile", "--url", url, code=1)
    assert result.stderr.startswith(f"Error: RUNWARE_API_KEY {said}")
    assert len(standin.received) == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--min-age", "soon"),
        ("--min-age", "-5s"),
        ("--min-age", "1.5h"),
        ("--url", "api.runware.ai/v1"),
        ("--url", "ftp://api.runware.ai"),
        ("--url", "https://"),
        ("--url", "https://[half"),
    ],
)
def test_an_option_that_cannot_be_used_is_a_usage_error(run: Run, guard: Guard, option: str, value: str) -> None:
    assert option in run("reconcile", option, value, code=2).stderr


@pytest.mark.parametrize(
    "args", [("reconcile",), ("tasks", "resolve", "some-task", "--released", "--reason", "seen on the bill")]
)
def test_no_ledger_is_made_where_there_is_none(run: Run, ledger: Path, args: tuple[str, ...]) -> None:
    assert "no ledger at" in run(*args, code=1).stderr
    assert list(ledger.parent.iterdir()) == []


def test_a_terminal_shows_a_progress_bar_and_stdout_stays_clean(lose: Lose, standin: StandIn, ledger: Path) -> None:
    lost = lose()
    watching, terminal = pty.openpty()
    with standin.serve() as url:
        command = [
            sys.executable,
            "-m",
            "costguard",
            "--db",
            str(ledger),
            "reconcile",
            "--url",
            url,
            "--format",
            "json",
        ]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80"}
        ran = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=terminal, check=True, timeout=60)
    os.close(terminal)
    shown = b""
    try:
        while received := os.read(watching, 4096):
            shown += received
    except OSError:  # the other side is closed, and everything is read
        pass
    os.close(watching)
    assert b"Asking" in shown
    assert b"100%" in shown
    assert [entry["task_uuid"] for entry in json.loads(ran.stdout)["settled"]] == [lost]


# -- resolve ------------------------------------------------------------------------------------


def test_an_operator_may_charge_what_the_bill_shows(run: Run, lose: Lose, guard: Guard, standin: StandIn) -> None:
    lost = lose()
    held = the(guard, lost).held
    said = run("tasks", "resolve", lost, "--charged", "0.00042", "--reason", "on the invoice of November").stdout
    assert said == f"{lost}: charged 0.00042 USD; {Decimal(held).scaleb(-9).normalize():f} USD were held\n"
    task = the(guard, lost)
    assert (task.status, task.charged, task.held, task.basis) == ("settled", 420_000, 0, "correction")
    assert task.reason == "on the invoice of November"
    audit(guard)


def test_an_operator_may_release_what_was_not_billed(run: Run, lose: Lose, guard: Guard) -> None:
    lost = lose()
    assert "released" in run("tasks", "resolve", lost, "--released", "--reason", "not on the invoice").stdout
    assert (the(guard, lost).status, the(guard, lost).charged, the(guard, lost).held) == ("released", 0, 0)
    audit(guard)


def test_a_second_word_on_the_same_task_is_an_error_and_changes_nothing(run: Run, lose: Lose, guard: Guard) -> None:
    lost = lose()
    run("tasks", "resolve", lost, "--released", "--reason", "not on the invoice")
    before = the(guard, lost)
    for word in (("--released",), ("--charged", "1")):
        result = run("tasks", "resolve", lost, *word, "--reason", "again", code=1)
        assert result.stderr.startswith(f"Error: task {lost} is released already (not on the invoice)")
    assert the(guard, lost) == before


def test_the_providers_figure_takes_the_place_of_an_operators_word(
    run: Run, lose: Lose, guard: Guard, standin: StandIn
) -> None:
    lost = lose()
    run("tasks", "resolve", lost, "--charged", "0.5", "--reason", "a guess")
    with httpx.Client(base_url=API, transport=standin.transport()) as client:
        assert guard.observe(client.post("/v1", json=[{"taskType": "getTaskDetails", "taskUUID": lost}]).content) == 1
    assert the(guard, lost).charged == standin.billed() * 10**9
    audit(guard, standin)


def test_an_unknown_task_cannot_be_resolved(run: Run, guard: Guard) -> None:
    result = run("tasks", "resolve", "no-such-task", "--released", "--reason", "why not", code=1)
    assert "there is no task 'no-such-task' in this ledger" in result.stderr


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ((), 2, "--charged X and --released"),
        (("--charged", "1", "--released"), 2, "--charged X and --released"),
        (("--charged", "-1"), 2, "negative"),
        (("--charged", "much"), 2, "not an amount"),
        (("--released", "--reason", " "), 1, "reason"),
    ],
)
def test_a_word_that_cannot_be_used_changes_nothing(
    run: Run, lose: Lose, guard: Guard, args: tuple[str, ...], code: int, said: str
) -> None:
    lost = lose()
    before = the(guard, lost)
    reason = () if "--reason" in args else ("--reason", "why not")
    assert said in run("tasks", "resolve", lost, *args, *reason, code=code).stderr
    assert the(guard, lost) == before


def test_a_word_without_a_reason_is_a_usage_error(run: Run, lose: Lose) -> None:
    assert "--reason" in run("tasks", "resolve", lose(), "--released", code=2).stderr


def test_tasks_still_lists_and_its_help_shows_resolve(run: Run, lose: Lose) -> None:
    lost = lose()
    assert lost in run("tasks").stdout
    assert lost in run("tasks", "--status", "unresolved", "--limit", "5").stdout
    assert "resolve" in run("tasks", "--help").stdout.partition("Commands:")[2]
