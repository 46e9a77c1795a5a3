"""The accounting: admissions, endings, budgets and reports, in portable SQL on any engine.

Money moves only through `entries`, the append-only journal. `attempts` and `balances` are derived
from it and kept beside it, so that an admission reads three rows and a month's report its roll-ups.
The parts: `reading`, `usage`, `limits`, `admission`, `posting`, `endings`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from costguard.budgets import day_of
from costguard.errors import ConfigurationError, LedgerError
from costguard.ledger.accounting.admission import Admissions
from costguard.ledger.accounting.charged import Charged
from costguard.ledger.accounting.checkpoint import Checkpoint
from costguard.ledger.accounting.endings import Endings
from costguard.ledger.accounting.history import History
from costguard.ledger.accounting.reporting import Reporting
from costguard.ledger.accounting.rolling import ROLL_MAX, roll, rolled
from costguard.ledger.accounting.tokens import Tokens
from costguard.ledger.accounting.usage import Usage
from costguard.ledger.accounting.verify import verify_some
from costguard.ledger.engine import Engine, Tx
from costguard.ledger.records import Verification

log = logging.getLogger("costguard")


def wall_clock_us() -> int:
    """Now, in UTC microseconds."""
    return time.time_ns() // 1000


class Ledger(Admissions, Endings, Usage, Reporting, Charged, History, Tokens):
    """Holds, charges, budgets and reports over an `Engine`. Every method is one transaction.

    `timezone` is the reporting zone, fixed when the ledger is created (default UTC); naming another
    later is a ConfigurationError. `leases`: "auto", "on" or "off", see `leasing`; None: as the engine says.
    All methods raise LedgerError when the engine cannot do its work.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        timezone: str | None = None,
        now_us: Callable[[], int] = wall_clock_us,
        leases: str | None = None,
    ) -> None:
        super().__init__(engine, now_us)
        if leases is not None:
            self.leases = leases
        self.timezone = self._reporting_zone(timezone)

    def close(self) -> None:
        """Give leases back, and close the engine."""
        if not self._engine.is_closed:
            try:
                self.end_leases()
            except LedgerError as error:
                log.warning("leases are given back once they are over: %s", error)
        self._engine.close()

    @property
    def is_in_place(self) -> bool:
        """True if the storage that was opened is still what its name leads to."""
        return self._engine.is_in_place

    @property
    def is_closed(self) -> bool:
        """True once `close` was called."""
        return self._engine.is_closed

    def verify(
        self,
        since: Checkpoint | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Verification:
        """Recompute every promise from the rows; names the first difference.

        `since`: what an earlier run had come to; it is brought up to date as this one goes on, and what was verified
        before is not looked at again. `progress` is told how many entries were looked at, of how many.
        """
        state = Checkpoint() if since is None else since
        state.has_begun = False

        def some(tx: Tx) -> tuple[Verification | None, Checkpoint, int]:
            draft = state.copy()  # a snapshot that is not steady is read again
            (last,) = tx.one("SELECT coalesce(max(seq), 0) FROM entries") or (0,)
            return verify_some(tx, draft), draft, last

        while True:
            found, draft, last = self._read(some)
            state.__dict__.update(draft.__dict__)
            if progress is not None:
                progress(state.seq, last)
            if found is not None:
                return found

    def roll_up(self, behind: int = 1) -> None:
        """Bring the roll-ups up to the journal's end, if they are `behind` by so many entries.

        Charges do that along the way; this is for when many came at once.
        """

        def some(tx: Tx) -> bool:
            done, last = ends(tx)
            return roll(tx, done, min(last, done + ROLL_MAX)) >= last if done < last else True

        def ends(tx: Tx) -> tuple[int, int]:
            (last,) = tx.one("SELECT coalesce(max(seq), 0) FROM entries") or (0,)
            return rolled(tx), last

        done, last = self._read(ends)
        if last - done >= behind:
            while not self._write(some):
                pass

    def _reporting_zone(self, wanted: str | None) -> str:
        def read(tx: Tx) -> str | None:
            rows = dict(tx.all("SELECT key, value FROM meta WHERE key IN ('timezone', 'moving')"))
            if "moving" in rows:
                raise LedgerError(
                    "a ledger is being moved here, and is not whole yet; `costguard migrate`, run again, goes on"
                )
            return rows.get("timezone")

        def create(tx: Tx) -> str:
            found = read(tx)
            if found is None:
                found = wanted or "UTC"
                tx.run("INSERT INTO meta VALUES ('timezone', ?)", (found,))
            return found

        if wanted is not None:
            day_of(wanted, 0)  # names an unknown zone before anything is written
        found = self._read(read) or self._write(create)
        if wanted is not None and wanted != found:
            raise ConfigurationError(
                f"timezone: this ledger reports in {found}, fixed when it was created, not in {wanted};"
                f" leave it out, or read a report with `--timezone {wanted}`"
            )
        return found
