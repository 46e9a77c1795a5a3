"""What the budgets of a path have left, in which windows, and whose turn an alert is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from costguard.budgets import Budget, Window, thresholds_crossed, window_at
from costguard.ledger.accounting.reading import Reading, terms
from costguard.ledger.accounting.sql import FOREVER_US, bounds, charged_and_held
from costguard.ledger.engine import Tx
from costguard.ledger.records import Alert

REMEMBERED_MAX = 50_000
"""Things that are remembered from one transaction to the next: budgets of a path, rows that many others name."""

_VERSION = "SELECT 0, CAST(value AS BIGINT), 0 FROM meta WHERE key = 'budgets'"
_BALANCE = "SELECT budget_id, spent, held FROM balances WHERE budget_id = ? AND window_us = ? AND end_us = ?"
_PATH, _TERMS = "path", "terms"
_OVERLAPPING = "SELECT window_us, end_us FROM balances WHERE budget_id = ? AND window_us < ? AND end_us > ?"

Place = tuple[int, int, int]
"""A balance by its key: budget, start and end of its window."""

Balanced = tuple[int, int]
"""What is spent and held, in nano-USD."""


class Path(NamedTuple):
    """The budgets that cover a project, with their windows (None per task) as they are in [start_us, end_us)."""

    version: tuple[int, ...]
    start_us: int
    end_us: int
    budgets: tuple[tuple[int, Budget, Window | None], ...]
    places: tuple[Place, ...]
    """Every balance that contains these instants: of these windows, and of those cut by other rules of their zone."""
    sql: str
    """Reads the version of the ledger's budgets and every window's balance, in one statement."""
    parameters: tuple[int, ...]
    windows: tuple[Place, ...]
    """The balances that `sql` reads: those of the budgets' own windows."""


class State(NamedTuple):
    """A budget and the balance of one of its windows (None per task)."""

    terms_id: int
    """The row that says once for all admissions what this one saw beside the balance."""
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

    def _balances(self, tx: Tx, project: str, at_us: int) -> tuple[Path, dict[Place, Balanced]]:
        """The budgets that cover `project` at `at_us`, and the balances of their windows, as far as they have begun.

        Budgets are remembered until any of the ledger changes, so that one statement tells all; balances while
        nobody else writes.
        """
        own = tx.own
        path: Path | None = tx.kept.get((_PATH, project))
        if path is None or not path.start_us <= at_us < path.end_us:
            path = self._read_path(tx, project, at_us)
        elif own.get(_PATH) == path.version:
            for place in path.windows:
                if place not in own:
                    break
            else:
                return path, own
        rows = {row[0]: row for row in tx.all(path.sql, path.parameters)}
        if rows.pop(0, None) != path.version:
            tx.kept.clear()
            path = self._read_path(tx, project, at_us)
            rows = {row[0]: row for row in tx.all(path.sql, path.parameters)}
            rows.pop(0, None)
        if own.get(_PATH) != path.version or len(own) >= REMEMBERED_MAX:
            own.clear()
            own[_PATH] = path.version
        for place in path.windows:
            if place[0] in rows:
                own[place] = rows[place[0]][1:]
        return path, own

    def _read_path(self, tx: Tx, project: str, at_us: int) -> Path:
        covering = self._covering(tx, project)
        budgets = []
        places: list[Place] = []
        windows: list[Place] = []
        start_us, end_us = 0, FOREVER_US
        sql, parameters = _VERSION, list[int]()
        for known, budget, like_id in covering:
            budget_id = self._write_budget(tx, budget, like_id) if known is None else known
            window = None
            if budget.per != "task":
                window = window_at(budget.per, budget.timezone, at_us)
                begun, ended = bounds(window)
                start_us, end_us = max(start_us, begun), min(end_us, ended)
                for other in tx.all(_OVERLAPPING, (budget_id, ended, begun)):
                    if other == (begun, ended):
                        continue
                    if other[0] <= at_us < other[1]:
                        places.append((budget_id, *other))
                        start_us, end_us = max(start_us, other[0]), min(end_us, other[1])
                    elif other[1] <= at_us:
                        start_us = max(start_us, other[1])
                    else:
                        end_us = min(end_us, other[0])
                windows.append((budget_id, begun, ended))
                sql += f" UNION ALL SELECT * FROM ({_BALANCE}{tx.for_update}) b{budget_id}"
                parameters += (budget_id, begun, ended)
            budgets.append((budget_id, budget, window))
        path = Path(
            tx.one(_VERSION) or (),
            start_us,
            end_us,
            tuple(budgets),
            (*places, *windows),
            sql,
            tuple(parameters),
            tuple(windows),
        )
        if len(tx.kept) >= REMEMBERED_MAX:
            tx.kept.clear()
        tx.kept[_PATH, project] = path
        return path

    @staticmethod
    def _write_budget(tx: Tx, budget: Budget, like_id: int | None) -> int:
        """Write a budget's row over the one there may be; its id. `like_id`: the default that it is made after."""
        row = tx.one(
            "INSERT INTO budgets (project, per, limit_nanos, timezone, action, warn_at, floor_tokens, wait_ms, like_id)"
            " VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT (project, per) DO UPDATE SET limit_nanos = excluded.limit_nanos,"
            " timezone = excluded.timezone, action = excluded.action, warn_at = excluded.warn_at,"
            " floor_tokens = excluded.floor_tokens, wait_ms = excluded.wait_ms, like_id = excluded.like_id"
            " RETURNING id",
            (budget.project, budget.per, *terms(budget), like_id),
        )
        return int(row[0]) if row else 0

    @staticmethod
    def _budgets_changed(tx: Tx) -> None:
        tx.run(
            "INSERT INTO meta VALUES ('budgets', '1') ON CONFLICT (key)"
            " DO UPDATE SET value = CAST(CAST(meta.value AS INTEGER) + 1 AS TEXT)"
        )
        tx.own.clear()

    def _states(self, tx: Tx, project: str, at_us: int, *, enforce: bool) -> tuple[list[State], tuple[Place, ...]]:
        """Every budget of the path with the balance of its window at `at_us`, started if there is none.

        And every balance that an admission at `at_us` counts in.
        """
        states = []
        path, found = self._balances(tx, project, at_us)
        # Taken now: a balance that is begun below may make the ledger forget what it remembers.
        balances = [
            found.get((budget_id, *bounds(window))) if window is not None else None
            for budget_id, _, window in path.budgets
        ]
        for (budget_id, budget, window), balance in zip(path.budgets, balances, strict=True):
            terms_id = self._terms_id(tx, budget, window, hard=enforce and budget.hard)
            if window is None:
                states.append(State(terms_id, budget, None, 0, 0))
                continue
            spent, held = balance or self._open_balance(tx, budget_id, budget, window)
            states.append(State(terms_id, budget, window, spent, held))
        return states, path.places

    @staticmethod
    def _terms_id(tx: Tx, budget: Budget, window: Window | None, *, hard: bool) -> int:
        """The row that says what admissions see of a budget beside its balance."""
        start_us, end_us = (window.start_us, window.end_us) if window else (0, None)
        row = budget.project, budget.per, start_us, end_us, budget.limit_nanos, int(hard)
        found: int | None = tx.kept.get((_TERMS, row))
        if found is None:
            known = tx.all(
                "SELECT id, window_end_us, limit_nanos, hard FROM terms"
                " WHERE project = ? AND per = ? AND window_us = ?",
                row[:3],
            )
            found = next((one[0] for one in known if one[1:] == row[3:]), None)
            if found is None:
                found = tx.insert(
                    "INSERT INTO terms (project, per, window_us, window_end_us, limit_nanos, hard)"
                    " VALUES (?,?,?,?,?,?)",
                    "id",
                    row,
                )
            tx.kept[_TERMS, row] = found
        return found

    def _open_balance(
        self, tx: Tx, budget_id: int, budget: Budget, window: Window, sums: tuple[int, int] | None = None
    ) -> tuple[int, int]:
        """Start a window's balance with what its tasks already spent and hold: `sums`, if these are known."""
        balance = charged_and_held(tx, budget.project, window) if sums is None else sums
        start_us, end_us = bounds(window)
        if tx.one(_OVERLAPPING, (budget_id, end_us, start_us)) is not None:
            self._budgets_changed(tx)  # remembered paths know of the other cut only
        tx.run("INSERT INTO balances VALUES (?,?,?,?,?)", (budget_id, start_us, end_us, *balance))
        tx.own[budget_id, start_us, end_us] = balance
        return balance

    @staticmethod
    def _move(tx: Tx, places: Sequence[Place], spent: int, held: int) -> None:
        """Add to those of these balances that are kept, in nano-USD."""
        tx.many(
            "UPDATE balances SET spent = spent + ?, held = held + ?"
            " WHERE budget_id = ? AND window_us = ? AND end_us = ?",
            [(spent, held, *place) for place in places],
        )
        for place in places:
            known = tx.own.get(place)
            if known is not None:
                tx.own[place] = known[0] + spent, known[1] + held

    def _thresholds(
        self, tx: Tx, at_us: int, budget_id: int, budget: Budget, window: Window, spent: int
    ) -> list[Alert]:
        return [
            Alert(budget, window, percent, spent)
            for percent in thresholds_crossed(spent, budget.limit_nanos, budget.warn_at)
            if self._claim(tx, budget_id, budget, window, str(percent), at_us, spent)
        ]

    @staticmethod
    def _claim(tx: Tx, budget_id: int, budget: Budget, window: Window, threshold: str, at_us: int, spent: int) -> bool:
        """True for the one transaction, among all processes, that may fire this alert; it is kept that it does."""
        row = tx.one(
            "INSERT INTO alerts VALUES (?,?,?,?) ON CONFLICT DO NOTHING RETURNING 1",
            (budget_id, window.start_us, threshold, at_us),
        )
        if row is None:
            return False
        tx.run(
            "INSERT INTO fired (at_us, project, per, window_us, threshold, limit_nanos, spent) VALUES (?,?,?,?,?,?,?)",
            (at_us, budget.project, budget.per, window.start_us, threshold, budget.limit_nanos, spent),
        )
        return True
