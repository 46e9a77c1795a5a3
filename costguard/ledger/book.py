"""The accounting: admissions, endings, budgets and ceilings, in portable SQL on any engine.

Money moves only through `entries`, the append-only journal. `attempts` and `balances` are derived
from it and kept beside it, so that an admission reads three rows and a month's report its roll-ups.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from costguard.billing import WEAK, Basis, Charge, Line
from costguard.budgets import Budget, Window, day_of, thresholds_crossed, window_at
from costguard.errors import ConfigurationError
from costguard.ledger import (
    Accept,
    Admitted,
    Alert,
    Doubt,
    Ending,
    Engine,
    NewAttempt,
    Observation,
    Refused,
    Release,
    Settle,
    Tx,
    Unpriced,
)
from costguard.ledger.owner import this_process
from costguard.ledger.reading import ATTEMPT, BUDGET, Attempt, Reading, marks, read_budget
from costguard.ledger.results import Booked, same_results
from costguard.projects import ancestors

EXCEEDED = "exceeded"
"""The alert of a window's first refusal, beside the percents."""

OPEN = ("held", "unresolved")
"""Statuses of attempts whose money is set aside."""


_VERSION = "SELECT 0, CAST(value AS BIGINT), 0 FROM meta WHERE key = 'budgets'"
_BALANCE = "SELECT budget_id, spent, held FROM balances WHERE budget_id = ? AND window_us = ?"
PATHS_MAX = 10_000
"""Project paths whose budgets are remembered."""

_FOREVER_US = 2**63

MEDIA_AGE_US = 90 * 86_400 * 1_000_000
"""A medium that was not billed for so long is forgotten."""

_MEDIA_KEY = "SELECT value FROM meta WHERE key = 'media_key'"

_CHARGE = (
    "at_us, attempt_id, kind, held, spent, reason, basis, cost_nanos, total_nanos, computed_nanos, price_id,"
    " prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens, cache_reading, odd, results, notes, raw,"
    " result_key, direct, replaces"
)
_INSERT_CHARGE = f"INSERT INTO entries ({_CHARGE}) VALUES ({marks(_CHARGE.count(',') + 1)})"
_ATTEMPT_AND_SIBLINGS = (
    f"SELECT {ATTEMPT}, EXISTS (SELECT 1 FROM attempts b WHERE b.task_uuid = attempts.task_uuid"
    " AND b.id <> attempts.id) FROM attempts WHERE id = ?"
)
_NOTHING_BILLED = Line("unitemized", "", 0, 0)


class _Path(NamedTuple):
    """The budgets that cover a project, with their windows (None per task) as they are in [start_us, end_us)."""

    version: tuple[int, ...] | None
    start_us: int
    end_us: int
    budgets: tuple[tuple[int, Budget, Window | None], ...]
    sql: str
    """Reads the version of the ledger's budgets and every window's balance, in one statement."""
    parameters: tuple[int, ...]


class _State(NamedTuple):
    """A budget and the balance of one of its windows (None per task)."""

    budget_id: int
    budget: Budget
    window: Window | None
    spent: int
    held: int

    @property
    def remaining(self) -> int:
        return self.budget.limit_nanos - self.spent - self.held


def wall_clock_us() -> int:
    """Now, in UTC microseconds."""
    return time.time_ns() // 1000


class Ledger(Reading):
    """Holds, charges, budgets and reports over an `Engine`. Every method is one transaction.

    `timezone` is the reporting zone, fixed when the ledger is created (default UTC); naming another
    later is a ConfigurationError. All methods raise LedgerError when the engine cannot do its work.
    """

    def __init__(
        self, engine: Engine, *, timezone: str | None = None, now_us: Callable[[], int] = wall_clock_us
    ) -> None:
        super().__init__(engine, now_us)
        self._owner: tuple[int, int] | None = None
        self._media_key: bytes | None = None
        self._paths: dict[str, _Path] = {}
        self.timezone = self._reporting_zone(timezone)

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    @property
    def is_closed(self) -> bool:
        """True once `close` was called."""
        return self._engine.is_closed

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
        if isinstance(result, Refused) and result.held and result.window:
            # Read afterwards: other writers need not wait while the open attempts are looked through.
            attempts = self.open_attempts(result.budget.project, result.window)
            unresolved = sum(attempt.held for attempt in attempts if attempt.status == "unresolved")
            return replace(result, unresolved=min(unresolved, result.held))
        return result

    def _admit(
        self, tx: Tx, project: str, at_us: int, tasks: Sequence[NewAttempt], enforce: bool
    ) -> tuple[Admitted | Refused | Unpriced, tuple[int, int] | None]:
        states = self._states(tx, project, at_us)
        uppers = [task.upper if task.upper is not None else self._ceiling(tx, task) for task in tasks]
        if enforce and None in uppers:
            hard = next((state.budget for state in states if state.budget.hard), None)
            if hard is not None:
                return Unpriced(tasks[uppers.index(None)], hard), None
        amounts = [upper or 0 for upper in uppers]
        total = sum(amounts)
        unfit = self._unfit(states, amounts, total)
        if unfit and enforce:
            state, requested = min(unfit, key=lambda found: found[0].remaining)
            return Refused(state.budget, state.window, requested, state.remaining, 0, state.held), None

        day = day_of(self.timezone, at_us)
        owner = self._owner_id(tx)
        ids: list[int] = []
        held = 0
        holds = []
        for task, upper, amount in zip(tasks, uppers, amounts, strict=True):
            attempt_id = tx.insert(
                "INSERT INTO attempts (task_uuid, project, task_type, model, delivery, results, at_us, day,"
                " upper, expected, price_id, estimate, tags, clamped_from, host, owner_id, status, held, charged, seen)"
                " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,'held',?,0,0)",
                "id",
                (
                    task.task_uuid, project, task.task_type, task.model, task.delivery, task.results, at_us,
                    day, upper, task.expected, task.price_id, task.estimate, task.tags, task.clamped_from,
                    task.host, owner[1], amount,
                ),
            )  # fmt: skip
            ids.append(attempt_id)
            for state in states:
                budget, window = state.budget, state.window
                holds.append(
                    (
                        attempt_id, state.budget_id, budget.project, budget.per, window.start_us if window else 0,
                        window.end_us if window else None, budget.limit_nanos, state.spent,
                        state.held + held if window else 0, int(enforce and budget.hard),
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
            [(total, state.budget_id, state.window.start_us) for state in states if state.window],
        )
        over = () if enforce else tuple(state.budget for state, _ in unfit)
        return Admitted(tuple(ids), tuple(uppers), over), owner

    def _balances(self, tx: Tx, project: str, at_us: int) -> tuple[_Path, dict[int, tuple[int, ...]]]:
        """The budgets that cover `project` at `at_us`, and (budget id, spent, held) of each window that has a balance.

        Budgets are remembered until any of the ledger changes, so that one statement tells all.
        """
        path = self._paths.get(project)
        if path is None or not path.start_us <= at_us < path.end_us:
            path = self._read_path(tx, project, at_us)
        found = {row[0]: row for row in tx.all(path.sql, path.parameters)}
        if found.pop(0, None) != path.version:
            self._paths.clear()
            path = self._read_path(tx, project, at_us)
            found = {row[0]: row for row in tx.all(path.sql, path.parameters)}
            found.pop(0, None)
        return path, found

    def _read_path(self, tx: Tx, project: str, at_us: int) -> _Path:
        covering = ancestors(project)
        budgets = []
        start_us, end_us = 0, _FOREVER_US
        sql, parameters = _VERSION, list[int]()
        for budget_id, *terms in tx.all(
            f"SELECT {BUDGET} FROM budgets WHERE project IN ({marks(len(covering))}) ORDER BY id", covering
        ):
            budget = read_budget(*terms)
            window = None
            if budget.per != "task":
                window = window_at(budget.per, budget.timezone, at_us)
                start_us = max(start_us, window.start_us)
                end_us = min(end_us, _FOREVER_US if window.end_us is None else window.end_us)
                sql += f" UNION ALL SELECT * FROM ({_BALANCE}{tx.for_update}) b{budget_id}"
                parameters += (budget_id, window.start_us)
            budgets.append((budget_id, budget, window))
        path = _Path(tx.one(_VERSION), start_us, end_us, tuple(budgets), sql, tuple(parameters))
        if len(self._paths) >= PATHS_MAX:
            self._paths.clear()
        self._paths[project] = path
        return path

    @staticmethod
    def _budgets_changed(tx: Tx) -> None:
        tx.run(
            "INSERT INTO meta VALUES ('budgets', '1') ON CONFLICT (key)"
            " DO UPDATE SET value = CAST(CAST(meta.value AS INTEGER) + 1 AS TEXT)"
        )

    def _states(self, tx: Tx, project: str, at_us: int) -> list[_State]:
        """Every budget of the path with the balance of its window at `at_us`, started if there is none."""
        states = []
        path, found = self._balances(tx, project, at_us)
        for budget_id, budget, window in path.budgets:
            if window is None:
                states.append(_State(budget_id, budget, None, 0, 0))
                continue
            balance = found.get(budget_id)
            spent, held = balance[1:] if balance else self._open_balance(tx, budget_id, budget, window)
            states.append(_State(budget_id, budget, window, spent, held))
        return states

    def _open_balance(self, tx: Tx, budget_id: int, budget: Budget, window: Window) -> tuple[int, int]:
        """Start a window's balance with what its tasks already spent and hold."""
        balance = self._recompute(tx, budget.project, window)
        tx.run("INSERT INTO balances VALUES (?,?,?,?)", (budget_id, window.start_us, *balance))
        return balance

    @staticmethod
    def _unfit(states: Iterable[_State], amounts: Sequence[int], total: int) -> list[tuple[_State, int]]:
        """Hard budgets without room, each with the amount that does not fit."""
        unfit = []
        for state in states:
            requested = total if state.window else max(amounts)
            if (requested > state.remaining or state.budget.limit_nanos == 0) and state.budget.hard:
                unfit.append((state, requested))
        return unfit

    def claim_refusal(self, refused: Refused, at_us: int) -> tuple[Alert, ...]:
        """The alert of a window's first refusal, to the one process that is to fire it."""
        budget, window = refused.budget, refused.window
        if window is None:
            return ()

        def op(tx: Tx) -> tuple[Alert, ...]:
            found = self._find_budget(tx, budget.project, budget.per)
            if found is None or not self._claim(tx, found[0], window, EXCEEDED, at_us):
                return ()
            spent, _ = self._balance(tx, found[0], window) or (0, 0)
            return (Alert(budget, window, None, spent),)

        return self._engine.write(op)

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
        if self._owner and self._owner[0] == os.getpid():
            return self._owner
        me = this_process()
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

        def op(tx: Tx) -> list[Alert]:
            alerts = []
            for attempt_id, own in groupby(endings, attrgetter("attempt_id")):
                alerts += self._conclude(tx, at_us, attempt_id, list(own))
            return alerts

        return tuple(self._engine.write(op))

    def _conclude(self, tx: Tx, at_us: int, attempt_id: int, endings: Sequence[Ending]) -> list[Alert]:
        row = tx.one(_ATTEMPT_AND_SIBLINGS, (attempt_id,))
        if row is None:
            raise ConfigurationError(f"the ledger knows no attempt {attempt_id}")
        siblings, attempt = row[-1], Attempt._make(row[:-1])
        settles = [ending for ending in endings if isinstance(ending, Settle)]
        if settles:
            is_first = not siblings and not attempt.seen and attempt.status in OPEN
            return self._settle(tx, at_us, attempt, settles, is_first=is_first)
        alerts = []
        for ending in endings if attempt.status in OPEN else ():
            match ending:
                case Release():
                    alerts += self._post(tx, at_us, attempt, 0, None, _freed(attempt), ending.reason, ended_us=at_us)
                case Doubt():
                    self._mark(tx, at_us, attempt, "unresolved", ending.reason, ending.evidence)
                case Accept():
                    self._mark(tx, at_us, attempt, attempt.status, "accepted, the result is to come")
        return alerts

    def _settle(
        self, tx: Tx, at_us: int, attempt: Attempt, settles: Sequence[Settle], *, is_first: bool
    ) -> list[Alert]:
        """An attempt's own response: charge its results, but for those that came by another road before."""
        known = [] if is_first else self._booked(tx, attempt.task_uuid)
        known = [one for one in known if one.attempt_id == attempt.id or not one.direct]
        pairs = same_results(known, [(settle.key, settle.charge.nanos) for settle in settles])
        elsewhere = bool(known) and any(one is not None and one.attempt_id != attempt.id for one in pairs)
        keep_rest = elsewhere or settles[-1].keep_rest
        alerts = []
        if attempt.status not in OPEN and None in pairs:
            # Freed or corrected too early: the provider's own answer is the truth.
            alerts += self._withdraw(tx, at_us, attempt.task_uuid)
        for n, (settle, old) in enumerate(zip(settles, pairs, strict=True)):
            if old is not None:
                alerts += self._improve(tx, at_us, old, settle.key, settle.charge)
                continue
            now = attempt if n == 0 and not alerts else self._attempt(tx, attempt.id)
            held, is_missing = 0, False
            if keep_rest and now.status in OPEN:
                held, is_missing = _share(now, now.seen + settle.charge.results)
            alerts += self._post(
                tx, at_us, now, held, settle.charge, "unresolved" if is_missing else "settled", settle.reason,
                ended_us=at_us, key=settle.key, direct=True, is_first=is_first and n == 0,
            )  # fmt: skip
        if attempt.status in OPEN and (keep_rest or None not in pairs):
            now = self._attempt(tx, attempt.id)
            if now.status in OPEN and keep_rest:
                reason = "its result was booked on another attempt" if elsewhere else settles[-1].reason or ""
                self._mark(tx, at_us, now, "unresolved", reason)
            elif now.status in OPEN:
                alerts += self._post(tx, at_us, now, 0, None, "settled", settles[-1].reason, ended_us=at_us)
        return alerts

    @staticmethod
    def _mark(
        tx: Tx, at_us: int, attempt: Attempt, status: str, reason: str, evidence: Mapping[str, object] | None = None
    ) -> None:
        """The request is over and no money moves: say how it stands."""
        tx.run(
            "UPDATE attempts SET status = ?, reason = ?, evidence = coalesce(?, evidence),"
            " ended_us = coalesce(ended_us, ?) WHERE id = ?",
            (status, reason, json.dumps(dict(evidence)) if evidence else None, at_us, attempt.id),
        )

    def observe(self, at_us: int, seen: Observation) -> tuple[tuple[Alert, ...], int]:
        """Book what a poll, webhook or `getTaskDetails` tells of a task: (alerts, changes made).

        Known results change nothing, but that the provider's figure takes the place of our own; a new one
        settles the oldest open attempt, or, if none is open, is charged to the last one all the same.
        Unknown tasks change nothing.
        """
        alerts: list[Alert] = []
        changes = self._engine.write(lambda tx: self._observe(tx, at_us, seen, alerts))
        return tuple(alerts), changes

    def _observe(self, tx: Tx, at_us: int, seen: Observation, alerts: list[Alert]) -> int:
        alerts.clear()
        pairs = same_results(
            self._booked(tx, seen.task_uuid),
            [(key, None if charge is None else charge.nanos) for key, charge in seen.results],
            whole=seen.whole,
        )
        changes = 0
        is_told = True
        for (key, charge), old in zip(seen.results, pairs, strict=True):
            if old is None and charge is not None:
                alerts += self._book(tx, at_us, seen, key, charge)
                changes += 1
            elif old is None:
                is_told = False
            elif charge is not None and _is_better(charge, old):
                alerts += self._improve(tx, at_us, old, key, charge)
                changes += 1
        fates: dict[int, bool | None] = {}
        for attempt in self._attempts(tx, seen.task_uuid) if seen.settled_all and is_told else ():
            if attempt.status not in OPEN or not self._is_over(tx, attempt, seen.over, fates):
                continue
            if attempt.seen:
                alerts += self._post(tx, at_us, attempt, 0, None, "settled", seen.reason or "no further results")
                changes += 1
            elif seen.release is not None:
                alerts += self._post(tx, at_us, attempt, 0, None, "released", seen.release)
                changes += 1
        if seen.whole and seen.settled_all:
            tx.run("UPDATE attempts SET unconfirmed = NULL WHERE task_uuid = ? AND unconfirmed = 1", (seen.task_uuid,))
        return changes

    def _book(self, tx: Tx, at_us: int, seen: Observation, key: str, charge: Charge) -> list[Alert]:
        """Charge one newly seen result."""
        attempts = self._attempts(tx, seen.task_uuid)
        if not attempts:
            return []
        attempt = next((a for a in attempts if a.status in OPEN), None)
        if attempt is None:
            alerts = self._withdraw(tx, at_us, seen.task_uuid)
            attempt = self._attempt(tx, attempts[-1].id)
            return alerts + self._post(tx, at_us, attempt, 0, charge, "settled", seen.reason, key=key)
        held, is_missing = _share(attempt, attempt.seen + charge.results)
        status = attempt.status if is_missing else "settled"
        return self._post(tx, at_us, attempt, held, charge, status, seen.reason, key=key)

    def _improve(self, tx: Tx, at_us: int, old: Booked, key: str, charge: Charge) -> list[Alert]:
        """The provider's own figure takes the place of a computed or assumed one, line by line."""
        if not _is_better(charge, old):
            return []
        attempt = self._attempt(tx, old.attempt_id)
        lines = tx.all(
            "SELECT component, modality, quantity, nanos FROM lines WHERE charge_seq = ? ORDER BY n", (old.seq,)
        )
        (results,) = tx.one("SELECT results FROM charges WHERE seq = ?", (old.seq,)) or (0,)
        back = _bare_charge(
            old.basis,
            tuple(Line(c, m, None if q is None else -q, -nanos) for c, m, q, nanos in lines),
            -int(results),
        )
        reason = "the provider's own figure came"
        alerts = self._post(tx, at_us, attempt, attempt.held, back, attempt.status, attempt.reason, replaces=old.seq)
        attempt = self._attempt(tx, old.attempt_id)
        alerts += self._post(
            tx, at_us, attempt, attempt.held, charge, attempt.status, reason, key=key, direct=old.direct
        )
        weak = [one for one in self._booked(tx, attempt.task_uuid) if one.basis in WEAK]
        if not any(one.attempt_id == attempt.id for one in weak):
            tx.run("UPDATE attempts SET unconfirmed = NULL WHERE id = ?", (attempt.id,))
        return alerts

    def _withdraw(self, tx: Tx, at_us: int, task_uuid: str) -> list[Alert]:
        """The truth came after an operator's word: take back what was booked by hand."""
        alerts = []
        for attempt in self._attempts(tx, task_uuid):
            row = tx.one(
                "SELECT coalesce(sum(nanos), 0) FROM charges WHERE attempt_id = ? AND basis = 'correction'",
                (attempt.id,),
            )
            if row and row[0]:
                back, reason = _correction(-row[0]), "the provider's figure came"
                alerts += self._post(tx, at_us, attempt, attempt.held, back, attempt.status, reason)
        return alerts

    def release_unknown(
        self, at_us: int, task_uuid: str, min_age_us: int, reason: str, over: frozenset[int] | None = None
    ) -> tuple[Alert, ...]:
        """Release the open attempts of a task that the provider does not know, never a live one.

        An attempt is live while the process that sent it runs, unless its request ended over `min_age_us` ago.
        `over`: the attempts that were over when the provider was asked; None: judge it now.
        """

        def op(tx: Tx) -> list[Alert]:
            alerts = []
            fates: dict[int, bool | None] = {}
            for attempt in self._attempts(tx, task_uuid):
                aged = attempt.ended_us is not None and at_us - attempt.ended_us > min_age_us
                if not (aged or self._is_lost(tx, attempt, fates)) or not self._is_over(tx, attempt, over, fates):
                    continue
                if attempt.status in OPEN:
                    alerts += self._post(tx, at_us, attempt, 0, None, _freed(attempt), reason)
                tx.run("UPDATE attempts SET unconfirmed = NULL WHERE id = ? AND unconfirmed = 1", (attempt.id,))
            return alerts

        return tuple(self._engine.write(op))

    def _is_over(self, tx: Tx, attempt: Attempt, over: frozenset[int] | None, fates: dict[int, bool | None]) -> bool:
        """True if no request of the attempt is under way, or was when the provider was asked."""
        if over is not None:
            return attempt.id in over
        return attempt.ended_us is not None or self._is_lost(tx, attempt, fates)

    def correct(self, at_us: int, task_uuid: str, charged: int | None, reason: str) -> tuple[Alert, ...]:
        """An operator's word on a task's open attempts: `charged` nano-USD in all, or None: not billed.

        Recorded as a correction row with its reason. ConfigurationError if nothing of the task is open.
        """

        def op(tx: Tx) -> list[Alert]:
            still_open = [a for a in self._attempts(tx, task_uuid) if a.status in OPEN]
            if not still_open:
                raise ConfigurationError(f"task {task_uuid}: nothing of it is open in this ledger")
            alerts = []
            for n, attempt in enumerate(still_open):
                charge = None if charged is None or n else _correction(charged)
                status = "settled" if charge or attempt.seen else "released"
                alerts += self._post(tx, at_us, attempt, 0, charge, status, reason)
            return alerts

        return tuple(self._engine.write(op))

    def _post(
        self,
        tx: Tx,
        at_us: int,
        attempt: Attempt,
        held: int,
        charge: Charge | None,
        status: str,
        reason: str | None,
        *,
        ended_us: int | None = None,
        key: str | None = None,
        direct: bool = False,
        replaces: int | None = None,
        is_first: bool = False,
    ) -> list[Alert]:
        """The one place where money moves after admission: journal, charge, attempt, balances.

        `ended_us`: when the attempt's request ended, if this is its end. `key` names the result that is
        charged, `direct` says that it is the attempt's own response. `replaces`: the charge that this one
        takes back. `is_first`: the task is known to have no other attempt and no charge yet.
        """
        freed = held - attempt.held
        if charge is None:
            tx.run(
                "INSERT INTO entries (at_us, attempt_id, kind, held, spent, reason) VALUES (?,?,'release',?,0,?)",
                (at_us, attempt.id, freed, reason),
            )
        else:
            figures = (key, int(direct), replaces)
            self._write_charge(tx, at_us, attempt, freed, charge, figures, reason, is_first=is_first)
            if '"media": ' in attempt.estimate:
                self._remember(tx, at_us, attempt, charge)
        spent, seen = (charge.nanos, charge.results) if charge else (0, 0)
        tx.run(
            "UPDATE attempts SET held = ?, charged = charged + ?, seen = seen + ?, status = ?, reason = ?,"
            " ended_us = coalesce(?, ended_us), unconfirmed = coalesce(?, unconfirmed) WHERE id = ?",
            (held, spent, seen, status, reason, ended_us, _unconfirmed(charge, replaces), attempt.id),
        )
        path, found = self._balances(tx, attempt.project, attempt.at_us)
        # A window without a balance is summed up from the attempts when it is next looked at.
        tx.many(
            "UPDATE balances SET spent = spent + ?, held = held + ? WHERE budget_id = ? AND window_us = ?",
            [
                (spent, freed, budget_id, window.start_us)
                for budget_id, _, window in path.budgets
                if window and budget_id in found
            ],
        )
        alerts = []
        for budget_id, budget, window in path.budgets:
            if spent and window and budget.warn_at and budget_id in found:
                now_spent = found[budget_id][1] + spent
                if now_spent * 100 >= budget.warn_at[0] * budget.limit_nanos:
                    alerts += self._thresholds(tx, at_us, budget_id, budget, window, now_spent)
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
        tx: Tx,
        at_us: int,
        attempt: Attempt,
        freed: int,
        charge: Charge,
        figures: tuple[str | None, int, int | None],
        reason: str | None,
        *,
        is_first: bool,
    ) -> None:
        seq = tx.insert(
            _INSERT_CHARGE,
            "seq",
            (
                at_us, attempt.id, "charge", freed, charge.nanos, reason, charge.basis, charge.cost_nanos,
                charge.total_nanos, charge.computed_nanos, charge.price_id, charge.prompt_tokens,
                charge.completion_tokens, charge.reasoning_tokens, charge.cached_tokens, charge.cache_reading,
                int(charge.odd), charge.results, json.dumps(charge.notes) if charge.notes else None, charge.raw,
                *figures,
            ),
        )  # fmt: skip
        group = (attempt.day, attempt.project, attempt.model)
        known: set[tuple[str, str]] = set()
        is_lead = True
        if not is_first:
            for component, modality in tx.all(
                "SELECT l.component, l.modality FROM attempts a JOIN charges c ON c.attempt_id = a.id"
                " LEFT JOIN lines l ON l.charge_seq = c.seq"
                " WHERE a.task_uuid = ? AND c.seq <> ? AND a.day = ? AND a.project = ? AND a.model = ?",
                (attempt.task_uuid, seq, *group),
            ):
                is_lead = False
                # A charge without lines (nothing billed) still counts as a task of its day.
                known.add((component or "unitemized", modality or ""))
        tx.many(
            "INSERT INTO lines VALUES (?,?,?,?,?,?)",
            [(seq, n, line.component, line.modality, line.quantity, line.nanos) for n, line in enumerate(charge.lines)],
        )
        tx.many(
            "INSERT INTO rollups VALUES (?,?,?,?,?,?,?,?,?,?,?)"
            " ON CONFLICT (day, project, model, component, modality, basis) DO UPDATE SET"
            " lead_tasks = lead_tasks + excluded.lead_tasks, tasks = tasks + excluded.tasks,"
            " results = results + excluded.results, quantity = quantity + excluded.quantity,"
            " nanos = nanos + excluded.nanos",
            [
                (
                    *group, line.component, line.modality, charge.basis, int(is_lead and n == 0),
                    int((line.component, line.modality) not in known), charge.results, line.quantity or 0, line.nanos,
                )
                for n, line in enumerate(charge.lines or (_NOTHING_BILLED,))
            ],
        )  # fmt: skip

    @staticmethod
    def _remember(tx: Tx, at_us: int, attempt: Attempt, charge: Charge) -> None:
        """Keep what the task's media were billed as, where the breakdown tells them apart."""
        if charge.basis != "breakdown" or charge.odd or charge.results < 1:
            return
        tokens: Counter[str] = Counter()
        for line in charge.lines:
            if line.component in ("prompt", "cache"):
                if line.quantity is None or not line.modality:
                    return
                tokens[line.modality] += line.quantity
        for digest, billed in json.loads(attempt.estimate)["media"].items():
            counts = {m: -(-sum(tokens[name] for name in names) // charge.results) for m, names in billed.items()}
            if any(counts.values()):
                tx.run(
                    "INSERT INTO media (digest, at_us, counts) VALUES (?,?,?) ON CONFLICT (digest)"
                    " DO UPDATE SET at_us = excluded.at_us, counts = excluded.counts",
                    (digest, at_us, json.dumps(counts)),
                )
        tx.run("DELETE FROM media WHERE at_us < ?", (at_us - MEDIA_AGE_US,))

    def media_key(self) -> bytes:
        """The key of this ledger's media digests, made when it is first asked for."""
        if self._media_key is None:

            def make(tx: Tx) -> str:
                tx.run("INSERT INTO meta VALUES ('media_key', ?) ON CONFLICT DO NOTHING", (os.urandom(32).hex(),))
                return str((tx.one(_MEDIA_KEY) or ("",))[0])

            found = self._engine.read(lambda tx: tx.one(_MEDIA_KEY))
            self._media_key = bytes.fromhex(found[0] if found else self._engine.write(make))
        return self._media_key

    # -- budgets and ceilings -------------------------------------------------------------------

    def set_budget(self, budget: Budget, at_us: int) -> None:
        """Create the budget (project, per) or change it, keeping its balance and fired alerts."""
        self._engine.write(lambda tx: self._set_budget(tx, budget, at_us))

    def _set_budget(self, tx: Tx, budget: Budget, at_us: int) -> None:
        old = self._find_budget(tx, budget.project, budget.per)
        values = (
            budget.limit_nanos, budget.timezone, budget.action, json.dumps(budget.warn_at), budget.floor_tokens,
            budget.wait_ms,
        )  # fmt: skip
        row = tx.one(
            "INSERT INTO budgets (project, per, limit_nanos, timezone, action, warn_at, floor_tokens, wait_ms)"
            " VALUES (?,?,?,?,?,?,?,?) ON CONFLICT (project, per) DO UPDATE SET limit_nanos = excluded.limit_nanos,"
            " timezone = excluded.timezone, action = excluded.action, warn_at = excluded.warn_at,"
            " floor_tokens = excluded.floor_tokens, wait_ms = excluded.wait_ms RETURNING id",
            (budget.project, budget.per, *values),
        )
        tx.run(
            "INSERT INTO budget_changes (at_us, change, project, per, limit_nanos, timezone, action, warn_at,"
            " floor_tokens, wait_ms) VALUES (?,'set',?,?,?,?,?,?,?,?)",
            (at_us, budget.project, budget.per, *values),
        )
        self._budgets_changed(tx)
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
        row = tx.one(f"SELECT {BUDGET} FROM budgets WHERE project = ? AND per = ?", (project, per))
        return (row[0], read_budget(*row[1:])) if row else None

    def remove_budget(self, project: str, per: str, at_us: int) -> bool:
        """Forget the budget (project, per); False if there was none. Charges stay."""

        def op(tx: Tx) -> bool:
            found = self._find_budget(tx, project, per)
            if found is None:
                return False
            for table in ("balances", "alerts"):
                tx.run(f"DELETE FROM {table} WHERE budget_id = ?", (found[0],))
            tx.run("DELETE FROM budgets WHERE id = ?", (found[0],))
            self._budgets_changed(tx)
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


def _share(attempt: Attempt, seen: int) -> tuple[int, bool]:
    """What stays held of an attempt's worst case, rounded up, once `seen` of its results are charged.

    And whether any is missing: the worst case may be unknown, and then nothing is held for it.
    """
    missing = max(0, attempt.results - seen)
    return -(-(attempt.upper or 0) * missing // attempt.results), missing > 0


def _is_better(charge: Charge, old: Booked) -> bool:
    return old.basis in WEAK and charge.basis not in WEAK


def _unconfirmed(charge: Charge | None, replaces: int | None) -> int | None:
    """1 for a charge that is not the provider's own figure, which it may still tell."""
    return 1 if charge is not None and charge.basis in WEAK and replaces is None else None


def _correction(nanos: int) -> Charge:
    return _bare_charge("correction", (Line("correction", "", None, nanos),), 0)


def _bare_charge(basis: Basis, lines: tuple[Line, ...], results: int) -> Charge:
    """A charge by lines alone, without any figure of the provider's."""
    return Charge(
        nanos=sum(line.nanos for line in lines),
        basis=basis,
        lines=lines,
        cost_nanos=None,
        total_nanos=None,
        computed_nanos=None,
        price_id=None,
        prompt_tokens=None,
        completion_tokens=None,
        reasoning_tokens=None,
        cached_tokens=None,
        cache_reading=None,
        odd=False,
        notes=(),
        raw=None,
        results=results,
    )


def _freed(attempt: Attempt) -> str:
    """The status of an attempt whose hold goes back without a further charge."""
    return "settled" if attempt.seen else "released"
