"""What was spent in a period: the rows that every report groups, from the roll-ups and the journal beyond them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from costguard.budgets import day_of, window_at
from costguard.errors import ConfigurationError
from costguard.ledger.accounting.rolling import NO_SUMS, NO_TAGS, SLOT_US, Leaf, Sums, add, gather, gather_times, rolled
from costguard.ledger.accounting.sql import FOREVER_US, covered
from costguard.ledger.engine import Tx
from costguard.ledger.records import UsageRow
from costguard.projects import covers

TOKEN_COMPONENTS = ("prompt", "cache", "completion", "unitemized")
"""Components whose quantity counts tokens; the others count uses, or nothing."""

GROUPS = ("project", "model", "task_type", "day", "modality", "basis")
"""What usage can be grouped by; `modality` gives two keys, component and modality."""

_SUMS = "sum(r.lead_tasks), sum(r.tasks), sum(r.results), sum(r.quantity), sum(r.nanos), sum(r.reasoning)"
_ALL_SUMS = f"{_SUMS}, sum(r.priced), sum(r.computed)"
_LEAF = "l.project, l.model, l.task_type, l.component, l.modality, l.basis"


class Span(NamedTuple):
    """A period of `timezone`: its instants [start_us, end_us), and if it is whole days these, [first, end) in ISO."""

    timezone: str
    start_us: int
    end_us: int
    days: tuple[str, str] | None = None


class Spent(NamedTuple):
    """Sums of one leaf. `day` (ISO) is "" unless days were asked for, `tags` (JSON) unless tags were."""

    day: str
    tags: str
    leaf: Leaf
    sums: Sums

    @property
    def tokens(self) -> int:
        """The quantity, if it counts tokens."""
        return self.sums[3] if self.leaf.component in TOKEN_COMPONENTS else 0


def spent(
    tx: Tx,
    zone: str,
    span: Span,
    *,
    project: str | None = None,
    tags: Mapping[str, str] | None = None,
    by_day: bool = False,
    by_tags: bool = False,
) -> list[Spent]:
    """What was admitted in `span` came to, by leaf, and by day and tags if that is asked for.

    `zone` is the ledger's own. `tags`: of tasks that have all of these. Days of another zone come from roll-ups by
    quarters of an hour; where one of its days begins between two, and where another zone's tags are asked for, from
    the journal itself: as exact, and slower.
    """
    wants_tags = by_tags or bool(tags)
    if span.timezone == zone and span.days is not None:
        found = gather(tx, rolled(tx), FOREVER_US)
        if not wants_tags:
            rows = _rolled_up(tx, "rollups", "day", span.days, project, str, by_day=by_day)
            rows += [Spent(day, "", leaf, sums) for (day, leaf), sums in found.days.items()]
        else:
            rows = _tagged(tx, span.days, project, by_day=by_day, with_others=not tags)
            rows += _with_others(found.days, found.tagged, with_others=not tags)
        rows = [row for row in rows if not row.day or span.days[0] <= row.day < span.days[1]]
    elif wants_tags or any(cut % SLOT_US for cut in _cuts(span)):
        charged = gather_times(tx, span.start_us, span.end_us, span.timezone)
        rows = [Spent(day, told, leaf, sums) for (day, told, leaf), sums in charged.items()]
    else:
        first, end = span.start_us // SLOT_US, span.end_us // SLOT_US
        days: dict[int, str] = {}

        def day_at(slot: int) -> str:
            found = days.get(slot)
            return found if found is not None else days.setdefault(slot, day_of(span.timezone, slot * SLOT_US))

        rows = _rolled_up(tx, "slots", "slot", (first, end), project, day_at, by_day=by_day)
        beyond = gather(tx, rolled(tx), FOREVER_US).slots
        rows += [Spent(day_at(slot), "", leaf, sums) for (slot, leaf), sums in beyond.items() if first <= slot < end]
    wanted = tags.items() if tags else ()
    together: dict[tuple[str, str, Leaf], Sums] = {}
    for day, told, leaf, sums in rows:
        if project is not None and not covers(project, leaf.project):
            continue
        if wanted and not wanted <= json.loads(told or NO_TAGS).items():
            continue
        key = (day if by_day else "", told if by_tags else "", leaf)
        known = together.get(key)
        if known is None:
            together[key] = list(sums)
        else:
            add(known, sums)
    return [Spent(*key, sums) for key, sums in together.items()]


def _rolled_up(
    tx: Tx,
    table: str,
    column: str,
    period: tuple[object, object],
    project: str | None,
    day: Callable[[Any], str],
    *,
    by_day: bool,
) -> list[Spent]:
    condition, parameters = covered(project, "l.project") if project is not None else ("1=1", ())
    when, grouped = (f"r.{column}", f"r.{column}, r.leaf_id") if by_day else ("''", "r.leaf_id")
    rows = tx.all(
        f"SELECT {when}, {_LEAF}, {_ALL_SUMS} FROM {table} r JOIN leaves l ON l.id = r.leaf_id"
        f" WHERE r.{column} >= ? AND r.{column} < ? AND {condition} GROUP BY {grouped}, {_LEAF}",
        (*period, *parameters),
    )
    return [Spent(day(row[0]) if by_day else "", "", Leaf(*row[1:7]), list(row[7:])) for row in rows]


def _tagged(tx: Tx, days: tuple[str, str], project: str | None, *, by_day: bool, with_others: bool) -> list[Spent]:
    """By tags, from the daily roll-ups; `with_others`: with what has none, which is all less what has."""
    condition, parameters = covered(project, "l.project") if project is not None else ("1=1", ())
    when, grouped = ("r.day", "r.day, ") if by_day else ("''", "")
    rows = tx.all(
        f"SELECT {when}, t.tags, {_LEAF}, {_ALL_SUMS} FROM tagged r JOIN leaves l ON l.id = r.leaf_id"
        " JOIN tagsets t ON t.id = r.tags_id"
        f" WHERE r.day >= ? AND r.day < ? AND {condition} GROUP BY {grouped}t.tags, r.leaf_id, {_LEAF}",
        (*days, *parameters),
    )
    found = [Spent(row[0], row[1], Leaf(*row[2:8]), list(row[8:])) for row in rows]
    if with_others:
        found += _rolled_up(tx, "rollups", "day", days, project, str, by_day=by_day)
        found += [Spent(row.day, "", row.leaf, [-value for value in row.sums]) for row in found if row.tags]
    return found


def _with_others(
    days: Mapping[tuple[str, Leaf], Sums], tagged: Mapping[tuple[str, str, Leaf], Sums], *, with_others: bool
) -> Iterator[Spent]:
    for (day, tags, leaf), sums in tagged.items():
        yield Spent(day, tags, leaf, sums)
        if with_others:
            yield Spent(day, "", leaf, [-value for value in sums])
    for (day, leaf), sums in days.items() if with_others else ():
        yield Spent(day, "", leaf, sums)


def _cuts(span: Span) -> Iterator[int]:
    """Where the days of a span begin, and where it ends."""
    yield from (span.start_us, span.end_us)
    at_us = span.start_us
    while at_us < span.end_us:
        window = window_at("day", span.timezone, at_us)
        yield window.start_us
        at_us = window.end_us or span.end_us


def grouped(rows: Iterable[Spent], by: Sequence[str]) -> list[UsageRow]:
    """Rows added up by the groups of `by`, sorted by their keys."""
    columns = group_columns(by)
    takes = [_TAKE[column] for column in columns]
    which = 1 if "modality" in by else 0
    found: dict[tuple[str, ...], Sums] = {}
    for row in rows:
        key = tuple([take(row) for take in takes])
        sums = found.get(key)
        if sums is None:
            sums = found[key] = [*NO_SUMS, 0]
        add(sums, (*row.sums, row.tokens))
    return [
        UsageRow(key, sums[which], sums[8], sums[4], sums[5], sums[6], sums[7])
        for key, sums in sorted(found.items())
        if any(sums)
    ]


_TAKE: dict[str, Callable[[Spent], str]] = {
    "day": lambda row: row.day,
    "project": lambda row: row.leaf.project,
    "model": lambda row: row.leaf.model,
    "task_type": lambda row: row.leaf.task_type,
    "component": lambda row: row.leaf.component,
    "modality": lambda row: row.leaf.modality,
    "basis": lambda row: row.leaf.basis,
}


def group_columns(by: Sequence[str]) -> list[str]:
    """The columns for the groups of `by`, in their order."""
    columns: list[str] = []
    for group in by:
        if group not in GROUPS:
            raise ConfigurationError(f"by: {group!r} is not one of {', '.join(GROUPS)}")
        columns += ["component", "modality"] if group == "modality" else [group]
    return list(dict.fromkeys(columns))
