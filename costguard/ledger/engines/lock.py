"""One writer at a time across processes: an advisory lock on a file beside the ledger.

SQLite's own `busy_timeout` sleeps in growing steps, so under steady contention some waiters are
never served; and before 3.51.3 a checkpoint that races a writer can corrupt a WAL database. Holding
this lock around every write transaction, and the checkpoint that may follow it, rules out both.
"""

from __future__ import annotations

import fcntl
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path

from costguard.errors import LedgerError

_POLL_S = 0.001
"""A waiter's step, always the same: its chance does not shrink with the time it has waited. A blocking
`flock` would wake it sooner, but cannot be bounded, and served the unlucky no better when measured.
"""


class WriterLock:
    """An exclusive `flock` on `path` (created 0600). Not for use by two threads at once."""

    release: Callable[[], object]
    """Let the next writer in; no harm if the lock is not held."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        self.release = _nothing

    def acquire(self, deadline: float) -> None:
        """Take the lock, waiting until `deadline` (`time.monotonic()`); LedgerError if others keep it."""
        while True:
            # A signal handler may fork, which closes the file, after any call: no copy of the descriptor is kept.
            while self._fd is None:
                self._open()
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LedgerError(
                        f"other processes keep the ledger's lock {self.path}; is one of them stopped?"
                        f" (`fuser {self.path}` names them)"
                    ) from None
                time.sleep(_POLL_S)
            except OSError as error:
                raise LedgerError(f"cannot lock {self.path}: {error.strerror}; use a local disk") from error
            else:
                return

    def _open(self) -> None:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerError(
                f"cannot open the ledger's lock file {self.path}: {error.strerror}; make it and its folder writable"
            ) from error
        # A function written in C: no interrupt can come between its call and its effect.
        release = functools.partial(fcntl.flock, fd, fcntl.LOCK_UN)
        self._fd, self.release = fd, release

    def close(self) -> None:
        """Close the descriptor, which also releases the lock."""
        fd, self._fd, self.release = self._fd, None, _nothing
        if fd is not None:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


def _nothing() -> None:
    """There is no lock to release."""
