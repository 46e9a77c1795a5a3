"""Which budgets applied in a period, and what was spent in their windows, closed and removed ones too."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from costguard.budgets import ALL_TIME, Budget, Window, window_at
from costguard.ledger.accounting.reading import BUDGET, read_budget
from costguard.ledger.accounting.sql import FOREVER_US, bounds, spent_under_leases
from costguard.ledger.engine import Tx
from costguard.projects import is_default, like

GENERATED_MAX = 400
"""Windows of one budget that are looked at without anything in them: a year of days."""

_Key = tuple[str, str]
_History = list[tuple[int, Budget | None]]


class BudgetWindow(NamedTuple):
    """A budget's window as it stands, or was closed: nano-USD spent and held.

    `budget` is as it was last set in the window. `is_removed`: there is no such budget any more.
    """

    budget: Budget
    window: Window
    spent: int
    held: int
    is_closed: bool
    is_removed: bool
    name: str = ""
    """What the budget's project is called now."""
    is_of_all: bool = False
    """Whether all that is reported counts in it."""


def windows_in(
    tx: Tx,
    span: Window,
    at_us: int,
    is_meant: Callable[[Budget], bool],
    sums: Callable[[Budget, Window], tuple[int, int]],
) -> list[BudgetWindow]:
    """The windows that belong to `span`, by project, period and time: most of either is in the other.

    `sums` tells what was spent and is held in a window that no balance is kept of. Of what is per task there are none.
    """
    histories = _histories(tx)
    set_now: dict[_Key, Budget] = {}
    found: dict[_Key, dict[Window, tuple[int, int] | None]] = {}
    for row in tx.all(f"SELECT {BUDGET} FROM budgets"):
        budget = read_budget(*row[1:])
        set_now[budget.project, budget.per] = budget
    start_us, end_us = bounds(span)
    kept: set[tuple[_Key, Window]] = set()
    for project, per, window_us, ended_us, spent, held, is_child in tx.all(
        "SELECT b.project, b.per, w.window_us, w.end_us, w.spent, w.held, b.like_id IS NOT NULL FROM balances w"
        " JOIN budgets b ON b.id = w.budget_id WHERE w.window_us < ? AND w.end_us > ?",
        (end_us, start_us),
    ):
        window = _window(window_us, ended_us)
        kept.add(((project, per), window))
        if not is_child or spent or held:
            leased = spent_under_leases(tx, project, window)
            found.setdefault((project, per), {})[window] = spent + leased, held - leased
    for project, per, window_us, ended_us in tx.all(
        "SELECT DISTINCT project, per, window_us, window_end_us FROM terms WHERE per <> 'task' AND window_us < ?"
        " AND (window_end_us IS NULL OR window_end_us > ?)",
        (end_us, start_us),
    ):
        if ((project, per), _window(window_us, ended_us)) not in kept:
            found.setdefault((project, per), {}).setdefault(_window(window_us, ended_us), None)
    for key, budget in set_now.items():
        _generate(found.setdefault(key, {}), budget, span, at_us, histories.get(key, []))

    rows = []
    for key, windows in sorted(found.items()):
        for window in sorted(windows):
            known = histories.get(key) or histories.get((like(key[0]) or "", key[1]), [])
            budget_then = _as_set(key, known, window, at_us) or set_now.get(key)
            if budget_then is None or budget_then.per == "task" or not is_meant(budget_then):
                continue
            if not _belongs(window, span) or not _was_there(known, span):
                continue
            spent, held = windows[window] or sums(budget_then, window)
            is_closed = window.end_us is not None and window.end_us <= at_us
            rows.append(BudgetWindow(budget_then, window, spent, held, is_closed, key not in set_now))
    return rows


def _window(start_us: int, end_us: int | None) -> Window:
    return Window(start_us, None if end_us == FOREVER_US else end_us)


def _histories(tx: Tx) -> dict[_Key, _History]:
    """What each budget was set to, and when; None: it was removed."""
    found: dict[_Key, _History] = {}
    for at_us, project, per, *terms in tx.all(
        "SELECT at_us, project, per, limit_nanos, timezone, action, warn_at, floor_tokens, wait_ms"
        " FROM budget_changes ORDER BY id"
    ):
        budget = None if terms[0] is None else read_budget(project, per, *terms)
        found.setdefault((project, per), []).append((at_us, budget))
    return found


def _as_set(key: _Key, history: _History, window: Window, at_us: int) -> Budget | None:
    """As it was last set before the window's end, under the name of the child that it stands for."""
    end_us = min(bounds(window)[1], at_us + 1)
    found = next((budget for when, budget in reversed(history) if budget is not None and when < end_us), None)
    return None if found is None else Budget(key[0], *_rest(found))


def _rest(budget: Budget) -> tuple[str, int, str, str, tuple[int, ...], int, int]:
    return (
        budget.per, budget.limit_nanos, budget.timezone, budget.action, budget.warn_at, budget.floor_tokens,
        budget.wait_ms,
    )  # fmt: skip


def _generate(
    windows: dict[Window, tuple[int, int] | None], budget: Budget, span: Window, at_us: int, history: _History
) -> None:
    """Add the windows in which nothing happened since the budget is there."""
    if budget.per == "task" or is_default(budget.project) or not history:
        return
    if budget.per == "total":
        windows.setdefault(ALL_TIME, None)
        return
    since_us = 0
    for when, what in reversed(history):
        if what is None:
            break
        since_us = when
    start_us = max(since_us, span.start_us)
    for _ in range(GENERATED_MAX):
        if start_us >= min(bounds(span)[1], at_us + 1):
            return
        window = window_at(budget.per, budget.timezone, start_us)
        end_us = bounds(window)[1]
        if not any(other.start_us < end_us and bounds(other)[1] > window.start_us for other in windows):
            windows[window] = 0, 0
        start_us = end_us


def _was_there(history: _History, span: Window) -> bool:
    """True if a budget was set at any time of the span, and if it is not known when it was."""
    start_us, end_us = bounds(span)
    until_us = [when for when, _ in history[1:]] + [end_us]
    return not history or any(
        budget is not None and when < end_us and until > start_us
        for (when, budget), until in zip(history, until_us, strict=True)
    )


def _belongs(window: Window, span: Window) -> bool:
    """True if the middle of the shorter one is in the other: a month in another zone is the same month."""
    start_us, end_us = bounds(window)
    middle_us = (span.start_us + bounds(span)[1]) // 2
    return start_us <= middle_us < end_us or span.start_us <= (start_us + end_us) // 2 < bounds(span)[1]
