"""`costguard import`: what it says, what it leaves alone, and how it ends."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from conftest import Clock
from recordings import a_record, an_item, lines

from costguard import Guard
from costguard.cli import main
from costguard.cli.app import Session

Run = Callable[..., Result]
GOOD = lines([a_record(an_item(f"task-{n}", seed=n)) for n in range(3)])


@pytest.fixture
def run(ledger: Path, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    Path("calls.jsonl").write_bytes(GOOD)

    def invoke(*args: str, code: int = 0, stdin: bytes | None = None) -> Result:
        result = CliRunner().invoke(main, args, obj=Session(ledger, clock), input=stdin)
        assert result.exit_code == code, (result.stdout, result.stderr, result.exc_info)
        return result

    return invoke


def told(result: Result) -> dict[str, object]:
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


CALLS = ("import", "calls.jsonl", "--project", "acme/search", "--at", "at")


def test_it_books_once_and_says_so(run: Run) -> None:
    first = run(*CALLS)
    assert "Booked 3 results of 3 new tasks on acme/search: 0.00366 USD." in first.stdout
    again = told(run(*CALLS, "--format", "json"))
    assert (again["after"], again["lines"], again["results"], again["charged"]) == (3, 0, 0, "0.00")
    elsewhere = told(run(*CALLS[:3], "lab", "--at", "at", "--format", "json"))
    assert (elsewhere["lines"], elsewhere["known"], elsewhere["results"]) == (3, 3, 0)
    assert told(run("report", "--month", "2026-11", "--format", "json"))["total"] == "0.00366"
    run("verify")


def test_bad_lines_are_listed_and_counted_and_the_others_are_booked(run: Run) -> None:
    Path("calls.jsonl").write_bytes(b"nonsense\n" * 3 + GOOD)
    found = run(*CALLS, "--list", "2", code=1)
    assert "Booked 3 results" in found.stdout
    assert "not JSON" in found.stdout
    assert "More bad lines are not listed" in found.stdout
    assert "3 lines of calls.jsonl could not be booked, all others are" in found.stderr
    record = json.loads(run(*CALLS, "--list", "2", "--format", "json", code=1).stdout)
    assert (record["bad"], [fault["number"] for fault in record["faults"]]) == (3, [1, 2])
    assert (record["known"], record["results"]) == (3, 0)


def test_mended_lines_are_booked_and_the_others_not_again(run: Run) -> None:
    Path("calls.jsonl").write_bytes(GOOD.replace(b'"task-1"', b'"task-1'))
    assert run(*CALLS, code=1).exit_code == 1
    Path("calls.jsonl").write_bytes(GOOD)
    found = told(run(*CALLS, "--format", "json"))
    assert (found["results"], found["known"], found["bad"]) == (1, 2, 0)


def test_a_dry_run_tells_the_same_and_changes_nothing(run: Run, ledger: Path) -> None:
    dry = told(run(*CALLS, "--dry-run", "--format", "json"))
    assert not ledger.exists(), "not even a ledger is made"
    run("budget", "set", "acme", "1")
    before = ledger.read_bytes()
    assert told(run(*CALLS, "--dry-run", "--format", "json")) == dry
    assert ledger.read_bytes() == before
    assert "Would book 3 results" in run(*CALLS, "--dry-run").stdout
    real = told(run(*CALLS, "--format", "json"))
    assert {**dry, "dry_run": False} == real
    assert told(run(*CALLS[:3], "lab", "--at", "at", "--dry-run", "--format", "json"))["known"] == 3


def test_it_reads_standard_input_and_arrays(run: Run) -> None:
    array = json.dumps([json.loads(line) for line in GOOD.splitlines()], indent=2).encode()
    found = told(run("import", "-", *CALLS[2:], "--format", "json", stdin=array))
    assert (found["file"], found["unit"], found["results"]) == ("standard input", "item", 3)
    assert told(run("import", "-", *CALLS[2:], "--format", "json", stdin=GOOD))["known"] == 3


def test_tags_and_one_time_for_all_are_kept(run: Run) -> None:
    run(*CALLS[:4], "--at", "2026-11-05", "--tag", "user=ann", "--tag", "run=a=b")
    rows = json.loads(run("tasks", "--format", "json").stdout)["tasks"]
    assert {(row["day"], json.dumps(row["tags"]), row["delivery"]) for row in rows} == {
        ("2026-11-05", '{"user": "ann", "run": "a=b"}', "import"),
    }  # fmt: skip


def test_every_row_of_csv_is_of_one_import(run: Run) -> None:
    (row,) = csv.DictReader(io.StringIO(run(*CALLS, "--format", "csv").stdout))
    assert (row["file"], row["project"], row["results"], row["charged"]) == (
        "calls.jsonl",
        "acme/search",
        "3",
        "0.00366",
    )


@pytest.mark.parametrize(
    "args",
    [
        ("import", "calls.jsonl", "--at", "at"),
        ("import", "calls.jsonl", "--project", "acme"),
        ("import", "nothing.jsonl", "--project", "acme", "--at", "at"),
        ("import", "calls.jsonl", "--project", "a//b", "--at", "at"),
        ("import", "calls.jsonl", "--project", "acme", "--at", "2026-13-01"),
        ("import", "calls.jsonl", "--project", "acme", "--at", " "),
        ("import", "calls.jsonl", "--project", "acme", "--at", "at", "--tag", "user"),
        ("import", "calls.jsonl", "--project", "acme", "--at", "at", "--tag", "a=1", "--tag", "a=2"),
        ("import", ".", "--project", "acme", "--at", "at"),
    ],
)
def test_wrong_usage_is_told_and_books_nothing(run: Run, args: tuple[str, ...], ledger: Path) -> None:
    assert run(*args, code=2).stderr.startswith("Usage")
    assert not ledger.exists()


def test_a_time_that_is_yet_to_come_is_wrong_usage(run: Run) -> None:
    assert "yet to come" in run(*CALLS[:4], "--at", "2026-11-23", code=2).stderr
    assert json.loads(run("tasks", "--format", "json").stdout)["tasks"] == []


def test_an_empty_file_is_no_error(run: Run) -> None:
    Path("calls.jsonl").write_bytes(b"")
    assert told(run(*CALLS, "--format", "json"))["lines"] == 0


def test_hostile_names_stay_text(run: Run) -> None:
    name = "=cmd|' /C calc'!A0[red]</script>"
    Path("calls.jsonl").write_bytes(lines([a_record(an_item(name), model=name)]))
    run(*CALLS)
    assert name in run("tasks", "--format", "json").stdout
    assert name not in run("tasks", "--format", "csv").stdout.replace(f"'{name}", "")


def test_an_import_beside_programs_that_use_the_ledger_is_in_their_budgets(
    run: Run, ledger: Path, clock: Clock
) -> None:
    with Guard(ledger, clock=clock, durability="normal") as guard:
        guard.set_budget("acme", 1)
        run(*CALLS)
        (status,) = guard.status("acme")
        assert str(status.spent) == "0.00366"
