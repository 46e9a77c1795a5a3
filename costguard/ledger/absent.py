"""What stands in for a ledger that could not be used, so that a program in mode `observe` or `off` goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NoReturn

from costguard.budgets import Budget
from costguard.errors import LedgerError
from costguard.ledger.records import Balance
from costguard.projects import check_name

log = logging.getLogger("costguard")


class NoLedger:
    """Forgets what a program writes, and says so in the log; has no budgets, no ceilings and no history.

    Everything else that is asked of it raises the LedgerError that `why` gave.
    """

    def __init__(self, why: str, mode: str = "observe") -> None:
        self._why = why
        self._mode = mode

    def change_budget(
        self, project: str, per: str, make: Callable[..., Budget], *_: object, **__: object
    ) -> tuple[Budget, None]:
        """Not set: it is only made, so that mistakes in it are errors here, too."""
        budget = make(old=None)
        self._forgotten(f"the budget on {project} per {per}")
        return budget, None

    def remove_budget(self, *_: object, **__: object) -> bool:
        """There is none."""
        return False

    def set_ceiling(self, name: str, *_: object, **__: object) -> None:
        """Not set: its name is only checked."""
        check_name(name, "ceiling")
        self._forgotten(f"the ceiling of {name}")

    def remove_ceiling(self, *_: object, **__: object) -> bool:
        """There is none."""
        return False

    def budgets(self) -> list[Budget]:
        """None."""
        return []

    def named(self, *_: object) -> list[str]:
        """None."""
        return []

    def balances(self, *_: object, **__: object) -> list[Balance]:
        """None."""
        return []

    def ceilings(self) -> dict[str, int]:
        """None."""
        return {}

    def mean_completion(self, *_: object, **__: object) -> None:
        """Unknown."""

    def media_key(self) -> bytes:
        """Any: nothing is found by it."""
        return b"\0"

    def media_counts(self, *_: object, **__: object) -> dict[str, dict[str, int]]:
        """None."""
        return {}

    def close(self) -> None:
        """Nothing to close."""

    def _forgotten(self, what: str) -> None:
        log.error("%s is not kept (mode %s): %s", what, self._mode, self._why)

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise LedgerError(self._why)
