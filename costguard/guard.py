"""Guard: what a program holds on to. Admission and settlement; no HTTP library, no SQL."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
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
from costguard.exchange.absence import Absence
from costguard.exchange.alerting import Alerts
from costguard.exchange.effects import Call, Claim
from costguard.exchange.endpoints import Endpoints
from costguard.exchange.entry import Entry
from costguard.exchange.gate import ENFORCE, MODES, OBSERVE, OFF, Gate
from costguard.exchange.limits import Limits
from costguard.exchange.offload import Worker, in_one_wait
from costguard.exchange.reconcile import Age, Progress, Reconciliation, parse_age
from costguard.exchange.scopes import Block, Scopes
from costguard.exchange.settlement import Settlement
from costguard.ledger.absent import NoLedger
from costguard.ledger.accounting.book import Ledger, wall_clock_us
from costguard.ledger.accounting.rolling import ROLL_MAX
from costguard.ledger.engines import open_engine, open_reader
from costguard.ledger.place import place
from costguard.ledger.records import Alert, Verification
from costguard.prices.book import PriceBook
from costguard.projects import DEFAULT_PROJECT, parse_project
from costguard.wire import NATIVE

C = TypeVar("C")
T = TypeVar("T")

MODE_VARIABLE = "COSTGUARD"
"""Environment variable that overrides every Guard's mode, for roll-outs and emergencies."""

_AFTER_CLOSE = "make a new one, Guard(path), and wrap the client with it"

log = logging.getLogger("costguard")


class Guard(Limits):
    """Guards LLM clients: estimates, holds the worst case, sends, settles at what was billed.

    `path`: the ledger file (None: `COSTGUARD_DB`, else the platform's data folder). `project`: the path
    that calls are booked on. `mode`: "enforce", "observe" (record, never refuse) or "off"; the environment
    variable COSTGUARD overrides it. `durability`: "full" survives power loss, "normal" all else.
    `prices`: a folder of price files of your own. `on_alert(alert)`, a plain function, is called after commit,
    on whichever thread settled. `timezone`: the ledger's reporting zone, fixed at creation. `media_max`: longest media
    you send, `{"video_s": …, "audio_s": …, "pdf_pages": …}`. `endpoints`: further hosts, or URLs of native
    endpoints, that speak Runware's wire. `clock`: a function that gives an aware datetime, for tests.

    Raises ConfigurationError, PriceFileError or LedgerError for what cannot be used; in mode "observe" a ledger
    that cannot be opened is said in the log, all calls are sent, and it is tried again once a minute. Pickled, it is
    opened anew in the other process.
    """

    _read_only = False

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
        self._settings: dict[str, Any] = {
            "path": path, "project": project, "mode": mode, "durability": durability, "on_alert": on_alert,
            "timezone": timezone, "media_max": media_max, "clock": clock,
        }  # fmt: skip
        self._key = uuid.uuid4().hex
        self.is_closed = False
        self.project = parse_project(project)
        self.mode = _parse_mode(mode)
        self.prices = prices if isinstance(prices, PriceBook) else PriceBook.load(prices)
        self._clock = clock
        self._alerts = Alerts(on_alert)
        self._media_max = parse_media_max(media_max or {})
        self._endpoints = endpoints if isinstance(endpoints, str) else tuple(endpoints)
        self._known = Endpoints(self._endpoints)
        self._scopes = Scopes()
        self._worker = Worker()
        self._swap = threading.RLock()
        self._absence: Absence | None = None
        self._open = functools.partial(
            open_ledger,
            path,
            durability=durability,
            timezone=timezone,
            now_us=self.now_us,
            read_only=self._read_only,
        )
        if self.mode == OFF:
            return  # the emergency switch must not need a ledger in good health
        try:
            _ = self.ledger
        except (LedgerError, ConfigurationError) as error:
            if self.mode != OBSERVE or self._read_only:
                raise
            log.error("nothing is recorded, all calls are sent (mode observe): %s", error)
            self.ledger = cast(Ledger, NoLedger(str(error)))
            self._absence = Absence(self._open, self._found)
        try:
            _ = self.gate, self.settlement
        except BaseException:
            self.ledger.close()
            raise

    @functools.cached_property
    def ledger(self) -> Ledger:
        """The ledger; in mode "off" it is opened when it is first asked for."""
        return self._open()

    @functools.cached_property
    def gate(self) -> Gate:
        """What decides before a request is sent."""
        return self._gate_to(self.ledger)

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
        )

    @functools.cached_property
    def settlement(self) -> Settlement:
        """What books every outcome."""
        return self._settlement_of(self.ledger)

    def _settlement_of(self, ledger: Ledger) -> Settlement:
        return Settlement(ledger, self.prices, now_us=self.now_us, fire=self._alerts.fire, reopen=self._open)

    def __reduce__(self) -> reopening.Reduced:
        # Whatever its folder and environment, the other process means the same ledger.
        now: dict[str, object] = {"prices": self.prices, "endpoints": self._endpoints}
        with contextlib.suppress(LedgerError, ConfigurationError):  # there is none: said when it was opened
            now["path"] = place(self._settings["path"])
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
        in_one_wait(self._close)

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
        self.ledger.close()

    # -- clients --------------------------------------------------------------------------------

    def wrap(self, client: C) -> C:
        """Guard an httpx or httpx2 client (sync or async) in place and return it; twice is once.

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

    def _asked(self, ask: Callable[[Ledger], T]) -> T:
        """What `ask` has of the ledger; where that fails and nothing may stop the program, what none has."""
        try:
            return ask(self.ledger)
        except LedgerError as error:
            return ask(self._without(error))

    def _without(self, error: LedgerError) -> Ledger:
        """No ledger, which the log says; `error` itself in mode `enforce`, after `close` and for reports."""
        if self.mode == ENFORCE or self._read_only or self.is_closed:
            raise error
        log.error("the ledger cannot be used (mode %s): %s", self.mode, error)
        return cast(Ledger, NoLedger(str(error), self.mode))

    # -- the other roads ------------------------------------------------------------------------

    def observe(self, payload: object) -> int:
        """Book a result from anywhere: a webhook's body, a log line, a queue; returns the changes made.

        `payload`: JSON as text, bytes, dict or list: an item, a list of items or a whole response. The same
        one twice changes nothing; a task this ledger does not know is left alone.
        """
        return self.settlement.observe(payload)

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
            return self.gate.estimate(read, now_us, self.gate.options(wanted))
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

    def _found(self, ledger: Ledger) -> None:
        """The ledger that could not be opened is there."""
        with self._swap:
            if self.is_closed:
                ledger.close()
                return
            self.ledger, self.gate, self.settlement = ledger, self._gate_to(ledger), self._settlement_of(ledger)
            self._absence = None
        log.warning("the ledger can be opened again: calls are recorded from here on (mode observe)")

    async def offload(self, run: Callable[[], Any]) -> Any:
        """Run `run` on the ledger's thread: see `Worker`."""
        return await self._worker(run)

    def later(self, run: Callable[[], object]) -> None:
        """Run `run` on the ledger's thread, behind what it is at."""
        self._worker.later(run)

    def _asking(self, min_age: Age, unknown_age: Age) -> asking.Desk:
        ages = parse_age(min_age), parse_age(unknown_age, "unknown_age")
        return asking.Desk(self.ledger, self.settlement, self.now_us, *ages)


class ReadingGuard(Guard):
    """A Guard for reports: it needs no right to write, and waits for no writer."""

    _read_only = True


def open_ledger(
    path: str | Path | None = None,
    *,
    durability: str = "full",
    timezone: str | None = None,
    now_us: Callable[[], int] | None = None,
    read_only: bool = False,
) -> Ledger:
    """Open or create the ledger at `path`: see `place`. `read_only`: create and write nothing, wait for no writer."""
    engine = open_reader(place(path)) if read_only else open_engine(place(path), durability=durability)
    try:
        ledger = Ledger(engine, timezone=timezone, now_us=now_us or wall_clock_us)
        if not read_only:
            ledger.roll_up(ROLL_MAX)  # a ledger that was just brought up to date has none
        return ledger
    except BaseException:
        engine.close()
        raise


def _parse_mode(mode: str) -> str:
    named = os.environ.get(MODE_VARIABLE, "").strip().lower()
    what, found = (MODE_VARIABLE, named) if named else ("mode", mode)
    if found not in MODES:
        raise ConfigurationError(f"{what}: {found!r} is not one of {', '.join(MODES)}")
    return found
