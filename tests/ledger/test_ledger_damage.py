"""Rows that do not fit together, as half of one copy and half of another hold them: an error that says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from ledgers import NOW_US, hold, open_ledger

from costguard.budgets import make_budget
from costguard.errors import LedgerError
from costguard.ledger.accounting.book import Ledger

DAMAGE: dict[str, tuple[str, Callable[[Ledger], object]]] = {
    "a status that is none": ("UPDATE attempts SET status = 'x'", lambda ledger: ledger.tasks()),
    "warnings that are no list": ("UPDATE budgets SET warn_at = '{'", lambda ledger: ledger.budgets()),
    "warnings that are a number": ("UPDATE budgets SET warn_at = '7'", lambda ledger: ledger.covering("acme")),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_rows_that_do_not_fit_together_are_a_ledger_error_that_says_what_to_do(name: str, tmp_path: Path) -> None:
    damage, use = DAMAGE[name]
    ledger = open_ledger(tmp_path / "ledger.db")
    ledger.set_budget(make_budget("/", 1, per="total"), NOW_US)
    hold(ledger, 1, 2, 3)
    ledger._engine.write(lambda tx: tx.run(damage))
    with pytest.raises(LedgerError, match=r"rows do not fit together .* damaged; restore a backup"):
        use(ledger)
    ledger.close()
