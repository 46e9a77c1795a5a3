"""docs/postgresql.md does what it says, on a real server: its set-up, its queries, its backup."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from conftest import a_task
from documents import ROOT
from postgres import PASSWORD, SUPERUSER, Server

from costguard import Guard
from costguard.ledger.engines.postgres.linking import SERVER_MIN
from costguard.ledger.engines.postgres.naming import POOL_MAX, SCHEMA

PAGE = (ROOT / "docs" / "postgresql.md").read_text(encoding="utf-8")


def parts(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.fixture
def environment(postgres: Server, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A shell's, of somebody who is the server's superuser."""
    postgres.start()
    program = tmp_path / "costguard"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m costguard "$@"\n')
    program.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "COSTGUARD"))}
    yield {
        **kept,
        "PATH": os.pathsep.join((str(tmp_path), str(postgres._programs), os.environ["PATH"])),
        "PYTHONPATH": str(ROOT),
        "PGHOST": "127.0.0.1",
        "PGPORT": str(postgres.port),
        "PGUSER": SUPERUSER,
        "PGPASSWORD": PASSWORD,
    }
    for database in ("costs", "costs_copy"):
        postgres.drop_database(database)
    for role in ("costs_owner", "costs_app", "costs_report"):
        postgres.sql(f"DROP ROLE IF EXISTS {role}")


def shell(script: str, environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        ["/bin/sh", "-eu"], input=script, env=environment, cwd=folder, capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def test_the_page_works_from_its_first_line_to_its_last(
    postgres: Server, environment: dict[str, str], tmp_path: Path
) -> None:
    set_up, backup = parts("sh")
    assert "500.00 USD" in shell(f"{set_up}\ncostguard status", environment, tmp_path)

    with Guard(postgres.url("costs", user="costs_app", password="choose-another"), "acme") as guard:
        assert guard.estimate(a_task()).upper is not None
        assert guard.remaining() == 500

    removal, queries = parts("sql")
    postgres.sql(f"CREATE ROLE costs_report LOGIN PASSWORD '{PASSWORD}'")
    postgres.sql("GRANT pg_monitor TO costs_report")
    owner = {**environment, "PGPASSWORD": "choose-one", "PGUSER": "costs_owner"}
    shell("costguard grants costs_report --read-only | psql -v ON_ERROR_STOP=1 costs", owner, tmp_path)
    with closing(psycopg.connect(postgres.url("costs", user="costs_report"), autocommit=True)) as connection:
        asked = [query for query in queries.split(";") if "SELECT" in query]
        assert len(asked) == queries.count("\n-- ") + 1
        for query in asked:
            connection.execute(query.encode())
    with closing(psycopg.connect(postgres.url("costs", user="costs_owner", password="choose-one"))) as connection:
        connection.execute(removal.encode())

    postgres.sql("CREATE DATABASE costs_copy OWNER costs_owner")
    assert "All promises hold." in shell(backup, owner, tmp_path)


def test_the_page_tells_the_defaults_that_there_are() -> None:
    assert f"| `schema` | `{SCHEMA}` |" in PAGE
    assert f"| `pool` | `{POOL_MAX}` |" in PAGE
    assert f"PostgreSQL {SERVER_MIN // 10_000} or newer" in PAGE
