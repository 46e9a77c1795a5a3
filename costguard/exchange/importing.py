"""An import: the pieces of a file, read, charged and booked, some hundred a transaction."""

from __future__ import annotations

from collections.abc import Callable
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
    something was left out; tasks that are `idle`, see `recorded.Reading`; and the first `faults`.
    """

    after: int
    lines: int
    bad: int
    idle: int
    booking: Booking
    faults: tuple[Fault, ...]


def import_pieces(
    importer: Importer,
    pieces: Pieces,
    reader: Reader,
    *,
    now_us: Callable[[], int],
    progress: Callable[[int], object] | None = None,
    faults_max: int = FAULTS_MAX,
) -> Imported:
    """Book what the pieces of a file tell. What is booked already is not booked again: it may be stopped at any time.

    `progress` is told how many bytes are booked. LedgerError if the ledger cannot be written.
    """
    after = pieces.number
    tasks: list[Recorded] = []
    faults: list[Fault] = []
    lines = bad = idle = 0
    booking = Booking()
    done = [0, 0]

    def book() -> None:
        nonlocal booking
        mark = Mark(pieces.offset, pieces.number, pieces.digest, clean=not bad)
        booking = booking.plus(importer.add(now_us(), Batch(tasks, lines - done[0], bad - done[1], mark)))
        done[:] = lines, bad
        tasks.clear()
        if progress is not None:
            progress(pieces.offset)

    for piece in pieces:
        lines += 1
        told = reader.read(piece)
        tasks += told.tasks
        idle += told.idle
        bad += bool(told.faults)
        if told.faults and len(faults) < faults_max:
            faults += [Fault(piece.number, why) for why in told.faults[: faults_max - len(faults)]]
        if lines - done[0] >= BATCH_LINES:
            book()
    if lines > done[0]:
        book()
    return Imported(after, lines, bad, idle, booking, tuple(faults))
