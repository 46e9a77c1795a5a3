"""What happened beside the calls: alerts, changes of limits, corrections, imports and names, as one time line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import NamedTuple

from costguard.budgets import Budget
from costguard.ledger.accounting.admission import EXCEEDED
from costguard.ledger.accounting.importing import IMPORT_ROW, ImportRow
from costguard.ledger.accounting.naming import Names
from costguard.ledger.accounting.setting import Setting
from costguard.ledger.accounting.sql import FOREVER_US
from costguard.ledger.engine import Tx
from costguard.projects import covers

KINDS = ("alert", "budget", "ceiling", "correction", "import", "project")
"""What an event may be of."""


class Event(NamedTuple):
    """Something that happened at a time, UTC microseconds; amounts in nano-USD, None where there is none.

    `what` is one of `KINDS`, `change` what became of it, `who` did it, None for the program itself and where it was
    not kept. `project` is what it is called now, None of a ceiling. `about`: a budget's period, a ceiling's name, a
    task, a file, or a project's new name. `amount`: what was set, spent, corrected or imported; `before`: what was set
    until then; `limit`: of an alert.
    """

    at_us: int
    what: str
    change: str
    who: str | None
    project: str | None
    about: str
    amount: int | None = None
    before: int | None = None
    limit: int | None = None
    budget: Budget | None = None
    """As it was set."""
    imported: ImportRow | None = None
    reason: str | None = None


class History(Setting):
    """The part of `Ledger` that tells what happened beside the calls."""

    def imports(self) -> list[ImportRow]:
        """Every import, oldest first."""
        return self._read(
            lambda tx: [ImportRow(*row) for row in tx.all(f"SELECT {IMPORT_ROW} FROM imports ORDER BY id")]
        )

    def events(
        self,
        since_us: int = 0,
        until_us: int = FOREVER_US,
        *,
        project: str | None = None,
        what: tuple[str, ...] = KINDS,
    ) -> list[Event]:
        """What happened in [since_us, until_us), oldest first, all of one snapshot.

        `project`: of what was booked or set on it, or is called so now, and of all below it.
        """
        readers: dict[str, Callable[[Tx], Iterator[Event]]] = {
            "alert": _alerts,
            "budget": lambda tx: self._limits(tx, of_budgets=True),
            "ceiling": lambda tx: self._limits(tx, of_budgets=False),
            "correction": lambda tx: _corrections(tx, since_us, until_us),
            "import": _imports,
            "project": self._named,
        }

        def op(tx: Tx) -> list[Event]:
            names = Names.read(tx)
            found = [
                _shown(event, names)
                for kind in KINDS
                for event in (readers[kind](tx) if kind in what else ())
                if since_us <= event.at_us < until_us and _is_of(event, project, names)
            ]
            return sorted(found, key=lambda event: event.at_us)

        return self._read(op)

    def _limits(self, tx: Tx, *, of_budgets: bool) -> Iterator[Event]:
        """What budgets and ceilings were set to, each with what it was until then."""
        last: dict[tuple[str, str], int | None] = {}
        for change in self._changes(tx):
            done = "removed" if change.change == "remove" else "set"
            key = (change.project or "", change.per or "") if change.ceiling is None else ("", change.ceiling)
            amount = change.budget.limit_nanos if change.budget else change.nanos
            before, last[key] = last.get(key), amount
            if (change.ceiling is None) is not of_budgets:
                continue
            yield Event(
                change.at_us, "budget" if of_budgets else "ceiling", done, change.who, change.project, key[1], amount,
                before, budget=change.budget,
            )  # fmt: skip

    def _named(self, tx: Tx) -> Iterator[Event]:
        for move in self._moves(tx):
            yield Event(move.at_us, "project", "renamed", move.who, move.project, move.name)


def _shown(event: Event, names: Names) -> Event:
    """With the present name of what it was booked on; a budget is on the path that it was set on."""
    is_booked = event.project is not None and event.what in ("correction", "import")
    return event._replace(project=names.present(event.project or "")) if is_booked else event


def _is_of(event: Event, project: str | None, names: Names) -> bool:
    if project is None:
        return True
    if event.project is None:
        return False
    called = [event.project, names.present(event.project), *([event.about] if event.what == "project" else [])]
    return any(covers(project, one) for one in called)


def _alerts(tx: Tx) -> Iterator[Event]:
    for at_us, project, per, threshold, limit, spent in tx.each(
        "SELECT at_us, project, per, threshold, limit_nanos, spent FROM fired ORDER BY id"
    ):
        change = "refused" if threshold == EXCEEDED else f"{threshold} %"
        yield Event(at_us, "alert", change, None, project, per, spent, limit=limit)


def _corrections(tx: Tx, since_us: int, until_us: int) -> Iterator[Event]:
    """What was booked by an operator's word, and taken back when the provider's own figure came."""
    for at_us, kind, nanos, reason, notes, task_uuid, project in tx.each(
        "SELECT e.at_us, e.kind, e.spent, e.reason, e.notes, a.task_uuid, a.project FROM entries e"
        " JOIN attempts a ON a.id = e.attempt_id"
        " WHERE e.basis = 'correction' AND e.at_us >= ? AND e.at_us < ? ORDER BY e.at_us, e.seq",
        (since_us, until_us),
    ):
        said = json.loads(notes) if notes else []
        change = "released" if kind == "release" else "charged" if nanos >= 0 else "taken back"
        amount = None if kind == "release" else nanos
        yield Event(at_us, "correction", change, said[0] if said else None, project, task_uuid, amount, reason=reason)


def _imports(tx: Tx) -> Iterator[Event]:
    for row in map(ImportRow._make, tx.each(f"SELECT {IMPORT_ROW} FROM imports ORDER BY id")):
        yield Event(
            row.at_us, "import", "imported", row.who, row.project, row.file, row.nanos, imported=row,
            reason=f"import {row.id}",
        )  # fmt: skip
