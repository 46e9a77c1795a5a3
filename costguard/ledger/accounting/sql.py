"""Pieces of SQL that several parts of the accounting are made of, and what is said of rows that are not whole."""

from __future__ import annotations

import functools
from zlib import crc32

from costguard.budgets import Window
from costguard.errors import LedgerError
from costguard.ledger.engine import Tx
from costguard.projects import covers

_LEASES = "open leases"

FOREVER_US = 2**63 - 1
"""How a balance keeps the end of a window that has none."""

STANDING = (
    "c.replaces IS NULL"
    " AND NOT EXISTS (SELECT 1 FROM charges r WHERE r.attempt_id = c.attempt_id AND r.replaces = c.seq)"
)
"""SQL condition: the charge `c` was neither taken back nor takes another one back."""


@functools.lru_cache(maxsize=64)
def marks(count: int) -> str:
    """`count` parameter marks."""
    return ",".join("?" * count)


OF_TASK = "name_hash = ? AND task_uuid = ?"
"""SQL condition: an attempt is of a task; its parameters are `of_task`."""

LOCK_TASK = f"SELECT id FROM attempts WHERE {OF_TASK} ORDER BY id FOR UPDATE"
"""SQL for `Tx.lock`: all attempts of a task; parameters are `of_task`."""

LOCK_TASKS = (
    "SELECT id FROM attempts WHERE (name_hash, task_uuid) IN (SELECT name_hash, task_uuid FROM attempts"
    " WHERE id IN ({})) ORDER BY id FOR UPDATE"
)
"""As `LOCK_TASK`, of the tasks of some attempts."""

LOCK_LEASES = (
    "SELECT id FROM leases WHERE id IN (SELECT lease_id FROM attempts WHERE id IN ({})) ORDER BY id FOR UPDATE"
)
"""The leases that some attempts were admitted under, in one order: whoever takes them one by one may wait in a ring."""

CHARGES_OF_TASK = f"attempts a CROSS JOIN charges c WHERE {OF_TASK} AND c.attempt_id = a.id"
"""SQL source and condition: the attempts `a` of a task with their charges `c`, parameters as for `OF_TASK`.

A cross join is taken in the order in which it is written: SQLite would begin with all charges.
"""


def of_task(task_uuid: str) -> tuple[int, str]:
    """The parameters of `OF_TASK`."""
    return name_hash(task_uuid), task_uuid


def name_hash(task_uuid: str) -> int:
    """What a task is looked for by: short, and as good for names that begin or end alike."""
    return crc32(task_uuid.encode("utf-8", "surrogatepass"))


def covered(project: str, column: str = "project") -> tuple[str, tuple[str, ...]]:
    """SQL condition and parameters: `column` is `project` or lies below it."""
    if project == "/":
        return "1=1", ()
    return f"({column} = ? OR ({column} >= ? AND {column} < ?))", (project, f"{project}/", f"{project}0")


def admitted_in(window: Window, column: str = "at_us") -> tuple[str, tuple[int, ...]]:
    """SQL condition and parameters: an attempt was admitted in `window`."""
    if window.end_us is None:
        return f"{column} >= ?", (window.start_us,)
    return f"{column} >= ? AND {column} < ?", (window.start_us, window.end_us)


def bounds(window: Window) -> tuple[int, int]:
    """A window's start and end as a balance keeps them."""
    return window.start_us, FOREVER_US if window.end_us is None else window.end_us


def charged_and_held(tx: Tx, project: str, window: Window) -> tuple[int, int]:
    """What the attempts at or below `project` that were admitted in `window` were charged, and hold, in nano-USD."""
    below, projects = covered(project)
    within, times = admitted_in(window)
    row = tx.one(
        f"SELECT coalesce(sum(charged), 0), coalesce(sum(held), 0) FROM attempts WHERE {below} AND {within}",
        (*projects, *times),
    )
    return (row[0], row[1]) if row else (0, 0)


def spent_under_leases(tx: Tx, project: str, window: Window) -> int:
    """What was spent in a window under leases that are open, in nano-USD: its balance has it among what is held.

    For transactions that read: the leases are looked at once.
    """
    if not tx.is_shared:
        return 0
    if _LEASES not in tx.own:
        tx.own[_LEASES] = tx.all("SELECT project, at_us, spent FROM leases WHERE is_open = 1")
    start_us, end_us = bounds(window)
    return sum([spent for of, at_us, spent in tx.own[_LEASES] if covers(project, of) and start_us <= at_us < end_us])


def not_whole(error: Exception) -> LedgerError:
    """Rows that do not fit together, or cannot be read as what they are, are the ledger's error."""
    return LedgerError(
        f"the ledger's rows do not fit together ({type(error).__name__}: {error}): its file is damaged; restore"
        " a backup, and run `costguard verify`"
    )
