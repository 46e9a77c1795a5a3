"""The same calls recorded on any kind of database give the same report, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import ledgers
import pytest
from click.testing import CliRunner
from conftest import NOW, Clock
from elsewhere import Elsewhere, Files, Schemas
from ledgers import DAY_US, NOW_US, a_charge, an_attempt, open_ledger, place, work

from costguard.budgets import make_budget
from costguard.cli import main
from costguard.cli.app import Session
from costguard.ledger.records import Admitted, Doubt, Settle

REPORTS = (
    ("report", "--month", "2026-11"),
    ("report", "--month", "2026-11", "--by", "model", "--per", "day", "--top", "5"),
    ("report", "--month", "2026-11", "--by", "basis", "--timezone", "Asia/Kathmandu"),
    ("status",),
    ("tasks",),
    ("log",),
)


@pytest.fixture
def both(schemas: Schemas) -> Iterator[tuple[Elsewhere, ...]]:
    """Every kind of database."""
    with schemas:
        yield Files(), schemas


def record(path: Path) -> str:
    """A ledger with calls of every kind; where it is."""
    with closing(open_ledger(path, timezone="Europe/Berlin")) as ledger:
        for project, per in (("acme", "month"), ("acme/*", "day"), ("/", "total")):
            ledger.set_budget(make_budget(project, "0.000009", per=per, action="warn", warn_at=(10, 90)), NOW_US)
        work(ledger, 50)
        tasks = [an_attempt(20 + n, task_uuid=f"task {n}") for n in range(3)]
        admitted = ledger.admit("acme", NOW_US + DAY_US, tasks)
        assert isinstance(admitted, Admitted)
        paid, lost, _ = admitted.attempt_ids
        ledger.conclude(NOW_US + DAY_US, [Settle(paid, a_charge(9), "0"), Doubt(lost, "timed out")])
        ledger.call_project("acme/1", "lab", NOW_US)
    return str(place(path))


def test_reports_are_equal_byte_for_byte(
    tmp_path: Path, both: tuple[Elsewhere, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    places = []
    for elsewhere in both:
        monkeypatch.setattr(ledgers, "elsewhere", elsewhere)
        places.append(record(tmp_path / "ledger.db"))
    for command in REPORTS:
        for form in ("json", "csv"):
            told = []
            for where in places:
                done = CliRunner().invoke(main, [*command, "--format", form], obj=Session(where, Clock(NOW)))
                assert done.exit_code == 0, done.output
                told.append(done.output)
            assert told[0] == told[1], command
            assert len(told[0]) > 100
