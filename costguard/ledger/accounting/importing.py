"""Imports: results that were recorded elsewhere, booked as what they are: settled, not enforced, without an alert."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from costguard.ledger.accounting.admission import Admissions
from costguard.ledger.accounting.endings import Endings
from costguard.ledger.accounting.reading import Attempt
from costguard.ledger.accounting.results import same_results
from costguard.ledger.accounting.sql import OF_TASK, of_task
from costguard.ledger.charges import WEAK, Charge
from costguard.ledger.engine import Tx
from costguard.ledger.owner import who
from costguard.ledger.records import Admitted, Alert, NewAttempt, Observation

DELIVERY = "import"
"""How the results of an attempt came that no request was sent for."""

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
    """Some lines: the tasks in them, how many there were and how many of them were left out, and where they end."""

    tasks: Sequence[Recorded]
    lines: int
    bad: int
    mark: Mark


class Booking(NamedTuple):
    """What some lines came to: new tasks, results and nano-USD; results that were `known` already, and those of them
    that told more than was known.
    """

    tasks: int = 0
    results: int = 0
    nanos: int = 0
    known: int = 0
    improved: int = 0

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

    def add(self, at_us: int, batch: Batch) -> Booking:
        """Book the results of some lines that are not booked yet; `at_us` is now."""

        def op(tx: Tx) -> tuple[int, Booking]:
            run_id = self._begin(tx, at_us) if self._id is None else self._id
            found = Booking()
            for task in batch.tasks:
                found = found.plus(self._add(tx, at_us, run_id, task))
            mark = batch.mark
            tx.run(
                "UPDATE imports SET bytes = ?, number = ?, digest = ?, clean = ?, lines = lines + ?, bad = bad + ?,"
                " tasks = tasks + ?, results = results + ?, nanos = nanos + ? WHERE id = ?",
                (mark.bytes, mark.number, mark.digest, int(mark.clean), batch.lines, batch.bad, *found[:3], run_id),
            )
            return run_id, found

        self._id, found = self._write(op)
        return found

    def _begin(self, tx: Tx, at_us: int) -> int:
        return tx.insert(
            f"INSERT INTO imports (at_us, who, {_RUN}, bytes, number, digest, clean, lines, bad, tasks, results, nanos)"
            " VALUES (?,?,?,?,?,?,0,0,'',1,0,0,0,0,0)",
            "id",
            (at_us, who(), *self._source),
        )

    def _add(self, tx: Tx, at_us: int, run_id: int, task: Recorded) -> Booking:
        """Book what is new of one task."""
        attempts = self._attempts(tx, task.task_uuid)
        if not attempts:
            return self._add_new(tx, at_us, run_id, task, is_first=True)
        before = sum(attempt.charged for attempt in attempts)
        if any(attempt.delivery != DELIVERY for attempt in attempts):
            return self._tell(tx, at_us, run_id, task, before)
        booked = self._booked(tx, task.task_uuid)
        pairs = same_results(
            booked, [(key, charge.nanos) for key, charge in task.results], capacity=_ANY_NUMBER, room=_ANY_NUMBER
        )
        improved = 0
        new = []
        for (key, charge), same in zip(task.results, pairs, strict=True):
            if same is None:
                new.append((key, charge))
            else:
                improved += self._improve(tx, at_us, same, key, charge) is not None
        if improved:
            self._ask_nobody(tx, task.task_uuid)
        added = (
            self._add_new(tx, at_us, run_id, task._replace(results=tuple(new)), is_first=False) if new else Booking()
        )
        nanos = self._charged(tx, task.task_uuid) - before if improved else added.nanos
        return Booking(0, len(new), nanos, len(pairs) - len(new), improved)

    def _add_new(self, tx: Tx, at_us: int, run_id: int, task: Recorded, *, is_first: bool) -> Booking:
        """One attempt with all of `results`, settled at once."""
        new = NewAttempt(
            task.task_uuid, task.task_type, task.model, DELIVERY, len(task.results), None, None, None, "{}",
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

    def _tell(self, tx: Tx, at_us: int, run_id: int, task: Recorded, before: int) -> Booking:
        """A task that was sent through costguard: what is recorded of it is one more road that its results come by."""
        told = len(self._booked(tx, task.task_uuid))
        seen = Observation(task.task_uuid, task.results, reason=f"import {run_id}")
        alerts: list[Alert] = []
        changes = self._observe(tx, at_us, seen, alerts)
        new = len(self._booked(tx, task.task_uuid)) - told
        return Booking(
            0, new, self._charged(tx, task.task_uuid) - before, len(task.results) - new, max(0, changes - new)
        )

    @staticmethod
    def _charged(tx: Tx, task_uuid: str) -> int:
        row = tx.one(f"SELECT coalesce(sum(charged), 0) FROM attempts WHERE {OF_TASK}", of_task(task_uuid))
        return int(row[0]) if row else 0

    @staticmethod
    def _ask_nobody(tx: Tx, task_uuid: str) -> None:
        """Whoever was sent an imported task is not known, nor with which key: its figure stays ours."""
        tx.run(f"UPDATE attempts SET unconfirmed = NULL WHERE {OF_TASK} AND unconfirmed = 1", of_task(task_uuid))

    def _thresholds(self, *_: object) -> list[Alert]:
        """None: what is long past is no news."""
        return []


def _attempt_of(new: NewAttempt, attempt_id: int, project: str, at_us: int) -> Attempt:
    """The row that was just written, as far as posting needs it."""
    return Attempt(
        attempt_id, new.task_uuid, project, new.task_type, new.model, new.delivery, new.results, at_us, "", None, None,
        None, new.estimate, new.tags, 0, "held", None, 0, 0, None, None, 0, new.host, None, None, None,
    )  # fmt: skip
