"""Errors: what they carry, and that it survives the way between processes."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from decimal import Decimal

import pytest

import costguard
from costguard import BudgetExceeded, CostguardError, LedgerError, UnpricedTask
from costguard.budgets import make_budget


def test_every_public_name_is_there_and_listed() -> None:
    assert sorted(costguard.__all__) == sorted(costguard._HOMES)
    for name in costguard.__all__:
        assert getattr(costguard, name).__name__ == name
    assert set(costguard.__all__) <= set(dir(costguard))
    with pytest.raises(AttributeError, match="no attribute 'Gaurd'"):
        _ = costguard.Gaurd


@pytest.mark.parametrize(
    "error",
    [
        BudgetExceeded(
            "too dear",
            project="acme/search",
            budget=make_budget("acme", "1"),
            requested=Decimal("0.2"),
            remaining=Decimal("0.1"),
            unresolved=Decimal("0.00"),
            resets_at=datetime(2026, 12, 1, tzinfo=UTC),
            busy=True,
        ),
        UnpricedTask("no price", project="acme", model="a:b@c", reason="unknown"),
        LedgerError("busy"),
    ],
)
def test_an_error_survives_the_way_from_another_process(error: CostguardError) -> None:
    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
