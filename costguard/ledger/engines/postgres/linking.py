"""Connections to the server: one pool a process, bounded waits, and what each connection remembers."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.adapt import Loader
from psycopg.generators import execute
from psycopg.types.numeric import Int8Dumper
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from costguard.errors import LedgerError
from costguard.ledger.engines.patience import WAIT_S, Least, Patience
from costguard.ledger.engines.postgres.explaining import explain
from costguard.ledger.engines.postgres.naming import Place

R = TypeVar("R")

GATES = 128
"""Rows of `gates`. A transaction beside others has one of them, one that is alone has all. More than most fleets have
connections: two at one gate take turns."""

SERVER_MIN = 140_000
"""The oldest server: PostgreSQL 14."""

STEP_S = 0.25
"""A connection is tried for again this often while the server is away."""

GRACE_S = 1.0
"""A server that should have given up a statement by itself is given so much longer to say so."""

_GONE = "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=3 -c tcp_keepalives_count=3"
"""The server notices in so many seconds, not hours, that a host is gone, and gives up its locks."""

IDLE_S = 60.0
"""A connection that nobody used for so long is closed."""


_parents: list[object] = []
"""What a fork has left of another process's pools: never to be closed, nor collected, here."""

# A server that is away is said by the errors of costguard; psycopg_pool says it on stderr where nobody listens.
logging.getLogger("psycopg.pool").addHandler(logging.NullHandler())


class _IntLoader(Loader):
    """Sums of integers come as `numeric`."""

    def load(self, data: Any) -> int:
        """The integer; ValueError for a fraction."""
        return int(bytes(data))


class Link(psycopg.Connection[tuple[Any, ...]]):
    """A connection, and what was learned by it that others' writes do not change: `kept`, see `Tx`."""

    @property
    def prepares(self) -> bool:
        """Whether statements may be prepared on it."""
        return self.prepare_threshold is not None

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.kept: dict[Any, Any] = {}
        self.prepared: dict[Any, bytes] = {}
        """The statements that the server knows by name, see `pipelining`."""
        self.names = itertools.count()
        self.least_s = 1.0
        """The shortest way there and back so far."""
        self.deadline = 0.0
        """No answer is waited for longer (`time.monotonic()`)."""
        self.span_s = 0.0
        """Of one that reads, else 0: each answer is waited for so long instead, however many there are."""
        self.gate = self.pgconn.backend_pid % GATES
        self.adapters.register_dumper(int, Int8Dumper)
        self.adapters.register_loader("numeric", _IntLoader)
        self.cursor_factory = psycopg.RawCursor
        self.server_cursor_factory = psycopg.RawServerCursor

    def roll_back(self) -> None:
        """End a transaction with nothing done; psycopg's own way makes the server forget what is prepared, ours too."""
        self.pgconn.send_query(b"ROLLBACK")
        self.wait(execute(self.pgconn))

    def wait(self, gen: PQGen[R], interval: float = 0.1, timeout: float | None = None) -> R:
        """As psycopg's, but not beyond `deadline`: a server that hangs is one that is gone."""
        left_s = (self.span_s or self.deadline - time.monotonic()) + GRACE_S if self.deadline else None
        try:
            return super().wait(gen, interval, timeout if left_s is None else max(left_s, 0.0))
        except psycopg.errors._WaitTimeout:
            if left_s is None:
                raise
            self.pgconn.finish()
            raise psycopg.OperationalError("no answer came in time") from None


class Links:
    """The pool of one engine, opened anew after a fork."""

    def __init__(self, place: Place, *, writes: bool, is_durable: bool) -> None:
        self.place = place
        self._settings: dict[str, Any] = {"application_name": "costguard", "connect_timeout": "5", **place.settings}
        self._settings |= {"autocommit": True, "prepare_threshold": None if place.pooler else 5}
        if not place.pooler:
            ours = f"-c search_path={place.schema} -c statement_timeout={int(WAIT_S * 1000)} {_GONE}"
            if not is_durable:
                ours += " -c synchronous_commit=off"
            self._settings["options"] = f"{place.settings.get('options', '')} {ours}".strip()
        if writes:
            self._settings.setdefault("target_session_attrs", "read-write")
        self._pool: ConnectionPool[Link] | None = None
        self._opening = threading.Lock()
        self._is_closed = False
        self._last: psycopg.Error | None = None

    def connect(self) -> Link:
        """A connection of its own, for what is done in `WAIT_S`; or LedgerError with the reason."""
        try:
            link = Link.connect(**self._settings)
        except psycopg.Error as error:
            raise LedgerError(f"the ledger {self.place}: {explain(error)}") from None
        link.deadline = time.monotonic() + WAIT_S
        return link

    def take(self, wait: Patience | Least) -> Link:
        """A connection from the pool; LedgerError if none can be had in time."""
        pool = self._pool or self._open_pool()
        while True:
            left_s = wait.deadline - time.monotonic()
            try:
                link = pool.getconn(timeout=max(0.001, min(STEP_S, left_s)))
            except PoolClosed:
                raise LedgerError(f"the ledger {self.place} is closed") from None
            except PoolTimeout:
                if left_s > STEP_S:
                    continue
                raise self._too_late() from None
            link.deadline = max(wait.deadline, time.monotonic() + 0.05)
            return link

    def give_back(self, link: Link) -> None:
        """It is no longer used; closed if it is of no more use."""
        link.deadline, link.span_s = time.monotonic() + GRACE_S, 0.0
        pool = self._pool
        if pool is not None:
            pool.putconn(link)
        elif self._is_closed:  # in a fork's child it would be its parent's
            link.close()

    def _too_late(self) -> LedgerError:
        if self._last is not None:
            return LedgerError(f"the ledger {self.place}: {explain(self._last)}")
        return LedgerError(
            f"the ledger {self.place}: none of its {self.place.pool} connections was free, or could be made, in time:"
            " the server is overloaded or hangs, or this program asks for more at once (?pool=)"
        )

    def _open_pool(self) -> ConnectionPool[Link]:
        with self._opening:  # threads that come first at the same time share one
            if self._is_closed:
                raise LedgerError(f"the ledger {self.place} is closed")
            if self._pool is None:
                self._pool = self._new_pool()
            return self._pool

    def _new_pool(self) -> ConnectionPool[Link]:
        links = self

        class Pooled(Link):
            @classmethod
            def connect(cls, *arguments: Any, **settings: Any) -> Any:
                try:
                    link = super().connect(*arguments, **settings)
                except psycopg.Error as error:
                    links._last = error
                    raise
                links._last = None
                return link

        return ConnectionPool(
            "",
            connection_class=Pooled,
            kwargs=self._settings,
            min_size=0,
            max_size=self.place.pool,
            max_idle=IDLE_S,
            reconnect_timeout=0,
            name=str(self.place),
            num_workers=1,
            open=True,
        )

    def forget(self) -> None:
        """In a fork's child: the connections are its parent's."""
        _parents.append(self._pool)
        self._pool = None
        self._opening = threading.Lock()

    def close(self) -> None:
        """Close all that are not in use."""
        with self._opening:
            self._is_closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close(timeout=1.0)


def check_server(link: Link, place: Place) -> None:
    """LedgerError for a server that is too old."""
    version = link.info.server_version
    if version < SERVER_MIN:
        raise LedgerError(
            f"the ledger {place}: its server is PostgreSQL {version // 10_000}; {SERVER_MIN // 10_000} or newer is"
            " needed. Nothing was changed"
        )


def check_gates(link: Link, place: Place) -> None:
    """LedgerError where a gate is missing: whoever has it would be beside who is alone."""
    row = link.execute(f"SELECT count(*) FROM {place.schema}.gates").fetchone()
    if row != (GATES,):
        raise LedgerError(
            f"the ledger {place}: {row[0] if row else 0} of its {GATES} gates are there; its rows were removed by hand."
            " Restore a backup"
        )
