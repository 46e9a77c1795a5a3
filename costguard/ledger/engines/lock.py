"""One writer at a time across processes: an advisory lock on a file beside the ledger.

SQLite's own `busy_timeout` sleeps in growing steps, so under steady contention some waiters are
never served; and before 3.51.3 a checkpoint that races a writer can corrupt a WAL database. Holding
this lock around every write transaction, opening, checkpoint and close rules out both. The file also
keeps a short note on the ledger's files (see `places`), which is written under the lock only.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from costguard.errors import LedgerError
from costguard.ledger.engines import spans
from costguard.ledger.engines.patience import Least, Patience

_SOON_S, _LATER_S = 0.0002, 0.004
"""The step of who has waited longest, and of the others: always the same, so that no chance shrinks with the wait.
A blocking `flock` would need no steps, but cannot be bounded. If all looked often, 32 programs would do little else.
"""

_TURN_S = 0.003
"""After this long a program that had to wait for the lock lets others in who wait now. Shorter turns cost calls, as
every change of writers costs both what they remember of the file.
"""

_OF_LATE_S = 1.0
"""Who had not to wait for so long does not ask whether others do: alone, the lock is one system call."""

_LINE_S = 0.25
"""Who stands in line longer is passed: it may be stopped."""

_LINE_AT = 1 << 40
"""The first byte of the line: one for each microsecond, far beyond the note."""


class WriterLock:
    """An exclusive `flock` on the file beside `ledger`. Not for use by two threads at once.

    Whoever looks while it is free takes it. Those who wait also claim a byte of the file that stands for the time they
    came, which ends with their program: who sees no earlier one looks most often, and a program that has had its turn
    lets them in. Nobody trusts in others doing so: all look, and one that is stopped or killed holds nobody up.

    The file gets the owner and mode of the ledger, as SQLite does for its own, so that an administrator's
    command leaves nothing in a service's folder that the service cannot use.
    """

    release: Callable[[], object]
    """Let the next writer in; no harm if the lock is not held."""

    def __init__(self, ledger: Path) -> None:
        self.path = ledger.with_name(ledger.name + "-lock")
        self._ledger = ledger
        self._fd: int | None = None
        self._inode = 0
        self._turn_s = -math.inf  # when it was last taken after a wait
        self.release = _nothing

    def acquire(self, patience: Patience | Least) -> None:
        """Take the lock, waiting until `patience.deadline`; LedgerError that names the holder if others keep it."""
        now_s = time.monotonic()
        is_over = _TURN_S < now_s - self._turn_s < _OF_LATE_S
        if not (is_over and self._is_behind(_byte(now_s))) and self._take():
            return
        place = _byte(now_s)
        try:
            while True:
                time.sleep(_SOON_S if self._line_up(place) and not self._is_behind(place) else _LATER_S)
                if self._take():
                    break
                if time.monotonic() > patience.deadline:
                    raise LedgerError(
                        f"other processes keep the ledger's lock {self.path}: {holders(self._inode)}"
                        f" (`fuser {self.path}` names them)"
                    )
        finally:
            self._leave_line()
        self._turn_s = time.monotonic()

    def _take(self) -> bool:
        """Take the lock if it is free."""
        while True:
            # A signal handler may fork, which closes the file, after any call: no copy of the descriptor is kept.
            while self._fd is None:
                self._open()
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError as error:
                raise LedgerError(f"cannot lock {self.path}: {error.strerror}; use a local disk") from error
            if self.is_linked():
                return True
            self.close()  # removed meanwhile: others would lock another file

    def _line_up(self, place: int) -> bool:
        """Stand in line, if one can here; again at every look, as the file may be another by now."""
        return self._fd is not None and spans.claim(self._fd, fcntl.F_RDLCK, (place, 1))

    def _is_behind(self, place: int) -> bool:
        """True if others stand in line before `place`, and not for too long."""
        first = _byte(time.monotonic() - _LINE_S)
        return self._fd is not None and first < place and spans.is_claimed(self._fd, (first, place - first))

    def _leave_line(self) -> None:
        if self._fd is not None:
            spans.claim(self._fd, fcntl.F_UNLCK, (_LINE_AT, 0))

    def is_linked(self) -> bool:
        """True if others who take the lock take this one: its file was not removed."""
        fd = self._fd
        try:
            return fd is not None and os.fstat(fd).st_nlink > 0
        except OSError:  # a fork in a signal handler closed it
            return False

    def read(self) -> bytes:
        """The note; empty without one. The lock must be held."""
        return b"" if self._fd is None else os.pread(self._fd, 256, 0)

    def write(self, note: bytes) -> None:
        """Keep a note of at most 256 bytes, whole at once. The lock must be held; a full disk is a LedgerError."""
        if self._fd is None:
            return
        try:
            os.pwrite(self._fd, note, 0)
        except OSError as error:
            raise LedgerError(f"cannot write {self.path}: {error.strerror}; nothing was sent or recorded") from error

    def _open(self) -> None:
        try:
            owner = self._ledger.stat()
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerError(
                f"cannot open the ledger's lock file {self.path}: {error.strerror}; make it and its folder writable"
            ) from error
        found = os.fstat(fd)
        if (found.st_uid, found.st_gid) != (owner.st_uid, owner.st_gid):
            with contextlib.suppress(OSError):  # only root may
                os.fchown(fd, owner.st_uid, owner.st_gid)
        if found.st_size == 0:
            with contextlib.suppress(OSError):
                os.fchmod(fd, owner.st_mode & 0o666)
        # A function written in C: no interrupt can come between its call and its effect.
        release = functools.partial(fcntl.flock, fd, fcntl.LOCK_UN)
        self._fd, self._inode, self.release = fd, found.st_ino, release

    def close(self) -> None:
        """Close the descriptor, which also releases the lock."""
        fd, self._fd, self.release = self._fd, None, _nothing
        if fd is not None:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


def _byte(at_s: float) -> int:
    return _LINE_AT + max(0, int(at_s * 1e6))


def holders(inode: int) -> str:
    """Who holds a `flock` on the file `inode`, as Linux tells it: pid, command, and whether it is stopped."""
    try:
        rows = [line.split() for line in Path("/proc/locks").read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):
        rows = []
    pids = [row[4] for row in rows if len(row) > 5 and row[1] == "FLOCK" and row[5].endswith(f":{inode}")]
    return ", ".join(map(_process, pids)) or "is one of them stopped?"


def _process(pid: str) -> str:
    try:
        command = " ".join(Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ").split())
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        stopped = stat[stat.rindex(b")") + 2 :][:1] in (b"T", b"t")
    except OSError:
        return f"process {pid}"
    state = f", which is stopped (`kill -CONT {pid}` wakes it)" if stopped else ""
    return f"process {pid} ({command[:120]}){state}"


def _nothing() -> None:
    """There is no lock to release."""
