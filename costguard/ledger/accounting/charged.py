"""What was charged for the tasks of a period, attempt by attempt: read from the journal itself, page by page."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from costguard.budgets import Window
from costguard.ledger.accounting.naming import Names, meant
from costguard.ledger.accounting.reading import Reading
from costguard.ledger.accounting.spending import Span
from costguard.ledger.accounting.sql import covered
from costguard.ledger.charges import Basis, CacheReading, Line, read_lines
from costguard.ledger.engine import Tx
from costguard.projects import ROOT, covers

PAGE = 2_000
"""Attempts that are read at once: some hundredths of a second, and a few megabytes."""

_SLACK_US = 2 * 86_400 * 1_000_000
"""The day of an attempt was cut by the rules of its zone then: no more than this from where they cut it now."""

_ATTEMPT = "id, task_uuid, project, task_type, model, tags, at_us, day, estimate"
_CHARGES = (
    "SELECT a.id, a.task_uuid, a.project, a.task_type, a.model, a.tags, a.at_us, a.day, c.seq, c.at_us, c.spent,"
    " c.basis, c.price_id, c.results, c.replaces, c.reasoning_tokens, c.lines, c.prompt_tokens, c.completion_tokens,"
    " c.cached_tokens, c.cache_reading, a.estimate"
    f" FROM (SELECT {_ATTEMPT} FROM attempts WHERE {{}} ORDER BY at_us, id LIMIT ?) a"
    " LEFT JOIN entries c ON c.attempt_id = a.id AND c.kind <> 'hold' AND c.kind = 'charge' AND c.seq <= ?"
    " ORDER BY a.at_us, a.id, c.seq"
)
_IS_OF = itemgetter(slice(0, 8))


class BookedCharge(NamedTuple):
    """A charge as the journal has it, in nano-USD: `replaces` is the number of the one that it takes back."""

    seq: int
    at_us: int
    nanos: int
    basis: Basis
    price_id: str | None
    results: int
    replaces: int | None
    reasoning: int | None
    lines: list[Line]
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    cache_reading: CacheReading | None = None


class ChargedAttempt(NamedTuple):
    """An attempt with all that was charged for it, in the order of the journal. `project` is its present name."""

    id: int
    task_uuid: str
    project: str
    task_type: str
    model: str
    tags: str
    """JSON."""
    at_us: int
    charges: list[BookedCharge]
    estimate: str = "{}"
    """JSON: tokens by modality, expected and upper."""


class Charged(Reading):
    """The part of `Ledger` that tells what was charged, one by one."""

    def charged(self, span: Span, project: str | None = None, *, page: int = PAGE) -> Iterator[ChargedAttempt]:
        """The attempts admitted in `span` that were charged, in the order of their admission; of `project`, see
        `naming.meant`, and below.

        As the ledger was when the first one is asked for, however long the reader takes: charges are only ever added
        and numbered, so pages that leave out later numbers are of one moment. Each is a snapshot of its own: a long
        one would keep the log from being put away, and a reader without a lock may have to read a page again.
        """
        last, names, project = self._read(functools.partial(_moment, project))
        after: tuple[int, int] | None = None
        while True:
            rows, after = self._read(functools.partial(self._page, span, (project, names), after, last, page))
            for _, charges in groupby(rows, key=_IS_OF):
                found = list(charges)
                attempt_id, task_uuid, booked_on, task_type, model, tags, at_us = found[0][:7]
                if found[0][8] is None or not self._is_in(span, at_us, found[0][7]):
                    continue
                name = names.present(booked_on)
                if project is None or covers(project, name):
                    booked = [BookedCharge._make((*row[8:16], read_lines(row[16]), *row[17:21])) for row in found]
                    yield ChargedAttempt(
                        attempt_id, task_uuid, name, task_type, model, tags, at_us, booked, found[0][21]
                    )  # fmt: skip
            if after is None:
                return

    def held_in(self, span: Span, project: str | None = None) -> tuple[int, int]:
        """How many tasks admitted in `span` may still be charged, and the nano-USD that are held for them."""

        def op(tx: Tx) -> tuple[int, int]:
            _, names, shown = _moment(project, tx)
            found = [
                attempt
                for attempt in self._open(tx, ROOT, Window(span.start_us, span.end_us))
                if shown is None or covers(shown, names.present(attempt.project))
            ]
            return len({attempt.task_uuid for attempt in found}), sum(attempt.held for attempt in found)

        return self._read(op)

    def _is_in(self, span: Span, at_us: int, day: str) -> bool:
        """An attempt belongs to the day of its admission, as that was cut then; in another zone, to its instant."""
        if span.days is not None and span.timezone == self.timezone:
            return span.days[0] <= day < span.days[1]
        return span.start_us <= at_us < span.end_us

    @staticmethod
    def _page(
        span: Span, of: tuple[str | None, Names], after: tuple[int, int] | None, last: int, page: int, tx: Tx
    ) -> tuple[list[tuple[Any, ...]], tuple[int, int] | None]:
        """The next attempts with their charges, and where the page after them begins; None if there is none."""
        project, names = of
        below, projects = covered(project) if project is not None and not names.has_moved else ("1=1", ())
        start_us, end_us = span.start_us - _SLACK_US, span.end_us + _SLACK_US
        rows: list[tuple[Any, ...]] = []
        room = page

        def read(condition: str, parameters: Sequence[int]) -> None:
            nonlocal room
            found = tx.all(_CHARGES.format(f"{condition} AND {below}"), (*parameters, *projects, room, last))
            room -= len({row[0] for row in found})
            rows.extend(found)

        if after is None:
            read("at_us >= ? AND at_us < ?", (start_us, end_us))
        else:
            # Many may be of one instant, an import's say: of these by number, so that none is looked at twice.
            read("at_us = ? AND id > ?", after)
            if room:
                read("at_us > ? AND at_us < ?", (after[0], end_us))
        return rows, None if room else (rows[-1][6], rows[-1][0])


def _moment(project: str | None, tx: Tx) -> tuple[int, Names, str | None]:
    """The journal's last number, what projects are called, and the present name of the one that `project` means."""
    (last,) = tx.one("SELECT coalesce(max(seq), 0) FROM entries") or (0,)
    names = Names.read(tx)
    return last, names, None if project is None else meant(tx, names, project)
