"""A ledger as it is, row by row, in another database: in pieces, so that one that was stopped goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from costguard.errors import LedgerError
from costguard.ledger.accounting.sql import marks
from costguard.ledger.engine import Engine, Tx

PAGE = 2_000
"""Rows that are copied in one transaction."""

TABLES = {
    "owners": ("id",),
    "budgets": ("id",),
    "budget_changes": ("id",),
    "ceilings": ("name",),
    "ceiling_changes": ("id",),
    "balances": ("budget_id", "window_us", "end_us"),
    "alerts": ("budget_id", "window_us", "threshold"),
    "terms": ("id",),
    "days": ("day", "start_us", "end_us"),
    "attempts": ("id",),
    "entries": ("seq",),
    "leases": ("id",),
    "media": ("digest",),
    "leaves": ("id",),
    "rollups": ("day", "leaf_id"),
    "slots": ("slot", "leaf_id"),
    "tagsets": ("id",),
    "tagged": ("day", "tags_id", "leaf_id"),
    "estimates": ("day", "project", "model", "what"),
    "refusals": ("day", "project", "model", "task_type", "budget", "per", "reason"),
    "moves": ("id",),
    "fired": ("id",),
    "imports": ("id",),
    "aliases": ("name", "task_uuid"),
    "tokens": ("token_id",),
    "meta": ("key",),
}
"""Table -> the columns of its key, by which it is read."""

MOVING = "moving"
"""Under this the target's `meta` keeps how far it has come, as long as it is not whole."""

_OWN = ("schema", "budgets", "sparse", MOVING)
"""Rows of `meta` that are the database's own, and are not copied."""

_MOMENT = (
    "SELECT coalesce(max(seq), 0), count(*), (SELECT count(*) FROM attempts), (SELECT sum(held) FROM attempts),"
    " (SELECT sum(charged) FROM attempts), (SELECT count(*) FROM budget_changes),"
    " (SELECT count(*) FROM ceiling_changes) FROM entries"
)

Row = tuple[Any, ...]
Progress = Callable[[str, int, int], None]
"""Told what is done at the moment, how many rows of it are, and of how many."""


class _State(NamedTuple):
    """How far a target has come: the source's `moment`, the table, and the key of the last row of it."""

    moment: list[int]
    table: str
    key: list[Any] | None

    def write(self) -> str:
        return json.dumps(self)


def move(source: Engine, target: Engine, progress: Progress) -> int:
    """Copy all rows of `source` to `target`, which is empty or was begun by this; the number of rows.

    Nobody may write to either meanwhile. LedgerError where the target holds another ledger, where the source was
    written to since, or where the two differ at the end.
    """
    moment, totals = source.read(lambda tx: (list(tx.one(_MOMENT) or ()), _counts(tx)))
    if source.read(lambda tx: tx.one("SELECT 1 FROM leases WHERE is_open = 1")) is not None:
        raise LedgerError(
            "leases are still open in the ledger that is moved: stop the programs that use it, and try again"
        )
    state = _begin(target, moment)
    columns = {table: _columns(source, target, table) for table in TABLES}
    done, of = 0, sum(totals.values())
    names = list(TABLES)
    for table in names:
        if names.index(table) < names.index(state.table):
            done += totals[table]
            continue
        key = state.key if table == state.table else None
        if key is not None:
            done += source.read(lambda tx, table=table, key=key: _count_up_to(tx, table, key))  # type: ignore[misc]
        for rows in _pages(source, table, columns[table], key):
            at = [rows[-1][columns[table].index(name)] for name in TABLES[table]]
            mark = _State(moment, table, at).write()
            target.write(lambda tx, table=table, rows=rows, mark=mark: _put(tx, table, columns[table], rows, mark))  # type: ignore[misc]
            done += len(rows)
            progress("Copying", done, of)
    is_sparse = source.is_shared and not target.is_shared
    target.write(lambda tx: _finish(tx, is_sparse=is_sparse))
    _compare(source, target, columns, progress, of)
    if source.read(lambda tx: list(tx.one(_MOMENT) or ())) != moment:
        raise _written()
    target.write(lambda tx: tx.run("DELETE FROM meta WHERE key = ?", (MOVING,)))
    return of


def _begin(target: Engine, moment: list[int]) -> _State:
    def op(tx: Tx) -> _State:
        row = tx.one("SELECT value FROM meta WHERE key = ?", (MOVING,))
        if row is not None:
            return _State(*json.loads(row[0]))
        for table in (
            "attempts",
            "budget_changes",
            "ceiling_changes",
            "moves",
            "refusals",
            "imports",
            "media",
            "tokens",
        ):
            if tx.one(f"SELECT 1 FROM {table} LIMIT 1") is not None:
                raise LedgerError(
                    "the ledger that is to be moved to is not empty; name one that is not there. Nothing was changed"
                )
        state = _State(moment, next(iter(TABLES)), None)
        tx.run("INSERT INTO meta VALUES (?,?)", (MOVING, state.write()))
        return state

    state = target.write(op)
    if state.moment != moment:
        raise _written()
    return state


def _written() -> LedgerError:
    return LedgerError(
        "the ledger that is moved was written to since this was begun: stop all programs that use it, remove the"
        " unfinished copy (the file, or the schema), and begin anew. Nothing is lost"
    )


def _columns(source: Engine, target: Engine, table: str) -> list[str]:
    known = source.read(lambda tx: tx.columns(table))
    other = target.read(lambda tx: tx.columns(table))
    if sorted(known) != sorted(other):
        raise LedgerError(f"the table {table} has other columns there than here: {sorted({*known} ^ {*other})}")
    return list(known)


def _counts(tx: Tx) -> dict[str, int]:
    return {table: (tx.one(f"SELECT count(*) FROM {table}{_kept(table)}") or (0,))[0] for table in TABLES}


def _kept(table: str, word: str = "WHERE") -> str:
    return f" {word} key NOT IN ({', '.join([repr(name) for name in _OWN])})" if table == "meta" else ""


def _after(table: str, sign: str) -> str:
    key = TABLES[table]
    return f"({', '.join(key)}) {sign} ({marks(len(key))})"


def _count_up_to(tx: Tx, table: str, key: Sequence[Any]) -> int:
    sql = f"SELECT count(*) FROM {table} WHERE {_after(table, '<=')}{_kept(table, 'AND')}"
    return int((tx.one(sql, key) or (0,))[0])


def _pages(engine: Engine, table: str, columns: Sequence[str], key: Sequence[Any] | None) -> Iterator[list[Row]]:
    """The rows of a table beyond `key` in the order of its key, page by page, each a snapshot."""
    order = f"ORDER BY {', '.join(TABLES[table])} LIMIT {PAGE}"
    places = [columns.index(name) for name in TABLES[table]]
    while True:
        condition = _kept(table) if key is None else f" WHERE {_after(table, '>')}{_kept(table, 'AND')}"
        sql, parameters = f"SELECT {', '.join(columns)} FROM {table}{condition} {order}", tuple(key or ())
        rows = engine.read(lambda tx, sql=sql, parameters=parameters: tx.all(sql, parameters))  # type: ignore[misc]
        if rows:
            yield rows
        if len(rows) < PAGE:
            return
        key = [rows[-1][place] for place in places]


def _put(tx: Tx, table: str, columns: Sequence[str], rows: Sequence[Row], mark: str) -> None:
    again = " ON CONFLICT (key) DO UPDATE SET value = excluded.value" if table == "meta" else ""
    tx.many(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks(len(columns))}){again}", rows)
    tx.run("UPDATE meta SET value = ? WHERE key = ?", (mark, MOVING))


def _finish(tx: Tx, *, is_sparse: bool) -> None:
    tx.restamp()
    tx.renumber({table: key[0] for table, key in TABLES.items() if key in (("id",), ("seq",))})
    if is_sparse:
        tx.run("INSERT INTO meta VALUES ('sparse', '1') ON CONFLICT DO NOTHING")


def _compare(source: Engine, target: Engine, columns: dict[str, list[str]], progress: Progress, of: int) -> None:
    """Every table holds the same here and there, in one order."""
    done = 0
    for table, names in columns.items():
        digests = []
        for engine in (source, target):
            digest = blake2b()
            for rows in _pages(engine, table, names, None):
                digest.update(json.dumps(rows).encode())
                if engine is source:
                    done += len(rows)
                    progress("Comparing", done, of)
            digests.append(digest.digest())
        if digests[0] != digests[1]:
            raise LedgerError(f"{table} is not the same here and there: {_written()}")
