"""One POST at the gate: held, lowered, asked about, kept waiting, or refused."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from costguard import wire
from costguard.errors import ConfigurationError, InvalidRequest, LedgerError
from costguard.estimating.estimate import Estimate
from costguard.estimating.media import MediaMax
from costguard.exchange.admission import Admission, Held
from costguard.exchange.appraising import Appraiser
from costguard.exchange.effects import Pause, Question
from costguard.exchange.receipt import TaskReceipt
from costguard.exchange.refusing import exceeded, unpriced
from costguard.ledger.accounting.attempts import over_by_task
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.engine import Steps
from costguard.ledger.records import Admitted, Alert, NewAttempt, Refused, Unpriced
from costguard.tasks import Task
from costguard.wire.dialect import Dialect, Request

ASK_AGE_US = 60 * 1_000_000
"""Unresolved tasks older than this are asked for before a refusal that they cause."""

ASK_TASKS_MAX = 50
"""Tasks asked for in one question."""

CLAMPS_MAX = 3
"""How often a call is clamped anew when others take the money in between."""

PAUSE_S = (0.02, 0.25)
"""First and longest pause between two looks at a budget that is busy."""

log = logging.getLogger("costguard")


class Options(NamedTuple):
    """What a call is booked on, after extension, scope and Guard are put together."""

    project: str
    tags: Mapping[str, str]
    media_max: MediaMax


class Terms:
    """What all entries share: the ledger they are admitted to, and what is remembered from one to the next.

    `enforce` is False in mode `observe`, where nothing is refused. `advice`: what to do if the ledger refuses work.
    """

    def __init__(
        self,
        ledger: Ledger,
        appraiser: Appraiser,
        *,
        enforce: bool,
        now_us: Callable[[], int],
        fire: Callable[[Iterable[Alert]], None],
        advice: str = "",
    ) -> None:
        self.advice = advice
        self.ledger = ledger
        self.appraiser = appraiser
        self.enforce = enforce
        self.now_us = now_us
        self.fire = fire
        self.asked_us: dict[str, int] = {}
        """When each task was last asked for, so that refusals in a row ask once."""


class Entry:
    """`attempt` is run until it says yes or raises; each time may block."""

    def __init__(self, terms: Terms, dialect: Dialect, request: Request, options: Options, host: str) -> None:
        self._terms = terms
        self._dialect = dialect
        self._host = host
        self._request = request
        self._options = options
        self._tasks = [task for task in request.tasks if task.billable]
        self._estimates: list[Estimate] = []
        self._asked_tokens: dict[str, int] = {}
        self._clamps = 0
        self._has_asked = False
        self._deadline_s: float | None = None
        self._pause_s = PAUSE_S[0]

    def attempt(self) -> Steps[Admission | Question | Pause | None]:
        """Admit the tasks, or say what to do before the next attempt; raises the refusal.

        None (mode `observe` only): the ledger failed, and the request is to be sent unrecorded.
        """
        if not self._tasks:
            return Admission(self._dialect, None, self._request.tasks, {})
        try:
            return (yield from self._attempt(self._terms))
        except (LedgerError, ConfigurationError, InvalidRequest) as error:
            if self._terms.enforce:
                if isinstance(error, LedgerError) and self._terms.advice:
                    raise LedgerError(f"{error}; {self._terms.advice}") from error
                raise
            log.error("not recorded, sent all the same (mode observe): %s", error)
            return None

    def _attempt(self, terms: Terms) -> Steps[Admission | Question | Pause]:
        at_us = terms.now_us()
        options = self._options
        if not self._estimates:
            self._estimates = [
                terms.appraiser.estimate(task, at_us, options.project, options.media_max) for task in self._tasks
            ]
        while True:
            tasks = self._new_attempts()
            answer = yield from terms.ledger.admission(options.project, at_us, tasks, enforce=terms.enforce)
            match answer:
                case Admitted():
                    return self._admission(answer)
                case Unpriced():
                    yield from terms.ledger.refusal(answer, options.project, at_us, tasks)
                    raise unpriced(answer, options.project)
                case Refused():
                    question = self._question(answer, at_us)
                    if question is not None:
                        return question
                    if self._clamp(answer):
                        continue
                    pause = self._pause(answer)
                    if pause is not None:
                        return pause
                    terms.fire((yield from terms.ledger.refusal(answer, options.project, at_us, tasks)))
                    raise exceeded(answer, options.project, self._estimates)

    def _new_attempts(self) -> list[NewAttempt]:
        tags = json.dumps(self._options.tags) if self._options.tags else "{}"
        return [
            NewAttempt(
                task.uuid,
                task.task_type,
                found.model,
                task.delivery,
                task.results,
                found.upper_nanos,
                found.expected_nanos,
                found.price.id if found.price else None,
                found.to_json(),
                tags,
                _ceiling_names(task, found) if found.upper_nanos is None else (),
                found.unpriced,
                self._asked_tokens.get(task.uuid),
                self._host,
                task.spelling,
            )
            for task, found in zip(self._tasks, self._estimates, strict=True)
        ]

    def _admission(self, answer: Admitted) -> Admission:
        project = self._options.project
        for budget in answer.over:
            log.warning("observe: budget %s would have refused a call of %s", budget, project)
        held = {}
        for task, found, attempt_id, upper in zip(
            self._tasks, self._estimates, answer.attempt_ids, answer.uppers, strict=True
        ):
            receipt = TaskReceipt(task.uuid, project, found.model, upper)
            if task.uuid in self._asked_tokens:
                receipt.clamped_from, receipt.clamped_to = self._asked_tokens[task.uuid], found.completion.upper
                log.warning(
                    "task %s of %s: allowance lowered from %d to %d tokens, which is what the budget still pays",
                    task.uuid, project, receipt.clamped_from, receipt.clamped_to,
                )  # fmt: skip
            held[task.uuid] = Held(attempt_id, task, found, receipt)
        request = self._request
        return Admission(self._dialect, request.body() if request.changed else None, request.tasks, held)

    # -- before a refusal -----------------------------------------------------------------------

    def _question(self, refused: Refused, at_us: int) -> Question | None:
        """What became of the unresolved tasks that keep this call out, asked at most once."""
        short = refused.requested - refused.remaining
        if self._has_asked or not 0 < short <= refused.unresolved or refused.window is None:
            return None
        terms = self._terms
        attempts = terms.ledger.open_attempts(refused.budget.project, refused.window)
        spellings = {
            attempt.task_uuid: attempt.spelling or attempt.task_uuid
            for attempt in attempts
            if attempt.status == "unresolved"
            and wire.dialect_of(attempt.task_uuid) is self._dialect
            and attempt.host == self._host  # whoever runs another host must not hear of it, and cannot know it
            and at_us - attempt.at_us > ASK_AGE_US
            and at_us - terms.asked_us.get(attempt.task_uuid, 0) > ASK_AGE_US
        }
        chosen = dict(list(spellings.items())[:ASK_TASKS_MAX])
        over = over_by_task(attempts)
        self._has_asked = True
        body = self._dialect.question(chosen.values(), self._request) if chosen else None
        if body is None:
            return None
        terms.asked_us = {
            uuid: asked for uuid, asked in terms.asked_us.items() if at_us - asked <= ASK_AGE_US
        } | dict.fromkeys(chosen, at_us)
        return Question(self._dialect, body, {uuid: over[uuid] for uuid in chosen})

    def _clamp(self, refused: Refused) -> bool:
        """Lower the allowance to what the refusing budget still pays; False if that is not to be done."""
        budget = refused.budget
        if budget.action != "clamp" or self._clamps >= CLAMPS_MAX:
            return False
        self._clamps += 1
        room = refused.remaining

        def lowered(tokens: int) -> list[Estimate]:
            return [found.allowing(tokens) for found in self._estimates]

        def fits(estimates: Sequence[Estimate]) -> bool:
            uppers = [found.upper_nanos or 0 for found in estimates]
            return (sum(uppers) if refused.window else max(uppers)) <= room

        low, high = budget.floor_tokens, max(found.completion.upper for found in self._estimates)
        if low >= high or not fits(lowered(low)):
            return False
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(lowered(middle)) else (low, middle)
        for task, old, new in zip(self._tasks, self._estimates, lowered(low), strict=True):
            if new.completion.upper < old.completion.upper:
                self._asked_tokens.setdefault(task.uuid, old.completion.upper)
                self._request.lower(task, new.completion.upper)
        self._request.body()  # written once more before money is held for it
        self._estimates = lowered(low)
        return True

    def _pause(self, refused: Refused) -> Pause | None:
        """Wait for held money, if the budget allows it and it may come back in time."""
        if not refused.budget.wait_ms or not refused.busy:
            return None
        now_s = time.monotonic()
        if self._deadline_s is None:
            self._deadline_s = now_s + refused.budget.wait_ms / 1000
        left_s = self._deadline_s - now_s
        if left_s <= 0:
            return None
        pause = Pause(min(self._pause_s, left_s))
        self._pause_s = min(self._pause_s * 1.5, PAUSE_S[1])
        return pause


def _ceiling_names(task: Task, found: Estimate) -> tuple[str, ...]:
    """Where a ceiling may be set for the task, nearest first."""
    return tuple(dict.fromkeys((found.model, task.model or task.task_type, task.task_type)))
