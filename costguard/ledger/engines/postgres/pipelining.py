"""Statements that travel together: libpq's pipeline mode, with statements prepared once a connection.

psycopg has one, too. Its every statement is a trip of its own to the socket (22 of a call took 1.5 ms of computing,
here 0.5), and after a failed transaction it may use statements that the server does not have (3.3).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.abc import PQGen
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult
from psycopg.waiting import Ready, Wait

from costguard.ledger.engines.postgres.linking import Link

Row = tuple[Any, ...]
Key = tuple[str, tuple[int, ...]]

PREPARED_MAX = 300
"""Statements that the server is to know by name, of one connection: it keeps each in memory."""

_INT8 = 20
_BAD = (ExecStatus.FATAL_ERROR, ExecStatus.BAD_RESPONSE, ExecStatus.NONFATAL_ERROR)


class Answer:
    """A statement that was sent, and its rows once they are asked for."""

    __slots__ = ("_pipeline", "prepared", "result")

    def __init__(self, pipeline: Pipeline, prepared: Key | None = None) -> None:
        self._pipeline = pipeline
        self.prepared = prepared
        """Of the preparation of a statement: which."""
        self.result: PGresult | None = None

    def rows(self) -> list[Row]:
        """All rows; raises the first error of the pipeline so far."""
        return self._pipeline.rows(self)


class Pipeline:
    """The statements of one transaction on `link`. Enter it, send, and leave it by `finish` or `abandon`."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._pgconn = link.pgconn
        self._sent: deque[Answer] = deque()
        self._error: psycopg.Error | None = None
        self._is_synced = False
        self._pgconn.enter_pipeline_mode()

    def send(self, sql: str, parameters: Sequence[object] = ()) -> Answer:
        """Put a statement behind those that were sent; it leaves when an answer is waited for."""
        values, types = _encoded(parameters)
        key = sql, types
        name = self._link.prepared.get(key)
        if name is not None or (self._link.prepares and len(self._link.prepared) < PREPARED_MAX):
            if name is None:
                name = self._link.prepared[key] = b"c%d" % next(self._link.names)
                self._pgconn.send_prepare(name, sql.encode(), types)
                self._sent.append(Answer(self, key))
            self._pgconn.send_query_prepared(name, values)
        else:
            self._pgconn.send_query_params(sql.encode(), values, types)
        answer = Answer(self)
        self._sent.append(answer)
        return answer

    def rows(self, answer: Answer) -> list[Row]:
        """See `Answer.rows`."""
        if answer.result is None:
            self._pgconn.send_flush_request()
            self._link.wait(self._read_until(answer))
        self._raise()
        result = answer.result
        if result is None or result.status != ExecStatus.TUPLES_OK:
            return []
        loads = Transformer(self._link)
        loads.set_pgresult(result)
        return loads.load_rows(0, result.ntuples, tuple)

    def finish(self) -> None:
        """Wait for the rest, and leave; raises the first error. The last statement was a COMMIT, and has to be one."""
        last = self._sent[-1]
        self._sync()
        self._leave()
        self._raise()
        if last.result is None or last.result.command_status != b"COMMIT":
            raise psycopg.OperationalError("the transaction was not committed")

    def abandon(self) -> None:
        """Leave, whatever came of it; raises psycopg.Error where the connection is gone."""
        if not self._is_synced:
            self._sync()
        self._leave()

    def _sync(self) -> None:
        self._is_synced = True
        self._pgconn.pipeline_sync()
        self._link.wait(self._read_until(None))

    def _leave(self) -> None:
        self._pgconn.exit_pipeline_mode()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _read_until(self, wanted: Answer | None) -> PQGen[None]:
        """Send what is to be sent and read what comes, until `wanted` is answered; None: until all is."""
        pgconn = self._pgconn
        while pgconn.flush():
            ready = yield Wait.RW
            if ready & Ready.R:
                pgconn.consume_input()
        while True:
            while not pgconn.is_busy():
                result = pgconn.get_result()
                if result is None:
                    if not self._sent:
                        break  # the sync is still to come
                    done = self._sent.popleft()
                    if done is wanted:
                        return
                elif result.status == ExecStatus.PIPELINE_SYNC:
                    return
                else:
                    self._take(result)
            ready = yield Wait.R
            if ready & Ready.R:
                pgconn.consume_input()

    def _take(self, result: PGresult) -> None:
        answer = self._sent[0]
        if result.status in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            answer.result = result
            return
        if answer.prepared is not None:
            self._link.prepared.pop(answer.prepared, None)
        if result.status in _BAD and self._error is None:
            self._error = error_from_result(result)


def _encoded(parameters: Sequence[object]) -> tuple[list[bytes | None], tuple[int, ...]]:
    values: list[bytes | None] = []
    types = []
    for value in parameters:
        if isinstance(value, int):
            values.append(b"%d" % value)
            types.append(_INT8)
            continue
        if value is None:
            values.append(None)
        else:
            text = str(value).encode()
            if b"\0" in text:
                raise psycopg.DataError("a text with a NUL character cannot be kept")
            values.append(text)
        types.append(0)
    return values, tuple(types)
