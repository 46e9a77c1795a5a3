"""What was spent in a period: the rows that every report groups, from the roll-ups and the journal beyond them."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from costguard.budgets import day_of, window_at
from costguard.errors import ConfigurationError
from costguard.ledger.accounting.rolling import (
    NO_TAGS,
    SLOT_US,
    Gathered,
    Leaf,
    Sums,
    add,
    beyond,
    gather_times,
)
from costguard.ledger.accounting.sql import covered, marks
from costguard.ledger.engine import Tx
from costguard.ledger.records import UsageRow
from costguard.projects import ROOT, covers

TOKEN_COMPONENTS = ("prompt", "cache", "completion", "unitemized")
"""Components whose quantity counts tokens; the others count uses, or nothing."""

GROUPS = ("project", "model", "task_type", "day", "week", "month", "modality", "component", "basis")
"""What usage can be grouped by, beside `tag:NAME`; `modality` gives two keys, component and modality."""

TAG = "tag:"
"""How the group by a tag begins: `tag:user`."""

_WHEN = ("day", "week", "month")
_LEAF = Leaf._fields
_SUM_NAMES = ("lead_tasks", "tasks", "results", "quantity", "nanos", "reasoning", "priced", "computed")
_DAYS = "(SELECT * FROM rollups WHERE day >= ? AND day < ?)"
_TOKENS = f"CASE WHEN l.component IN ({','.join(map(repr, TOKEN_COMPONENTS))}) THEN r.quantity ELSE 0 END"
_SUMS = f"{', '.join(f'sum(r.{name})' for name in _SUM_NAMES)}, sum({_TOKENS})"


class Span(NamedTuple):
    """A period of `timezone`: its instants [start_us, end_us), and if it is whole days these, [first, end) in ISO."""

    timezone: str
    start_us: int
    end_us: int
    days: tuple[str, str] | None = None

    def contains(self, other: Span) -> bool:
        """Whether `other` is days of this one, or the same."""
        inside = self.start_us <= other.start_us and other.end_us <= self.end_us
        return self == other or (self.timezone == other.timezone and inside and other.days is not None)


class Scope(NamedTuple):
    """The projects that are looked at, as they are booked: those at or below `project`, or with one of `names`."""

    project: str = ROOT
    names: frozenset[str] | None = None

    def __contains__(self, project: object) -> bool:
        if self.names is not None:
            return project in self.names
        return isinstance(project, str) and covers(self.project, project)

    def lies_in(self, project: str) -> bool:
        """Whether all that is looked at is booked on a project or below it."""
        if self.names is None:
            return covers(project, self.project)
        return bool(self.names) and all(covers(project, name) for name in self.names)

    def condition(self, column: str) -> tuple[str, tuple[str, ...]]:
        """As SQL, with its parameters."""
        if self.names is None:
            return covered(self.project, column)
        return f"{column} IN ({marks(len(self.names)) or 'NULL'})", tuple(sorted(self.names))


EVERYTHING = Scope()


class Known:
    """What several readings of one snapshot share: the journal beyond the roll-ups, and of `hull` if it must be whole.

    `hull` contains their spans, which are whole days of its zone.
    """

    def __init__(self, tx: Tx, hull: Span) -> None:
        self._tx = tx
        self.hull = hull

    @functools.cached_property
    def beyond(self) -> Gathered:
        """What the journal has beyond the roll-ups."""
        return beyond(self._tx)

    @functools.cached_property
    def journal(self) -> list[Spent]:
        """All that was charged for what was admitted in `hull`."""
        charged = gather_times(self._tx, self.hull.start_us, self.hull.end_us, self.hull.timezone)
        return [_whole(*key, sums) for key, sums in charged.items()]


class Spent(NamedTuple):
    """Sums of one leaf, and of the tokens among its quantity. What was not asked for is "": `day` (ISO), `tags` (JSON),
    and fields of the leaf.
    """

    day: str
    tags: str
    leaf: Leaf
    sums: Sums


def spent(
    tx: Tx,
    zone: str,
    span: Span,
    by: Collection[str],
    *,
    scope: Scope = EVERYTHING,
    tags: Mapping[str, str] | None = None,
    known: Known | None = None,
) -> list[Spent]:
    """What was admitted in `span` came to, by what `by` names: `day`, `tags`, fields of a leaf.

    `zone` is the ledger's own. `tags`: of tasks that have all of these. `known`: what other readings of this snapshot
    have found. Days of another zone come from roll-ups by quarters of an hour; where one of its days begins between
    two, and where another zone's tags are asked for, from the journal itself: as exact, and slower.
    """
    wants_tags = "tags" in by or bool(tags)
    known = known or Known(tx, span)
    more: Iterable[tuple[str, str, Leaf, Sums]]
    if span.timezone == zone and span.days is not None:
        first, end = span.days
        if not wants_tags:
            rows = _rolled_up(tx, _DAYS, span.days, by, scope)
            more = ((day, "", leaf, sums) for (day, leaf), sums in known.beyond.days.items())
        else:
            rows = _tagged(tx, span.days, by, scope, tags)
            more = _with_others(known.beyond, with_others=not tags)
        rows += [_whole(*one) for one in more if first <= one[0] < end]
    elif wants_tags or any(cut % SLOT_US for cut in _cuts(span)):
        known = known if known.hull.contains(span) else Known(tx, span)
        first, end = span.days or ("", "~")
        rows = [row for row in known.journal if first <= row.day < end]
    else:
        slots = span.start_us // SLOT_US, span.end_us // SLOT_US
        rows = _rolled_up(tx, *_slots(span, by), by, scope)
        for (slot, leaf), sums in known.beyond.slots.items():
            if slots[0] <= slot < slots[1]:
                rows.append(_whole(day_of(span.timezone, slot * SLOT_US), "", leaf, sums))
    return list(_together(rows, by, scope, tags))


def _together(
    rows: Iterable[Spent], by: Collection[str], scope: Scope, tags: Mapping[str, str] | None
) -> Iterator[Spent]:
    """Rows of the scope with these tags, added up by what is asked for."""
    has_tags: dict[str, bool] = {}
    keeps = [field in by for field in _LEAF]
    together: dict[tuple[str, str, Leaf], Sums] = {}
    for day, told, leaf, sums in rows:
        # What the database was asked for has no project any more, unless by project.
        if leaf.project and leaf.project not in scope:
            continue
        if tags:
            has = has_tags.get(told)
            if has is None:
                has = has_tags[told] = tags.items() <= json.loads(told or NO_TAGS).items()
            if not has:
                continue
        kept = Leaf(*[field if keep else "" for field, keep in zip(leaf, keeps, strict=True)])
        key = (day if "day" in by else "", told if "tags" in by else "", kept)
        known = together.get(key)
        if known is None:
            together[key] = list(sums)
        else:
            add(known, sums)
    for key, sums in together.items():
        yield Spent(*key, sums)


def _whole(day: str, tags: str, leaf: Leaf, sums: Sums) -> Spent:
    """A row with the tokens among its quantity."""
    return Spent(day, tags, leaf, [*sums, sums[3] if leaf.component in TOKEN_COMPONENTS else 0])


def _slots(span: Span, by: Collection[str]) -> tuple[str, tuple[object, ...]]:
    """Quarters of an hour of a span, added up by its zone's days if that is asked for: as SQL, with its parameters."""
    sums = ", ".join(f"sum(s.{name}) AS {name}" for name in _SUM_NAMES)
    if "day" not in by:
        slots = (span.start_us // SLOT_US, span.end_us // SLOT_US)
        return f"(SELECT leaf_id, {sums} FROM slots s WHERE slot >= ? AND slot < ? GROUP BY leaf_id)", slots
    days = ",".join(
        f"('{day_of(span.timezone, start)}',{start // SLOT_US},{end // SLOT_US})"
        for start, end in itertools.pairwise(_cuts(span))
    )
    # CROSS JOIN is read in this order: the slots of one day after the other.
    return (
        f"(SELECT d.day, s.leaf_id, {sums} FROM (WITH d(day, first, until) AS (VALUES {days}) SELECT * FROM d) d"
        " CROSS JOIN slots s WHERE s.slot >= d.first AND s.slot < d.until GROUP BY d.day, s.leaf_id)"
    ), ()


def _rolled_up(
    tx: Tx, source: str, parameters: Sequence[object], by: Collection[str], scope: Scope, *, tags: str = "''"
) -> list[Spent]:
    """Sums of the roll-ups `source`, which has its `parameters`, by `tags` if that is a column."""
    condition, projects = scope.condition("l.project")
    day = "r.day" if "day" in by else "''"
    fields = [f"l.{field}" if field in by else "''" for field in _LEAF]
    groups = ",".join(column for column in (day, tags, *fields) if column != "''")
    rows = tx.all(
        f"SELECT {day}, {tags}, {','.join(fields)}, {_SUMS} FROM {source} r JOIN leaves l ON l.id = r.leaf_id"
        f" WHERE {condition}{f' GROUP BY {groups}' if groups else ''}",
        (*parameters, *projects),
    )
    return [Spent(row[0], row[1], Leaf(*row[2:8]), list(row[8:])) for row in rows if row[8] is not None]


def _tagged(
    tx: Tx, days: tuple[str, str], by: Collection[str], scope: Scope, tags: Mapping[str, str] | None
) -> list[Spent]:
    """By tags, from the daily roll-ups; without any that are wanted with what has none: all less what has."""
    told = [_like(name, value) for name, value in tags.items()] if tags else []
    source = "(SELECT t.tags, g.* FROM tagged g JOIN tagsets t ON t.id = g.tags_id WHERE g.day >= ? AND g.day < ?{})"
    wanted = "".join(" AND t.tags LIKE ? ESCAPE '!'" for _ in told)
    found = _rolled_up(tx, source.format(wanted), (*days, *told), by, scope, tags="r.tags")
    if not tags:
        found += [row._replace(tags="", sums=[-value for value in row.sums]) for row in found]
        found += _rolled_up(tx, _DAYS, days, by, scope)
    return found


def _like(name: str, value: str) -> str:
    """A pattern that the JSON of tags with this one fits, and of few without it."""
    text = json.dumps({name: value})[1:-1]
    for character in "!%_":
        text = text.replace(character, f"!{character}")
    return f"%{text}%"


def _with_others(found: Gathered, *, with_others: bool) -> Iterator[tuple[str, str, Leaf, Sums]]:
    for (day, tags, leaf), sums in found.tagged.items():
        yield day, tags, leaf, sums
        if with_others:
            yield day, "", leaf, [-value for value in sums]
    for (day, leaf), sums in found.days.items() if with_others else ():
        yield day, "", leaf, sums


def _cuts(span: Span) -> Iterator[int]:
    """Where a span begins, where each of its further days does, and where it ends."""
    at_us = span.start_us
    while at_us < span.end_us:
        yield at_us
        at_us = window_at("day", span.timezone, at_us).end_us or span.end_us
    yield span.end_us


def grouped(rows: Iterable[Spent], by: Sequence[str]) -> list[UsageRow]:
    """Rows added up by the groups of `by`, sorted by their keys."""
    columns = group_columns(by)
    takes = [_taking(column) for column in columns]
    which = 1 if "component" in columns else 0
    found: dict[tuple[str, ...], Sums] = {}
    for row in rows:
        key = tuple([take(row) for take in takes])
        known = found.get(key)
        if known is None:
            found[key] = list(row.sums)
        else:
            add(known, row.sums)
    return [
        UsageRow(key, sums[which], sums[8], sums[4], sums[5], sums[6], sums[7], sums[2], sums[3])
        for key, sums in sorted(found.items())
        if any(sums)
    ]


def week_of(day: str) -> str:
    """The ISO week of an ISO date, as `2026-W48`."""
    year, week, _ = date.fromisoformat(day).isocalendar()
    return f"{year:04}-W{week:02}"


_TAKE: dict[str, Callable[[Spent], str]] = {
    "day": lambda row: row.day,
    "week": lambda row: week_of(row.day),
    "month": lambda row: row.day[:7],
    **{field: lambda row, field=field: getattr(row.leaf, field) for field in _LEAF},  # type: ignore[misc]
}


def _taking(column: str) -> Callable[[Spent], str]:
    """Takes the key of a column from a row; of a tag that it has not, and of an empty one, ""."""
    if not column.startswith(TAG):
        return _TAKE[column]
    name = column.removeprefix(TAG)
    known: dict[str, str] = {}

    def take(row: Spent) -> str:
        if row.tags not in known:
            known[row.tags] = json.loads(row.tags or NO_TAGS).get(name, "")
        return known[row.tags]

    return take


def group_columns(by: Sequence[str]) -> list[str]:
    """The columns for the groups of `by`, in their order."""
    columns: list[str] = []
    for group in by:
        if group not in GROUPS and not (group.startswith(TAG) and group != TAG):
            raise ConfigurationError(f"by: {group!r} is not one of {', '.join(GROUPS)}, tag:NAME")
        columns += ["component", "modality"] if group == "modality" else [group]
    return list(dict.fromkeys(columns))


def parts_of(by: Sequence[str]) -> set[str]:
    """What `spent` is to tell apart for the groups of `by`."""
    parts: set[Any] = set()
    for column in group_columns(by):
        parts.add("day" if column in _WHEN else "tags" if column.startswith(TAG) else column)
    return parts
