"""Admissions: the worst case of every task of a POST, held in every budget of the path, all or none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from costguard.budgets import day_at
from costguard.ledger.accounting.limits import State
from costguard.ledger.accounting.refusing import count_refused
from costguard.ledger.accounting.setting import Setting
from costguard.ledger.accounting.sql import bounds, name_hash
from costguard.ledger.engine import Steps, Tx, run
from costguard.ledger.owner import this_process
from costguard.ledger.records import Admitted, Alert, NewAttempt, Refused, Unpriced

EXCEEDED = "exceeded"
"""The alert of a window's first refusal, beside the percents."""


_OWNER, _CUT = "owner", "cut"


class Admissions(Setting):
    """The part of `Ledger` that says yes or no."""

    def admit(
        self, project: str, at_us: int, tasks: Sequence[NewAttempt], *, enforce: bool = True
    ) -> Admitted | Refused | Unpriced:
        """Hold the worst case of `tasks` in every budget of `project`'s path, all or none.

        With `enforce` a hard budget (action other than `warn`) without room refuses them all, and so
        does a task without a worst case; otherwise everything is held and said in `over`.
        """
        return run(self.admission(project, at_us, tasks, enforce=enforce))

    def admission(
        self, project: str, at_us: int, tasks: Sequence[NewAttempt], *, enforce: bool = True
    ) -> Steps[Admitted | Refused | Unpriced]:
        """The steps of `admit`."""
        result = yield from self._writing(lambda tx: self._admit(tx, project, at_us, tasks, enforce))
        if isinstance(result, Refused) and result.held and result.window:
            # Read afterwards: other writers need not wait while the open attempts are looked through.
            attempts = self.open_attempts(result.budget.project, result.window)
            unresolved = sum(attempt.held for attempt in attempts if attempt.status == "unresolved")
            return replace(result, unresolved=min(unresolved, result.held))
        return result

    def _admit(
        self, tx: Tx, project: str, at_us: int, tasks: Sequence[NewAttempt], enforce: bool
    ) -> Admitted | Refused | Unpriced:
        states, places = self._states(tx, project, at_us, enforce=enforce)
        uppers = [task.upper if task.upper is not None else self._ceiling(tx, task) for task in tasks]
        if enforce and None in uppers:
            hard = next((state.budget for state in states if state.budget.hard), None)
            if hard is not None:
                return Unpriced(tasks[uppers.index(None)], hard)
        amounts = [upper or 0 for upper in uppers]
        total = sum(amounts)
        unfit = self._unfit(states, amounts, total)
        if unfit and enforce:
            state, requested = min(unfit, key=lambda found: found[0].remaining)
            return Refused(state.budget, state.window, requested, state.remaining, 0, state.held)

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
                " upper, expected, price_id, estimate, tags, clamped_from, host, spelling, owner_id, status, held,"
                " charged, seen) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,'held',?,0,0)",
                "id",
                (
                    name_hash(task.task_uuid), task.task_uuid, project, task.task_type, task.model, task.delivery,
                    task.results, at_us, day, upper, task.expected, task.price_id, task.estimate, task.tags,
                    task.clamped_from,
                    task.host, task.spelling, owner_id, amount,
                ),
            )  # fmt: skip
            ids.append(attempt_id)
            saw = ",".join([f"{s.terms_id},{s.spent},{s.held + held if s.window else 0}" for s in states])
            holds.append((at_us, attempt_id, amount, f"[{saw}]"))
            held += amount
        tx.many("INSERT INTO entries (at_us, attempt_id, kind, held, spent, saw) VALUES (?,?,'hold',?,0,?)", holds)
        self._move(tx, places, 0, total)
        over = () if enforce else tuple(state.budget for state, _ in unfit)
        return Admitted(tuple(ids), tuple(uppers), over)

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
            count_refused(tx, self.timezone, refused, project, at_us, tasks)
            if isinstance(refused, Unpriced) or refused.window is None:
                return ()
            budget, window = refused.budget, refused.window
            found = self._find_budget(tx, budget.project, budget.per)
            if found is None:
                return ()
            spent, _ = self._balance(tx, found[0], window) or (0, 0)
            if not self._claim(tx, found[0], budget, window, EXCEEDED, at_us, spent):
                return ()
            return (Alert(budget, window, None, spent, refused.held, refused.busy),)

        return (yield from self._writing(op))

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
