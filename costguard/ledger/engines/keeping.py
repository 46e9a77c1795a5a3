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
from costguard.ledger.engines.places import Anchor, Files, Names, Note

BUSY_TIMEOUT_S = WAIT_S
"""How long SQLite itself waits for programs that do not know our lock, such as its shell; within the same bound."""

CLOSE_TIMEOUT_S = 1.0
"""How long closing waits for others, to put the log away; what is in it is safe there too."""

LOG_PAGES = 1000
"""The log is written into the database when it has this many pages (SQLite's own default)."""

PAGE_BYTES = 2048
"""A call changes a few bytes on each of a dozen pages, and each is written whole: smaller ones than SQLite's own
4096 save a tenth of a transaction. Below 2048 the deeper trees take back what is saved."""


class AdriftError(LedgerError):
    """The files beside the database are not those that are in use here."""


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
        self._rescued = ""
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

    def _replaced(self) -> LedgerError:
        kept = self._rescue() if self._anchor is not None and self._anchor.is_deleted() else ""
        self._disconnect()
        return LedgerError(
            f"the ledger {self.path} was deleted, moved or replaced while it was in use; put it back, or open"
            f" it again to begin a new one{kept}"
        )

    def _check_blend(self) -> None:
        """The database file was written by a hand that is not ours: what a new connection sees must be whole."""
        if self._hold().header()[18:19] == b"\1":
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
            self._log_state = state

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
            if self.path.is_dir():
                raise LedgerError(f"the ledger {self.path} is a folder; name a file") from None
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
            if self._anchor.header()[18:19] == b"\2":
                self._anchor.hold_database()
        return self._anchor

    def _connect(self) -> sqlite3.Connection:
        self._hold()
        return connect(self.path, "mode=rw", timeout_s=BUSY_TIMEOUT_S)

    def _open_writer(self) -> sqlite3.Connection:
        """Called with the writer's lock held: migrations and the switch to WAL are writes too."""
        held = self._hold()
        found = self._look()
        if found is None or self._place not in (None, (found.device, found.inode)):
            raise self._replaced()
        is_doubtful = self._names.judge(places.decode(self._lock.read()), found)
        if is_doubtful:
            self._check_blend()
        connection = self._connect()
        try:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # no effect on a file that has pages
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise LedgerError(f"the ledger {self.path} cannot use a write-ahead log here (mode {mode!r})")
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version < schema.VERSION:
                schema.migrate(connection)
            held.hold(self.path)
        except BaseException:
            connection.close()
            raise
        self._seen = self._names.look()
        if self._place is None:
            self._place = (self._seen.device, self._seen.inode)
        self._remember()
        self._writer = connection
        return connection

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
        last = connection.execute("SELECT * FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
        frames, done = self._anchor.frames()
        untouched = found[:4] == seen[:4]
        if untouched and (found.wal in (0, seen.wal) or self._names.wal_bytes() == 0):
            # Nobody wrote since: what the lost log holds goes where it belongs.
            tries = 100
            while not self._checkpoint(connection):
                tries -= 1
                if tries == 0:
                    raise LedgerError(
                        f"the ledger {self.path}: files beside it were removed, and a program that still reads keeps"
                        " them from being put right; nothing was sent, try again"
                    )
                time.sleep(0.01)
        elif frames > done and found.wal != seen.wal:
            raise LedgerError(
                f"the ledger {self.path}: its log was removed or replaced, and others have written since; nothing was"
                f" sent, restart this program{self._rescue()}"
            )
        for each in fellows:
            each._disconnect()
        fresh = self._open_writer()
        if last is not None and fresh.execute("SELECT * FROM entries WHERE seq = ?", last[:1]).fetchone() != last:
            for each in fellows:  # what their ledgers remember is of another history
                each._fault = (
                    f"the ledger {self.path} was replaced by an older copy of itself while it was in use; nothing was"
                    " sent. Calls after that copy are not in it. Open it again to go on from it"
                )
            self._disconnect()
            raise LedgerError(self._fault)

    def _rescue(self) -> str:
        """Save what only this process still sees, once; says where, empty if that cannot be done."""
        if not self._rescued and self._writer is not None:
            name = f"{self.path}-rescue-{time.time_ns() // 1000}-{os.getpid()}"
            try:
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
                self._writer.execute("VACUUM INTO ?", (name,))
            except (OSError, sqlite3.Error):
                with contextlib.suppress(OSError):
                    Path(name).unlink()
                return ""
            self._rescued = f". All that was recorded here is kept in {name}"
        return self._rescued
