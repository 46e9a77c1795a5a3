"""The embedded engine: one SQLite file in WAL mode, one writer at a time, forks and threads safe."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from costguard.errors import ConfigurationError, LedgerError
from costguard.ledger.engines import schema
from costguard.ledger.engines.lock import WriterLock

T = TypeVar("T")
Row = tuple[Any, ...]

LOCK_TIMEOUT_S = 30.0
"""How long a writer waits for others, in this process and elsewhere, before it gives up with an error."""

BUSY_TIMEOUT_S = 10.0
"""How long SQLite itself waits for programs that do not know our lock, such as its shell."""

PAGE_BYTES = 2048
"""A call changes a few bytes on each of a dozen pages, and each is written whole: smaller ones than SQLite's own
4096 save a tenth of a transaction. Below 2048 the deeper trees take back what is saved."""

_SYNCHRONOUS = {"full": "FULL", "normal": "NORMAL"}


class SqliteTx:
    """A transaction's statements: `?` parameters, plain tuples."""

    for_update = ""
    """Row-lock suffix of this engine; SQLite's one writer needs none."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute
        self._executemany = connection.executemany

    def all(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Every row of a query."""
        return self._execute(sql, parameters).fetchall()

    def one(self, sql: str, parameters: Sequence[object] = ()) -> Row | None:
        """The first row of a query or of an `INSERT … RETURNING`, None without one."""
        row: Row | None = self._execute(sql, parameters).fetchone()
        return row

    def each(self, sql: str, parameters: Sequence[object] = ()) -> Iterator[Row]:
        """The rows of a query, one by one."""
        return self._execute(sql, parameters)

    def insert(self, sql: str, key: str, parameters: Sequence[object]) -> int:  # noqa: ARG002
        """An `INSERT` of one row; returns its `key`, which is its rowid: cheaper to ask for than by `RETURNING`."""
        return self._execute(sql, parameters).lastrowid or 0

    def run(self, sql: str, parameters: Sequence[object] = ()) -> None:
        """A statement without rows."""
        self._execute(sql, parameters)

    def many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """One statement for each of `rows`."""
        self._executemany(sql, rows)

    def damage(self) -> str | None:
        """What is wrong with the file itself, None if it is sound."""
        found = str(self._execute("PRAGMA integrity_check(1)").fetchone()[0])
        return None if found == "ok" else found


class SqliteEngine:
    """Transactions on the ledger file at `path`; created with mode 0600 if it is not there.

    `durability`: "full" survives power loss, "normal" survives every crash but that one.
    Raises LedgerError for a file that is corrupt, foreign, read-only or from a newer version.
    """

    def __init__(self, path: str | Path, *, durability: str = "full") -> None:
        if durability not in _SYNCHRONOUS:
            raise ConfigurationError(f"durability: {durability!r} is not one of 'full', 'normal'")
        if sqlite3.sqlite_version_info < schema.SQLITE_MIN:
            raise LedgerError(
                f"this Python links SQLite {sqlite3.sqlite_version}; a ledger needs"
                f" {'.'.join(map(str, schema.SQLITE_MIN))} or newer"
            )
        # Resolved, so that every name of a file has one lock beside it.
        self.path = Path(path).expanduser().resolve()
        self._synchronous = _SYNCHRONOUS[durability]
        # Reentrant, so that a signal handler that forks, or ends a call, cannot hang on its own thread.
        # Wherever both are taken, the reader's comes first.
        self._gate = threading.RLock()
        self._read_gate = threading.RLock()
        self._lock = WriterLock(self.path.with_name(self.path.name + "-lock"))
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._place: tuple[int, int] | None = None
        self._writing = False
        self._closed = False
        self._pid = os.getpid()
        with _forks:
            _engines.add(self)
            self._create()
        try:
            self.read(lambda _: None)  # first, so that a foreign file gets no lock file beside it
            self.write(lambda _: None)
        except BaseException:
            self.close()
            raise

    # -- transactions -------------------------------------------------------------------------

    # An interrupt (KeyboardInterrupt) may come after any call. So whatever is taken is taken inside the
    # `try` that gives it back, and given back by functions written in C: nothing comes in between.

    def write(self, op: Callable[[SqliteTx], T]) -> T:
        """Run `op` in one exclusive transaction; it is rolled back if `op` raises."""
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        try:
            if not (self._gate.acquire(blocking=False) or self._gate.acquire(timeout=LOCK_TIMEOUT_S)):
                raise LedgerError(f"the ledger {self.path}: other threads kept it busy for {LOCK_TIMEOUT_S:g} s")
            if self._writing:
                raise LedgerError(
                    f"the ledger {self.path} is being written by this very thread: a signal handler, finalizer"
                    " or transaction cannot write in between; do it later"
                )
            return self._transact(op, deadline)
        finally:
            try:  # noqa: SIM105  `suppress` costs as much as the lock
                self._gate.release()
            except RuntimeError:  # the gate was never taken
                pass

    def _transact(self, op: Callable[[SqliteTx], T], deadline: float) -> T:
        connection = None
        try:
            self._writing = True
            self._check_process()
            self._lock.acquire(deadline)
            connection = self._writer or self._open_writer()
            self._check_place()
            connection.execute("BEGIN IMMEDIATE")
            result = op(SqliteTx(connection))
            connection.execute("COMMIT")
            return result
        except (sqlite3.Error, OverflowError) as error:
            raise LedgerError(f"the ledger {self.path}: {_explain(error)}") from error
        finally:
            self._writing = False
            try:
                if connection is not None and connection.in_transaction:
                    connection.execute("ROLLBACK")
            except sqlite3.Error:
                # Beyond use, or closed by a fork in a signal handler: the next write opens another.
                self._writer = None
            finally:
                self._lock.release()

    def read(self, op: Callable[[SqliteTx], T]) -> T:
        """Run `op` on one consistent snapshot; writers are not held up."""
        with self._read_gate:
            connection = None
            try:
                self._check_process()
                connection = self._reader or self._open_reader()
                if connection.in_transaction:  # a signal handler reads in between: on the same snapshot
                    nested, connection = connection, None
                    return op(SqliteTx(nested))
                connection.execute("BEGIN")
                return op(SqliteTx(connection))
            except (sqlite3.Error, OverflowError) as error:
                raise LedgerError(f"the ledger {self.path}: {_explain(error)}") from error
            finally:
                try:
                    if connection is not None and connection.in_transaction:
                        connection.execute("ROLLBACK")
                except sqlite3.Error:
                    self._reader = None

    @property
    def is_in_place(self) -> bool:
        """True if the file that was opened is still what its path leads to."""
        try:
            found = os.stat(self.path)  # noqa: PTH116  on every write, where a Path costs three times as much
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._place

    @property
    def is_closed(self) -> bool:
        """True once `close` was called."""
        return self._closed

    def close(self) -> None:
        """Close the file; every later use is a LedgerError."""
        with self._read_gate, self._gate:
            self._closed = True
            self._disconnect()

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

    def _check_process(self) -> None:
        if self._closed:
            raise LedgerError(f"the ledger {self.path} is closed")
        if self._pid != os.getpid():
            raise LedgerError(
                f"the ledger {self.path} was opened before a fork that skipped Python's fork hooks, and cannot be"
                " used safely here; open it after the fork (under uWSGI: lazy-apps, or py-call-uwsgi-fork-hooks)"
            )

    def _check_place(self) -> None:
        """A file that was deleted or replaced is still writable for us, and nobody else would see it."""
        if not self.is_in_place:
            self._disconnect()
            raise LedgerError(
                f"the ledger {self.path} was deleted, moved or replaced while it was in use; put it back, or open"
                " it again to begin a new one"
            )

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_TIMEOUT_S,
            cached_statements=256,
        )
        try:
            self._check_identity(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_identity(self, connection: sqlite3.Connection) -> None:
        # One statement, one snapshot: another process may be creating the ledger.
        application_id, version, tables = connection.execute(
            "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)"
            " FROM pragma_application_id, pragma_user_version"
        ).fetchone()
        if application_id != schema.APPLICATION_ID and (application_id or version or tables):
            raise LedgerError(
                f"{self.path} is a database of another program (application_id {application_id:#x},"
                f" {tables} tables), not a costguard ledger; name another file. Nothing was changed."
            )
        if version > schema.VERSION:
            raise LedgerError(
                f"the ledger {self.path} was written by a newer costguard (schema {version}, this one knows"
                f" {schema.VERSION}); upgrade costguard. Nothing was changed."
            )

    def _open_writer(self) -> sqlite3.Connection:
        """Called with the writer's lock held: migrations and the switch to WAL are writes too."""
        connection = self._connect()
        try:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # no effect on a file that has pages
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise LedgerError(f"the ledger {self.path} cannot use a write-ahead log here (mode {mode!r})")
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version < schema.VERSION:
                schema.migrate(connection)
        except BaseException:
            connection.close()
            raise
        opened = self.path.stat()
        if self._place is None:
            self._place = (opened.st_dev, opened.st_ino)
        self._writer = connection
        return connection

    def _open_reader(self) -> sqlite3.Connection:
        connection = self._connect()
        connection.execute("PRAGMA query_only = ON")
        self._reader = connection
        return connection

    def _disconnect(self) -> None:
        """No writer's lock is needed: closing checkpoints only as the file's last connection, which SQLite
        makes sure of with an exclusive lock. So a connection may also be closed by garbage collection.
        """
        for connection in (self._reader, self._writer):
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
        self._reader = self._writer = None
        self._lock.close()

    # -- forks --------------------------------------------------------------------------------

    def _before_fork(self) -> None:
        """No connection crosses a fork: SQLite's locks would not, and a child would trust them."""
        self._read_gate.acquire()
        self._gate.acquire()
        self._disconnect()

    def _after_fork(self) -> None:
        self._pid = os.getpid()
        self._gate.release()
        self._read_gate.release()


def open_engine(target: str | Path, *, durability: str) -> SqliteEngine:
    """See `costguard.ledger.engines`: the file at a path."""
    return SqliteEngine(target, durability=durability)


_REMEDIES = (
    ("disk is full", "the disk is full; free some room, nothing already recorded is lost"),
    ("readonly", "the file or its folder is read-only; make both writable for this user"),
    ("read-only", "the file or its folder is read-only; make both writable for this user"),
    ("not a database", "this is not a SQLite file; name another file. Nothing was changed"),
    ("malformed", "the file is damaged; restore a backup and run `costguard verify`"),
    ("locked", "another program holds a write lock on it; close that program"),
    ("unable to open", "it cannot be opened; the folder must exist and be writable"),
    ("disk i/o error", "the disk reports an error; check the device and the file system"),
)


def _explain(error: Exception) -> str:
    text = str(error)
    for sign, remedy in _REMEDIES:
        if sign in text.lower():
            return f"{remedy} (SQLite: {text})"
    return f"SQLite: {text}"


_forks = threading.RLock()
"""Held from before a fork until after it, and while an engine is added."""

_engines: weakref.WeakSet[SqliteEngine] = weakref.WeakSet()
_forking: list[SqliteEngine] = []


def _before_fork() -> None:
    _forks.acquire()
    for engine in list(_engines):
        engine._before_fork()
        _forking.append(engine)


def _after_fork() -> None:
    while _forking:
        _forking.pop()._after_fork()
    _forks.release()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
