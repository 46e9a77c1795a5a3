"""What a spool kept is told to the ledger: in order, and as often as it takes, for telling it twice changes nothing."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from costguard.errors import ConfigurationError, LedgerError
from costguard.ledger.accounting.attempts import OPEN
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.records import Admitted, Alert, Doubt, Ending
from costguard.ledger.spool import Lines, take_over
from costguard.ledger.spooled import Begun, Ended, Heard, Record, Writing
from costguard.wire import dialect as told

FAILURES_MAX = 3
"""So many failures in a row mean that the ledger is away, and not that a record is at fault."""

WRITING = Writing(
    {
        "Judgement": told.Judgement,
        "Success": told.Success,
        "Ack": told.Ack,
        "Refused": told.Refused,
        "ToldDoubt": told.Doubt,
        "ToldRecord": told.Record,
        "Result": told.Result,
        "Figures": told.Figures,
    }
)
"""Records with what the exchange may have heard."""

_CUT = "the program that sent it ended before its outcome was written"

log = logging.getLogger("costguard")


class Desk(NamedTuple):
    """What telling a ledger needs of a guard."""

    now_us: Callable[[], int]
    fire: Callable[[Iterable[Alert]], None]
    """Tell of alerts."""
    book: Callable[[Ledger, told.Judgement], object]
    """Book what was heard of tasks."""
    work: Callable[[Callable[[], Any]], Any]
    """Run something that may wait for the ledger, for no longer than a call may."""


class Told(NamedTuple):
    """What telling some records came to: the keys of those that failed, and the error that ended it, if one did.

    `heeded`: how many records were told before that, or failed by themselves.
    """

    failed: frozenset[str]
    heeded: int
    error: LedgerError | None


class Replay:
    """Tells the records of one spool to `ledger`."""

    def __init__(self, ledger: Ledger, desk: Desk) -> None:
        self._ledger = ledger
        self._desk = desk
        self._ids: dict[str, tuple[int, ...]] = {}
        self._begun: dict[str, Begun] = {}
        self._ended: set[str] = set()

    def tell(self, texts: Sequence[str]) -> Told:
        """Tell one record after the other.

        One that fails is passed over if a later one is taken: then it is the record that is at fault, and not the
        ledger, and it must not keep out the others.
        """
        failed: set[str] = set()
        in_a_row: set[str] = set()
        taken = 0
        for number, text in enumerate(texts):
            try:
                record = WRITING.record(text)
            except ValueError as error:
                log.error("a record of a spool cannot be read by this version: %s", error)
                failed.add(text)
                continue
            if isinstance(record, Ended) and record.key not in self._ids:
                failed |= {record.key} - in_a_row  # its admission is yet to be told
                continue
            try:
                self._desk.work(functools.partial(self._tell, record))
            except (LedgerError, ConfigurationError) as error:
                log.info("a record of the spool was not taken: %s", error)
                in_a_row.add(record.key)
                if len(in_a_row) == FAILURES_MAX:
                    return Told(frozenset(failed), taken, LedgerError(str(error)))
                last = error
            except (TypeError, ValueError, LookupError, AttributeError):  # it must not keep a program from starting
                log.exception("a record of a spool is not what this version writes")
                failed.add(record.key)
            else:
                failed |= in_a_row
                in_a_row.clear()
                taken = number + 1
        if in_a_row:
            return Told(frozenset(failed), taken, LedgerError(str(last)))
        return Told(frozenset(failed), len(texts), None)

    def _tell(self, record: Record) -> None:
        match record:
            case Begun():
                self._begun[record.key] = record
                self._ids[record.key] = admitted(self._ledger, record)
            case Ended():
                endings = placed(record.endings, self._ids[record.key])
                self._desk.fire(self._ledger.conclude(record.at_us, endings))
                self._ended.add(record.key)
            case Heard():
                self._desk.book(self._ledger, record.told)

    def give_up_open(self) -> None:
        """The program that began them is gone: calls without an end are lost, unless the ledger knows better."""
        for key, begun in self._begun.items():
            if key in self._ended:
                continue
            under_way = {
                attempt.id
                for task in begun.tasks
                for attempt in self._ledger.attempts(task.task_uuid)
                if attempt.status in OPEN and attempt.ended_us is None
            }
            lost = [Doubt(attempt_id, _CUT) for attempt_id in self._ids[key] if attempt_id in under_way]
            if lost:
                self._desk.fire(self._ledger.conclude(self._desk.now_us(), lost))


def admitted(ledger: Ledger, begun: Begun) -> tuple[int, ...]:
    """The attempts of an admission, which is held now if it was not: it was sent, so no budget can refuse it."""
    answer = ledger.admit(begun.project, begun.at_us, begun.tasks, enforce=False, key=begun.key, again=True)
    if not isinstance(answer, Admitted):
        raise LedgerError(f"the ledger refused what it was not asked for: {type(answer).__name__}")
    return answer.attempt_ids


def placed(endings: Iterable[Ending], ids: Sequence[int]) -> list[Ending]:
    """Endings of an admission's tasks, by their places, as those of its attempts."""
    return [moved(ending, ids[ending.attempt_id]) for ending in endings]


def moved(ending: Ending, attempt_id: int) -> Ending:
    """The same ending, of another attempt."""
    if isinstance(ending, tuple):
        return ending._replace(attempt_id=attempt_id)
    return dataclasses.replace(ending, attempt_id=attempt_id)


def adopt(folder: Path, ledger: Ledger, desk: Desk) -> None:
    """Tell `ledger` what programs that are gone have left in `folder`; what cannot be told stays there.

    LedgerError if the ledger cannot be written.
    """

    def tell(path: Path, lines: Lines) -> bool:
        if not lines.found:
            return True
        log.warning("writing %d records that another program left in %s", len(lines.found), path)
        replay = Replay(ledger, desk)
        told = replay.tell([line.text for line in lines.found])
        if told.error is not None:
            raise told.error
        if told.failed:
            log.error("%d records could not be written: they stay in %s", len(told.failed), path)
            return False
        desk.work(replay.give_up_open)
        return True

    take_over(folder, tell)
