"""Recompute every promise of the ledger from its rows and name the first difference.

The journal is replayed once, some thousand rows on a snapshot at a time, so that memory stays flat and a long look
holds nobody up. What was seen so far is a `Checkpoint`, from which another run goes on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from costguard.budgets import Window, is_like
from costguard.ledger.accounting.checkpoint import Checkpoint, Digest, Slice, summed
from costguard.ledger.accounting.replay import BrokenError, Replay, is_near, window_name
from costguard.ledger.accounting.rolling import gather, rolled
from costguard.ledger.accounting.sql import FOREVER_US
from costguard.ledger.engine import Tx
from costguard.ledger.records import Verification
from costguard.money import to_text
from costguard.projects import like

ROWS = 20_000
"""Entries of the journal that are replayed on one snapshot."""


Findings = Iterator[str | None]
"""One item per row looked at: None if it agrees, else what differs."""


def verify_some(tx: Tx, state: Checkpoint) -> Verification | None:
    """Go on from `state` by some rows; what was found, or None if there are more.

    `state` stays behind the roll-ups: what the journal has beyond them is looked at on a copy, once more next time.
    """
    try:
        if not state.has_begun:
            damage = tx.damage()
            if damage is not None:
                raise BrokenError(f"storage: {damage}")
            state.count("storage")
            _look_at(state, "days", _days(tx))
            state.has_begun = True
        state.check_mark(tx)
        end = rolled(tx)
        (last,) = tx.one("SELECT coalesce(max(seq), 0) FROM entries") or (0,)
        if end > last:
            raise BrokenError(f"roll-ups: they are up to entry {end}, and the journal ends with {last}")
        until = min(state.seq + ROWS, end)
        Replay(tx, state).run(until)
        state.digest.gathered(gather(tx, state.seq, until))
        state.go_on(tx, until)
        if until < end:
            return None
        _check_end(tx, state)
    except BrokenError as broken:
        return Verification(str(broken), dict(state.checked))
    return Verification(None, dict(state.checked))


def _check_end(tx: Tx, state: Checkpoint) -> None:
    """The journal's last rows, and all that is compared with it as a whole."""
    (last,) = tx.one("SELECT coalesce(max(seq), 0) FROM entries") or (0,)
    beyond = state.copy()
    while beyond.seq < last:
        until = min(beyond.seq + ROWS, last)
        Replay(tx, beyond).run(until)
        beyond.seq = until
    state.checked = beyond.checked
    _check_holds(tx, beyond)
    _look_at(state, "links", _links(tx))
    _look_at(state, "leases", _leases(tx, beyond.leases))
    _check_rollups(tx, state)
    _look_at(state, "balances", _balances(tx, beyond.windows))
    _look_at(state, "changes", _changes(tx))


def _look_at(state: Checkpoint, name: str, findings: Findings) -> None:
    for difference in findings:
        if difference is not None:
            raise BrokenError(f"{name}: {difference}")
        state.count(name)


def _check_holds(tx: Tx, state: Checkpoint) -> None:
    """Every attempt has an entry that holds."""
    (attempts,) = tx.one("SELECT count(*) FROM attempts") or (0,)
    if attempts == state.holds:
        return
    row = tx.one("SELECT min(id) FROM attempts WHERE id NOT IN (SELECT attempt_id FROM entries WHERE kind = 'hold')")
    raise BrokenError(f"journal: attempt {row[0] if row else '?'} has no entry that holds its upper")


def _check_rollups(tx: Tx, state: Checkpoint) -> None:
    """Roll-ups equal the sum of their lines up to the entry that `rolled` names, and count each task once."""
    kept = Digest()
    kept.tables(tx)
    state.count("roll-ups", kept.rows)
    if kept == state.digest:
        return
    found = gather(tx, 0, state.seq)  # all at once: this is to name what differs
    for name, rows in summed(found).items():
        expected = dict(rows)
        for key, values in Digest.rows_of(tx, name):
            right = expected.pop(key, None)
            if right != values:
                raise BrokenError(f"roll-ups: {name} of {key} sums to {values}, its lines give {right}")
        for key, values in expected.items():
            if any(values):
                raise BrokenError(f"roll-ups: {name} of {key} is missing")
    raise BrokenError("roll-ups: they are not what was verified before; verify the whole ledger")


_LINKS = (
    ("balances", "budget_id", "budgets", "id"),
    ("alerts", "budget_id", "budgets", "id"),
    ("rollups", "leaf_id", "leaves", "id"),
    ("slots", "leaf_id", "leaves", "id"),
    ("tagged", "leaf_id", "leaves", "id"),
    ("tagged", "tags_id", "tagsets", "id"),
)
"""Column of a table -> the row it names; those of the journal are followed where it is replayed."""


def _links(tx: Tx) -> Findings:
    """Every row that another names is there."""
    for table, column, parent, key in _LINKS:
        for (missing,) in tx.each(
            f"SELECT t.{column} FROM {table} t LEFT JOIN {parent} p ON p.{key} = t.{column} WHERE p.{key} IS NULL"
        ):
            yield f"a row of {table} names {column} {missing}, which is not in {parent}"
        yield None


def _days(tx: Tx) -> Findings:
    """Every day is one of the ledger's zone, as it was cut when something was admitted on it.

    Not as it would be cut now: the rules of a zone change, and what was booked stays booked.
    """
    kept = dict(tx.all("SELECT key, value FROM meta WHERE key IN ('timezone', 'days_since')"))
    if len(kept) < 2 or not kept["days_since"].isdecimal():
        yield "the ledger's zone, or since when it keeps days, is not known"
        return
    for day, start, end, zone in tx.each("SELECT day, start_us, end_us, timezone FROM days"):
        if zone != kept["timezone"]:
            yield f"{day} was cut in {zone}; the ledger's zone is {kept['timezone']}"
        elif not (is_like("day", Window(start, end)) and is_near(day, start)):
            yield f"{day} was cut from {start} to {end}, where no zone has it"
        else:
            yield None


def _balances(tx: Tx, windows: Mapping[tuple[str, str, int, int | None], list[int]]) -> Findings:
    """For every window, as it was cut when it began: spent is the sum of charges, held that of the holds still open."""
    for project, per, start, end, spent, held in tx.each(
        "SELECT b.project, b.per, w.window_us, w.end_us, w.spent, w.held"
        " FROM balances w JOIN budgets b ON b.id = w.budget_id"
    ):
        window = Window(start, None if end == FOREVER_US else end)
        true = windows[project, per, window.start_us, window.end_us]
        if not is_like(per, window):
            yield f"budget {project} per {per} has a balance from {start} to {end}, which is no {per}"
        elif [spent, held] == true:
            yield None
        else:
            yield (
                f"budget {project} per {per}, window {window_name(window)}: spent {to_text(spent)}, held"
                f" {to_text(held)}; its tasks sum to {to_text(true[0])}, {to_text(true[1])}"
            )


def _leases(tx: Tx, leases: Mapping[int, Slice]) -> Findings:
    """Every lease that is open has in its row what the journal says of it."""
    left = dict(leases)
    for lease_id, size, rest, held, spent in tx.each(
        "SELECT id, slice, rest, held, spent FROM leases WHERE is_open = 1"
    ):
        true = left.pop(lease_id, None)
        if true is None or true[:3] != (size, held, spent) or rest != size - held - spent:
            yield f"{lease_id} has {size} = {rest} + {held} + {spent}; the journal says {true[:3] if true else 'none'}"
        else:
            yield None
    for lease_id in left:
        yield f"{lease_id} is open in the journal, and nowhere else"


_TERMS = "limit_nanos, timezone, action, warn_at, floor_tokens, wait_ms"


def _changes(tx: Tx) -> Findings:
    """Budgets and ceilings stand as they were last set, and admissions saw only what was set at some time."""
    last: dict[tuple[str, str], tuple[object, ...] | None] = {}
    limits: dict[tuple[str, str], set[int]] = defaultdict(set)
    for change, project, per, *terms in tx.each(
        f"SELECT change, project, per, {_TERMS} FROM budget_changes ORDER BY id"
    ):
        last[project, per] = None
        if change == "set":
            last[project, per] = tuple(terms)
            limits[project, per].add(terms[0])
    made = {}
    for project, per, *terms, default in tx.each(
        f"SELECT b.project, b.per, {', '.join(f'b.{term}' for term in _TERMS.split(', '))}, d.project"
        " FROM budgets b LEFT JOIN budgets d ON d.id = b.like_id AND d.per = b.per ORDER BY b.like_id IS NULL, b.id"
    ):
        if default is not None and default == like(project):
            made[project, per] = tuple(terms), last.get((default, per))
            continue
        agrees = last.pop((project, per), None) == tuple(terms)
        yield None if agrees else f"budget {project} per {per} is not as it was last set"
    for (project, per), (terms_now, terms_set) in made.items():
        agrees = terms_now == terms_set and last.get((project, per)) is None
        yield None if agrees else f"budget {project} per {per} is not like the default it was made after"
    for (project, per), terms_set in last.items():
        yield None if terms_set is None else f"budget {project} per {per} was set and is missing"
    for project, per, limit, start, end in tx.each(
        "SELECT project, per, limit_nanos, window_us, window_end_us FROM terms"
    ):
        where = f"an admission under {project} per {per}"
        if limit not in limits[project, per] and limit not in limits[like(project) or "", per]:
            yield f"{where} saw the limit {to_text(limit)}, which was never set"
        elif per != "task" and not is_like(per, Window(start, end)):
            yield f"{where} saw a window from {start} to {end}, which is no {per}"
        else:
            yield None
    ceilings = dict(tx.all("SELECT name, nanos FROM ceiling_changes ORDER BY id"))
    set_now = {name: nanos for name, nanos in ceilings.items() if nanos is not None}
    for name, nanos in tx.each("SELECT name, nanos FROM ceilings"):
        yield None if set_now.pop(name, None) == nanos else f"the ceiling of {name} is not as it was last set"
    for name in set_now:
        yield f"the ceiling of {name} was set and is missing"
