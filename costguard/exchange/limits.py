"""What a program sets and asks of its limits: budgets, ceilings, and what is left."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import TypeVar

from costguard import money
from costguard.budgets import Budget, make_budget
from costguard.errors import ConfigurationError
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.standing import Standings, standing
from costguard.prices.book import PriceBook
from costguard.projects import ancestors, parse_budget_project, parse_project

T = TypeVar("T")


class Limits(ABC):
    """The part of a `Guard` that speaks of limits."""

    project: str
    prices: PriceBook

    @abstractmethod
    def now_us(self) -> int:
        """The clock: UTC microseconds."""

    @abstractmethod
    def _asked(self, ask: Callable[[Ledger], T]) -> T:
        """What `ask` has of the ledger, or of what stands in for it."""

    def set_budget(
        self,
        project: str,
        amount: str | int | Decimal,
        *,
        per: str = "month",
        timezone: str | None = None,
        warn_at: Iterable[int] | None = None,
        action: str | None = None,
        floor: int | None = None,
        wait: float | Decimal | None = None,
        if_absent: bool = False,
    ) -> Budget:
        """Limit `project` and all below it to `amount` USD `per` day, week, month, quarter, year, total or task.

        Returns the budget as it stands. One that there is (project, per) keeps what is not named, and its balance;
        a raised limit arms its alerts again. With `if_absent` it stays as it is: for a program's own default, which
        must not undo an operator's. `acme/*` is such a budget on each direct child of acme without one of its own
        for that `per`, `/*` on each top-level project. `timezone` (new: UTC): where the window begins. `warn_at`
        (new: none): percents of the limit that fire an alert once per window. `action`: "block" (new); "clamp"
        lowers `maxTokens` to what is left, never under `floor` tokens (new: 1), before it refuses; "warn" never
        refuses. `wait` (new: 0): seconds a call may wait for held money to come back before it is refused.
        """
        make = functools.partial(
            make_budget, project, amount, per=per, timezone=timezone, warn_at=warn_at, action=action, floor=floor,
            wait=wait,
        )  # fmt: skip
        name, now_us = parse_budget_project(project), self.now_us()
        return self._asked(lambda ledger: ledger.change_budget(name, per, make, now_us, if_absent=if_absent)[0])

    def remove_budget(self, project: str, *, per: str = "month") -> bool:
        """Forget a budget; False if there was none. With a default (`acme/*`), those of the children go too."""
        name, now_us = parse_budget_project(project), self.now_us()
        return self._asked(lambda ledger: ledger.remove_budget(name, per, now_us))

    def budgets(self) -> list[Budget]:
        """All budgets that were set, by project and period."""
        return self._asked(lambda ledger: ledger.budgets())

    def set_ceiling(self, name: str, amount: str | int | Decimal) -> None:
        """Worst case in USD per result for a model or task type without a price, so that it may be sent."""
        known, nanos, now_us = self._ceiling_name(name), money.parse_usd(amount, "ceiling"), self.now_us()
        self._asked(lambda ledger: ledger.set_ceiling(known, nanos, now_us))

    def remove_ceiling(self, name: str) -> bool:
        """Forget a ceiling; False if there was none."""
        known, now_us = self._ceiling_name(name), self.now_us()
        return self._asked(lambda ledger: ledger.remove_ceiling(known, now_us))

    def ceilings(self) -> dict[str, Decimal]:
        """Ceilings in USD per result, by model or task type."""
        return {name: money.to_usd(nanos) for name, nanos in self._asked(lambda ledger: ledger.ceilings()).items()}

    def _ceiling_name(self, name: str) -> str:
        if not isinstance(name, str) or not name.strip() or len(name) > 200:
            raise ConfigurationError(f"ceiling: expected a model or task type, found {name!r}")
        known = self.prices.find(name)
        return known.model if known else name

    def status(self, project: str | None = None) -> Standings:
        """Every budget with its current window, a list; with `project` those on its path and below it.

        Of a default such as `acme/*` each child is shown that spent or holds something, and the one on the path.
        """
        wanted = None if project is None else parse_project(project)
        now_us = self.now_us()
        return Standings(map(standing, self._asked(lambda ledger: ledger.balances(now_us, wanted))))

    def remaining(self, project: str | None = None) -> Decimal | None:
        """USD that a call of `project` may still cost at most, over all hard budgets of its path; None if none."""
        path = ancestors(self.project if project is None else parse_project(project))
        now_us = self.now_us()
        left = [
            balance.remaining
            for balance in self._asked(lambda ledger: ledger.balances(now_us, path[0]))
            if balance.budget.hard and balance.budget.project in path
        ]
        return money.to_usd(min(left)) if left else None
