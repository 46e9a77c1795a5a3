"""Guard: what a program holds on to. Admission and settlement; no HTTP library, no SQL."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar, cast

from costguard import clients, money
from costguard.budgets import Budget, make_budget, to_us
from costguard.errors import ConfigurationError, LedgerError
from costguard.estimating.estimate import Estimate
from costguard.estimating.media import parse_media_max
from costguard.exchange import reconcile as asking
from costguard.exchange import reopening
from costguard.exchange.alerting import Alerts
from costguard.exchange.effects import Call, Claim
from costguard.exchange.entry import Entry
from costguard.exchange.gate import MODES, OBSERVE, OFF, Gate
from costguard.exchange.offload import Worker
from costguard.exchange.reconcile import Age, Progress, Reconciliation, parse_age
from costguard.exchange.settlement import Settlement
from costguard.ledger.absent import NoLedger
from costguard.ledger.accounting.book import Ledger, wall_clock_us
from costguard.ledger.engines import open_engine, open_reader
from costguard.ledger.place import place
from costguard.ledger.records import Alert, Verification
from costguard.ledger.standing import BudgetStatus, standing
from costguard.prices.book import PriceBook
from costguard.projects import DEFAULT_PROJECT, ancestors, parse_budget_project, parse_project
from costguard.wire import NATIVE

C = TypeVar("C")

MODE_VARIABLE = "COSTGUARD"
"""Environment variable that overrides every Guard's mode, for roll-outs and emergencies."""

log = logging.getLogger("costguard")


class Guard:
    """Guards LLM clients: estimates, holds the worst case, sends, settles at what was billed.

    `path`: the ledger file (None: `COSTGUARD_DB`, else the platform's data folder). `project`: the path
    that calls are booked on. `mode`: "enforce", "observe" (record, never refuse) or "off"; the environment
    variable COSTGUARD overrides it. `durability`: "full" survives power loss, "normal" all else.
    `prices`: a folder of price files of your own. `on_alert(alert)`, a plain function, is called after commit,
    on whichever thread settled. `timezone`: the ledger's reporting zone, fixed at creation. `media_max`: longest media
    you send, `{"video_s": …, "audio_s": …, "pdf_pages": …}`. `endpoints`: further hosts, or URLs of native
    endpoints, that speak Runware's wire. `clock`: a function that gives an aware datetime, for tests.

    Raises ConfigurationError, PriceFileError or LedgerError for what cannot be used; in mode "observe" a ledger
    that cannot be opened is said in the log, and all calls are sent. Pickled, it is opened anew in the other process.
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
        self._worker = Worker()
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
            self.mode = OFF
            return
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
        return Gate(
            self.ledger,
            self.prices,
            project=self.project,
            mode=self.mode,
            media_max=self._media_max,
            endpoints=self._endpoints,
            now_us=self.now_us,
            fire=self._alerts.fire,
        )

    @functools.cached_property
    def settlement(self) -> Settlement:
        """What books every outcome."""
        return Settlement(self.ledger, self.prices, now_us=self.now_us, fire=self._alerts.fire, reopen=self._open)

    def __reduce__(self) -> reopening.Reduced:
        # Whatever its folder and environment, the other process means the same ledger.
        now = {"path": place(self._settings["path"]), "prices": self.prices, "endpoints": self._endpoints}
        return reopening.packed(self, self._key, type(self), {**self._settings, **now})

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is still to be written and close the ledger. Clients stay open.

        Further calls of theirs are refused; those on their way still have their endings written.
        """
        self._worker.close()
        self.is_closed = True
        if "ledger" not in self.__dict__:
            return
        try:
            self.settlement.drain()
        except LedgerError as error:
            log.error("some endings could not be written before the ledger was closed: %s", error)
        self.ledger.close()

    # -- clients --------------------------------------------------------------------------------

    def wrap(self, client: C) -> C:
        """Guard an httpx or httpx2 client (sync or async) in place and return it; twice is once.

        TypeError for anything else, ConfigurationError for a client that another Guard has which is not closed.
        """
        return clients.wrap(self, client)

    def transport(self, inner: Any = None) -> Any:
        """A guarded `httpx.BaseTransport` around `inner` (default: httpx's own), for those who build their client."""
        from costguard.clients.httpx import sync_transport

        return sync_transport(self, inner)

    def async_transport(self, inner: Any = None) -> Any:
        """As `transport`, for asynchronous clients; loads the vocabulary now, not on the event loop."""
        from costguard.clients.httpx import async_transport

        return async_transport(self, inner)

    @contextlib.contextmanager
    def scope(self, *, project: str | None = None, tags: Mapping[str, str] | None = None) -> Iterator[None]:
        """Book the calls of a block of code on `project` (a full path) and add `tags` to them.

        Local to the thread or asyncio task; scopes nest, tags merge. It may be left in another context than it was
        entered in, as by a generator that another task closes: that context's own scope is not touched.
        """
        if self.mode == OFF:
            yield
            return
        with self.gate.scope(project, tags):
            yield

    # -- budgets --------------------------------------------------------------------------------

    def set_budget(
        self,
        project: str,
        amount: str | int | Decimal,
        *,
        per: str = "month",
        timezone: str | None = None,
        warn_at: Iterable[int] | None = None,
        action: str | None = None,
        floor: int | None = None,
        wait: float | Decimal | None = None,
        if_absent: bool = False,
    ) -> Budget:
        """Limit `project` and all below it to `amount` USD `per` day, week, month, quarter, year, total or task.

        Returns the budget as it stands. One that there is (project, per) keeps what is not named, and its balance;
        a raised limit arms its alerts again. With `if_absent` it stays as it is: for a program's own default, which
        must not undo an operator's. `acme/*` is such a budget on each direct child of acme without one of its own
        for that `per`, `/*` on each top-level project. `timezone` (new: UTC): where the window begins. `warn_at`
        (new: none): percents of the limit that fire an alert once per window. `action`: "block" (new); "clamp"
        lowers `maxTokens` to what is left, never under `floor` tokens (new: 1), before it refuses; "warn" never
        refuses. `wait` (new: 0): seconds a call may wait for held money to come back before it is refused.
        """
        make = functools.partial(
            make_budget, project, amount, per=per, timezone=timezone, warn_at=warn_at, action=action, floor=floor,
            wait=wait,
        )  # fmt: skip
        return self.ledger.change_budget(parse_budget_project(project), per, make, self.now_us(), if_absent=if_absent)[
            0
        ]

    def remove_budget(self, project: str, *, per: str = "month") -> bool:
        """Forget a budget; False if there was none. With a default (`acme/*`), those of the children go too."""
        return self.ledger.remove_budget(parse_budget_project(project), per, self.now_us())

    def budgets(self) -> list[Budget]:
        """All budgets that were set, by project and period."""
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
        """Every budget with its current window; with `project` those on its path and below it.

        Of a default such as `acme/*` each child is shown that spent or holds something, and the one on the path.
        """
        wanted = None if project is None else parse_project(project)
        return [standing(balance) for balance in self.ledger.balances(self.now_us(), wanted)]

    def remaining(self, project: str | None = None) -> Decimal | None:
        """USD that a call of `project` may still cost at most, over all hard budgets of its path; None if none."""
        path = ancestors(self.project if project is None else parse_project(project))
        left = [
            balance.remaining
            for balance in self.ledger.balances(self.now_us(), path[0])
            if balance.budget.hard and balance.budget.project in path
        ]
        return money.to_usd(min(left)) if left else None

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
        options = self.gate.options(None if media_max is None else {"media_max": media_max})
        return self.gate.estimate(NATIVE.task(task), self.now_us(), options)

    def now_us(self) -> int:
        """The guard's clock: UTC microseconds."""
        return wall_clock_us() if self._clock is None else to_us(self._clock())

    # -- one exchange, as `flow` and the clients ask for it -------------------------------------

    @property
    def is_off(self) -> bool:
        """True in mode "off": nothing is guarded."""
        return self.mode == OFF

    def claim(self, host: str, port: int | None, path: str) -> Claim | None:
        """Whose a POST may be: see `Endpoints.claim`."""
        return self.gate.claim(host, port, path)

    def enter(self, call: Call, body: bytes) -> Entry | None:
        """Bring a POST to the gate; None if it is not to be guarded."""
        entry = self.gate.enter(call, body)
        if entry is not None and self.settlement.is_behind:
            with contextlib.suppress(LedgerError):
                self.settlement.drain()
        return entry

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
        return Ledger(engine, timezone=timezone, now_us=now_us or wall_clock_us)
    except BaseException:
        engine.close()
        raise


def _parse_mode(mode: str) -> str:
    named = os.environ.get(MODE_VARIABLE, "").strip().lower()
    what, found = (MODE_VARIABLE, named) if named else ("mode", mode)
    if found not in MODES:
        raise ConfigurationError(f"{what}: {found!r} is not one of {', '.join(MODES)}")
    return found
