"""`costguard log`, `project` and `reprice`: what happened, what projects are called, what other prices would be."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from conftest import Clock
from recordings import FLASH, PRICES, a_record, an_item, lines

from costguard.cli import main
from costguard.cli.app import Session

Run = Callable[..., Result]
USAGE = {"prompt_tokens": 1000, "completion_tokens": 100}


@pytest.fixture
def run(ledger: Path, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Commands on a ledger with one import on acme/search, and one on lab."""
    monkeypatch.chdir(tmp_path)

    def invoke(*args: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, args, obj=Session(ledger, clock))
        assert result.exit_code == code, (result.stdout, result.stderr, result.exc_info)
        return result

    for project in ("acme/search", "lab"):
        usage = {"prompt_tokens": 1000, "completion_tokens": 100}
        records = [
            a_record(an_item(f"{project}-a")),
            {**a_record(), "response": {"id": f"{project}-b", "usage": usage}},
        ]
        file = Path(f"{project.replace('/', '-')}.jsonl")
        file.write_bytes(lines(records))
        invoke("import", str(file), "--project", project, "--at", "at")
    return invoke


def test_the_log_is_one_time_line_that_can_be_narrowed(run: Run, clock: Clock) -> None:
    clock.now += timedelta(days=1)
    run("budget", "set", "acme", "5")
    run("ceiling", "set", "acme:writer@1", "0.1")
    run("project", "rename", "lab", "laboratory")
    events = json.loads(run("log", "--format", "json").stdout)["events"]
    assert [event["what"] for event in events] == ["import", "import", "budget", "ceiling", "project"]
    assert all(event["who"] for event in events)
    for args, kinds in (
        (("--since", "2026-11-23"), ["budget", "ceiling", "project"]),
        (("--until", "2026-11-22"), ["import", "import"]),
        (("--project", "acme"), ["import", "budget"]),
        (("--project", "laboratory"), ["import", "project"]),
        (("--what", "import", "--what", "ceiling"), ["import", "import", "ceiling"]),
        (("--project", "nobody"), []),
    ):
        found = json.loads(run("log", *args, "--format", "json").stdout)["events"]
        assert [event["what"] for event in found] == kinds, args
    table = run("log").stdout
    assert "budget acme per month set to 5.00 USD" in " ".join(table.split())
    rows = list(csv.DictReader(io.StringIO(run("log", "--format", "csv").stdout)))
    assert [row["amount"] for row in rows] == ["0.00202", "0.00202", "5.00", "0.10", ""]


def test_a_limit_that_was_changed_says_what_it_was(run: Run) -> None:
    for limit in ("5", "7"):
        run("budget", "set", "acme", limit)
    told = json.loads(run("log", "--what", "budget", "--format", "json").stdout)["events"]
    assert [(event["amount"], event["before"]) for event in told] == [("5.00", None), ("7.00", "5.00")]


def test_a_log_without_events_says_so(run: Run) -> None:
    assert "Nothing happened" in run("log", "--what", "alert").stdout


def test_a_renamed_project_is_shown_by_its_name_and_its_budgets_stay(run: Run) -> None:
    run("budget", "set", "lab", "5")
    said = run("project", "rename", "lab", "science/lab").stdout
    assert "Nothing that was booked is changed" in said
    assert "Budgets stay on the paths they were set on (lab)" in said
    listed = json.loads(run("project", "list", "--format", "json").stdout)["projects"]
    (row,) = [row for row in listed if row["booked_on"] == "lab"]
    assert (row["project"], row["budgets"]) == ("science/lab", 1)
    assert row["who"]
    (budget,) = json.loads(run("budget", "list", "--format", "json").stdout)["budgets"]
    assert budget["project"] == "lab"
    run("verify")


def test_renaming_back_undoes_it(run: Run) -> None:
    run("project", "rename", "lab", "science")
    run("project", "rename", "science", "lab")
    listed = json.loads(run("project", "list", "--format", "json").stdout)["projects"]
    assert {row["booked_on"]: row["project"] for row in listed}["lab"] == "lab"


def test_a_name_that_is_taken_needs_a_merge_and_a_merge_a_project(run: Run) -> None:
    assert "costguard project merge lab acme/search" in run("project", "rename", "lab", "acme/search", code=1).stderr
    assert "there is no project acme/serch; did you mean 'acme/search'?" in (
        run("project", "merge", "lab", "acme/serch", code=1).stderr
    )
    run("project", "merge", "lab", "acme/search")
    report = json.loads(run("report", "--month", "2026-11", "--by", "project", "--format", "json").stdout)
    assert [(row["project"], row["cost"]) for row in report["rows"]] == [("acme/search", "0.00404")]


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("rename", "/", "all"), "is all projects"),
        (("rename", "acme", "acme/old"), "lies below it"),
        (("rename", "acme/serch", "acme/find"), "did you mean 'acme/search'?"),
        (("merge", "lab", "lab"), "is lab or lies below it"),
    ],
)
def test_what_cannot_be_called_otherwise_is_told(run: Run, args: tuple[str, ...], why: str) -> None:
    assert why in run("project", *args, code=1).stderr
    assert json.loads(run("log", "--what", "project", "--format", "json").stdout)["events"] == []


def test_repricing_shows_and_never_changes(run: Run, ledger: Path) -> None:
    before = ledger.read_bytes()
    for args in ((), ("--dry-run",)):
        found = json.loads(
            run("reprice", "--as-of", "2026-11-20", "--month", "2026-11", *args, "--format", "json").stdout
        )
        assert (found["charged"], found["computed"], found["difference"]) == ("0.0016", "0.0016", "0.00")
        assert (found["left_out"], found["left_out_charged"]) == (2, "0.00244")
    assert ledger.read_bytes() == before
    one = run("reprice", "--as-of", "2026-11-20", "--project", "lab").stdout
    assert "lab" in one
    assert "acme" not in one
    assert "Nothing was changed" in one


def test_repricing_for_good_is_wrong_usage(run: Run) -> None:
    assert "frozen" in run("reprice", "--as-of", "2026-11-20", "--no-dry-run", code=2).stderr
    run("reprice", "--month", "2026-11", code=2)
    run("reprice", "--as-of", "2026-13-20", code=2)
    run("reprice", "--as-of", "2026-11-20", "--month", "2026-13", code=2)


def test_a_day_has_the_prices_of_its_end_in_utc_wherever_the_ledger_is(
    ledger: Path, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (flash,) = [model for model in PRICES.models() if model.model == FLASH]
    text = flash.file.read_text(encoding="utf-8")
    head, entry = text[: text.index("[[prices]]")], text[text.index("[[prices]]") :]
    dearer = re.sub(r'(TEXT = )"0.5[0]*"', r'\1"1.5"', entry.replace("from = ", "from = 2026-12-01 #"))
    Path("own").mkdir()
    Path("own", "flash.toml").write_text(f"{head}{entry}\n{dearer}", encoding="utf-8")
    Path("calls.jsonl").write_bytes(lines([{**a_record(), "response": {"id": "b", "usage": USAGE}}]))

    def run(*args: str) -> str:
        result = CliRunner().invoke(main, args, obj=Session(ledger, clock))
        assert result.exit_code == 0, result.output
        return result.stdout

    run("init", "--timezone", "Asia/Tokyo")
    run("import", "calls.jsonl", "--project", "acme", "--at", "at")
    found = {}
    for day in ("2026-11-30", "2026-12-01"):
        args = ("reprice", "--as-of", day, "--month", "2026-11", "--prices", "own")
        assert f"At the prices of {day}:" in run(*args)
        found[day] = json.loads(run(*args, "--format", "json"))["computed"]
    assert found == {"2026-11-30": "0.0008", "2026-12-01": "0.0018"}


def test_a_name_is_that_of_the_project_that_is_shown_so(run: Run) -> None:
    run("project", "rename", "lab", "old")
    run("project", "rename", "acme", "lab")
    args = ("reprice", "--as-of", "2026-11-20", "--format", "json")
    for name, shown in (("lab", "lab/search"), ("acme", "lab/search"), ("old", "old")):
        assert {row["project"] for row in json.loads(run(*args, "--project", name).stdout)["rows"]} == {shown}, name


def test_prices_before_the_first_entry_leave_everything_out(run: Run) -> None:
    found = json.loads(run("reprice", "--as-of", "2020-01-01", "--month", "2026-11", "--format", "json").stdout)
    assert (found["left_out"], found["charged"], found["left_out_because"]) == (4, "0.00", {"no price": 4})
    said = " ".join(run("reprice", "--as-of", "2020-01-01", "--month", "2026-11").stdout.split())
    assert "At the prices of 2020-01-01 nothing can be compared: all 4 charges are left out, 0.00404 USD." in said
