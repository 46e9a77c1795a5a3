"""What the proxy tells of itself: whether it is well, and for Prometheus what was spent, held and refused."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import TYPE_CHECKING

from costguard import money
from costguard.errors import CostguardError
from costguard.exchange.gate import OFF
from costguard.guard import Guard
from costguard.projects import ROOT, covers

if TYPE_CHECKING:
    from prometheus_client import Metric


async def health(guard: Guard, *, is_draining: bool) -> tuple[int, bytes]:
    """Status and JSON: 200 if calls are served, 503 while they are not."""
    said, status = "ok", 200
    if is_draining:
        said, status = "shutting down", 503
    elif guard.mode != OFF:
        try:
            if await asyncio.to_thread(_is_degraded, guard):
                said = "the ledger is away: it is told later"
        except CostguardError:
            said, status = "the ledger cannot be read", 503
    return status, json.dumps({"status": said, "mode": guard.mode}).encode()


def _is_degraded(guard: Guard) -> bool:
    """Whether the ledger is yet to be told of calls; LedgerError if it cannot be read and is needed."""
    guard.budgets()
    return guard.degraded is not None


async def page(guard: Guard, project: str | None, *, in_flight: int) -> tuple[str, bytes]:
    """Content type and text of the metrics of `project` and all below it; None: of all.

    Read on a thread of its own: no call waits for it. LedgerError if the ledger cannot be read.
    """
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

    class Read:
        def collect(self) -> Iterable[Metric]:
            yield _in_flight(in_flight)
            if guard.mode != OFF:
                yield from _read(guard, project or ROOT)

    def write() -> bytes:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Read())
        return generate_latest(registry)

    return CONTENT_TYPE_PLAIN_0_0_4, await asyncio.to_thread(write)


def _in_flight(count: int) -> Metric:
    from prometheus_client.core import GaugeMetricFamily

    return GaugeMetricFamily("costguard_calls_in_flight", "Calls that this proxy is serving.", value=count)


def _read(guard: Guard, within: str) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    def by_project(name: str, what: str, found: dict[str, int]) -> Metric:
        family = GaugeMetricFamily(name, what, labels=["project"])
        for project, value in sorted(found.items()):
            if covers(within, project):
                family.add_metric([project], usd(money.to_usd(value)) if name.endswith("usd") else value)
        return family

    ledger = guard.ledger
    spent = {row.keys[0]: row.nanos for row in ledger.usage(("project",), "0001-01-01", "9999-12-31")}
    held: dict[str, int] = defaultdict(int)
    unresolved: dict[str, int] = defaultdict(int)
    tasks: dict[str, int] = defaultdict(int)
    for attempt in ledger.open_attempts(within):
        held[attempt.project] += attempt.held
        if attempt.status == "unresolved":
            unresolved[attempt.project] += attempt.held
            tasks[attempt.project] += 1
    yield by_project("costguard_spent_usd", "Charged on a project so far.", spent)
    yield by_project("costguard_held_usd", "Held for calls of a project that are not settled.", held)
    yield by_project("costguard_unresolved_usd", "Of it, held for calls whose outcome is unknown.", unresolved)
    yield by_project("costguard_unresolved_tasks", "Calls whose outcome is unknown.", tasks)
    refused = CounterMetricFamily("costguard_refused_tasks", "Tasks that were refused.", labels=["project", "reason"])
    for (project, reason), count in ledger.refused().items():
        if covers(within, project):
            refused.add_metric([project, reason], count)
    yield refused
    standings = [one for one in guard.status(within) if covers(within, one.project)]
    for what, said in (("limit", "A budget's limit."), ("spent", "Spent in a budget's window."),
                       ("held", "Held in it."), ("remaining", "Left of it.")):  # fmt: skip
        family = GaugeMetricFamily(f"costguard_budget_{what}_usd", said, labels=["project", "per"])
        for one in standings:
            family.add_metric([one.project, one.per], usd(getattr(one, what)))
        yield family


def usd(amount: Decimal) -> float:
    """Prometheus has nothing but floats: their 15 digits are exact to the nano-dollar below a million dollars."""
    return float(amount)
