"""The embedded engine: one SQLite file in WAL mode, one writer at a time, forks and threads safe."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from costguard.errors import ConfigurationError, LedgerError
from costguard.ledger import schema
from costguard.ledger.lock import WriterLock

T = TypeVar("T")
Row = tuple[Any, ...]

LOCK_TIMEOUT_S = 30.0
"""How long a writer waits for another process before it gives up with an error."""

BUSY_TIMEOUT_S = 10.0
"""How long SQLite itself waits for programs that do not know our lock, such as its shell."""

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

    def run(self, sql: str, parameters: Sequence[object] = ()) -> None:
        """A statement without rows."""
        self._execute(sql, parameters)

    def many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """One statement for each of `rows`."""
        self._executemany(sql, rows)


class SqliteEngine:
    """Transactions on the ledger file at `path`; created with mode 0600 if it is not there.

    `durability`: "full" survives power loss, "normal" survives every crash but that one.
    Raises LedgerError for a file that is corrupt, foreign, read-only or from a newer version.
    """

    def __init__(self, path: str | Path, *, durability: str = "full") -> None:
        if durability not in _SYNCHRONOUS:
            raise ConfigurationError(f"durability: {durability!r} is not one of 'full', 'normal'")
        self.path = Path(path).expanduser().absolute()
        self._synchronous = _SYNCHRONOUS[durability]
        # Reentrant, so that a fork handler that interrupts a close by the same thread cannot hang.
        self._gate = threading.RLock()
        self._read_gate = threading.RLock()
        self._lock = WriterLock(self.path.with_name(self.path.name + "-lock"), LOCK_TIMEOUT_S)
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._closed = False
        self._create()
        self.write(lambda _: None)
        _engines.add(self)

    # -- transactions -------------------------------------------------------------------------

    def write(self, op: Callable[[SqliteTx], T]) -> T:
        """Run `op` in one exclusive transaction; it is rolled back if `op` raises."""
        with self._gate, self._errors():
            self._lock.acquire()
            try:
                connection = self._writer or self._open_writer()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    result = op(SqliteTx(connection))
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
                return result
            finally:
                self._lock.release()

    def read(self, op: Callable[[SqliteTx], T]) -> T:
        """Run `op` on one consistent snapshot; writers are not held up."""
        with self._read_gate, self._errors():
            connection = self._reader or self._open_reader()
            connection.execute("BEGIN")
            try:
                return op(SqliteTx(connection))
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close the file; every later use is a LedgerError."""
        with self._gate, self._read_gate:
            self._closed = True
            self._disconnect()

    # -- connections --------------------------------------------------------------------------

    def _create(self) -> None:
        try:
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        except FileExistsError:
            if self.path.is_dir():
                raise LedgerError(f"the ledger {self.path} is a folder; name a file") from None
        except OSError as error:
            raise LedgerError(
                f"cannot create the ledger {self.path}: {error.strerror}; the folder must exist and be writable"
            ) from error

    def _connect(self) -> sqlite3.Connection:
        if self._closed:
            raise LedgerError(f"the ledger {self.path} is closed")
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
        (application_id,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        begun = {row[0] for row in connection.execute("SELECT name FROM sqlite_master LIMIT 5")}
        if application_id != schema.APPLICATION_ID and (
            application_id or version or not begun <= {"_sqlite_migrations"} | _migration_indexes(begun)
        ):
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
        self._writer = connection
        return connection

    def _open_reader(self) -> sqlite3.Connection:
        connection = self._connect()
        connection.execute("PRAGMA query_only = ON")
        self._reader = connection
        return connection

    def _disconnect(self) -> None:
        """Closing may checkpoint, so it is done under the writer's lock."""
        if self._writer is None and self._reader is None:
            self._lock.close()
            return
        with contextlib.suppress(LedgerError):
            self._lock.acquire()
        try:
            for connection in (self._reader, self._writer):
                if connection is not None:
                    with contextlib.suppress(sqlite3.Error):
                        connection.close()
            self._reader = self._writer = None
        finally:
            self._lock.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise LedgerError(f"the ledger {self.path}: {_explain(error)}") from error

    # -- forks --------------------------------------------------------------------------------

    def _before_fork(self) -> None:
        """No connection crosses a fork: SQLite's locks would not, and a child would trust them."""
        self._gate.acquire()
        self._read_gate.acquire()
        self._disconnect()

    def _after_fork(self) -> None:
        self._read_gate.release()
        self._gate.release()


def _migration_indexes(names: set[str]) -> set[str]:
    """Index names of `sqlite-utils`' own table: a first migration may have died half-way."""
    return {name for name in names if name.startswith(("idx__sqlite_migrations", "sqlite_"))}


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


def _explain(error: sqlite3.Error) -> str:
    text = str(error)
    for sign, remedy in _REMEDIES:
        if sign in text.lower():
            return f"{remedy} (SQLite: {text})"
    return f"SQLite: {text}"


_engines: weakref.WeakSet[SqliteEngine] = weakref.WeakSet()
_forking: list[SqliteEngine] = []


def _before_fork() -> None:
    _forking.extend(_engines)
    for engine in _forking:
        engine._before_fork()


def _after_fork() -> None:
    while _forking:
        _forking.pop()._after_fork()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
