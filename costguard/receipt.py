"""What a guarded exchange held and was charged: `response.extensions["costguard"]`."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from costguard import money
from costguard.billing import Basis


@dataclass(slots=True)
class TaskReceipt:
    """One task of the exchange. Amounts are None where they are unknown, or not known yet."""

    task_uuid: str
    project: str
    model: str
    held_nanos: int | None
    status: str = "held"
    """`held`, `settled`, `released` or `unresolved`."""
    charged_nanos: int | None = None
    basis: Basis | None = None
    clamped_from: int | None = None
    """The `maxTokens` that was asked for, if a budget lowered it."""
    clamped_to: int | None = None

    @property
    def held(self) -> Decimal | None:
        """USD that were set aside for the worst case."""
        return None if self.held_nanos is None else money.to_usd(self.held_nanos)

    @property
    def charged(self) -> Decimal | None:
        """USD that were charged."""
        return None if self.charged_nanos is None else money.to_usd(self.charged_nanos)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The tasks of one POST. A stream's receipt is complete once the stream is."""

    tasks: tuple[TaskReceipt, ...]

    @property
    def held(self) -> Decimal | None:
        """USD set aside for all tasks, None if any of it is unknown."""
        return _sum([task.held_nanos for task in self.tasks])

    @property
    def charged(self) -> Decimal | None:
        """USD charged for all tasks, None while any of it is unknown."""
        return _sum([task.charged_nanos for task in self.tasks])


def _sum(amounts: list[int | None]) -> Decimal | None:
    total = 0
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return money.to_usd(total)
