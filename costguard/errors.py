"""Every error costguard raises on purpose. All derive from `CostguardError`."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from costguard.budgets import Budget


class CostguardError(Exception):
    """Base of all errors raised by costguard itself. They survive pickling, so a process pool passes them on."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[CostguardError], args: tuple[Any, ...], state: dict[str, Any]) -> CostguardError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigurationError(CostguardError, ValueError):
    """A setting, argument or option is not usable; the message names it."""


class PriceFileError(ConfigurationError):
    """A price file is malformed; the message names the file and the key."""


class InvalidRequest(CostguardError, ValueError):  # noqa: N818
    """A request body cannot be read as tasks. Nothing was sent."""


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


class LedgerError(CostguardError):
    """The ledger cannot be opened, read or written; the message names the file and the remedy."""
