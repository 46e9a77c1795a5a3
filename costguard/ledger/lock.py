"""One writer at a time across processes: an advisory lock on a file beside the ledger.

SQLite's own `busy_timeout` sleeps in growing steps, so under steady contention some waiters are
never served; and before 3.51.3 a checkpoint that races a writer can corrupt a WAL database. Holding
this lock around every write transaction, checkpoint and close rules out both.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from costguard.errors import LedgerError

_POLL_S = 0.0005
_POLL_S_MAX = 0.004


class WriterLock:
    """An exclusive `flock` on `path` (created 0600). Not for use by two threads at once."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self.path = path
        self._timeout_s = timeout_s
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock, waiting up to the timeout; LedgerError if another process keeps it."""
        if self._fd is None:
            try:
                self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise LedgerError(f"cannot open the ledger's lock file {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._wait(self._fd)

    def _wait(self, fd: int) -> None:
        """Poll in short even steps: a waiter's chance does not shrink with the time it has waited."""
        deadline = time.monotonic() + self._timeout_s
        pause = _POLL_S
        while True:
            time.sleep(pause)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LedgerError(
                        f"another process has kept the ledger's lock {self.path} for more than"
                        f" {self._timeout_s:g} s; is it stopped? (`fuser {self.path}` names it)"
                    ) from None
                pause = min(pause * 1.1, _POLL_S_MAX)
            else:
                return

    def release(self) -> None:
        """Let the next writer in."""
        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the descriptor, which also releases the lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
