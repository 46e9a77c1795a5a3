"""Reading a ledger without writing: no lock taken, no file made, for users and mounts that may only read."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable, Sequence
from contextvars import Context
from pathlib import Path
from typing import Any, TypeVar

from costguard.errors import LedgerError
from costguard.ledger.engine import Outcome, Write, attempt
from costguard.ledger.engines import logs, places, schema, spans
from costguard.ledger.engines.files import SqliteTx, blend, check_is_file, connect, explain, resolve
from costguard.ledger.engines.places import Files, Names, Note, View
from costguard.ledger.engines.sqlite import SqliteEngine

T = TypeVar("T")

STEADY_S = 2.0
"""How long files may be changing under a reader's hands before it gives up, and"""

TRIES = 5
"""how often it tries at least, however long each try takes."""

_LONG_S = 0.3
"""A try that took longer, and was in vain, is followed by tries on a private copy, which nobody changes."""

_QUICK_TRIES = 5
"""Between putting a log away and noting that, a program of ours has no more to do than one system call."""

_BUSY_S = 2.0
"""How long SQLite may wait while a program begins or ends its use of the ledger."""


class UnsteadyError(Exception):
    """The files changed while they were read."""


class ReadEngine:
    """Snapshots of the ledger file at `path`, which must be there. `write` is refused.

    Every snapshot has a connection of its own. While programs use the ledger it is one of theirs (`mode=ro`), else
    the file is read as it lies there (`immutable`), and again if it changed meanwhile, on a private copy in the end.
    Raises LedgerError for what is not a ledger, not whole, or cannot be read by this user.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = resolve(path)
        check_is_file(self.path)
        self._names = Names(self.path)
        self._lock = self.path.with_name(self.path.name + "-lock")
        self._closed = False
        self._checked: Files | None = None
        version = self.read(lambda tx: tx.one("PRAGMA user_version"))
        if version != (schema.VERSION,):
            self._migrate(version)

    def _migrate(self, version: tuple[Any, ...] | None) -> None:
        if version == (0,):
            raise LedgerError(
                f"{self.path} is empty, and no ledger yet; `costguard init`, or a program that uses it, makes it one."
                " Nothing was changed"
            )
        try:
            SqliteEngine(self.path).close()
        except LedgerError as error:
            found = version[0] if version else "?"
            raise LedgerError(
                f"the ledger {self.path} has schema {found}, and this costguard reads {schema.VERSION}. Let"
                f" {_owner(self.path)}, who may write it, run any command on it once (such as `costguard status`):"
                f" it is brought up to date then ({error})"
            ) from error

    is_shared = False
    leases = "off"

    def write(self, op: Callable[[Any], T], *, beside: bool = False) -> T:  # noqa: ARG002
        """LedgerError: nothing is written here."""
        raise LedgerError(f"the ledger {self.path} was opened for reading; nothing was written")

    def write_all(self, writes: Sequence[tuple[Context, Write]]) -> list[Outcome]:
        """As `write`, for each."""
        return [attempt(self.write, write.op) for _, write in writes]

    def read(self, op: Callable[[Any], T]) -> T:
        """Run `op` on one consistent snapshot; again if the files changed meanwhile. No writer is waited for."""

        def snapshot(tx: SqliteTx) -> T:
            tx.run("BEGIN")
            return op(tx)

        return self._steadily(snapshot)

    def copy(self, target: Path) -> None:
        """Write a copy into `target`, an empty file: one file that no `-wal` belongs to."""

        def vacuum(tx: SqliteTx) -> None:
            os.truncate(target, 0)
            tx.run("VACUUM INTO ?", (str(target),))

        self._steadily(vacuum)

    def _steadily(self, op: Callable[[SqliteTx], T]) -> T:
        if self._closed:
            raise LedgerError(f"the ledger {self.path} is closed")
        deadline, tries, is_long = time.monotonic() + STEADY_S, 0, False
        while True:
            began, tries = time.monotonic(), tries + 1
            is_last = tries >= TRIES and began > deadline
            try:
                return self._try(op, tries, is_last=is_last, on_copy=is_long or is_last)
            except UnsteadyError:
                if is_last:
                    raise LedgerError(
                        f"the ledger {self.path} is being changed by another program at every moment; try again"
                    ) from None
                is_long = is_long or time.monotonic() - began > _LONG_S
                time.sleep(0.01)
            except (sqlite3.Error, OverflowError) as error:
                raise LedgerError(f"the ledger {self.path}: {explain(error)}") from error
            except OSError as error:
                raise LedgerError(f"the ledger {self.path} cannot be read: {error.strerror}") from error

    def _try(self, op: Callable[[SqliteTx], T], tries: int, *, is_last: bool, on_copy: bool) -> T:
        with places.viewed(self.path) as view:
            return self._seen_by(view, op, tries, is_last=is_last, on_copy=on_copy)

    def _seen_by(self, view: View, op: Callable[[SqliteTx], T], tries: int, *, is_last: bool, on_copy: bool) -> T:
        found = self._names.look()
        note = self._note(found)
        frames = self._names.wal_bytes() > 0
        is_doubtful = self._judge(view, note, found, is_last)
        if is_doubtful and note is not None and self._checked != found and tries <= _QUICK_TRIES:
            raise UnsteadyError  # most likely a program just writes its log into the database
        is_shared = frames and self._is_index_used(view, found)
        on_copy = not is_shared if frames else on_copy
        with contextlib.ExitStack() as opened:
            try:
                path, options = self.path, "mode=ro&readonly_shm=1" if frames else "immutable=1"
                if on_copy:
                    path, options = (
                        self._copy(view, opened.enter_context(tempfile.TemporaryDirectory()), frames),
                        "mode=rw",
                    )
                    self._check_unchanged(found, frames, is_shared)
                tx = SqliteTx(opened.enter_context(contextlib.closing(connect(path, options, timeout_s=_BUSY_S))))
                if is_doubtful and self._checked != found:
                    self._check(tx, frames)
                    self._checked = found
                result = op(tx)
            except Exception as error:  # whatever it is: pages of two moments can look like anything
                if not on_copy:
                    self._check_unchanged(found, frames, is_shared)
                if "unable to open" in str(error) and not is_last:  # its log was put away, and another begun
                    raise UnsteadyError from None
                raise
            if not on_copy:
                self._check_unchanged(found, frames, is_shared)
            return result

    def _is_index_used(self, view: View, found: Files) -> bool:
        """A `-shm` that nobody uses may be of any time: a power loss or a snapshot leaves such."""
        try:
            return bool(found.shm) and (view.tip(self.path) is not None or not spans.CAN_ASK)
        except FileNotFoundError:
            raise UnsteadyError from None

    def _check_unchanged(self, found: Files, frames: bool, is_shared: bool) -> None:
        after = self._names.look()
        if not frames:
            is_same = after[:4] == found[:4] and not self._names.wal_bytes()
        elif is_shared:  # others write the log and the database, SQLite keeps what is read
            is_same = (after.inode, after.wal, after.shm) == (found.inode, found.wal, found.shm)
        else:
            is_same = after == found
        if not is_same:
            raise UnsteadyError from None

    def _judge(self, view: View, note: Note | None, found: Files, is_last: bool) -> bool:
        """True if only a look into the files tells whether they are of one moment."""
        if note is None or note.inode != found.inode:
            self._names.check_one_name()  # with a note that fits, this name is the one that is in use
        try:
            if note is None and not found.wal:
                self._check_alone(view)
            is_doubtful = self._names.judge(note, found)
            if note is not None and found.shm and not is_doubtful:
                self._check_index(view, note, found)
            return is_doubtful
        except LedgerError:
            is_same = note is not None and self._note(found) == note and self._names.look() == found
            if is_last or (is_same and note is not None and not note.is_busy):
                raise
            raise UnsteadyError from None

    def _check_alone(self, view: View) -> None:
        """Where neither note nor log is left: whoever has the file open has records that it does not hold."""
        if view.has_others():
            raise LedgerError(
                f"the ledger {self.path}: the files beside it were removed, or it was renamed, while others use it, and"
                " what they recorded is not in it. They put the files back at their next call; try again then"
            )

    def _check_index(self, view: View, note: Note, found: Files) -> None:
        """SQLite believes what a `-shm` in use says of the log, and shows an older state by an older one."""
        try:
            read = view.tip(self.path)
        except FileNotFoundError:
            raise UnsteadyError from None
        if read is not None and not logs.follows(read[0], note.tip, is_spent=note.is_spent):
            raise self._names.not_whole(found)

    def _check(self, tx: SqliteTx, frames: bool) -> None:
        tx.run("BEGIN")
        found = blend(tx) if frames else tx.damage()
        tx.run("ROLLBACK")
        if found is not None and frames:
            raise LedgerError(
                f"the ledger {self.path} and {self.path}-wal do not belong together ({found}); was a copy restored"
                f" beside an old log? With all programs stopped, move {self.path}-wal and {self.path}-shm away to go"
                " on from the copy"
            )
        if found is not None:
            raise LedgerError(
                f"the ledger {self.path} is not whole ({found}); was it copied while it was in use? Restore another"
                " backup; `costguard backup` makes whole ones"
            )

    def _note(self, found: Files) -> Note | None:
        """What the lock file says of the files; nothing if it is not there. Without a log, it must be readable."""
        try:
            fd = os.open(self._lock, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            if found.wal and isinstance(error, PermissionError):
                return None  # the log is looked into instead
            raise LedgerError(
                f"the ledger {self.path}: {self._lock}, which tells whether the ledger is whole, cannot be read"
                f" ({error.strerror}); make it readable for this user"
            ) from error
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise LedgerError(f"the ledger {self.path}: {self._lock} is no regular file; move it away")
            note = None
            for _ in range(3):  # it may just be being written
                said = os.pread(fd, 256, 0)
                note = places.decode(said)
                if note is not None or not said:
                    break
            return note
        finally:
            os.close(fd)

    def _copy(self, view: View, folder: str, frames: bool) -> Path:
        """A private copy: of a log that no program uses, so that no index is made beside it, or to be quick."""
        copy = Path(folder, "ledger.db")
        try:
            view.copy_database(copy)
            if frames:
                shutil.copyfile(f"{self.path}-wal", f"{copy}-wal")
        except FileNotFoundError:
            raise UnsteadyError from None  # the log was put away meanwhile
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise LedgerError(
                f"the ledger {self.path} is read on a copy, and {folder} has no room for one; set TMPDIR to a folder"
                " that has"
            ) from error
        return copy

    @property
    def is_in_place(self) -> bool:
        """True if there is a file."""
        return self.path.exists()

    @property
    def is_closed(self) -> bool:
        """True once `close` was called."""
        return self._closed

    def close(self) -> None:
        """Later use is a LedgerError."""
        self._closed = True


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except (KeyError, OSError):
        return "its owner"
