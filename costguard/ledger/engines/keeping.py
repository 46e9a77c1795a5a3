"""The ledger's files while they are in use: opened, looked at before every write, put right, and put away."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

from costguard.errors import LedgerError
from costguard.ledger.engines import places, schema
from costguard.ledger.engines.files import SqliteTx, blend, connect
from costguard.ledger.engines.lock import WriterLock
from costguard.ledger.engines.patience import WAIT_S, Patience
from costguard.ledger.engines.places import AdriftError, Anchor, Files, Names, Note

BUSY_TIMEOUT_S = WAIT_S
"""How long SQLite itself waits for programs that do not know our lock, such as its shell; within the same bound."""

CLOSE_TIMEOUT_S = 1.0
"""How long closing waits for others, to put the log away; what is in it is safe there too."""

LOG_PAGES = 1000
"""The log is written into the database when it has this many pages (SQLite's own default)."""

_LAST_ENTRY = "SELECT * FROM entries ORDER BY seq DESC LIMIT 1"

PAGE_BYTES = 2048
"""A call changes a few bytes on each of a dozen pages, and each is written whole: smaller ones than SQLite's own
4096 save a tenth of a transaction. Below 2048 the deeper trees take back what is saved."""


class OpenFiles:
    """The connections of one engine to the ledger at `path`, and what is known of its files."""

    def __init__(self, path: Path, synchronous: str) -> None:
        self.path = path
        self._synchronous = synchronous
        self._names = Names(path)
        self._lock = WriterLock(path)
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._anchor: Anchor | None = None
        self._place: tuple[int, int] | None = None
        self._seen: Files | None = None
        self._log_state = places.EMPTY
        self._rescued: Path | None = None
        self._noted = 0
        self._fault = ""
        self._pid = os.getpid()

    @property
    def is_in_place(self) -> bool:
        """True if the file that was opened is still what its path leads to."""
        try:
            found = self.path.stat()
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._place

    # -- the files ----------------------------------------------------------------------------

    def _check_place(self) -> None:
        """Whatever was done to the files is noticed here, under the lock, before money is admitted on them."""
        found = self._look()
        seen = self._seen
        if found == seen and found is not None:
            return
        if found is None or (found.device, found.inode) != self._place:
            raise self._replaced()
        if seen is None or (found.wal, found.shm) != (seen.wal, seen.shm):
            raise AdriftError(f"the ledger {self.path}: the files beside it were removed or replaced")
        note = places.decode(self._lock.read())
        if note is not None and note.fits(found) and note.wal == found.wal:
            self._seen, self._log_state = found, note.log  # another program of ours put its log into the database
            return
        self._check_blend()
        self._seen = found
        self._remember()

    def _note_begin(self) -> None:
        """Before a transaction: others must know that there may be records in the log, also by a new lock file."""
        if self._log_state == places.EMPTY:
            self._remember(places.BEGUN)
        elif self._noted != self._lock.opened:
            self._remember(self._log_state)

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

    def _replaced(self) -> LedgerError:
        kept = self._rescue() if self._anchor is not None and self._anchor.is_deleted() else ""
        self._disconnect()
        return LedgerError(
            f"the ledger {self.path} was deleted, moved or replaced while it was in use; put it back, or open"
            f" it again to begin a new one{kept}"
        )

    def _check_blend(self) -> None:
        """The database file was written by a hand that is not ours: what a new connection sees must be whole."""
        if not self._has_log():
            found: str | None = "the file has never had a log"
        else:
            with contextlib.closing(self._connect()) as fresh:
                fresh.execute("BEGIN")
                found = blend(SqliteTx(fresh))
        if found is not None:
            raise LedgerError(
                f"{self.path}-wal does not belong to the ledger {self.path} ({found}), which was overwritten or"
                " restored from a copy; nothing was sent. To go on from the copy, stop the programs that use the"
                f" ledger, move {self.path}-wal and {self.path}-shm away and start them again; calls after the copy"
                " are not in it"
            )

    def _look(self) -> Files | None:
        try:
            return self._names.look()
        except OSError:
            return None

    def _looks_right(self) -> bool:
        """True if a reader may trust the files; another program may just have put its log into the database."""
        found, seen = self._look(), self._seen
        if found is None or seen is None or found == seen:
            return seen is not None  # a file that is gone is the writer's to tell
        if (found.inode, found.wal, found.shm) != (seen.inode, seen.wal, seen.shm):
            return (found.device, found.inode) != self._place
        note = places.decode(self._lock.read())
        return note is not None and note.fits(found) and note.wal == found.wal

    def _remember(self, state: int | None = None) -> None:
        """Keep what is known of the files for all programs; the lock is held. None: what the log's index says."""
        if state is None:
            frames, done = self._hold().frames()
            state = places.KEPT if frames > done else places.EMPTY
        seen = self._seen
        if seen is not None:
            self._lock.write(Note(seen.inode, seen.size, seen.mtime_ns, seen.wal, state).encode())
            self._log_state, self._noted = state, self._lock.opened

    def _tend_log(self, connection: sqlite3.Connection) -> None:
        """After a commit: note that the log is needed, and put a long one into the database.

        Its failure is no failure of the commit.
        """
        if self._anchor is None:
            return
        frames, done = self._anchor.frames()
        if frames < LOG_PAGES and (self._log_state == places.KEPT or frames == done):
            return
        with contextlib.suppress(sqlite3.Error, LedgerError):
            if frames >= LOG_PAGES and self._look() == self._seen:
                self._checkpoint(connection)
            else:
                self._remember(places.KEPT)

    def _checkpoint(self, connection: sqlite3.Connection) -> bool:
        """Put the log into the database as far as readers let it; True if all of it. The lock is held."""
        _, frames, done = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        found, seen = self._look(), self._seen
        if found is not None and seen is not None:
            self._seen = found._replace(wal=seen.wal, shm=seen.shm)
            self._remember(places.EMPTY if frames == done else places.KEPT)
        return bool(frames == done)

    def _put_log_away(self) -> None:
        """Closing: under the lock and with all in place, the last connection of all may remove the log."""
        if self._writer is None or self._anchor is None or self._anchor.users > 1 or self._pid != os.getpid():
            return
        try:
            self._lock.acquire(Patience(CLOSE_TIMEOUT_S))
            if not self._looks_right() or not self.is_in_place:
                return
            self._anchor.let_go()
            self._close_connections()
            found = self._look()
            if found is not None:
                state = places.KEPT if self._names.wal_bytes() else places.EMPTY
                self._lock.write(Note(found.inode, found.size, found.mtime_ns, found.wal, state).encode())
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
        if found is None or self._place not in (None, (found.device, found.inode)):
            raise self._replaced()
        note = places.decode(self._lock.read())
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
        self._reader = self._writer = None

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
        if (found.wal, found.shm) == (seen.wal, seen.shm):
            return
        last = connection.execute(_LAST_ENTRY).fetchone()
        frames, done = self._anchor.frames()
        is_gone = found.wal != seen.wal
        is_lost = is_gone and frames > done
        if frames > done and found[:4] == seen[:4] and (not is_gone or self._names.wal_bytes() == 0):
            # Nobody wrote since: what the log holds goes where it belongs.
            self._save_log(connection)
            if is_gone:
                self._names.remove_beside()
            is_lost = False
        kept = self._rescue() if is_lost else ""
        for each in fellows:
            each._disconnect()
        fresh = self._open_writer()
        if last is not None and fresh.execute("SELECT * FROM entries WHERE seq = ?", last[:1]).fetchone() != last:
            for each in fellows:  # what their ledgers remember is of another history
                each._fault = (
                    f"the ledger {self.path} was replaced by an older copy of itself, or lost its log, while it was in"
                    " use; nothing was sent. What was recorded since is not in it. Open it again to go on from it"
                    f"{kept}"
                )
            self._disconnect()
            raise LedgerError(self._fault)
        if kept:  # others had put it back already
            self._forget_rescue()

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

    def _rescue(self) -> str:
        """Save what only this process still sees, once; says where, empty if that cannot be done."""
        if self._rescued is None and self._writer is not None:
            name = Path(f"{self.path}-rescue-{time.time_ns() // 1000}-{os.getpid()}")
            try:
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
                self._writer.execute("VACUUM INTO ?", (str(name),))
            except (OSError, sqlite3.Error):
                name.unlink(missing_ok=True)
            else:
                self._rescued = name
        return "" if self._rescued is None else f". All that was recorded here is kept in {self._rescued}"

    def _forget_rescue(self) -> None:
        if self._rescued is not None:
            self._rescued.unlink(missing_ok=True)
            self._rescued = None
