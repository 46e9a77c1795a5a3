"""Where a budget stands, in the words that programs and reports read it in."""

from __future__ import annotations

from datetime import datetime
from decimal import ROUND_FLOOR, Decimal
from typing import NamedTuple

from costguard import money
from costguard.ledger.records import Balance

_TENTH = Decimal("0.1")


class BudgetStatus(NamedTuple):
    """A budget and its current window. Amounts are Decimal USD, instants are aware; None for no end."""

    project: str
    per: str
    timezone: str
    window_start: datetime | None
    window_end: datetime | None
    limit: Decimal
    spent: Decimal
    held: Decimal
    remaining: Decimal
    action: str

    @property
    def used_percent(self) -> Decimal | None:
        """What is spent, in percent of the limit as alerts count it, down to a tenth; None where nothing is counted."""
        if self.per == "task" or not self.limit:
            return None
        return (self.spent * 100 / self.limit).quantize(_TENTH, ROUND_FLOOR)


def standing(balance: Balance) -> BudgetStatus:
    """A balance of the ledger as a `BudgetStatus`."""
    budget, window = balance.budget, balance.window
    return BudgetStatus(
        budget.project,
        budget.per,
        budget.timezone,
        None if budget.per in ("total", "task") else window.start,
        window.end,
        budget.limit,
        money.to_usd(balance.spent),
        money.to_usd(balance.held),
        money.to_usd(balance.remaining),
        budget.action,
    )
