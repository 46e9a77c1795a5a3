"""Recompute every promise of the ledger from its rows and name the first difference."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from costguard.budgets import Window, window_at
from costguard.ledger import Tx, Verification
from costguard.ledger.reading import covered
from costguard.money import to_text
from costguard.projects import ancestors


def verify(tx: Tx) -> Verification:
    """Check all promises on the snapshot of `tx`; stops at the first that does not hold."""
    checked: dict[str, int] = {}
    for name, check in _CHECKS:
        count = 0
        for difference in check(tx):
            if difference is not None:
                checked[name] = count
                return Verification(f"{name}: {difference}", checked)
            count += 1
        checked[name] = count
    return Verification(None, checked)


Findings = Iterator[str | None]
"""One item per row looked at: None if it agrees, else what differs."""


def _journal(tx: Tx) -> Findings:
    """An attempt's held and charged money is the sum of its journal entries."""
    for attempt_id, held, charged, held_sum, spent_sum, status in tx.each(
        "SELECT a.id, a.held, a.charged, coalesce(sum(e.held), 0), coalesce(sum(e.spent), 0), a.status"
        " FROM attempts a LEFT JOIN entries e ON e.attempt_id = a.id GROUP BY a.id, a.held, a.charged, a.status"
    ):
        if (held, charged) != (held_sum, spent_sum):
            yield (
                f"attempt {attempt_id} shows held {to_text(held)}, charged {to_text(charged)};"
                f" its entries sum to {to_text(held_sum)}, {to_text(spent_sum)}"
            )
        elif held < 0 or (held and status not in ("held", "unresolved")):
            yield f"attempt {attempt_id} is {status} and holds {to_text(held)}"
        else:
            yield None


def _charges(tx: Tx) -> Findings:
    """A charge is the sum of its lines and agrees with its journal entry."""
    for seq, nanos, lines, spent, attempt_id, entry_attempt in tx.each(
        "SELECT c.seq, c.nanos, (SELECT coalesce(sum(l.nanos), 0) FROM lines l WHERE l.charge_seq = c.seq),"
        " e.spent, c.attempt_id, e.attempt_id FROM charges c LEFT JOIN entries e ON e.seq = c.seq"
    ):
        if nanos != lines:
            yield f"charge {seq} is {to_text(nanos)}, its lines sum to {to_text(lines)}"
        elif nanos != spent or attempt_id != entry_attempt:
            yield f"charge {seq} does not agree with its journal entry"
        else:
            yield None
    for (seq,) in tx.each(
        "SELECT e.seq FROM entries e LEFT JOIN charges c ON c.seq = e.seq WHERE e.spent <> 0 AND c.seq IS NULL"
    ):
        yield f"journal entry {seq} spends money without a charge"
    for (seq,) in tx.each(
        "SELECT l.charge_seq FROM lines l LEFT JOIN charges c ON c.seq = l.charge_seq WHERE c.seq IS NULL"
    ):
        yield f"lines name a charge {seq} that is not there"


def _rollups(tx: Tx) -> Findings:
    """Roll-ups equal the sum of their lines, and count each task once."""
    key = "a.day, a.project, a.model, coalesce(l.component, 'unitemized'), coalesce(l.modality, '')"
    leaves = {
        tuple(row[:5]): tuple(row[5:])
        for row in tx.each(
            f"SELECT {key}, count(DISTINCT a.task_uuid), sum(c.results),"
            " coalesce(sum(l.quantity), 0), coalesce(sum(l.nanos), 0)"
            " FROM charges c JOIN attempts a ON a.id = c.attempt_id LEFT JOIN lines l ON l.charge_seq = c.seq"
            f" GROUP BY {key}"
        )
    }
    for row in tx.each("SELECT day, project, model, component, modality, tasks, results, quantity, nanos FROM rollups"):
        found, expected = tuple(row[5:]), leaves.pop(tuple(row[:5]), (0, 0, 0, 0))
        yield None if found == expected else f"roll-up {row[:5]} has {found}, its lines give {expected}"
    for missing in leaves:
        yield f"roll-up {missing} is missing"
    tasks = {
        tuple(row[:3]): row[3]
        for row in tx.each(
            "SELECT a.day, a.project, a.model, count(DISTINCT a.task_uuid) FROM charges c"
            " JOIN attempts a ON a.id = c.attempt_id GROUP BY a.day, a.project, a.model"
        )
    }
    for row in tx.each("SELECT day, project, model, sum(lead_tasks) FROM rollups GROUP BY day, project, model"):
        expected_tasks = tasks.get(tuple(row[:3]), 0)
        yield (
            None
            if row[3] == expected_tasks
            else f"roll-ups of {row[:3]} count {row[3]} tasks, the charges {expected_tasks}"
        )


def _balances(tx: Tx) -> Findings:
    """For every window: spent is the sum of charges, held the sum of open holds admitted in it."""
    for project, per, timezone, window_us, spent, held in tx.each(
        "SELECT b.project, b.per, b.timezone, w.window_us, w.spent, w.held"
        " FROM balances w JOIN budgets b ON b.id = w.budget_id"
    ):
        window = window_at(per, timezone, window_us)
        condition, parameters = covered(project)
        until = "" if window.end_us is None else " AND at_us < ?"
        row = tx.one(
            "SELECT coalesce(sum(charged), 0), coalesce(sum(held), 0) FROM attempts"
            f" WHERE {condition} AND at_us >= ?{until}",
            (*parameters, window_us, *(() if window.end_us is None else (window.end_us,))),
        ) or (0, 0)
        if (spent, held) == (row[0], row[1]):
            yield None
        else:
            yield (
                f"budget {project} per {per}, window {Window(window_us, window.end_us).start:%Y-%m-%d}: spent"
                f" {to_text(spent)}, held {to_text(held)}; its tasks sum to {to_text(row[0])}, {to_text(row[1])}"
            )


def _admissions(tx: Tx) -> Findings:
    """Replay the journal: each admission saw the true balance, and a hard budget was never passed."""
    windows: dict[str, set[tuple[int, int | None]]] = defaultdict(set)
    for project, start, end in tx.each(
        "SELECT DISTINCT project, window_us, window_end_us FROM holds WHERE per <> 'task'"
    ):
        windows[project].add((start, end))
    balance: dict[tuple[str, int, int | None], list[int]] = defaultdict(lambda: [0, 0])
    for attempt_id, kind, held, spent, project, at_us in tx.each(
        "SELECT e.attempt_id, e.kind, e.held, e.spent, a.project, a.at_us"
        " FROM entries e JOIN attempts a ON a.id = e.attempt_id ORDER BY e.seq"
    ):
        if kind == "hold":
            for budget, per, start, end, limit, seen_spent, seen_held, hard in tx.all(
                "SELECT project, per, window_us, window_end_us, limit_nanos, spent, held, hard"
                " FROM holds WHERE attempt_id = ?",
                (attempt_id,),
            ):
                true = balance[budget, start, end] if per != "task" else [0, 0]
                where = f"attempt {attempt_id} under {budget} per {per}"
                if [seen_spent, seen_held] != true:
                    yield f"{where} saw spent {seen_spent}, held {seen_held}; the journal says {true}"
                elif hard and seen_spent + seen_held + held > limit:
                    yield f"{where} was admitted over the limit: {seen_spent} + {seen_held} + {held} > {limit}"
                else:
                    yield None
        for ancestor in ancestors(project):
            for start, end in windows.get(ancestor, ()):
                if start <= at_us and (end is None or at_us < end):
                    true = balance[ancestor, start, end]
                    true[0] += spent
                    true[1] += held


_CHECKS: tuple[tuple[str, Callable[[Tx], Findings]], ...] = (
    ("journal", _journal),
    ("charges", _charges),
    ("roll-ups", _rollups),
    ("balances", _balances),
    ("admissions", _admissions),
)
