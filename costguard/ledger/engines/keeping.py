"""The ledger's files while they are in use: opened, looked at before every write, put right, and put away."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

from costguard.errors import LedgerError
from costguard.ledger.engines import logs, places, schema
from costguard.ledger.engines.files import SqliteTx, blend, connect
from costguard.ledger.engines.history import Memory, Rescue
from costguard.ledger.engines.patience import WAIT_S, Patience
from costguard.ledger.engines.places import AdriftError, Anchor, Files, Note
from costguard.ledger.engines.watching import LOST, SPENT, WatchedFiles

BUSY_TIMEOUT_S = WAIT_S
"""How long SQLite itself waits for programs that do not know our lock, such as its shell; within the same bound."""

CLOSE_TIMEOUT_S = 1.0
"""How long closing waits for others, to put the log away; what is in it is safe there too."""

LOG_PAGES = 4000
"""The log is written into the database when it has this many pages: once in some 330 calls, whose caller waits for it
(2 to 10 ms, measured by `scripts/bench calls` as the longest). So it is no matter of the 99th percentile, and the log's
index stays one block, which SQLite searches for every page it reads (4,062 pages, walformat.html, 2.2)."""

PAGE_BYTES = 2048
"""A call changes a few bytes on each of a dozen pages, and each is written whole: smaller ones than SQLite's own
4096 save a tenth of a transaction. Below 2048 the deeper trees take back what is saved."""


class OpenFiles(WatchedFiles):
    """The connections of one engine to the ledger at `path`, and what is known of its files."""

    def __init__(self, path: Path, synchronous: str) -> None:
        super().__init__(path)
        self._synchronous = synchronous
        self._writer: sqlite3.Connection | None = None
        self._tx: SqliteTx | None = None
        self._reader: sqlite3.Connection | None = None
        self._rescue = Rescue(path)
        self._memory = Memory()
        self._fault = ""
        self._pid = os.getpid()

    # -- the files ----------------------------------------------------------------------------

    def _check_place(self) -> None:
        """Whatever was done to the files is noticed here, under the lock, before money is admitted on them."""
        found, seen = self._look(), self._seen
        if found is None or found[:2] != self._place:
            raise self._replaced(is_locked=True)
        if seen is None or (found.wal, found.shm) != (seen.wal, seen.shm):
            raise AdriftError(f"the ledger {self.path}: the files beside it were removed or replaced")
        if found == seen and self._is_own():
            return
        note = self._note()
        self._check_log(note, found)
        read = self._anchor.tip() if self._anchor is not None else None
        if note is None or read is None or read[0] != note.tip:
            self._tx = None  # no program of ours wrote last: what is remembered may be of another history
        if found == seen:
            return
        if note is None or note.is_busy:
            self._check_blend()
        elif not note.fits(found) or note.wal != found.wal:  # else a program of ours wrote into it
            self._check_blend()
            raise self._foreign()
        self._seen = found
        self._remember()

    def _foreign(self) -> LedgerError:
        """From now on refuse all: what is remembered here, such as attempts under way, is of another history."""
        self._fault = (
            f"the ledger {self.path} was overwritten by another program, or replaced by a copy, while it was in use;"
            f" nothing was sent. Open it again to go on from what it is now{self._rescue.said}"
        )
        self._disconnect()
        return LedgerError(self._fault)

    def _check_log(self, note: Note | None, found: Files) -> None:
        fault = self._log_fault(note)
        if fault == SPENT:
            raise AdriftError(f"the ledger {self.path}: the files beside it were overwritten")
        if fault is not None:
            raise self._names.not_whole(found)

    def _check_lock(self) -> None:
        """After a commit: while the lock file is removed, others may have given up the log that was written."""
        if self._lock.is_linked() or self._seen is None:  # a fork in a signal handler closes all
            return
        found, seen = self._look(), self._seen
        if found is None or (found.wal, found.shm) != (seen.wal, seen.shm):
            raise LedgerError(
                f"the ledger {self.path}: its files were removed at the moment of writing, and what was to be recorded"
                " may not be there; nothing was sent"
            )

    def _replaced(self, *, is_locked: bool) -> LedgerError:
        if self._anchor is not None and self._anchor.is_deleted():
            self._rescue.save(self._writer)
        elif is_locked and self._writer is not None and self._log_fault(self._note()) is None:
            with contextlib.suppress(sqlite3.Error):  # it was moved: all that was recorded goes with it
                self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        self._disconnect()
        return LedgerError(
            f"the ledger {self.path} was deleted, moved or replaced while it was in use; put it back, or open"
            f" it again to begin a new one{self._rescue.said}"
        )

    def _blend(self, has_log: bool) -> str | None:
        if has_log and self._hold().header()[18:19] == b"\1":
            return "the file has never had a log"  # the first connection would put the log into it
        try:
            with contextlib.closing(self._connect()) as fresh:
                fresh.execute("BEGIN")
                if self._note() is not None and fresh.execute("PRAGMA user_version").fetchone() == (0,):
                    raise LedgerError(
                        f"the ledger {self.path} was emptied by another program; put a copy back, or remove"
                        f" {self.path}-lock to begin a new one"
                    )
                return blend(SqliteTx(fresh)) if has_log else SqliteTx(fresh).damage()
        except sqlite3.DatabaseError as error:
            return str(error)

    def _check_blend(self) -> None:
        """The database file was written by a hand that is not ours: what a new connection sees must be whole."""
        has_log = self._names.wal_bytes() > 0
        found = self._blend(has_log)
        if found is not None and has_log:
            raise LedgerError(
                f"{self.path}-wal does not belong to the ledger {self.path} ({found}), which was overwritten or"
                " restored from a copy; nothing was sent. To go on from the copy, stop the programs that use the"
                f" ledger, move {self.path}-wal and {self.path}-shm away and start them again; calls after the copy"
                " are not in it"
            )
        if found is not None:
            raise LedgerError(
                f"the ledger {self.path}: the file is damaged; restore a backup and run `costguard verify` ({found})"
            )

    def _tend_log(self, connection: sqlite3.Connection) -> None:
        """After a commit: note it, and put a long log into the database. Its failure is no failure of the commit."""
        with contextlib.suppress(sqlite3.Error, LedgerError, OSError):
            if self._remember() >= LOG_PAGES and self._look() == self._seen:
                self._checkpoint(connection)

    def _checkpoint(self, connection: sqlite3.Connection) -> bool:
        """Put the log into the database as far as readers let it; True if all of it. The lock is held."""
        self._begin_writing_database()
        _, frames, done = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        found, seen = self._look(), self._seen
        if found is not None and seen is not None:
            self._seen = found._replace(wal=seen.wal, shm=seen.shm)
            self._remember()
        return bool(frames == done)

    def _put_log_away(self) -> None:
        """Closing: under the lock and with all in place, the last connection of all may remove the log."""
        if self._writer is None or self._anchor is None or self._anchor.users > 1 or self._pid != os.getpid():
            return
        try:
            self._lock.acquire(Patience(CLOSE_TIMEOUT_S))
            if not self._looks_right() or not self.is_in_place:
                return
            self._checkpoint(self._writer)  # and noted, before SQLite removes the log
            self._anchor.let_go()
            self._close_connections()
            found = self._look()
            if found is not None:
                read = self._anchor.tip() if self._names.wal_bytes() else None
                tip, done = read or (logs.NOTHING, 0)
                self._write_note(
                    Note(found.inode, found.size, found.mtime_ns, found.wal, done >= tip.pages, False, tip)
                )
        except LedgerError:
            return  # others keep it: the log stays where it is
        finally:
            self._lock.release()

    # -- connections --------------------------------------------------------------------------

    def _create(self) -> None:
        """Called with `_forks` held: closing any descriptor of a file drops all of the process's locks on
        it, so no other engine may open the file before it is closed here.
        """
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            return
        except OSError as error:
            raise LedgerError(
                f"cannot create the ledger {self.path}: {error.strerror}; the folder must exist and be writable"
            ) from error

    def _is_ours(self) -> bool:
        """True if the database file itself bears our mark, and a version that is known (`fileformat2.html`, 1.3)."""
        header = self._hold().header()
        version, mark = (int.from_bytes(header[at : at + 4], "big") for at in (60, 68))
        return mark == schema.APPLICATION_ID and version <= schema.VERSION

    def _hold(self) -> Anchor:
        """Keep the file anchored from before the first connection until after the last."""
        if self._anchor is None:
            try:
                self._names.check_one_name()
                self._anchor = places.anchor(self.path)
            except OSError as error:
                raise LedgerError(f"the ledger {self.path} cannot be opened: {error.strerror}") from error
        return self._anchor

    def _has_log(self) -> bool:
        """True if the database file says that a `-wal` may belong to it (`fileformat2.html`, 1.3)."""
        return self._hold().header()[18:19] == b"\2"

    def _connect(self) -> sqlite3.Connection:
        if self._has_log():
            self._hold().hold_database()
        return connect(self.path, "mode=rw", timeout_s=BUSY_TIMEOUT_S)

    def _open_writer(self) -> sqlite3.Connection:
        """Called with the writer's lock held: migrations and the switch to WAL are writes too."""
        with self._names.pinned_log():
            return self._opened()

    def _opened(self) -> sqlite3.Connection:
        held = self._hold()
        found = self._look()
        if found is None or self._place not in (None, found[:2]):
            raise self._replaced(is_locked=True)
        note = self._note()
        if note is None:
            self._check_alone()
        is_doubtful = self._names.judge(note, found)
        if is_doubtful:
            self._check_blend()
        if not found.wal:
            # What a `-shm` says is of a `-wal` that is gone, and may be in use by others who still have that one.
            self._names.remove_beside()
        connection = self._connect()
        try:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # no effect on a file that has pages
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise LedgerError(f"the ledger {self.path} cannot use a write-ahead log here (mode {mode!r})")
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            held.hold(self.path)
            self._seen = seen = self._names.look()
            if not seen.wal or found.wal not in (0, seen.wal) or held.shm != seen.shm:
                raise AdriftError(f"the ledger {self.path}: the files beside it were removed while it was opened")
            is_known = note is not None and (self._place is not None or note.fits(found))
            if is_known and self._log_fault(note) == LOST:
                raise self._names.not_whole(found)
            if version < schema.VERSION:
                schema.migrate(connection)
        except BaseException:
            connection.close()
            self._disconnect()
            raise
        if self._place is None:
            self._place = (self._seen.device, self._seen.inode)
        if found.wal and not found.shm:
            # Others may know an older state of this same log, by a `-shm` that is gone: a database file that has
            # changed shows them that theirs is not the last.
            self._checkpoint(connection)
        else:
            self._remember()
        self._writer = connection
        if not self._memory.is_in(connection):
            raise self._foreign()
        self._rescue.forget()  # others had put it back already
        return connection

    def _check_alone(self) -> None:
        """Before anything is opened where there is no note: who has the file open without a `-wal` has lost it."""
        held = self._hold()
        tries = 50  # whoever is just making the ledger, or looking whether it is one, is soon done
        while (found := self._look()) is not None and not found.wal and held.has_others():
            tries -= 1
            if tries == 0:
                raise LedgerError(
                    f"the ledger {self.path}: the files beside it were removed, while others use it: they put them back"
                    " at their next call, or when they end. Nothing was sent or recorded, try again then"
                )
            time.sleep(0.01)

    def _open_reader(self) -> sqlite3.Connection:
        connection = self._connect()
        connection.execute("PRAGMA query_only = ON")
        self._reader = connection
        return connection

    def _close_connections(self) -> None:
        for connection in (self._reader, self._writer):
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
        self._reader = self._writer = self._tx = None

    def _disconnect(self) -> None:
        """Close all at once, without the writer's lock: the anchor sees to it that the log stays where it is."""
        self._close_connections()
        held, self._anchor, self._seen = self._anchor, None, None
        if held is not None:
            places.drop(held)

    # -- putting right ------------------------------------------------------------------------

    def _put_back(self, fellows: Iterable[OpenFiles]) -> None:
        """Begin anew where `-wal` or `-shm` was removed or replaced, with all that was recorded, or LedgerError.

        The lock is held, and `fellows` (all engines of this process on the file, this one too) are at rest:
        connections of one process share what SQLite knows of the files.
        """
        found, seen, connection = self._look(), self._seen, self._writer
        if found is None or seen is None or connection is None or self._anchor is None:
            return  # the next write says what is wrong
        fault = self._log_fault(self._note())
        if (found.wal, found.shm) == (seen.wal, seen.shm) and fault is None:
            return
        read = self._anchor.tip()
        for each in fellows:  # with a damaged index nothing may be read by these connections
            if read or not each._is_still_in(found.wal):
                each._memory.keep(connection if read else None)
        is_unsaved = read is not None and read[0].pages > read[1]
        is_gone = found.wal != seen.wal or (fault == SPENT and read is not None)
        is_lost = is_gone and is_unsaved
        if not read:
            self._names.remove_index()
        elif is_gone and not is_unsaved and found.wal == seen.wal:
            self._names.remove_beside()
        elif is_unsaved and found[:4] == seen[:4] and (not is_gone or self._names.wal_bytes() == 0):
            # Nobody wrote since: what the log holds goes where it belongs.
            self._save_log(connection)
            if is_gone:
                self._names.remove_beside()
            is_lost = False
        if is_lost:
            self._rescue.save(connection)
        for each in fellows:
            each._disconnect()
        self._open_writer()

    def _save_log(self, connection: sqlite3.Connection) -> None:
        tries = 100
        while not self._checkpoint(connection):
            tries -= 1
            if tries == 0:
                raise LedgerError(
                    f"the ledger {self.path}: files beside it were removed, and a program that still reads keeps"
                    " them from being put right; nothing was sent, try again"
                )
            time.sleep(0.01)
