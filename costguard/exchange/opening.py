"""A guard's ledger: opened, away for now, or found again."""

from __future__ import annotations

import functools
import logging
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

from costguard.errors import ConfigurationError, LedgerError
from costguard.exchange.absence import Absence
from costguard.exchange.gate import ENFORCE, OBSERVE, Gate
from costguard.exchange.limits import Limits
from costguard.exchange.offload import in_one_wait
from costguard.exchange.replaying import Desk, adopt
from costguard.exchange.settlement import Keep, Settlement
from costguard.exchange.spooling import Spooling
from costguard.ledger.absent import NoLedger
from costguard.ledger.accounting.book import Ledger, wall_clock_us
from costguard.ledger.accounting.rolling import ROLL_MAX
from costguard.ledger.engines import name_of, open_engine, open_reader
from costguard.ledger.place import place
from costguard.ledger.records import Alert
from costguard.ledger.spool import kept_lines, spool_folder
from costguard.ledger.spooled import Degraded, degraded

T = TypeVar("T")

BLOCK = "block"
ALLOW = "allow"

ADVICE = 'nothing is sent while the ledger is away; Guard(on_ledger_error="allow") would let calls go on'
"""Said of a call that the ledger kept from being sent."""

log = logging.getLogger("costguard")


def open_ledger(
    path: str | Path | None = None,
    *,
    durability: str = "full",
    timezone: str | None = None,
    now_us: Callable[[], int] | None = None,
    read_only: bool = False,
    on_alerts: Callable[[Iterable[Alert]], object] | None = None,
) -> Ledger:
    """Open or create the ledger at `path`: see `place`. `read_only`: create and write nothing, wait for no writer.

    `on_alerts`: told of the alerts that no call's own ending claims.
    """
    engine = open_reader(place(path)) if read_only else open_engine(place(path), durability=durability)
    try:
        ledger = Ledger(engine, timezone=timezone, now_us=now_us or wall_clock_us)
        if on_alerts is not None:
            ledger.on_alerts = on_alerts
        if not read_only:
            ledger.roll_up(ROLL_MAX)  # a ledger that was just brought up to date has none
        return ledger
    except BaseException:
        engine.close()
        raise


def parse_on_ledger_error(named: object) -> bool:
    """True for "allow", False for "block"; ConfigurationError for anything else."""
    if named not in (BLOCK, ALLOW):
        raise ConfigurationError(f"on_ledger_error: {named!r} is not one of {BLOCK}, {ALLOW}")
    return named == ALLOW


class Opening(Limits):
    """The part of a `Guard` that has its ledger: opened, or away for now."""

    mode: str
    is_closed: bool
    _read_only = False
    _allows: bool
    """Calls go on while the ledger is away."""
    _wait_s: float
    """What a call waits for the ledger at most."""
    _open: Callable[[], Ledger]
    _swap: threading.RLock
    _absence: Absence | None = None
    _spooling: Spooling | None = None
    _settings: dict[str, Any]

    @functools.cached_property
    def ledger(self) -> Ledger:
        """The ledger; in mode "off" it is opened when it is first asked for."""
        return cast(Ledger, self.work(self._open))

    @functools.cached_property
    def gate(self) -> Gate:
        """What decides before a request is sent."""
        return self._gate_to(self._books)

    @functools.cached_property
    def settlement(self) -> Settlement:
        """What books every outcome."""
        return self._settlement_of(self._books, keep=None if self._spooling is None else self._spooling.keep)

    @abstractmethod
    def _gate_to(self, ledger: Ledger) -> Gate:
        """A gate to `ledger`, or what stands for it."""

    @abstractmethod
    def _settlement_of(self, ledger: Ledger, *, keep: Keep | None = None) -> Settlement:
        """A settlement in `ledger`, or what stands for it."""

    @abstractmethod
    def _telling(self) -> Desk:
        """What telling a ledger what it missed needs."""

    @property
    def _books(self) -> Ledger:
        """What calls are admitted to and end in: the ledger, or what stands before it."""
        return self.ledger if self._spooling is None else cast(Ledger, self._spooling)

    def _begin(self) -> None:
        """Open the ledger, or take what does its work as long as it cannot be opened."""
        try:
            ledger = self.ledger
        except (LedgerError, ConfigurationError) as error:
            if self._allows and isinstance(error, LedgerError):
                self._spooling = self._spooling_to(None)
            if self._spooling is None and (self.mode != OBSERVE or self._read_only):
                raise
            self.ledger = cast(Ledger, NoLedger(str(error)))
            if self._spooling is not None:
                self._spooling.outage.failed(error)
            else:
                log.error("nothing is recorded, all calls are sent (mode observe): %s", error)
                self._absence = Absence(self._open, self._found)
            return
        if self._allows:
            self._spooling = self._spooling_to(ledger)
        if not self._read_only:
            try:
                adopt(self._spool_folder, ledger, self._telling())
            except LedgerError as error:
                log.error("what another program left in a spool could not be written: %s", error)

    @functools.cached_property
    def _spool_folder(self) -> Path:
        """Where what the ledger is yet to be told lies, whether or not that is there."""
        return spool_folder(name_of(place(self._settings["path"])), make=False)

    def _spooling_to(self, ledger: Ledger | None) -> Spooling | None:
        """What stands before the ledger; None (mode observe only) if there is no place for a spool."""

        def found(opened: Ledger) -> None:
            self.ledger = opened

        try:
            folder = spool_folder(name_of(place(self._settings["path"])))
        except LedgerError as error:
            if self.mode != OBSERVE:
                raise
            log.error("nothing is kept while the ledger is away (mode observe): %s", error)
            return None
        return Spooling(ledger, folder, self._telling(), reopen=self._open, found=found)

    def _asked(self, ask: Callable[[Ledger], T]) -> T:
        """What `ask` has of the ledger; where that fails and nothing may stop the program, what none has."""
        spooling = self._spooling
        if spooling is not None and not self.is_closed:
            return cast(T, self.work(lambda: spooling.asked(ask)))
        try:
            return cast(T, self.work(lambda: ask(self.ledger)))
        except LedgerError as error:
            return ask(self._without(error))

    def _without(self, error: LedgerError) -> Ledger:
        """No ledger, which the log says; `error` itself in mode `enforce`, after `close` and for reports."""
        if (self.mode == ENFORCE and self._spooling is None) or self._read_only or self.is_closed:
            raise error
        log.error("the ledger cannot be used (mode %s): %s", self.mode, error)
        return cast(Ledger, NoLedger(str(error), self.mode))

    def _found(self, ledger: Ledger) -> None:
        """The ledger that could not be opened is there."""
        with self._swap:
            if self.is_closed:
                ledger.close()
                return
            self.ledger, self.gate, self.settlement = ledger, self._gate_to(ledger), self._settlement_of(ledger)
            self._absence = None
        log.warning("the ledger can be opened again: calls are recorded from here on (mode observe)")

    @property
    def degraded(self) -> Degraded | None:
        """What the ledger is yet to be told by programs on this host, as it was away; None if nothing."""
        if self._spooling is not None:
            return self._spooling.outage.degraded()
        return degraded(line.text for line in kept_lines(self._spool_folder))

    def work(self, run: Callable[[], Any]) -> Any:
        """Run `run` here and now, waiting for the ledger no longer than a call may: see `in_one_wait`."""
        return in_one_wait(run, self._wait_s)
