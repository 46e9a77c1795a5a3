"""The command line: its documents, its exit codes, and one clear line for everything that goes wrong."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner, Result
from conftest import API, FLASH, NOW, PRO, Clock, a_task

from costguard import BudgetExceeded, Guard, UnpricedTask, money
from costguard.cli import main, tasks
from costguard.cli.app import Session
from costguard.testing import StandIn, seeds

Run = Callable[..., Result]
MakeGuard = Callable[..., Guard]

ROOT = Path(__file__).parents[2]

READING = [
    ("status",),
    ("tasks",),
    ("report",),
    ("check", "acme", "1"),
    ("verify",),
    ("budget", "list"),
    ("budget", "remove", "acme"),
    ("ceiling", "list"),
    ("ceiling", "remove", "x"),
]
"""Every command that reads a ledger and must not make one."""


@pytest.fixture
def run(ledger: Path, clock: Clock) -> Run:
    """Run a command on the test's ledger at the test's time."""

    def invoke(*args: str, code: int = 0, input: str | None = None) -> Result:  # noqa: A002
        result = CliRunner().invoke(main, args, obj=Session(ledger, clock), input=input)
        assert result.exit_code == code, (result.stdout, result.stderr, result.exc_info)
        assert code == 0 or "Traceback" not in result.stderr
        return result

    return invoke


def document(result: Result) -> Any:
    return json.loads(result.stdout)


def send(guard: Guard, standin: StandIn, *sent: dict[str, Any], project: str = "acme/search") -> None:
    with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:
        client.post("/v1", json=list(sent or (a_task(),)), extensions={"costguard": {"project": project}})


def program(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """The program itself, in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **options.pop("env", {})}
    command = [sys.executable, "-m", "costguard", *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False, **options)


# -- the program --------------------------------------------------------------------------------


def test_help_lists_every_command_and_the_exit_codes() -> None:
    result = CliRunner().invoke(main, ["--help"])
    listed = {line.split()[0] for line in result.output.partition("Commands:\n")[2].splitlines()}
    assert listed >= {
        "budget", "ceiling", "check", "demo", "estimate", "prices", "reconcile", "report", "status", "tasks", "verify",
    }  # fmt: skip
    assert "Exit codes: 0 fine, 1 error, 2 wrong usage, 3 over budget." in result.output


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for name, command in group.commands.items():
        found += commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


@pytest.mark.parametrize("path", commands(main), ids=" ".join)
def test_every_command_explains_itself_and_its_options(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*path, "--help"])
    assert result.exit_code == 0
    command: Any = main
    for name in path:
        command = command.commands[name]
    assert command.help
    assert all(param.help for param in command.params if isinstance(param, click.Option))


def test_help_loads_neither_tables_nor_tokens_nor_a_database() -> None:
    script = (
        "import sys; from costguard.cli import main; main(['--help'], standalone_mode=False);"
        "print(sorted({'rich', 'sqlite3', 'sqlite_utils', 'tiktoken', 'numpy', 'httpx', 'platformdirs'}"
        " & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_version_is_shown() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0
    assert result.output.startswith("costguard ")


def test_the_module_runs_and_names_itself(ledger: Path) -> None:
    done = program("--db", str(ledger), "status")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: no ledger at {ledger}; name one with --db FILE")
    assert program("--help").stdout.startswith("Usage: costguard [OPTIONS] COMMAND")


def test_an_unknown_command_is_a_usage_error(run: Run) -> None:
    assert "No such command 'spend'" in run("spend", code=2).stderr


# -- which ledger -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_reading_never_makes_a_ledger(run: Run, ledger: Path, command: tuple[str, ...]) -> None:
    result = run(*command, code=1)
    assert result.stdout == ""
    assert result.stderr.startswith(f"Error: no ledger at {ledger}; ")
    assert list(ledger.parent.iterdir()) == []


@pytest.mark.parametrize("command", [*READING, ("budget", "set", "acme", "1")], ids=" ".join)
@pytest.mark.parametrize("what", ["foreign", "text", "folder", "truncated"])
def test_a_file_that_is_no_ledger_is_named_and_left_as_it_is(
    run: Run, ledger: Path, make_guard: MakeGuard, what: str, command: tuple[str, ...]
) -> None:
    if what == "foreign":
        with sqlite3.connect(ledger) as connection:
            connection.execute("CREATE TABLE recipes (id)")
        connection.close()
    elif what == "text":
        ledger.write_text("Dear diary\n" * 500)
    elif what == "folder":
        ledger.mkdir()
    else:
        make_guard().close()
        ledger.write_bytes(ledger.read_bytes()[:5000])
    before = None if ledger.is_dir() else ledger.read_bytes()
    result = run(*command, code=1)
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("Error: ")
    assert str(ledger) in result.stderr
    if what != "truncated":
        assert before is None or ledger.read_bytes() == before


def test_an_empty_file_is_no_ledger_to_read_from(run: Run, ledger: Path) -> None:
    ledger.touch()
    assert "(the file is empty)" in run("status", code=1).stderr
    assert ledger.read_bytes() == b""


def test_the_ledger_is_found_by_option_then_environment_then_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("COSTGUARD_DB", raising=False)
    by_default = CliRunner().invoke(main, ["budget", "set", "default", "1"])
    assert by_default.stderr.startswith(f"Created the ledger {tmp_path}")
    monkeypatch.setenv("COSTGUARD_DB", str(tmp_path / "env.db"))
    CliRunner().invoke(main, ["budget", "set", "environment", "1"])
    CliRunner().invoke(main, ["--db", "~/option.db", "budget", "set", "option", "1"])
    assert (tmp_path / "option.db").exists()
    for args, project in (([], "environment"), (["--db", str(tmp_path / "option.db")], "option")):
        listed = CliRunner().invoke(main, [*args, "budget", "list", "--format", "json"])
        assert [budget["project"] for budget in document(listed)["budgets"]] == [project]


def test_a_ledger_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--db", str(tmp_path / "no/such/x.db"), "budget", "set", "acme", "1"])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: cannot create the ledger")


def test_a_data_folder_that_cannot_be_made_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file/data"))
    monkeypatch.delenv("COSTGUARD_DB", raising=False)
    for args, said in (
        (["budget", "set", "acme", "1"], "the data folder cannot be made"),
        (["status"], "no ledger at"),
    ):
        result = CliRunner().invoke(main, args)
        assert result.exit_code == 1
        assert result.stderr.startswith(f"Error: {said}")


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_reading_where_no_ledger_is_makes_no_data_folder_either(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("COSTGUARD_DB", raising=False)
    result = CliRunner().invoke(main, list(command))
    assert (result.exit_code, result.stderr.startswith("Error: no ledger at")) == (1, True)
    assert list(tmp_path.iterdir()) == []


# -- budgets and ceilings -----------------------------------------------------------------------


def test_a_budget_is_set_listed_changed_and_removed(run: Run, ledger: Path) -> None:
    made = run(
        "budget", "set", "acme", "200", "--per", "month", "--timezone", "Europe/Berlin", "--warn", "100,50,80%"
    )  # fmt: skip
    assert made.stderr == f"Created the ledger {ledger}.\n"
    assert made.stdout == "acme per month: 200.00 USD, Europe/Berlin, block, alerts at 50, 80, 100 %\n"
    changed = run("budget", "set", "acme", "0.000000001", "--action", "clamp", "--floor", "200", "--wait", "2.5")
    assert changed.stdout.splitlines() == [
        "acme per month: 0.000000001 USD, Europe/Berlin, clamp, floor 200 tokens, waits up to 2.5 s,"
        " alerts at 50, 80, 100 %",
        "before: acme per month: 200.00 USD, Europe/Berlin, block, alerts at 50, 80, 100 %",
    ]
    run("budget", "set", "/", "1", "--per", "total")
    assert document(run("budget", "list", "--format", "json")) == {
        "schema": 1,
        "budgets": [
            {
                "project": "/", "per": "total", "timezone": "UTC", "limit": "1.00", "warn_at": [],
                "action": "block", "floor_tokens": 1, "wait_s": 0.0,
            },
            {
                "project": "acme", "per": "month", "timezone": "Europe/Berlin", "limit": "0.000000001",
                "warn_at": [50, 80, 100],
                "action": "clamp", "floor_tokens": 200, "wait_s": 2.5,
            },
        ],
    }  # fmt: skip
    run("budget", "remove", "acme")
    assert "no budget on acme per month" in run("budget", "remove", "acme", code=1).stderr
    run("budget", "remove", "/", "--per", "total")
    assert run("budget", "list").stdout == "No budgets.\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("acme", "ten"), "'ten' is not an amount in USD"),
        (("acme", "0.0000000001"), "more than 9 decimals"),
        (("acme", "NaN"), "not a finite amount"),
        (("--", "acme", "-1"), "negative"),
        (("acme//search", "1"), "empty segment"),
        (("acme", "1", "--per", "hour"), "'hour' is not one of"),
        (("acme", "1", "--timezone", "Europe/Berln"), "did you mean 'Europe/Berlin'"),
        (("acme", "1", "--warn", "fifty"), "not a list of whole percents"),
        (("acme", "1", "--warn", "0"), "use whole percents from 1"),
        (("acme", "1", "--action", "shout"), "'shout' is not one of"),
        (("acme", "1", "--floor", "9"), "goes with the action 'clamp'"),
        (("acme", "1", "--wait", "nan"), "use seconds from 0"),
        (("acme",), "Missing argument 'AMOUNT'"),
    ],
)
def test_an_unusable_budget_is_a_usage_error_and_makes_no_ledger(
    run: Run, ledger: Path, args: tuple[str, ...], said: str
) -> None:
    assert said in run("budget", "set", *args, code=2).stderr
    assert not ledger.exists()


def test_a_ceiling_is_set_listed_and_removed(run: Run) -> None:
    run("ceiling", "set", "imageInference", "0.05")
    run("ceiling", "set", "acme:model@1", "1")
    assert document(run("ceiling", "list", "--format", "json")) == {
        "schema": 1,
        "ceilings": [
            {"name": "acme:model@1", "per_result": "1.00"},
            {"name": "imageInference", "per_result": "0.05"},
        ],
    }
    run("ceiling", "remove", "imageInference")
    assert "no ceiling for 'imageInference'" in run("ceiling", "remove", "imageInference", code=1).stderr
    assert run("ceiling", "list", "--format", "csv").stdout == "name,per_result\nacme:model@1,1.00\n"


# -- status and check ---------------------------------------------------------------------------


def test_status_shows_windows_in_the_budgets_own_zone(run: Run, make_guard: MakeGuard, standin: StandIn) -> None:
    guard = make_guard()
    guard.set_budget("acme", "1", per="month", timezone="Europe/Berlin")
    guard.set_budget("/", "2", per="total", timezone="Europe/Berlin")
    guard.set_budget("acme/search", "0.5", per="task")
    guard.set_budget("other", "3")
    send(guard, standin)
    standin.fault("forget")
    send(guard, standin)
    settled, lost = guard.ledger.tasks()
    spent, held = settled.charged, lost.held
    found = document(run("status", "acme", "--format", "json"))

    def amounts(limit: int, spent: int, held: int) -> dict[str, str]:
        nanos = {"limit": limit, "spent": spent, "held": held, "remaining": limit - spent - held}
        return {key: money.to_text(value) for key, value in nanos.items()}

    assert found == {
        "schema": 1,
        "budgets": [
            {
                "project": "/", "per": "total", "timezone": "Europe/Berlin", "window_start": None,
                "window_end": None, **amounts(2 * 10**9, spent, held),
                "used_percent": f"{spent * 1000 // (2 * 10**9) / 10:.1f}",
            },
            {
                "project": "acme", "per": "month", "timezone": "Europe/Berlin",
                "window_start": "2026-11-01T00:00:00+01:00", "window_end": "2026-12-01T00:00:00+01:00",
                **amounts(10**9, spent, held), "used_percent": f"{spent * 1000 // 10**9 / 10:.1f}",
            },
            {
                "project": "acme/search", "per": "task", "timezone": "UTC", "window_start": None,
                "window_end": None, **amounts(5 * 10**8, 0, 0), "used_percent": None,
            },
        ],        "defaults": [], "degraded": None,
    }  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(run("status", "--format", "csv").stdout)))
    assert [row["project"] for row in rows] == ["/", "acme", "acme/search", "other"]
    assert list(rows[1]) == list(found["budgets"][1])
    assert "2026-12-01 00:00 CET" in run("status").stdout


def test_a_window_over_the_change_of_clocks_has_both_offsets(run: Run, clock: Clock) -> None:
    clock.now = datetime(2026, 10, 25, 12, tzinfo=UTC)
    run("budget", "set", "acme", "1", "--per", "day", "--timezone", "Europe/Berlin")
    (budget,) = document(run("status", "--format", "json"))["budgets"]
    assert (budget["window_start"], budget["window_end"]) == ("2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00")


def test_status_without_budgets_says_so(run: Run, make_guard: MakeGuard) -> None:
    make_guard()
    assert run("status").stdout == "No budgets.\n"
    assert run("status", "acme").stdout == "No budget covers acme, and there is none below it.\n"
    assert document(run("status", "--format", "json")) == {"schema": 1, "budgets": [], "defaults": [], "degraded": None}


@pytest.mark.parametrize(("amount", "code"), [("0.5", 0), ("0.500000001", 3), ("0", 0)])
def test_check_answers_by_exit_code_what_an_admission_would(
    run: Run, make_guard: MakeGuard, amount: str, code: int
) -> None:
    guard = make_guard()
    guard.set_budget("acme", "0.5")
    guard.set_budget("/", "9", per="total")
    guard.set_budget("acme", "0.1", per="day", action="warn")
    guard.set_budget("acme/search/below", "0.1")
    found = document(run("check", "acme/search", amount, "--format", "json", code=code))
    assert {**found, "amount": None} == {
        "schema": 1, "project": "acme/search", "amount": None, "fits": code == 0, "remaining": "0.50",
        "budget": {"project": "acme", "per": "month"},
    }  # fmt: skip


def test_check_prints_what_remains(run: Run, make_guard: MakeGuard) -> None:
    guard = make_guard()
    guard.set_budget("acme", "0.5")
    assert run("check", "acme", "0.6", code=3).stdout == (
        "0.60 USD does not fit: 0.50 USD remaining (acme per month)\n"
    )
    assert run("check", "other", "99").stdout == "99.00 USD fits: no hard budget covers other\n"
    assert document(run("check", "other", "99", "--format", "json"))["remaining"] is None


def test_check_knows_that_a_limit_of_zero_blocks_all(run: Run, make_guard: MakeGuard) -> None:
    make_guard().set_budget("acme", 0)
    run("check", "acme", "0", code=3)


# -- tasks --------------------------------------------------------------------------------------


@pytest.fixture
def varied(make_guard: MakeGuard, clock: Clock, standin: StandIn) -> Guard:
    """One task in each status, a day apart, under different projects and models."""
    guard = make_guard()
    endings = [
        ("2026-11-01T08:00:00Z", "acme", FLASH, "", {}),
        ("2026-11-02T08:00:00Z", "acme/search", PRO, "error_entry", {}),
        ("2026-11-03T08:00:00Z", "other", FLASH, "forget", {}),
        ("2026-11-03T23:30:00Z", "other", PRO, "", {"deliveryMethod": "async"}),
    ]
    for moment, project, model, fault, fields in endings:
        clock.now = datetime.fromisoformat(moment)
        if fault:
            standin.fault(fault)
        send(guard, standin, a_task(model=model, **fields), project=project)
    clock.now = datetime.fromisoformat("2026-11-03T23:59:00Z")
    return guard


@pytest.mark.parametrize(
    ("args", "days"),
    [
        ((), [1, 2, 3, 3]),
        (("--project", "acme"), [1, 2]),
        (("--project", "other", "--status", "unresolved"), [3]),
        (("--status", "settled"), [1]),
        (("--status", "released"), [2]),
        (("--status", "held"), [3]),
        (("--model", PRO), [2, 3]),
        (("--model", "google-gemini-3-1-pro"), [2, 3]),
        (("--since", "2026-11-02"), [2, 3, 3]),
        (("--since", "2026-11-02", "--until", "2026-11-02"), [2]),
        (("--until", "2026-11-02"), [1, 2]),
        (("--since", "2026-11-02T08:00", "--until", "2026-11-03T08:00:00"), [2]),
        (("--since", "2026-11-02T09:00+01:00", "--until", "2026-11-03T08:00:01Z"), [2, 3]),
        (("--limit", "1"), [3]),
        (("--limit", "3"), [2, 3, 3]),
    ],
)
def test_tasks_are_filtered(varied: Guard, run: Run, args: tuple[str, ...], days: list[int]) -> None:
    found = document(run("tasks", *args, "--format", "json"))["tasks"]
    assert [int(task["day"][-2:]) for task in found] == days


def test_days_of_a_filter_are_in_the_ledgers_reporting_zone(
    make_guard: MakeGuard, clock: Clock, standin: StandIn, run: Run
) -> None:
    guard = make_guard(timezone="Asia/Tokyo")
    clock.now = datetime(2026, 11, 21, 20, tzinfo=UTC)  # the 22nd there
    send(guard, standin)
    assert len(document(run("tasks", "--since", "2026-11-22", "--format", "json"))["tasks"]) == 1
    (task,) = document(run("tasks", "--until", "2026-11-22", "--format", "json"))["tasks"]
    assert task["admitted_at"] == "2026-11-22T05:00:00+09:00"
    assert document(run("tasks", "--until", "2026-11-21", "--format", "json"))["tasks"] == []


def test_a_task_in_json_has_all_that_is_known_of_it(make_guard: MakeGuard, standin: StandIn, run: Run) -> None:
    guard = make_guard()
    logbook = next(seed for seed in seeds() if seed.name == "Storm-Battered Lighthouse Logbook").request
    with guard.scope(tags={"team": "=1+1"}):
        send(guard, standin, logbook)
    (task,) = document(run("tasks", "--format", "json"))["tasks"]
    assert task["upper"] == "0.001267"
    expected = {
        "task_uuid": logbook["taskUUID"], "project": "acme/search", "model": FLASH, "status": "settled",
        "held": "0.00", "charged": "0.001217", "basis": "breakdown", "admitted_at": NOW.isoformat(),
        "day": "2026-11-22", "task_type": "textInference", "delivery": "sync", "expected": "0.001229",
        "upper": "0.001267", "attempts": 1, "clamped_from": None, "odd": False, "reason": None,
        "tags": {"team": "=1+1"},
    }  # fmt: skip
    assert {key: task[key] for key in expected} == expected
    (row,) = csv.DictReader(io.StringIO(run("tasks", "--format", "csv").stdout))
    assert list(row) == list(task)
    assert (row["charged"], row["reason"], row["odd"]) == ("0.001217", "", "false")
    assert json.loads(row["tags"]) == {"team": "=1+1"}


def test_what_an_open_task_was_charged_is_unknown_not_zero(varied: Guard, run: Run) -> None:
    found = {task["status"]: task for task in document(run("tasks", "--format", "json"))["tasks"]}
    assert found["held"]["charged"] is found["unresolved"]["charged"] is None
    assert found["unresolved"]["held"] == found["unresolved"]["upper"] != "0.00"
    assert (found["released"]["charged"], found["released"]["held"]) == ("0.00", "0.00")


def test_a_table_shows_the_newest_and_says_how_many_more(
    varied: Guard, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "TABLE_ROWS", 2)
    text = run("tasks").stdout
    newest = [task.task_uuid for task in varied.ledger.tasks()][-2:]
    assert [uuid for uuid in (row.split()[0] for row in text.splitlines() if row) if len(uuid) == 36] == newest
    assert "The newest 2; 2 older. All of them: --limit N, or --format json or csv." in text
    monkeypatch.setattr(tasks, "COUNTED_MAX", 1)
    assert "The newest 2; more than 1 older." in run("tasks").stdout
    assert "older" not in run("tasks", "--limit", "3").stdout
    assert len(document(run("tasks", "--format", "json"))["tasks"]) == 4


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--since", "yesterday"), "is not a date such as 2026-11-01"),
        (("--since", "2026-02-30"), "is not a date"),
        (("--until", "0001-01-01"), "use a year from"),
        (("--status", "lost"), "'lost' is not one of"),
        (("--limit", "0"), "0 is not in the range"),
        (("--project", "/acme"), "slash"),
    ],
)
def test_an_unusable_filter_is_a_usage_error(run: Run, args: tuple[str, ...], said: str) -> None:
    assert said in run("tasks", *args, code=2).stderr


def test_no_tasks_are_said(make_guard: MakeGuard, run: Run) -> None:
    make_guard()
    assert run("tasks").stdout == "No tasks.\n"
    assert document(run("tasks", "--format", "json")) == {"schema": 1, "tasks": []}


# -- report -------------------------------------------------------------------------------------


def test_the_report_is_one_exact_document(make_guard: MakeGuard, standin: StandIn, run: Run) -> None:
    guard = make_guard(media_max={"video_s": 7})
    for seed in seeds():
        send(guard, standin, seed.request)
    standin.fault("forget")
    send(guard, standin)
    held = guard.ledger.tasks()[-1].held
    found = document(run("report", "--month", "2026-11", "--by", "model", "--format", "json"))
    expected = {
        "schema": 1,
        "month": "2026-11",
        "period": "2026-11",
        "since": "2026-11-01",
        "until": "2026-12-01",
        "is_over": False,
        "currency": "USD",
        "timezone": "UTC",
        "project": None,
        "total": "0.08659",
        "tasks": 8,
        "tokens": 2893,
        "rows": [
            {"model": FLASH, "tasks": 4, "tokens": 2893, "reasoning": 779, "cost": "0.00996"},
            {"model": PRO, "tasks": 4, "tokens": None, "reasoning": None, "cost": "0.07663"},
        ],
        "bases": {"breakdown": "0.0043", "cost": "0.08229"},
        "unresolved": {"tasks": 1, "held": money.to_text(held)},
        "as_of": "2026-11-22T12:00:00+00:00",
    }
    assert {key: found[key] for key in expected} == expected


def test_groups_combine_in_the_order_asked_for(varied: Guard, run: Run) -> None:
    text = run("report", "--by", "day", "--by", "modality", "--by", "day", "--format", "csv").stdout
    assert text.splitlines()[0].endswith(",as_of,day,component,modality,tasks,tokens,reasoning,cost")
    (row, *_) = document(run("report", "--by", "modality", "--format", "json"))["rows"]
    assert {key: row[key] for key in ("component", "modality")} == {"component": "completion", "modality": None}


def test_a_period_is_named_in_many_ways(varied: Guard, run: Run, clock: Clock) -> None:
    clock.now = datetime(2026, 11, 25, 12, tzinfo=UTC)

    def period(*args: str) -> tuple[str, str, str]:
        found = document(run("report", *args, "--format", "json"))
        return found["period"], found["since"], found["until"]

    assert period() == period("--month", "2026-11") == ("2026-11", "2026-11-01", "2026-12-01")
    assert period("--quarter", "2026-Q4") == ("2026-Q4", "2026-10-01", "2027-01-01")
    assert period("--year", "2026") == ("2026", "2026-01-01", "2027-01-01")
    assert period("--last", "month") == ("2026-10", "2026-10-01", "2026-11-01")
    assert period("--last", "7 days") == ("2026-11-19 to 2026-11-25", "2026-11-19", "2026-11-26")
    assert period("--since", "2026-11-03") == ("2026-11-03 to 2026-11-25", "2026-11-03", "2026-11-26")
    assert period("--since", "2026-11-03", "--until", "2026-11-03") == ("2026-11-03", "2026-11-03", "2026-11-04")


def test_a_report_is_filtered_and_grouped_by_tags(make_guard: MakeGuard, standin: StandIn, run: Run) -> None:
    guard = make_guard()
    for user in ("ann", "ben"):
        with guard.scope(tags={"user": user, "team": "search"}):
            send(guard, standin)
    send(guard, standin)
    rows = document(run("report", "--by", "tag:user", "--format", "json"))["rows"]
    assert [(row["tag:user"], row["tasks"]) for row in rows] == [(None, 1), ("ann", 1), ("ben", 1)]
    of_ann = document(run("report", "--tag", "user=ann", "--tag", "team=search", "--top", "5", "--format", "json"))
    assert (of_ann["tasks"], of_ann["tags"]) == (1, {"user": "ann", "team": "search"})
    assert [task["tags"]["user"] for task in of_ann["top"]] == ["ann"]
    assert run("report", "--tag", "user=ann").stdout.startswith("2026-11, all projects, user=ann, team=search"[:30])
    assert document(run("report", "--tag", "user=nobody", "--format", "json"))["tasks"] == 0


def test_refused_calls_are_counted_by_the_program_that_refused_them(
    make_guard: MakeGuard, standin: StandIn, run: Run
) -> None:
    guard = make_guard()
    guard.set_budget("/", "0.000001", per="total")
    for _ in range(3):
        with pytest.raises(BudgetExceeded):
            send(guard, standin)
    with pytest.raises(UnpricedTask):
        send(guard, standin, a_task(model="nobody:knows@1"))
    refused = document(run("report", "--format", "json"))["refused"]
    assert [(one["reason"], one["budget"], one["tasks"]) for one in refused] == [
        ("no room", "/", 3), ("unpriced", "/", 1),
    ]  # fmt: skip
    assert [one["upper"] is None for one in refused] == [False, True]
    upper = guard.estimate(a_task()).upper
    assert upper is not None
    assert Decimal(refused[0]["upper"]) == 3 * upper


def test_the_current_month_is_that_of_the_zone(varied: Guard, run: Run, clock: Clock) -> None:
    clock.now = datetime(2026, 11, 30, 23, 30, tzinfo=UTC)
    assert document(run("report", "--format", "json"))["month"] == "2026-11"
    berlin = document(run("report", "--timezone", "Europe/Berlin", "--format", "json"))
    assert (berlin["month"], berlin["timezone"], berlin["as_of"]) == (
        "2026-12", "Europe/Berlin", "2026-12-01T00:30:00+01:00",
    )  # fmt: skip


def test_the_reports_table_shows_total_open_tasks_and_time(varied: Guard, run: Run) -> None:
    lines = run("report", "--month", "2026-11").stdout.splitlines()
    charged = varied.ledger.tasks()[0].charged
    assert lines[0] == "2026-11, all projects, days in UTC"
    total = next(line.split() for line in lines if line.startswith("total"))
    assert total[1] == "1"
    assert total[-1] == money.to_text(charged)
    assert any(line.startswith("2 tasks still open: up to ") for line in lines)
    assert lines[-1] == "As of 2026-11-03 23:59:00 UTC."


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--month", "2026-13"), "write year and month as '2026-11'"),
        (("--month", "11/2026"), "write year and month"),
        (("--by", "colour"), "'colour' is not one of"),
        (("--by", "tag:"), "'tag:' is not one of"),
        (("--tag", "user"), "is not a tag such as user=ann"),
        (("--tag", "user=a", "--tag", "user=b"), "names a tag twice"),
        (("--quarter", "2026-5"), "write year and quarter as '2026-Q4'"),
        (("--year", "26"), "write it as '2026'"),
        (("--last", "fortnight"), "name month, quarter, year, week, or a number of days"),
        (("--month", "2026-11", "--last", "week"), "--month and --last name two periods"),
        (("--until", "2026-11-03"), "--until needs --since"),
        (("--since", "2026-11-03", "--until", "2026-11-01"), "2026-11-01 is before 2026-11-03"),
        (("--since", "2026-11-03T12:00"), "a report is of whole days; name one such as 2026-11-03"),
        (("--since", "1990-01-01", "--until", "2026-11-01"), "longer than 3660 days"),
        (("--depth", "0"), "0 is not in the range"),
        (("--round", "euros"), "'euros' is not"),
        (("--timezone", "Mars/Olympus"), "not a known IANA time zone"),
        (("--project", ""), "the path is empty"),
    ],
)
def test_an_unusable_report_is_a_usage_error(run: Run, args: tuple[str, ...], said: str) -> None:
    assert said in run("report", *args, code=2).stderr


# -- estimate and prices ------------------------------------------------------------------------


def test_an_estimate_of_a_body_is_that_of_the_guard(run: Run, guard: Guard) -> None:
    harbour, _, _, _, _, logbook, *_ = (seed.request for seed in seeds())
    body = json.dumps([{**harbour, "numberResults": 2}, logbook, {"taskType": "accountManagement"}])
    found = document(run("estimate", "-", "--media-max", "video_s=7", "--format", "json", input=body))
    expected = [
        guard.estimate({**harbour, "numberResults": 2}, media_max={"video_s": 7}),
        guard.estimate(logbook),
    ]
    for task, own in zip(found["tasks"], expected, strict=False):
        assert (task["expected"], task["upper"]) == (f"{own.expected:f}", f"{own.upper:f}")
        assert task["prompt"]["TEXT"] == own.prompt["TEXT"]._asdict()
        assert task["completion"] == own.completion._asdict()
    assert found["tasks"][2]["upper"] == "0.00"
    total = sum(own.upper for own in expected if own.upper is not None)
    assert found["total"]["upper"] == f"{total:f}"


def test_a_single_task_from_a_file_is_estimated(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "task.json"
    file.write_text(json.dumps(a_task()))
    found = document(run("estimate", str(file), "--format", "json"))
    assert [task["task"] for task in found["tasks"]] == [0]
    rows = list(csv.DictReader(io.StringIO(run("estimate", str(file), "--format", "csv").stdout)))
    assert [(row["what"], row["unit"]) for row in rows] == [
        ("TEXT", "tokens"), ("completion", "tokens"), ("cost", "USD"),
    ]  # fmt: skip
    assert rows[-1]["upper"] == found["total"]["upper"]


def test_an_estimate_learns_from_a_project_and_says_so(run: Run, guard: Guard, standin: StandIn) -> None:
    send(guard, standin)
    (charged,) = guard.ledger.usage(("modality",), "2026-11-01", "2026-12-01", "acme/search")[:1]
    body = json.dumps([a_task()])
    found = document(run("estimate", "-", "--project", "acme/search", "--format", "json", input=body))["tasks"][0]
    assert (found["learned"], found["completion"]) == (True, {"expected": charged.tokens, "upper": 200})
    assert "learned from acme/search" in run("estimate", "-", "--project", "acme/search", input=body).stdout
    other = document(run("estimate", "-", "--project", "other", "--format", "json", input=body))["tasks"][0]
    assert (other["learned"], other["completion"]["expected"]) == (False, 200)


def test_what_has_no_price_is_unknown_in_the_total_too(run: Run) -> None:
    body = json.dumps([a_task(), {"taskType": "imageInference", "model": "who:knows@1"}])
    found = document(run("estimate", "-", "--format", "json", input=body, code=1))
    unknown = found["tasks"][1]
    assert (unknown["expected"], unknown["upper"], unknown["completion"]) == (None, None, None)
    assert found["total"] == {"expected": None, "upper": None}
    assert (
        "Task 1 has no worst case: no price is known for model 'who:knows@1'."
        in run("estimate", "-", input=body, code=1).stdout
    )


def test_media_of_unknown_length_name_the_option_that_bounds_them(run: Run) -> None:
    text = run("estimate", "-", input=json.dumps([seeds()[0].request])).stdout
    assert "--media-max video_s=N" in text
    bounded = run("estimate", "-", "--media-max", "video_s=7", input=json.dumps([seeds()[0].request])).stdout
    assert "--media-max" not in bounded


@pytest.mark.parametrize(
    ("args", "body", "code"),
    [
        (("-",), "not json", 1),
        (("-",), "[]", 1),
        (("-",), '[{"taskType":"textInference","numberResults":-1}]', 1),
        (("no-such-file.json",), None, 2),
        (("-", "--media-max", "video_s"), "[]", 2),
        (("-", "--media-max", "video_m=3"), "[]", 2),
        (("-", "--media-max", "video_s=-3"), "[]", 2),
        (("-", "--prices", "no-such-folder"), "[]", 2),
        ((), None, 2),
    ],
)
def test_a_body_or_option_that_cannot_be_used_is_said(
    run: Run, args: tuple[str, ...], body: str | None, code: int
) -> None:
    assert "Error: " in run("estimate", *args, input=body, code=code).stderr


def test_prices_are_listed_with_their_dates_and_shown_with_their_sources(run: Run) -> None:
    models = {model["model"]: model for model in document(run("prices", "list", "--format", "json"))["models"]}
    assert models[PRO]["aliases"] == ["google-gemini-3-1-pro"]
    shown = document(run("prices", "show", "google-gemini-3-1-pro", "--format", "json"))
    assert shown["model"] == PRO
    assert shown["entries"][0]["source"] == "https://runware.ai/docs/models/google-gemini-3-1-pro"
    rates = {
        (rate["above_prompt_tokens"], rate["component"], rate["modality"]): (rate["usd"], rate["per"])
        for rate in shown["rates"]
    }
    assert rates[0, "prompt", "TEXT"] == ("2.00", 1_000_000)
    assert rates[200_000, "completion", None] == ("18.00", 1_000_000)
    assert "https://runware.ai/docs/models/google-gemini-3-1-pro" in run("prices", "show", PRO).stdout
    assert PRO in run("prices", "list").stdout
    assert run("prices", "show", PRO, "--format", "csv").stdout.startswith("effective_from,above_prompt_tokens,")


def test_an_unknown_model_names_the_known_ones(run: Run) -> None:
    assert f"known: {FLASH}, {PRO}" in run("prices", "show", "gpt", code=1).stderr


def test_prices_of_your_own_are_used_and_broken_ones_named(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "prices"
    folder.mkdir()
    shipped = Path(document(run("prices", "show", PRO, "--format", "json"))["file"]).read_text()
    (folder / "own.toml").write_text(shipped.replace(PRO, "own:model@1").replace("google-gemini-3-1-pro", "own"))
    listed = document(run("prices", "list", "--prices", str(folder), "--format", "json"))["models"]
    assert "own:model@1" in [model["model"] for model in listed]
    (folder / "own.toml").write_text("model = 3")
    assert "own.toml: model" in run("prices", "list", "--prices", str(folder), code=1).stderr


# -- verify, demo, signals ----------------------------------------------------------------------


def test_verify_says_what_it_checked(varied: Guard, run: Run) -> None:
    assert run("verify").stdout.endswith("\nAll promises hold.\n")
    found = document(run("verify", "--format", "json"))
    assert (found["schema"], found["ok"], found["difference"]) == (1, True, None)
    assert found["checked"]["journal"] == 4


def test_verify_names_the_first_difference_and_fails(varied: Guard, run: Run, ledger: Path) -> None:
    varied.close()
    with sqlite3.connect(ledger) as connection:
        connection.execute("UPDATE attempts SET charged = charged + 1 WHERE charged > 0")
    connection.close()
    result = run("verify", code=1)
    assert result.stderr.startswith("Error: a promise does not hold: journal: attempt 1 shows")
    found = document(run("verify", "--format", "json", code=1))
    assert not found["ok"]
    assert found["difference"] in result.stderr


def test_the_demo_blocks_one_call_and_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    kept = tmp_path / "kept.db"
    result = CliRunner().invoke(main, ["demo", "--keep", str(kept)])
    assert result.exit_code == 0, result.output
    text = result.output
    assert text.count("BudgetExceeded: demo/search: this call may cost up to") == 1
    assert "0.001217" in text
    assert "0.003083" in text
    assert "All promises hold." in text
    assert max(map(len, text.replace(str(kept), "").splitlines())) <= 80
    found = document(CliRunner().invoke(main, ["--db", str(kept), "tasks", "--format", "json"]))["tasks"]
    assert [task["status"] for task in found] == ["settled"] * 7
    again = CliRunner().invoke(main, ["demo", "--keep", str(kept)])
    assert (again.exit_code, again.stdout) == (1, "")
    assert "exists; name a new file" in again.stderr


def test_the_demo_says_what_would_turn_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COSTGUARD", "off")
    result = CliRunner().invoke(main, ["demo"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: COSTGUARD=off is set")


def test_a_bogus_mode_in_the_environment_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("budget", "set", "acme", "1")
    monkeypatch.setenv("COSTGUARD", "bogus")
    assert run("status", code=1).stderr == "Error: COSTGUARD: 'bogus' is not one of enforce, observe, off\n"


def test_a_closed_pipe_is_quiet(varied: Guard, ledger: Path) -> None:
    shell = f"'{sys.executable}' -m costguard --db '{ledger}' tasks --format csv | true"
    done = subprocess.run(
        ["/bin/sh", "-c", shell], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=True
    )
    assert done.stderr == b""


def test_ctrl_c_is_quiet_and_130(ledger: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-u", "-c", _WAITING],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, b"", b"")


_WAITING = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it
from costguard.cli import main
@main.command()
def wait():
    print("waiting")
    time.sleep(30)
main(["wait"])
"""


def test_output_is_utf_8_whatever_the_locale_says(make_guard: MakeGuard, ledger: Path) -> None:
    make_guard().set_budget("grün/検索", "1")
    env = {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    for output in ("json", "csv"):
        done = program("--db", str(ledger), "budget", "list", "--format", output, env=env, encoding="utf-8")
        assert (done.returncode, done.stderr) == (0, "")
        assert "grün/検索" in done.stdout
    table = program("--db", str(ledger), "budget", "list", env=env, encoding="latin-1")
    assert (table.returncode, table.stderr) == (0, "")
    assert "grün/??" in table.stdout


def test_a_table_in_a_terminal_too_narrow_for_it_keeps_identifiers_whole(varied: Guard, ledger: Path) -> None:
    import fcntl
    import pty
    import struct
    import termios

    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
    env = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    env |= {"PYTHONPATH": str(ROOT), "TERM": "xterm", "NO_COLOR": "1"}
    subprocess.run(
        [sys.executable, "-m", "costguard", "--db", str(ledger), "tasks"], env=env, stdout=terminal, check=True
    )
    os.close(terminal)
    with os.fdopen(controller, "rb") as stream:
        text = stream.read1(65536).decode()
    assert all(task.task_uuid in text for task in varied.ledger.tasks())
    plain = "".join(text.split("\x1b[1m")).replace("\x1b[0m", "")
    assert max(map(len, plain.splitlines())) <= 80


def test_a_ledger_torn_between_two_copies_is_one_line_that_says_what_to_do(
    run: Run, ledger: Path, make_guard: MakeGuard, standin: StandIn
) -> None:
    copies = []
    for calls in (20, 60):
        with make_guard() as guard:
            for _ in range(calls):
                send(guard, standin)
        copies.append(ledger.read_bytes())
    older, newer = copies
    told = []
    for at in range(2048, len(older), 2048):
        ledger.write_bytes(older[:at] + newer[at:])
        for command in ("status", "tasks", "report", "verify", "accuracy"):
            result = CliRunner().invoke(main, [command], obj=Session(ledger, None))
            assert result.exit_code in (0, 1), (at, command)
            assert result.exception is None or isinstance(result.exception, SystemExit), (at, command)
            told.append(result.stderr)
    assert any("estore a" in said for said in told)
