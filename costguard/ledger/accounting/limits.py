"""Budgets and ceilings, what is left of them, and whose turn an alert is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import NamedTuple

from costguard.budgets import Budget, Window, thresholds_crossed, window_at
from costguard.ledger.accounting.reading import BUDGET, Reading, read_budget
from costguard.ledger.accounting.sql import charged_and_held, marks
from costguard.ledger.engine import Engine, Tx
from costguard.ledger.records import Alert
from costguard.projects import ancestors

PATHS_MAX = 10_000
"""Project paths whose budgets are remembered."""

_VERSION = "SELECT 0, CAST(value AS BIGINT), 0 FROM meta WHERE key = 'budgets'"
_BALANCE = "SELECT budget_id, spent, held FROM balances WHERE budget_id = ? AND window_us = ?"
_FOREVER_US = 2**63


class Path(NamedTuple):
    """The budgets that cover a project, with their windows (None per task) as they are in [start_us, end_us)."""

    version: tuple[int, ...] | None
    start_us: int
    end_us: int
    budgets: tuple[tuple[int, Budget, Window | None], ...]
    sql: str
    """Reads the version of the ledger's budgets and every window's balance, in one statement."""
    parameters: tuple[int, ...]


class State(NamedTuple):
    """A budget and the balance of one of its windows (None per task)."""

    budget_id: int
    budget: Budget
    window: Window | None
    spent: int
    held: int

    @property
    def remaining(self) -> int:
        """`limit − spent − held` in nano-USD."""
        return self.budget.limit_nanos - self.spent - self.held


class Limits(Reading):
    """The part of `Ledger` that knows the budgets of a path and moves their balances."""

    def __init__(self, engine: Engine, now_us: Callable[[], int]) -> None:
        super().__init__(engine, now_us)
        self._paths: dict[str, Path] = {}

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

    def _balances(self, tx: Tx, project: str, at_us: int) -> tuple[Path, dict[int, tuple[int, ...]]]:
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

    def _read_path(self, tx: Tx, project: str, at_us: int) -> Path:
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
        path = Path(tx.one(_VERSION), start_us, end_us, tuple(budgets), sql, tuple(parameters))
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

    def _states(self, tx: Tx, project: str, at_us: int) -> list[State]:
        """Every budget of the path with the balance of its window at `at_us`, started if there is none."""
        states = []
        path, found = self._balances(tx, project, at_us)
        for budget_id, budget, window in path.budgets:
            if window is None:
                states.append(State(budget_id, budget, None, 0, 0))
                continue
            balance = found.get(budget_id)
            spent, held = balance[1:] if balance else self._open_balance(tx, budget_id, budget, window)
            states.append(State(budget_id, budget, window, spent, held))
        return states

    def _open_balance(self, tx: Tx, budget_id: int, budget: Budget, window: Window) -> tuple[int, int]:
        """Start a window's balance with what its tasks already spent and hold."""
        balance = charged_and_held(tx, budget.project, window)
        tx.run("INSERT INTO balances VALUES (?,?,?,?)", (budget_id, window.start_us, *balance))
        return balance

    def _thresholds(
        self, tx: Tx, at_us: int, budget_id: int, budget: Budget, window: Window, spent: int
    ) -> list[Alert]:
        return [
            Alert(budget, window, percent, spent)
            for percent in thresholds_crossed(spent, budget.limit_nanos, budget.warn_at)
            if self._claim(tx, budget_id, window, str(percent), at_us)
        ]

    @staticmethod
    def _claim(tx: Tx, budget_id: int, window: Window, threshold: str, at_us: int) -> bool:
        """True for the one transaction, among all processes, that may fire this alert."""
        row = tx.one(
            "INSERT INTO alerts VALUES (?,?,?,?) ON CONFLICT DO NOTHING RETURNING 1",
            (budget_id, window.start_us, threshold, at_us),
        )
        return row is not None
