"""What a guarded exchange held and was charged: `response.extensions["costguard"]`."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from costguard import money
from costguard.ledger.charges import Basis


@dataclass(slots=True)
class TaskReceipt:
    """One task of the exchange. Amounts are None where they are unknown, or not known yet."""

    task_uuid: str
    project: str
    model: str
    held_nanos: int | None
    status: str = "held"
    """`held`, `settled`, `released` or `unresolved`; `unrecorded` where nothing is known of it (mode off, and
    observe without a ledger)."""
    charged_nanos: int | None = None
    basis: Basis | None = None
    clamped_from: int | None = None
    """The `maxTokens` that was asked for, if a budget lowered it."""
    clamped_to: int | None = None

    @property
    def held(self) -> Decimal | None:
        """USD that were set aside for the worst case."""
        return _usd(self.held_nanos)

    @property
    def charged(self) -> Decimal | None:
        """USD that were charged."""
        return _usd(self.charged_nanos)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The tasks of one POST. A stream's receipt is complete once the stream is."""

    tasks: tuple[TaskReceipt, ...]

    @property
    def held(self) -> Decimal | None:
        """USD set aside for all tasks, None if any of it is unknown."""
        return _usd(money.sum_known(task.held_nanos for task in self.tasks))

    @property
    def charged(self) -> Decimal | None:
        """USD charged for all tasks, None while any of it is unknown."""
        return _usd(money.sum_known(task.charged_nanos for task in self.tasks))


def _usd(nanos: int | None) -> Decimal | None:
    return None if nanos is None else money.to_usd(nanos)
