"""What the machine of leases is made of: its programs, what it knows of attempts, and what it chooses from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from hypothesis import strategies as st
from ledgers import MINUTE_US

from costguard.budgets import to_us
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.accounting.leasing import Lease
from costguard.ledger.engines import open_engine
from costguard.ledger.records import Alert

SECOND_US = 1_000_000
START_US = to_us(datetime(2026, 11, 30, 23, 59, 50, tzinfo=UTC))
BUDGETS = ("/", "acme", "acme/search", "acme/*", "other")
PERIODS = ("total", "month", "day", "task")
CALLERS = ("acme/search", "acme/search/prod", "acme/chat", "other")
CALLER = st.sampled_from(CALLERS)
AMOUNTS = st.lists(st.integers(1, 40), min_size=1, max_size=3)
ZONES = ("UTC", "UTC", "Asia/Kolkata")
LIMITS = st.sampled_from([1_000_000, 400_000, 3_000_000, 100_000, 30_000, 2_000, 0])
PROGRAMS = (("on", 0), ("on", 3 * MINUTE_US), ("on", -2 * MINUTE_US), ("off", SECOND_US))
"""Of each: whether it takes leases, and how far its clock is off."""


def done(op: Callable[..., object], *arguments: object) -> bool:
    """Run `op`; True."""
    op(*arguments)
    return True


@dataclass
class Attempt:
    """What the model knows of an attempt."""

    id: int
    task_uuid: str
    project: str
    at_us: int
    held: int
    charged: int = 0
    basis: str | None = None

    @property
    def open(self) -> bool:
        return self.basis is None


class Program:
    """A ledger in a program of its own, with its own clock."""

    def __init__(
        self, url: str, leases: str, clock: Callable[[], int], hear: Callable[[Sequence[Alert]], object]
    ) -> None:
        self._clock = clock
        self.ledger = Ledger(open_engine(url, durability="normal"), now_us=lambda: self.now, leases=leases)
        self.ledger.on_alerts = hear

    @property
    def now(self) -> int:
        return self._clock()

    @property
    def leases(self) -> list[Lease]:
        """Those in its purse."""
        return [lease for free in self.ledger._purse._free.values() for lease in free]
