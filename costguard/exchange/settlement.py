"""Everything after a request was sent: every road by which the truth comes back leads through here."""

from __future__ import annotations

import json
import logging
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from costguard.errors import ConfigurationError, LedgerError
from costguard.exchange.charging import charge_each
from costguard.exchange.gate import Admission, Held
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.accounting.endings import OPEN
from costguard.ledger.accounting.reading import Attempt
from costguard.ledger.accounting.results import result_key
from costguard.ledger.charges import Charge, weakest
from costguard.ledger.records import Accept, Alert, Doubt, Ending, Observation, Release, Settle
from costguard.prices.book import PriceBook
from costguard.prices.price import Price
from costguard.wire.runware import answers
from costguard.wire.runware import endings as verdicts
from costguard.wire.runware import stream as sse

BACKLOG_MAX = 10_000
"""Endings kept in memory while the ledger cannot be written; their holds stay, so no budget can leak."""

EVIDENCE_CHARS_MAX = 2_000
"""Characters of figures kept as evidence of a stream that was cut."""

log = logging.getLogger("costguard")


class Finding(NamedTuple):
    """What asking after one task came to: `settled`, `released` or `open`, and why."""

    task_uuid: str
    outcome: str
    reason: str
    told: bool = True
    """False if the provider could not be asked, or refused to answer."""


class Settlement:
    """Turns what comes back into entries of the ledger."""

    def __init__(
        self,
        ledger: Ledger,
        prices: PriceBook,
        *,
        now_us: Callable[[], int],
        fire: Callable[[Iterable[Alert]], None],
        reopen: Callable[[], Ledger],
    ) -> None:
        self._reopen = reopen
        self._ledger = ledger
        self._prices = prices
        self._now_us = now_us
        self._fire = fire
        self._backlog: deque[tuple[int, Sequence[Ending]]] = deque(maxlen=BACKLOG_MAX)
        self._backlog_lock = threading.Lock()

    # -- the direct response --------------------------------------------------------------------

    def conclude(self, admission: Admission, status: int, body: bytes) -> None:
        """A whole response arrived: settle, release or leave unresolved every task of the POST."""
        envelope = answers.parse_response(body)
        judgement = verdicts.judge(admission.tasks, status, envelope)
        self._record(
            admission, {uuid: self._endings(held, judgement.endings[uuid]) for uuid, held in admission.held.items()}
        )
        polled = [task.uuid for task in admission.tasks if task.task_type == "getResponse"]
        try:
            for uuid, verdict in judgement.others.items():
                self._observe(uuid, verdict, envelope, listed=polled.count(uuid) == 1)
            if envelope and 200 <= status < 300:
                for details in envelope.details:
                    self._learn(details, frozenset())
        except LedgerError as error:
            log.error("what this answer tells of other tasks could not be written; asking again tells it: %s", error)

    def listen(self, admission: Admission, encoding: str) -> StreamListener:
        """A listener for the stream that answers `admission`; `encoding` is its Content-Encoding."""
        return StreamListener(self, admission, encoding)

    def conclude_stream(self, admission: Admission, stream: sse.Reader, cut: str | None) -> None:
        """A stream ended; `cut` says how it was cut, None if it was read to its end."""
        self._record(
            admission,
            {uuid: self._stream_endings(held, stream.outcome(uuid), cut) for uuid, held in admission.held.items()},
        )

    def _stream_endings(self, held: Held, heard: sse.Outcome, cut: str | None) -> list[Ending]:
        """A cut stream is unresolved, unless each of its results had finished and told its exact total."""
        if cut is None and not heard.is_done:
            cut = "the stream ended without [DONE]"
        doubtful = any(error.doubtful for error in heard.errors)
        if heard.items and (cut is None or heard.has_totals):
            # What did not come to its end is in doubt, whatever came whole beside it.
            short = len(heard.items) < held.task.results
            missing = not heard.is_complete or (short and (cut is not None or doubtful))
            reason = cut or f"{len(heard.items)} of {held.task.results} results came whole"
            return self._endings(held, verdicts.Success(heard.items, missing, reason if missing else ""))
        if heard.errors and not heard.frames and not doubtful:
            return [Release(held.attempt_id, f"error {heard.errors[0].code}".strip())]
        if heard.errors:
            cut = f"error in the stream {heard.errors[0].code}".strip()
        evidence: dict[str, object] = {"frames": heard.frames, "text_length": heard.text_length}
        if heard.items:
            evidence["figures"] = [item.figures.raw()[:EVIDENCE_CHARS_MAX] for item in heard.items]
        return [Doubt(held.attempt_id, cut or "the stream said nothing of the task", evidence)]

    def _endings(self, held: Held, verdict: verdicts.Ending) -> list[Ending]:
        match verdict:
            case verdicts.Success():
                charges = charge_each(
                    [item.figures for item in verdict.items],
                    price=held.estimate.price,
                    prompt_expected={m: count.expected for m, count in held.estimate.prompt.items()},
                    expected_nanos=_per_result(held.estimate.expected_nanos, held.estimate.results),
                )
                if not charges:
                    return [Doubt(held.attempt_id, "no figure came, and none can be computed")]
                reason = verdict.reason or None
                return [
                    Settle(held.attempt_id, charge, result_key(item.names, charge), verdict.partial, reason)
                    for item, charge in zip(verdict.items, charges, strict=True)
                ]
            case verdicts.Refused():
                return [Release(held.attempt_id, verdict.reason)]
            case verdicts.Doubt():
                return [Doubt(held.attempt_id, verdict.reason)]
            case verdicts.Ack():
                return [Accept(held.attempt_id)]

    def never_sent(self, admission: Admission, reason: str) -> None:
        """The request surely never left: all holds of it go back."""
        self._record(admission, {uuid: [Release(held.attempt_id, reason)] for uuid, held in admission.held.items()})

    def lose(self, admission: Admission, reason: str) -> None:
        """The request was sent and its outcome is unknown: possibly billed, so it stays held."""
        self._record(admission, {uuid: [Doubt(held.attempt_id, reason)] for uuid, held in admission.held.items()})

    def _record(self, admission: Admission, endings: Mapping[str, Sequence[Ending]]) -> None:
        """Write endings; should the ledger fail, keep them for later: the answer is the caller's to have."""
        for uuid, own in endings.items():
            _tell(admission.held[uuid], own)
        written = [ending for own in endings.values() for ending in own]
        if not written:
            return
        at_us = self._now_us()
        try:
            alerts = self._ledger.conclude(at_us, written)
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
            ledger = self._reopen()
        except LedgerError:
            return False
        try:
            self._fire(ledger.conclude(at_us, endings))
        except (LedgerError, ConfigurationError):
            return False
        finally:
            ledger.close()
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
        envelope = answers.read_payload(payload)
        if envelope is None:
            raise ConfigurationError("observe: expected a result of Runware's as JSON text, bytes, dict or list")
        if not any(envelope):
            log.info("what was observed tells of no task: nothing is recorded")
        changes = sum(
            self._observe(uuid, verdict, envelope, listed=False)
            for uuid, verdict in verdicts.outcomes(envelope).items()
        )
        return changes + sum(self._learn(details, frozenset())[1] for details in envelope.details)

    def _observe(
        self, task_uuid: str, verdict: verdicts.Ending, envelope: answers.Envelope | None, *, listed: bool
    ) -> int:
        """One task's verdict from a poll or webhook; returns the number of changes.

        `listed`: the provider lists the task's results so far, so that equal ones are different results.
        """
        attempts = self._ledger.attempts(task_uuid)
        if not attempts:
            if not isinstance(verdict, verdicts.Doubt):
                log.info("task %s is not in this ledger: what came of it is not recorded", task_uuid)
            return 0
        still_open = [attempt for attempt in attempts if attempt.status in OPEN]
        match verdict:
            case verdicts.Success():
                failed = any(error.task_uuid == task_uuid for error in (envelope.errors if envelope else ()))
                over = failed and not verdict.partial and len(still_open) == 1
                return self._note(
                    Observation(task_uuid, self._charges(attempts[0], verdict.items, distinct=listed), settled_all=over)
                )
            case verdicts.Refused() if len(still_open) == 1:
                return self._note(Observation(task_uuid, settled_all=True, release=verdict.reason))
            case verdicts.Doubt():
                # One whose request is under way will tell by itself.
                ended = [a for a in still_open if a.ended_us is not None and a.status == "held"]
                alerts = self._ledger.conclude(self._now_us(), [Doubt(attempt.id, verdict.reason) for attempt in ended])
                self._fire(alerts)
        return 0

    def _note(self, seen: Observation) -> int:
        alerts, changes = self._ledger.observe(self._now_us(), seen)
        self._fire(alerts)
        return changes

    def _charges(
        self, attempt: Attempt, items: Sequence[answers.Item], *, distinct: bool
    ) -> tuple[tuple[str, Charge | None], ...]:
        """Key and charge of each result. `distinct`: equal ones are different results, not repetitions,
        but never more of them than were asked for.
        """
        most = sum(one.results for one in self._ledger.attempts(attempt.task_uuid))
        counts = json.loads(attempt.estimate)
        price = self._price(attempt)
        prompt = {m: count[0] for m, count in counts.items() if m not in ("completion", "media")}
        expected = _per_result(attempt.expected, attempt.results)
        found: list[tuple[str, Charge | None]] = []
        for item in items:
            charges = charge_each([item.figures], price=price, prompt_expected=prompt, expected_nanos=expected)
            charge = charges[0] if charges else None
            key = result_key(item.names, charge)
            is_repeated = any(key == other for other, _ in found)
            if not is_repeated or ((distinct or not item.names) and len(found) < most):
                found.append((key, charge))
        return tuple(found)

    def _price(self, attempt: Attempt) -> Price | None:
        known = self._prices.find(attempt.model)
        try:
            return known.at(attempt.at_us) if known else None
        except ConfigurationError:
            return None

    # -- getTaskDetails -------------------------------------------------------------------------

    def _learn(self, details: answers.Details, over: frozenset[int]) -> tuple[str, int]:
        """What the provider's record says of one task: (reason it stays open or "", changes).

        `over`: the task's attempts that no request was under way for when the provider was asked.
        """
        attempts = self._ledger.attempts(details.task_uuid)
        if not attempts:
            return "it is not in this ledger", 0
        envelope = details.envelope
        if envelope is None or not (envelope.items or envelope.errors):
            return "the provider has no response for it yet", 0
        results = [
            item
            for item in envelope.items
            if item.status == "success" or (item.has_result and item.status != "processing")
        ]
        waiting = len(results) < len(envelope.items)
        if not results and waiting:
            return "it is still being processed", 0
        release = "getTaskDetails shows no further results"
        if not results:
            release = f"getTaskDetails shows only errors {envelope.errors[0].code}".strip()
        charges = self._charges(attempts[0], results, distinct=True)
        seen = Observation(details.task_uuid, charges, whole=True, settled_all=not waiting, over=over, release=release)
        changes = self._note(seen)
        if waiting:
            return "more results are under way", changes
        if any(charge is None for _, charge in charges):
            return "a result without a figure, and none can be computed", changes
        return "", changes

    def learn(
        self, asked: Mapping[str, frozenset[int]], status: int, body: bytes, min_age_us: int | None
    ) -> list[Finding]:
        """Book the answer to `getTaskDetails` for the tasks `asked`; what became of each.

        `asked`: taskUUID -> its attempts that no request was under way for when the question was sent: only
        these may be released by the answer. A task the provider does not know is released if the process that
        sent it is dead or its request ended more than `min_age_us` ago; never if that is None, for a client
        that was not chosen for the question may hold the key of another account.
        """
        succeeded = 200 <= status < 300
        # Any other status, 401 above all, speaks of the question: "key not found" must release nothing.
        envelope = answers.parse_response(body) if succeeded or status in (400, 404) else None
        if envelope is None:
            return [Finding(uuid, "open", f"the provider answered http {status}", told=False) for uuid in asked]
        details = {found.task_uuid: found for found in envelope.details}
        errors = {error.task_uuid: error for error in envelope.errors}
        findings = []
        for uuid, over in asked.items():
            reason = "the provider's answer does not mention it"
            if uuid in details:
                reason, _ = self._learn(details[uuid], over)
            elif uuid in errors or "" in errors:
                error = errors.get(uuid) or errors[""]
                if uuid in errors and error.not_found:
                    reason = self._not_found(uuid, over, min_age_us)
                else:
                    reason = f"the provider answered {error.code or f'http {status}'}"
            told = succeeded or uuid in details or uuid in errors
            findings.append(self._found(uuid, reason)._replace(told=told))
        return findings

    def _not_found(self, task_uuid: str, over: frozenset[int], min_age_us: int | None) -> str:
        reason = "the provider does not know it"
        if min_age_us is None:
            return f"{reason}; `costguard reconcile` with the right key may release it"
        self._fire(self._ledger.release_unknown(self._now_us(), task_uuid, min_age_us, reason, over))
        return f"{reason}, but it was sent too lately or its process still runs"

    def _found(self, task_uuid: str, reason: str) -> Finding:
        task = self._ledger.task(task_uuid)
        if task is None:
            return Finding(task_uuid, "open", reason)
        if task.status in OPEN:
            return Finding(task_uuid, "open", reason or task.reason or "it is not settled")
        return Finding(task_uuid, task.status, task.reason or "")


class StreamListener:
    """Hears one stream and settles its tasks when it ends. Feeding never blocks and never raises."""

    def __init__(self, settlement: Settlement, admission: Admission, encoding: str) -> None:
        self._settlement = settlement
        self._admission = admission
        self._reader = sse.Reader({uuid: held.task.results for uuid, held in admission.held.items()})
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 32) if encoding in ("gzip", "deflate") else None
        self._cut = None if encoding in ("", "identity", "gzip", "deflate") else f"the stream is encoded as {encoding}"
        self._ended = False

    def feed(self, chunk: bytes) -> None:
        """One chunk as it came over the wire."""
        if self._cut is not None:
            return
        if self._inflate is not None:
            try:
                chunk = self._inflate.decompress(chunk)
            except zlib.error:
                self._cut = "the stream's encoding cannot be read"
                return
        self._reader.feed(chunk)

    def end(self, cut: str | None) -> None:
        """The stream is over; a second call changes nothing."""
        if not self._ended:
            self._ended = True
            self._reader.finish()
            self._settlement.conclude_stream(self._admission, self._reader, cut or self._cut)


def _per_result(nanos: int | None, results: int) -> int | None:
    return None if nanos is None else nanos // results


def _tell(held: Held, endings: Sequence[Ending]) -> None:
    """Keep the receipt up to date."""
    receipt = held.receipt
    charged = 0
    for ending in endings:
        match ending:
            case Settle():
                charged += ending.charge.nanos
                receipt.status = "unresolved" if ending.keep_rest else "settled"
                receipt.charged_nanos = charged
                receipt.basis = weakest(receipt.basis, ending.charge.basis) if receipt.basis else ending.charge.basis
            case Release():
                receipt.status, receipt.charged_nanos = "released", 0
            case Doubt():
                receipt.status = "unresolved"
