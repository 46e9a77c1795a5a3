"""Where a budget stands, in the words that programs and reports read it in."""

from __future__ import annotations

from datetime import datetime
from decimal import ROUND_FLOOR, Decimal
from typing import Any, NamedTuple

from costguard import money, rows
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


class Standings(list[BudgetStatus]):
    """Budgets as they stand: a list, and in a notebook a table."""

    def to_frame(self, library: str | None = None) -> Any:
        """A DataFrame, amounts as Decimal: see `costguard.rows.to_frame`."""
        return rows.to_frame(list(_TITLES), self._rows(), library)

    def _repr_html_(self) -> str:
        return rows.to_html(_TITLES, self._rows())

    def _rows(self) -> list[dict[str, Any]]:
        return [{**found._asdict(), "used_percent": found.used_percent} for found in self]


_TITLES = {
    "project": "Project", "per": "Per", "timezone": "Time zone", "window_start": "From", "window_end": "Resets",
    "limit": "Limit USD", "spent": "Spent", "held": "Held", "remaining": "Remaining", "used_percent": "Used %",
    "action": "Action",
}  # fmt: skip


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
