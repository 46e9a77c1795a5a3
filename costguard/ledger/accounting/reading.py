"""What is read from the ledger: tasks, usage, open holds. Portable SQL, one snapshot a call."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from costguard.budgets import ALL_TIME, Budget, Window, day_of, window_at
from costguard.errors import ConfigurationError
from costguard.ledger.accounting.results import Booked
from costguard.ledger.owner import Owner, is_dead
from costguard.ledger.records import Balance, Engine, Settled, TaskRow, Tx, UsageRow, Verification
from costguard.money import sum_known
from costguard.projects import ancestors

TOKEN_COMPONENTS = ("prompt", "cache", "completion", "unitemized")
"""Components whose quantity counts tokens; the others count uses, or nothing."""

GROUPS = ("project", "model", "day", "modality", "basis")
"""What usage can be grouped by; `modality` gives two keys, component and modality."""

BUDGET = "id, project, per, limit_nanos, timezone, action, warn_at, floor_tokens, wait_ms"


HISTORY_DAYS = 30
"""Days of history that expectations are learned from."""

FOREIGN_AGE_US = 3600 * 1_000_000
"""A hold of a process on another host, whose life cannot be seen, reads `unresolved` after an hour."""


class Attempt(NamedTuple):
    """An attempt's row; the fields are the schema's columns, amounts in nano-USD."""

    id: int
    task_uuid: str
    project: str
    task_type: str
    model: str
    delivery: str
    results: int
    at_us: int
    day: str
    upper: int | None
    expected: int | None
    price_id: str | None
    estimate: str
    tags: str
    owner_id: int
    status: str
    reason: str | None
    held: int
    charged: int
    ended_us: int | None
    clamped_from: int | None
    seen: int
    """Results charged so far."""
    host: str


ATTEMPT = ", ".join(Attempt._fields)

STANDING = (
    "c.replaces IS NULL"
    " AND NOT EXISTS (SELECT 1 FROM charges r WHERE r.attempt_id = c.attempt_id AND r.replaces = c.seq)"
)
"""SQL condition: the charge `c` was neither taken back nor takes another one back."""


@functools.lru_cache(maxsize=1024)
def read_budget(
    project: str, per: str, limit: int, timezone: str, action: str, warn_at: str, floor: int, wait_ms: int
) -> Budget:
    """A budget from its row (`BUDGET` without the id)."""
    return Budget(project, per, limit, timezone, action, tuple(json.loads(warn_at)), floor, wait_ms)


def covered(project: str, column: str = "project") -> tuple[str, tuple[str, ...]]:
    """SQL condition and parameters: `column` is `project` or lies below it."""
    if project == "/":
        return "1=1", ()
    return f"({column} = ? OR ({column} >= ? AND {column} < ?))", (project, f"{project}/", f"{project}0")


class Reading:
    """The reading half of `Ledger`; every method is one snapshot and raises LedgerError if it cannot be had."""

    timezone: str

    def __init__(self, engine: Engine, now_us: Callable[[], int]) -> None:
        self._engine = engine
        self._now_us = now_us

    # -- reading --------------------------------------------------------------------------------

    def ceilings(self) -> dict[str, int]:
        """All ceilings: model or task type -> nano-USD per result."""
        return self._engine.read(lambda tx: dict(tx.all("SELECT name, nanos FROM ceilings ORDER BY name")))

    def budgets(self) -> list[Budget]:
        """All budgets, by project and period."""
        rows = self._engine.read(lambda tx: tx.all(f"SELECT {BUDGET} FROM budgets ORDER BY project, per"))
        return [read_budget(*row[1:]) for row in rows]

    def balances(self, at_us: int, project: str | None = None) -> list[Balance]:
        """Each budget's window at `at_us`; with `project` those on its path and below it.

        A `task` budget has no window: it shows an empty one with nothing spent or held.
        """

        def op(tx: Tx) -> list[Balance]:
            found = []
            for row in tx.all(f"SELECT {BUDGET} FROM budgets ORDER BY project, per"):
                budget = read_budget(*row[1:])
                if project is not None and not _related(budget.project, project):
                    continue
                if budget.per == "task":
                    found.append(Balance(budget, Window(0, None), 0, 0))
                    continue
                window = window_at(budget.per, budget.timezone, at_us)
                spent, held = self._balance(tx, row[0], window) or self._recompute(tx, budget.project, window)
                found.append(Balance(budget, window, spent, held))
            return found

        return self._engine.read(op)

    def verify(self) -> Verification:
        """Recompute every promise from the rows, on one snapshot; names the first difference."""
        from costguard.ledger.accounting import verify

        return self._engine.read(verify.verify)

    @staticmethod
    def _recompute(tx: Tx, project: str, window: Window) -> tuple[int, int]:
        condition, parameters = covered(project)
        until = "" if window.end_us is None else " AND at_us < ?"
        row = tx.one(
            "SELECT coalesce(sum(charged), 0), coalesce(sum(held), 0) FROM attempts"
            f" WHERE {condition} AND at_us >= ?{until}",
            (*parameters, window.start_us, *(() if window.end_us is None else (window.end_us,))),
        )
        return (row[0], row[1]) if row else (0, 0)

    @staticmethod
    def _balance(tx: Tx, budget_id: int, window: Window) -> tuple[int, int] | None:
        row = tx.one(
            "SELECT spent, held FROM balances WHERE budget_id = ? AND window_us = ?",
            (budget_id, window.start_us),
        )
        return (row[0], row[1]) if row else None

    def tasks(
        self,
        *,
        project: str | None = None,
        status: str | None = None,
        model: str | None = None,
        since_us: int | None = None,
        until_us: int | None = None,
        limit: int | None = None,
    ) -> list[TaskRow]:
        """Tasks by first admission, oldest first; with `limit` only the newest ones.

        `project` includes what lies below it; times bound the admission of an attempt.
        """
        conditions, parameters = ["1=1"], list[object]()
        if project is not None:
            condition, values = covered(project)
            conditions.append(condition)
            parameters += values
        for clause, value in (("model = ?", model), ("at_us >= ?", since_us), ("at_us < ?", until_us)):
            if value is not None:
                conditions.append(clause)
                parameters.append(value)
        if status in ("held", "unresolved"):
            conditions.append("status IN ('held', 'unresolved')")
        sql = f"SELECT task_uuid FROM attempts WHERE {' AND '.join(conditions)} ORDER BY id DESC"

        def op(tx: Tx) -> list[TaskRow]:
            seen: set[str] = set()
            rows: list[TaskRow] = []
            for (uuid,) in tx.each(sql, parameters):
                if uuid in seen:
                    continue
                seen.add(uuid)
                task = self._task(tx, uuid)
                if status is None or task.status == status:
                    rows.append(task)
                    if limit is not None and len(rows) >= limit:
                        break
            rows.reverse()
            return rows

        return self._engine.read(op)

    def task(self, task_uuid: str) -> TaskRow | None:
        """One task by its UUID."""

        def op(tx: Tx) -> TaskRow | None:
            if tx.one("SELECT 1 FROM attempts WHERE task_uuid = ?", (task_uuid,)) is None:
                return None
            return self._task(tx, task_uuid)

        return self._engine.read(op)

    def attempts(self, task_uuid: str) -> list[Attempt]:
        """A task's attempts, oldest first."""
        return self._engine.read(lambda tx: self._attempts(tx, task_uuid))

    @staticmethod
    def _attempt(tx: Tx, attempt_id: int) -> Attempt:
        """An attempt that is known to be there."""
        return Attempt._make(tx.all(f"SELECT {ATTEMPT} FROM attempts WHERE id = ?", (attempt_id,))[0])

    @staticmethod
    def _attempts(tx: Tx, task_uuid: str) -> list[Attempt]:
        rows = tx.all(f"SELECT {ATTEMPT} FROM attempts WHERE task_uuid = ? ORDER BY id", (task_uuid,))
        return [Attempt._make(row) for row in rows]

    def _task(self, tx: Tx, task_uuid: str) -> TaskRow:
        attempts = self._derive(tx, self._attempts(tx, task_uuid))
        charges = tx.all(
            "SELECT c.basis, c.odd, c.nanos FROM charges c JOIN attempts a ON a.id = c.attempt_id"
            f" WHERE a.task_uuid = ? AND {STANDING} ORDER BY c.seq",
            (task_uuid,),
        )
        first = attempts[0]
        statuses = {attempt.status for attempt in attempts}
        status = next(s for s in ("unresolved", "held", "settled", "released") if s in statuses)
        by_hand = sum(nanos for basis, _, nanos in charges if basis == "correction")
        bases = {basis for basis, _, _ in charges if basis != "correction" or by_hand}
        return TaskRow(
            task_uuid=task_uuid,
            project=first.project,
            model=first.model,
            task_type=first.task_type,
            delivery=first.delivery,
            status=status,
            held=sum(attempt.held for attempt in attempts),
            charged=sum(attempt.charged for attempt in attempts),
            basis=next((b for b in ("correction", "assumed", "computed", "cost", "breakdown") if b in bases), None),
            expected=sum_known(attempt.expected for attempt in attempts),
            upper=sum_known(attempt.upper for attempt in attempts),
            attempts=len(attempts),
            at_us=first.at_us,
            day=first.day,
            reason=next((a.reason for a in reversed(attempts) if a.reason), None),
            odd=any(odd for _, odd, _ in charges),
            tags=first.tags,
            clamped_from=first.clamped_from,
        )

    def usage(self, by: Sequence[str], first_day: str, end_day: str, project: str | None = None) -> list[UsageRow]:
        """Charges of the days in [first_day, end_day) of the reporting zone, from the roll-ups.

        `by` is any of GROUPS; rows are sorted by their keys. ISO dates.
        """
        columns = group_columns(by)
        keys = ", ".join(columns)
        condition, parameters = covered(project) if project is not None else ("1=1", ())
        count = "sum(tasks)" if "modality" in by else "sum(lead_tasks)"
        tokens = ", ".join(f"'{component}'" for component in TOKEN_COMPONENTS)
        rows = self._engine.read(
            lambda tx: tx.all(
                f"SELECT {keys + ',' if keys else ''} {count},"
                f" sum(CASE WHEN component IN ({tokens}) THEN quantity ELSE 0 END), sum(nanos)"
                f" FROM rollups WHERE day >= ? AND day < ? AND {condition}"
                + (f" GROUP BY {keys} ORDER BY {keys}" if keys else " HAVING count(*) > 0"),
                (first_day, end_day, *parameters),
            )
        )
        return [UsageRow(tuple(row[:-3]), row[-3], row[-2], row[-1]) for row in rows]

    def usage_lines(
        self, by: Sequence[str], timezone: str, start_us: int, end_us: int, project: str | None = None
    ) -> list[UsageRow]:
        """As `usage`, for the days of another zone: reads every line of [start_us, end_us), slower."""
        condition, parameters = covered(project, "a.project") if project is not None else ("1=1", ())
        columns = group_columns(by)

        def op(tx: Tx) -> list[UsageRow]:
            groups: dict[tuple[str, ...], tuple[set[str], list[int]]] = {}
            for uuid, at_us, project_, model, component, modality, basis, quantity, nanos in tx.each(
                "SELECT a.task_uuid, a.at_us, a.project, a.model, coalesce(l.component, 'unitemized'),"
                " coalesce(l.modality, ''), c.basis, coalesce(l.quantity, 0), coalesce(l.nanos, 0)"
                " FROM attempts a JOIN charges c ON c.attempt_id = a.id"
                " LEFT JOIN lines l ON l.charge_seq = c.seq"
                f" WHERE a.at_us >= ? AND a.at_us < ? AND {condition}",
                (start_us, end_us, *parameters),
            ):
                values = {
                    "project": project_, "model": model, "component": component, "modality": modality,
                    "basis": basis, "day": day_of(timezone, at_us) if "day" in columns else "",
                }  # fmt: skip
                uuids, sums = groups.setdefault(tuple(values[c] for c in columns), (set(), [0, 0]))
                uuids.add(uuid)
                sums[0] += quantity if component in TOKEN_COMPONENTS else 0
                sums[1] += nanos
            return [UsageRow(keys, len(uuids), *sums) for keys, (uuids, sums) in sorted(groups.items())]

        return self._engine.read(op)

    def mean_completion(self, project: str, model: str, at_us: int) -> int | None:
        """Mean completion tokens of a result of this project and model over `HISTORY_DAYS`; None without any."""
        first_day = day_of(self.timezone, max(0, at_us - HISTORY_DAYS * 86_400_000_000))
        row = self._engine.read(
            lambda tx: tx.one(
                "SELECT sum(quantity), sum(results) FROM rollups"
                " WHERE day >= ? AND project = ? AND model = ? AND component = 'completion'",
                (first_day, project, model),
            )
        )
        return -(-row[0] // row[1]) if row and row[1] else None

    def settled(self, start_us: int, end_us: int, project: str | None = None) -> list[Settled]:
        """The settled attempts admitted in [start_us, end_us) that the provider's own figures were charged for."""
        condition, parameters = covered(project, "a.project") if project is not None else ("1=1", ())

        def op(tx: Tx) -> list[Settled]:
            found: dict[int, Settled] = {}
            own: set[int] = set()
            for attempt_id, *attempt, nanos, basis, component, modality, quantity, n in tx.each(
                "SELECT a.id, a.model, a.results, a.seen, a.expected, a.upper, a.estimate, c.nanos, c.basis,"
                " coalesce(l.component, ''), coalesce(l.modality, ''), l.quantity, coalesce(l.n, 0)"
                " FROM attempts a JOIN charges c ON c.attempt_id = a.id LEFT JOIN lines l ON l.charge_seq = c.seq"
                f" WHERE a.status = 'settled' AND a.at_us >= ? AND a.at_us < ? AND {condition} AND {STANDING}"
                " ORDER BY a.id, c.seq, l.n",
                (start_us, end_us, *parameters),
            ):
                one = found.get(attempt_id) or Settled._make((*attempt, 0, {}))
                if basis not in ("breakdown", "cost"):
                    own.add(attempt_id)
                tokens = one.tokens
                name = {"prompt": modality, "cache": modality, "completion": "completion"}.get(component)
                if component == "unitemized" or name == "" or (name and quantity is None):
                    tokens = None
                elif name and tokens is not None:
                    tokens[name] = tokens.get(name, 0) + quantity
                found[attempt_id] = one._replace(nanos=one.nanos + (0 if n else nanos), tokens=tokens)
            return [one for attempt_id, one in found.items() if attempt_id not in own]

        return self._engine.read(op)

    def media_counts(self, digests: Sequence[str]) -> dict[str, dict[str, int]]:
        """What the media with these digests were billed as: digest -> tokens of one result by modality."""
        rows = self._engine.read(
            lambda tx: tx.all(f"SELECT digest, counts FROM media WHERE digest IN ({marks(len(digests))})", digests)
        )
        return {digest: json.loads(counts) for digest, counts in rows}

    @staticmethod
    def _booked(tx: Tx, task_uuid: str) -> list[Booked]:
        """The results charged for a task, as they stand: without what was replaced, and without corrections."""
        rows = tx.all(
            "SELECT c.seq, c.attempt_id, coalesce(c.result_key, ''), c.nanos, c.basis, c.direct"
            " FROM attempts a JOIN charges c ON c.attempt_id = a.id"
            f" WHERE a.task_uuid = ? AND c.basis <> 'correction' AND {STANDING} ORDER BY c.seq",
            (task_uuid,),
        )
        return [Booked._make((*row[:-1], bool(row[-1]))) for row in rows]

    def unconfirmed(self, before_us: int) -> list[str]:
        """Tasks admitted up to `before_us` whose charge is not the provider's figure, and who was not asked yet."""
        return self._engine.read(
            lambda tx: [
                row[0]
                for row in tx.all(
                    "SELECT DISTINCT task_uuid FROM attempts WHERE unconfirmed = 1 AND at_us <= ? ORDER BY task_uuid",
                    (before_us,),
                )
            ]
        )

    def open_attempts(self, project: str = "/", window: Window = ALL_TIME) -> list[Attempt]:
        """Attempts whose money is still held; those of dead owners read `unresolved`."""
        return self._engine.read(lambda tx: self._open(tx, project, window))

    def _open(self, tx: Tx, project: str, window: Window) -> list[Attempt]:
        condition, parameters = covered(project)
        until = "" if window.end_us is None else " AND at_us < ?"
        rows = tx.all(
            f"SELECT {ATTEMPT} FROM attempts WHERE status IN ('held', 'unresolved') AND {condition}"
            f" AND at_us >= ?{until} ORDER BY id",
            (*parameters, window.start_us, *(() if window.end_us is None else (window.end_us,))),
        )
        return self._derive(tx, map(Attempt._make, rows))

    def _derive(self, tx: Tx, rows: Iterable[Attempt]) -> list[Attempt]:
        """Attempts as they read now: held by a process that is gone means `unresolved`."""
        fates: dict[int, bool | None] = {}
        return [
            attempt._replace(status="unresolved", reason="the process that sent it is gone")
            if attempt.status == "held" and self._is_lost(tx, attempt, fates)
            else attempt
            for attempt in rows
        ]

    def _is_lost(self, tx: Tx, attempt: Attempt, fates: dict[int, bool | None]) -> bool:
        """True if the process that sent it is surely gone, or out of sight for `FOREIGN_AGE_US`."""
        if attempt.owner_id not in fates:
            row = tx.one("SELECT host, boot, pid, started FROM owners WHERE id = ?", (attempt.owner_id,))
            fates[attempt.owner_id] = is_dead(Owner(*row)) if row else True
        dead = fates[attempt.owner_id]
        return self._now_us() - attempt.at_us > FOREIGN_AGE_US if dead is None else dead


def over_by_task(attempts: Iterable[Attempt]) -> dict[str, frozenset[int]]:
    """Each task of `attempts`, as they read now, with those of its attempts that no request is under way for."""
    found: dict[str, frozenset[int]] = {}
    for attempt in attempts:
        ids = {attempt.id} if attempt.ended_us is not None or attempt.status == "unresolved" else frozenset[int]()
        found[attempt.task_uuid] = found.get(attempt.task_uuid, frozenset()) | ids
    return found


@functools.lru_cache(maxsize=64)
def marks(count: int) -> str:
    """`count` parameter marks."""
    return ",".join("?" * count)


def group_columns(by: Sequence[str]) -> list[str]:
    """The roll-up's columns for the groups of `by`, in their order."""
    columns: list[str] = []
    for group in by:
        if group not in GROUPS:
            raise ConfigurationError(f"by: {group!r} is not one of {', '.join(GROUPS)}")
        columns += ["component", "modality"] if group == "modality" else [group]
    return list(dict.fromkeys(columns))


def _related(budget_project: str, project: str) -> bool:
    return budget_project in ancestors(project) or project in ancestors(budget_project)
