"""A ledger that could not be opened, in mode `observe`: looked for again now and then, on a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from costguard.errors import ConfigurationError, LedgerError
from costguard.ledger.accounting.book import Ledger

RETRY_S = 60.0
"""At most so often a ledger is tried again, and only when a call is made."""

log = logging.getLogger("costguard")


class Absence:
    """`look` opens the ledger if it can be opened by now, and hands it to `found`; no caller waits for it."""

    def __init__(self, opens: Callable[[], Ledger], found: Callable[[Ledger], None]) -> None:
        self._opens = opens
        self._found = found
        self._lock = threading.Lock()
        self._next_s = time.monotonic() + RETRY_S
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Begin to look again, if it is time."""
        if time.monotonic() < self._next_s or not self._lock.acquire(blocking=False):
            return
        try:
            # After a fork the thread is not alive here, so a child looks for itself.
            if time.monotonic() < self._next_s or (self._thread is not None and self._thread.is_alive()):
                return
            self._next_s = time.monotonic() + RETRY_S
            self._thread = threading.Thread(target=self._run, name="costguard-reopen", daemon=True)
            self._thread.start()
        finally:
            self._lock.release()

    def _run(self) -> None:
        try:
            ledger = self._opens()
        except (LedgerError, ConfigurationError) as error:
            log.info("still nothing is recorded (mode observe): %s", error)
            return
        self._found(ledger)
