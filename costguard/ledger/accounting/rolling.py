"""Roll-ups: sums of the journal that reports read. They follow it at some distance, and no report is read behind it.

`rolled` of `meta` names the last entry that is in them. Whoever charges adds the next few hundred at once, which costs
a tenth of adding each; whoever reads adds what the journal has beyond it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from costguard.budgets import day_of
from costguard.ledger.accounting.comparing import Estimated, compare
from costguard.ledger.accounting.sql import CHARGES_OF_TASK, FOREVER_US, marks, of_task
from costguard.ledger.charges import Line, read_lines
from costguard.ledger.engine import Tx

ROLL_EVERY = 512
"""Entries that the roll-ups may be behind before the next charge adds them."""

ROLL_MAX = 4 * ROLL_EVERY
"""Entries that are added at once: what a caller may have to wait for."""

SLOT_US = 900 * 1_000_000
"""A quarter of an hour: where the days of every zone in use begin."""

SHARED_TIMES = 8
"""Where many hosts write, roll-ups follow in so much larger steps."""

_NEAR = 4
"""Not each of an attempt's numbers is a charge's."""

T = TypeVar("T")

log = logging.getLogger("costguard")

_ROLLED = "rolled"
_NOTHING_BILLED = Line("unitemized", "", 0, 0)

_ENTRIES = (
    "SELECT c.seq, c.attempt_id, c.kind, c.held, c.spent, c.basis, c.results, c.replaces, c.is_first, c.lines,"
    " c.reasoning_tokens, c.computed_nanos, a.task_uuid, a.project, a.model, a.task_type, a.tags, a.day, a.at_us,"
    " a.results, a.expected, a.upper, a.estimate"
    " FROM {} WHERE c.kind <> 'hold' AND {} ORDER BY c.seq"
)


class Entry(NamedTuple):
    """A charge or release of the journal, with its attempt."""

    seq: int
    attempt_id: int
    kind: str
    held: int
    nanos: int
    basis: str
    results: int
    replaces: int | None
    is_first: int | None
    lines: list[Line]
    reasoning: int | None
    computed: int | None
    task_uuid: str
    project: str
    model: str
    task_type: str
    tags: str
    day: str
    at_us: int
    asked: int
    expected: int | None
    upper: int | None
    estimate: str


def _entry(row: tuple[Any, ...]) -> Entry:
    return Entry._make((*row[:9], read_lines(row[9]), *row[10:]))


class Leaf(NamedTuple):
    """What is added up apart from everything else."""

    project: str
    model: str
    task_type: str
    component: str
    modality: str
    basis: str


Sums = list[int]
"""Of a leaf: tasks charged for the first time, tasks of this component and modality, results, quantity, nano-USD;
reasoning tokens of a completion; and of charges whose price is known, what was charged and that price, in nano-USD."""

NO_SUMS = (0,) * 8
NO_TAGS = "{}"


class Gathered:
    """Sums of some entries of the journal: by day, by slot, and of what was estimated."""

    def __init__(self) -> None:
        self.days: dict[tuple[str, Leaf], Sums] = {}
        self.slots: dict[tuple[int, Leaf], Sums] = {}
        self.tagged: dict[tuple[str, str, Leaf], Sums] = {}
        """Of the tasks that have any tags, by day, tags and leaf."""
        self.estimates: dict[tuple[str, str, str, str], Sums] = {}


def beyond(tx: Tx, *, estimates: bool = False) -> Gathered:
    """What the journal has beyond the roll-ups: with it, no report is behind."""
    return gather(tx, rolled(tx), FOREVER_US, estimates=estimates)


def gather(tx: Tx, after: int, until: int, *, estimates: bool = True) -> Gathered:
    """The sums of the entries in (after, until], by their numbers; `estimates`: with what was estimated."""
    found = Gathered()
    together: dict[tuple[str, int, str, Leaf], Sums] = {}
    of_attempts: dict[int, list[Entry]] = {}
    charged: Charged = {}
    source = "entries c JOIN attempts a ON a.id = c.attempt_id"
    for row in tx.each(_ENTRIES.format(source, "c.seq > ? AND c.seq <= ?"), (after, until)):
        entry = _entry(row)
        if estimates:
            of_attempts.setdefault(entry.attempt_id, []).append(entry)
        if entry.kind == "charge":
            _add_leaves(tx, together, (entry.day, entry.at_us // SLOT_US, entry.tags), entry, charged)
    for (day, slot, tags, leaf), sums in together.items():
        _add(found.days, (day, leaf), sums)
        _add(found.slots, (slot, leaf), sums)
        if tags != NO_TAGS:
            _add(found.tagged, (day, tags, leaf), sums)
    for attempt_id, entries in of_attempts.items():
        if not entries[0].is_first:
            earlier = _ENTRIES.format(source, "c.attempt_id = ? AND c.seq <= ?")
            before = [_entry(row) for row in tx.each(earlier, (attempt_id, after))]
            _add_compared(found.estimates, before, -1)
            entries[:0] = before
        _add_compared(found.estimates, entries, 1)
    return found


def gather_times(tx: Tx, start_us: int, end_us: int, timezone: str) -> dict[tuple[str, str, Leaf], Sums]:
    """What the charges of attempts admitted in [start_us, end_us) came to, by days of a zone and tags: read whole."""
    together: dict[tuple[str, str, Leaf], Sums] = {}
    charged: Charged = {}
    source = "attempts a JOIN entries c ON c.attempt_id = a.id"
    condition = "c.kind = 'charge' AND a.at_us >= ? AND a.at_us < ?"
    for row in tx.each(_ENTRIES.format(source, condition), (start_us, end_us)):
        entry = _entry(row)
        _add_leaves(tx, together, (day_of(timezone, entry.at_us), entry.tags), entry, charged)
    return together


Charged = dict[tuple[str, str, str], set[tuple[str, str]]]
"""Task, project and model -> the lines (component and modality) that it was charged so far; of those that were charged
more than once, so that each is asked for once.
"""


def _add_leaves(tx: Tx, found: dict[Any, Sums], when: tuple[object, ...], entry: Entry, charged: Charged) -> None:
    """Add a charge to each leaf. A task counts once for a project and model: where it was first charged."""
    known: set[tuple[str, str]] = set()
    if not entry.is_first:
        task = entry.task_uuid, entry.project, entry.model
        if task not in charged:
            charged[task] = _known_before(tx, entry)
        known = charged[task]
    results, lead = entry.results, int(not known)
    reasoning, computed = entry.reasoning, entry.computed
    for component, modality, quantity, nanos in entry.lines or (_NOTHING_BILLED,):
        key = (*when, Leaf(entry.project, entry.model, entry.task_type, component, modality, entry.basis))
        sums = found.get(key)
        if sums is None:
            sums = found[key] = [*NO_SUMS]
        sums[0] += lead
        sums[1] += (component, modality) not in known
        sums[2] += results
        sums[3] += quantity or 0
        sums[4] += nanos
        if reasoning and component == "completion":
            sums[5] += reasoning
            reasoning = 0
        if computed is not None:
            sums[6] += entry.nanos
            sums[7] += computed
            computed = None
        lead = 0
    known.update([line[:2] for line in entry.lines or (_NOTHING_BILLED,)])


def _known_before(tx: Tx, entry: Entry) -> set[tuple[str, str]]:
    """The lines (component and modality) of what the task was charged before for this project and model."""
    rows = tx.all(
        f"SELECT c.lines FROM {CHARGES_OF_TASK} AND c.seq < ? AND a.project = ? AND a.model = ?",
        (*of_task(entry.task_uuid), entry.seq, entry.project, entry.model),
    )
    return {line[:2] for (lines,) in rows for line in read_lines(lines) or (_NOTHING_BILLED,)}


def _add(found: dict[T, Sums], key: T, sums: Sums) -> None:
    known = found.get(key)
    if known is None:
        found[key] = list(sums)
    else:
        add(known, sums)


def add(known: Sums, more: Iterable[int]) -> None:
    """Add `more` to `known`, one by one."""
    for n, value in enumerate(more):
        known[n] += value


def _add_compared(found: dict[tuple[str, str, str, str], Sums], entries: Sequence[Entry], sign: int) -> None:
    """Add what an attempt was estimated at and billed, once all of its money is back; nothing before."""
    if not entries:
        return
    first = entries[0]
    standing, charges = entries, entries
    if len(entries) > 1 or first.kind != "charge":
        charges = [entry for entry in entries if entry.kind == "charge"]
        replaced = {entry.replaces for entry in charges}
        standing = [entry for entry in charges if entry.replaces is None and entry.seq not in replaced]
    if (first.upper or 0) + sum([entry.held for entry in entries]) or not standing:
        return
    seen = sum([entry.results for entry in charges])
    estimated = Estimated(first.asked, seen, first.expected, first.upper, first.estimate)
    told = [(entry.basis, entry.nanos, entry.lines) for entry in standing]
    for what, expected, upper, billed in compare(estimated, told):
        sums = found.setdefault((first.day, first.project, first.model, what), [0, 0, 0, 0, 0])
        sums[0] += sign
        sums[1] += sign * expected
        sums[2] += sign * upper
        sums[3] += sign * billed
        sums[4] += sign * (billed > upper)


# -- the tables ---------------------------------------------------------------------------------

_SUMS = ("lead_tasks", "tasks", "results", "quantity", "nanos", "reasoning", "priced", "computed")
_COMPARED = ("attempts", "expected", "upper", "billed", "over")


def _add_up(table: str, sums: Sequence[str]) -> str:
    """What an `INSERT` does where there is such a row."""
    return "DO UPDATE SET " + ", ".join([f"{name} = {table}.{name} + excluded.{name}" for name in sums])


def rolled(tx: Tx) -> int:
    """The last entry that is in the roll-ups."""
    row = tx.one("SELECT value FROM meta WHERE key = 'rolled'")
    return int(row[0]) if row else 0


def roll_if_due(tx: Tx, seq: int) -> None:
    """Entry `seq` was just written: add what is before it to the roll-ups, if that is enough."""
    if tx.is_shared:
        # Of all who write, who comes to such a number does it. A number is drawn before its entry is committed: once
        # all that has begun is over, nothing is to come below this one.
        if seq % (SHARED_TIMES * ROLL_EVERY) < _NEAR:
            tx.later(functools.partial(_roll_up_to, seq))
        return
    known = tx.kept.get(_ROLLED)
    if known is None or seq - known >= ROLL_EVERY:
        known = rolled(tx)
        if seq - known >= ROLL_EVERY:
            known = _try_to_roll(tx, known, min(seq, known + ROLL_MAX))
        tx.kept[_ROLLED] = known


def _roll_up_to(last: int, tx: Tx) -> None:
    tx.lock("SELECT 0 AS id FROM meta WHERE key = 'rolled' FOR UPDATE")
    known = rolled(tx)
    until = min(last, known + ROLL_MAX)
    if known < until:
        _try_to_roll(tx, known, until)
        if until < last:
            tx.later(functools.partial(_roll_up_to, last))


def _try_to_roll(tx: Tx, after: int, until: int) -> int:
    try:
        return roll(tx, after, until)
    except ValueError as error:  # nothing of it is written yet: a charge is not lost for what is damaged
        log.error("the roll-ups cannot follow the journal; `costguard verify` names why: %s", error)
        return until


def roll(tx: Tx, after: int, until: int) -> int:
    """Add the entries in (after, until] to the roll-ups; `until`."""
    found = gather(tx, after, until)
    for table, column, sums in (("rollups", "day", found.days.items()), ("slots", "slot", found.slots.items())):
        tx.many(
            f"INSERT INTO {table} VALUES ({marks(2 + len(NO_SUMS))}) ON CONFLICT ({column}, leaf_id)"
            f" {_add_up(table, _SUMS)}",
            [(when, _leaf_id(tx, leaf), *values) for (when, leaf), values in sums],
        )
    tx.many(
        f"INSERT INTO tagged VALUES ({marks(3 + len(NO_SUMS))}) ON CONFLICT (day, tags_id, leaf_id)"
        f" {_add_up('tagged', _SUMS)}",
        [(day, _tags_id(tx, tags), _leaf_id(tx, leaf), *values) for (day, tags, leaf), values in found.tagged.items()],
    )
    tx.many(
        "INSERT INTO estimates VALUES (?,?,?,?,?,?,?,?,?) ON CONFLICT (day, project, model, what)"
        f" {_add_up('estimates', _COMPARED)}",
        [(*key, *values) for key, values in found.estimates.items() if any(values)],
    )
    tx.run("UPDATE meta SET value = ? WHERE key = 'rolled'", (str(until),))
    return until


def _leaf_id(tx: Tx, leaf: Leaf) -> int:
    found = tx.kept.get(leaf)
    if found is None:
        row = tx.one(
            "INSERT INTO leaves (project, model, task_type, component, modality, basis) VALUES (?,?,?,?,?,?)"
            " ON CONFLICT (project, model, task_type, component, modality, basis)"
            " DO UPDATE SET project = excluded.project RETURNING id",
            leaf,
        )
        found = tx.kept[leaf] = int(row[0]) if row else 0
    return found


def _tags_id(tx: Tx, tags: str) -> int:
    row = tx.one(
        "INSERT INTO tagsets (tags) VALUES (?) ON CONFLICT (tags) DO UPDATE SET tags = excluded.tags RETURNING id",
        (tags,),
    )
    return int(row[0]) if row else 0
