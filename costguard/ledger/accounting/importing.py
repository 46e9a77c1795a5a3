"""Imports: results that were recorded elsewhere, booked as what they are: settled, not enforced, without an alert."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from costguard.budgets import from_us
from costguard.ledger.accounting.admission import Admissions
from costguard.ledger.accounting.attempts import IMPORTED, OPEN, UNKNOWN_AGE_US, Attempt
from costguard.ledger.accounting.endings import Endings
from costguard.ledger.accounting.naming import Names
from costguard.ledger.accounting.results import Same, retells, same_results
from costguard.ledger.accounting.sql import OF_TASK, of_task
from costguard.ledger.charges import WEAK, Charge, weakest
from costguard.ledger.engine import Tx
from costguard.ledger.owner import who
from costguard.ledger.records import Admitted, Alert, NewAttempt, Observation
from costguard.money import to_text

_ANY_NUMBER = 10**9
"""Results that an imported task may have: how many were asked for is not recorded."""

_RUN = "file, project, tags, terms"
_NO_ROOM = "imported results have no row"


class Recorded(NamedTuple):
    """A task as it was recorded: when it was sent (UTC microseconds), and each result's key and charge."""

    task_uuid: str
    task_type: str
    model: str
    at_us: int
    results: tuple[tuple[str, Charge], ...]
    number: int = 0
    """Of the line."""
    is_named: bool = True
    """Whether its record tells a name; else it is called by a digest."""
    is_whole: bool = False
    """Whether nothing but these results comes of the task, however many were asked for."""

    @property
    def nanos(self) -> int:
        """What its results came to, in nano-USD."""
        return sum(charge.nanos for _, charge in self.results)


class Source(NamedTuple):
    """What is imported, and how it is read: an import goes on where another one of the same source has come to."""

    file: str
    project: str
    tags: str
    """JSON object of the tags that every task gets."""
    terms: str
    """All else that says what a line means: JSON."""


class Mark(NamedTuple):
    """How far a file was read: `bytes`, of that `digest`; the last line or item was `number`.

    `clean`: nothing of it was left out.
    """

    bytes: int = 0
    number: int = 0
    digest: str = ""
    clean: bool = True


class Batch(NamedTuple):
    """Some lines: the tasks in them, how many there were, the numbers of those of which something was left out, and
    where they end.
    """

    tasks: Sequence[Recorded]
    lines: int
    bad: frozenset[int]
    mark: Mark


class Conflict(NamedTuple):
    """A task that is booked otherwise than its line says: the line's number, and both figures in words."""

    number: int
    why: str


class Booking(NamedTuple):
    """What some lines came to: new tasks, results and nano-USD; results that were `known` already, those of them that
    were `improved`, a figure of our own giving way to a better one, and those of a call that was sent whose outcome
    was open, `settled` now; `changed` is what both came to. `repeated`: records that have no name
    and equal another one of the same import.
    """

    tasks: int = 0
    results: int = 0
    nanos: int = 0
    known: int = 0
    improved: int = 0
    settled: int = 0
    changed: int = 0
    repeated: int = 0

    def plus(self, other: Booking) -> Booking:
        """Both together."""
        return Booking(*(a + b for a, b in zip(self, other, strict=True)))


class ImportRow(NamedTuple):
    """One import as the ledger keeps it. `lines` and `bad` of this run alone; `nanos` is nano-USD."""

    id: int
    at_us: int
    who: str
    file: str
    project: str
    lines: int
    bad: int
    tasks: int
    results: int
    nanos: int


IMPORT_ROW = ", ".join(ImportRow._fields)


class Importer(Admissions, Endings):
    """An accounting on the engine of `ledger` that books what was recorded, batch by batch, each one transaction.

    What it books counts in the windows and days of its own time. No alert fires, and none is claimed: the next call
    that is charged says what was passed.
    """

    def __init__(self, ledger: Admissions, source: Source) -> None:
        super().__init__(ledger._engine, ledger._now_us)
        self.timezone = ledger.timezone
        self._source = source
        self._id: int | None = None

    def last(self) -> Mark:
        """Where the last import of this source that left nothing out has come to; the beginning without one."""
        sql = f"SELECT bytes, number, digest FROM imports WHERE ({_RUN}) = (?,?,?,?) AND clean = 1 ORDER BY id DESC"
        row = self._read(lambda tx: tx.one(sql, self._source))
        return Mark(*row) if row else Mark()

    def add(self, at_us: int, batch: Batch) -> tuple[Booking, list[Conflict]]:
        """Book the results of some lines that are not booked yet; `at_us` is now.

        Of a task that is booked otherwise nothing is changed: it is a conflict.
        """

        def op(tx: Tx) -> tuple[int, Booking, list[Conflict]]:
            run_id = self._begin(tx, at_us) if self._id is None else self._id
            names, found, conflicts = Names.read(tx), Booking(), []
            for task in batch.tasks:
                came = self._add(tx, at_us, run_id, task, names)
                if isinstance(came, Conflict):
                    conflicts.append(came)
                else:
                    found = found.plus(came)
            mark, bad = batch.mark, len(batch.bad.union(conflict.number for conflict in conflicts))
            tx.run(
                "UPDATE imports SET bytes = ?, number = ?, digest = ?, clean = ?, lines = lines + ?, bad = bad + ?,"
                " tasks = tasks + ?, results = results + ?, nanos = nanos + ? WHERE id = ?",
                (
                    mark.bytes, mark.number, mark.digest, int(mark.clean and not conflicts), batch.lines, bad,
                    found.tasks, found.results + found.settled, found.nanos + found.changed, run_id,
                ),
            )  # fmt: skip
            return run_id, found, conflicts

        self._id, found, conflicts = self._write(op)
        return found, conflicts

    def _begin(self, tx: Tx, at_us: int) -> int:
        return tx.insert(
            f"INSERT INTO imports (at_us, who, {_RUN}, bytes, number, digest, clean, lines, bad, tasks, results, nanos)"
            " VALUES (?,?,?,?,?,?,0,0,'',1,0,0,0,0,0)",
            "id",
            (at_us, who(), *self._source),
        )

    def _add(self, tx: Tx, at_us: int, run_id: int, task: Recorded, names: Names) -> Booking | Conflict:
        """Book what is new of one task, and put what is better in the place of a figure of our own."""
        attempts = self._attempts(tx, task.task_uuid)
        if not attempts and task.is_named:
            called = self._called(tx, task.task_uuid)
            if len(called) > 1:
                return Conflict(
                    task.number,
                    f"{task.task_uuid}: {len(called)} tasks of this ledger were answered by that name, such as"
                    f" {called[0]} and {called[1]}: nothing was changed",
                )
            if called:
                task = task._replace(task_uuid=called[0])
                attempts = self._attempts(tx, task.task_uuid)
        if not attempts:
            return self._add_new(tx, at_us, run_id, task, is_first=True)
        is_sent = any(attempt.delivery != IMPORTED for attempt in attempts)
        booked = self._booked(tx, task.task_uuid)
        pairs = same_results(
            booked,
            [(key, charge.nanos) for key, charge in task.results],
            capacity=self._capacity(tx, task.task_uuid) if is_sent else _ANY_NUMBER,
            room=None if is_sent else _ANY_NUMBER,
        )
        by_id = {attempt.id: attempt for attempt in attempts}
        better, new = [], []
        for (key, charge), same in zip(task.results, pairs, strict=True):
            if same is None:
                new.append((key, charge))
                continue
            attempt = by_id[same.booked.attempt_id]
            if self._is_better(same, key, charge, attempt, task, names):
                better.append((same, key, charge))
            elif not (_is_near(attempt, task) and self._is_known(same, key, charge, attempt, task, names)):
                return self._conflict(attempt, same.booked.nanos, task, charge.nanos, names)
        if new:
            room = [attempt for attempt in attempts if self._takes(attempt, task, names, is_sent=is_sent)]
            charged = sum(attempt.charged for attempt in attempts)
            if not room or (is_sent and len(new) > sum(attempt.results - attempt.seen for attempt in room)):
                if not booked and charged == task.nanos and _is_near(attempts[0], task):
                    return Booking(known=len(new))  # an operator said so before
                return self._conflict(attempts[0], charged, task, task.nanos, names)
        before = self._charged(tx, task.task_uuid)
        improved = sum(self._improve(tx, at_us, *one) is not None for one in better)
        if improved and not is_sent:
            self._ask_nobody(tx, task.task_uuid)
        known = len(task.results) - len(new)
        repeated = int(known > 0 and not task.is_named and attempts[0].reason == f"import {run_id}")
        found = Booking(known=known, improved=improved, repeated=repeated)
        if new and is_sent:
            seen = Observation(task.task_uuid, tuple(new), reason=f"import {run_id}")
            for key, charge in new:
                self._book(tx, at_us, seen, key, charge)
            if task.is_whole:
                self._settle_all(tx, at_us, seen, [])
            found = found._replace(settled=len(new))
        changed = self._charged(tx, task.task_uuid) - before if improved or new else 0
        found = found._replace(changed=changed)
        if new and not is_sent:
            new_ones = task._replace(results=tuple(new))
            found = found.plus(self._add_new(tx, at_us, run_id, new_ones, is_first=False))
        return found

    def _is_better(self, same: Same, key: str, charge: Charge, attempt: Attempt, task: Recorded, names: Names) -> bool:
        """Whether what is recorded takes the place of what is booked: only of a figure of our own, by a stronger one.

        What an import has booked is not what another record with other counts tells of: that is another result.
        """
        old = same.booked
        is_imported = attempt.delivery == IMPORTED or (attempt.reason or "").startswith("import ")
        return (
            same.tells
            and old.basis in WEAK
            and charge.basis != old.basis
            and weakest(old.basis, charge.basis) == old.basis
            and self._is_ours(attempt, task, names)
            and (not is_imported or retells(old, key, charge))
        )

    def _is_known(self, same: Same, key: str, charge: Charge, attempt: Attempt, task: Recorded, names: Names) -> bool:
        """Whether what is recorded says of a booked result what is booked, as far as both tell it."""
        old = same.booked
        is_own = old.basis in WEAK or charge.basis in WEAK
        is_strange = is_own and not self._is_ours(attempt, task, names)
        return retells(old, key, charge) and (not is_strange or old.nanos == charge.nanos)

    def _takes(self, attempt: Attempt, task: Recorded, names: Names, *, is_sent: bool) -> bool:
        """Whether an attempt may get a further result by an import: an imported one, or one whose outcome is open."""
        return self._is_ours(attempt, task, names) and (not is_sent or attempt.status in OPEN)

    def _is_ours(self, attempt: Attempt, task: Recorded, names: Names) -> bool:
        """Whether an attempt is of the import's project, of the model that is recorded, and of about the same time."""
        return (
            _is_near(attempt, task)
            and names.present(attempt.project) == names.present(self._source.project)
            and (
                attempt.model == task.model
                or attempt.model in ("", attempt.task_type)
                or task.model in ("", task.task_type)
            )
        )

    @staticmethod
    def _conflict(attempt: Attempt, booked: int, task: Recorded, told: int, names: Names) -> Conflict:
        return Conflict(
            task.number,
            f"task {task.task_uuid}: booked {to_text(booked)} USD on {names.present(attempt.project)} at"
            f" {_written(attempt.at_us)}{f' with {attempt.model}' if attempt.model else ''}, and this says"
            f" {to_text(told)} USD at {_written(task.at_us)}{f' with {task.model}' if task.model else ''}:"
            " nothing was changed",
        )

    def _add_new(self, tx: Tx, at_us: int, run_id: int, task: Recorded, *, is_first: bool) -> Booking:
        """One attempt with all of `results`, settled at once."""
        new = NewAttempt(
            task.task_uuid, task.task_type, task.model, IMPORTED, len(task.results), None, None, None, "{}",
            self._source.tags,
        )  # fmt: skip
        project = self._source.project
        admitted = self._admit(tx, project, task.at_us, [new], False)
        if not isinstance(admitted, Admitted):
            raise LookupError(_NO_ROOM)  # what is not enforced is admitted
        attempt = _attempt_of(new, admitted.attempt_ids[0], project, task.at_us)
        nanos = 0
        for n, (key, charge) in enumerate(task.results):
            self._post(
                tx, at_us, attempt, 0, charge, "settled", f"import {run_id}",
                ended_us=task.at_us, key=key, is_first=is_first and n == 0,
            )  # fmt: skip
            nanos += charge.nanos
        if any(charge.basis in WEAK for _, charge in task.results):
            self._ask_nobody(tx, task.task_uuid)
        return Booking(int(is_first), len(task.results), nanos)

    @staticmethod
    def _charged(tx: Tx, task_uuid: str) -> int:
        row = tx.one(f"SELECT coalesce(sum(charged), 0) FROM attempts WHERE {OF_TASK}", of_task(task_uuid))
        return int(row[0]) if row else 0

    def _thresholds(self, *_: object) -> list[Alert]:
        """None: what is long past is no news."""
        return []


def _is_near(attempt: Attempt, task: Recorded) -> bool:
    """Whether both may be one task by their times: no work takes longer."""
    return abs(attempt.at_us - task.at_us) <= UNKNOWN_AGE_US


def _written(at_us: int) -> str:
    return f"{from_us(at_us):%Y-%m-%dT%H:%M:%SZ}"


def _attempt_of(new: NewAttempt, attempt_id: int, project: str, at_us: int) -> Attempt:
    """The row that was just written, as far as posting needs it."""
    return Attempt(
        attempt_id, new.task_uuid, project, new.task_type, new.model, new.delivery, new.results, at_us, "", None, None,
        None, new.estimate, new.tags, 0, "held", None, 0, 0, None, None, 0, new.host, None, None, None,
        None,
    )  # fmt: skip
