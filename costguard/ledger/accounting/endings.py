"""How attempts end: by their own response, by another road, by a question, or by an operator's word."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import attrgetter

from costguard.errors import ConfigurationError
from costguard.ledger.accounting.attempts import ATTEMPT, OPEN, Attempt
from costguard.ledger.accounting.improving import Improving, correction
from costguard.ledger.accounting.results import same_results
from costguard.ledger.accounting.sql import LOCK_LEASES, LOCK_TASK, LOCK_TASKS, OF_TASK, marks, of_task
from costguard.ledger.charges import BEYOND_NOTE, Charge
from costguard.ledger.engine import Steps, Tx, run
from costguard.ledger.owner import who
from costguard.ledger.records import Accept, Alert, Called, Doubt, Ending, Observation, Release, Settle

_ATTEMPT_AND_OTHERS = (
    f"SELECT {ATTEMPT}, EXISTS (SELECT 1 FROM attempts b WHERE b.name_hash = attempts.name_hash"
    " AND b.task_uuid = attempts.task_uuid AND b.id <> attempts.id),"
    f" EXISTS (SELECT 1 FROM attempts b WHERE {OF_TASK})"
    " FROM attempts WHERE id = ?"
)

_ALIAS = "INSERT INTO aliases (name, task_uuid) VALUES (?,?) ON CONFLICT DO NOTHING"


class Endings(Improving):
    """The part of `Ledger` that learns what became of attempts."""

    def conclude(self, at_us: int, endings: Sequence[Ending]) -> tuple[Alert, ...]:
        """Record how attempts ended, all in one transaction; an attempt that ended before is left alone.

        Returns the alerts this transaction claimed, to be fired once it is committed.
        """
        return run(self.conclusion(at_us, endings))

    def conclusion(self, at_us: int, endings: Sequence[Ending]) -> Steps[tuple[Alert, ...]]:
        """The steps of `conclude`."""

        def op(tx: Tx) -> list[Alert]:
            alerts = self._claimed_before(tx, at_us)
            ids = sorted({ending.attempt_id for ending in endings})
            tx.lock(LOCK_TASKS.format(marks(len(ids)) or "NULL"), ids)
            for name in sorted({ending.name for ending in endings if isinstance(ending, Called)}):
                tx.lock(LOCK_TASK, of_task(name))
            if len(ids) > 1:
                tx.lock(LOCK_LEASES.format(marks(len(ids))), ids)
            for attempt_id, own in groupby(endings, attrgetter("attempt_id")):
                alerts += self._conclude(tx, at_us, attempt_id, list(own))
            return alerts

        return tuple((yield from self._writing(op, beside=True)))

    def _conclude(self, tx: Tx, at_us: int, attempt_id: int, endings: Sequence[Ending]) -> list[Alert]:
        name = next((ending.name for ending in endings if isinstance(ending, Called)), "")
        row = tx.one(_ATTEMPT_AND_OTHERS, (*of_task(name), attempt_id))
        if row is None:
            raise ConfigurationError(f"the ledger knows no attempt {attempt_id}")
        siblings, is_known, attempt = row[-2], row[-1], Attempt._make(row[:-2])
        settles = [ending for ending in endings if isinstance(ending, Settle)]
        if name:
            tx.run(_ALIAS, (name, attempt.task_uuid))
            given = self._give_way(tx, at_us, attempt, name, settles) if is_known else None
            if given is not None:
                return given
        if settles:
            is_first = not siblings and not attempt.seen and attempt.status in OPEN
            return self._settle(tx, at_us, attempt, settles, is_first=is_first)
        alerts = []
        for ending in endings if attempt.status in OPEN else ():
            match ending:
                case Release():
                    alerts += self._post(tx, at_us, attempt, 0, None, _freed(attempt), ending.reason, ended_us=at_us)
                case Doubt():
                    taken = 1 if ending.taken else None
                    self._mark(tx, at_us, attempt, "unresolved", ending.reason, ending.evidence, taken)
                case Accept():
                    self._mark(tx, at_us, attempt, attempt.status, "accepted, the result is to come", accepted=1)
        return alerts

    def _settle(
        self, tx: Tx, at_us: int, attempt: Attempt, settles: Sequence[Settle], *, is_first: bool
    ) -> list[Alert]:
        """An attempt's own response: charge its results, but for those that came by another road before."""
        booked = [] if is_first else self._booked(tx, attempt.task_uuid)
        capacity = attempt.results if is_first else self._capacity(tx, attempt.task_uuid)
        room = capacity - len(booked)
        pairs = same_results(
            [one for one in booked if one.attempt_id == attempt.id or not one.direct],
            [(settle.key, settle.charge.nanos) for settle in settles],
            capacity=capacity,
            room=room,
        )
        elsewhere = bool(booked) and any(one is not None and one.booked.attempt_id != attempt.id for one in pairs)
        keep_rest = elsewhere or settles[-1].keep_rest
        alerts = []
        if attempt.status not in OPEN and None in pairs:
            # Freed or corrected too early: the provider's own answer is the truth.
            alerts += self._withdraw(tx, at_us, attempt.task_uuid)
        for n, (settle, old) in enumerate(zip(settles, pairs, strict=True)):
            if old is not None:
                alerts += self._improve(tx, at_us, old, settle.key, settle.charge) or []
                continue
            charge = _in_room(settle.charge, room)
            room -= 1
            now = attempt if n == 0 and not alerts else self._attempt(tx, attempt.id)
            held, is_missing = 0, False
            if keep_rest and now.status in OPEN:
                held, is_missing = _share(now, now.seen + settle.charge.results)
            alerts += self._post(
                tx, at_us, now, held, charge, "unresolved" if is_missing else "settled", settle.reason,
                ended_us=at_us, key=settle.key, direct=True, is_first=is_first and n == 0,
            )  # fmt: skip
        if attempt.status in OPEN and (keep_rest or None not in pairs):
            now = self._attempt(tx, attempt.id)
            if now.status in OPEN and keep_rest:
                reason = "its result was booked on another attempt" if elsewhere else settles[-1].reason or ""
                self._mark(tx, at_us, now, "unresolved", reason)
            elif now.status in OPEN:
                alerts += self._post(tx, at_us, now, 0, None, "settled", settles[-1].reason, ended_us=at_us)
        return alerts

    @staticmethod
    def _mark(
        tx: Tx,
        at_us: int,
        attempt: Attempt,
        status: str,
        reason: str,
        evidence: Mapping[str, object] | None = None,
        accepted: int | None = None,
    ) -> None:
        """The request is over and no money moves: say how it stands."""
        tx.run(
            "UPDATE attempts SET status = ?, reason = ?, evidence = coalesce(?, evidence),"
            " ended_us = coalesce(ended_us, ?), accepted = coalesce(?, accepted) WHERE id = ?",
            (status, reason, json.dumps(dict(evidence)) if evidence else None, at_us, accepted, attempt.id),
        )

    def observe(self, at_us: int, seen: Observation) -> tuple[tuple[Alert, ...], int]:
        """Book what a poll, webhook or `getTaskDetails` tells of a task: (alerts, changes made).

        Known results change nothing but what is told of them for the first time; a new one settles the oldest
        open attempt, or, if none is open, is charged to the last one all the same.
        Unknown tasks change nothing.
        """
        alerts: list[Alert] = []
        changes = self._write(lambda tx: self._observe(tx, at_us, seen, alerts), beside=True)
        return tuple(alerts), changes

    def _observe(self, tx: Tx, at_us: int, seen: Observation, alerts: list[Alert]) -> int:
        alerts[:] = self._claimed_before(tx, at_us)
        tx.lock(LOCK_TASK, of_task(seen.task_uuid))
        booked = self._booked(tx, seen.task_uuid)
        capacity = self._capacity(tx, seen.task_uuid)
        room = capacity - len(booked)
        pairs = same_results(
            booked,
            [(key, None if charge is None else charge.nanos) for key, charge in seen.results],
            capacity=capacity,
            whole=seen.whole,
        )
        changes = 0
        is_told = True
        for (key, charge), old in zip(seen.results, pairs, strict=True):
            if old is None and charge is not None:
                alerts += self._book(tx, at_us, seen, key, _in_room(charge, room))
                room -= 1
                changes += 1
            elif old is None:
                is_told = False
            elif charge is not None:
                improved = self._improve(tx, at_us, old, key, charge)
                alerts += improved or []
                changes += improved is not None
        if seen.settled_all and is_told:
            changes += self._settle_all(tx, at_us, seen, alerts)
        if seen.taken:
            tx.run(
                f"UPDATE attempts SET accepted = 1 WHERE {OF_TASK} AND status IN ('held', 'unresolved')",
                of_task(seen.task_uuid),
            )
        if seen.whole and seen.settled_all:
            tx.run(
                f"UPDATE attempts SET unconfirmed = NULL WHERE {OF_TASK} AND unconfirmed = 1", of_task(seen.task_uuid)
            )
            self._was_asked(tx, seen.task_uuid, at_us)
        return changes

    def _settle_all(self, tx: Tx, at_us: int, seen: Observation, alerts: list[Alert]) -> int:
        """No further result is to come of what is told: end the attempts it tells of; the changes made.

        A record may show some attempts of a task while others are still at work: those go by their age.
        """
        changes = 0
        fates: dict[int, bool | None] = {}
        attempts = self._attempts(tx, seen.task_uuid)
        # Errors alone are those of one attempt, and may be of one that has ended.
        is_first_shown = not seen.results and all(attempt.status in OPEN for attempt in attempts)
        for n, attempt in enumerate(attempts):
            if attempt.status not in OPEN or not self._is_over(tx, attempt, seen.over, fates):
                continue
            if attempt.seen:
                alerts += self._post(tx, at_us, attempt, 0, None, "settled", seen.reason or "no further results")
                changes += 1
                continue
            is_shown, age_us = not seen.whole or (n == 0 and is_first_shown), seen.unknown_age_us
            if seen.release is None or not (is_shown or (age_us is not None and at_us - attempt.at_us >= age_us)):
                continue
            alerts += self._post(tx, at_us, attempt, 0, None, "released", seen.release)
            changes += 1
            if not is_shown and age_us is not None:
                self._ask_again(tx, attempt.id, at_us + max(age_us, 1))
        return changes

    @staticmethod
    def _ask_again(tx: Tx, attempt_id: int, ask_us: int) -> None:
        tx.run("UPDATE attempts SET ask_us = ? WHERE id = ?", (ask_us, attempt_id))

    @staticmethod
    def _was_asked(tx: Tx, task_uuid: str, at_us: int) -> None:
        """Whatever of a task was due to be asked for once more, was."""
        tx.run(
            f"UPDATE attempts SET ask_us = 0 WHERE {OF_TASK} AND ask_us BETWEEN 1 AND ?", (*of_task(task_uuid), at_us)
        )

    def _book(self, tx: Tx, at_us: int, seen: Observation, key: str, charge: Charge) -> list[Alert]:
        """Charge one newly seen result."""
        attempts = self._attempts(tx, seen.task_uuid)
        if not attempts:
            return []
        attempt = next((a for a in attempts if a.status in OPEN), None)
        if attempt is None:
            # One that was only released because nobody knew of it is the one that was billed after all.
            alerts = []
            attempt = next((a for a in attempts if a.ask_us is not None and a.seen < a.results), None)
            if attempt is None:
                alerts = self._withdraw(tx, at_us, seen.task_uuid)
                attempt = self._attempt(tx, attempts[-1].id)
            return alerts + self._post(tx, at_us, attempt, 0, charge, "settled", seen.reason, key=key)
        held, is_missing = _share(attempt, attempt.seen + charge.results)
        status = attempt.status if is_missing else "settled"
        return self._post(tx, at_us, attempt, held, charge, status, seen.reason, key=key)

    @staticmethod
    def _capacity(tx: Tx, task_uuid: str) -> int:
        """The results that all attempts of a task asked for."""
        row = tx.one(f"SELECT sum(results) FROM attempts WHERE {OF_TASK}", of_task(task_uuid))
        return int(row[0] or 0) if row else 0

    def release_unknown(
        self, at_us: int, task_uuid: str, unknown_age_us: int, reason: str, over: frozenset[int] | None = None
    ) -> tuple[Alert, ...]:
        """Release the open attempts of a task that the provider does not know, once `unknown_age_us` old.

        That is counted from the admission, whatever became of their sender: a record may be written only when the
        work is done. Never one whose request is under way, nor one that the provider took, or told a result of. What
        is released is to be asked for once more, as much later. `over`: the attempts that were over when the provider
        was asked; None: judge it now.
        """

        def op(tx: Tx) -> list[Alert]:
            alerts = []
            fates: dict[int, bool | None] = {}
            tx.lock(LOCK_TASK, of_task(task_uuid))
            for attempt in self._attempts(tx, task_uuid):
                is_open = attempt.status in OPEN
                if at_us - attempt.at_us < unknown_age_us or (is_open and is_taken(attempt)):
                    continue
                if not self._is_over(tx, attempt, over, fates):
                    continue
                if is_open:
                    alerts += self._post(tx, at_us, attempt, 0, None, _freed(attempt), reason)
                    # At least a moment later: what was just asked is not asked again at once.
                    self._ask_again(tx, attempt.id, at_us + max(unknown_age_us, 1))
                tx.run("UPDATE attempts SET unconfirmed = NULL WHERE id = ? AND unconfirmed = 1", (attempt.id,))
            self._was_asked(tx, task_uuid, at_us)
            return alerts

        return tuple(self._write(op, beside=True))

    def _is_over(self, tx: Tx, attempt: Attempt, over: frozenset[int] | None, fates: dict[int, bool | None]) -> bool:
        """True if no request of the attempt is under way, or was when the provider was asked."""
        if over is not None:
            return attempt.id in over
        return attempt.ended_us is not None or self._is_lost(tx, attempt, fates)

    def correct(self, at_us: int, task_uuid: str, charged: int | None, reason: str) -> tuple[Alert, ...]:
        """An operator's word on a task's open attempts: `charged` nano-USD in all, or None: not billed.

        Recorded as a correction row with its reason and who says so. ConfigurationError if nothing of the task is open.
        """

        def op(tx: Tx) -> list[Alert]:
            still_open = [a for a in self._attempts(tx, task_uuid) if a.status in OPEN]
            if not still_open:
                raise ConfigurationError(f"task {task_uuid}: nothing of it is open in this ledger")
            alerts = []
            for n, attempt in enumerate(still_open):
                charge = None if charged is None or n else correction(charged)._replace(notes=(who(),))
                status = "settled" if charge or attempt.seen else "released"
                alerts += self._post(tx, at_us, attempt, 0, charge, status, reason, by_hand=who())
            return alerts

        return tuple(self._write(op))


def is_taken(attempt: Attempt) -> bool:
    """True if the provider once took it: it acknowledged it, was at work on it, or told a result of it."""
    return bool(attempt.accepted or attempt.seen)


def _share(attempt: Attempt, seen: int) -> tuple[int, bool]:
    """What stays held of an attempt's worst case, rounded up, once `seen` of its results are charged.

    And whether any is missing: the worst case may be unknown, and then nothing is held for it.
    """
    missing = max(0, attempt.results - seen)
    return -(-(attempt.upper or 0) * missing // attempt.results), missing > 0


def _in_room(charge: Charge, room: int) -> Charge:
    """A new result's charge, which says so if nobody asked for that many."""
    return charge if room > 0 else charge._replace(odd=True, notes=(*charge.notes, BEYOND_NOTE))


def _freed(attempt: Attempt) -> str:
    """The status of an attempt whose hold goes back without a further charge."""
    return "settled" if attempt.seen else "released"
