"""Everything before a request is sent: whose it is, what it may cost, and whether the money is there."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from costguard import money
from costguard.budgets import from_us
from costguard.errors import BudgetExceeded, ConfigurationError, InvalidRequest, LedgerError, UnpricedTask
from costguard.estimating.estimate import Estimate, estimate
from costguard.estimating.media import MediaMax, Recalled, Reference, digest, parse_media_max, references
from costguard.exchange.flow import Call, Pause, Question
from costguard.exchange.receipt import Receipt, TaskReceipt
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.accounting.reading import over_by_task
from costguard.ledger.records import Admitted, Alert, NewAttempt, Refused, Unpriced
from costguard.prices.book import PriceBook
from costguard.projects import ancestors, parse_project, parse_tags
from costguard.tasks import Task
from costguard.wire.runware.requests import Request, details_request, looks_guarded, parse_request, set_max_tokens

OBSERVE = "observe"
OFF = "off"
MODES = ("enforce", OBSERVE, OFF)

ASK_AGE_US = 60 * 1_000_000
"""Unresolved tasks older than this are asked for before a refusal that they cause."""

ASK_TASKS_MAX = 50
"""Tasks asked for in one `getTaskDetails` request."""

HISTORY_AGE_US = 60 * 1_000_000
"""How old a learned expectation may be before it is read again."""

HISTORY_MAX = 1000
"""Pairs of project and model whose expectation is remembered."""

RECALLED_MAX = 500
"""References to media that are looked up for one task; the others count as never seen."""

CLAMPS_MAX = 3
"""How often a call is clamped anew when others take the money in between."""

PAUSE_S = (0.02, 0.25)
"""First and longest pause between two looks at a budget that is busy."""

_OPENAI_PATHS = ("/chat/completions", "/responses", "/messages", "/completions")
_OPTIONS = frozenset(("project", "tags", "media_max"))
_ASKS = frozenset(("getResponse", "getTaskDetails"))

log = logging.getLogger("costguard")


class Held(NamedTuple):
    """A task that was admitted: its attempt in the ledger and what it was estimated at."""

    attempt_id: int
    task: Task
    estimate: Estimate
    receipt: TaskReceipt


class Admission(NamedTuple):
    """What one POST was admitted with. `body` is None if the caller's bytes go out as they are."""

    body: bytes | None
    tasks: tuple[Task, ...]
    held: Mapping[str, Held]

    @property
    def receipt(self) -> Receipt:
        """What the caller is told of it."""
        return Receipt(tuple([held.receipt for held in self.held.values()]))


class Options(NamedTuple):
    """What a call is booked on, after extension, scope and Guard are put together."""

    project: str
    tags: Mapping[str, str]
    media_max: MediaMax


class _Scope(NamedTuple):
    project: str | None
    tags: Mapping[str, str]


_NO_SCOPE = _Scope(None, {})


class History:
    """Mean completions of a project and model, read from the ledger now and then."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._means: dict[tuple[str, str], tuple[int, int | None]] = {}

    def mean(self, project: str, model: str, at_us: int) -> int | None:
        """Completion tokens of a result over the last days, rounded up; None without history."""
        read_us, mean = self._means.get((project, model), (None, None))
        if read_us is None or not 0 <= at_us - read_us < HISTORY_AGE_US:
            mean = self._ledger.mean_completion(project, model, at_us)
            if len(self._means) >= HISTORY_MAX:
                self._means.clear()
            self._means[project, model] = (at_us, mean)
        return mean


class Gate:
    """Decides what is guarded and admits it. See `Guard` for the settings."""

    def __init__(
        self,
        ledger: Ledger,
        prices: PriceBook,
        *,
        project: str,
        mode: str,
        media_max: MediaMax,
        endpoints: Iterable[str],
        now_us: Callable[[], int],
        fire: Callable[[Iterable[Alert]], None],
    ) -> None:
        self.ledger = ledger
        self.prices = prices
        self.project = project
        self.mode = mode
        self.media_max = media_max
        self.now_us = now_us
        self.fire = fire
        if isinstance(endpoints, str):
            raise ConfigurationError(f"endpoints: expected a list such as [{endpoints!r}], found one text")
        self._endpoints = frozenset(_parse_endpoint(endpoint) for endpoint in endpoints)
        self._scope: ContextVar[_Scope] = ContextVar("costguard_scope", default=_NO_SCOPE)
        self._history = History(ledger)
        self.asked_us: dict[str, int] = {}

    @contextmanager
    def scope(self, project: str | None, tags: Mapping[str, str] | None) -> Iterator[None]:
        """See `Guard.scope`."""
        outer = self._scope.get()
        inner = _Scope(
            outer.project if project is None else parse_project(project),
            parse_tags({**outer.tags, **parse_tags(tags)}) if tags else outer.tags,
        )
        token = self._scope.set(inner)
        try:
            yield
        finally:
            self._scope.reset(token)

    def options(self, value: object = None) -> Options:
        """Extension over innermost scope over Guard; ConfigurationError for what cannot be read."""
        scope = self._scope.get()
        project, tags, media_max = scope.project or self.project, scope.tags, self.media_max
        if value is not None:
            what = 'extensions["costguard"]'
            if not isinstance(value, Mapping):
                raise ConfigurationError(f"{what}: expected a mapping with project, tags or media_max, got {value!r}")
            unknown = [key for key in value if key not in _OPTIONS]
            if unknown:
                raise ConfigurationError(f"{what}: unknown key {unknown[0]!r}; known are {', '.join(sorted(_OPTIONS))}")
            if "project" in value:
                project = parse_project(value["project"], f"{what} project")
            if "tags" in value:
                tags = parse_tags({**tags, **parse_tags(value["tags"])})
            if "media_max" in value:
                media_max = parse_media_max(value["media_max"], media_max, f"{what} media_max")
        return Options(project, tags, media_max)

    def estimate(self, task: Task, at_us: int, options: Options) -> Estimate:
        """Estimate `task` as it would be admitted now."""
        known = self.prices.find(task.model) if task.model else None
        mean = self._history.mean(options.project, known.model, at_us) if known else None
        recalled = self._recall(known.model, task.prompt.media) if known and task.prompt.media else None
        return estimate(task, self.prices, at_us, options.media_max, mean, recalled)

    def _recall(self, model: str, inputs: object) -> dict[Reference, Recalled] | None:
        """What the ledger has of the URLs and UUIDs in `inputs`."""
        named = references(inputs)[:RECALLED_MAX]
        if not named:
            return None
        key = self.ledger.media_key()
        digests = {reference: digest(key, model, reference) for reference in named}
        counts = self.ledger.media_counts(list(digests.values()))
        return {reference: Recalled(found, counts.get(found)) for reference, found in digests.items()}

    def concerns(self, host: str, port: int | None, path: str) -> str | None:
        """Whether a POST may be guarded: "native", "openai", "maybe" (its body decides) or None.

        `host` as `normal_host` gives it; `port` None for the scheme's own.
        """
        if self.mode == OFF:
            return None
        path = path.rstrip("/")
        ours = host == "runware.ai" or host.endswith(".runware.ai")
        for endpoint_host, endpoint_port, endpoint_path in self._endpoints:
            if endpoint_host == host and endpoint_port in (None, port):
                ours = True
                if endpoint_path == path:
                    return "native"
        if ours and path == "/v1":
            return "native"
        if ours and path.endswith(_OPENAI_PATHS):
            return "openai"
        return "maybe"

    def entry(self, call: Call, body: bytes) -> Entry | None:
        """Read `body`; None if it is not to be guarded. Raises what keeps it from being sent."""
        kind = call.concern
        if kind == "maybe" and not looks_guarded(body):
            return None
        options = self.options(call.options)
        try:
            if kind == "openai":
                self._refuse_unmetered(call, options)
                return None
            request = parse_request(body)
            sent = request.body()
        except InvalidRequest as error:
            if kind == "maybe" and not _has_task_type(body):
                return None
            if self.mode != OBSERVE:
                raise
            log.error("not recorded, sent all the same (mode observe): %s", error)
            return None
        if not any(task.billable or task.task_type in _ASKS for task in request.tasks):
            return None
        return Entry(self, request, sent, options, call.host)

    def _refuse_unmetered(self, call: Call, options: Options) -> None:
        path = ancestors(options.project)
        for budget in self.ledger.budgets() if self.mode != OBSERVE else ():
            if budget.project in path and budget.hard:
                raise UnpricedTask(
                    f"{call.host}{call.path}: OpenAI-style requests are not metered yet, and the hard budget"
                    f" {budget} covers {options.project}; send a native task instead, or use a client that"
                    " is not wrapped. Nothing was sent.",
                    project=options.project,
                    model=call.path,
                    reason="not metered",
                )
        log.warning("%s%s is sent without being metered: no hard budget covers it", call.host, call.path)


class Entry:
    """One POST at the gate. `attempt` is called until it says yes or raises; each call may block."""

    def __init__(self, gate: Gate, request: Request, body: bytes, options: Options, host: str) -> None:
        self._gate = gate
        self._host = host
        self._request = request
        self._body = body if request.changed else None
        self._options = options
        self._tasks = [task for task in request.tasks if task.billable]
        self._estimates: list[Estimate] = []
        self._asked_tokens: dict[str, int] = {}
        self._clamps = 0
        self._has_asked = False
        self._deadline_s: float | None = None
        self._pause_s = PAUSE_S[0]

    def attempt(self) -> Admission | Question | Pause | None:
        """Admit the tasks, or say what to do before the next attempt; raises the refusal.

        None (mode `observe` only): the ledger failed, and the request is to be sent unrecorded.
        """
        if not self._tasks:
            return Admission(None, self._request.tasks, {})
        gate = self._gate
        try:
            return self._attempt(gate)
        except (LedgerError, ConfigurationError, InvalidRequest) as error:
            if gate.mode != OBSERVE:
                raise
            log.error("not recorded, sent all the same (mode observe): %s", error)
            return None

    def _attempt(self, gate: Gate) -> Admission | Question | Pause:
        at_us = gate.now_us()
        if not self._estimates:
            self._estimates = [self._estimate(task, at_us) for task in self._tasks]
        while True:
            answer = gate.ledger.admit(self._options.project, at_us, self._new_attempts(), enforce=gate.mode != OBSERVE)
            match answer:
                case Admitted():
                    return self._admission(answer)
                case Unpriced():
                    raise _unpriced(answer, self._options.project)
                case Refused():
                    question = self._question(answer, at_us)
                    if question is not None:
                        return question
                    if self._clamp(answer):
                        continue
                    pause = self._pause(answer)
                    if pause is not None:
                        return pause
                    gate.fire(gate.ledger.claim_refusal(answer, at_us))
                    raise _exceeded(answer, self._options.project, self._estimates)

    def _estimate(self, task: Task, at_us: int) -> Estimate:
        return self._gate.estimate(task, at_us, self._options)

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
                    "task %s of %s: maxTokens lowered from %d to %d, which is what the budget still pays",
                    task.uuid, project, receipt.clamped_from, receipt.clamped_to,
                )  # fmt: skip
            held[task.uuid] = Held(attempt_id, task, found, receipt)
        return Admission(self._body, self._request.tasks, held)

    # -- before a refusal -----------------------------------------------------------------------

    def _question(self, refused: Refused, at_us: int) -> Question | None:
        """`getTaskDetails` for the unresolved tasks that keep this call out, at most once."""
        short = refused.requested - refused.remaining
        if self._has_asked or not 0 < short <= refused.unresolved or refused.window is None:
            return None
        gate = self._gate
        attempts = gate.ledger.open_attempts(refused.budget.project, refused.window)
        uuids = [
            attempt.task_uuid
            for attempt in attempts
            if attempt.status == "unresolved"
            and attempt.host == self._host  # whoever runs another host must not hear of it, and cannot know it
            and at_us - attempt.at_us > ASK_AGE_US
            and at_us - gate.asked_us.get(attempt.task_uuid, 0) > ASK_AGE_US
        ]
        chosen = tuple(dict.fromkeys(uuids))[:ASK_TASKS_MAX]
        over = over_by_task(attempts)
        self._has_asked = True
        if not chosen:
            return None
        gate.asked_us = {
            uuid: asked for uuid, asked in gate.asked_us.items() if at_us - asked <= ASK_AGE_US
        } | dict.fromkeys(chosen, at_us)
        keys = [task.raw for task in self._request.tasks if task.task_type == "authentication"]
        body = json.dumps([*keys, *details_request(chosen)]).encode()
        return Question(body, {uuid: over[uuid] for uuid in chosen})

    def _clamp(self, refused: Refused) -> bool:
        """Lower `maxTokens` to what the refusing budget still pays; False if that is not to be done."""
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
                set_max_tokens(task, new.completion.upper)
                self._request.touch()
        self._body = self._request.body()
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


def normal_host(host: str) -> str:
    """A host's one spelling: lower case, punycode, no brackets, no trailing dot."""
    host = host.strip("[]").rstrip(".").lower()
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        return host


def _parse_endpoint(endpoint: object) -> tuple[str, int | None, str]:
    """(host, port if it is not the scheme's own, path) of a host name or URL; the path is that of native tasks."""
    if not isinstance(endpoint, str) or not endpoint.strip():
        raise ConfigurationError(f"endpoints: expected host names or URLs, found {endpoint!r}")
    try:
        parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError(f"endpoints: {endpoint!r}: {error}") from None
    if not host:
        raise ConfigurationError(f"endpoints: {endpoint!r} names no host, such as 'https://llm.example/v1'")
    if port == _PORTS.get(parts.scheme) or (not parts.scheme and port in _PORTS.values()):
        port = None
    return normal_host(host), port, parts.path.rstrip("/") or "/v1"


def _ceiling_names(task: Task, found: Estimate) -> tuple[str, ...]:
    """Where a ceiling may be set for the task, nearest first."""
    return tuple(dict.fromkeys((found.model, task.model or task.task_type, task.task_type)))


_PORTS = {"https": 443, "http": 80}


def _has_task_type(body: bytes) -> bool:
    """True if lenient JSON shows a task where a strict reader found none that can be sent."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return any(
        isinstance(node, dict) and "taskType" in node for node in (value if isinstance(value, list) else [value])
    )


def _exceeded(answer: Refused, project: str, estimates: Sequence[Estimate]) -> BudgetExceeded:
    budget, window = answer.budget, answer.window
    resets_at = None
    if window is not None and window.end_us is not None:
        resets_at = from_us(window.end_us).astimezone(ZoneInfo(budget.timezone))
    message = (
        f"{project}: this call may cost up to {money.to_text(answer.requested)} USD; budget {budget}"
        f" ({money.to_text(budget.limit_nanos)} USD) has {money.to_text(answer.remaining)} USD left"
    )
    if answer.busy:
        message += f" and is busy: {money.to_text(answer.held)} USD is held for calls that are not settled"
    if answer.unresolved:
        message += (
            f", {money.to_text(answer.unresolved)} USD of it with unknown outcome (`costguard reconcile` asks for it)"
        )
    if resets_at is not None:
        message += f"; it resets at {resets_at.isoformat()}"
    settings = sorted({setting for found in estimates for setting in found.unbounded})
    if settings:
        message += (
            ". Media of unknown length count as the model's whole context: state their maximum"
            f" ({', '.join(settings)}) in Guard(media_max=…) or the call's extension"
        )
    return BudgetExceeded(
        message + ". Nothing was sent.",
        project=project,
        budget=budget,
        requested=money.to_usd(answer.requested),
        remaining=money.to_usd(answer.remaining),
        unresolved=money.to_usd(answer.unresolved),
        resets_at=resets_at,
        busy=answer.busy,
    )


def _unpriced(answer: Unpriced, project: str) -> UnpricedTask:
    attempt, reason = answer.attempt, answer.attempt.unpriced or "its cost is unknown"
    return UnpricedTask(
        f"{project}: {attempt.model} cannot be sent under the hard budget {answer.budget}: {reason}. Add a price"
        f" file, or state the most a result may cost: `costguard ceiling set {attempt.model} AMOUNT`."
        " Nothing was sent.",
        project=project,
        model=attempt.model,
        reason=reason,
    )
