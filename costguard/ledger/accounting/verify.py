"""Recompute every promise of the ledger from its rows and name the first difference."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import date

from costguard.budgets import Window, from_us, is_like
from costguard.ledger.accounting.sql import FOREVER_US, charged_and_held
from costguard.ledger.engine import Tx
from costguard.ledger.records import Verification
from costguard.money import to_text
from costguard.projects import ancestors, like


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
    """An attempt's held and charged money is the sum of its entries, which begin with the hold of its worst case."""
    for attempt_id, upper, held, charged, status, held_sum, spent_sum, holds, first, charges, seen, results in tx.each(
        "SELECT a.id, coalesce(a.upper, 0), a.held, a.charged, a.status, coalesce(sum(e.held), 0),"
        " coalesce(sum(e.spent), 0), coalesce(sum(CASE WHEN e.kind = 'hold' THEN 1 ELSE 0 END), 0),"
        " coalesce(sum(CASE WHEN e.kind = 'hold' THEN e.held ELSE 0 END), 0),"
        " coalesce(sum(CASE WHEN e.kind = 'charge' THEN 1 ELSE 0 END), 0), a.seen, coalesce(sum(e.results), 0)"
        " FROM attempts a LEFT JOIN entries e ON e.attempt_id = a.id"
        " GROUP BY a.id, a.upper, a.held, a.charged, a.status, a.seen"
    ):
        if (held, charged) != (held_sum, spent_sum):
            yield (
                f"attempt {attempt_id} shows held {to_text(held)}, charged {to_text(charged)};"
                f" its entries sum to {to_text(held_sum)}, {to_text(spent_sum)}"
            )
        elif (holds, first) != (1, upper):
            yield f"attempt {attempt_id} has {holds} entries that hold {to_text(first)}; its upper is {to_text(upper)}"
        elif held < 0 or (held and status not in ("held", "unresolved")):
            yield f"attempt {attempt_id} is {status} and holds {to_text(held)}"
        elif seen != results:
            yield f"attempt {attempt_id} counts {seen} results, its charges {results}"
        elif status == "released" and charged:
            yield f"attempt {attempt_id} is released and was charged {to_text(charged)}"
        elif status == "settled" and not charges:
            yield f"attempt {attempt_id} is settled without a charge"
        else:
            yield None


def _charges(tx: Tx) -> Findings:
    """A charge is the sum of its lines, only charges spend, and each says where its figure came from."""
    for seq, nanos, basis, lines in tx.each(
        "SELECT c.seq, c.nanos, c.basis, (SELECT coalesce(sum(l.nanos), 0) FROM lines l WHERE l.charge_seq = c.seq)"
        " FROM charges c"
    ):
        if nanos != lines:
            yield f"charge {seq} is {to_text(nanos)}, its lines sum to {to_text(lines)}"
        else:
            yield None if basis else f"charge {seq} has no basis"
    for seq, nanos, replaced in tx.each(
        "SELECT c.seq, c.nanos, (SELECT sum(o.nanos) FROM charges o WHERE o.seq = c.replaces AND o.seq < c.seq"
        " AND o.attempt_id = c.attempt_id AND o.replaces IS NULL)"
        " FROM charges c WHERE c.replaces IS NOT NULL"
    ):
        yield None if replaced == -nanos else f"charge {seq} takes back {to_text(-nanos)}, which was not charged"
    for replaced, times in tx.each("SELECT replaces, count(*) FROM charges GROUP BY replaces HAVING count(*) > 1"):
        if replaced is not None:
            yield f"charge {replaced} is taken back {times} times"
    for seq, kind in tx.each("SELECT seq, kind FROM entries WHERE kind <> 'charge' AND spent <> 0"):
        yield f"entry {seq} is a {kind} and spends money"


_LINKS = (
    ("entries", "attempt_id", "attempts", "id"),
    ("holds", "attempt_id", "attempts", "id"),
    ("attempts", "owner_id", "owners", "id"),
    ("lines", "charge_seq", "charges", "seq"),
    ("balances", "budget_id", "budgets", "id"),
    ("alerts", "budget_id", "budgets", "id"),
)
"""Column of a table -> the row it names."""


def _links(tx: Tx) -> Findings:
    """Every row that another names is there."""
    for table, column, parent, key in _LINKS:
        for (missing,) in tx.each(
            f"SELECT t.{column} FROM {table} t LEFT JOIN {parent} p ON p.{key} = t.{column} WHERE p.{key} IS NULL"
        ):
            yield f"a row of {table} names {column} {missing}, which is not in {parent}"
        yield None


def _days(tx: Tx) -> Findings:
    """Every attempt is reported on the day that it was admitted in, as that day was cut then.

    Not as it would be cut now: the rules of a zone change, and what was booked stays booked.
    """
    kept = dict(tx.all("SELECT key, value FROM meta WHERE key IN ('timezone', 'days_since')"))
    if len(kept) < 2 or not kept["days_since"].isdecimal():
        yield "the ledger's zone, or since when it keeps days, is not known"
        return
    cuts: dict[str, list[Window]] = defaultdict(list)
    for day, start, end, zone in tx.each("SELECT day, start_us, end_us, timezone FROM days"):
        cuts[day].append(Window(start, end))
        if zone != kept["timezone"]:
            yield f"{day} was cut in {zone}; the ledger's zone is {kept['timezone']}"
        elif not (is_like("day", cuts[day][-1]) and _is_near(day, start)):
            yield f"{day} was cut from {start} to {end}, where no zone has it"
        else:
            yield None
    for attempt_id, at_us, day in tx.each("SELECT id, at_us, day FROM attempts"):
        before = attempt_id <= int(kept["days_since"])
        fits = _is_near(day, at_us) if before else any(start <= at_us < (end or 0) for start, end in cuts[day])
        yield None if fits else f"attempt {attempt_id} is booked on {day}, it was not admitted on that day"


def _is_near(day: str, at_us: int) -> bool:
    """True if the clocks of some zone can show `day` (ISO) at `at_us`: they are less than a day from UTC."""
    return abs(date.fromisoformat(day).toordinal() - from_us(at_us).toordinal()) <= 1


def _rollups(tx: Tx) -> Findings:
    """Roll-ups equal the sum of their lines, and count each task once."""
    lines = "FROM charges c JOIN attempts a ON a.id = c.attempt_id LEFT JOIN lines l ON l.charge_seq = c.seq"
    group = "a.day, a.project, a.model"
    leaf = f"{group}, coalesce(l.component, 'unitemized'), coalesce(l.modality, '')"
    sums = "sum(c.results), coalesce(sum(l.quantity), 0), coalesce(sum(l.nanos), 0)"
    keys = "day, project, model, component, modality"
    for what, width, kept, summed in (
        ("sums to", 6, f"SELECT {keys}, basis, results, quantity, nanos FROM rollups",
         f"SELECT {leaf}, c.basis, {sums} {lines} GROUP BY {leaf}, c.basis"),
        ("counts tasks", 5, f"SELECT {keys}, sum(tasks) FROM rollups GROUP BY {keys}",
         f"SELECT {leaf}, count(DISTINCT a.task_uuid) {lines} GROUP BY {leaf}"),
        ("counts first tasks", 3, "SELECT day, project, model, sum(lead_tasks) FROM rollups GROUP BY 1, 2, 3",
         f"SELECT {group}, count(DISTINCT a.task_uuid) {lines} GROUP BY {group}"),
    ):  # fmt: skip
        expected = {tuple(row[:width]): tuple(row[width:]) for row in tx.each(summed)}
        for row in tx.each(kept):
            key, found = tuple(row[:width]), tuple(row[width:])
            right = expected.pop(key, None)
            yield None if found == right else f"roll-up {key} {what} {found}, its lines give {right}"
        for key in expected:
            yield f"roll-up {key} is missing"


def _balances(tx: Tx) -> Findings:
    """For every window, as it was cut when it began: spent is the sum of charges, held that of the holds still open."""
    for project, per, start, end, spent, held in tx.each(
        "SELECT b.project, b.per, w.window_us, w.end_us, w.spent, w.held"
        " FROM balances w JOIN budgets b ON b.id = w.budget_id"
    ):
        window = Window(start, None if end == FOREVER_US else end)
        true = charged_and_held(tx, project, window)
        if not is_like(per, window):
            yield f"budget {project} per {per} has a balance from {start} to {end}, which is no {per}"
        elif (spent, held) == true:
            yield None
        else:
            yield (
                f"budget {project} per {per}, window {_name(window)}: spent {to_text(spent)}, held {to_text(held)};"
                f" its tasks sum to {to_text(true[0])}, {to_text(true[1])}"
            )


def _name(window: Window) -> str:
    return "of all time" if window.start is None else f"{window.start:%Y-%m-%d %H:%M} UTC"


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
        " FROM budgets b LEFT JOIN budgets d ON d.id = b.like_id AND d.per = b.per ORDER BY b.like_id IS NULL"
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
        "SELECT DISTINCT project, per, limit_nanos, window_us, window_end_us FROM holds"
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


class _Windows:
    """The windows that admissions under one (project, per) saw, and their balances so far."""

    def __init__(self) -> None:
        self._starts: list[tuple[int, int | None]] = []
        self._longest = 0
        self.balances: dict[tuple[int, int | None], list[int]] = {}

    def add(self, start: int, end: int | None) -> None:
        insort(self._starts, (start, end), key=lambda window: window[0])
        self.balances[start, end] = [0, 0]
        if end is not None:
            self._longest = max(self._longest, end - start)

    def over(self, at_us: int) -> Iterator[list[int]]:
        """Balances of the windows that contain an instant: few, unless the zone was changed often."""
        index = bisect_right(self._starts, at_us, key=lambda window: window[0])
        while index:
            index -= 1
            start, end = self._starts[index]
            if end is None or at_us < end:
                yield self.balances[start, end]
            elif start + self._longest <= at_us:
                return


def _admissions(tx: Tx) -> Findings:
    """Replay the journal: each admission saw the true balance, and a hard budget was never passed."""
    windows: dict[str, dict[str, _Windows]] = defaultdict(lambda: defaultdict(_Windows))
    for project, per, start, end in tx.each(
        "SELECT DISTINCT project, per, window_us, window_end_us FROM holds WHERE per <> 'task'"
    ):
        windows[project][per].add(start, end)
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
                where = f"attempt {attempt_id} under {budget} per {per}"
                true = [0, 0] if per == "task" else windows[budget][per].balances[start, end]
                if per != "task" and not (start <= at_us and (end is None or at_us < end)):
                    yield f"{where} was admitted outside the window it was held in"
                elif [seen_spent, seen_held] != true:
                    yield f"{where} saw spent {seen_spent}, held {seen_held}; the journal says {true}"
                elif hard and seen_spent + seen_held + held > limit:
                    yield f"{where} was admitted over the limit: {seen_spent} + {seen_held} + {held} > {limit}"
                else:
                    yield None
        for ancestor in ancestors(project):
            for of_period in windows[ancestor].values() if ancestor in windows else ():
                for true in of_period.over(at_us):
                    true[0] += spent
                    true[1] += held


def _storage(tx: Tx) -> Findings:
    """The file itself is sound."""
    yield tx.damage()


_CHECKS: tuple[tuple[str, Callable[[Tx], Findings]], ...] = (
    ("storage", _storage),
    ("journal", _journal),
    ("charges", _charges),
    ("links", _links),
    ("days", _days),
    ("roll-ups", _rollups),
    ("balances", _balances),
    ("changes", _changes),
    ("admissions", _admissions),
)
