"""Reading a ledger without writing: no lock taken, no file made, for users and mounts that may only read."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from costguard.errors import LedgerError
from costguard.ledger.engines import places, schema
from costguard.ledger.engines.files import SqliteTx, blend, check_is_file, connect, explain, resolve
from costguard.ledger.engines.places import Files, Names, Note
from costguard.ledger.engines.sqlite import SqliteEngine

T = TypeVar("T")

STEADY_S = 2.0
"""How long files may be changing under a reader's hands before it gives up."""

_BUSY_S = 2.0
"""How long SQLite may wait while a program begins or ends its use of the ledger."""


class UnsteadyError(Exception):
    """The files changed while they were read."""


class ReadEngine:
    """Snapshots of the ledger file at `path`, which must be there. `write` is refused.

    Every snapshot has a connection of its own. While programs use the ledger it is one of theirs (`mode=ro`), else
    the file is read as it lies there (`immutable`), and read again if it changed meanwhile.
    Raises LedgerError for what is not a ledger, not whole, or cannot be read by this user.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = resolve(path)
        check_is_file(self.path)
        self._names = Names(self.path)
        self._lock = self.path.with_name(self.path.name + "-lock")
        self._closed = self._is_checked = False
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

    def write(self, op: Callable[[Any], T]) -> T:  # noqa: ARG002
        """LedgerError: nothing is written here."""
        raise LedgerError(f"the ledger {self.path} was opened for reading; nothing was written")

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
        deadline = time.monotonic() + STEADY_S
        while True:
            is_last = time.monotonic() > deadline
            try:
                with self._snapshot(is_last=is_last) as tx:
                    result = op(tx)
            except UnsteadyError:
                if is_last:
                    raise LedgerError(
                        f"the ledger {self.path} is being changed by another program at every moment; try again"
                    ) from None
                time.sleep(0.01)
            except (sqlite3.Error, OverflowError) as error:
                raise LedgerError(f"the ledger {self.path}: {explain(error)}") from error
            except OSError as error:
                raise LedgerError(f"the ledger {self.path} cannot be read: {error.strerror}") from error
            else:
                return result

    @contextlib.contextmanager
    def _snapshot(self, *, is_last: bool) -> Iterator[SqliteTx]:
        found = self._names.look()
        note = self._note()
        is_doubtful = self._judge(note, found, is_last)
        frames = self._names.wal_bytes() > 0
        with contextlib.ExitStack() as opened:
            if not frames:
                path, options = self.path, "immutable=1"
            elif found.shm:
                path, options = self.path, "mode=ro&readonly_shm=1"
            else:
                path, options = self._copy(Path(opened.enter_context(tempfile.TemporaryDirectory()))), "mode=rw"
            try:
                connection = opened.enter_context(
                    contextlib.closing(connect(path, options, timeout_s=_BUSY_S)),
                )
            except sqlite3.OperationalError:
                if not is_last and self._names.look() != found:
                    raise UnsteadyError from None
                raise
            tx = SqliteTx(connection)
            if is_doubtful and not self._is_checked:
                self._check(tx)
                self._is_checked = True
            yield tx
            after = self._names.look()
            if after.inode != found.inode or (frames and (after.wal, after.shm) != (found.wal, found.shm)):
                raise UnsteadyError
            if (not frames and (after[:4] != found[:4] or self._names.wal_bytes())) or (
                frames and not found.shm and after != found
            ):
                raise UnsteadyError

    def _judge(self, note: Note | None, found: Files, is_last: bool) -> bool:
        if note is None or note.inode != found.inode:
            self._names.check_one_name()  # with a note that fits, this name is the one that is in use
        try:
            is_doubtful = self._names.judge(note, found)
        except LedgerError:
            if is_last or (self._note() == note and self._names.look() == found):
                raise
            raise UnsteadyError from None
        if is_doubtful and note is not None and not is_last:
            raise UnsteadyError  # most likely a program just writes its log into the database
        return is_doubtful

    def _check(self, tx: SqliteTx) -> None:
        found = blend(tx)
        if found is not None:
            raise LedgerError(
                f"the ledger {self.path} and {self.path}-wal do not belong together ({found}); was a copy restored"
                f" beside an old log? With all programs stopped, move {self.path}-wal and {self.path}-shm away to go"
                " on from the copy"
            )

    def _note(self) -> Note | None:
        try:
            return places.decode(self._lock.read_bytes())
        except OSError:
            return None

    def _copy(self, folder: Path) -> Path:
        """A log that no program uses, and none of SQLite's own notes on it: read on a copy, so that none are made."""
        copy = folder / "ledger.db"
        shutil.copyfile(self.path, copy)
        shutil.copyfile(f"{self.path}-wal", f"{copy}-wal")
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
