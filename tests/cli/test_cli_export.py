"""`costguard export focus`: where it goes, what it says beside it, and what it refuses."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result
from conftest import API, PRO, Clock, a_task

from costguard import Guard
from costguard.cli import main
from costguard.cli.app import Session
from costguard.reports.focus import COLUMNS
from costguard.testing import StandIn

Run = Callable[..., Result]


@pytest.fixture
def run(ledger: Path, clock: Clock) -> Run:
    """`export focus` with these arguments, on the test's ledger at the test's time."""

    def invoke(*args: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, ["export", "focus", *args], obj=Session(ledger, clock))
        assert result.exit_code == code, (result.stdout, result.stderr, result.exc_info)
        return result

    return invoke


@pytest.fixture
def spent(guard: Guard, standin: StandIn) -> Decimal:
    """Three tasks were charged, one is unresolved; what the three came to."""
    with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:
        client.post("/v1", json=[a_task()], extensions={"costguard": {"tags": {"user": "ann"}}})
        client.post("/v1", json=[a_task(model=PRO), a_task()], extensions={"costguard": {"project": "other"}})
        standin.fault("drop_after")
        with pytest.raises(httpx.ReadError):
            client.post("/v1", json=[a_task()])
    return sum((Decimal(task.charged).scaleb(-9) for task in guard.ledger.tasks()), Decimal(0))


def billed(text: str) -> Decimal:
    return sum((Decimal(row["BilledCost"]) for row in csv.DictReader(io.StringIO(text))), Decimal(0))


def test_a_month_is_printed_as_csv_and_adds_up_to_the_ledger(run: Run, spent: Decimal) -> None:
    for args in ((), ("--month", "2026-11"), ("--per", "hour"), ("-o", "-"), ("--format", "csv")):
        result = run(*args)
        assert result.stdout.splitlines()[0] == ",".join(COLUMNS)
        assert billed(result.stdout) == spent > 0
    assert billed(run("--month", "2026-10").stdout) == 0
    assert 0 < billed(run("--project", "other").stdout) < spent


def test_what_is_open_is_told_on_standard_error(run: Run, spent: Decimal) -> None:
    assert "Not in it: 1 task whose outcome is open, for which 0.0" in run().stderr
    assert "Not in it" not in run("--project", "other").stderr
    assert "Not in it" not in run("--month", "2026-10").stderr


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "X.CSV"])
def test_a_file_is_in_the_format_of_its_ending(run: Run, spent: Decimal, tmp_path: Path, name: str) -> None:
    result = run("-o", str(tmp_path / name))
    assert result.stdout == ""
    assert f"Wrote 6 rows to {tmp_path / name}" in result.stderr
    content = (tmp_path / name).read_bytes()
    if name == "x.parquet":
        assert content.startswith(b"PAR1")
        assert content.endswith(b"PAR1")
    else:
        assert billed(content.decode()) == spent


def test_parquet_goes_through_a_pipe(run: Run, spent: Decimal) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(io.BytesIO(run("--format", "parquet").stdout_bytes))
    assert sum(table.column("BilledCost").to_pylist()) == spent


@pytest.mark.parametrize("name", ["x.html", "x.json", "x"])
def test_another_ending_is_a_usage_error_and_nothing_is_made(
    run: Run, spent: Decimal, tmp_path: Path, name: str
) -> None:
    result = run("-o", str(tmp_path / name), code=2)
    assert "FOCUS is written to .csv and .parquet files" in result.stderr
    assert not (tmp_path / name).exists()


def test_a_month_that_does_not_exist_is_a_usage_error(run: Run, spent: Decimal) -> None:
    assert "did you mean '2026-12'" in run("--month", "2026-13", code=2).stderr


def test_a_project_and_a_month_that_nothing_is_of_are_told(run: Run, spent: Decimal) -> None:
    result = run("--project", "othre")
    assert result.stdout == ",".join(COLUMNS) + "\n"
    assert "did you mean 'other'" in result.stderr
    assert "No charge and no hold is of 2026-10; there are of 2026-11" in run("--month", "2026-10").stderr


def test_without_a_ledger_there_is_nothing_to_export(run: Run, ledger: Path) -> None:
    assert "no ledger at" in run(code=1).stderr
    assert not ledger.exists()


def test_the_ledger_is_never_written_over(run: Run, spent: Decimal, ledger: Path) -> None:
    assert "name another file" in run("-o", str(ledger), "--format", "csv", code=1).stderr
    with Guard(ledger) as guard:
        assert guard.verify().ok


def test_what_fails_half_way_leaves_the_file_that_was_there(
    run: Run, spent: Decimal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from costguard.reports import focus

    file = tmp_path / "x.csv"
    file.write_text("before")
    monkeypatch.setattr(focus, "_quantities", lambda *_: 1 / 0)
    run("-o", str(file), code=1)
    assert file.read_text() == "before"
    assert not list(tmp_path.glob(".costguard-*"))


def test_a_pipe_that_closes_early_ends_it_as_it_does_other_commands(guard: Guard, spent: Decimal, ledger: Path) -> None:
    guard.close()
    reading, writing = os.pipe()
    os.close(reading)
    done = [
        subprocess.run(
            [sys.executable, "-m", "costguard", "--db", str(ledger), *args],
            cwd=Path(__file__).parents[2],
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
        for args in (["export", "focus"], ["report", "--format", "csv"])
    ]
    os.close(writing)
    assert [(each.returncode, each.stderr) for each in done] == [(1, b"")] * 2


def test_the_account_and_the_zone_are_as_they_are_named(run: Run, spent: Decimal) -> None:
    (row, *_) = csv.DictReader(io.StringIO(run("--account", "acme-1", "--timezone", "Asia/Kolkata").stdout))
    assert row["BillingAccountId"] == "acme-1"
    assert row["BillingPeriodStart"] == "2026-10-31T18:30:00Z"
    assert "Tags" in row


def test_prices_of_one_s_own_are_list_prices_too(run: Run, spent: Decimal, tmp_path: Path) -> None:
    folder = tmp_path / "prices"
    folder.mkdir()
    shipped = Path(__file__).parents[2] / "pricing" / "google-gemini-3-flash.toml"
    own = shipped.read_text().replace("from = 2025-12-17", "from = 2025-12-16")
    (folder / "own.toml").write_text(own)
    found = list(csv.DictReader(io.StringIO(run("--prices", str(folder)).stdout)))
    # The charges name an entry that is not in this list: another one is no answer.
    assert {row["ListUnitPrice"] for row in found if row["ResourceId"] != PRO} == {""}
    assert "" not in {row["ListUnitPrice"] for row in found if row["ResourceId"] == PRO}
