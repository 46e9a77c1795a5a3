"""What is read from the ledger: tasks, usage, open holds. Portable SQL, one snapshot a call."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from costguard.budgets import ALL_TIME, Budget, Window, window_at
from costguard.errors import CostguardError
from costguard.ledger.accounting.attempts import ATTEMPT, Attempt, batches
from costguard.ledger.accounting.results import Booked
from costguard.ledger.accounting.sql import (
    CHARGES_OF_TASK,
    OF_TASK,
    STANDING,
    admitted_in,
    bounds,
    charged_and_held,
    covered,
    marks,
    name_hash,
    not_whole,
    of_task,
)
from costguard.ledger.charges import Charge, read_lines
from costguard.ledger.engine import Engine, Steps, Tx, Write, run
from costguard.ledger.owner import Owner, is_dead
from costguard.ledger.records import Alert, Balance, TaskRow
from costguard.money import sum_known
from costguard.projects import ancestors, is_default, like

T = TypeVar("T")

log = logging.getLogger("costguard")

BUDGET = "id, project, per, limit_nanos, timezone, action, warn_at, floor_tokens, wait_ms"

FOREIGN_AGE_US = 3600 * 1_000_000
"""A hold of a process on another host, whose life cannot be seen, reads `unresolved` after an hour."""


_UNFIT = (LookupError, ValueError, StopIteration)
"""What rows raise that do not fit together: one that others name is not there, or it holds something else."""


@functools.lru_cache(maxsize=1024)
def read_budget(
    project: str, per: str, limit: int, timezone: str, action: str, warn_at: str, floor: int, wait_ms: int
) -> Budget:
    """A budget from its row (`BUDGET` without the id)."""
    return Budget(project, per, limit, timezone, action, tuple(json.loads(warn_at)), floor, wait_ms)


def terms(budget: Budget) -> tuple[int, str, str, str, int, int]:
    """What a budget's row and its changes keep of it, beside its project and period."""
    return (
        budget.limit_nanos, budget.timezone, budget.action, json.dumps(budget.warn_at), budget.floor_tokens,
        budget.wait_ms,
    )  # fmt: skip


def _log_alerts(alerts: Iterable[Alert]) -> None:
    for alert in alerts:
        log.warning("%s", alert)


class Reading:
    """The reading half of `Ledger`; every method is one snapshot and raises LedgerError if it cannot be had."""

    timezone: str

    def __init__(self, engine: Engine, now_us: Callable[[], int]) -> None:
        self._engine = engine
        self._now_us = now_us
        self.on_alerts: Callable[[Sequence[Alert]], object] = _log_alerts
        """Called with the alerts of leases that this program has ended."""

    def _read(self, op: Callable[[Tx], T]) -> T:
        """Run `op` on one snapshot."""
        try:
            return self._engine.read(op)
        except CostguardError:
            raise
        except (*_UNFIT, TypeError) as error:
            raise not_whole(error) from error

    def _write(self, op: Callable[[Tx], T], *, beside: bool = False) -> T:
        """Run `op` in one transaction; `beside` others, see `Engine.write`."""
        return run(self._writing(op, beside=beside))

    def _writing(self, op: Callable[[Tx], T], *, beside: bool = False) -> Steps[T]:
        """The steps of `_write`."""
        try:
            value: T
            if self._engine.is_shared:
                value, alerts = yield Write(self._engine, lambda tx: (op(tx), self._ended(tx)), beside)
                if alerts:
                    self.on_alerts(alerts)
            else:
                value = yield Write(self._engine, op, beside)
        except CostguardError:
            raise
        except _UNFIT as error:  # a TypeError is of what a caller wants to write
            raise not_whole(error) from error
        return value

    def _ended(self, tx: Tx) -> tuple[Alert, ...]:  # noqa: ARG002
        """Alerts of what a transaction did beside what it was for."""
        return ()

    def ceilings(self) -> dict[str, int]:
        """All ceilings: model or task type -> nano-USD per result."""
        return self._read(lambda tx: dict(tx.all("SELECT name, nanos FROM ceilings ORDER BY name")))

    def budgets(self) -> list[Budget]:
        """All budgets that were set, by project and period."""
        sql = f"SELECT {BUDGET} FROM budgets WHERE like_id IS NULL ORDER BY project, per"
        return self._read(lambda tx: [read_budget(*row[1:]) for row in tx.all(sql)])

    def covering(self, project: str) -> list[Budget]:
        """The budgets that a call of `project` is held in, those by default as the child's own."""
        return [budget for _, budget, _ in self._read(lambda tx: self._covering(tx, project))]

    @staticmethod
    def _covering(tx: Tx, project: str) -> list[tuple[int | None, Budget, int | None]]:
        """Each budget that covers `project`: its row's id, None if it has none yet, and its default's id, None if set.

        A default (`acme/*`) stands for a budget like it on each child that has none of its own for that period.
        """
        covering = ancestors(project)
        names = (*covering, *(name for name in map(like, covering) if name))
        found = {}
        defaults = {}
        for budget_id, name, per, *rest, like_id in tx.all(
            f"SELECT {BUDGET}, like_id FROM budgets WHERE project IN ({marks(len(names))}) ORDER BY id", names
        ):
            budget = read_budget(name, per, *rest)
            if is_default(name):
                defaults[name, per] = budget_id, budget
            else:
                found[name, per] = budget_id, budget, like_id
        for child in covering[:-1] if defaults else ():
            for (name, per), (default_id, budget) in defaults.items():
                if name == like(child):
                    found.setdefault((child, per), (None, replace(budget, project=child), default_id))
        return list(found.values())

    def balances(self, at_us: int, project: str | None = None) -> list[Balance]:
        """Each budget's window at `at_us`; with `project` those on its path and below it.

        A `task` budget has no window: it shows an empty one with nothing spent or held. Of a default, each child
        is shown that spent or holds something, and the one on the path of `project`.
        """

        def op(tx: Tx) -> list[Balance]:
            found = {}
            for budget_id, budget, _ in self._covering(tx, project) if project is not None else ():
                found[budget.project, budget.per] = self._balance_at(tx, budget_id, budget, at_us)
            for budget_id, *rest in tx.all(
                f"SELECT {BUDGET} FROM budgets WHERE like_id IS NULL OR EXISTS (SELECT 1 FROM balances w WHERE"
                " w.budget_id = budgets.id AND w.window_us <= ? AND w.end_us > ? AND (w.spent <> 0 OR w.held <> 0))",
                (at_us, at_us),
            ):
                budget = read_budget(*rest)
                key = budget.project, budget.per
                if not is_default(budget.project) and (project is None or project in ancestors(budget.project)):
                    found[key] = found.get(key) or self._balance_at(tx, budget_id, budget, at_us)
            return [found[key] for key in sorted(found)]

        return self._read(op)

    def _balance_at(self, tx: Tx, budget_id: int | None, budget: Budget, at_us: int) -> Balance:
        if budget.per == "task":
            return Balance(budget, ALL_TIME, 0, 0)
        window = window_at(budget.per, budget.timezone, at_us)
        kept = None if budget_id is None else self._balance(tx, budget_id, window)
        return Balance(budget, window, *(kept or charged_and_held(tx, budget.project, window)))

    @staticmethod
    def _balance(tx: Tx, budget_id: int, window: Window) -> tuple[int, int] | None:
        row = tx.one(
            "SELECT spent, held FROM balances WHERE budget_id = ? AND window_us = ? AND end_us = ?",
            (budget_id, *bounds(window)),
        )
        return (row[0], row[1]) if row else None

    def tasks(
        self,
        *,
        project: str | None = None,
        status: str | None = None,
        model: str | None = None,
        since_us: int | None = None,
        until_us: int | None = None,
        limit: int | None = None,
    ) -> list[TaskRow]:
        """Tasks by first admission, oldest first; with `limit` only the newest ones.

        `project` includes what lies below it; times bound the admission of an attempt.
        """
        conditions, parameters = ["delivery <> 'lease'"], list[object]()
        if project is not None:
            condition, values = covered(project)
            conditions.append(condition)
            parameters += values
        for clause, value in (("model = ?", model), ("at_us >= ?", since_us), ("at_us < ?", until_us)):
            if value is not None:
                conditions.append(clause)
                parameters.append(value)
        if status in ("held", "unresolved"):
            conditions.append("status IN ('held', 'unresolved')")
        sql = f"SELECT task_uuid FROM attempts WHERE {' AND '.join(conditions)} ORDER BY id DESC"

        def op(tx: Tx) -> list[TaskRow]:
            rows: list[TaskRow] = []
            for uuids in batches(uuid for (uuid,) in tx.each(sql, parameters)):
                rows += [task for task in self._tasks(tx, uuids) if status is None or task.status == status]
                if limit is not None and len(rows) >= limit:
                    del rows[limit:]
                    break
            rows.reverse()
            return rows

        return self._read(op)

    def task(self, task_uuid: str) -> TaskRow | None:
        """One task by its UUID."""

        def op(tx: Tx) -> TaskRow | None:
            found = tx.one(f"SELECT 1 FROM attempts WHERE {OF_TASK} AND delivery <> 'lease'", of_task(task_uuid))
            return self._tasks(tx, [task_uuid])[0] if found else None

        return self._read(op)

    def attempts(self, task_uuid: str) -> list[Attempt]:
        """A task's attempts, oldest first."""
        return self._read(lambda tx: self._attempts(tx, task_uuid))

    def called(self, name: str) -> list[str]:
        """The tasks whose responses the provider called so: one, unless its names mean nothing."""
        return self._read(lambda tx: self._called(tx, name))

    @staticmethod
    def _called(tx: Tx, name: str) -> list[str]:
        return [uuid for (uuid,) in tx.all("SELECT task_uuid FROM aliases WHERE name = ? ORDER BY task_uuid", (name,))]

    @staticmethod
    def _attempt(tx: Tx, attempt_id: int) -> Attempt:
        """An attempt that is known to be there."""
        return Attempt._make(tx.all(f"SELECT {ATTEMPT} FROM attempts WHERE id = ?", (attempt_id,))[0])

    @staticmethod
    def _attempts(tx: Tx, task_uuid: str) -> list[Attempt]:
        rows = tx.all(f"SELECT {ATTEMPT} FROM attempts WHERE {OF_TASK} ORDER BY id", of_task(task_uuid))
        return [Attempt._make(row) for row in rows]

    def _tasks(self, tx: Tx, task_uuids: Sequence[str]) -> list[TaskRow]:
        """Tasks that are known to be there, by two questions for all of them."""
        hashes = [name_hash(uuid) for uuid in task_uuids]
        within = f"name_hash IN ({marks(len(hashes))})"
        attempts: dict[str, list[Attempt]] = {uuid: [] for uuid in task_uuids}
        rows = tx.all(f"SELECT {ATTEMPT} FROM attempts WHERE {within} ORDER BY id", hashes)
        for attempt in self._derive(tx, map(Attempt._make, rows)):
            if attempt.task_uuid in attempts:
                attempts[attempt.task_uuid].append(attempt)
        charges: dict[str, list[tuple[Any, ...]]] = {uuid: [] for uuid in task_uuids}
        for uuid, *charge in tx.all(
            "SELECT a.task_uuid, c.basis, c.odd, c.nanos FROM attempts a CROSS JOIN charges c"
            f" WHERE {within} AND c.attempt_id = a.id AND {STANDING} ORDER BY c.seq",
            hashes,
        ):
            if uuid in charges:
                charges[uuid].append(tuple(charge))
        return [self._task(uuid, attempts[uuid], charges[uuid]) for uuid in task_uuids]

    @staticmethod
    def _task(task_uuid: str, attempts: Sequence[Attempt], charges: Sequence[tuple[Any, ...]]) -> TaskRow:
        first = attempts[0]
        statuses = {attempt.status for attempt in attempts}
        status = next(s for s in ("unresolved", "held", "settled", "released") if s in statuses)
        by_hand = sum(nanos for basis, _, nanos in charges if basis == "correction")
        bases = {basis for basis, _, _ in charges if basis != "correction" or by_hand}
        return TaskRow(
            task_uuid=task_uuid,
            project=first.project,
            model=first.model,
            task_type=first.task_type,
            delivery=first.delivery,
            status=status,
            held=sum(attempt.held for attempt in attempts),
            charged=sum(attempt.charged for attempt in attempts),
            basis=next((b for b in ("correction", "assumed", "computed", "cost", "breakdown") if b in bases), None),
            expected=sum_known(attempt.expected for attempt in attempts),
            upper=sum_known(attempt.upper for attempt in attempts),
            attempts=len(attempts),
            at_us=first.at_us,
            day=first.day,
            reason=next((a.reason for a in reversed(attempts) if a.reason), None),
            odd=any(odd for _, odd, _ in charges),
            tags=first.tags,
            clamped_from=first.clamped_from,
        )

    @staticmethod
    def _booked(tx: Tx, task_uuid: str) -> list[Booked]:
        """The results charged for a task, as they stand: without what was replaced, and without corrections."""
        rows = tx.all(
            "SELECT c.seq, c.attempt_id, coalesce(c.result_key, ''), c.nanos, c.basis, c.direct"
            f" FROM {CHARGES_OF_TASK} AND c.basis <> 'correction' AND {STANDING} ORDER BY c.seq",
            of_task(task_uuid),
        )
        return [Booked._make((*row[:-1], bool(row[-1]))) for row in rows]

    @staticmethod
    def _charge(tx: Tx, seq: int) -> Charge:
        """A charge as it was booked, of one that is known to be there."""
        (figures,) = tx.all(
            "SELECT cost_nanos, total_nanos, computed_nanos, price_id, prompt_tokens, completion_tokens,"
            " reasoning_tokens, cached_tokens, cache_reading, raw, results, nanos, basis, odd, notes, lines"
            " FROM charges WHERE seq = ?",
            (seq,),
        )
        *told, raw, results, nanos, basis, odd, notes, lines = figures
        said = tuple(json.loads(notes)) if notes else ()
        return Charge._make((nanos, basis, tuple(read_lines(lines)), *told, bool(odd), said, raw, results))

    def unconfirmed(self, before_us: int) -> list[str]:
        """Tasks admitted up to `before_us` whose charge is not the provider's figure, and who was not asked yet."""
        return self._read(
            lambda tx: [
                row[0]
                for row in tx.all(
                    "SELECT DISTINCT task_uuid FROM attempts WHERE unconfirmed = 1 AND at_us <= ? ORDER BY task_uuid",
                    (before_us,),
                )
            ]
        )

    def to_ask_again(self, at_us: int) -> list[str]:
        """Tasks of which something was released unknown to the provider, and that are due to be asked for once more."""
        return self._read(
            lambda tx: [
                row[0]
                for row in tx.all(
                    "SELECT DISTINCT task_uuid FROM attempts WHERE ask_us > 0 AND ask_us <= ? ORDER BY task_uuid",
                    (at_us,),
                )
            ]
        )

    def spellings(self, task_uuids: Sequence[str]) -> dict[str, str]:
        """The callers' own spelling of each of these tasks that is in the ledger: that of its newest attempt."""
        sql = f"SELECT task_uuid, coalesce(spelling, task_uuid) FROM attempts WHERE {OF_TASK} ORDER BY id DESC"
        rows = self._read(lambda tx: [tx.one(sql, of_task(task_uuid)) for task_uuid in task_uuids])
        return dict([row for row in rows if row])

    def open_attempts(self, project: str = "/", window: Window = ALL_TIME) -> list[Attempt]:
        """Attempts whose money is still held; those of dead owners read `unresolved`."""
        return self._read(lambda tx: self._open(tx, project, window))

    def _open(self, tx: Tx, project: str, window: Window) -> list[Attempt]:
        below, projects = covered(project)
        within, times = admitted_in(window)
        rows = tx.all(
            f"SELECT {ATTEMPT} FROM attempts WHERE status IN ('held', 'unresolved') AND {below} AND {within}"
            " ORDER BY id",
            (*projects, *times),
        )
        return self._derive(tx, map(Attempt._make, rows))

    def _derive(self, tx: Tx, rows: Iterable[Attempt]) -> list[Attempt]:
        """Attempts as they read now: held by a process that is gone means `unresolved`."""
        fates: dict[int, bool | None] = {}
        return [
            attempt._replace(status="unresolved", reason="the process that sent it is gone")
            if attempt.status == "held" and self._is_lost(tx, attempt, fates)
            else attempt
            for attempt in rows
        ]

    def _is_lost(self, tx: Tx, attempt: Attempt, fates: dict[int, bool | None]) -> bool:
        """True if the process that sent it is surely gone, or out of sight for `FOREIGN_AGE_US`."""
        if attempt.owner_id not in fates:
            row = tx.one("SELECT host, boot, pid, started FROM owners WHERE id = ?", (attempt.owner_id,))
            fates[attempt.owner_id] = is_dead(Owner(*row)) if row else True
        dead = fates[attempt.owner_id]
        return self._now_us() - attempt.at_us > FOREIGN_AGE_US if dead is None else dead
