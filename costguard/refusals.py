"""Why a call was kept back: the errors that say so, with what a program needs to decide what to do."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from costguard.budgets import Budget
from costguard.errors import CostguardError


class UnpricedTask(CostguardError):  # noqa: N818
    """A task has no known worst case, and a hard budget covers it. Nothing was sent.

    Attributes: `project` (the call's path), `model` (model or task type), `reason`.
    """

    def __init__(self, message: str, *, project: str, model: str, reason: str) -> None:
        super().__init__(message)
        self.project = project
        self.model = model
        self.reason = reason


class BudgetExceeded(CostguardError):  # noqa: N818
    """The worst case of a call does not fit a budget. Nothing was sent.

    Attributes: `project` (the call's path), `budget` (the `Budget` with the least remaining),
    `requested`, `remaining` and `unresolved` (Decimal USD; `unresolved` is the part of the held
    money whose outcome is unknown), `resets_at` (aware datetime, None for `total` and `task`),
    `busy` (True if the call would fit should all held money come back, False if it never will).
    """

    def __init__(
        self,
        message: str,
        *,
        project: str,
        budget: Budget,
        requested: Decimal,
        remaining: Decimal,
        unresolved: Decimal,
        resets_at: datetime | None,
        busy: bool,
    ) -> None:
        super().__init__(message)
        self.project = project
        self.budget = budget
        self.requested = requested
        self.remaining = remaining
        self.unresolved = unresolved
        self.resets_at = resets_at
        self.busy = busy
