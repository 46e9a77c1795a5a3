"""Guard: what a program holds on to. Admission and settlement; no HTTP library, no SQL."""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from costguard import money
from costguard.billing import Charge, charge_items
from costguard.budgets import Budget, from_us, make_budget, to_us
from costguard.errors import BudgetExceeded, ConfigurationError, InvalidRequest, LedgerError, UnpricedTask
from costguard.estimate import Estimate, estimate
from costguard.flow import Call, Listener
from costguard.ledger import (
    Admitted,
    Alert,
    Doubt,
    Ending,
    NewAttempt,
    Refused,
    Release,
    Settle,
    Unpriced,
    Verification,
)
from costguard.ledger.book import Ledger
from costguard.media import MediaMax, parse_media_max
from costguard.offload import Worker
from costguard.prices import PriceBook
from costguard.projects import DEFAULT_PROJECT, ancestors, parse_project, parse_tags
from costguard.wire import native

if TYPE_CHECKING:
    import httpx

C = TypeVar("C")

MODES = ("enforce", "observe", "off")
MODE_VARIABLE = "COSTGUARD"
"""Environment variable that overrides every Guard's mode, for roll-outs and emergencies."""

BACKLOG_MAX = 10_000
"""Endings kept in memory while the ledger cannot be written; their holds stay, so no budget can leak."""

_OPENAI_PATHS = ("/chat/completions", "/responses", "/messages", "/completions")
_OPTIONS = frozenset(("project", "tags", "media_max"))
_ASKS = frozenset(("getResponse", "getTaskDetails"))

log = logging.getLogger("costguard")


class Held(NamedTuple):
    """A task that was admitted: its attempt in the ledger and what it was estimated at."""

    attempt_id: int
    task: native.Task
    estimate: Estimate


class Admission(NamedTuple):
    """What one POST was admitted with. `body` is None if the caller's bytes go out as they are."""

    body: bytes | None
    tasks: tuple[native.Task, ...]
    held: Mapping[str, Held]


class BudgetStatus(NamedTuple):
    """A budget and its current window. Amounts are Decimal USD, instants are aware; None for no end."""

    project: str
    per: str
    timezone: str
    window_start: datetime | None
    window_end: datetime | None
    limit: Decimal
    spent: Decimal
    held: Decimal
    remaining: Decimal
    action: str


class _Scope(NamedTuple):
    project: str | None
    tags: Mapping[str, str]


class _Options(NamedTuple):
    project: str
    tags: Mapping[str, str]
    media_max: MediaMax


class Guard:
    """Guards LLM clients: estimates, holds the worst case, sends, settles at what was billed.

    `path`: the ledger file (None: `COSTGUARD_DB`, else the platform's data folder). `project`: the path
    that calls are booked on. `mode`: "enforce", "observe" (record, never refuse) or "off"; the environment
    variable COSTGUARD overrides it. `durability`: "full" survives power loss, "normal" all else.
    `prices`: a folder of price files of your own. `on_alert(alert)` is called after commit, on whichever
    thread settled. `timezone`: the ledger's reporting zone, fixed at creation. `media_max`: longest media
    you send, `{"video_s": …, "audio_s": …, "pdf_pages": …}`. `endpoints`: further hosts, or URLs of native
    endpoints, that speak Runware's wire. `clock`: a function that gives an aware datetime, for tests.

    Raises ConfigurationError, PriceFileError or LedgerError for what cannot be used.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        project: str = DEFAULT_PROJECT,
        *,
        mode: str = "enforce",
        durability: str = "full",
        prices: str | Path | PriceBook | None = None,
        on_alert: Callable[[Alert], object] | None = None,
        timezone: str | None = None,
        media_max: Mapping[str, object] | None = None,
        endpoints: Iterable[str] = (),
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        self.project = parse_project(project)
        self.mode = _parse_mode(mode)
        self.prices = prices if isinstance(prices, PriceBook) else PriceBook.load(prices)
        self._media_max = parse_media_max(media_max or {})
        self._endpoints = frozenset(_parse_endpoint(endpoint) for endpoint in endpoints)
        self._on_alert = on_alert
        self._clock = clock or _utc_now
        self._scope: contextvars.ContextVar[_Scope] = contextvars.ContextVar("scope", default=_Scope(None, {}))
        self._backlog: deque[tuple[int, Sequence[Ending]]] = deque(maxlen=BACKLOG_MAX)
        self._backlog_lock = threading.Lock()
        self.offload = Worker()
        self.ledger = open_ledger(path, durability=durability, timezone=timezone)

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is still to be written and close the ledger. Clients stay open."""
        self.offload.close()
        with contextlib.suppress(LedgerError):
            self._drain()
        self.ledger.close()

    # -- clients --------------------------------------------------------------------------------

    def wrap(self, client: C) -> C:
        """Guard an httpx or httpx2 client (sync or async) in place and return it; twice is once.

        TypeError for anything else, ConfigurationError for a client that another Guard has.
        """
        from costguard.clients.httpx import wrap

        return wrap(self, client)

    def transport(self, inner: Any = None) -> httpx.BaseTransport:
        """A guarded transport around `inner` (default: httpx's own), for those who build their client."""
        from costguard.clients.httpx import sync_transport

        return sync_transport(self, inner)

    def async_transport(self, inner: Any = None) -> httpx.AsyncBaseTransport:
        """As `transport`, for asynchronous clients; loads the vocabulary now, not on the event loop."""
        from costguard.clients.httpx import async_transport

        return async_transport(self, inner)

    @contextlib.contextmanager
    def scope(self, *, project: str | None = None, tags: Mapping[str, str] | None = None) -> Iterator[None]:
        """Book the calls of a block of code on `project` (a full path) and add `tags` to them.

        Local to the thread or asyncio task; scopes nest, tags merge.
        """
        outer = self._scope.get()
        inner = _Scope(
            outer.project if project is None else parse_project(project),
            {**outer.tags, **parse_tags(tags)} if tags else outer.tags,
        )
        token = self._scope.set(inner)
        try:
            yield
        finally:
            self._scope.reset(token)

    # -- budgets --------------------------------------------------------------------------------

    def set_budget(
        self,
        project: str,
        amount: str | int | Decimal,
        *,
        per: str = "month",
        timezone: str = "UTC",
        warn_at: Iterable[int] = (),
        action: str = "block",
    ) -> Budget:
        """Limit `project` and all below it to `amount` USD `per` day, week, month, quarter, year, total or task.

        Changes the budget (project, per) if there is one, keeping its balance and fired alerts. `warn_at`:
        percents of the limit that fire an alert once per window. `action`: "block", or "warn" to never refuse.
        """
        budget = make_budget(project, amount, per=per, timezone=timezone, warn_at=warn_at, action=action)
        self.ledger.set_budget(budget, self.now_us())
        return budget

    def remove_budget(self, project: str, *, per: str = "month") -> bool:
        """Forget a budget; False if there was none."""
        return self.ledger.remove_budget(parse_project(project), per, self.now_us())

    def budgets(self) -> list[Budget]:
        """All budgets, by project and period."""
        return self.ledger.budgets()

    def set_ceiling(self, name: str, amount: str | int | Decimal) -> None:
        """Worst case in USD per result for a model or task type without a price, so that it may be sent."""
        self.ledger.set_ceiling(self._ceiling_name(name), money.parse_usd(amount, "ceiling"), self.now_us())

    def remove_ceiling(self, name: str) -> bool:
        """Forget a ceiling; False if there was none."""
        return self.ledger.remove_ceiling(self._ceiling_name(name), self.now_us())

    def ceilings(self) -> dict[str, Decimal]:
        """Ceilings in USD per result, by model or task type."""
        return {name: money.to_usd(nanos) for name, nanos in self.ledger.ceilings().items()}

    def _ceiling_name(self, name: str) -> str:
        if not isinstance(name, str) or not name.strip() or len(name) > 200:
            raise ConfigurationError(f"ceiling: expected a model or task type, found {name!r}")
        known = self.prices.find(name)
        return known.model if known else name

    def status(self, project: str | None = None) -> list[BudgetStatus]:
        """Every budget with its current window; with `project` those on its path and below it."""
        wanted = None if project is None else parse_project(project)
        return [
            BudgetStatus(
                balance.budget.project,
                balance.budget.per,
                balance.budget.timezone,
                None if balance.budget.per in ("total", "task") else balance.window.start,
                balance.window.end,
                balance.budget.limit,
                money.to_usd(balance.spent),
                money.to_usd(balance.held),
                money.to_usd(balance.remaining),
                balance.budget.action,
            )
            for balance in self.ledger.balances(self.now_us(), wanted)
        ]

    def remaining(self, project: str | None = None) -> Decimal | None:
        """USD that a call of `project` may still cost at most, over all hard budgets of its path; None if none."""
        path = ancestors(self.project if project is None else parse_project(project))
        left = [
            balance.remaining
            for balance in self.ledger.balances(self.now_us(), path[0])
            if balance.budget.action != "warn" and balance.budget.project in path
        ]
        return money.to_usd(min(left)) if left else None

    def verify(self) -> Verification:
        """Recompute every promise of the ledger from its rows; `.difference` names the first that fails."""
        return self.ledger.verify()

    # -- estimates ------------------------------------------------------------------------------

    def estimate(self, task: Mapping[str, Any], *, media_max: Mapping[str, object] | None = None) -> Estimate:
        """Tokens by modality and USD, expected and worst case, of one task as it would be sent."""
        stated = parse_media_max(media_max, self._media_max) if media_max else self._media_max
        return estimate(native.from_dict(task), self.prices, self.now_us(), stated)

    def now_us(self) -> int:
        """The guard's clock: UTC microseconds."""
        return to_us(self._clock())

    # -- one exchange, as `flow` asks for it ----------------------------------------------------

    def concerns(self, call: Call) -> str | None:
        """Whether a POST may be guarded: "native", "openai", "maybe" (its body decides) or None."""
        if self.mode == "off":
            return None
        path = call.path.rstrip("/")
        host = call.host.partition(":")[0]
        ours = host == "runware.ai" or host.endswith(".runware.ai")
        for endpoint_host, endpoint_path in self._endpoints:
            if endpoint_host in (call.host, host):
                ours = True
                if endpoint_path == path:
                    return "native"
        if ours and path == "/v1":
            return "native"
        if ours and path.endswith(_OPENAI_PATHS):
            return "openai"
        return "maybe"

    def admit(self, call: Call, body: bytes) -> Admission | None:
        """Hold what `body` asks for; None if it is not to be guarded. Raises what keeps it from being sent."""
        kind = self.concerns(call)
        if kind is None:
            return None
        try:
            return self._admit(call, body, kind)
        except (LedgerError, InvalidRequest, UnpricedTask) as error:
            if self.mode != "observe":
                raise
            log.error("not recorded, sent all the same (mode observe): %s", error)
            return None

    def _admit(self, call: Call, body: bytes, kind: str) -> Admission | None:
        if kind == "maybe" and not native.looks_guarded(body):
            return None
        options = self._options(call.options)
        if kind == "openai":
            self._refuse_unmetered(call, options)
            return None
        try:
            request = native.parse_request(body)
        except InvalidRequest:
            if kind == "maybe" and not _has_task_type(body):
                return None
            raise
        billable = [task for task in request.tasks if task.billable]
        if not billable:
            if any(task.task_type in _ASKS for task in request.tasks):
                return Admission(None, request.tasks, {})
            return None
        sent = request.body()
        held = self._hold(billable, options)
        return Admission(sent if request.changed else None, request.tasks, held)

    def _hold(self, tasks: Sequence[native.Task], options: _Options) -> dict[str, Held]:
        at_us = self.now_us()
        estimates = [estimate(task, self.prices, at_us, options.media_max) for task in tasks]
        tags = json.dumps(options.tags)
        asked = [_new_attempt(task, found, tags) for task, found in zip(tasks, estimates, strict=True)]
        self._drain()
        answer = self.ledger.admit(options.project, at_us, asked, enforce=self.mode == "enforce")
        match answer:
            case Refused():
                self._fire(answer.alerts)
                raise _exceeded(answer, options.project, estimates)
            case Unpriced():
                raise _unpriced(answer, options.project)
            case Admitted():
                for budget in answer.over:
                    log.warning("observe: budget %s would have refused a call of %s", budget, options.project)
                return {
                    task.uuid: Held(attempt_id, task, found)
                    for task, found, attempt_id in zip(tasks, estimates, answer.attempt_ids, strict=True)
                }

    def _refuse_unmetered(self, call: Call, options: _Options) -> None:
        path = ancestors(options.project)
        for budget in self.ledger.budgets():
            if budget.project in path and budget.action != "warn":
                raise UnpricedTask(
                    f"{call.host}{call.path}: OpenAI-style requests are not metered yet, and the hard budget"
                    f" {budget} covers {options.project}; send a native task instead, or use a client that"
                    " is not wrapped. Nothing was sent.",
                    project=options.project,
                    model=call.path,
                    reason="not metered",
                )
        log.warning("%s%s is sent without being metered: no hard budget covers it", call.host, call.path)

    def _options(self, value: object) -> _Options:
        scope = self._scope.get()
        project, tags, media_max = scope.project or self.project, scope.tags, self._media_max
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
        return _Options(project, tags, media_max)

    def conclude(self, admission: Admission, status: int, body: bytes) -> None:
        """A whole response arrived: settle, release or leave unresolved every task of the POST."""
        judgement = native.judge(admission.tasks, status, native.parse_response(body))
        endings: list[Ending] = []
        for uuid, held in admission.held.items():
            verdict = judgement.endings[uuid]
            ending = self._ending(held, verdict, status)
            if ending is not None:
                endings.append(ending)
        self._record(endings)

    def _ending(self, held: Held, verdict: native.Ending, status: int) -> Ending | None:
        match verdict:
            case native.Success():
                charge = self.charge(held.estimate, [item.figures for item in verdict.items])
                if charge is None:
                    return Doubt(held.attempt_id, "no figure", {"status": status})
                keys = native.result_keys(verdict.items)
                return Settle(held.attempt_id, charge, keys, verdict.partial, verdict.reason or None)
            case native.Refused():
                return Release(held.attempt_id, verdict.reason)
            case native.Doubt():
                return Doubt(held.attempt_id, verdict.reason, {"status": status})
        return None

    @staticmethod
    def charge(found: Estimate, figures: Sequence[Any]) -> Charge | None:
        """What the provider's `figures` of a task's results come to; None if nothing is known of them."""
        return charge_items(
            figures,
            price=found.price,
            prompt_expected={modality: count.expected for modality, count in found.prompt.items()},
            expected_nanos=None if found.expected_nanos is None else found.expected_nanos // found.results,
        )

    def never_sent(self, admission: Admission, reason: str) -> None:
        """The request surely never left: all holds of it go back."""
        self._record([Release(held.attempt_id, reason) for held in admission.held.values()])

    def lose(self, admission: Admission, reason: str) -> None:
        """The request was sent and its outcome is unknown: possibly billed, so it stays held."""
        self._record([Doubt(held.attempt_id, reason) for held in admission.held.values()])

    def listen(self, admission: Admission) -> Listener:
        """A listener for the stream that answers `admission`."""
        raise NotImplementedError

    def _record(self, endings: Sequence[Ending]) -> None:
        """Write endings; should the ledger fail, keep them for later: the answer is the caller's to have."""
        if not endings:
            return
        at_us = self.now_us()
        try:
            alerts = self.ledger.conclude(at_us, endings)
        except LedgerError as error:
            self._backlog.append((at_us, endings))
            log.error("the ledger could not be written; the call stays held and is written later: %s", error)
        else:
            self._fire(alerts)

    def _drain(self) -> None:
        while self._backlog:
            with self._backlog_lock:
                if not self._backlog:
                    return
                at_us, endings = self._backlog[0]
                alerts = self.ledger.conclude(at_us, endings)
                self._backlog.popleft()
            self._fire(alerts)

    def _fire(self, alerts: Iterable[Alert]) -> None:
        for alert in alerts:
            log.warning("%s", alert)
            if self._on_alert is not None:
                try:
                    self._on_alert(alert)
                except Exception:
                    log.exception("on_alert failed for: %s", alert)


def default_path() -> Path:
    """The ledger used when none is named: `COSTGUARD_DB`, else `costguard.db` in the platform's data folder."""
    named = os.environ.get("COSTGUARD_DB")
    if named:
        return Path(named)
    from platformdirs import user_data_path

    return user_data_path("costguard", appauthor=False, ensure_exists=True) / "costguard.db"


def open_ledger(path: str | Path | None = None, *, durability: str = "full", timezone: str | None = None) -> Ledger:
    """Open or create the SQLite ledger at `path`."""
    from costguard.ledger.sqlite import SqliteEngine

    engine = SqliteEngine(default_path() if path is None else path, durability=durability)
    try:
        return Ledger(engine, timezone=timezone)
    except BaseException:
        engine.close()
        raise


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _parse_mode(mode: str) -> str:
    named = os.environ.get(MODE_VARIABLE)
    what, found = (MODE_VARIABLE, named) if named else ("mode", mode)
    if found not in MODES:
        raise ConfigurationError(f"{what}: {found!r} is not one of {', '.join(MODES)}")
    return found


def _parse_endpoint(endpoint: str) -> tuple[str, str]:
    """(host with its port if stated, path) of a host name or URL; the path is that of native tasks."""
    if not isinstance(endpoint, str) or not endpoint.strip():
        raise ConfigurationError(f"endpoints: expected host names or URLs, found {endpoint!r}")
    parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
    if not parts.hostname:
        raise ConfigurationError(f"endpoints: {endpoint!r} names no host, such as 'https://llm.example/v1'")
    return parts.netloc.rpartition("@")[2].lower(), parts.path.rstrip("/") or "/v1"


def _has_task_type(body: bytes) -> bool:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return any(
        isinstance(node, dict) and "taskType" in node for node in (value if isinstance(value, list) else [value])
    )


def _new_attempt(task: native.Task, found: Estimate, tags: str) -> NewAttempt:
    return NewAttempt(
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
        tuple(dict.fromkeys((found.model, task.model or task.task_type, task.task_type))),
        found.unpriced,
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
    if answer.unresolved:
        message += f", {money.to_text(answer.unresolved)} USD of it held for calls whose outcome is unknown"
    if resets_at is not None:
        message += f"; it resets at {resets_at.isoformat()}"
    settings = sorted({setting for found in estimates for setting in found.unbounded})
    if settings:
        message += (
            f". Media of unknown length count as the model's whole context: state their maximum"
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
