"""Guard: what a program holds on to. Admission and settlement; no HTTP library, no SQL."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar, cast

from costguard import clients, money
from costguard.budgets import to_us
from costguard.errors import ConfigurationError, LedgerError
from costguard.estimating.encoder import preload_soon
from costguard.estimating.estimate import Estimate
from costguard.estimating.media import parse_media_max
from costguard.exchange import reconcile as asking
from costguard.exchange import reopening
from costguard.exchange.alerting import Alerts
from costguard.exchange.effects import Call, Claim
from costguard.exchange.endpoints import Endpoints
from costguard.exchange.entry import Entry
from costguard.exchange.gate import ENFORCE, OFF, Gate, parse_mode
from costguard.exchange.offload import Worker, in_this_wait
from costguard.exchange.opening import ADVICE, Opening, open_ledger, parse_on_ledger_error
from costguard.exchange.reconcile import Age, Progress, Reconciliation, parse_age
from costguard.exchange.replaying import Desk as Telling
from costguard.exchange.scopes import Block, Scopes
from costguard.exchange.settlement import Keep, Settlement
from costguard.ledger.accounting.book import Ledger, wall_clock_us
from costguard.ledger.place import portable
from costguard.ledger.records import Alert, Verification
from costguard.prices.book import PriceBook
from costguard.projects import DEFAULT_PROJECT, parse_project
from costguard.wire import NATIVE

C = TypeVar("C")
T = TypeVar("T")

_AFTER_CLOSE = "make a new one, Guard(path), and wrap the client with it"

log = logging.getLogger("costguard")


class Guard(Opening):
    """Guards LLM clients: estimates, holds the worst case, sends, settles at what was billed.

    `path`: the ledger file (None: `COSTGUARD_DB`, else the platform's data folder). `project`: the path
    that calls are booked on. `mode`: "enforce", "observe" (record, never refuse) or "off"; the environment
    variable COSTGUARD overrides it. `durability`: "full" survives power loss, "normal" all else.
    `prices`: a folder of price files of your own. `on_alert(alert)`, a plain function, is called after commit,
    on whichever thread settled. `timezone`: the ledger's reporting zone, fixed at creation. `media_max`: longest media
    you send, `{"video_s": …, "audio_s": …, "pdf_pages": …}`. `endpoints`: further hosts, or URLs of native
    endpoints, that speak Runware's wire, OpenAI's or Anthropic's. `clock`: a function that gives an aware datetime,
    for tests.
    `on_ledger_error`: "block" refuses calls while the ledger cannot be used; "allow" lets them go on, and keeps what
    the ledger is to be told of them in a file until it is back. `ledger_wait`: how long a call waits for it, as
    `"2s"`, seconds or a timedelta. `lost_after`: how old a call is, whose outcome is unknown and cannot be asked for,
    when `reconcile` charges it as expected; None: it stays held.

    Raises ConfigurationError, PriceFileError or LedgerError for what cannot be used; in mode "observe" a ledger
    that cannot be opened is said in the log, all calls are sent, and it is tried again once a minute. Pickled, it is
    opened anew in the other process.
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
        on_ledger_error: str = "block",
        ledger_wait: Age = "10s",
        lost_after: Age | None = None,
    ) -> None:
        self._settings: dict[str, Any] = {
            "path": path, "project": project, "mode": mode, "durability": durability, "on_alert": on_alert,
            "timezone": timezone, "media_max": media_max, "clock": clock, "on_ledger_error": on_ledger_error,
            "ledger_wait": ledger_wait, "lost_after": lost_after,
        }  # fmt: skip
        self._key = uuid.uuid4().hex
        self.is_closed = False
        self.project = parse_project(project)
        self.mode = parse_mode(mode)
        self._allows = parse_on_ledger_error(on_ledger_error) and not self._read_only
        self._wait_s = parse_age(ledger_wait, "ledger_wait") / 1_000_000
        self._lost_us = None if lost_after is None else parse_age(lost_after, "lost_after")
        self.prices = prices if isinstance(prices, PriceBook) else PriceBook.load(prices)
        self._clock = clock
        self._alerts = Alerts(on_alert)
        self._media_max = parse_media_max(media_max or {})
        self._endpoints = endpoints if isinstance(endpoints, str) else tuple(endpoints)
        self._known = Endpoints(self._endpoints)
        self._scopes = Scopes()
        self._worker = Worker(self._wait_s)
        self._swap = threading.RLock()
        self._open = functools.partial(
            open_ledger,
            path,
            durability=durability,
            timezone=timezone,
            now_us=self.now_us,
            read_only=self._read_only,
            on_alerts=self._alerts.fire,
        )
        if self.mode == OFF:
            return  # the emergency switch must not need a ledger in good health
        try:
            self._begin()
            _ = self.gate, self.settlement
        except BaseException:
            if "ledger" in self.__dict__:
                self._books.close()
            raise

    def _gate_to(self, ledger: Ledger) -> Gate:
        return Gate(
            ledger,
            self.prices,
            project=self.project,
            mode=self.mode,
            media_max=self._media_max,
            scopes=self._scopes,
            now_us=self.now_us,
            fire=self._alerts.fire,
            advice="" if self._allows else ADVICE,
        )

    def _telling(self) -> Telling:
        return Telling(
            self.now_us, self._alerts.fire, lambda ledger, heard: self._settlement_of(ledger).book(heard), self.work
        )

    def _settlement_of(self, ledger: Ledger, *, keep: Keep | None = None) -> Settlement:
        return Settlement(
            ledger,
            self.prices,
            now_us=self.now_us,
            fire=self._alerts.fire,
            reopen=self._open,
            work=self.work,
            keep=keep,
        )

    def __reduce__(self) -> reopening.Reduced:
        # Whatever its folder and environment, the other process means the same ledger.
        now: dict[str, object] = {"prices": self.prices, "endpoints": self._endpoints}
        with contextlib.suppress(LedgerError, ConfigurationError):  # there is none: said when it was opened
            now["path"] = portable(self._settings["path"])
        return reopening.packed(self, self._key, type(self), {**self._settings, **now})

    def __enter__(self) -> Guard:
        self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is still to be written and close the ledger. Clients stay open.

        Further calls of theirs are refused; those on their way still have their endings written.
        """
        self.work(self._close)

    def _close(self) -> None:
        self._worker.close()
        with self._swap:
            self.is_closed = True
        if "ledger" not in self.__dict__ or self._absence is not None:
            return
        try:
            self.settlement.drain()
        except LedgerError as error:
            log.error("some endings could not be written before the ledger was closed: %s", error)
        self._books.close()

    # -- clients --------------------------------------------------------------------------------

    def wrap(self, client: C) -> C:
        """Guard a client of httpx, httpx2, openai, anthropic or Runware's SDK, or a session of requests, in place.

        Returns it; twice is once.

        TypeError for anything else, ConfigurationError for a client that another Guard has which is not closed, and
        where this one is closed.
        """
        self._check_open()
        wrapped = clients.wrap(self, client)
        if self.mode != OFF:
            preload_soon()
        return wrapped

    def transport(self, inner: Any = None) -> Any:
        """A guarded `httpx.BaseTransport` around `inner` (default: httpx's own), for those who build their client."""
        from costguard.clients.httpx import sync_transport

        self._check_open()
        return sync_transport(self, inner)

    def async_transport(self, inner: Any = None) -> Any:
        """As `transport`, for asynchronous clients; loads the vocabulary now, not on the event loop."""
        from costguard.clients.httpx import async_transport

        self._check_open()
        return async_transport(self, inner)

    def requests_adapter(self, inner: Any = None) -> Any:
        """A guarded adapter around `inner` (default: a new `HTTPAdapter`), for `requests.Session.mount`."""
        self._check_open()
        return clients.adapter("requests").adapter(self, inner)

    @property
    def aiohttp_middleware(self) -> Any:
        """For `aiohttp.ClientSession(middlewares=(…, guard.aiohttp_middleware))`, the last of them: what stands behind
        it would send again unseen. Loads the vocabulary now, not on the event loop.
        """
        self._check_open()
        return clients.adapter("aiohttp").Middleware(self)

    def scope(self, *, project: str | None = None, tags: Mapping[str, str] | None = None) -> Block:
        """Book the calls of a block of code on `project` (a full path) and add `tags` to them.

        Local to the thread or asyncio task; scopes nest, tags merge. It may be left in another context than it was
        entered in, as by a generator that another task closes: that context's own scope is not touched.
        """
        self._check_open()
        return Block(self._scopes, None, None) if self.mode == OFF else Block(self._scopes, project, tags)

    def _check_open(self) -> None:
        if self.is_closed:
            raise ConfigurationError(f"this Guard is closed: {_AFTER_CLOSE}")

    # -- the other roads ------------------------------------------------------------------------

    def observe(self, payload: object) -> int:
        """Book a result from anywhere: a webhook's body, a log line, a queue; returns the changes made.

        `payload`: JSON as text, bytes, dict or list: an item, a list of items or a whole response. The same
        one twice changes nothing; a task this ledger does not know is left alone. 0 as well for what is kept until the
        ledger is back (`on_ledger_error="allow"`).
        """
        return cast(int, in_this_wait(lambda: self.settlement.observe(payload), self._wait_s))

    def reconcile(
        self, client: Any, *, min_age: Age = "60s", unknown_age: Age = "24h", progress: Progress | None = None
    ) -> Reconciliation:
        """Ask `getTaskDetails` for every unresolved task, and for held ones older than `min_age`.

        `client`: an httpx or httpx2 Client, guarded or bare, whose `base_url` is the endpoint and whose headers
        carry the key. Details with results settle, only errors release; a task that the provider does not know is
        released `unknown_age` after its admission, which must outlast the longest work, and asked for once more as
        much later; never one that the provider took. All else stays, with a reason.
        """
        return asking.reconcile(self._asking(min_age, unknown_age), client, progress)

    async def areconcile(
        self, client: Any, *, min_age: Age = "60s", unknown_age: Age = "24h", progress: Progress | None = None
    ) -> Reconciliation:
        """As `reconcile`, with an AsyncClient."""
        return await asking.areconcile(self._asking(min_age, unknown_age), client, progress, self.offload)

    def resolve(self, task_uuid: str, *, charged: str | int | Decimal | None = None, reason: str) -> None:
        """An operator's word on an unresolved task: `charged` USD, or None: not billed. Needs a reason."""
        if not isinstance(reason, str) or not reason.strip():
            raise ConfigurationError("reason: say why, in words; it is kept in the ledger")
        nanos = None if charged is None else money.parse_usd(charged, "charged")
        self.settlement.resolve(task_uuid, nanos, reason.strip())

    def verify(self) -> Verification:
        """Recompute every promise of the ledger from its rows; `.difference` names the first that fails."""
        return self.ledger.verify()

    # -- estimates ------------------------------------------------------------------------------

    def estimate(self, task: Mapping[str, Any], *, media_max: Mapping[str, object] | None = None) -> Estimate:
        """Tokens by modality and USD, expected and worst case, of one task as it would be sent."""
        wanted, read, now_us = None if media_max is None else {"media_max": media_max}, NATIVE.task(task), self.now_us()
        try:
            return cast(Estimate, self.work(lambda: self.gate.estimate(read, now_us, self.gate.options(wanted))))
        except LedgerError as error:
            gate = self._gate_to(self._without(error))
            return gate.estimate(read, now_us, gate.options(wanted))

    def now_us(self) -> int:
        """The guard's clock: UTC microseconds."""
        return wall_clock_us() if self._clock is None else to_us(self._clock())

    # -- one exchange, as `flow` and the clients ask for it -------------------------------------

    @property
    def is_off(self) -> bool:
        """True in mode "off", and in "observe" as long as there is no ledger: nothing is guarded."""
        return self.mode == OFF or self._absence is not None

    def claim(self, host: str, port: int | None, path: str) -> Claim | None:
        """Whose a POST may be: see `Endpoints.claim`."""
        return self._known.claim(host, port, path)

    def enter(self, call: Call, body: bytes) -> Entry | None:
        """Bring a POST to the gate; None if it is not to be guarded."""
        if self.is_closed and self.mode == ENFORCE:
            raise LedgerError(f"the Guard of this client is closed: {_AFTER_CLOSE}; nothing was sent")
        entry = self.gate.enter(call, body)
        if entry is not None and self.settlement.is_behind:
            with contextlib.suppress(LedgerError):
                self.settlement.drain()
        return entry

    def unrecorded(self, options: object) -> str | None:
        """The project of tasks that are sent without a record; None in mode "enforce", where there are none such."""
        if self.mode == ENFORCE:
            return None
        if self._absence is not None:
            self._absence.look()
        return self.project if self.mode == OFF else self.gate.options(options).project

    async def offload(self, run: Callable[[], Any]) -> Any:
        """Run `run` on the ledger's thread: see `Worker`."""
        return await self._worker(run)

    def later(self, run: Callable[[], object]) -> None:
        """Run `run` on the ledger's thread, behind what it is at."""
        self._worker.later(run)

    def _asking(self, min_age: Age, unknown_age: Age) -> asking.Desk:
        ages = parse_age(min_age), parse_age(unknown_age, "unknown_age")
        return asking.Desk(self.ledger, self.settlement, self.now_us, *ages, self._lost_us)


class ReadingGuard(Guard):
    """A Guard for reports: it needs no right to write, and waits for no writer."""

    _read_only = True
