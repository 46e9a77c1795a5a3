"""Where the ledgers are that tests name by a path: files there, or schemas of one database on PostgreSQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, Self

import psycopg
from postgres import SUPERUSER, Server

from costguard.ledger.engines import open_engine


class Elsewhere(Protocol):
    """Where ledgers are, and how to get at their rows behind the library's back."""

    name: str
    """The kind of database."""
    tables: str
    """SQL for the names of a ledger's tables."""

    def place(self, path: Path) -> Path | str:
        """What opens the ledger that a test names `path`."""

    def keep(self, path: Path) -> None:
        """No other ledger is to have this one's place: somebody who was killed may still be writing in it."""

    def rows(self, path: Path, sql: str) -> list[tuple[Any, ...]]:
        """What a query gives to anyone."""

    def damage(self, path: Path, statement: str) -> None:
        """Run what the ledger itself never would, past the guards of its tables; it must change a row."""


class Files:
    """Ledgers in SQLite files, at the paths themselves."""

    name = "sqlite"
    tables = "SELECT name FROM sqlite_master WHERE type = 'table'"

    def place(self, path: Path) -> Path | str:
        """The path itself."""
        return path

    def keep(self, path: Path) -> None:
        """See `Elsewhere`."""

    def rows(self, path: Path, sql: str) -> list[tuple[Any, ...]]:
        """See `Elsewhere`."""
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute(sql).fetchall()

    def damage(self, path: Path, statement: str) -> None:
        """See `Elsewhere`."""
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("PRAGMA wal_autocheckpoint = 0")  # only the rows are to be another's
            for (trigger,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
                connection.execute(f"DROP TRIGGER {trigger}")
            assert connection.execute(statement).rowcount > 0


class Schemas:
    """Ledgers in schemas of one database. When the folder of one is gone, or its test is over, another has its schema.

    To make a schema takes ten times as long as to empty it.
    """

    name = "postgresql"
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = current_schema"

    def __init__(self, server: Server) -> None:
        self.leases = "off"
        """Whether leases are taken: their slices are held, which tests of balances do not count."""
        self._server = server
        self._database = server.new_database()
        self._used: dict[Path, str] = {}
        self._kept: set[Path] = set()
        self._free: list[str] = []
        self._made = 0
        open_engine(self._url("pristine")).close()

    def __enter__(self) -> Self:
        """For one test."""
        self._server.start()  # whatever the test before has left
        url = self._server.url(self._database, user=SUPERUSER)
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute("SET session_replication_role = replica")  # no trigger of a table is run
        return self

    def __exit__(self, *_: object) -> None:
        """The test is over."""
        self._leave(list(self._used))
        self._connection.close()

    def place(self, path: Path) -> Path | str:
        """The URL that stands for a path."""
        if path not in self._used:
            self._leave([known for known in self._used if not known.parent.exists()])
            self._used[path] = self._next()
        return self._url(self._used[path])

    def keep(self, path: Path) -> None:
        """See `Elsewhere`."""
        self._kept.add(path)

    def rows(self, path: Path, sql: str) -> list[tuple[Any, ...]]:
        """See `Elsewhere`."""
        return self.run(path, sql).fetchall()

    def damage(self, path: Path, statement: str) -> None:
        """See `Elsewhere`."""
        assert self.run(path, statement).rowcount > 0

    def run(self, path: Path, sql: str) -> psycopg.Cursor[tuple[Any, ...]]:
        """A statement of the superuser in the schema of `path`, on one connection."""
        self._run(f"SET search_path = {self._used[path]}")
        return self._run(sql)

    def _run(self, sql: str) -> psycopg.Cursor[tuple[Any, ...]]:
        return self._connection.execute(sql.encode())

    def _url(self, schema: str) -> str:
        return f"{self._server.url(self._database)}?schema={schema}&leases=off"

    def _leave(self, paths: Iterable[Path]) -> None:
        for path in paths:
            schema = self._used.pop(path)
            if path not in self._kept:
                self._free.append(schema)

    def _next(self) -> str:
        """A schema that is not there, or has what a new ledger has."""
        if not self._free:
            self._made += 1
            return f"s{self._made}"
        schema = self._free.pop()
        tables = self._run("SELECT tablename FROM pg_tables WHERE schemaname = 'pristine'").fetchall()
        made = self._run(f"SELECT 1 FROM pg_namespace WHERE nspname = '{schema}'").fetchone()
        if made is not None:
            steps = [f"LOCK TABLE {', '.join(f'{schema}.{table}' for (table,) in tables)}"]
            for (table,) in tables:
                steps.append(f"DELETE FROM {schema}.{table}")
                steps.append(f"INSERT INTO {schema}.{table} SELECT * FROM pristine.{table}")
            steps.append(
                f"SELECT setval(format('{schema}.%I', sequencename)::regclass, coalesce(last_value, 1),"
                " last_value IS NOT NULL) FROM pg_sequences WHERE schemaname = 'pristine'"
            )
            self._run("; ".join(steps))
        return schema
