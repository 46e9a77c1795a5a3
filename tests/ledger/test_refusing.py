"""Refused tasks are counted by day, project, model, budget and reason, with what they would have cost."""

from __future__ import annotations

from pathlib import Path

import pytest
from ledgers import DAY_US, NOW_US, an_attempt, hold, open_ledger

from costguard.budgets import make_budget
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.accounting.reporting import Asked, RefusedSum
from costguard.ledger.accounting.spending import Span
from costguard.ledger.records import NewAttempt, Refused, Unpriced

pytestmark = pytest.mark.usefixtures("each_engine")

NOVEMBER = Span("UTC", 1793491200000000, 1796083200000000, ("2026-11-01", "2026-12-01"))


def refuse(ledger: Ledger, *tasks: NewAttempt, project: str = "acme", at_us: int = NOW_US) -> None:
    answer = ledger.admit(project, at_us, tasks)
    assert isinstance(answer, (Refused, Unpriced))
    ledger.count_refusal(answer, project, at_us, tasks)


def counted(ledger: Ledger, project: str | None = None) -> list[RefusedSum]:
    return ledger.report(Asked(NOVEMBER, project=project), NOW_US).refused


def test_what_was_refused_is_counted_by_why_and_never_held(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.db")
    ledger.set_budget(make_budget("acme", "0.000000100"), NOW_US)
    ledger.set_budget(make_budget("shut", "0"), NOW_US)
    hold(ledger, 60, project="acme")
    for n in range(3):
        refuse(ledger, an_attempt(101)._replace(expected=80), at_us=NOW_US - n * DAY_US)
    refuse(ledger, an_attempt(30), an_attempt(40))
    refuse(ledger, an_attempt(None), an_attempt(7))
    refuse(ledger, an_attempt(1), project="shut/x")
    flash = ("google:gemini@3-flash", "textInference")
    assert counted(ledger) == [
        RefusedSum("acme", *flash, "acme", "month", "busy", 2, 70, 70, 0),
        RefusedSum("acme", *flash, "acme", "month", "no room", 3, 240, 303, 0),
        RefusedSum("acme", *flash, "acme", "month", "unpriced", 2, 7, 7, 1),
        RefusedSum("shut/x", *flash, "shut", "month", "blocked", 1, 1, 1, 0),
    ]
    assert [one.project for one in counted(ledger, "shut")] == ["shut/x"]
    assert counted(ledger, "ac") == []
    assert ledger.open_attempts("/")[0].held == 60
    assert ledger.verify().difference is None
    ledger.close()


def test_the_first_refusal_of_a_window_is_told_once_and_all_are_counted(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path / "ledger.db")
    ledger.set_budget(make_budget("acme", "0.000000010"), NOW_US)
    told = []
    for _ in range(3):
        task = an_attempt(11)
        answer = ledger.admit("acme", NOW_US, [task])
        assert isinstance(answer, Refused)
        told.append(len(ledger.count_refusal(answer, "acme", NOW_US, [task])))
    assert told == [1, 0, 0]
    assert [one.tasks for one in counted(ledger)] == [3]
    ledger.close()
