"""The embedded engine: one SQLite file in WAL mode, one writer at a time, forks and threads safe."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextvars import Context
from pathlib import Path
from typing import Any, TypeVar

from costguard.errors import ConfigurationError, LedgerError
from costguard.ledger.engine import Outcome, Write, attempt
from costguard.ledger.engines import keeping, patience, schema
from costguard.ledger.engines.files import SqliteTx, check_is_file, explain, resolve
from costguard.ledger.engines.grouping import Group, Job, wake_next
from costguard.ledger.engines.leading import Leading
from costguard.ledger.engines.patience import Least, Patience
from costguard.ledger.engines.places import AdriftError

T = TypeVar("T")

LOCK_TIMEOUT_S = patience.WAIT_S
"""How long a writer waits for others, in this process and elsewhere, before it gives up with an error."""

_COMMIT = ("COMMIT",)

_SYNCHRONOUS = {"full": "FULL", "normal": "NORMAL"}

log = logging.getLogger("costguard")


class SqliteEngine(Leading):
    """Transactions on the ledger file at `path`; created with mode 0600 if it is not there.

    `durability`: "full" survives power loss, "normal" survives every crash but that one.
    Raises LedgerError for a file that is corrupt, foreign, read-only, from a newer version, or not whole.
    """

    def __init__(self, path: str | Path, *, durability: str = "full") -> None:
        if durability not in _SYNCHRONOUS:
            raise ConfigurationError(f"durability: {durability!r} is not one of 'full', 'normal'")
        if sqlite3.sqlite_version_info < schema.SQLITE_MIN:
            raise LedgerError(
                f"this Python links SQLite {sqlite3.sqlite_version}; a ledger needs"
                f" {'.'.join(map(str, schema.SQLITE_MIN))} or newer"
            )
        super().__init__(resolve(path), _SYNCHRONOUS[durability])
        # Wherever both gates are taken, the reader's comes first.
        self._read_gate = threading.RLock()
        self._closed = False
        check_is_file(self.path)
        with _forks:
            _engines.add(self)
            self._create()
        try:
            if (
                not self._lock.path.exists() and not self._is_ours()
            ):  # first, so that a foreign file gets no lock file beside it
                self._check_alone()
                with self._read_gate:
                    self._snapshot(lambda _: None)
            self._settle(patience.current.get() or Patience(LOCK_TIMEOUT_S))
        except BaseException:
            self.close()
            raise

    # -- transactions -------------------------------------------------------------------------

    # An interrupt (KeyboardInterrupt) may come after any call. So whatever is taken is taken inside the
    # `try` that gives it back, and given back by functions written in C: nothing comes in between.

    is_shared = False
    leases = "off"

    def write(self, op: Callable[[SqliteTx], T], *, beside: bool = False) -> T:  # noqa: ARG002  no writer is beside
        """Run `op` in one exclusive transaction; it is rolled back if `op` raises.

        What waits meanwhile is run in the same transaction, each as if alone: see `grouping`. So another thread may
        run `op`, and run it again.
        """
        wait = patience.current.get() or Patience(LOCK_TIMEOUT_S)
        try:
            return self._write(op, wait)
        except AdriftError:
            _put_back(self, wait)
            return self._write(op, wait)

    def write_all(self, writes: Sequence[tuple[Context, Write]]) -> list[Outcome]:
        """See `Engine`."""
        jobs = []
        if len(writes) > 1:
            jobs = [
                Job(write.op, context.run(patience.current.get) or Patience(LOCK_TIMEOUT_S))
                for context, write in writes
            ]
            self._wait_in_queue(jobs, Least(lambda: [job.wait for job in jobs if not job.is_answered]))
        outcomes = [attempt(job.result) for job in jobs]
        for n, (context, write) in enumerate(writes):
            if not jobs or isinstance(outcomes[n].error, AdriftError):
                outcomes[n : n + 1] = [attempt(context.run, self.write, write.op)]
        return outcomes

    def _settle(self, wait: Patience) -> None:
        """Make sure that the files are those in use, without a transaction; LedgerError if they cannot be."""
        try:
            self._look_after(wait)
        except AdriftError:
            _put_back(self, wait)

    def _look_after(self, wait: Patience) -> None:
        try:
            if not (self._gate.acquire(blocking=False) or _wait_for(self._gate, wait)):
                raise self._busy()
            self._check_idle()
            self._transact(None, wait, Group(self._pid))
        finally:
            try:  # noqa: SIM105
                self._gate.release()
            except RuntimeError:
                pass

    def _transact(self, job: Job | None, wait: Patience | Least, group: Group) -> None:
        connection = None
        try:
            self._writing = True
            self._check_process()
            try:
                self._lock.acquire(wait)
            except LedgerError:
                if self._writer is not None and not self.is_in_place:
                    raise self._replaced(is_locked=False) from None
                raise
            connection = self._writer or self._open_writer()
            self._check_place()
            if job is None:
                return
            tx = self._take_tx(connection)
            self._begin(connection, wait)
            tx.begun()
            job.run(tx, group)
            if self._queue:
                group.run_queued(self._queue, tx)
            group.commits.extend(map(connection.execute, _COMMIT))
            self._check_lock()
            self._tx = tx
            self._tend_log(connection)
        except (sqlite3.Error, OverflowError) as error:
            raise LedgerError(f"the ledger {self.path}: {explain(error)}") from error
        except OSError as error:  # a fork in a signal handler closed the files
            raise LedgerError(f"the ledger {self.path}: {error.strerror}; nothing was recorded, try again") from error
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

    def _take_tx(self, connection: sqlite3.Connection) -> SqliteTx:
        """What the last transaction left; it is put back once this one is committed, and forgotten if it is not."""
        tx, self._tx = self._tx, None
        return tx if tx is not None and tx.connection is connection else SqliteTx(connection)

    def _begin(self, connection: sqlite3.Connection, wait: Patience | Least) -> None:
        """What was waited for the lock is not waited again for programs that do not know it."""
        left_s = wait.deadline - time.monotonic()
        if left_s > LOCK_TIMEOUT_S - 0.5:
            connection.execute("BEGIN IMMEDIATE")
            return
        connection.execute(f"PRAGMA busy_timeout = {int(max(0.05, min(left_s, keeping.BUSY_TIMEOUT_S)) * 1000)}")
        try:
            connection.execute("BEGIN IMMEDIATE")
        finally:
            connection.execute(f"PRAGMA busy_timeout = {int(keeping.BUSY_TIMEOUT_S * 1000)}")

    def read(self, op: Callable[[SqliteTx], T]) -> T:
        """Run `op` on one consistent snapshot; writers are not held up."""
        if not self._writing and not self._closed and not self._looks_right():
            self._settle(patience.current.get() or Patience(LOCK_TIMEOUT_S))
        with self._read_gate:
            return self._snapshot(op)

    def _snapshot(self, op: Callable[[SqliteTx], T]) -> T:
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
            raise LedgerError(f"the ledger {self.path}: {explain(error)}") from error
        finally:
            try:
                if connection is not None and connection.in_transaction:
                    connection.execute("ROLLBACK")
            except sqlite3.Error:
                self._reader = None

    @property
    def is_closed(self) -> bool:
        """True once `close` was called."""
        return self._closed

    def close(self) -> None:
        """Close the file; every later use is a LedgerError."""
        if self._writer is not None and self._pid == os.getpid() and not self._looks_right():
            try:
                self._settle(Patience(keeping.CLOSE_TIMEOUT_S))
            except LedgerError as error:
                log.error("closing: %s", error)
        with self._read_gate, self._gate:
            self._closed = True
            try:
                self._put_log_away()
            finally:
                self._disconnect()
                self._lock.close()

    # -- processes ----------------------------------------------------------------------------

    def _check_process(self) -> None:
        if self._closed:
            raise LedgerError(f"the ledger {self.path} is closed")
        if self._fault:
            raise LedgerError(self._fault)
        if self._pid != os.getpid():
            raise LedgerError(
                f"the ledger {self.path} was opened before a fork that skipped Python's fork hooks, and cannot be"
                " used safely here; open it after the fork (under uWSGI: lazy-apps, or py-call-uwsgi-fork-hooks)"
            )

    def __del__(self) -> None:
        if "_anchor" in self.__dict__:
            self._disconnect()
            self._lock.close()

    def _before_fork(self) -> None:
        """No connection crosses a fork: SQLite's locks would not, and a child would trust them."""
        self._read_gate.acquire()
        self._gate.acquire()
        self._disconnect()
        self._lock.close()

    def _after_fork(self) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._queue.clear()  # of threads that are not here
        self._gate.release()
        self._read_gate.release()
        wake_next(self._queue)


def _wait_for(gate: Any, wait: Patience) -> bool:
    """Wait in steps: the caller may give up meanwhile."""
    while not gate.acquire(timeout=0.05):
        if time.monotonic() > wait.deadline:
            return False
    return True


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


def _put_back(engine: SqliteEngine, wait: Patience) -> None:
    """Put the files right for all engines of this process on one ledger; nothing is held when this is called."""
    with contextlib.ExitStack() as taken:
        if not _wait_for(_forks, wait):
            raise engine._busy()
        taken.callback(_forks.release)
        fellows = [each for each in list(_engines) if each.path == engine.path]
        for each in fellows:
            for gate in (each._read_gate, each._gate):
                if not _wait_for(gate, wait):
                    raise engine._busy()
                taken.callback(gate.release)
        try:
            engine._lock.acquire(wait)
            engine._put_back(fellows)
        except sqlite3.Error as error:
            raise LedgerError(f"the ledger {engine.path}: {explain(error)}") from error
        finally:
            engine._lock.release()
