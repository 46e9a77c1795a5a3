"""What a POST was admitted with: its tasks, and the attempt that each of them is in the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from costguard.estimating.estimate import Estimate
from costguard.exchange.receipt import Receipt, TaskReceipt
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
