"""What stands before a ledger that may be away: calls are admitted to it, or to a spool, and end where they can.

It is to the gate and the settlement what a `Ledger` is. Each admission has a name of its own, so that one whose answer
was lost is found again, and one that went into the spool is held once, however often the ledger is told of it.
"""

from __future__ import annotations

import itertools
import logging
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from costguard.budgets import Budget
from costguard.errors import ConfigurationError, LedgerError
from costguard.exchange.outage import Outage
from costguard.exchange.replaying import Desk, moved
from costguard.ledger.absent import NoLedger
from costguard.ledger.accounting.attempts import Attempt
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.engine import Steps, run
from costguard.ledger.records import Admitted, Alert, Ending, NewAttempt, Refused, Unpriced
from costguard.ledger.spooled import Begun, Ended, Heard
from costguard.projects import check_name
from costguard.wire.dialect import Judgement

T = TypeVar("T")

log = logging.getLogger("costguard")


class _Flight(NamedTuple):
    """A task that was sent and has not ended: its place in its admission, whose attempts in the ledger are `ids`.

    None, where it went into the spool.
    """

    begun: Begun
    place: int
    ids: tuple[int, ...] | None


class Spooling:
    """A ledger, or what does its work while it is away; see `Outage` for when that is.

    `ledger`: None if it could not be opened; once it can be, `found` is given it. `reopen` opens it, then, and once
    more for endings that come after `close`. What is kept goes into `folder`.
    """

    def __init__(
        self,
        ledger: Ledger | None,
        folder: Path,
        desk: Desk,
        *,
        reopen: Callable[[], Ledger],
        found: Callable[[Ledger], object],
    ) -> None:
        self.ledger = ledger
        self.outage = Outage(folder, self._reach, desk)
        self._reopen = reopen
        self._found = found
        self._is_over = False
        self._now_us = desk.now_us
        self._flights: dict[int, _Flight] = {}
        self._numbers = itertools.count(-1, -1)
        """Of attempts that are in the spool alone."""
        self._media_key: bytes | None = None

    @property
    def is_closed(self) -> bool:
        """True once it was closed."""
        return self.ledger is not None and self.ledger.is_closed

    # -- admissions -----------------------------------------------------------------------------

    def admission(
        self, project: str, at_us: int, tasks: Sequence[NewAttempt], *, enforce: bool = True
    ) -> Steps[Admitted | Refused | Unpriced]:
        """As `Ledger.admission`; into the spool if the ledger is away, whose budgets nobody knows then.

        LedgerError if the spool does not take it either.
        """
        begun = Begun(uuid.uuid4().hex, project, at_us, tuple(tasks))
        if not self.outage.is_away:
            try:
                answer = yield from self._real().admission(project, at_us, tasks, enforce=enforce, key=begun.key)
            except LedgerError as error:
                if self.is_closed:
                    raise
                self.outage.failed(error)
            else:
                if isinstance(answer, Admitted):
                    self._take_off(begun._replace(held=True), answer.attempt_ids, answer.attempt_ids)
                return answer
        self.outage.begin(begun)
        numbers = tuple([next(self._numbers) for _ in tasks])
        self._take_off(begun, numbers, None)
        return Admitted(numbers, tuple([task.upper for task in tasks]))

    def _take_off(self, begun: Begun, numbers: Sequence[int], ids: tuple[int, ...] | None) -> None:
        self._flights.update({number: _Flight(begun, place, ids) for place, number in enumerate(numbers)})

    def refusal(
        self, refused: Refused | Unpriced, project: str, at_us: int, tasks: Sequence[NewAttempt]
    ) -> Steps[tuple[Alert, ...]]:
        """As `Ledger.refusal`; one that the ledger cannot count stands all the same."""
        try:
            return (yield from self._real().refusal(refused, project, at_us, tasks))
        except LedgerError as error:
            self.outage.failed(error)
            return ()

    # -- endings --------------------------------------------------------------------------------

    def conclude(self, at_us: int, endings: Sequence[Ending]) -> tuple[Alert, ...]:
        """As `Ledger.conclude`."""
        return run(self.conclusion(at_us, endings))

    def conclusion(self, at_us: int, endings: Sequence[Ending]) -> Steps[tuple[Alert, ...]]:
        """As `Ledger.conclusion`; into the spool if the ledger is away. LedgerError if that does not take it either."""
        flights = [self._flights.get(ending.attempt_id) for ending in endings]
        if None in flights:  # none of this guard's calls under way
            return (yield from self._real().conclusion(at_us, endings))
        known = [flight for flight in flights if flight is not None]
        alerts: tuple[Alert, ...] | None = None
        if self.is_closed:
            alerts = self._after_close(at_us, endings, known)
        elif not self.outage.is_away:
            try:
                alerts = yield from _concluded(self._real(), at_us, endings, known)
            except ConfigurationError as error:  # it has forgotten them: a copy, or one that took its place
                log.error("the ledger is told of these calls anew: %s", error)
            except LedgerError as error:
                self.outage.failed(error)
        if alerts is None:
            self._keep(at_us, endings, known)
        for ending in endings:
            self._flights.pop(ending.attempt_id, None)
        return alerts or ()

    def _after_close(
        self, at_us: int, endings: Sequence[Ending], flights: Sequence[_Flight]
    ) -> tuple[Alert, ...] | None:
        """The ledger is opened once more; None if it cannot be, or is not where it was."""
        if self.ledger is None or not self.ledger.is_in_place:
            return None
        try:
            ledger = self._reopen()
        except (LedgerError, ConfigurationError):
            return None
        try:
            return run(_concluded(ledger, at_us, endings, flights))
        except LedgerError:
            return None
        finally:
            ledger.close()

    def _keep(self, at_us: int, endings: Sequence[Ending], flights: Sequence[_Flight]) -> None:
        ended: dict[str, tuple[Begun, list[Ending]]] = {}
        for ending, flight in zip(endings, flights, strict=True):
            ended.setdefault(flight.begun.key, (flight.begun, []))[1].append(moved(ending, flight.place))
        for key, (begun, own) in ended.items():
            self.outage.end(begun, Ended(key, at_us, tuple(own)))

    def keep(self, judgement: Judgement, error: LedgerError | None = None) -> bool:
        """Keep what was heard of tasks, if the ledger failed to book it, or has not been told of all tasks yet."""
        if self.is_closed:
            return False
        if error is not None:
            self.outage.failed(error)
        elif not self.outage.is_behind:
            return False
        self.outage.hear(Heard(uuid.uuid4().hex, self._now_us(), judgement._replace(endings={})))
        return True

    # -- what else is asked of a ledger ---------------------------------------------------------

    def asked(self, ask: Callable[[Ledger], T]) -> T:
        """What `ask` has of the ledger; while it is away, what none has, and what is set is set once it is back."""
        if not self.outage.is_away:
            try:
                return ask(self._real())
            except LedgerError as error:
                if self.is_closed:
                    raise
                self.outage.failed(error)
        return ask(cast(Ledger, _Away(str(self.outage.why), self.outage.later)))

    def mean_completion(self, project: str, model: str, at_us: int) -> int | None:
        """As `Ledger.mean_completion`."""
        return self.asked(lambda ledger: ledger.mean_completion(project, model, at_us))

    def media_key(self) -> bytes:
        """As `Ledger.media_key`; while it is not known one of this guard's own, by which nothing is found."""
        if self._media_key is None:
            found = self.asked(lambda ledger: ledger.media_key())
            if self.outage.is_away:
                return os.urandom(32)
            self._media_key = found
        return self._media_key

    def media_counts(self, digests: Sequence[str]) -> dict[str, dict[str, int]]:
        """As `Ledger.media_counts`."""
        return self.asked(lambda ledger: ledger.media_counts(digests))

    def covering(self, project: str) -> list[Budget]:
        """As `Ledger.covering`."""
        return self.asked(lambda ledger: ledger.covering(project))

    def open_attempts(self, *which: Any) -> list[Attempt]:
        """As `Ledger.open_attempts`."""
        return self.asked(lambda ledger: ledger.open_attempts(*which))

    def _reach(self) -> Ledger:
        if self._is_over:
            raise LedgerError("the guard is closed")
        if self.ledger is None:
            self.ledger = self._reopen()
            self._found(self.ledger)
        return self.ledger

    def close(self) -> None:
        """Tell the ledger what can be told, and close it."""
        self.outage.close()
        self._is_over = True
        if self.ledger is not None:
            self.ledger.close()

    def _real(self) -> Ledger:
        if self.ledger is None:
            raise self.outage.why
        return self.ledger

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._real(), name)


class _Away(NoLedger):
    """As no ledger, but for what is set, which is only put off; it has no open attempts either."""

    def __init__(self, why: str, later: Callable[[Callable[[Ledger], object]], None]) -> None:
        super().__init__(why)
        self._later = later

    def change_budget(
        self, project: str, per: str, make: Callable[..., Budget], *rest: object, **named: object
    ) -> tuple[Budget, None]:
        """Set once the ledger is back; made now, so that mistakes in it are errors here, too."""
        budget = make(old=None)
        self._put_off(f"the budget on {project} per {per}", "change_budget", project, per, make, *rest, **named)
        return budget, None

    def remove_budget(self, *which: object, **named: object) -> bool:
        """Removed once the ledger is back."""
        self._put_off("the removal of a budget", "remove_budget", *which, **named)
        return False

    def set_ceiling(self, name: str, *rest: object, **named: object) -> None:
        """Set once the ledger is back."""
        check_name(name, "ceiling")
        self._put_off(f"the ceiling of {name}", "set_ceiling", name, *rest, **named)

    def remove_ceiling(self, *which: object, **named: object) -> bool:
        """Removed once the ledger is back."""
        self._put_off("the removal of a ceiling", "remove_ceiling", *which, **named)
        return False

    def covering(self, *_: object) -> list[Budget]:
        """None that is known."""
        return []

    def open_attempts(self, *_: object) -> list[Attempt]:
        """None that is known."""
        return []

    def _put_off(self, what: str, method: str, *arguments: object, **named: object) -> None:
        log.error(
            "%s is put off until the ledger is back, and forgotten if this program ends before: %s", what, self._why
        )
        self._later(lambda ledger: getattr(ledger, method)(*arguments, **named))


def _concluded(
    ledger: Ledger, at_us: int, endings: Sequence[Ending], flights: Sequence[_Flight]
) -> Steps[tuple[Alert, ...]]:
    """Endings of calls under way; those that went into the spool are found by their name, or held first."""
    ids: dict[str, tuple[int, ...]] = {}
    for begun, _, known in flights:
        if known is not None:
            ids[begun.key] = known
        elif begun.key not in ids:
            answer = yield from ledger.admission(
                begun.project, begun.at_us, begun.tasks, enforce=False, key=begun.key, again=True
            )
            if isinstance(answer, Admitted):
                ids[begun.key] = answer.attempt_ids
    placed = [
        moved(ending, ids[flight.begun.key][flight.place]) for ending, flight in zip(endings, flights, strict=True)
    ]
    return (yield from ledger.conclusion(at_us, placed))
