"""What a POST was admitted with: its tasks, and the attempt that each of them is in the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from costguard.estimating.estimate import Estimate
from costguard.exchange.receipt import Receipt, TaskReceipt
from costguard.ledger.charges import weakest
from costguard.ledger.records import Doubt, Ending, Release, Settle
from costguard.tasks import Task
from costguard.wire.dialect import Dialect


class Held(NamedTuple):
    """A task that was admitted: its attempt in the ledger and what it was estimated at."""

    attempt_id: int
    task: Task
    estimate: Estimate
    receipt: TaskReceipt


class Admission(NamedTuple):
    """What one POST was admitted with. `body` is None if the caller's bytes go out as they are."""

    dialect: Dialect
    body: bytes | None
    tasks: tuple[Task, ...]
    held: Mapping[str, Held]

    @property
    def receipt(self) -> Receipt:
        """What the caller is told of it."""
        return Receipt(tuple([held.receipt for held in self.held.values()]))


def tell(held: Held, endings: Sequence[Ending]) -> None:
    """Keep the receipt of a task up to date with how its attempt ended."""
    receipt = held.receipt
    charged = 0
    for ending in endings:
        match ending:
            case Settle():
                charged += ending.charge.nanos
                receipt.status = "unresolved" if ending.keep_rest else "settled"
                receipt.charged_nanos = charged
                receipt.basis = weakest(receipt.basis, ending.charge.basis) if receipt.basis else ending.charge.basis
            case Release():
                receipt.status, receipt.charged_nanos = "released", 0
            case Doubt():
                receipt.status = "unresolved"
