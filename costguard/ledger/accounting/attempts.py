"""An attempt's row, as the accounting reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

OPEN = ("held", "unresolved")
"""Statuses of attempts whose money is set aside."""

IMPORTED = "import"
"""How the results of an attempt came that no request was sent for."""

UNKNOWN_AGE_US = 24 * 3_600 * 1_000_000
"""By default a task that the provider does not know may still be at work for so long: no work takes longer."""

AT_ONCE = 100
"""Tasks that are asked for by one statement."""


class Attempt(NamedTuple):
    """An attempt's row; the fields are the schema's columns, amounts in nano-USD."""

    id: int
    task_uuid: str
    project: str
    task_type: str
    model: str
    delivery: str
    results: int
    at_us: int
    day: str
    upper: int | None
    expected: int | None
    price_id: str | None
    estimate: str
    tags: str
    owner_id: int
    status: str
    reason: str | None
    held: int
    charged: int
    ended_us: int | None
    clamped_from: int | None
    seen: int
    """Results charged so far."""
    host: str
    spelling: str | None
    """How the caller wrote `task_uuid`, None where that is how."""
    accepted: int | None
    """1 if the provider once took the task."""
    ask_us: int | None
    """Released because the provider did not know it: when it is to be asked for once more, 0 once it was."""
    lease_id: int | None
    """The lease that it was admitted under."""


ATTEMPT = ", ".join(Attempt._fields)


def over_by_task(attempts: Iterable[Attempt]) -> dict[str, frozenset[int]]:
    """Each task of `attempts`, as they read now, with those of its attempts that no request is under way for."""
    found: dict[str, frozenset[int]] = {}
    for attempt in attempts:
        ids = {attempt.id} if attempt.ended_us is not None or attempt.status == "unresolved" else frozenset[int]()
        found[attempt.task_uuid] = found.get(attempt.task_uuid, frozenset()) | ids
    return found


def batches(names: Iterable[str]) -> Iterator[list[str]]:
    """These, each once and in their order, `AT_ONCE` at a time."""
    seen: set[str] = set()
    batch: list[str] = []
    for name in names:
        if name not in seen:
            seen.add(name)
            batch.append(name)
            if len(batch) == AT_ONCE:
                yield batch
                batch = []
    if batch:
        yield batch
