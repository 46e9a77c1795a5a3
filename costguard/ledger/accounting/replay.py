"""The journal, replayed: each admission saw the true balance, and attempts and charges are what their entries say."""

from __future__ import annotations

import json
from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Iterator
from datetime import date

from costguard.budgets import Window, from_us
from costguard.ledger.accounting.checkpoint import Checkpoint, Slice
from costguard.ledger.accounting.leasing import LEASE, LEASED
from costguard.ledger.accounting.sql import FOREVER_US, admitted_in, bounds, covered
from costguard.ledger.charges import read_lines
from costguard.ledger.engine import Tx
from costguard.money import to_text
from costguard.projects import ancestors, covers


class BrokenError(Exception):
    """The first difference."""


def window_name(window: Window) -> str:
    """A window in words."""
    return "of all time" if window.start is None else f"{window.start:%Y-%m-%d %H:%M} UTC"


_ATTEMPTS = (
    "SELECT a.id, coalesce(a.upper, 0), a.held, a.charged, a.status, a.seen, a.at_us, a.day, a.owner_id, {0},"
    " {0} + coalesce(sum(e.held), 0), coalesce(sum(e.spent), 0),"
    " coalesce(sum(CASE WHEN e.kind = 'charge' THEN 1 ELSE 0 END), 0), coalesce(sum(e.results), 0)"
    " FROM {1} LEFT JOIN entries e ON e.attempt_id = a.id AND e.kind <> 'hold' WHERE {2}"
)
_HELD = _ATTEMPTS.format(
    "h.held",
    "entries h CROSS JOIN attempts a",
    "a.id = h.attempt_id AND h.kind = 'hold' AND h.seq > ? AND h.seq <= ? GROUP BY h.seq, a.id",
)
_HELD_BEFORE = _ATTEMPTS.format("coalesce(a.upper, 0)", "attempts a", "a.id = ? GROUP BY a.id")
"""Of an attempt whose first entry was seen by an earlier run."""
_FIRST = (
    "SELECT c.seq FROM entries c JOIN attempts a ON a.id = c.attempt_id WHERE c.seq > ? AND c.seq <= ?"
    " AND c.is_first = 1 AND EXISTS (SELECT 1 FROM attempts b CROSS JOIN entries e WHERE e.attempt_id = b.id"
    " AND e.kind <> 'hold' AND e.kind = 'charge' AND e.seq < c.seq AND b.name_hash = a.name_hash"
    " AND b.task_uuid = a.task_uuid)"
)


class Replay:
    """Some rows of the journal on one snapshot. What they come to is added to `state`; raises BrokenError."""

    def __init__(self, tx: Tx, state: Checkpoint) -> None:
        self._tx = tx
        self._state = state
        self._terms = {row[0]: row[1:] for row in tx.all(
            "SELECT id, project, per, window_us, window_end_us, limit_nanos, hard FROM terms"
        )}  # fmt: skip
        self._owners = {row[0] for row in tx.all("SELECT id FROM owners")}
        self._cuts: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for day, start, end in tx.all("SELECT day, start_us, end_us FROM days"):
            self._cuts[day].append((start, end))
        kept = tx.one("SELECT value FROM meta WHERE key = 'days_since'")
        self._days_since = int(kept[0]) if kept and str(kept[0]).isdecimal() else 0
        self._windows: dict[str, dict[str, _Windows]] = defaultdict(lambda: defaultdict(_Windows))
        self._begin_windows()

    def _begin_windows(self) -> None:
        """Every window that an admission saw or a balance is of; one that is new since begins with what it had."""
        keys = {terms[:4] for terms in self._terms.values() if terms[1] != "task"}
        for project, per, start, end in self._tx.all(
            "SELECT b.project, b.per, w.window_us, w.end_us FROM balances w JOIN budgets b ON b.id = w.budget_id"
        ):
            keys.add((project, per, start, None if end == FOREVER_US else end))
        known = self._state.windows
        for key in keys | known.keys():
            if key not in known:
                known[key] = [*self._sums(key)] if self._state.seq else [0, 0]
            self._windows[key[0]][key[1]].add(key[2], key[3], known[key])

    def _sums(self, key: tuple[str, str, int, int | None]) -> tuple[int, int]:
        below, projects = covered(key[0], "a.project")
        within, times = admitted_in(Window(key[2], key[3]), "a.at_us")
        row = self._tx.one(
            "SELECT coalesce(sum(e.spent), 0), coalesce(sum(e.held), 0) FROM entries e"
            f" JOIN attempts a ON a.id = e.attempt_id WHERE e.seq <= ? AND {below} AND {within}",
            (self._state.seq, *projects, *times),
        )
        spent, held = (row[0], row[1]) if row else (0, 0)
        start_us, end_us = bounds(Window(key[2], key[3]))
        for lease in self._state.leases.values():
            if covers(key[0], lease.project) and start_us <= lease.at_us < end_us:
                spent, held = spent - lease.spent, held - lease.held
        return spent, held

    def run(self, until: int) -> None:
        """Look at the entries after the state's, up to `until`."""
        state, tx = self._state, self._tx
        first = state.seq
        self._attempts(_HELD, (first, until))
        for (
            seq, attempt_id, kind, held, spent, saw, basis, lines, replaces, project, at_us, lease_id, delivery,
        ) in tx.each(
            "SELECT e.seq, e.attempt_id, e.kind, e.held, e.spent, e.saw, e.basis, e.lines, e.replaces, a.project,"
            " a.at_us, a.lease_id, a.delivery FROM entries e LEFT JOIN attempts a ON a.id = e.attempt_id"
            " WHERE e.seq > ? AND e.seq <= ? ORDER BY e.seq",
            (first, until),
        ):  # fmt: skip
            if project is None:
                raise BrokenError(f"links: a row of entries names attempt_id {attempt_id}, which is not in attempts")
            task_max = None
            if kind == "hold":
                if attempt_id <= state.attempt:
                    raise BrokenError(f"journal: attempt {attempt_id} has two entries that hold, or is out of order")
                state.attempt = attempt_id
                state.holds += 1
                task_max = self._admission(attempt_id, at_us, held, saw, is_lease=delivery == LEASE)
            elif attempt_id <= state.since:
                self._attempts(_HELD_BEFORE, (attempt_id,))
            if kind == "charge":
                self._charge(seq, attempt_id, spent, basis, lines, replaces)
            elif spent:
                raise BrokenError(f"charges: entry {seq} is a {kind} and spends money")
            moved = spent, held
            if delivery == LEASE:
                moved = self._lease(attempt_id, kind, held, project, at_us, task_max)
            elif lease_id is not None and self._under_lease(attempt_id, lease_id, kind, held, spent):
                continue
            for ancestor in ancestors(project):
                for of_period in self._windows[ancestor].values() if ancestor in self._windows else ():
                    for true in of_period.over(at_us):
                        true[0] += moved[0]
                        true[1] += moved[1]
        for (seq,) in tx.all(_FIRST, (first, until)):
            raise BrokenError(f"roll-ups: charge {seq} counts its task, which was charged before")

    def _lease(
        self, lease_id: int, kind: str, held: int, project: str, at_us: int, task_max: int | None
    ) -> tuple[int, int]:
        """A lease holds its slice; as it ends, the budgets get what is spent and held of it: what is so moved."""
        if kind == "hold":
            self._state.leases[lease_id] = Slice(held, 0, 0, project, at_us, task_max)
            return 0, held
        size, held_under, spent_under, *_ = self._state.leases.pop(lease_id, Slice(-1, 0, 0, "", 0))
        if held != -size:
            raise BrokenError(f"leases: {lease_id} gives back {to_text(-held)}, and had {to_text(max(size, 0))}")
        return spent_under, held + held_under

    def _under_lease(self, attempt_id: int, lease_id: int, kind: str, held: int, spent: int) -> bool:
        """What moves within an open lease moves no balance; nothing is admitted beyond it, or when it has ended."""
        lease = self._state.leases.get(lease_id)
        if lease is None:
            if kind == "hold":
                raise BrokenError(f"leases: attempt {attempt_id} was admitted under {lease_id}, which was not open")
            return False
        if kind == "hold" and lease.task_max is not None and held > lease.task_max:
            raise BrokenError(f"leases: attempt {attempt_id} is beyond what one may cost: {held} > {lease.task_max}")
        lease = lease._replace(held=lease.held + held, spent=lease.spent + spent)
        if lease.held + lease.spent > lease.size:
            raise BrokenError(
                f"leases: attempt {attempt_id} is beyond {lease_id}: {lease.held} + {lease.spent} > {lease.size}"
            )
        self._state.leases[lease_id] = lease
        return True

    def _admission(self, attempt_id: int, at_us: int, held: int, saw: str | None, *, is_lease: bool) -> int | None:
        """It saw the true balance, and a hard budget was never passed; the least limit per task.

        A lease is not one task: that limit is for those that are admitted under it.
        """
        task_max: int | None = None
        told = json.loads(saw) if saw else []
        for at in range(0, len(told), 3):
            terms_id, seen_spent, seen_held = told[at : at + 3]
            if terms_id not in self._terms:
                raise BrokenError(f"links: attempt {attempt_id} names terms {terms_id}, which are not there")
            budget, per, start, end, limit, hard = self._terms[terms_id]
            where = f"admissions: attempt {attempt_id} under {budget} per {per}"
            true = [0, 0] if per == "task" else self._state.windows[budget, per, start, end]
            if per != "task" and not (start <= at_us and (end is None or at_us < end)):
                raise BrokenError(f"{where} was admitted outside the window it was held in")
            if [seen_spent, seen_held] != true:
                raise BrokenError(f"{where} saw spent {seen_spent}, held {seen_held}; the journal says {true}")
            if per == "task" and hard:
                task_max = limit if task_max is None else min(limit, task_max)
                if is_lease:
                    self._state.count("admissions")
                    continue
            if hard and seen_spent + seen_held + held > limit:
                raise BrokenError(f"{where} was admitted over the limit: {seen_spent} + {seen_held} + {held} > {limit}")
            self._state.count("admissions")
        return task_max

    def _charge(
        self, seq: int, attempt_id: int, nanos: int, basis: str | None, lines: str | None, replaces: int | None
    ) -> None:
        """A charge is the sum of its lines, and says where its figure came from; one takes back what was charged."""
        summed = sum(line.nanos for line in read_lines(lines))
        if nanos != summed:
            raise BrokenError(f"charges: charge {seq} is {to_text(nanos)}, its lines sum to {to_text(summed)}")
        if not basis:
            raise BrokenError(f"charges: charge {seq} has no basis")
        if replaces is not None:
            found = self._tx.all(
                "SELECT nanos FROM charges WHERE seq = ? AND seq < ? AND attempt_id = ? AND replaces IS NULL",
                (replaces, seq, attempt_id),
            )
            if found != [(-nanos,)]:
                raise BrokenError(f"charges: charge {seq} takes back {to_text(-nanos)}, which was not charged")
            (times,) = self._tx.all(
                "SELECT count(*) FROM charges WHERE attempt_id = ? AND replaces = ?", (attempt_id, replaces)
            )
            if times != (1,):
                raise BrokenError(f"charges: charge {replaces} is taken back {times[0]} times")
        self._state.count("charges")

    def _attempts(self, sql: str, parameters: tuple[int, ...]) -> None:
        """An attempt's held and charged money is the sum of its entries, the first of which holds its worst case."""
        for (
            attempt_id, upper, held, charged, status, seen, at_us, day, owner_id, first, held_sum, spent_sum, charges,
            results,
        ) in self._tx.each(sql, parameters):  # fmt: skip
            where = f"journal: attempt {attempt_id}"
            if (held, charged) != (held_sum, spent_sum):
                raise BrokenError(
                    f"{where} shows held {to_text(held)}, charged {to_text(charged)}; its entries sum to"
                    f" {to_text(held_sum)}, {to_text(spent_sum)}"
                )
            if first != upper:
                raise BrokenError(f"{where} began by holding {to_text(first)}; its upper is {to_text(upper)}")
            if held < 0 or (held and status not in ("held", "unresolved", LEASED)):
                raise BrokenError(f"{where} is {status} and holds {to_text(held)}")
            if seen != results:
                raise BrokenError(f"{where} counts {seen} results, its charges {results}")
            if status == "released" and charged:
                raise BrokenError(f"{where} is released and was charged {to_text(charged)}")
            if status == "settled" and not charges:
                raise BrokenError(f"{where} is settled without a charge")
            if owner_id not in self._owners:
                raise BrokenError(f"links: attempt {attempt_id} names owner_id {owner_id}, which is not in owners")
            before = attempt_id <= self._days_since
            if not (
                is_near(day, at_us) if before else any(start <= at_us < end for start, end in self._cuts.get(day, ()))
            ):
                raise BrokenError(f"days: attempt {attempt_id} is booked on {day}, it was not admitted on that day")
            self._state.count("journal")


def is_near(day: str, at_us: int) -> bool:
    """True if the clocks of some zone can show `day` (ISO) at `at_us`: they are less than a day from UTC."""
    return abs(date.fromisoformat(day).toordinal() - from_us(at_us).toordinal()) <= 1


class _Windows:
    """The windows of one (project, per), and their balances so far."""

    def __init__(self) -> None:
        self._starts: list[tuple[int, int | None]] = []
        self._longest = 0
        self._balances: dict[tuple[int, int | None], list[int]] = {}

    def add(self, start: int, end: int | None, balance: list[int]) -> None:
        insort(self._starts, (start, end), key=lambda window: window[0])
        self._balances[start, end] = balance
        if end is not None:
            self._longest = max(self._longest, end - start)

    def over(self, at_us: int) -> Iterator[list[int]]:
        """Balances of the windows that contain an instant: few, unless the zone was changed often."""
        index = bisect_right(self._starts, at_us, key=lambda window: window[0])
        while index:
            index -= 1
            start, end = self._starts[index]
            if end is None or at_us < end:
                yield self._balances[start, end]
            elif start + self._longest <= at_us:
                return
