"""What reading and writing engines share: a transaction's statements, connections, and errors in plain words."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from costguard.errors import LedgerError
from costguard.ledger.engines import schema

Row = tuple[Any, ...]


class SqliteTx:
    """A transaction's statements: `?` parameters, plain tuples. See `Tx` for what it remembers."""

    stamp = "SELECT 0, CAST(value AS BIGINT), 0 FROM meta WHERE key = 'budgets'"
    is_shared = False
    is_again = False
    waited_s = 0.0

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.own: dict[Any, Any] = {}
        self.kept: dict[Any, Any] = {}
        self._execute = connection.execute
        self._executemany = connection.executemany
        self._version: Row | None = None

    def begun(self) -> None:
        """Called when a write transaction has begun: forget what was only true while nobody else wrote.

        Asked inside of the transaction, when nobody can write any more: programs that do not know our lock, too.
        """
        version: Row = self._execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self.own.clear()
            self._version = version

    def alone(self) -> None:
        """It is."""

    def restamp(self) -> None:
        """In `meta`."""
        self._execute(
            "INSERT INTO meta VALUES ('budgets', '1') ON CONFLICT (key)"
            " DO UPDATE SET value = CAST(CAST(meta.value AS INTEGER) + 1 AS TEXT)"
        )

    def lock(self, sql: str, parameters: Sequence[object] = (), *, known: bool = False) -> None:
        """Nobody else writes."""

    def take(self, sql: str, parameters: Sequence[object], numbers: int) -> list[Row]:  # noqa: ARG002
        """Every row of a query."""
        return self._execute(sql, parameters).fetchall()

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

    def seq_of_hold(self, attempt_id: int) -> int | None:  # noqa: ARG002
        """The next one."""
        return None

    def later(self, op: Callable[[Any], None]) -> None:
        """Here and now."""
        op(self)

    def tidy(self, sql: str, parameters: Sequence[object] = ()) -> None:
        """A `DELETE`."""
        self._execute(sql, parameters)

    def run(self, sql: str, parameters: Sequence[object] = ()) -> None:
        """A statement without rows."""
        self._execute(sql, parameters)

    def many(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """One statement for each of `rows`."""
        self._executemany(sql, rows)

    def columns(self, table: str) -> list[str]:
        """The columns of a table."""
        return [name for (name,) in self.all("SELECT name FROM pragma_table_info(?) ORDER BY cid", (table,))]

    def renumber(self, tables: Mapping[str, str]) -> None:
        """They do."""

    def damage(self) -> str | None:
        """What is wrong with the file itself, None if it is sound."""
        found = str(self._execute("PRAGMA integrity_check(1)").fetchone()[0])
        return None if found == "ok" else found


def connect(path: Path, options: str, *, timeout_s: float) -> sqlite3.Connection:
    """A connection to the ledger file at `path`, with SQLite's URI `options`.

    Raises LedgerError, with nothing changed, for a database of another program or a newer version.
    """
    connection = sqlite3.connect(
        f"{path.as_uri()}?{options}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=timeout_s,
        cached_statements=256,
    )
    try:
        _check_identity(path, connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_identity(path: Path, connection: sqlite3.Connection) -> None:
    # One statement, one snapshot: another process may be creating the ledger.
    application_id, version, tables = connection.execute(
        "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)"
        " FROM pragma_application_id, pragma_user_version"
    ).fetchone()
    if application_id != schema.APPLICATION_ID and (application_id or version or tables):
        raise LedgerError(
            f"{path} is a database of another program (application_id {application_id:#x},"
            f" {tables} tables), not a costguard ledger; name another file. Nothing was changed."
        )
    if version > schema.VERSION:
        raise LedgerError(
            f"the ledger {path} was written by a newer costguard (schema {version}, this one knows"
            f" {schema.VERSION}); upgrade costguard. Nothing was changed."
        )


def resolve(path: str | Path) -> Path:
    """The one name of the file that `path` leads to, so that every name has one lock beside it."""
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError) as error:  # a ring of links, or the home of nobody
        raise LedgerError(f"the ledger {path} cannot be found: {error}") from error


def check_is_file(path: Path) -> None:
    """LedgerError for what is there and is no regular file: opening a pipe would wait for ever."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # what opens it says what is wrong
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise LedgerError(f"{path} is {kind}; name a file")


def blend(tx: SqliteTx) -> str | None:
    """What shows that a database and its log do not belong together, or are damaged; None if they do.

    Reads everything: for the rare cases in which the files alone leave it open.
    """
    found = tx.damage()
    version = tx.one("PRAGMA user_version")
    if found is not None or not version or not version[0]:  # its creation was cut short: there is no history
        return found
    for since, until, checks in _WHOLE:
        for what, sql in checks if since <= version[0] < until else ():
            if tx.one(sql) is not None:
                return what
    return None


_DENSE = " AND NOT EXISTS (SELECT 1 FROM meta WHERE key = 'sparse')"
"""Unless its rows came from where numbers are left out."""

_OF_ALL = (
    (
        "the journal has gaps",
        f"SELECT 1 WHERE (SELECT count(*) FROM entries) <> (SELECT coalesce(max(seq), 0) FROM entries){_DENSE}",
    ),
    (
        "attempts are missing",
        f"SELECT 1 WHERE (SELECT count(*) FROM attempts) <> (SELECT coalesce(max(id), 0) FROM attempts){_DENSE}",
    ),
    (
        "changes of budgets are missing",
        "SELECT 1 WHERE (SELECT count(*) FROM budget_changes) <> (SELECT coalesce(max(id), 0) FROM budget_changes)"
        f"{_DENSE}",
    ),
    (
        "changes of ceilings are missing",
        "SELECT 1 WHERE (SELECT count(*) FROM ceiling_changes) <> (SELECT coalesce(max(id), 0) FROM ceiling_changes)"
        f"{_DENSE}",
    ),
    (
        "attempts and their journal differ",
        "SELECT 1 FROM attempts a LEFT JOIN (SELECT attempt_id, sum(held) AS held, sum(spent) AS spent,"
        " coalesce(sum(results), 0) AS seen FROM entries GROUP BY attempt_id) e ON e.attempt_id = a.id"
        " WHERE e.attempt_id IS NULL OR a.held <> e.held OR a.charged <> e.spent OR a.seen <> e.seen",
    ),
    ("entries have no attempt", "SELECT 1 FROM entries WHERE attempt_id NOT IN (SELECT id FROM attempts)"),
    ("attempts have no owner", "SELECT 1 FROM attempts WHERE owner_id NOT IN (SELECT id FROM owners)"),
    ("balances have no budget", "SELECT 1 FROM balances WHERE budget_id NOT IN (SELECT id FROM budgets)"),
    (
        "ceilings are not as they were last set",
        "SELECT 1 FROM (SELECT name, nanos, 1 AS n FROM ceilings UNION ALL SELECT name, nanos, -1 FROM ceiling_changes"
        " WHERE nanos IS NOT NULL AND id IN (SELECT max(id) FROM ceiling_changes GROUP BY name)) both_sides"
        " GROUP BY name, nanos HAVING sum(n) <> 0",
    ),
)

_NEVER_SET = (
    " h WHERE NOT EXISTS"
    " (SELECT 1 FROM budget_changes c WHERE c.change = 'set' AND c.per = h.per AND c.limit_nanos = h.limit_nanos"
    # a default's (`acme/*`) covers the children
    " AND (c.project = h.project OR c.project = '/*' OR (c.project LIKE '%/*'"
    " AND substr(h.project, 1, length(c.project) - 1) = substr(c.project, 1, length(c.project) - 1))))"
)

_TO_6 = (
    ("holds have no attempt", "SELECT 1 FROM holds WHERE attempt_id NOT IN (SELECT id FROM attempts)"),
    ("lines have no charge", "SELECT 1 FROM lines WHERE charge_seq NOT IN (SELECT seq FROM charges)"),
    (
        "charges and their lines differ",
        "SELECT 1 FROM charges c LEFT JOIN (SELECT charge_seq, sum(nanos) AS nanos FROM lines GROUP BY charge_seq) l"
        " ON l.charge_seq = c.seq WHERE c.nanos <> coalesce(l.nanos, 0)",
    ),
    (
        "roll-ups and their lines differ",
        "SELECT 1 FROM (SELECT day, project, model, component, modality, basis, results, quantity, nanos FROM rollups"
        " UNION ALL SELECT a.day, a.project, a.model, coalesce(l.component, 'unitemized'), coalesce(l.modality, ''),"
        " c.basis, -c.results, -coalesce(l.quantity, 0), -coalesce(l.nanos, 0) FROM charges c"
        " JOIN attempts a ON a.id = c.attempt_id LEFT JOIN lines l ON l.charge_seq = c.seq) leaves"
        " GROUP BY day, project, model, component, modality, basis"
        " HAVING sum(results) <> 0 OR sum(quantity) <> 0 OR sum(nanos) <> 0",
    ),
    (
        "an admission saw a limit that was never set",
        f"SELECT 1 FROM (SELECT DISTINCT project, per, limit_nanos FROM holds){_NEVER_SET}",
    ),
)

_SINCE_7 = (
    (
        "charges and their lines differ",
        "SELECT 1 FROM entries e WHERE kind = 'charge' AND spent <>"
        " (SELECT coalesce(sum(value), 0) FROM json_each(e.lines) WHERE key % 4 = 3)",
    ),
    (
        "roll-ups are ahead of the journal",
        "SELECT 1 FROM meta WHERE key = 'rolled' AND CAST(value AS INTEGER) >"
        " (SELECT coalesce(max(seq), 0) FROM entries)",
    ),
    (
        "roll-ups and their lines differ",
        "SELECT 1 FROM (SELECT r.day, l.project, l.model, r.nanos FROM rollups r LEFT JOIN leaves l ON l.id = r.leaf_id"
        " UNION ALL SELECT a.day, a.project, a.model, -c.nanos FROM charges c JOIN attempts a ON a.id = c.attempt_id"
        " WHERE c.seq <= (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'rolled')) sums"
        " GROUP BY day, project, model HAVING sum(nanos) <> 0",
    ),
    ("an admission saw a limit that was never set", f"SELECT 1 FROM terms{_NEVER_SET}"),
    (
        "an admission saw what is not kept",
        "SELECT 1 FROM entries e, json_each(e.saw) s WHERE e.kind = 'hold' AND s.key % 3 = 0"
        " AND s.value NOT IN (SELECT id FROM terms)",
    ),
)

_SINCE_6 = (
    (
        "budgets are not as they were last set",
        "SELECT 1 FROM (SELECT project, per, limit_nanos, timezone, action, warn_at, floor_tokens, wait_ms, 1 AS n"
        " FROM budgets WHERE like_id IS NULL UNION ALL SELECT project, per, limit_nanos, timezone, action, warn_at,"
        " floor_tokens, wait_ms, -1 FROM budget_changes WHERE change = 'set' AND id IN (SELECT max(id)"
        " FROM budget_changes GROUP BY project, per)) both_sides"
        " GROUP BY project, per, limit_nanos, timezone, action, warn_at, floor_tokens, wait_ms HAVING sum(n) <> 0",
    ),
    (
        "balances and their attempts differ",
        "SELECT 1 FROM balances w JOIN budgets b ON b.id = w.budget_id LEFT JOIN attempts a"
        " ON a.at_us >= w.window_us AND a.at_us < w.end_us AND (b.project = '/' OR a.project = b.project"
        " OR (a.project >= b.project || '/' AND a.project < b.project || '0'))"
        " GROUP BY w.budget_id, w.window_us, w.end_us, w.spent, w.held"
        " HAVING w.spent <> coalesce(sum(a.charged), 0) OR w.held <> coalesce(sum(a.held), 0)",
    ),
    (
        "attempts are on a day that is not kept",
        "SELECT 1 FROM attempts a WHERE a.id > (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'days_since')"
        " AND NOT EXISTS (SELECT 1 FROM days d WHERE d.day = a.day AND d.start_us <= a.at_us AND a.at_us < d.end_us)",
    ),
)

_WHOLE = ((1, 99, _OF_ALL), (1, 7, _TO_6), (6, 99, _SINCE_6), (7, 99, _SINCE_7))
"""From which schema on, and before which: what finds a row where the ledger is not one history."""


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


def explain(error: Exception) -> str:
    """A driver's error, with what to do about it."""
    text = str(error)
    for sign, remedy in _REMEDIES:
        if sign in text.lower():
            return f"{remedy} (SQLite: {text})"
    return f"SQLite: {text}"
