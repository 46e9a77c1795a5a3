"""What an operator or a program states: budgets, defaults for children, ceilings; and who changed them when."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Protocol

from costguard.budgets import Budget, window_at
from costguard.errors import ConfigurationError
from costguard.ledger.accounting.leasing import Leasing
from costguard.ledger.accounting.limits import TAKE_ARMED
from costguard.ledger.accounting.naming import Names
from costguard.ledger.accounting.reading import BUDGET, read_budget, terms
from costguard.ledger.accounting.sql import admitted_in, covered
from costguard.ledger.engine import Tx
from costguard.ledger.owner import who
from costguard.ledger.records import Change, Move
from costguard.projects import check_name, child_of, covers, is_default, like, parent_of


class Make(Protocol):
    """Makes a budget from the one that is set already."""

    def __call__(self, *, old: Budget | None) -> Budget:
        """The new one."""


class Setting(Leasing):
    """The part of `Ledger` that changes budgets and ceilings, and logs it."""

    def set_budget(self, budget: Budget, at_us: int) -> None:
        """Create the budget (project, per) or change it, keeping its balance; a raised limit arms its alerts again."""
        self.change_budget(budget.project, budget.per, lambda old: budget, at_us)  # noqa: ARG005

    def change_budget(
        self, project: str, per: str, make: Make, at_us: int, *, if_absent: bool = False
    ) -> tuple[Budget, Budget | None]:
        """Set the budget (project, per) to what `make` makes of it, in one transaction: (as it is now, as it was).

        As it was: a child without one of its own had its default's, and goes on from there. With `if_absent` what
        applies, set or by default, stays as it is. What changes nothing is no change, and not logged.
        """
        return self._write(lambda tx: self._change(tx, project, per, make, at_us, if_absent=if_absent))

    def _change(
        self, tx: Tx, project: str, per: str, make: Make, at_us: int, *, if_absent: bool
    ) -> tuple[Budget, Budget | None]:
        found = self._find_budget(tx, project, per)
        own = found[1] if found and found[2] is None else None
        default = None if own else self._default_of(tx, project, per)
        before = own or (replace(default[1], project=project) if default else None)
        if before is not None and if_absent:
            return before, before
        budget = make(old=before)
        if budget == own:
            return budget, own
        self._budgets_changed(tx)
        tx.run(
            "INSERT INTO budget_changes (at_us, change, project, per, limit_nanos, timezone, action, warn_at,"
            " floor_tokens, wait_ms, who) VALUES (?,'set',?,?,?,?,?,?,?,?,?)",
            (at_us, project, per, *terms(budget), who()),
        )
        if not is_default(project):
            self._put(tx, budget, at_us, None, found[1] if found else None)
            return budget, before
        default_id = self._write_budget(tx, budget, None)
        for _, *rest in tx.all(f"SELECT {BUDGET} FROM budgets WHERE like_id = ?", (default_id,)):
            child = read_budget(*rest)
            self._put(tx, replace(budget, project=child.project), at_us, default_id, child)
        self._open_children(tx, default_id, budget, at_us)
        return budget, before

    def _put(self, tx: Tx, budget: Budget, at_us: int, like_id: int | None, old: Budget | None) -> None:
        """Write a budget and begin its balance; `old`: what stood in its row before."""
        budget_id = self._write_budget(tx, budget, like_id)
        if budget.per == "task":
            return
        window = window_at(budget.per, budget.timezone, at_us)
        first_us = window.start_us
        if old and old.timezone != budget.timezone:
            # Balances are derived: the new zone's windows are summed again; what fired stays fired.
            before = window_at(budget.per, old.timezone, at_us)
            first_us = min(first_us, before.start_us)
            tx.run("DELETE FROM balances WHERE budget_id = ?", (budget_id,))
            tx.run(
                "INSERT INTO alerts SELECT budget_id, ?, threshold, at_us FROM alerts"
                f" WHERE budget_id = ? AND window_us = ? AND at_us > 0 {TAKE_ARMED}",
                (window.start_us, budget_id, before.start_us),
            )
        if old and old.limit_nanos < budget.limit_nanos:
            # What was said of the lower limit says nothing of this one.
            tx.run("UPDATE alerts SET at_us = 0 WHERE budget_id = ? AND window_us >= ?", (budget_id, first_us))
        if like_id is None and self._balance(tx, budget_id, window) is None:
            self._open_balance(tx, budget_id, budget, window)

    def _open_children(self, tx: Tx, default_id: int, budget: Budget, at_us: int) -> None:
        """Begin the balances of the children that a default covers and that have attempts in its window.

        All in one pass; the others begin with their next admission.
        """
        if budget.per == "task":
            return
        parent, window = parent_of(budget.project), window_at(budget.per, budget.timezone, at_us)
        below, projects = covered(parent)
        within, times = admitted_in(window)
        sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for project, charged, held in tx.each(
            f"SELECT project, sum(charged), sum(held) FROM attempts WHERE {below} AND {within} GROUP BY project",
            (*projects, *times),
        ):
            if project != parent:
                of_child = sums[child_of(parent, project)]
                of_child[0] += charged
                of_child[1] += held
        for child, (spent, held) in sums.items():
            found = self._find_budget(tx, child, budget.per)
            if found is not None and found[2] is None:
                continue
            own = replace(budget, project=child)
            budget_id = found[0] if found else self._write_budget(tx, own, default_id)
            if self._balance(tx, budget_id, window) is None:
                self._open_balance(tx, budget_id, own, window, (spent, held))

    @staticmethod
    def _find_budget(tx: Tx, project: str, per: str) -> tuple[int, Budget, int | None] | None:
        """The row of (project, per): its id, the budget, and the default that it is made after."""
        row = tx.one(f"SELECT {BUDGET}, like_id FROM budgets WHERE project = ? AND per = ?", (project, per))
        return (row[0], read_budget(*row[1:-1]), row[-1]) if row else None

    def _default_of(self, tx: Tx, project: str, per: str) -> tuple[int, Budget, int | None] | None:
        """The row of the default that covers `project` where it has no budget of its own per `per`."""
        name = like(project)
        return self._find_budget(tx, name, per) if name else None

    def remove_budget(self, project: str, per: str, at_us: int) -> bool:
        """Forget the budget (project, per); False if there was none. Charges stay."""

        def op(tx: Tx) -> bool:
            found = self._find_budget(tx, project, per)
            if found is None or found[2] is not None:
                return False
            self._budgets_changed(tx)
            for (budget_id,) in tx.all("SELECT id FROM budgets WHERE id = ? OR like_id = ?", (found[0], found[0])):
                for table in ("balances", "alerts"):
                    tx.run(f"DELETE FROM {table} WHERE budget_id = ?", (budget_id,))
                tx.run("DELETE FROM budgets WHERE id = ?", (budget_id,))
            tx.run(
                "INSERT INTO budget_changes (at_us, change, project, per, who) VALUES (?,'remove',?,?,?)",
                (at_us, project, per, who()),
            )
            default = self._default_of(tx, project, per)
            if default is not None:
                self._open_children(tx, default[0], default[1], at_us)
            return True

        return self._write(op)

    def call_project(self, project: str, name: str, at_us: int) -> None:
        """From now on reports show `project`, and all below it, as `name`; what was booked stays as it was booked.

        `project` is what it is called now, or what it was booked on. A name that others have too merges them.
        ConfigurationError where nothing is known of `project`.
        """

        def op(tx: Tx) -> None:
            if not self._has(tx, project):
                raise ConfigurationError(f"project: nothing is booked on {project}, and no budget covers it alone")
            tx.run("INSERT INTO moves (at_us, project, name, who) VALUES (?,?,?,?)", (at_us, project, name, who()))

        self._write(op)

    @staticmethod
    def _has(tx: Tx, project: str) -> bool:
        """Whether anything is booked on or set for `project`, or goes by that name now."""
        below, projects = covered(project)
        tables = ("leaves", "attempts", "budgets")
        if any(tx.one(f"SELECT 1 FROM {table} WHERE {below}", projects) for table in tables):
            return True
        names = Names.read(tx)
        moved = tx.all("SELECT DISTINCT project FROM moves")
        return any(covers(project, names.present(booked)) for (booked,) in moved)

    def moves(self) -> list[Move]:
        """What projects are called, oldest first: the newest word on one counts."""
        return self._read(self._moves)

    @staticmethod
    def _moves(tx: Tx) -> list[Move]:
        return [Move(*row) for row in tx.all("SELECT at_us, project, name, who FROM moves ORDER BY id")]

    def set_ceiling(self, name: str, nanos: int, at_us: int) -> None:
        """Worst case per result, in nano-USD, of a model or task type without a price.

        ConfigurationError for a name that no model and no task type can have.
        """
        check_name(name, "ceiling")

        def op(tx: Tx) -> None:
            if tx.one("SELECT 1 FROM ceilings WHERE name = ? AND nanos = ?", (name, nanos)):
                return
            tx.run(
                "INSERT INTO ceilings VALUES (?,?) ON CONFLICT (name) DO UPDATE SET nanos = excluded.nanos",
                (name, nanos),
            )
            tx.run(
                "INSERT INTO ceiling_changes (at_us, name, nanos, who) VALUES (?,?,?,?)", (at_us, name, nanos, who())
            )

        self._write(op)

    def remove_ceiling(self, name: str, at_us: int) -> bool:
        """Forget a ceiling; False if there was none."""

        def op(tx: Tx) -> bool:
            if tx.one("DELETE FROM ceilings WHERE name = ? RETURNING 1", (name,)) is None:
                return False
            tx.run("INSERT INTO ceiling_changes (at_us, name, who) VALUES (?,?,?)", (at_us, name, who()))
            return True

        return self._write(op)

    def changes(self) -> list[Change]:
        """Every change of a budget or a ceiling, oldest first."""
        return self._read(self._changes)

    @staticmethod
    def _changes(tx: Tx) -> list[Change]:
        found = []
        for at_us, by, change, project, per, *rest in tx.all(
            "SELECT at_us, who, change, project, per, limit_nanos, timezone, action, warn_at, floor_tokens, wait_ms"
            " FROM budget_changes ORDER BY id"
        ):
            budget = None if rest[0] is None else read_budget(project, per, *rest)
            found.append(Change(at_us, by, change, project, per, budget, None, None))
        for at_us, by, name, nanos in tx.all("SELECT at_us, who, name, nanos FROM ceiling_changes ORDER BY id"):
            found.append(Change(at_us, by, "remove" if nanos is None else "set", None, None, None, name, nanos))
        return sorted(found, key=lambda one: one.at_us)
