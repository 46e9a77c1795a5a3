"""Transactions on the server: what must be known is asked for at once, all else goes along with the commit."""

from __future__ import annotations

import functools
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from costguard.ledger.engines.postgres.linking import Link
from costguard.ledger.engines.postgres.pipelining import Answer, Pipeline

Row = tuple[Any, ...]
Op = Callable[[Any], Any]

FETCH = 500
"""Rows of a long answer that are fetched at once."""

_NUMBERS = " UNION ALL SELECT -1, nextval('journal'), 0 FROM generate_series(1, {})"
_COLUMNS = (
    "SELECT column_name FROM information_schema.columns WHERE table_schema = current_schema() AND table_name = ?"
    " ORDER BY ordinal_position"
)
_ALL_GATES = "SELECT id FROM gates ORDER BY id FOR UPDATE"
_GATE = "SELECT id FROM gates WHERE id = {} FOR NO KEY UPDATE"
"""Of one at a time: a lock that others share they share for ever, past whoever waits to be alone."""

_INSERT = re.compile(r"(INSERT INTO \w+ \()(.*?\)\s+VALUES\s+\()", re.DOTALL)
_NUMBERED = ("attempts", "entries")


class NotAloneError(Exception):
    """The transaction must begin anew, and be alone."""


class _Tx:
    """What both kinds have."""

    is_shared = True
    waited_s = 0.0
    stamp = "SELECT 0, stamp, 0 FROM gates WHERE id = 0"
    is_again = False

    def all(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Every row."""
        raise NotImplementedError

    def columns(self, table: str) -> list[str]:
        """The columns of a table."""
        return [name for (name,) in self.all(_COLUMNS, (table,))]

    def damage(self) -> str | None:
        """The server looks after its own files: what it cannot read, it says where it is read."""
        return None


class ReadTx(_Tx):
    """The statements of a transaction that reads."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._cursors = 0
        self.own: dict[Any, Any] = {}
        self.kept: dict[Any, Any] = {}

    def all(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Every row."""
        return self._link.execute(translated(sql), parameters).fetchall()

    def one(self, sql: str, parameters: Sequence[object] = ()) -> Row | None:
        """The first row, or None."""
        return self._link.execute(translated(sql), parameters).fetchone()

    def each(self, sql: str, parameters: Sequence[object] = ()) -> Iterator[Row]:
        """The rows, some at a time."""
        self._cursors += 1
        with self._link.cursor(f"c{self._cursors}") as cursor:
            cursor.itersize = FETCH
            cursor.execute(translated(sql), parameters)
            yield from cursor


class WriteTx(_Tx):
    """The statements of a transaction that writes: see `Tx`. What asks nothing goes along with the next question."""

    def __init__(self, link: Link, pipeline: Pipeline, *, is_alone: bool, is_again: bool) -> None:
        self.own: dict[Any, Any] = {}
        self.kept = link.kept
        self.is_again = is_again
        self.afterwards: list[Op] = []
        self._link = link
        self._is_alone = is_alone
        self._pipeline = pipeline
        self._numbers: deque[int] = deque()
        self._gate = _GATE.format(link.gate)
        self._is_in = is_alone
        if is_alone:
            pipeline.send(_ALL_GATES)

    def _ask(self, sql: str, parameters: Sequence[object] = ()) -> Answer:
        """Send a statement; the first one comes behind the gate."""
        if not self._is_in:
            self._is_in = True
            self._pipeline.send(self._gate)
        return self._pipeline.send(translated(sql), parameters)

    def all(self, sql: str, parameters: Sequence[object] = ()) -> list[Row]:
        """Every row."""
        return self._ask(sql, parameters).rows()

    def one(self, sql: str, parameters: Sequence[object] = ()) -> Row | None:
        """The first row, or None."""
        rows = self._ask(sql, parameters).rows()
        return rows[0] if rows else None

    def each(self, sql: str, parameters: Sequence[object] = ()) -> Iterator[Row]:
        """The rows, all at once."""
        return iter(self.all(sql, parameters))

    def renumber(self, tables: Mapping[str, str]) -> None:
        """The sequences go on behind what is there."""
        both = [f"(SELECT coalesce(max({key}), 0) FROM {table})" for table, key in tables.items() if table in _NUMBERED]
        self.run(f"SELECT setval('journal', greatest(1, {', '.join(both)}))")
        for table, key in tables.items():
            if table not in _NUMBERED:
                self.run(
                    f"SELECT setval(name, greatest(1, (SELECT coalesce(max({key}), 0) FROM {table})))"
                    f" FROM pg_get_serial_sequence('{table}', '{key}') AS name WHERE name IS NOT NULL"
                )

    def alone(self) -> None:
        """Nobody else writes from the beginning of this one: it may have to begin anew."""
        if not self._is_alone:
            raise NotAloneError

    def restamp(self) -> None:
        """At every gate."""
        self.run("UPDATE gates SET stamp = stamp + 1")

    def lock(self, sql: str, parameters: Sequence[object] = (), *, known: bool = False) -> None:
        """Take rows until the end: known ones in one statement with the gate.

        What a query looks for is looked for behind the gate: whoever was alone until then may have added some.
        """
        if known and not self._is_in:
            self._is_in = True
            sql = f"SELECT id FROM ({self._gate}) gate UNION ALL SELECT id FROM ({sql}) locked"
        self._ask(sql, parameters)

    def take(self, sql: str, parameters: Sequence[object], numbers: int) -> list[Row]:
        """Every row, and numbers of the journal."""
        began_s = time.monotonic()
        found = self._ask(sql + _NUMBERS.format(numbers), parameters).rows()
        took_s = time.monotonic() - began_s
        self._link.least_s = min(self._link.least_s, took_s)
        self.waited_s = max(self.waited_s, took_s - self._link.least_s)
        self._numbers = deque([number for is_number, number, _ in found if is_number < 0])
        return [row for row in found if row[0] >= 0]

    def insert(self, sql: str, key: str, parameters: Sequence[object]) -> int:
        """One row; its number is one that was drawn, else the next one."""
        if self._numbers and (numbered := _with_number(sql, key)):
            number = self._numbers.popleft()
            self._ask(numbered, (number, *parameters))
            return number
        row = self.one(f"{sql} RETURNING {key}", parameters)
        return int(row[0]) if row else 0

    def seq_of_hold(self, attempt_id: int) -> int:
        """An attempt has the number of its first entry: so both are in one order, whoever commits first."""
        return attempt_id

    def later(self, op: Op) -> None:
        """Run `op` in a transaction of its own once all that has begun is over."""
        self.afterwards.append(op)

    def tidy(self, sql: str, parameters: Sequence[object] = ()) -> None:
        """Not here: a program's role need not have the right."""

    def run(self, sql: str, parameters: Sequence[object] = ()) -> None:
        """A statement without rows: an error of it comes with the next answer, or the commit's."""
        self._ask(sql, parameters)

    def many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """One statement for each of `rows`."""
        for row in rows:
            self._ask(sql, row)


@functools.lru_cache(maxsize=1000)
def translated(sql: str) -> str:
    """With `$1`, `$2` for the marks."""
    parts = sql.split("?")
    return "".join([part if n == 0 else f"${n}{part}" for n, part in enumerate(parts)])


@functools.lru_cache(maxsize=100)
def _with_number(sql: str, key: str) -> str | None:
    """An `INSERT` of a table that the journal numbers, with its number as a further parameter before all others."""
    if not sql.startswith(tuple([f"INSERT INTO {table} (" for table in _NUMBERED])):
        return None
    return _INSERT.sub(lambda found: f"{found[1]}{key}, {found[2]}?,", sql, count=1)
