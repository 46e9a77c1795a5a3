"""What a guarded exchange held and was charged: `response.extensions["costguard"]`."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from costguard import money
from costguard.billing import Basis


@dataclass(slots=True)
class TaskReceipt:
    """One task of the exchange. Amounts in USD; None where they are unknown, or not known yet."""

    task_uuid: str
    project: str
    model: str
    held: Decimal | None
    """The worst case that was set aside."""
    status: str = "held"
    """`held`, `settled`, `released` or `unresolved`."""
    charged: Decimal | None = None
    basis: Basis | None = None
    """Where `charged` came from; the weakest of several results' bases."""
    clamped_from: int | None = None
    """The `maxTokens` that was asked for, if a budget lowered it."""
    clamped_to: int | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """The tasks of one POST. A stream's receipt is complete once the stream is."""

    tasks: tuple[TaskReceipt, ...]

    @property
    def held(self) -> Decimal | None:
        """USD set aside for all tasks, None if any of it is unknown."""
        return _sum([task.held for task in self.tasks])

    @property
    def charged(self) -> Decimal | None:
        """USD charged for all tasks, None while any of it is unknown."""
        return _sum([task.charged for task in self.tasks])


def _sum(amounts: list[Decimal | None]) -> Decimal | None:
    total = 0
    for amount in amounts:
        if amount is None:
            return None
        total += money.parse_usd(amount)
    return money.to_usd(total)
