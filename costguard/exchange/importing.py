"""An import: the pieces of a file, read, charged and booked, some hundred a transaction."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import NamedTuple

from costguard.exchange.pieces import Pieces
from costguard.exchange.recorded import Reader
from costguard.ledger.accounting.importing import Batch, Booking, Importer, Mark, Recorded

BATCH_LINES = 500
"""Lines whose results are booked in one transaction: calls that wait for it wait a tenth of a second."""

FAULTS_MAX = 20
"""Faults that are kept to be shown; all are counted."""


class Fault(NamedTuple):
    """A line, or an item of an array, of which something was left out, and why."""

    number: int
    why: str


class Imported(NamedTuple):
    """What an import came to: `lines` that were read, after `after` that were read before; `bad` ones, of which
    something was left out; tasks that are `idle`, see `recorded.Reading`; and the first `faults`. `bytes` of the file
    are behind it.
    """

    after: int
    lines: int
    bad: int
    idle: int
    booking: Booking
    faults: tuple[Fault, ...]
    bytes: int = 0


def import_pieces(
    importer: Importer,
    pieces: Pieces,
    reader: Reader,
    *,
    now_us: Callable[[], int],
    progress: Callable[[Imported], object] | None = None,
    faults_max: int = FAULTS_MAX,
) -> Imported:
    """Book what the pieces of a file tell. What is booked already is not booked again: it may be stopped at any time.

    `progress` is told what is booked so far, after each transaction. LedgerError if the ledger cannot be written.
    """
    after = pieces.number
    tasks: list[Recorded] = []
    faults: list[Fault] = []
    bad: set[int] = set()  # of the lines that are not booked yet
    lines = all_bad = idle = booked = 0
    booking = Booking()

    def found() -> Imported:
        return Imported(after, lines, all_bad, idle, booking, tuple(faults), pieces.offset)

    def book() -> None:
        nonlocal booking, booked, all_bad
        mark = Mark(pieces.offset, pieces.number, pieces.digest, clean=not (all_bad or bad))
        came, conflicts = importer.add(now_us(), Batch(tasks, lines - booked, frozenset(bad), mark))
        bad.update(conflict.number for conflict in conflicts)
        faults.extend(Fault(*conflict) for conflict in conflicts)
        faults.sort(key=attrgetter("number"))
        del faults[faults_max:]
        booking, booked, all_bad = booking.plus(came), lines, all_bad + len(bad)
        tasks.clear()
        bad.clear()
        if progress is not None:
            progress(found())

    for piece in pieces:
        lines += 1
        told = reader.read(piece)
        tasks += told.tasks
        idle += told.idle
        if told.faults:
            bad.add(piece.number)
            faults += [Fault(piece.number, why) for why in told.faults[:faults_max]]
        if lines - booked >= BATCH_LINES:
            book()
    if lines > booked:
        book()
    return found()
