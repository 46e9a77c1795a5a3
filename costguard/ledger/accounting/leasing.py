"""Hot budgets, broken up: a program takes a slice of what remains, and admits under it without the budgets' rows.

A lease is an attempt of its own kind: it holds its slice in every budget of a path, by the admission that takes it.
What is admitted under it moves `rest` to `held` in the lease's own row, what is charged moves on to `spent`; budgets
learn of it when the lease ends, whoever ends it. Nothing rests on clocks: an admission finds the lease open, and the
rest large enough, in its own transaction. So anybody may end any lease at any time, and its owner finds that.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from costguard.budgets import Budget
from costguard.errors import LedgerError
from costguard.ledger.accounting.attempts import Attempt
from costguard.ledger.accounting.limits import ENDED, PATH, Limits, Path, State
from costguard.ledger.accounting.rolling import SLOT_US
from costguard.ledger.accounting.sql import FOREVER_US, bounds, spent_under_leases
from costguard.ledger.engine import Engine, Tx
from costguard.ledger.records import Alert, Balance, NewAttempt
from costguard.projects import covers

LEASE_S = 5
"""A lease is ended by its owner after so many seconds, and by anybody else after twice as many."""

SHARE = 64
"""A slice is no more than this part of what remains, so that it shrinks as the limit nears,"""

TIMES_MIN, TIMES_MAX = 8, 256
"""and worth so many times what is being admitted: else it is not taken, or is no larger."""

HOT_S = 0.002
"""Where a call waited so long for the budgets' rows, leases are worth their while (`?leases=auto`)."""

LEASE = "lease"
"""Delivery of the attempt that a lease is: no task has it."""

LEASED, RETURNED = "leased", "returned"
"""Its status, while it is open and after."""

_LOCK = "SELECT id FROM leases WHERE id = ? FOR UPDATE"
_STATE = "SELECT 1, rest, stamp FROM leases WHERE id = ? AND is_open = 1"


log = logging.getLogger("costguard")


class Lease(NamedTuple):
    """A slice, as its owner knows it; amounts in nano-USD. For what is admitted in [start_us, end_us)."""

    id: int
    project: str
    start_us: int
    end_us: int
    until_us: int
    task_max: int | None
    """The least limit per task of the path's hard budgets."""
    rest: int

    def fits(self, at_us: int, amounts: Sequence[int]) -> bool:
        """Whether it seems to have room: the transaction finds out."""
        return (
            self.start_us <= at_us < self.end_us
            and at_us < self.until_us
            and sum(amounts) <= self.rest
            and (self.task_max is None or max(amounts) <= self.task_max)
        )


class Purse:
    """The leases of one program that nobody uses at this moment."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._free: dict[str, deque[Lease]] = defaultdict(deque)
        self._pid = os.getpid()

    def take(self, project: str) -> Lease | None:
        """One of a project's, to use alone."""
        with self._mine():
            return self._free[project].pop() if self._free.get(project) else None

    def put(self, lease: Lease) -> None:
        """For the next who comes."""
        with self._mine():
            self._free[lease.project].append(lease)

    @property
    def is_used(self) -> bool:
        """True if there are any."""
        with self._mine():
            return any(self._free.values())

    def empty(self, before_us: int | None = None) -> list[Lease]:
        """Take all of them out, or those that are over."""
        with self._mine():
            found = [lease for free in self._free.values() for lease in free]
            over = [lease for lease in found if before_us is None or lease.until_us <= before_us]
            self._free.clear()
            for lease in found:
                if lease not in over:
                    self._free[lease.project].append(lease)
            return over

    def _mine(self) -> threading.Lock:
        if self._pid != os.getpid():  # a fork's child: they are its parent's, and so may the lock be
            self._begin()
        return self._lock


class Leasing(Limits):
    """The part of `Ledger` that takes leases and ends them."""

    leases: str
    """Whether they are taken: `auto`, `on` or `off`."""

    def __init__(self, engine: Engine, now_us: Callable[[], int]) -> None:
        super().__init__(engine, now_us)
        self.leases = engine.leases
        self._purse = Purse()
        self._watch: threading.Timer | None = None

    def _keep(self, lease: Lease) -> None:
        """For the next admission; should none come, it is given back once it is over."""
        self._purse.put(lease)
        self._keep_watching()

    def _keep_watching(self) -> None:
        if self._watch is None or not self._watch.is_alive():
            self._watch = threading.Timer(LEASE_S, self._give_back)
            self._watch.daemon = True
            self._watch.start()

    def _give_back(self) -> None:
        self._watch = None
        try:
            self.end_leases(self._now_us())
        except LedgerError as error:
            log.info("leases are given back another time: %s", error)
        if self._purse.is_used and not self._engine.is_closed:
            self._keep_watching()

    def _slice(self, tx: Tx, states: Sequence[State], total: int) -> int:
        """How much to take beside `total`, which is being admitted; 0: nothing."""
        windows = [state for state in states if state.window is not None]
        if not windows or total <= 0 or self.leases == "off" or (self.leases == "auto" and tx.waited_s < HOT_S):
            return 0
        left = min([state.remaining for state in windows if state.budget.hard], default=None)
        size = TIMES_MAX * total if left is None else min(TIMES_MAX * total, (left - total) // SHARE)
        size = min(size, FOREVER_US // 2 - max([state.spent + state.held for state in windows]))
        return size if size >= TIMES_MIN * total else 0

    @staticmethod
    def _new_lease(size: int) -> NewAttempt:
        """The attempt that a lease is."""
        return NewAttempt(f"{LEASE}:{uuid.uuid4()}", LEASE, "", LEASE, 0, size, None, None, "{}", "{}")

    def _keep_lease(self, tx: Tx, lease_id: int, project: str, at_us: int, states: Sequence[State], size: int) -> Lease:
        """Write the row that admissions under a lease move."""
        path: Path = tx.kept[PATH, project]
        until_us = at_us + LEASE_S * 1_000_000
        tx.run("UPDATE attempts SET status = ?, ended_us = ? WHERE id = ?", (LEASED, at_us, lease_id))
        tx.run(
            "INSERT INTO leases (id, project, at_us, until_us, stamp, slice, rest, held, spent, is_open)"
            " VALUES (?,?,?,?,?,?,?,0,0,1)",
            (lease_id, project, at_us, until_us, path.version[1], size, size),
        )
        limits = [state.budget.limit_nanos for state in states if state.window is None and state.budget.hard]
        # Nor beyond where some zone's day may begin: a budget set later may have a window that does.
        slot_us = at_us - at_us % SLOT_US
        start_us, end_us = max(path.start_us, slot_us), min(path.end_us, slot_us + SLOT_US)
        return Lease(lease_id, project, start_us, end_us, until_us, min(limits, default=None), size)

    def _draw(self, tx: Tx, lease: Lease, amounts: Sequence[int]) -> Lease | None:
        """Set `amounts` aside under a lease; None, with the lease ended, if that cannot be."""
        total = sum(amounts)
        tx.lock(_LOCK, (lease.id,))
        found = {row[0]: row[1:] for row in tx.take(f"{tx.stamp} UNION ALL {_STATE}", (lease.id,), len(amounts))}
        if 1 not in found:
            return None
        rest, stamp = found[1]
        if stamp != found[0][0] or rest < total:
            self._end_lease(tx, lease.id)
            return None
        tx.run("UPDATE leases SET rest = rest - ?, held = held + ? WHERE id = ?", (total, total, lease.id))
        return lease._replace(rest=rest - total)

    def _is_leased(self, tx: Tx, attempt: Attempt, held: int, spent: int) -> bool:
        """Whether the lease that an attempt was admitted under takes what becomes of it: `held` and `spent` more.

        Else the budgets do, as ever: it has ended, or has just been ended since what was billed is beyond its rest.
        """
        if attempt.lease_id is None:
            return False
        tx.lock(_LOCK, (attempt.lease_id,))
        found = [row for row in tx.take(f"{tx.stamp} UNION ALL {_STATE}", (attempt.lease_id,), 1) if row[0]]
        if not found:
            return False
        if found[0][1] - held - spent < 0:
            self._end_lease(tx, attempt.lease_id)
            return False
        tx.run(
            "UPDATE leases SET rest = rest - ?, held = held + ?, spent = spent + ? WHERE id = ?",
            (held + spent, held, spent, attempt.lease_id),
        )
        return True

    def _end_lease(self, tx: Tx, lease_id: int) -> None:
        """Let the budgets know what was held and spent under a lease, and give them back the rest."""
        tx.lock(_LOCK, (lease_id,))
        row = tx.one("SELECT project, at_us, slice, held, spent FROM leases WHERE id = ? AND is_open = 1", (lease_id,))
        if row is None:
            return
        project, at_us, size, held, spent = row
        path, balances = self._balances(tx, project, at_us)
        now_us = self._now_us()
        tx.insert(
            "INSERT INTO entries (at_us, attempt_id, kind, held, spent, reason) VALUES (?,?,'release',?,0,?)",
            "seq",
            (now_us, lease_id, -size, "a lease ended"),
        )
        tx.run("UPDATE attempts SET status = ?, held = 0 WHERE id = ?", (RETURNED, lease_id))
        tx.run("UPDATE leases SET is_open = 0 WHERE id = ?", (lease_id,))
        self._move(tx, path.places, spent, held - size)
        alerts = tx.own.setdefault(ENDED, [])
        for budget_id, budget, window in path.budgets if spent else ():
            if window is not None and budget.warn_at:
                now_spent = balances.get((budget_id, *bounds(window)), (0, 0))[0]
                alerts += self._thresholds(tx, now_us, budget_id, budget, window, now_spent)

    def _end_leases(self, tx: Tx, projects: Sequence[str] = ("/",)) -> bool:
        """End all leases that hold something in one of the budgets on `projects`; False if there are none. Alone."""
        found = [
            lease_id
            for lease_id, project in tx.all("SELECT id, project FROM leases WHERE is_open = 1 ORDER BY id")
            if any(covers(one, project) for one in projects)
        ]
        if found:
            tx.alone()
        for lease_id in found:
            self._end_lease(tx, lease_id)
        return bool(found)

    @staticmethod
    def _as_if_ended(tx: Tx, states: Sequence[State]) -> list[State]:
        """These as they would be without leases: what is spent under them is spent, and their rest is there."""
        leases = tx.all("SELECT project, at_us, rest, spent FROM leases WHERE is_open = 1")
        found = []
        for state in states:
            spent, held = state.spent, state.held
            if state.window is not None:
                start_us, end_us = bounds(state.window)
                for project, at_us, rest, spent_under in leases:
                    if covers(state.budget.project, project) and start_us <= at_us < end_us:
                        spent, held = spent + spent_under, held - spent_under - rest
            found.append(state._replace(spent=spent, held=held))
        return found

    def _before_cut(self, tx: Tx) -> None:
        if tx.is_shared:
            self._end_leases(tx)

    def _ended(self, tx: Tx) -> tuple[Alert, ...]:
        """The alerts of the leases that this transaction has ended."""
        return tuple(tx.own.pop(ENDED, ()))

    def end_leases(self, now_us: int | None = None) -> int:
        """End this program's leases that nobody uses; `now_us`: those of its own and of others that are over by then.

        Returns how many. What was admitted under them stays held, as it is.
        """
        if not self._engine.is_shared:
            return 0
        mine = [lease.id for lease in self._purse.empty(now_us)]
        if now_us is not None:
            over_us = now_us - LEASE_S * 1_000_000
            sql = "SELECT id FROM leases WHERE is_open = 1 AND until_us <= ? ORDER BY id"
            mine += [row[0] for row in self._read(lambda tx: tx.all(sql, (over_us,)))]
        for lease_id in dict.fromkeys(mine):
            self._write(lambda tx, lease_id=lease_id: self._end_lease(tx, lease_id), beside=True)  # type: ignore[misc]
        return len(mine)

    def _balance_at(self, tx: Tx, budget_id: int | None, budget: Budget, at_us: int) -> Balance:
        """With what was spent under open leases told as spent, not as held: the balances do not know of it yet."""
        found = super()._balance_at(tx, budget_id, budget, at_us)
        spent = 0 if budget.per == "task" else spent_under_leases(tx, budget.project, found.window)
        return found._replace(spent=found.spent + spent, held=found.held - spent)
