"""Admissions: the worst case of every task of a POST, held in every budget of the path, all or none."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace

from costguard.budgets import day_at
from costguard.ledger.accounting.leasing import Lease
from costguard.ledger.accounting.limits import State
from costguard.ledger.accounting.refusing import count_refused
from costguard.ledger.accounting.setting import Setting
from costguard.ledger.accounting.sql import OF_TASK, bounds, name_hash, of_task
from costguard.ledger.engine import Steps, Tx, run
from costguard.ledger.owner import this_process
from costguard.ledger.records import Admitted, Alert, NewAttempt, Refused, Unpriced

EXCEEDED = "exceeded"
"""The alert of a window's first refusal, beside the percents."""


_FIRED = "SELECT 1 FROM fired WHERE at_us = ? AND project = ? AND per = ? AND threshold = ?"

_OWNER, _CUT = "owner", "cut"


class Admissions(Setting):
    """The part of `Ledger` that says yes or no."""

    def admit(
        self,
        project: str,
        at_us: int,
        tasks: Sequence[NewAttempt],
        *,
        enforce: bool = True,
        key: str | None = None,
        again: bool = False,
    ) -> Admitted | Refused | Unpriced:
        """Hold the worst case of `tasks` in every budget of `project`'s path, all or none.

        With `enforce` a hard budget (action other than `warn`) without room refuses them all, and so
        does a task without a worst case; otherwise everything is held and said in `over`. `key` names this
        admission; `again`: it may have been admitted by that name before, and is not held twice then.
        """
        return run(self.admission(project, at_us, tasks, enforce=enforce, key=key, again=again))

    def admission(
        self,
        project: str,
        at_us: int,
        tasks: Sequence[NewAttempt],
        *,
        enforce: bool = True,
        key: str | None = None,
        again: bool = False,
    ) -> Steps[Admitted | Refused | Unpriced]:
        """The steps of `admit`."""
        own_key = uuid.uuid4().hex if key is None and self._engine.is_shared else key
        lease = self._purse.take(project) if enforce and self.leases != "off" else None
        kept: list[Lease] = []

        def op(tx: Tx) -> Admitted | Refused | Unpriced:
            kept.clear()
            if own_key is not None and (tx.is_again or again):
                found = self._admitted(tx, tasks, own_key)
                if found is not None:
                    kept.extend([lease] if lease is not None else [])
                    return found
            if lease is not None:
                found = self._admit_under(tx, lease, at_us, tasks, own_key, kept)
                if found is not None:
                    return found
            return self._admit(tx, project, at_us, tasks, enforce, own_key, kept)

        try:
            result = yield from self._writing(op, beside=not again)
        except BaseException:
            kept[:] = [lease] if lease is not None else []
            raise
        finally:
            for one in kept:
                self._keep(one)
        if isinstance(result, Refused) and result.held and result.window:
            # Read afterwards: other writers need not wait while the open attempts are looked through.
            attempts = self.open_attempts(result.budget.project, result.window)
            unresolved = sum(attempt.held for attempt in attempts if attempt.status == "unresolved")
            return replace(result, unresolved=min(unresolved, result.held))
        return result

    @staticmethod
    def _admitted(tx: Tx, tasks: Sequence[NewAttempt], key: str) -> Admitted | None:
        """What was admitted by `key`, one attempt for each of `tasks`; None if nothing was."""
        found: list[tuple[int, int | None]] = []
        for task in tasks:
            rows = tx.all(
                f"SELECT id, upper FROM attempts WHERE {OF_TASK} AND key = ? ORDER BY id",
                (*of_task(task.task_uuid), key),
            )
            found += [row for row in rows if row not in found][:1]
        return Admitted(*zip(*found, strict=True)) if len(found) == len(tasks) > 0 else None

    def _admit_under(
        self, tx: Tx, lease: Lease, at_us: int, tasks: Sequence[NewAttempt], key: str | None, kept: list[Lease]
    ) -> Admitted | None:
        """Admit by a lease, which is then in `kept`; None if it has no room, and has ended."""
        amounts = [task.upper for task in tasks if task.upper is not None]
        if len(amounts) < len(tasks) or not lease.fits(at_us, amounts):
            self._end_lease(tx, lease.id)
            return None
        left = self._draw(tx, lease, amounts)
        if left is None:
            return None
        kept.append(left)
        ids = self._hold(tx, lease.project, at_us, tasks, amounts, amounts, (), key, lease.id)
        return Admitted(tuple(ids), tuple(amounts))

    def _admit(
        self,
        tx: Tx,
        project: str,
        at_us: int,
        tasks: Sequence[NewAttempt],
        enforce: bool,
        key: str | None = None,
        kept: list[Lease] | None = None,
    ) -> Admitted | Refused | Unpriced:
        """Admit by the budgets; a lease that is taken along is then in `kept`."""
        states, places = self._states(tx, project, at_us, len(tasks), enforce=enforce)
        uppers = [task.upper if task.upper is not None else self._ceiling(tx, task) for task in tasks]
        if enforce and None in uppers:
            hard = next((state.budget for state in states if state.budget.hard), None)
            if hard is not None:
                return Unpriced(tasks[uppers.index(None)], hard)
        amounts = [upper or 0 for upper in uppers]
        total = sum(amounts)
        unfit = self._unfit(states, amounts, total)
        if unfit and tx.is_shared:
            # Others' leases end if there is room then, and if the limit is passed all the same.
            without = self._unfit(self._as_if_ended(tx, states), amounts, total)
            if enforce and without:
                unfit = without
            elif self._end_leases(tx, [state.budget.project for state, _ in unfit]):
                states, places = self._states(tx, project, at_us, len(tasks), enforce=enforce)
                unfit = self._unfit(states, amounts, total)
        if unfit and enforce:
            state, requested = min(unfit, key=lambda found: found[0].remaining)
            return Refused(state.budget, state.window, requested, state.remaining, 0, state.held)

        size = 0 if kept is None or not enforce else self._slice(tx, states, total)
        ids = self._hold(tx, project, at_us, tasks, uppers, amounts, states, key)
        if size and kept is not None:
            after = [state._replace(held=state.held + total) if state.window else state for state in states]
            new = self._new_lease(size)
            (lease_id,) = self._hold(tx, project, at_us, [new], [size], [size], after, None)
            kept.append(self._keep_lease(tx, lease_id, project, at_us, states, size))
        self._move(tx, places, 0, total + size)
        over = () if enforce else tuple(state.budget for state, _ in unfit)
        return Admitted(tuple(ids), tuple(uppers), over)

    def _hold(
        self,
        tx: Tx,
        project: str,
        at_us: int,
        tasks: Sequence[NewAttempt],
        uppers: Sequence[int | None],
        amounts: Sequence[int],
        states: Sequence[State],
        key: str | None,
        lease_id: int | None = None,
    ) -> list[int]:
        """Write one attempt for each of `tasks`, and the entry that holds its amount; their ids.

        `states`: what was seen, before any of them. `lease_id`: the lease that they are held under.
        """
        cut = day_at(self.timezone, at_us)
        day = cut[0]
        if cut != tx.kept.get(_CUT):
            row = (day, *bounds(cut[1]), self.timezone)
            tx.run("INSERT INTO days VALUES (?,?,?,?) ON CONFLICT DO NOTHING", row)
            tx.kept[_CUT] = cut
        owner_id = self._owner_id(tx)
        ids: list[int] = []
        held = 0
        holds = []
        for task, upper, amount in zip(tasks, uppers, amounts, strict=True):
            attempt_id = tx.insert(
                "INSERT INTO attempts (name_hash, task_uuid, project, task_type, model, delivery, results, at_us, day,"
                " upper, expected, price_id, estimate, tags, clamped_from, host, spelling, key, lease_id, owner_id,"
                " status, held, charged, seen) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,'held',?,0,0)",
                "id",
                (
                    name_hash(task.task_uuid), task.task_uuid, project, task.task_type, task.model, task.delivery,
                    task.results, at_us, day, upper, task.expected, task.price_id, task.estimate, task.tags,
                    task.clamped_from,
                    task.host, task.spelling, key, lease_id, owner_id, amount,
                ),
            )  # fmt: skip
            ids.append(attempt_id)
            saw = ",".join([f"{s.terms_id},{s.spent},{s.held + held if s.window else 0}" for s in states])
            holds.append((tx.seq_of_hold(attempt_id), at_us, attempt_id, amount, f"[{saw}]"))
            held += amount
        tx.many(
            "INSERT INTO entries (seq, at_us, attempt_id, kind, held, spent, saw) VALUES (?,?,?,'hold',?,0,?)", holds
        )
        return ids

    @staticmethod
    def _unfit(states: Iterable[State], amounts: Sequence[int], total: int) -> list[tuple[State, int]]:
        """Hard budgets without room, each with the amount that does not fit."""
        unfit = []
        for state in states:
            requested = total if state.window else max(amounts)
            if (requested > state.remaining or state.budget.limit_nanos == 0) and state.budget.hard:
                unfit.append((state, requested))
        return unfit

    def count_refusal(
        self, refused: Refused | Unpriced, project: str, at_us: int, tasks: Sequence[NewAttempt]
    ) -> tuple[Alert, ...]:
        """Count the tasks of a refused POST; the alert of a window's first, to the one process that is to fire it."""
        return run(self.refusal(refused, project, at_us, tasks))

    def refusal(
        self, refused: Refused | Unpriced, project: str, at_us: int, tasks: Sequence[NewAttempt]
    ) -> Steps[tuple[Alert, ...]]:
        """The steps of `count_refusal`."""

        def op(tx: Tx) -> tuple[Alert, ...]:
            is_done = tx.is_again and tx.one(_FIRED, (at_us, refused.budget.project, refused.budget.per, EXCEEDED))
            if not is_done:
                count_refused(tx, self.timezone, refused, project, at_us, tasks)
            if isinstance(refused, Unpriced) or refused.window is None:
                return ()
            budget, window = refused.budget, refused.window
            found = self._find_budget(tx, budget.project, budget.per)
            if found is None:
                return ()
            spent, _ = self._balance(tx, found[0], window) or (0, 0)
            if not (is_done or self._claim(tx, found[0], budget, window, EXCEEDED, at_us, spent)):
                return ()
            return (Alert(budget, window, None, spent, refused.held, refused.busy),)

        return (yield from self._writing(op, beside=True))

    @staticmethod
    def _ceiling(tx: Tx, task: NewAttempt) -> int | None:
        for name in task.ceiling_names:
            row = tx.one("SELECT nanos FROM ceilings WHERE name = ?", (name,))
            if row:
                return int(row[0]) * task.results
        return None

    @staticmethod
    def _owner_id(tx: Tx) -> int:
        """This process's row."""
        me = this_process()
        found: int | None = tx.kept.get((_OWNER, me))
        if found is None:
            row = tx.one(
                "INSERT INTO owners (host, boot, pid, started) VALUES (?,?,?,?)"
                " ON CONFLICT (host, boot, pid, started) DO UPDATE SET pid = excluded.pid RETURNING id",
                me,
            )
            found = tx.kept[_OWNER, me] = int(row[0]) if row else 0
        return found
