"""However much a ledger holds, what is asked of one task or of some rows reads no others, on any kind of database."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import ledgers
import pytest
from elsewhere import Schemas
from ledgers import NOW_US, open_ledger, work

from costguard.budgets import make_budget
from costguard.ledger.accounting import rolling, verify
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.accounting.checkpoint import Checkpoint
from costguard.ledger.engines.files import SqliteTx
from costguard.ledger.engines.postgres import transactions
from costguard.ledger.records import Observation

WHOLE = {"SELECT count(*) FROM attempts"}
"""Asked by a verification alone."""

STATEMENTS = ("SELECT", "UPDATE", "DELETE", "INSERT")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a ledger whose roll-ups follow soon."""
    monkeypatch.setattr(rolling, "ROLL_EVERY", 8)
    monkeypatch.setattr(rolling, "ROLL_MAX", 32)
    monkeypatch.setattr(verify, "ROWS", 16)
    return tmp_path / "ledger.db"


def use(ledger: Ledger) -> None:
    """All that is asked while calls are made, and of one task, and by a verification that goes on."""
    ledger.set_budget(make_budget("acme", "1000", per="day"), NOW_US)
    work(ledger, 30)
    state = Checkpoint()
    assert ledger.verify(state).ok
    work(ledger, 30, 30)
    assert ledger.verify(Checkpoint.from_json(state.to_json())).ok
    task_uuid = str(UUID(int=59))
    ledger.task(task_uuid)
    ledger.attempts(task_uuid)
    ledger.spellings([task_uuid])
    ledger.observe(NOW_US, Observation(task_uuid, (), whole=True, settled_all=True, taken=True))
    ledger.release_unknown(NOW_US, task_uuid, 0, "unknown")
    ledger.open_attempts("acme")
    ledger.unconfirmed(NOW_US)
    ledger.to_ask_again(NOW_US)
    ledger.mean_completion("acme/1", "m1", NOW_US)
    ledger.verify()


def test_in_sqlite_no_plan_scans_attempts_or_entries(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, int] = {}

    class Watching(SqliteTx):
        def __init__(self, connection: sqlite3.Connection) -> None:
            super().__init__(connection)
            run, many = self._execute, self._executemany

            def execute(sql: str, parameters: Any = ()) -> Any:
                asked[sql] = len(parameters)
                return run(sql, parameters)

            def executemany(sql: str, rows: Any) -> Any:
                found = list(rows)
                asked[sql] = len(found[0]) if found else sql.count("?")
                return many(sql, found)

            self._execute, self._executemany = execute, executemany

    monkeypatch.setattr("costguard.ledger.engines.sqlite.SqliteTx", Watching)
    with closing(open_ledger(path, timezone="Europe/Berlin")) as ledger:
        use(ledger)
    plans = {}
    with closing(sqlite3.connect(path)) as connection:
        for sql, parameters in asked.items():
            if sql.startswith(STATEMENTS):
                rows = connection.execute(f"EXPLAIN QUERY PLAN {sql}", (0,) * parameters).fetchall()
                plans[sql] = [row[3] for row in rows]
    assert len(plans) > 40
    for sql, plan in plans.items():
        growing = {"attempts", "entries", *re.findall(r"(?:attempts|entries|charges) (\w+)", sql)}
        scans = [step for step in plan if step.startswith("SCAN") and step.split()[1] in growing]
        assert not scans or sql in WHOLE, (sql, plan)


MORE = """
INSERT INTO {table} SELECT (jsonb_populate_record(t, jsonb_build_object({changes}))).*
FROM {table} t CROSS JOIN generate_series(1, 100) AS g
"""
"""A hundred times the rows there are."""


def test_on_postgresql_no_plan_scans_attempts_or_entries_of_which_there_are_many(
    path: Path, schemas: Schemas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is planned without knowing the parameters, which is what a prepared statement comes to."""
    asked: set[str] = set()
    translated = transactions.translated

    def watching(sql: str) -> str:
        asked.add(translated(sql))
        return translated(sql)

    monkeypatch.setattr(transactions, "translated", watching)
    with schemas:
        monkeypatch.setattr(ledgers, "elsewhere", schemas)
        with closing(open_ledger(path, timezone="Europe/Berlin")) as ledger:
            use(ledger)
        ids = "'id', id + 10000 * g, 'task_uuid', task_uuid || g, 'name_hash', 9999 * g + id, 'at_us', at_us + 9999 * g"
        schemas.damage(path, MORE.format(table="attempts", changes=ids))
        ids = "'seq', seq + 10000 * g, 'attempt_id', attempt_id + 10000 * g, 'at_us', at_us + 9999 * g"
        schemas.damage(path, MORE.format(table="entries", changes=ids))
        schemas.rows(path, "SELECT set_config('plan_cache_mode', 'force_generic_plan', false)")
        for table in ("attempts", "entries"):
            schemas.run(path, f"ANALYZE {table}")
        plans = {}
        for n, sql in enumerate(sorted(asked)):
            if sql.startswith(STATEMENTS) and sql not in WHOLE:
                schemas.run(path, f"PREPARE p{n} AS {sql}")
                count = max(map(int, re.findall(r"\$(\d+)", sql)), default=0)
                given = f"({', '.join(['NULL'] * count)})" if count else ""
                plans[sql] = "\n".join(line for (line,) in schemas.rows(path, f"EXPLAIN EXECUTE p{n}{given}"))
    assert len(plans) > 40
    for sql, plan in plans.items():
        assert not re.search(r"Seq Scan on (attempts|entries)", plan), f"{sql}\n{plan}"
