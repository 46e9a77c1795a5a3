"""The accounting: admissions, endings and what is read from them, in portable SQL on any engine.

Money moves only through `entries`, the append-only journal. `attempts` and `balances` are derived
from it and kept beside it, so that an admission reads three rows and a month's report its roll-ups.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from costguard.billing import Charge
from costguard.budgets import Budget, Window, day_of, thresholds_crossed, window_at
from costguard.errors import ConfigurationError
from costguard.ledger import (
    Admitted,
    Alert,
    Balance,
    Doubt,
    Ending,
    Engine,
    NewAttempt,
    Refused,
    Release,
    Settle,
    TaskRow,
    Tx,
    Unpriced,
    UsageRow,
    Verification,
)
from costguard.ledger.owner import Owner, is_dead, this_process
from costguard.projects import ancestors

EXCEEDED = "exceeded"
"""The alert of a window's first refusal, beside the percents."""

TOKEN_COMPONENTS = ("prompt", "cache", "completion", "unitemized")
"""Components whose quantity counts tokens; the others count uses, or nothing."""

GROUPS = ("project", "model", "day", "modality")
"""What usage can be grouped by; `modality` gives two keys, component and modality."""

_BUDGET = "id, project, per, limit_nanos, timezone, action, warn_at"


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


_ATTEMPT = ", ".join(Attempt._fields)


@functools.lru_cache(maxsize=1024)
def _budget(project: str, per: str, limit: int, timezone: str, action: str, warn_at: str) -> Budget:
    return Budget(project, per, limit, timezone, action, tuple(json.loads(warn_at)))


def covered(project: str, column: str = "project") -> tuple[str, tuple[str, ...]]:
    """SQL condition and parameters: `column` is `project` or lies below it."""
    if project == "/":
        return "1=1", ()
    return f"({column} = ? OR ({column} >= ? AND {column} < ?))", (project, f"{project}/", f"{project}0")


class Ledger:
    """Holds, charges, budgets and reports over an `Engine`. Every method is one transaction.

    `timezone` is the reporting zone, fixed when the ledger is created (default UTC); naming another
    later is a ConfigurationError. All methods raise LedgerError when the engine cannot do its work.
    """

    def __init__(self, engine: Engine, *, timezone: str | None = None) -> None:
        self._engine = engine
        self._owner: tuple[int, int] | None = None
        self.timezone = self._reporting_zone(timezone)

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    # -- admission ------------------------------------------------------------------------------

    def admit(
        self, project: str, at_us: int, tasks: Sequence[NewAttempt], *, enforce: bool = True
    ) -> Admitted | Refused | Unpriced:
        """Hold the worst case of `tasks` in every budget of `project`'s path, all or none.

        With `enforce` a hard budget (action other than `warn`) without room refuses them all, and so
        does a task without a worst case; otherwise everything is held and said in `over`.
        """
        result, owner = self._engine.write(lambda tx: self._admit(tx, project, at_us, tasks, enforce))
        if owner is not None:
            self._owner = owner
        return result

    def _admit(
        self, tx: Tx, project: str, at_us: int, tasks: Sequence[NewAttempt], enforce: bool
    ) -> tuple[Admitted | Refused | Unpriced, tuple[int, int] | None]:
        budgets = self._budgets_over(tx, project)
        uppers = [task.upper if task.upper is not None else self._ceiling(tx, task) for task in tasks]
        hard = [budget for _, budget in budgets if budget.action != "warn"] if enforce else []
        if hard and None in uppers:
            return Unpriced(tasks[uppers.index(None)], hard[0]), None
        amounts = [upper or 0 for upper in uppers]
        total = sum(amounts)
        states = self._states(tx, budgets, at_us)
        unfit = self._unfit(states, amounts, total)
        if unfit and enforce:
            return self._refuse(tx, at_us, min(unfit, key=lambda found: found[2])), None

        day = day_of(self.timezone, at_us)
        owner = self._owner_id(tx)
        ids: list[int] = []
        held = 0
        holds = []
        for task, upper, amount in zip(tasks, uppers, amounts, strict=True):
            (attempt_id,) = tx.one(
                "INSERT INTO attempts (task_uuid, project, task_type, model, delivery, results, at_us, day,"
                " upper, expected, price_id, estimate, tags, owner_id, status, held, charged)"
                " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,'held',?,0) RETURNING id",
                (
                    task.task_uuid, project, task.task_type, task.model, task.delivery, task.results, at_us,
                    day, upper, task.expected, task.price_id, task.estimate, task.tags, owner[1], amount,
                ),
            ) or (0,)  # fmt: skip
            ids.append(attempt_id)
            for budget_id, budget, window, balance in states:
                holds.append(
                    (
                        attempt_id, budget_id, budget.project, budget.per, window.start_us if window else 0,
                        window.end_us if window else None, budget.limit_nanos, balance[0],
                        balance[1] + held if window else 0, int(enforce and budget.action != "warn"),
                    )
                )  # fmt: skip
            held += amount
        tx.many(
            "INSERT INTO entries (at_us, attempt_id, kind, held, spent) VALUES (?,?,'hold',?,0)",
            [(at_us, attempt_id, amount) for attempt_id, amount in zip(ids, amounts, strict=True)],
        )
        tx.many("INSERT INTO holds VALUES (?,?,?,?,?,?,?,?,?,?)", holds)
        tx.many(
            "UPDATE balances SET held = held + ? WHERE budget_id = ? AND window_us = ?",
            [(total, budget_id, window.start_us) for budget_id, _, window, _ in states if window],
        )
        over = () if enforce else tuple(found[1] for found in unfit if found[1].action != "warn")
        return Admitted(tuple(ids), tuple(uppers), over), owner

    def _budgets_over(self, tx: Tx, project: str) -> list[tuple[int, Budget]]:
        path = ancestors(project)
        rows = tx.all(f"SELECT {_BUDGET} FROM budgets WHERE project IN ({_marks(len(path))})", path)
        return [(row[0], _budget(*row[1:])) for row in rows]

    def _states(
        self, tx: Tx, budgets: Iterable[tuple[int, Budget]], at_us: int
    ) -> list[tuple[int, Budget, Window | None, tuple[int, int]]]:
        """Each budget with its window at `at_us` (None per task) and that window's (spent, held)."""
        states: list[tuple[int, Budget, Window | None, tuple[int, int]]] = []
        for budget_id, budget in budgets:
            if budget.per == "task":
                states.append((budget_id, budget, None, (0, 0)))
                continue
            window = window_at(budget.per, budget.timezone, at_us)
            row = tx.one(
                "SELECT spent, held FROM balances WHERE budget_id = ? AND window_us = ?" + tx.for_update,
                (budget_id, window.start_us),
            )
            balance = row if row else self._open_balance(tx, budget_id, budget, window)
            states.append((budget_id, budget, window, (balance[0], balance[1])))
        return states

    def _open_balance(self, tx: Tx, budget_id: int, budget: Budget, window: Window) -> tuple[int, int]:
        """Start a window's balance with what its tasks already spent and hold."""
        balance = self._recompute(tx, budget.project, window)
        tx.run("INSERT INTO balances VALUES (?,?,?,?)", (budget_id, window.start_us, *balance))
        return balance

    @staticmethod
    def _recompute(tx: Tx, project: str, window: Window) -> tuple[int, int]:
        condition, parameters = covered(project)
        until = "" if window.end_us is None else " AND at_us < ?"
        row = tx.one(
            "SELECT coalesce(sum(charged), 0), coalesce(sum(held), 0) FROM attempts"
            f" WHERE {condition} AND at_us >= ?{until}",
            (*parameters, window.start_us, *(() if window.end_us is None else (window.end_us,))),
        )
        return (row[0], row[1]) if row else (0, 0)

    @staticmethod
    def _unfit(
        states: Iterable[tuple[int, Budget, Window | None, tuple[int, int]]],
        amounts: Sequence[int],
        total: int,
    ) -> list[tuple[int, Budget, int, int, Window | None]]:
        """Hard budgets without room: (id, budget, remaining, requested, window)."""
        unfit = []
        for budget_id, budget, window, (spent, held) in states:
            if budget.action == "warn":
                continue
            requested = total if window else max(amounts)
            remaining = budget.limit_nanos - spent - held
            if requested > remaining or budget.limit_nanos == 0:
                unfit.append((budget_id, budget, remaining, requested, window))
        return unfit

    def _refuse(self, tx: Tx, at_us: int, found: tuple[int, Budget, int, int, Window | None]) -> Refused:
        budget_id, budget, remaining, requested, window = found
        unresolved = 0
        alerts: tuple[Alert, ...] = ()
        if window:
            unresolved = sum(a.held for a in self._open(tx, budget.project, window) if a.status == "unresolved")
            if self._claim(tx, budget_id, window, EXCEEDED, at_us):
                spent, _ = self._balance(tx, budget_id, window) or (0, 0)
                alerts = (Alert(budget, window, None, spent),)
        return Refused(budget, window, requested, remaining, unresolved, alerts)

    @staticmethod
    def _balance(tx: Tx, budget_id: int, window: Window) -> tuple[int, int] | None:
        row = tx.one(
            "SELECT spent, held FROM balances WHERE budget_id = ? AND window_us = ?",
            (budget_id, window.start_us),
        )
        return (row[0], row[1]) if row else None

    @staticmethod
    def _claim(tx: Tx, budget_id: int, window: Window, threshold: str, at_us: int) -> bool:
        """True for the one transaction, among all processes, that may fire this alert."""
        row = tx.one(
            "INSERT INTO alerts VALUES (?,?,?,?) ON CONFLICT DO NOTHING RETURNING 1",
            (budget_id, window.start_us, threshold, at_us),
        )
        return row is not None

    @staticmethod
    def _ceiling(tx: Tx, task: NewAttempt) -> int | None:
        for name in task.ceiling_names:
            row = tx.one("SELECT nanos FROM ceilings WHERE name = ?", (name,))
            if row:
                return int(row[0]) * task.results
        return None

    def _owner_id(self, tx: Tx) -> tuple[int, int]:
        """This process's (pid, owner row); remembered by `admit` once it is committed."""
        me = this_process()
        if self._owner and self._owner[0] == me.pid:
            return self._owner
        row = tx.one(
            "INSERT INTO owners (host, boot, pid, started) VALUES (?,?,?,?)"
            " ON CONFLICT (host, boot, pid, started) DO UPDATE SET pid = excluded.pid RETURNING id",
            me,
        )
        return me.pid, int(row[0]) if row else 0

    # -- endings --------------------------------------------------------------------------------

    def conclude(self, at_us: int, endings: Sequence[Ending]) -> tuple[Alert, ...]:
        """Record how attempts ended, all in one transaction; an attempt that ended before is left alone.

        Returns the alerts this transaction claimed, to be fired once it is committed.
        """
        alerts = self._engine.write(
            lambda tx: [alert for ending in endings for alert in self._conclude(tx, at_us, ending)]
        )
        return tuple(alerts)

    def _conclude(self, tx: Tx, at_us: int, ending: Ending) -> list[Alert]:
        row = tx.one(f"SELECT {_ATTEMPT} FROM attempts WHERE id = ?", (ending.attempt_id,))
        if row is None:
            raise ConfigurationError(f"the ledger knows no attempt {ending.attempt_id}")
        attempt = Attempt._make(row)
        if attempt.status not in ("held", "unresolved"):
            return []
        match ending:
            case Settle():
                seen = ending.charge.results
                keep = ending.keep_rest and seen < attempt.results and attempt.upper is not None
                held = -(-attempt.upper * (attempt.results - seen) // attempt.results) if keep else 0  # type: ignore[operator]
                status = "unresolved" if keep else "settled"
                return self._post(tx, at_us, attempt, held, ending.charge, ending.keys, status, ending.reason)
            case Release():
                return self._post(tx, at_us, attempt, 0, None, (), "released", ending.reason)
            case Doubt():
                tx.run(
                    "UPDATE attempts SET status = 'unresolved', reason = ?, evidence = ?, ended_us = ? WHERE id = ?",
                    (
                        ending.reason,
                        json.dumps(dict(ending.evidence)) if ending.evidence else None,
                        at_us,
                        attempt.id,
                    ),
                )
        return []

    def _post(
        self,
        tx: Tx,
        at_us: int,
        attempt: Attempt,
        held: int,
        charge: Charge | None,
        keys: Sequence[str],
        status: str,
        reason: str | None,
    ) -> list[Alert]:
        """The one place where money moves after admission: journal, charge, attempt, balances."""
        spent = charge.nanos if charge else 0
        (seq,) = tx.one(
            "INSERT INTO entries (at_us, attempt_id, kind, held, spent, reason) VALUES (?,?,?,?,?,?) RETURNING seq",
            (at_us, attempt.id, "charge" if charge else "release", held - attempt.held, spent, reason),
        ) or (0,)
        if charge:
            self._write_charge(tx, seq, attempt, charge, keys, reason)
        tx.run(
            "UPDATE attempts SET held = ?, charged = charged + ?, status = ?, reason = ?, ended_us = ? WHERE id = ?",
            (held, spent, status, reason, at_us, attempt.id),
        )
        alerts = []
        for budget_id, budget in self._budgets_over(tx, attempt.project):
            if budget.per == "task":
                continue
            window = window_at(budget.per, budget.timezone, attempt.at_us)
            row = tx.one(
                "UPDATE balances SET spent = spent + ?, held = held + ? WHERE budget_id = ? AND window_us = ?"
                " RETURNING spent",
                (spent, held - attempt.held, budget_id, window.start_us),
            )
            if row and spent and budget.warn_at:
                alerts += self._thresholds(tx, at_us, budget_id, budget, window, row[0])
        return alerts

    def _thresholds(
        self, tx: Tx, at_us: int, budget_id: int, budget: Budget, window: Window, spent: int
    ) -> list[Alert]:
        return [
            Alert(budget, window, percent, spent)
            for percent in thresholds_crossed(spent, budget.limit_nanos, budget.warn_at)
            if self._claim(tx, budget_id, window, str(percent), at_us)
        ]

    @staticmethod
    def _write_charge(
        tx: Tx, seq: int, attempt: Attempt, charge: Charge, keys: Sequence[str], reason: str | None
    ) -> None:
        before = tx.all(
            "SELECT a.project, a.model, a.day, c.seq FROM attempts a JOIN charges c ON c.attempt_id = a.id"
            " WHERE a.task_uuid = ?",
            (attempt.task_uuid,),
        )
        tx.run(
            "INSERT INTO charges VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                seq, attempt.id, charge.nanos, charge.basis, charge.cost_nanos, charge.total_nanos,
                charge.computed_nanos, charge.price_id, charge.prompt_tokens, charge.completion_tokens,
                charge.reasoning_tokens, charge.cached_tokens, charge.cache_reading, int(charge.odd),
                charge.results, json.dumps(charge.notes) if charge.notes else None, charge.raw, reason,
            ),
        )  # fmt: skip
        group = (attempt.day, attempt.project, attempt.model)
        same = [row[3] for row in before if (row[2], row[0], row[1]) == group]
        known = {
            (line[0], line[1])
            for other in same
            for line in tx.all("SELECT component, modality FROM lines WHERE charge_seq = ?", (other,))
        }
        lines = charge.lines
        tx.many(
            "INSERT INTO lines VALUES (?,?,?,?,?,?)",
            [(seq, n, line.component, line.modality, line.quantity, line.nanos) for n, line in enumerate(lines)],
        )
        leaves = [(line.component, line.modality, line.quantity or 0, line.nanos) for line in lines]
        # A charge without lines (nothing billed) still counts as a task of its day.
        leaves = leaves or [("unitemized", "", 0, 0)]
        tx.many(
            "INSERT INTO rollups VALUES (?,?,?,?,?,?,?,?,?)"
            " ON CONFLICT (day, project, model, component, modality) DO UPDATE SET"
            " lead_tasks = lead_tasks + excluded.lead_tasks, tasks = tasks + excluded.tasks,"
            " quantity = quantity + excluded.quantity, nanos = nanos + excluded.nanos",
            [
                (*group, component, modality, int(not same and n == 0), int((component, modality) not in known),
                 quantity, nanos)
                for n, (component, modality, quantity, nanos) in enumerate(leaves)
            ],
        )  # fmt: skip
        if keys:
            tx.many(
                "INSERT INTO results VALUES (?,?,?,?) ON CONFLICT DO NOTHING",
                [(attempt.task_uuid, key, attempt.id, seq) for key in keys],
            )

    # -- budgets and ceilings -------------------------------------------------------------------

    def set_budget(self, budget: Budget, at_us: int) -> None:
        """Create the budget (project, per) or change it, keeping its balance and fired alerts."""
        self._engine.write(lambda tx: self._set_budget(tx, budget, at_us))

    def _set_budget(self, tx: Tx, budget: Budget, at_us: int) -> None:
        old = self._find_budget(tx, budget.project, budget.per)
        values = (budget.limit_nanos, budget.timezone, budget.action, json.dumps(budget.warn_at))
        row = tx.one(
            "INSERT INTO budgets (project, per, limit_nanos, timezone, action, warn_at) VALUES (?,?,?,?,?,?)"
            " ON CONFLICT (project, per) DO UPDATE SET limit_nanos = excluded.limit_nanos,"
            " timezone = excluded.timezone, action = excluded.action, warn_at = excluded.warn_at RETURNING id",
            (budget.project, budget.per, *values),
        )
        tx.run(
            "INSERT INTO budget_changes (at_us, change, project, per, limit_nanos, timezone, action, warn_at)"
            " VALUES (?,'set',?,?,?,?,?,?)",
            (at_us, budget.project, budget.per, *values),
        )
        if budget.per == "task" or row is None:
            return
        budget_id = int(row[0])
        window = window_at(budget.per, budget.timezone, at_us)
        if old and old[1].timezone != budget.timezone:
            # Balances are derived: the new zone's windows are summed again; what fired stays fired.
            before = window_at(budget.per, old[1].timezone, at_us)
            tx.run("DELETE FROM balances WHERE budget_id = ?", (budget_id,))
            tx.run(
                "INSERT INTO alerts SELECT budget_id, ?, threshold, at_us FROM alerts"
                " WHERE budget_id = ? AND window_us = ? ON CONFLICT DO NOTHING",
                (window.start_us, budget_id, before.start_us),
            )
        if self._balance(tx, budget_id, window) is None:
            self._open_balance(tx, budget_id, budget, window)

    @staticmethod
    def _find_budget(tx: Tx, project: str, per: str) -> tuple[int, Budget] | None:
        row = tx.one(f"SELECT {_BUDGET} FROM budgets WHERE project = ? AND per = ?", (project, per))
        return (row[0], _budget(*row[1:])) if row else None

    def remove_budget(self, project: str, per: str, at_us: int) -> bool:
        """Forget the budget (project, per); False if there was none. Charges stay."""

        def op(tx: Tx) -> bool:
            found = self._find_budget(tx, project, per)
            if found is None:
                return False
            for table in ("balances", "alerts"):
                tx.run(f"DELETE FROM {table} WHERE budget_id = ?", (found[0],))
            tx.run("DELETE FROM budgets WHERE id = ?", (found[0],))
            tx.run(
                "INSERT INTO budget_changes (at_us, change, project, per) VALUES (?,'remove',?,?)",
                (at_us, project, per),
            )
            return True

        return self._engine.write(op)

    def set_ceiling(self, name: str, nanos: int, at_us: int) -> None:
        """Worst case per result, in nano-USD, of a model or task type without a price."""

        def op(tx: Tx) -> None:
            tx.run(
                "INSERT INTO ceilings VALUES (?,?) ON CONFLICT (name) DO UPDATE SET nanos = excluded.nanos",
                (name, nanos),
            )
            tx.run("INSERT INTO ceiling_changes (at_us, name, nanos) VALUES (?,?,?)", (at_us, name, nanos))

        self._engine.write(op)

    def remove_ceiling(self, name: str, at_us: int) -> bool:
        """Forget a ceiling; False if there was none."""

        def op(tx: Tx) -> bool:
            if tx.one("DELETE FROM ceilings WHERE name = ? RETURNING 1", (name,)) is None:
                return False
            tx.run("INSERT INTO ceiling_changes (at_us, name) VALUES (?,?)", (at_us, name))
            return True

        return self._engine.write(op)

    def ceilings(self) -> dict[str, int]:
        """All ceilings: model or task type -> nano-USD per result."""
        return self._engine.read(lambda tx: dict(tx.all("SELECT name, nanos FROM ceilings ORDER BY name")))

    def budgets(self) -> list[Budget]:
        """All budgets, by project and period."""
        rows = self._engine.read(lambda tx: tx.all(f"SELECT {_BUDGET} FROM budgets ORDER BY project, per"))
        return [_budget(*row[1:]) for row in rows]

    def balances(self, at_us: int, project: str | None = None) -> list[Balance]:
        """Each budget's window at `at_us`; with `project` those on its path and below it.

        A `task` budget has no window: it shows an empty one with nothing spent or held.
        """

        def op(tx: Tx) -> list[Balance]:
            found = []
            for row in tx.all(f"SELECT {_BUDGET} FROM budgets ORDER BY project, per"):
                budget = _budget(*row[1:])
                if project is not None and not _related(budget.project, project):
                    continue
                if budget.per == "task":
                    found.append(Balance(budget, Window(0, None), 0, 0))
                    continue
                window = window_at(budget.per, budget.timezone, at_us)
                spent, held = self._balance(tx, row[0], window) or self._recompute(tx, budget.project, window)
                found.append(Balance(budget, window, spent, held))
            return found

        return self._engine.read(op)

    def verify(self) -> Verification:
        """Recompute every promise from the rows, on one snapshot; names the first difference."""
        from costguard.ledger import verify

        return self._engine.read(verify.verify)

    # -- reading --------------------------------------------------------------------------------

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
        conditions, parameters = ["1=1"], list[object]()
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
            dead = self._dead_owners(tx)
            seen: set[str] = set()
            rows: list[TaskRow] = []
            for (uuid,) in tx.each(sql, parameters):
                if uuid in seen:
                    continue
                seen.add(uuid)
                task = self._task(tx, uuid, dead)
                if status is None or task.status == status:
                    rows.append(task)
                    if limit is not None and len(rows) >= limit:
                        break
            rows.reverse()
            return rows

        return self._engine.read(op)

    def task(self, task_uuid: str) -> TaskRow | None:
        """One task by its UUID."""

        def op(tx: Tx) -> TaskRow | None:
            if tx.one("SELECT 1 FROM attempts WHERE task_uuid = ?", (task_uuid,)) is None:
                return None
            return self._task(tx, task_uuid, self._dead_owners(tx))

        return self._engine.read(op)

    def attempts(self, task_uuid: str) -> list[Attempt]:
        """A task's attempts, oldest first."""
        return self._engine.read(lambda tx: self._attempts(tx, task_uuid))

    @staticmethod
    def _attempts(tx: Tx, task_uuid: str) -> list[Attempt]:
        rows = tx.all(f"SELECT {_ATTEMPT} FROM attempts WHERE task_uuid = ? ORDER BY id", (task_uuid,))
        return [Attempt._make(row) for row in rows]

    def _task(self, tx: Tx, task_uuid: str, dead: frozenset[int]) -> TaskRow:
        attempts = [_derived(attempt, dead) for attempt in self._attempts(tx, task_uuid)]
        marks = tx.all(
            "SELECT c.basis, c.odd FROM charges c JOIN attempts a ON a.id = c.attempt_id"
            " WHERE a.task_uuid = ? ORDER BY c.seq",
            (task_uuid,),
        )
        first = attempts[0]
        statuses = {attempt.status for attempt in attempts}
        status = next(s for s in ("unresolved", "held", "settled", "released") if s in statuses)
        bases = {mark[0] for mark in marks}
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
            expected=_sum(attempt.expected for attempt in attempts),
            upper=_sum(attempt.upper for attempt in attempts),
            attempts=len(attempts),
            at_us=first.at_us,
            day=first.day,
            reason=next((a.reason for a in reversed(attempts) if a.reason), None),
            odd=any(mark[1] for mark in marks),
            tags=first.tags,
        )

    def usage(self, by: Sequence[str], first_day: str, end_day: str, project: str | None = None) -> list[UsageRow]:
        """Charges of the days in [first_day, end_day) of the reporting zone, from the roll-ups.

        `by` is any of GROUPS; rows are sorted by their keys. ISO dates.
        """
        columns = group_columns(by)
        keys = ", ".join(columns)
        condition, parameters = covered(project) if project is not None else ("1=1", ())
        count = "sum(tasks)" if "modality" in by else "sum(lead_tasks)"
        tokens = ", ".join(f"'{component}'" for component in TOKEN_COMPONENTS)
        rows = self._engine.read(
            lambda tx: tx.all(
                f"SELECT {keys + ',' if keys else ''} {count},"
                f" sum(CASE WHEN component IN ({tokens}) THEN quantity ELSE 0 END), sum(nanos)"
                f" FROM rollups WHERE day >= ? AND day < ? AND {condition}"
                + (f" GROUP BY {keys} ORDER BY {keys}" if keys else " HAVING count(*) > 0"),
                (first_day, end_day, *parameters),
            )
        )
        return [UsageRow(tuple(row[:-3]), row[-3], row[-2], row[-1]) for row in rows]

    def usage_lines(
        self, by: Sequence[str], timezone: str, start_us: int, end_us: int, project: str | None = None
    ) -> list[UsageRow]:
        """As `usage`, for the days of another zone: reads every line of [start_us, end_us), slower."""
        condition, parameters = covered(project, "a.project") if project is not None else ("1=1", ())
        columns = group_columns(by)

        def op(tx: Tx) -> list[UsageRow]:
            groups: dict[tuple[str, ...], tuple[set[str], list[int]]] = {}
            for uuid, at_us, project_, model, component, modality, quantity, nanos in tx.each(
                "SELECT a.task_uuid, a.at_us, a.project, a.model, coalesce(l.component, 'unitemized'),"
                " coalesce(l.modality, ''), coalesce(l.quantity, 0), coalesce(l.nanos, 0)"
                " FROM attempts a JOIN charges c ON c.attempt_id = a.id"
                " LEFT JOIN lines l ON l.charge_seq = c.seq"
                f" WHERE a.at_us >= ? AND a.at_us < ? AND {condition}",
                (start_us, end_us, *parameters),
            ):
                values = {
                    "project": project_, "model": model, "component": component, "modality": modality,
                    "day": day_of(timezone, at_us) if "day" in columns else "",
                }  # fmt: skip
                uuids, sums = groups.setdefault(tuple(values[c] for c in columns), (set(), [0, 0]))
                uuids.add(uuid)
                sums[0] += quantity if component in TOKEN_COMPONENTS else 0
                sums[1] += nanos
            return [UsageRow(keys, len(uuids), *sums) for keys, (uuids, sums) in sorted(groups.items())]

        return self._engine.read(op)

    def bases(self, start_us: int, end_us: int, project: str | None = None) -> dict[str, tuple[int, int]]:
        """Charges of the attempts admitted in [start_us, end_us): basis -> (count, nano-USD)."""
        condition, parameters = covered(project, "a.project") if project is not None else ("1=1", ())
        rows = self._engine.read(
            lambda tx: tx.all(
                "SELECT c.basis, count(*), sum(c.nanos) FROM attempts a JOIN charges c ON c.attempt_id = a.id"
                f" WHERE a.at_us >= ? AND a.at_us < ? AND {condition} GROUP BY c.basis ORDER BY c.basis",
                (start_us, end_us, *parameters),
            )
        )
        return {basis: (count, nanos) for basis, count, nanos in rows}

    def open_attempts(self, project: str = "/", window: Window | None = None) -> list[Attempt]:
        """Attempts whose money is still held; those of dead owners read `unresolved`."""
        return self._engine.read(lambda tx: self._open(tx, project, window or Window(0, None)))

    def _open(self, tx: Tx, project: str, window: Window) -> list[Attempt]:
        condition, parameters = covered(project)
        until = "" if window.end_us is None else " AND at_us < ?"
        rows = tx.all(
            f"SELECT {_ATTEMPT} FROM attempts WHERE status IN ('held', 'unresolved') AND {condition}"
            f" AND at_us >= ?{until} ORDER BY id",
            (*parameters, window.start_us, *(() if window.end_us is None else (window.end_us,))),
        )
        dead = self._dead_owners(tx)
        return [_derived(Attempt._make(row), dead) for row in rows]

    @staticmethod
    def _dead_owners(tx: Tx) -> frozenset[int]:
        rows = tx.all(
            "SELECT id, host, boot, pid, started FROM owners WHERE id IN"
            " (SELECT DISTINCT owner_id FROM attempts WHERE status IN ('held', 'unresolved'))"
        )
        return frozenset(row[0] for row in rows if is_dead(Owner(*row[1:])))

    def _reporting_zone(self, wanted: str | None) -> str:
        def read(tx: Tx) -> str | None:
            row = tx.one("SELECT value FROM meta WHERE key = 'timezone'")
            return str(row[0]) if row else None

        def create(tx: Tx) -> str:
            found = read(tx)
            if found is None:
                found = wanted or "UTC"
                tx.run("INSERT INTO meta VALUES ('timezone', ?)", (found,))
            return found

        if wanted is not None:
            day_of(wanted, 0)  # names an unknown zone before anything is written
        found = self._engine.read(read) or self._engine.write(create)
        if wanted is not None and wanted != found:
            raise ConfigurationError(
                f"timezone: this ledger reports in {found}, fixed when it was created, not in {wanted};"
                f" leave it out, or read a report with `--timezone {wanted}`"
            )
        return found


def group_columns(by: Sequence[str]) -> list[str]:
    """The roll-up's columns for the groups of `by`, in their order."""
    columns: list[str] = []
    for group in by:
        if group not in GROUPS:
            raise ConfigurationError(f"by: {group!r} is not one of {', '.join(GROUPS)}")
        columns += ["component", "modality"] if group == "modality" else [group]
    return list(dict.fromkeys(columns))


def _derived(attempt: Attempt, dead: frozenset[int]) -> Attempt:
    if attempt.status == "held" and attempt.owner_id in dead:
        return attempt._replace(status="unresolved", reason="the process that sent it is gone")
    return attempt


def _related(budget_project: str, project: str) -> bool:
    return budget_project in ancestors(project) or project in ancestors(budget_project)


def _sum(values: Iterable[int | None]) -> int | None:
    """The sum, None if any part is unknown."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


@functools.lru_cache(maxsize=64)
def _marks(count: int) -> str:
    return ",".join("?" * count)
