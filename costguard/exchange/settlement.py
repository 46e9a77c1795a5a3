"""Everything after a request was sent: every road by which the truth comes back leads through here."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from costguard import wire
from costguard.errors import ConfigurationError, LedgerError
from costguard.estimating.estimate import read_kept
from costguard.exchange.admission import Admission, Held, tell
from costguard.exchange.charging import charge_each
from costguard.exchange.listening import StreamListener
from costguard.exchange.offload import in_one_wait
from costguard.ledger.accounting.attempts import OPEN, Attempt
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.accounting.endings import is_taken
from costguard.ledger.accounting.results import result_key
from costguard.ledger.charges import Charge
from costguard.ledger.engine import Steps
from costguard.ledger.records import Accept, Alert, Called, Doubt, Ending, Observation, Release, Settle
from costguard.prices.book import PriceBook
from costguard.prices.model import AnyPrice
from costguard.projects import check_name
from costguard.tasks import canonical
from costguard.wire import dialect as told
from costguard.wire.dialect import Dialect, Judgement, Record, Result

BACKLOG_MAX = 10_000
"""Endings kept in memory while the ledger cannot be written; their holds stay, so no budget can leak."""

Keep = Callable[[Judgement, LedgerError | None], bool]
"""See `Settlement`."""

log = logging.getLogger("costguard")


class Finding(NamedTuple):
    """What asking after one task came to: `settled`, `released` or `open`, and why."""

    task_uuid: str
    outcome: str
    reason: str
    told: bool | None = True
    """False if the provider could not be asked, or refused to answer; None if there is no way to ask it."""


class Settlement:
    """Turns what comes back into entries of the ledger.

    `work` runs something that may wait for the ledger, for no longer than a call may. `keep` is asked to keep what was
    heard of tasks: without an error before the ledger is asked, and with one if that failed; False if it does not.
    """

    def __init__(
        self,
        ledger: Ledger,
        prices: PriceBook,
        *,
        now_us: Callable[[], int],
        fire: Callable[[Iterable[Alert]], None],
        reopen: Callable[[], Ledger],
        work: Callable[[Callable[[], Any]], Any] = in_one_wait,
        keep: Keep | None = None,
    ) -> None:
        self._reopen = reopen
        self._work = work
        self._keep = keep or _keep_nothing
        self._ledger = ledger
        self._prices = prices
        self._now_us = now_us
        self._fire = fire
        self._backlog: deque[tuple[int, Sequence[Ending]]] = deque(maxlen=BACKLOG_MAX)
        self._backlog_lock = threading.Lock()

    # -- the direct response --------------------------------------------------------------------

    def conclude(self, admission: Admission, status: int, body: bytes) -> Steps[None]:
        """A whole response arrived: settle, release or leave unresolved every task of the POST."""
        yield from self.answer(admission, admission.dialect.judge(admission.tasks, status, body))

    def listen(self, admission: Admission) -> StreamListener:
        """What hears the stream that answers `admission`, and books its end."""
        return StreamListener(admission, self.answer, self._work)

    def answer(self, admission: Admission, judgement: Judgement) -> Steps[None]:
        """Book how some or all tasks of `admission` end, and what is told of others besides."""
        told = {uuid: self._endings(admission.held[uuid], ending) for uuid, ending in judgement.endings.items()}
        for uuid in told.keys() & judgement.aliases.keys():
            told[uuid].append(Called(admission.held[uuid].attempt_id, judgement.aliases[uuid]))
        yield from self._record(admission, told)
        try:
            if judgement.others or judgement.records:
                self._observe_all(judgement)
        except LedgerError as error:
            log.error("what this answer tells of other tasks could not be written; asking again tells it: %s", error)

    def _endings(self, held: Held, ending: told.Ending) -> list[Ending]:
        match ending:
            case told.Success():
                charges = charge_each(
                    [result.figures for result in ending.results],
                    price=held.estimate.price,
                    prompt_expected={m: count.expected for m, count in held.estimate.prompt.items()},
                    expected_nanos=_per_result(held.estimate.expected_nanos, held.estimate.results),
                    asked=held.estimate.output,
                )
                if not charges:
                    return [Doubt(held.attempt_id, "no figure came, and none can be computed", taken=True)]
                reason = ending.reason or None
                return [
                    Settle(held.attempt_id, charge, result_key(result.names, charge), ending.partial, reason)
                    for result, charge in zip(ending.results, charges, strict=True)
                ]
            case told.Refused():
                return [Release(held.attempt_id, ending.reason)]
            case told.Doubt():
                return [Doubt(held.attempt_id, ending.reason, ending.evidence, ending.taken)]
            case told.Ack():
                return [Accept(held.attempt_id)]

    def never_sent(self, admission: Admission, reason: str) -> Steps[None]:
        """The request surely never left: all holds of it go back."""
        yield from self._record(
            admission, {uuid: [Release(held.attempt_id, reason)] for uuid, held in admission.held.items()}
        )

    def lose(self, admission: Admission, reason: str) -> Steps[None]:
        """The request was sent and its outcome is unknown: possibly billed, so it stays held."""
        yield from self._record(
            admission, {uuid: [Doubt(held.attempt_id, reason)] for uuid, held in admission.held.items()}
        )

    def _record(self, admission: Admission, endings: Mapping[str, Sequence[Ending]]) -> Steps[None]:
        """Write endings; should the ledger fail, keep them for later: the answer is the caller's to have."""
        for uuid, own in endings.items():
            tell(admission.held[uuid], own)
        written = [ending for own in endings.values() for ending in own]
        if not written:
            return
        at_us = self._now_us()
        try:
            alerts = yield from self._ledger.conclusion(at_us, written)
        except LedgerError as error:
            if self._ledger.is_closed:
                if not self._write_late(at_us, written):
                    log.error("an ending came after the ledger was closed and could not be written: %s", error)
                return
            if len(self._backlog) == BACKLOG_MAX:
                log.error("too many endings wait to be written: the oldest is given up, its hold stays")
            self._backlog.append((at_us, written))
            log.error("the ledger could not be written; the call stays held and is written later: %s", error)
        else:
            self._fire(alerts)

    def _write_late(self, at_us: int, endings: Sequence[Ending]) -> bool:
        """The guard was closed while this call was on its way: open the ledger once more for its ending."""
        if not self._ledger.is_in_place:
            return False
        try:
            with closing(self._reopen()) as ledger:
                self._fire(ledger.conclude(at_us, endings))
        except (LedgerError, ConfigurationError):
            return False
        return True

    @property
    def is_behind(self) -> bool:
        """True if some endings are still to be written."""
        return bool(self._backlog)

    def drain(self) -> None:
        """Write what could not be written before; LedgerError if it still cannot.

        Returns at once if another thread is at it, or this one was interrupted while it was.
        """
        if not self._backlog or not self._backlog_lock.acquire(blocking=False):
            return
        try:
            while self._backlog:
                at_us, endings = self._backlog[0]
                try:
                    alerts = self._ledger.conclude(at_us, endings)
                except ConfigurationError as error:  # another ledger is in its place
                    log.error("an ending can never be written: %s", error)
                    alerts = ()
                self._backlog.popleft()
                self._fire(alerts)
        finally:
            self._backlog_lock.release()

    # -- every other road -----------------------------------------------------------------------

    def observe(self, payload: object) -> int:
        """See `Guard.observe`."""
        judgements = [found for dialect in wire.DIALECTS if (found := dialect.observe(payload)) is not None]
        if not judgements:
            raise ConfigurationError("observe: expected a result of Runware's as JSON text, bytes, dict or list")
        if not any(judgement.others or judgement.records for judgement in judgements):
            log.info("what was observed tells of no task: nothing is recorded")
        return sum(self._observe_all(judgement) for judgement in judgements)

    def _observe_all(self, judgement: Judgement) -> int:
        """What something tells of tasks that it does not answer; returns the number of changes."""
        if self._keep(judgement, None):
            return 0
        try:
            return self.book(judgement)
        except LedgerError as error:
            if not self._keep(judgement, error):
                raise
        return 0

    def book(self, judgement: Judgement) -> int:
        """Book what a judgement says of tasks that it does not answer; returns the number of changes."""
        changes = sum(
            [self._observe(uuid, ending, listed=uuid in judgement.listed) for uuid, ending in judgement.others.items()]
        )
        return changes + sum([self._learn(record, frozenset(), None)[1] for record in judgement.records])

    def _observe(self, task_uuid: str, ending: told.Ending, *, listed: bool) -> int:
        """What a poll or webhook tells of one task; returns the number of changes.

        `listed`: the provider lists the task's results so far, so that equal ones are different results.
        """
        attempts = self._ledger.attempts(task_uuid)
        if not attempts:
            called = self._ledger.called(task_uuid)
            if len(called) == 1:
                return self._observe(called[0], ending, listed=listed)
            if called:
                log.warning("%s: %d tasks were answered by that name: nothing was changed", task_uuid, len(called))
            elif not isinstance(ending, told.Doubt):
                log.info("task %s is not in this ledger: what came of it is not recorded", task_uuid)
            return 0
        still_open = [attempt for attempt in attempts if attempt.status in OPEN]
        match ending:
            case told.Success():
                over = ending.failed and not ending.partial and len(still_open) == 1
                charges = self._charges(attempts, ending.results, distinct=listed)
                return self._note(Observation(task_uuid, charges, settled_all=over, taken=ending.partial))
            case told.Refused() if len(still_open) == 1:
                return self._note(Observation(task_uuid, settled_all=True, release=ending.reason))
            case told.Ack():
                return self._note_taken(task_uuid, still_open)
            case told.Doubt():
                if ending.taken:
                    self._note_taken(task_uuid, still_open)
                # One whose request is under way will tell by itself.
                ended = [a for a in still_open if a.ended_us is not None and a.status == "held"]
                alerts = self._ledger.conclude(self._now_us(), [Doubt(attempt.id, ending.reason) for attempt in ended])
                self._fire(alerts)
        return 0

    def _note_taken(self, task_uuid: str, attempts: Sequence[Attempt]) -> int:
        """The provider is at work on it: said at every poll, and written once."""
        if all(attempt.accepted or attempt.status not in OPEN for attempt in attempts):
            return 0
        return self._note(Observation(task_uuid, taken=True))

    def _note(self, seen: Observation) -> int:
        alerts, changes = self._ledger.observe(self._now_us(), seen)
        self._fire(alerts)
        return changes

    def _charges(
        self, attempts: Sequence[Attempt], results: Sequence[Result], *, distinct: bool
    ) -> tuple[tuple[str, Charge | None], ...]:
        """Key and charge of each result. `distinct`: equal ones are different results, not repetitions,
        but never more of them than were asked for.
        """
        attempt = attempts[0]
        most = sum(one.results for one in attempts)
        prompt, asked = read_kept(attempt.estimate)
        price = self._price(attempt)
        expected = _per_result(attempt.expected, attempt.results)
        found: list[tuple[str, Charge | None]] = []
        for result in results:
            charges = charge_each(
                [result.figures], price=price, prompt_expected=prompt, expected_nanos=expected, asked=asked
            )
            charge = charges[0] if charges else None
            key = result_key(result.names, charge)
            is_repeated = any(key == other for other, _ in found)
            if not is_repeated or ((distinct or not result.names) and len(found) < most):
                found.append((key, charge))
        return tuple(found)

    def _price(self, attempt: Attempt) -> AnyPrice | None:
        known = self._prices.of(attempt.model, attempt.task_type)
        try:
            return known.entry(attempt.at_us) if known else None
        except ConfigurationError:
            return None

    # -- the provider's own record --------------------------------------------------------------

    def _learn(self, record: Record, over: frozenset[int], unknown_age_us: int | None) -> tuple[str, int]:
        """What the provider's record says of one task: (reason it stays open or "", changes).

        `over` and `unknown_age_us`: see `learn`.
        """
        attempts = self._ledger.attempts(record.task_uuid)
        if not attempts:
            return "it is not in this ledger", 0
        if record.results is None:
            return record.reason, self._note_taken(record.task_uuid, attempts)  # it is known, at least
        charges = self._charges(attempts, record.results, distinct=True)
        seen = Observation(
            record.task_uuid,
            charges,
            whole=True,
            settled_all=not record.waiting,
            over=over,
            release=None if record.waiting else record.reason,
            unknown_age_us=unknown_age_us,
            taken=record.waiting,
        )
        changes = self._note(seen)
        if record.waiting:
            return record.reason, changes
        if any(charge is None for _, charge in charges):
            return "a result without a figure, and none can be computed", changes
        return self._why_open(record.task_uuid, "the provider shows no further results", unknown_age_us), changes

    def learn(
        self,
        dialect: Dialect,
        asked: Mapping[str, frozenset[int]],
        status: int,
        body: bytes,
        unknown_age_us: int | None,
    ) -> list[Finding]:
        """Book the answer to a question for the tasks `asked`; what became of each.

        `asked`: task -> its attempts that no request was under way for when the question was sent: only
        these may be released by the answer. A task the provider does not know is released once it was admitted
        `unknown_age_us` ago, unless the provider took it, and so is an attempt beyond what is on record; never if
        that is None, for a client that was not chosen for the question may hold the key of another account.
        """
        answers = dialect.answers(asked, status, body)
        findings = []
        for uuid, over in asked.items():
            is_told = answers.told or uuid in answers.records or uuid in answers.unknown or uuid in answers.refusals
            if uuid in answers.records:
                reason, _ = self._learn(answers.records[uuid], over, unknown_age_us)
            elif uuid in answers.unknown:
                reason = self._not_found(uuid, over, unknown_age_us)
            else:
                reason = answers.refusals.get(uuid, answers.general)
            findings.append(self._found(uuid, reason)._replace(told=is_told))
        return findings

    def _not_found(self, task_uuid: str, over: frozenset[int], unknown_age_us: int | None) -> str:
        """Release what is old enough; why the rest stays open. A record may be written only when the work is done."""
        reason = "the provider does not know it"
        if unknown_age_us is None:
            return f"{reason}; `costguard reconcile` with the right key may release it"
        self._fire(self._ledger.release_unknown(self._now_us(), task_uuid, unknown_age_us, reason, over))
        if any(is_taken(attempt) for attempt in self._ledger.attempts(task_uuid) if attempt.status in OPEN):
            return f"{reason}, but it once took it: `costguard tasks resolve` when you know what it came to"
        return self._why_open(task_uuid, reason, unknown_age_us)

    def _why_open(self, task_uuid: str, reason: str, unknown_age_us: int | None) -> str:
        """Why something of a task may stay open although `reason`; "" if nothing does."""
        still_open = [attempt for attempt in self._ledger.attempts(task_uuid) if attempt.status in OPEN]
        if not still_open:
            return ""
        if unknown_age_us is None:
            return f"{reason}; `costguard reconcile` may release the rest"
        if any(self._now_us() - attempt.at_us < unknown_age_us for attempt in still_open):
            return f"{reason}, but may still be at work on it: it was sent too lately to be released"
        return f"{reason}, but its request may still be under way"

    def _found(self, task_uuid: str, reason: str) -> Finding:
        task = self._ledger.task(task_uuid)
        if task is None:
            return Finding(task_uuid, "open", reason)
        if task.status in OPEN:
            return Finding(task_uuid, "open", reason or task.reason or "it is not settled")
        return Finding(task_uuid, task.status, task.reason or "")

    def resolve(self, task_uuid: str, nanos: int | None, reason: str) -> None:
        """An operator's word: see `Guard.resolve`."""
        check_name(reason, "reason")
        self._fire(self._ledger.correct(self._now_us(), canonical(task_uuid), nanos, reason))


def _keep_nothing(_: Judgement, __: LedgerError | None) -> bool:
    return False


def _per_result(nanos: int | None, results: int) -> int | None:
    return None if nanos is None else nanos // results
