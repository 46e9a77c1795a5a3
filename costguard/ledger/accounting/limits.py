"""What the budgets of a path have left, in which windows, and whose turn an alert is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from costguard.budgets import Budget, Window, thresholds_crossed, window_at
from costguard.ledger.accounting.reading import BUDGET, Reading, read_budget, terms
from costguard.ledger.accounting.sql import FOREVER_US, bounds, charged_and_held
from costguard.ledger.engine import Tx
from costguard.ledger.records import Alert

REMEMBERED_MAX = 50_000
"""Things that are remembered from one transaction to the next: budgets of a path, rows that many others name."""

TAKE_ARMED = "ON CONFLICT (budget_id, window_us, threshold) DO UPDATE SET at_us = excluded.at_us WHERE alerts.at_us = 0"
"""How a row of `alerts` is claimed: new, or one whose alert may fire once more (`at_us` 0), never one that fired."""

_BALANCE = "SELECT budget_id, spent, held FROM balances WHERE budget_id = ? AND window_us = ? AND end_us = ?"
_TURNS = "SELECT id FROM budgets WHERE id = ANY(CAST(? AS BIGINT[])) ORDER BY id FOR NO KEY UPDATE"
"""Takes budgets, in the one order in which everybody takes them; one statement for all paths."""

PATH, ENDED = "path", "ended"
"""Under these a transaction keeps the budgets of a path, and the alerts of the leases that it has ended."""
_TERMS = "terms"
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
    turns: str
    """The budgets whose rows are taken, as `{1,2}`; empty if there are none."""


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

    def _balances(self, tx: Tx, project: str, at_us: int, numbers: int = 1) -> tuple[Path, dict[Place, Balanced]]:
        """The budgets that cover `project` at `at_us`, and the balances of their windows, as far as they have begun.

        Budgets are remembered until any of the ledger changes, so that one statement tells all; balances while
        nobody else writes. `numbers`: how many rows of the journal are to come.
        """
        own = tx.own
        path: Path | None = tx.kept.get((PATH, project))
        if path is None or not path.start_us <= at_us < path.end_us:
            path = self._read_path(tx, project, at_us)
        elif own.get(PATH) == path.version:
            for place in path.windows:
                if place not in own:
                    break
            else:
                return path, own
        rows = self._take(tx, path, numbers)
        if rows.pop(0, None) != path.version:
            tx.kept.clear()
            path = self._read_path(tx, project, at_us)
            rows = self._take(tx, path, numbers)
            rows.pop(0, None)
        if own.get(PATH) != path.version or len(own) >= REMEMBERED_MAX:
            self._forget(tx)
            own[PATH] = path.version
        for place in path.windows:
            if place[0] in rows:
                own[place] = rows[place[0]][1:]
        return path, own

    @staticmethod
    def _forget(tx: Tx) -> None:
        """The balances; not the alerts that are still to be told."""
        ended = tx.own.get(ENDED)
        tx.own.clear()
        if ended is not None:
            tx.own[ENDED] = ended

    @staticmethod
    def _take(tx: Tx, path: Path, numbers: int) -> dict[int, tuple[int, ...]]:
        """Take the budgets of a path, whose rows stay where they are while balances move, and read the balances."""
        if path.turns:
            tx.lock(_TURNS, (path.turns,), known=True)
        return {row[0]: row for row in tx.take(path.sql, path.parameters, numbers)}

    def _read_path(self, tx: Tx, project: str, at_us: int) -> Path:
        covering = self._covering(tx, project)
        budgets = []
        places: list[Place] = []
        windows: list[Place] = []
        start_us, end_us = 0, FOREVER_US
        sql, parameters = tx.stamp, list[int]()
        for known, budget, like_id in covering:
            if known is None:
                tx.alone()
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
            budgets.append((budget_id, budget, window))
        taken = ",".join([str(budget_id) for budget_id, _, window in budgets if window is not None])
        for place in windows:
            sql += f" UNION ALL {_BALANCE}"
            parameters += place
        path = Path(
            tx.one(tx.stamp) or (),
            start_us,
            end_us,
            tuple(budgets),
            (*places, *windows),
            sql,
            tuple(parameters),
            tuple(windows),
            f"{{{taken}}}" if taken else "",
        )
        if len(tx.kept) >= REMEMBERED_MAX:
            tx.kept.clear()
        tx.kept[PATH, project] = path
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

    def _before_cut(self, tx: Tx) -> None:
        """Called before attempts are summed up, or budgets change."""

    def _budgets_changed(self, tx: Tx) -> None:
        """What is remembered of budgets is no longer so. Before they change: what rests on them ends."""
        self._before_cut(tx)
        tx.restamp()
        self._forget(tx)

    def _states(
        self, tx: Tx, project: str, at_us: int, numbers: int, *, enforce: bool
    ) -> tuple[list[State], tuple[Place, ...]]:
        """Every budget of the path with the balance of its window at `at_us`, started if there is none.

        And every balance that an admission at `at_us` counts in. `numbers`: how many attempts are to come.
        """
        path, found = self._balances(tx, project, at_us, numbers)
        begun = [
            self._open_balance(tx, budget_id, budget, window)
            for budget_id, budget, window in path.budgets
            if window is not None and (budget_id, *bounds(window)) not in found
        ]
        if begun:  # which may have moved others, or made the ledger forget what it remembered
            path, found = self._balances(tx, project, at_us, numbers)
        states = []
        for budget_id, budget, window in path.budgets:
            terms_id = self._terms_id(tx, budget, window, hard=enforce and budget.hard)
            spent, held = (0, 0) if window is None else found[budget_id, *bounds(window)]
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
        tx.alone()
        self._before_cut(tx)  # while leases are open, attempts sum up to more than what is held
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
    def _claimed_before(tx: Tx, at_us: int) -> list[Alert]:
        """The alerts that this claimed when it was committed before, and the answer was lost; none if it was not."""
        if not tx.is_again:
            return []
        found = []
        for window_us, percent, spent, *row in tx.all(
            f"SELECT f.window_us, f.threshold, f.spent, {', '.join(f'b.{name}' for name in BUDGET.split(', '))}"
            " FROM fired f JOIN budgets b ON b.project = f.project AND b.per = f.per WHERE f.at_us = ? ORDER BY f.id",
            (at_us,),
        ):
            budget = read_budget(*row[1:])
            if percent.isdecimal():
                found.append(Alert(budget, window_at(budget.per, budget.timezone, window_us), int(percent), spent))
        return found

    @staticmethod
    def _claim(tx: Tx, budget_id: int, budget: Budget, window: Window, threshold: str, at_us: int, spent: int) -> bool:
        """True for the one transaction, among all processes, that may fire this alert; it is kept that it does."""
        row = tx.one(
            f"INSERT INTO alerts VALUES (?,?,?,?) {TAKE_ARMED} RETURNING 1",
            (budget_id, window.start_us, threshold, at_us),
        )
        if row is None:
            return False
        tx.run(
            "INSERT INTO fired (at_us, project, per, window_us, threshold, limit_nanos, spent) VALUES (?,?,?,?,?,?,?)",
            (at_us, budget.project, budget.per, window.start_us, threshold, budget.limit_nanos, spent),
        )
        return True
