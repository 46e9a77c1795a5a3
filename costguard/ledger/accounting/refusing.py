"""What was refused, counted by day: how often, why, and what it would have cost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from costguard.budgets import day_of
from costguard.ledger.engine import Tx
from costguard.ledger.records import NewAttempt, Refused, Unpriced

NO_ROOM, BUSY, BLOCKED, UNPRICED = "no room", "busy", "blocked", "unpriced"
"""Why a task was refused: the budget is spent; it would fit should held money come back; the limit is 0; its worst case
is not known."""


def reason_of(refused: Refused | Unpriced) -> str:
    """Why, in a word or two."""
    if isinstance(refused, Unpriced):
        return UNPRICED
    if refused.budget.limit_nanos == 0:
        return BLOCKED
    return BUSY if refused.busy else NO_ROOM


def count_refused(
    tx: Tx, timezone: str, refused: Refused | Unpriced, project: str, at_us: int, tasks: Sequence[NewAttempt]
) -> None:
    """Add the tasks of one refused POST to the counts of their day, in the ledger's zone.

    Each task counts by itself: what it was expected to cost and its worst case, nano-USD, 0 where that is unknown;
    and how many have no known worst case.
    """
    day, reason, budget = day_of(timezone, at_us), reason_of(refused), refused.budget
    sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for task in tasks:
        known = sums[task.model, task.task_type]
        known[0] += 1
        known[1] += task.expected or 0
        known[2] += task.upper or 0
        known[3] += task.upper is None
    tx.many(
        "INSERT INTO refusals (day, project, model, task_type, budget, per, reason, tasks, expected, upper, unpriced)"
        " VALUES (?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (day, project, model, task_type, budget, per, reason)"
        " DO UPDATE SET"
        " tasks = refusals.tasks + excluded.tasks, expected = refusals.expected + excluded.expected,"
        " upper = refusals.upper + excluded.upper, unpriced = refusals.unpriced + excluded.unpriced",
        [
            (day, project, model, task_type, budget.project, budget.per, reason, *counts)
            for (model, task_type), counts in sums.items()
        ],
    )
