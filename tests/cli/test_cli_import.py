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
from costguard.exchange import importing
from costguard.ledger.accounting.importing import Batch, Booking, Conflict, Importer

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


def test_two_logs_with_the_same_names_do_not_overwrite_each_other(run: Run) -> None:
    for name, cost, day in (("oct", "0.1", -20), ("nov", "0.2", 1)):
        records = [
            {"at": a_record(day=day)["at"], "id": str(n), "usage": {"total_tokens": 1, "cost": cost}} for n in (0, 1)
        ]
        Path(f"{name}.jsonl").write_bytes(lines(records))
    run("import", "oct.jsonl", "--project", "acme", "--at", "at")
    found = run("import", "nov.jsonl", "--project", "lab", "--at", "at", code=1)
    assert "Booked 0 results of 0 new tasks on lab: 0.00 USD." in found.stdout
    assert "booked 0.10 USD on acme at 2026-10-11T12:00:00Z" in found.stdout
    assert "this says 0.20 USD at 2026-11-01" in found.stdout
    run("verify")


def test_equal_lines_without_a_name_are_told(run: Run) -> None:
    nameless = {"at": a_record()["at"], "usage": {"total_tokens": 1, "cost": "0.1"}}
    Path("calls.jsonl").write_bytes(lines([nameless] * 3))
    assert "2 lines were equal to another and have no name: booked once." in run(*CALLS).stdout


def test_a_folder_without_a_price_file_is_an_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    assert "no price file (.toml) in it" in run(*CALLS, "--prices", "own", code=1).stderr
    assert "no price file (.toml) in it" in run("reprice", "--as-of", "2026-11-01", "--prices", "own", code=1).stderr


def test_a_stopped_import_says_how_far_it_came(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "BATCH_LINES", 2)
    add = Importer.add

    def stop(importer: Importer, at_us: int, batch: Batch) -> tuple[Booking, list[Conflict]]:
        if batch.mark.number > 2:
            raise KeyboardInterrupt
        return add(importer, at_us, batch)

    monkeypatch.setattr(Importer, "add", stop)
    assert "Stopped: nothing was booked" in run(*CALLS, "--dry-run", code=130).stderr
    assert "Stopped after line 2: 2 results are booked, 0.00244 USD" in run(*CALLS, code=130).stderr
    monkeypatch.setattr(Importer, "add", add)
    assert told(run(*CALLS, "--format", "json"))["after"] == 2


def test_control_characters_of_a_files_name_are_in_writing(run: Run) -> None:
    Path("a\x1b[31m.jsonl").write_bytes(GOOD)
    csv_text = (
        run("import", "a\x1b[31m.jsonl", *CALLS[2:], "--format", "csv").stdout + run("log", "--format", "csv").stdout
    )
    assert "\x1b" not in csv_text
    assert csv_text.count("a\\x1b[31m.jsonl") == 2


def test_an_import_beside_programs_that_use_the_ledger_is_in_their_budgets(
    run: Run, ledger: Path, clock: Clock
) -> None:
    with Guard(ledger, clock=clock, durability="normal") as guard:
        guard.set_budget("acme", 1)
        run(*CALLS)
        (status,) = guard.status("acme")
        assert str(status.spent) == "0.00366"
