"""Roles on a PostgreSQL ledger: programs may do all that they do and no more, reports read, the owner does the rest."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import NamedTuple

import httpx
import psycopg
import pytest
from conftest import API, Clock, a_task, audit
from postgres import Server
from recordings import a_record, an_item, import_text, lines

from costguard import BudgetExceeded, Guard, LedgerError
from costguard.guard import ReadingGuard
from costguard.ledger.engines.postgres.granting import grants, made
from costguard.ledger.engines.schema import APPEND_ONLY
from costguard.ledger.records import Alert
from costguard.testing import StandIn

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
PASSWORD = "no more secret"
_names = count(1)


class Roles(NamedTuple):
    """A ledger's URLs: of who owns its tables, of a program, of who reads reports."""

    owner: str
    program: str
    reader: str


@pytest.fixture
def roles(postgres: Server, postgres_url: str) -> Roles:
    """A new ledger in a database of its own, whose owner has granted what `costguard grants` prints."""
    database = postgres_url.rpartition("/")[2]
    found = []
    Guard(postgres_url).close()
    for kind in ("program", "reader"):
        role = f"{kind}_{next(_names)}"
        postgres.sql(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
        with closing(psycopg.connect(postgres_url, autocommit=True)) as connection:
            for statement in grants(role, "costguard", read_only=kind == "reader"):
                connection.execute(statement.encode())
        found.append(postgres.url(database, user=role, password=PASSWORD))
    return Roles(postgres_url, *found)


def a_lost_call(guard: Guard, standin: StandIn) -> str:
    task = a_task()
    standin.fault("drop_after", task_uuid=task["taskUUID"])
    with (
        httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client,
        pytest.raises(httpx.TransportError),
    ):
        client.post("/v1", json=[task])
    return str(task["taskUUID"])


def test_a_programs_role_does_all_that_a_program_does(roles: Roles) -> None:
    clock, standin, told = Clock(NOW), StandIn(), list[Alert]()
    with Guard(roles.program, "acme/search", clock=clock, on_alert=told.append, timezone="UTC") as guard:
        guard.set_budget("acme", "0.005", warn_at=(1, 2))
        guard.set_budget("acme/*", "9", per="day")
        with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:
            client.post("/v1", json=[a_task(), a_task()])
            client.post("/v1", json=[a_task(deliveryMethod="async")])
            claimed = len(told)
            assert claimed >= 2
            guard.set_budget("acme", "0.01")  # a raised limit arms the alerts again
            client.post("/v1", json=[a_task()])
            assert len(told) > claimed
            guard.set_budget("acme", "0.0001")
            with pytest.raises(BudgetExceeded):
                client.post("/v1", json=[a_task()])
            guard.set_budget("acme", "100", action="clamp", floor=5, per="month")
        lost = [a_lost_call(guard, standin) for _ in range(2)]
        guard.set_ceiling("acme:writer@1", "0.5")
        guard.set_ceiling("acme:writer@1", "0.6")
        guard.resolve(lost[0], charged="0.01", reason="seen on the bill")
        clock.now += timedelta(minutes=5)
        with httpx.Client(base_url=API, transport=standin.transport()) as client:
            guard.reconcile(client)
        assert guard.observe({"data": [an_item(lost[1], "0.002")]}) in (0, 1)
        imported = import_text(guard.ledger, lines([a_record(an_item("one")), a_record(an_item("two"), day=2)]))
        assert imported.booking.results == 2
        guard.ledger.call_project("acme/search", "acme/finding", guard.now_us())
        guard.ledger.roll_up()
        audit(guard)
    with Guard(roles.program, "acme/search", clock=clock) as guard:
        assert guard.status("acme")[0].spent > 0
        audit(guard)


def refused(run: Callable[[], object]) -> None:
    with pytest.raises(LedgerError, match="is for the role that owns its tables") as raised:
        run()
    assert "permission denied" in str(raised.value)


def test_what_only_the_owner_may_do_is_a_clear_error_and_changes_nothing(roles: Roles) -> None:
    clock = Clock(NOW)
    with Guard(roles.program, clock=clock) as guard:
        guard.set_budget("acme", 5)
        guard.set_ceiling("acme:writer@1", "0.5")
        before = guard.budgets(), guard.ceilings(), guard.ledger.changes()
        refused(lambda: guard.remove_budget("acme"))
        refused(lambda: guard.set_budget("acme", 5, timezone="Asia/Tokyo"))
        refused(lambda: guard.remove_ceiling("acme:writer@1"))
        assert (guard.budgets(), guard.ceilings(), guard.ledger.changes()) == before
        audit(guard)
    with Guard(roles.owner, clock=clock) as guard:
        guard.set_budget("acme", 5, timezone="Asia/Tokyo")
        assert guard.remove_budget("acme")
        assert guard.remove_ceiling("acme:writer@1")
        audit(guard)


TABLES = [name for kind, name in made() if kind == "TABLE"]


@pytest.mark.parametrize("who", ["program", "reader"])
def test_the_server_refuses_a_role_what_it_was_not_granted(roles: Roles, who: str) -> None:
    statements = [f"DELETE FROM {table}" for table in TABLES]
    statements += [f"TRUNCATE {table}" for table in TABLES]
    statements += [f"DROP TABLE {table}" for table in TABLES]
    statements += [f"ALTER TABLE {table} DISABLE TRIGGER ALL" for table in TABLES]
    statements += ["CREATE TABLE more (n int)", "CREATE SCHEMA more", "DROP SCHEMA costguard CASCADE"]
    statements += ["SELECT setval('journal', 1)", "CREATE OR REPLACE VIEW charges AS SELECT 1", "DROP SEQUENCE journal"]
    own = APPEND_ONLY if who == "program" else TABLES
    with closing(psycopg.connect(getattr(roles, who), autocommit=True)) as connection:
        connection.execute("SET search_path = costguard")
        for table in own:
            (column,) = connection.execute(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = 'costguard'"
                " AND table_name = %s AND column_name <> 'id' ORDER BY ordinal_position LIMIT 1",
                [table],
            ).fetchone() or ("id",)
            statements.append(f"UPDATE {table} SET {column} = {column}")
        if who == "reader":
            statements += [f"INSERT INTO {table} DEFAULT VALUES" for table in TABLES]
            statements += ["SELECT nextval('journal')", "SELECT id FROM gates FOR SHARE"]
        for statement in statements:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())


def test_not_even_the_owner_changes_what_has_happened(roles: Roles) -> None:
    with Guard(roles.owner, clock=Clock(NOW)) as guard:
        guard.set_budget("acme", 5)
        import_text(guard.ledger, lines([a_record(an_item("one"))]), project="acme")
        guard.ledger.call_project("acme", "other", guard.now_us())
    with closing(psycopg.connect(roles.owner, autocommit=True)) as connection:
        connection.execute("SET search_path = costguard")
        for table in APPEND_ONLY:
            (column,) = connection.execute(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = 'costguard'"
                " AND table_name = %s LIMIT 1",
                [table],
            ).fetchone() or ("?",)
            for statement in (f"DELETE FROM {table}", f"TRUNCATE {table}", f"UPDATE {table} SET {column} = {column}"):
                with pytest.raises(psycopg.errors.RaiseException, match="append-only"):
                    connection.execute(statement.encode())


def test_a_reader_reads_and_never_writes(roles: Roles) -> None:
    with Guard(roles.owner, clock=Clock(NOW)) as guard:
        guard.set_budget("acme", 5)
        import_text(guard.ledger, lines([a_record(an_item("one"))]))
    with ReadingGuard(roles.reader, clock=Clock(NOW)) as guard:
        assert [budget.project for budget in guard.budgets()] == ["acme"]
        assert len(guard.ledger.tasks()) == 1
        audit(guard)
        with pytest.raises(LedgerError, match="opened for reading"):
            guard.set_budget("acme", 6)
    with Guard(roles.reader, clock=Clock(NOW)) as guard, pytest.raises(LedgerError, match="permission denied"):
        guard.set_budget("acme", 6)


def test_a_role_without_rights_is_told_of_grants(postgres: Server, roles: Roles) -> None:
    role = f"nobody_{next(_names)}"
    postgres.sql(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    url = postgres.url(roles.owner.rpartition("/")[2], user=role, password=PASSWORD)
    for opened in (Guard, ReadingGuard):
        with pytest.raises(LedgerError, match=r"`costguard grants ROLE` prints .*permission denied"):
            opened(url)


def test_a_role_that_may_make_nothing_is_told_of_init(postgres: Server, postgres_url: str) -> None:
    role = f"nobody_{next(_names)}"
    postgres.sql(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    url = postgres.url(postgres_url.rpartition("/")[2], user=role, password=PASSWORD)
    with pytest.raises(LedgerError, match="costguard init"):
        Guard(url)
    with pytest.raises(LedgerError, match="is not there yet; `costguard init"):
        ReadingGuard(url)
    assert postgres.sql("SELECT 1 FROM pg_namespace WHERE nspname = 'costguard'") == []


def test_every_table_that_programs_change_may_be_changed_by_them_and_no_other() -> None:
    (updates,) = [line for line in grants("r", "s", read_only=False) if line.startswith("GRANT UPDATE ON")]
    changed = {name.strip() for name in updates.removeprefix("GRANT UPDATE ON").rpartition(" TO ")[0].split(",")}
    assert changed == {f"s.{table}" for table in TABLES} - {f"s.{table}" for table in APPEND_ONLY}
