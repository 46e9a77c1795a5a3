"""Snapshots of the ledger on a server: to report from, on any of them."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, TypeVar

import psycopg

from costguard.errors import LedgerError
from costguard.ledger.engine import Outcome, Write, attempt
from costguard.ledger.engines import patience
from costguard.ledger.engines.patience import WAIT_S, Patience
from costguard.ledger.engines.postgres.explaining import AGAIN, explain, is_cut
from costguard.ledger.engines.postgres.linking import Link, Links, check_server
from costguard.ledger.engines.postgres.naming import Place, read_place
from costguard.ledger.engines.postgres.pipelining import Pipeline
from costguard.ledger.engines.postgres.transactions import ReadTx
from costguard.ledger.engines.schema import VERSION

T = TypeVar("T")

READ_S = 600.0
"""What no call waits for, a report or `verify`, may take so long for one of its questions."""

_SET = "SELECT set_config('{}', $1, true)"
"""Sets something until the end of the transaction."""


class PostgresReader:
    """Snapshots of the ledger at a URL, on any of its servers; writes are a LedgerError."""

    is_shared = True

    def __init__(self, url: str) -> None:
        self.place = read_place(url)
        self.leases = self.place.leases
        self._here = threading.local()
        """What this thread is at."""
        self.is_closed = False
        self._pid = os.getpid()
        self._links = Links(self.place, writes=self._writes, is_durable=self._is_durable)
        _engines.add(self)
        self._open()

    _writes = False
    _is_durable = True

    def _open(self) -> None:
        link = self._links.connect()
        try:
            check_server(link, self.place)
            version = read_version(link, self.place)
        except psycopg.Error as error:
            raise LedgerError(f"the ledger {self.place}: {explain(error)}") from None
        finally:
            link.close()
        if version == VERSION:
            return
        if version > VERSION:
            raise LedgerError(
                f"the ledger {self.place} was written by a newer costguard (schema {version}, this one knows"
                f" {VERSION}); upgrade costguard. Nothing was changed"
            )
        what = f"has schema {version}, and this costguard reads {VERSION}" if version else "is not there yet"
        raise LedgerError(
            f"the ledger {self.place} {what}; `costguard init --db URL`, by a role that may create tables, makes it."
            " Nothing was changed"
        )

    def write(self, op: Callable[[Any], T], *, beside: bool = False) -> T:  # noqa: ARG002
        """LedgerError: nothing is written here."""
        raise LedgerError(f"the ledger {self.place} was opened for reading; nothing was written")

    def write_all(self, writes: Sequence[tuple[Context, Write]]) -> list[Outcome]:
        """As `write`, for each."""
        return [attempt(self.write, write.op) for _, write in writes]

    def read(self, op: Callable[[Any], T]) -> T:
        """Run `op` on one snapshot: repeatable read, and read only."""
        outer: ReadTx | None = getattr(self._here, "reading", None)
        if outer is not None:  # a signal handler reads in between: on the same snapshot
            return op(outer)
        given = patience.current.get()
        wait = given or Patience(WAIT_S)
        while True:
            link = self._take(wait)
            # A long report is not a server that hangs: no call waits for it.
            link.span_s = READ_S if given is None else max(0.05, wait.deadline - time.monotonic())
            try:
                for statement in self._beginning(wait, "REPEATABLE READ READ ONLY", READ_S if given is None else None):
                    link.execute(*statement)
                tx = self._here.reading = ReadTx(link)
                return op(tx)
            except psycopg.Error as error:
                if not (self._is_transient(error) and time.monotonic() < wait.deadline):
                    raise self._failed(error) from None
            finally:
                self._here.reading = None
                self._end(link)

    def _is_transient(self, error: psycopg.Error) -> bool:
        """A connection that was cut, as by the server's restart, and a standby that had to drop what was read."""
        return is_cut(error) or error.sqlstate in AGAIN

    def _take(self, wait: Patience) -> Link:
        self._check()
        return self._links.take(wait)

    def _beginning(
        self, wait: Patience, isolation: str, span_s: float | None = None
    ) -> list[tuple[str, tuple[str, ...]]]:
        """What a transaction begins with; what is the same for all of them is a matter of the connection.

        `span_s`: how long a statement of it may take; None: what is left of `wait`.
        """
        found: list[tuple[str, tuple[str, ...]]] = [(f"BEGIN ISOLATION LEVEL {isolation}", ())]
        left_s = wait.deadline - time.monotonic() if span_s is None else span_s
        if self.place.pooler or not WAIT_S - 0.5 < left_s <= WAIT_S:
            found.append((_SET.format("statement_timeout"), (str(max(50, int(left_s * 1000))),)))
        if self.place.pooler:
            found.append((_SET.format("search_path"), (self.place.schema,)))
            if not self._is_durable:
                found.append((_SET.format("synchronous_commit"), ("off",)))
        return found

    def _end(self, link: Link, pipeline: Pipeline | None = None) -> None:
        try:
            if pipeline is not None and not link.closed:
                pipeline.abandon()
            if not link.closed and link.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                link.kept.clear()
                link.roll_back()
            if link.pgconn.pipeline_status != psycopg.pq.PipelineStatus.OFF:
                link.close()  # interrupted on its way out
        except psycopg.Error:
            link.close()
        finally:
            self._links.give_back(link)

    def _failed(self, error: psycopg.Error) -> LedgerError:
        return LedgerError(f"the ledger {self.place}: {explain(error)}")

    def _check(self) -> None:
        if self.is_closed:
            raise LedgerError(f"the ledger {self.place} is closed")
        if self._pid != os.getpid():
            raise LedgerError(
                f"the ledger {self.place} was opened before a fork that skipped Python's fork hooks, and cannot be used"
                " safely here; open it after the fork (under uWSGI: lazy-apps, or py-call-uwsgi-fork-hooks)"
            )

    @property
    def is_in_place(self) -> bool:
        """True: what its name leads to is the server's business."""
        return True

    def close(self) -> None:
        """Close the connections; later use is a LedgerError."""
        self.is_closed = True
        self._links.close()

    def _after_fork(self) -> None:
        self._pid = os.getpid()
        self._links.forget()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.place}>"


def read_version(link: Link, place: Place) -> int:
    """The schema's number, 0 if there is none; LedgerError for tables of another program."""
    found = link.execute(
        "SELECT to_regclass($1), to_regclass($2)", (f"{place.schema}.meta", f"{place.schema}.entries")
    ).fetchone()
    if found is None or found[0] is None:
        if found is not None and found[1] is not None:
            raise _foreign(place)
        return 0
    try:
        row = link.execute(f"SELECT value FROM {place.schema}.meta WHERE key = 'schema'").fetchone()
    except psycopg.errors.UndefinedColumn:
        raise _foreign(place) from None
    if row is None or not str(row[0]).isdecimal():
        raise _foreign(place)
    return int(row[0])


def _foreign(place: Place) -> LedgerError:
    return LedgerError(
        f"the ledger {place}: the schema {place.schema} has tables of another program; name another with ?schema=NAME."
        " Nothing was changed"
    )


_engines: weakref.WeakSet[PostgresReader] = weakref.WeakSet()


def _after_fork() -> None:
    for engine in list(_engines):
        engine._after_fork()


os.register_at_fork(after_in_child=_after_fork)
