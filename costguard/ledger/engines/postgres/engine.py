"""Many writers at a time: each takes what it decides on, or is alone; a commit whose answer was lost is looked up."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from typing import Any, TypeVar

import psycopg

from costguard.errors import ConfigurationError, LedgerError
from costguard.ledger.engine import Outcome, Write, attempt
from costguard.ledger.engines import patience
from costguard.ledger.engines.patience import WAIT_S, Patience
from costguard.ledger.engines.postgres.explaining import AGAIN, explain, is_cut
from costguard.ledger.engines.postgres.linking import GATES, Link, check_gates, check_server
from costguard.ledger.engines.postgres.naming import Place
from costguard.ledger.engines.postgres.pipelining import Pipeline
from costguard.ledger.engines.postgres.reading import PostgresReader, read_version
from costguard.ledger.engines.postgres.schema import statements
from costguard.ledger.engines.postgres.transactions import NotAloneError, WriteTx
from costguard.ledger.engines.schema import VERSION

T = TypeVar("T")

PAUSE_S = 0.01
"""After a conflict others go first for up to so long, times the conflicts so far."""

CLOSE_S = 1.0
"""Closing waits so long for what nobody else waits for."""

LATER_MAX = 4
"""What is put off of what nobody waits for: the newest few."""

LATER_S = 20.0
"""What nobody waits for gives up after so long, and is done another time."""

TRIES_OPEN = 5
"""Others may be making the same tables: they are looked for again this often."""

_MADE_MEANWHILE = ("23505", "42P06", "42P07", "42710", "42723", *AGAIN)
"""SQLSTATEs of a schema, table, index or function that another program makes at the same time."""

_DURABILITY = ("full", "normal")

log = logging.getLogger("costguard")


class PostgresEngine(PostgresReader):
    """Transactions on the ledger at a URL; its tables are made if they are not there, and this role may.

    `durability`: "full" has each commit on the server's disk (and on a standby that the server waits for), "normal"
    survives every crash but the server's own. Raises LedgerError for a server that cannot be reached, is too old or
    read-only, or holds something else.
    """

    _writes = True

    def __init__(self, url: str, *, durability: str = "full") -> None:
        if durability not in _DURABILITY:
            raise ConfigurationError(f"durability: {durability!r} is not one of 'full', 'normal'")
        self._is_durable = durability == "full"
        self._helpers: ThreadPoolExecutor | None = None
        self._chores: threading.Thread | None = None
        self._later: deque[Callable[[WriteTx], None]] = deque(maxlen=LATER_MAX)
        self._start = threading.Lock()
        super().__init__(url)

    def _open(self) -> None:
        link = self._links.connect()
        try:
            check_server(link, self.place)
            for n in range(TRIES_OPEN):
                version = read_version(link, self.place)
                if version >= VERSION:
                    break
                try:
                    _migrate(link, self.place, version)
                except psycopg.Error as error:
                    # Another program made the same just now, or is at it.
                    if n + 1 == TRIES_OPEN or error.sqlstate not in _MADE_MEANWHILE:
                        raise
                    time.sleep(random.uniform(0.05, 0.2))
            if version == VERSION:
                check_gates(link, self.place)
        except psycopg.Error as error:
            raise LedgerError(f"the ledger {self.place}: {explain(error)}") from None
        finally:
            link.close()
        if version > VERSION:
            super()._open()

    # -- transactions -----------------------------------------------------------------------------

    def write(self, op: Callable[[WriteTx], T], *, beside: bool = False) -> T:
        """See `Engine`: run again after a conflict, and where the connection was cut.

        Cut in the commit, it may be done. What is `beside` is run again, alone, so that whatever is still at it is
        over, and finds what it wrote; for all else that is the error.
        """
        if getattr(self._here, "is_writing", False):
            raise LedgerError(
                f"the ledger {self.place} is being written by this very thread: a signal handler, finalizer or"
                " transaction cannot write in between; do it later"
            )
        self._here.is_writing = True
        try:
            value, afterwards = self._transact(op, patience.current.get() or Patience(WAIT_S), beside=beside)
        finally:
            self._here.is_writing = False
        if afterwards:
            self._begin_later(afterwards)
        return value

    def _transact(
        self, op: Callable[[WriteTx], T], wait: Patience, *, beside: bool
    ) -> tuple[T, list[Callable[[WriteTx], None]]]:
        is_alone, is_again, tries = not beside, False, 0
        while True:
            link = self._take(wait)
            pipeline = None
            is_committing = False
            try:
                if self.place.pooler:
                    link.kept.clear()  # who knows which server is behind it by now
                pipeline = Pipeline(link)
                for statement in self._beginning(wait, "READ COMMITTED"):
                    pipeline.send(*statement)
                tx = WriteTx(link, pipeline, is_alone=is_alone, is_again=is_again)
                value = op(tx)
                pipeline.send("COMMIT")
                is_committing, pipeline_done = True, pipeline
                pipeline = None
                pipeline_done.finish()
                return value, tx.afterwards
            except NotAloneError:
                is_alone = True
            except psycopg.Error as error:
                tries += 1
                link.kept.clear()  # it may name rows that were never written
                is_lost = is_committing and is_cut(error)
                if is_lost and not beside:
                    raise LedgerError(
                        f"the ledger {self.place}: the connection was cut while this was committed, so it may be done"
                        f" or not; look, and do it again if it is not ({explain(error)})"
                    ) from None
                if not self._may_try_again(error, wait):
                    raise self._failed(error) from None
                if is_lost:
                    is_alone = is_again = True
                time.sleep(random.uniform(0, PAUSE_S * tries))
            finally:
                self._end(link, pipeline)

    def _may_try_again(self, error: psycopg.Error, wait: Patience) -> bool:
        return self._is_transient(error) and time.monotonic() < wait.deadline

    def _begin_later(self, ops: Iterable[Callable[[WriteTx], None]]) -> None:
        """On a thread of its own, one after the other; what is beyond `LATER_MAX` is left to the next who comes."""
        with self._start:
            self._later.extend(ops)
            if self._chores is None:
                self._chores = threading.Thread(target=self._write_later, name="costguard-later", daemon=True)
                try:
                    self._chores.start()
                except RuntimeError:  # no more threads, or the interpreter ends: what this is for is committed
                    self._chores = None

    def _write_later(self) -> None:
        while True:
            with self._start:
                if not self._later or self.is_closed:
                    self._chores = None
                    return
                op = self._later.popleft()
            wait = Patience(LATER_S)
            patience.current.set(wait)
            try:
                self._pass_gates(wait)
                self.write(op, beside=True)
            except (LedgerError, psycopg.Error) as error:
                if not self.is_closed:
                    log.warning("put off until later: %s", error)

    def _pass_gates(self, wait: Patience) -> None:
        """Until every gate was seen free: whoever was behind one is out by then. Nobody is kept waiting."""
        left = set(range(GATES))
        while left:
            is_hurried = time.monotonic() > wait.deadline - LATER_S / 2
            ids = ",".join(map(str, sorted(left)[:1] if is_hurried else sorted(left)))
            sql = f"SELECT id FROM {self.place.schema}.gates WHERE id IN ({ids}) ORDER BY id FOR UPDATE"
            link = self._take(wait)
            try:
                free = link.execute(sql if is_hurried else f"{sql} SKIP LOCKED").fetchall()
            finally:
                self._end(link)  # in between it is for calls: a program may have but one
            left -= {gate for (gate,) in free}
            if left and not is_hurried:
                time.sleep(PAUSE_S)

    def write_all(self, writes: Sequence[tuple[Context, Write]]) -> list[Outcome]:
        """See `Engine`: each on a connection of its own, at the same time."""
        if len(writes) < 2:
            return [attempt(context.run, self._write_one, write) for context, write in writes]
        with self._start:
            if self._helpers is None:
                self._helpers = ThreadPoolExecutor(self.place.pool, thread_name_prefix="costguard-write")
        futures = [self._helpers.submit(attempt, context.run, self._write_one, write) for context, write in writes]
        return [future.result() for future in futures]

    def _write_one(self, write: Write) -> Any:
        return self.write(write.op, beside=write.beside)

    def close(self) -> None:
        """Close the connections; later use is a LedgerError."""
        chores = self._chores
        if chores is not None and chores is not threading.current_thread():
            chores.join(CLOSE_S)
        super().close()
        if self._helpers is not None:
            self._helpers.shutdown(wait=False)

    def _after_fork(self) -> None:
        super()._after_fork()
        self._helpers = self._chores = None
        self._later.clear()
        self._start = threading.Lock()


def _migrate(link: Link, place: Place, version: int) -> None:
    with link.transaction():
        if version == 0:
            # A role that may use the schema need not have the right to make schemas.
            known = link.execute("SELECT 1 FROM pg_namespace WHERE nspname = $1", (place.schema,)).fetchone()
            if known is None:
                link.execute(f"CREATE SCHEMA {place.schema}")
        link.execute(f"SET LOCAL search_path = {place.schema}")
        for statement in statements(version):
            link.execute(statement)
