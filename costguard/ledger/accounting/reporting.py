"""All that a report says of a period, read as one snapshot of the ledger."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from costguard.budgets import Budget, Window, day_of
from costguard.ledger.accounting.applied import BudgetWindow, windows_in
from costguard.ledger.accounting.naming import Names, booked, meant
from costguard.ledger.accounting.reading import Reading
from costguard.ledger.accounting.rolling import NO_TAGS, Leaf
from costguard.ledger.accounting.spending import (
    EVERYTHING,
    Known,
    Scope,
    Span,
    Spent,
    group_columns,
    grouped,
    parts_of,
    spent,
)
from costguard.ledger.accounting.sql import OF_TASK, charged_and_held, of_task
from costguard.ledger.engine import Tx
from costguard.ledger.records import UsageRow
from costguard.projects import ROOT, ancestors, covers

TAGGED_MAX = 100_000
"""Rows of roll-ups by tags that a report looks at unasked: a tenth of a second."""

TOP_MORE = 100
"""So many more tasks are added up than are shown: one that was sent often comes to more than one attempt."""

_LEAF = set(Leaf._fields)


class Asked(NamedTuple):
    """What is asked of a report. Spans are whole days of one zone."""

    span: Span
    by: Sequence[str] = ("project",)
    """The groups of its rows, see `spending.group_columns`."""
    project: str | None = None
    """Only what is called so now, or lies below it."""
    tags: Mapping[str, str] = {}
    """Only tasks that have all of these."""
    before: Span | None = None
    """The period before."""
    before_same: Span | None = None
    """As much of it as has passed of this one."""
    days: Span | None = None
    """Whose days are wanted one by one; default: those of `span`."""
    top: int = 0
    """So many tasks that were charged most."""
    all_tags: bool = False
    """Whether `tagged` is wanted."""


class RefusedSum(NamedTuple):
    """Tasks that were refused, by what and why; nano-USD that were expected, and the worst case (None where unknown).

    The sums are of the tasks whose figure is known; `unpriced` is how many have no known worst case.
    """

    project: str
    model: str
    task_type: str
    budget: str
    per: str
    reason: str
    tasks: int
    expected: int | None
    upper: int | None
    unpriced: int


class OpenSum(NamedTuple):
    """Tasks of which something is open still, how many of these are unresolved, and nano-USD held for each."""

    tasks: int
    held: int
    unresolved_tasks: int
    unresolved_held: int


class TopTask(NamedTuple):
    """A task with what it was charged in the period, in nano-USD."""

    task_uuid: str
    project: str
    model: str
    task_type: str
    tags: str
    at_us: int
    attempts: int
    nanos: int


class Reported(NamedTuple):
    """What one snapshot says. Projects go by their present names."""

    project: str | None
    """What was asked for, as it is called now."""
    began_us: int | None
    """When the first attempt was admitted; None in an empty ledger."""
    has_refused: bool
    """Whether anything was ever refused, of any project."""
    is_known: bool
    """Whether anything at all is booked on the project that was asked for, or a budget is of it alone."""
    leaves: list[Spent]
    tagged: list[Spent]
    """By tags; nothing if that would take long, see `TAGGED_MAX`."""
    left_tags: bool
    """Whether there are tags in the ledger, and `tagged` was not read."""
    rows: list[UsageRow]
    days: dict[str, tuple[int, int]]
    """Nano-USD and tasks of each day that has any."""
    before: list[UsageRow] | None
    """By project, of the period before; None if it was not asked for."""
    before_same: int | None
    budgets: list[BudgetWindow]
    """Of the whole of a project: none where tags were asked for."""
    refused: list[RefusedSum]
    open: OpenSum
    top: list[TopTask]


class Reporting(Reading):
    """The part of `Ledger` that reports a period."""

    def report(self, asked: Asked, at_us: int) -> Reported:
        """What `asked` is answered with at `at_us`. ConfigurationError names a group that there is not."""
        group_columns(asked.by)
        return self._read(lambda tx: self._report(tx, asked, at_us))

    def _report(self, tx: Tx, asked: Asked, at_us: int) -> Reported:
        spans = [span for span in (asked.span, asked.before, asked.before_same, asked.days) if span is not None]
        first = min(spans, key=lambda span: span.start_us)
        last = max(spans, key=lambda span: span.end_us)
        days = (first.days[0], last.days[1]) if first.days and last.days else None
        known = Known(tx, Span(asked.span.timezone, first.start_us, last.end_us, days))
        names = Names.read(tx)
        project = None if asked.project is None else meant(tx, names, asked.project)
        scope = EVERYTHING if project is None else self._scope(tx, names, project)

        def read(span: Span, by: Collection[str]) -> list[Spent]:
            found = spent(tx, self.timezone, span, by, scope=scope, tags=asked.tags, known=known)
            return [row._replace(leaf=row.leaf._replace(project=names.present(row.leaf.project))) for row in found]

        leaves = read(asked.span, _LEAF)
        reads_tags = asked.all_tags and self._has_few_tags(tx, asked.span)
        tagged = read(asked.span, {"tags"}) if reads_tags else []
        parts = parts_of(asked.by)
        rows = leaves if parts <= _LEAF else tagged if tagged and parts == {"tags"} else read(asked.span, parts)
        by_day = grouped(read(asked.days or asked.span, {"day"}), ("day",))
        before = asked.before and grouped(read(asked.before, {"project"}), ("project",))
        same = asked.before_same and sum(row.sums[4] for row in read(asked.before_same, ()))
        (began_us,) = tx.one("SELECT min(at_us) FROM attempts") or (None,)
        budgets = [] if asked.tags else self._budgets(tx, asked.span, at_us, names, (project, scope), known)
        return Reported(
            project=project,
            began_us=began_us,
            has_refused=tx.one("SELECT 1 FROM refusals LIMIT 1") is not None,
            is_known=project is None or bool(leaves) or self._is_known(tx, scope, known, names, project),
            leaves=leaves,
            tagged=tagged,
            left_tags=not reads_tags and tx.one("SELECT 1 FROM tagsets LIMIT 1") is not None,
            rows=grouped(rows, asked.by),
            days={row.keys[0]: (row.nanos, row.tasks) for row in by_day},
            before=before,
            before_same=same,
            budgets=budgets,
            refused=[] if asked.tags else self._refused(tx, asked.span, scope, names),
            open=self._open_sum(tx, asked, scope),
            top=self._top(tx, asked, scope, names) if asked.top else [],
        )

    def _has_few_tags(self, tx: Tx, span: Span) -> bool:
        """Whether tags are read from roll-ups, and few of these."""
        if span.timezone != self.timezone or span.days is None:
            return False
        rows = "SELECT 1 FROM tagged WHERE day >= ? AND day < ? LIMIT ?"
        (count,) = tx.one(f"SELECT count(*) FROM ({rows}) r", (*span.days, TAGGED_MAX + 1)) or (0,)
        return int(count) <= TAGGED_MAX

    @staticmethod
    def _scope(tx: Tx, names: Names, project: str) -> Scope:
        """The projects that are called `project` now, or lie below it."""
        if not names.has_moved:
            return Scope(project)
        return Scope(names=frozenset(path for path in booked(tx) if covers(project, names.present(path))))

    @staticmethod
    def _is_known(tx: Tx, scope: Scope, known: Known, names: Names, project: str) -> bool:
        if any(leaf.project in scope for _, leaf in known.beyond.days):
            return True
        if any(covers(project, names.present(name)) for (name,) in tx.each("SELECT project FROM budgets")):
            return True
        below, projects = scope.condition("project")
        return any(
            tx.one(f"SELECT 1 FROM {table} WHERE {below} LIMIT 1", projects)
            for table in ("leaves", "refusals", "attempts")
        )

    def _budgets(
        self, tx: Tx, span: Span, at_us: int, names: Names, asked: tuple[str | None, Scope], known: Known
    ) -> list[BudgetWindow]:
        """Budgets of the path and below, with the windows that belong to the span."""
        project, scope = asked

        def is_meant(budget: Budget) -> bool:
            name = names.present(budget.project)
            return project is None or covers(project, name) or name in ancestors(project)

        def sums(budget: Budget, window: Window) -> tuple[int, int]:
            if window.end_us is None:
                return charged_and_held(tx, budget.project, window)
            days = day_of(budget.timezone, window.start_us), day_of(budget.timezone, window.end_us)
            whole = Span(budget.timezone, window.start_us, window.end_us, days)
            found = spent(tx, self.timezone, whole, (), scope=Scope(budget.project), known=known)
            held = sum(attempt.held for attempt in self._open(tx, budget.project, window))
            return sum(row.sums[4] for row in found), held

        found = windows_in(tx, Window(span.start_us, span.end_us), at_us, is_meant, sums)
        return [
            one._replace(name=names.present(one.budget.project), is_of_all=scope.lies_in(one.budget.project))
            for one in found
        ]

    def _refused(self, tx: Tx, span: Span, scope: Scope, names: Names) -> list[RefusedSum]:
        """Of the days of the ledger's own zone, whatever zone is asked for."""
        first, end = span.days or (day_of(self.timezone, span.start_us), day_of(self.timezone, span.end_us))
        below, projects = scope.condition("project")
        rows = tx.all(
            "SELECT project, model, task_type, budget, per, reason, sum(tasks), nullif(sum(expected), 0),"
            " nullif(sum(upper), 0), sum(unpriced)"
            f" FROM refusals WHERE day >= ? AND day < ? AND {below}"
            " GROUP BY project, model, task_type, budget, per, reason ORDER BY 1, 2, 3, 4, 5, 6",
            (first, end, *projects),
        )
        return [
            RefusedSum._make(row)._replace(project=names.present(row[0]), budget=names.present(row[3])) for row in rows
        ]

    def _open_sum(self, tx: Tx, asked: Asked, scope: Scope) -> OpenSum:
        found = [
            attempt
            for attempt in self._open(tx, ROOT, Window(asked.span.start_us, asked.span.end_us))
            if attempt.project in scope and asked.tags.items() <= json.loads(attempt.tags or NO_TAGS).items()
        ]
        unresolved = [attempt for attempt in found if attempt.status == "unresolved"]
        return OpenSum(
            len({attempt.task_uuid for attempt in found}),
            sum(attempt.held for attempt in found),
            len({attempt.task_uuid for attempt in unresolved}),
            sum(attempt.held for attempt in unresolved),
        )

    @staticmethod
    def _top(tx: Tx, asked: Asked, scope: Scope, names: Names) -> list[TopTask]:
        """The tasks that were charged most, found by their most expensive attempts: every attempt is looked at."""
        below, projects = scope.condition("project")
        times = (asked.span.start_us, asked.span.end_us)
        # Not by the index of times, which would fetch them one by one.
        rows = tx.each(
            "SELECT task_uuid, project, model, task_type, tags FROM attempts WHERE +at_us >= ? AND +at_us < ?"
            f" AND {below} AND charged <> 0 ORDER BY charged DESC, id",
            (*times, *projects),
        )
        found: dict[tuple[str, str], TopTask] = {}
        for uuid, project, *told in rows:
            if (uuid, project) in found or not asked.tags.items() <= json.loads(told[2] or NO_TAGS).items():
                continue
            sums = tx.all(
                f"SELECT min(at_us), count(*), sum(charged) FROM attempts WHERE {OF_TASK} AND project = ?"
                " AND at_us >= ? AND at_us < ?",
                (*of_task(uuid), project, *times),
            )
            found[uuid, project] = TopTask(uuid, names.present(project), *told, *sums[0])
            if len(found) == asked.top + TOP_MORE:
                break
        return sorted(found.values(), key=lambda one: (-one.nanos, one.at_us, one.task_uuid))[: asked.top]
