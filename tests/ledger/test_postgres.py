"""A PostgreSQL ledger on bad days: each a clear error or a safe wait, nothing lost, nothing over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from ledgers import NOW_US, a_charge, balance, hold, verified
from postgres import PASSWORD, USER, Server, free_port, wait_until
from proxies import Lost, Proxy

from costguard.budgets import make_budget
from costguard.errors import LedgerError
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.engines import open_engine, open_reader, patience
from costguard.ledger.engines.patience import Patience
from costguard.ledger.engines.postgres import linking
from costguard.ledger.records import Settle
from costguard.money import to_usd

LIMIT = 100_000
"""Nano-dollars of the budget on everything."""
COST = 1000


def opened(url: str) -> Ledger:
    """The ledger at `url` with a budget on everything."""
    ledger = Ledger(open_engine(url), now_us=lambda: NOW_US)
    ledger.set_budget(make_budget("/", to_usd(LIMIT), per="total"), NOW_US)
    return ledger


@pytest.fixture
def ledger(postgres_url: str) -> Iterator[Ledger]:
    """A ledger with a budget on everything, and a straight way to it."""
    ledger = opened(postgres_url)
    yield ledger
    ledger.close()


@pytest.fixture
def far(ledger: Ledger, postgres_url: str, postgres_proxy: Proxy) -> Iterator[Ledger]:
    """The same by way of the proxy."""
    found = Ledger(open_engine(postgres_proxy.url(postgres_url)), now_us=lambda: NOW_US)
    yield found
    postgres_proxy.mend()
    found.close()


@contextmanager
def within(wait_s: float) -> Iterator[None]:
    """What is done here waits no longer for the ledger."""
    token = patience.current.set(Patience(wait_s))
    try:
        yield
    finally:
        patience.current.reset(token)


def refusal(run: Callable[[], object], *words: str) -> str:
    """The words of the LedgerError that `run` raises: one line, `words` in it, and no password."""
    with pytest.raises(LedgerError) as raised:
        run()
    said = str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None
    assert "\n" not in said
    assert all(word in said for word in words), said
    assert not any(secret in said for secret in (PASSWORD, quote(PASSWORD, safe=""), "wrong-one"))
    return said


def connected(url: str, **options: Any) -> closing[psycopg.Connection[tuple[Any, ...]]]:
    return closing(psycopg.connect(url, connect_timeout=10, **options))


# -- what cannot be opened ------------------------------------------------------------------------


@pytest.mark.parametrize("open_it", [open_engine, open_reader])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ports": [free_port()]}, ("cannot be reached", "refused")),
        ({"ports": [free_port(), free_port()]}, ("cannot be reached", "refused")),
        ({"password": "wrong-one"}, ("the password is missing or wrong", "~/.pgpass")),
        ({"password": ""}, ("the password is missing or wrong",)),
        ({"user": "nobody_of_that_name"}, ("the password is missing or wrong",)),
        ({"database": "no_such_one"}, ("there is no such database", "createdb")),
        ({"sslmode": "require"}, ("SSL",)),
    ],
)
def test_a_server_that_lets_nobody_in_is_an_error_at_once(
    postgres: Server, open_it: Callable[[str], object], changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    postgres.start()
    refusal(lambda: open_it(postgres.url(**changes)), f"{changes.get('user', USER)}@127.0.0.1", *words)


def test_a_server_that_is_too_old_is_left_alone(
    postgres: Server, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linking, "SERVER_MIN", 990_000)
    for open_it in (open_engine, open_reader):
        refusal(partial(open_it, postgres_url), "99 or newer is needed", "Nothing was changed")
    assert schemas(postgres, postgres_url) == []


def schemas(postgres: Server, url: str) -> list[str]:
    found = postgres.sql("SELECT nspname FROM pg_namespace", database=url.rpartition("/")[2])
    return [name for (name,) in found if name not in ("public", "information_schema") and not name.startswith("pg_")]


def test_a_newer_ledger_is_left_to_a_newer_costguard(ledger: Ledger, postgres_url: str) -> None:
    with connected(postgres_url, autocommit=True) as connection:
        connection.execute("UPDATE costguard.meta SET value = '99' WHERE key = 'schema'")
    for open_it in (open_engine, open_reader):
        refusal(partial(open_it, postgres_url), "newer costguard (schema 99", "Nothing was changed")


@pytest.mark.parametrize(
    "theirs",
    [
        "CREATE TABLE costguard.meta (n int)",
        "CREATE TABLE costguard.meta (key text, value text)",
        "CREATE TABLE costguard.meta (key text, value text); INSERT INTO costguard.meta VALUES ('schema', 'v2')",
        "CREATE TABLE costguard.entries (n int)",
        "CREATE VIEW costguard.meta AS SELECT 1 AS n",
    ],
)
def test_tables_of_another_program_are_left_alone(postgres_url: str, theirs: str) -> None:
    with connected(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA costguard")
        connection.execute(theirs.encode())
        tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'costguard'"
        for open_it in (open_engine, open_reader):
            refusal(partial(open_it, postgres_url), "tables of another program", "?schema=NAME")
        assert connection.execute(tables).fetchone() == (1,)
    opened(f"{postgres_url}?schema=other").close()


def test_a_table_of_another_program_that_is_in_the_way_makes_nothing_of_ours(postgres_url: str) -> None:
    with connected(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA costguard")
        connection.execute("CREATE TABLE costguard.budgets (n int)")
        refusal(lambda: open_engine(postgres_url), "budgets", "already exists")
        tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'costguard'"
        assert connection.execute(tables).fetchall() == [("budgets",)]


def test_many_programs_that_begin_a_ledger_at_once_begin_one(postgres_url: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        ledgers = list(pool.map(opened, [postgres_url] * 6))
    for ledger in ledgers:
        hold(ledger, COST)
        ledger.close()
    again = opened(postgres_url)
    assert balance(again) == (0, 6 * COST)
    assert verified(again)
    again.close()


# -- a server that goes away, and comes back ------------------------------------------------------


def test_a_server_that_is_away_is_waited_for_up_to_the_bound(far: Ledger, postgres_proxy: Proxy) -> None:
    hold(far, COST)
    postgres_proxy.refuse()
    postgres_proxy.cut()
    for run in (lambda: hold(far, COST), lambda: far.balances(NOW_US), lambda: far.set_ceiling("a:b@1", 1, NOW_US)):
        with within(0.4):
            refusal(run, "cannot be reached", "refused")
    postgres_proxy.mend()
    hold(far, COST)
    assert balance(far) == (0, 2 * COST)
    assert verified(far)


def test_a_call_that_waits_goes_on_when_the_server_is_back(far: Ledger, postgres_proxy: Proxy) -> None:
    hold(far, COST)
    postgres_proxy.refuse()
    postgres_proxy.cut()
    with ThreadPoolExecutor(2) as pool:
        held, read = pool.submit(hold, far, COST), pool.submit(balance, far)
        threading.Event().wait(0.5)
        assert not held.done()
        assert not read.done()
        postgres_proxy.mend()
        held.result()
        assert read.result() in ((0, COST), (0, 2 * COST))
    assert verified(far)


def test_a_server_that_hangs_is_waited_for_up_to_the_bound(ledger: Ledger, far: Ledger, postgres_proxy: Proxy) -> None:
    hold(far, COST)
    postgres_proxy.hang()
    for run in (lambda: hold(far, COST), lambda: far.balances(NOW_US)):
        with within(0.4):
            refusal(run)
    assert balance(ledger) == (0, COST)
    postgres_proxy.mend()
    hold(far, COST)
    assert balance(ledger)[1] in (2 * COST, 3 * COST)  # one that was waited for in vain may be held
    assert verified(ledger)


def test_a_server_that_turns_read_only_is_said_and_nothing_is_held(
    ledger: Ledger, postgres: Server, postgres_url: str
) -> None:
    database = postgres_url.rpartition("/")[2]
    hold(ledger, COST)
    postgres.sql(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
    postgres.sql(ended, [database])
    with within(0.5):
        refusal(lambda: hold(ledger, COST), "read-only", "host1,host2")
    refusal(lambda: open_engine(postgres_url), "read-only", "host1,host2")
    postgres.sql(f"ALTER DATABASE {database} RESET default_transaction_read_only")
    assert balance(ledger) == (0, COST)
    hold(ledger, COST)
    assert verified(ledger)


@pytest.mark.parametrize(
    "taken", ["SELECT 1 FROM balances FOR UPDATE", "SELECT 1 FROM gates FOR UPDATE", "LOCK entries"]
)
def test_what_somebody_else_holds_is_waited_for_up_to_the_bound(ledger: Ledger, postgres_url: str, taken: str) -> None:
    hold(ledger, COST)
    with connected(postgres_url) as connection:
        connection.execute("SET search_path = costguard")
        connection.execute(taken.encode())
        with within(0.4):
            refusal(lambda: hold(ledger, COST), "others hold what it needs")
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(hold, ledger, COST)
            wait_until(lambda: waiters(postgres_url) > 0)
            assert not held.done()
            connection.rollback()
            held.result()
    assert balance(ledger) == (0, 2 * COST)
    assert verified(ledger)


def waiters(url: str) -> int:
    with connected(url, autocommit=True) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return int((connection.execute(query).fetchone() or (0,))[0])


# -- a connection that is cut in the commit -------------------------------------------------------

LOST: list[Lost] = ["request", "answer"]


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("is_new", [True, False], ids=["first call", "later call"])
def test_an_admission_whose_commit_is_cut_is_held_exactly_once(
    ledger: Ledger, far: Ledger, postgres_proxy: Proxy, lost: Lost, is_new: bool
) -> None:
    before = 0 if is_new else len(hold(far, COST, COST))
    postgres_proxy.cut_commit(lost=lost)
    (first, second) = hold(far, COST, 2 * COST)
    assert postgres_proxy.cuts == 1
    assert first != second
    assert balance(ledger) == (0, (3 + before) * COST)
    assert len(ledger.tasks()) == 2 + before
    assert verified(ledger)


@pytest.mark.parametrize("lost", LOST)
def test_a_charge_whose_commit_is_cut_is_charged_exactly_once(
    ledger: Ledger, far: Ledger, postgres_proxy: Proxy, lost: Lost
) -> None:
    (held,) = hold(far, COST)
    postgres_proxy.cut_commit(lost=lost)
    far.conclude(NOW_US, [Settle(held, a_charge(400), "0")])
    assert postgres_proxy.cuts == 1
    assert balance(ledger) == (400, 0)
    assert verified(ledger)


@pytest.mark.parametrize("lost", LOST)
def test_a_changed_budget_whose_commit_is_cut_may_be_done_and_says_so(
    ledger: Ledger, far: Ledger, postgres_proxy: Proxy, lost: Lost
) -> None:
    postgres_proxy.cut_commit(lost=lost)
    changed = make_budget("/", to_usd(2 * LIMIT), per="total")
    refusal(lambda: far.set_budget(changed, NOW_US), "may be done or not; look, and do it again")
    assert postgres_proxy.cuts == 1
    (budget,) = ledger.budgets()
    assert budget.limit_nanos == (2 * LIMIT if lost == "answer" else LIMIT)
    far.set_budget(changed, NOW_US)
    assert [found.limit_nanos for found in ledger.budgets()] == [2 * LIMIT]
    assert len(ledger.changes()) == 2
    assert verified(ledger)


@pytest.mark.parametrize("n", range(1, 12))
def test_a_connection_that_is_cut_at_any_statement_loses_nothing_and_holds_nothing_twice(
    ledger: Ledger, far: Ledger, postgres_proxy: Proxy, n: int
) -> None:
    hold(far, COST)
    postgres_proxy.cut_after(lambda statement: True, n, lost="request")
    (held,) = hold(far, COST)
    far.conclude(NOW_US, [Settle(held, a_charge(400), "0")])
    assert balance(ledger) == (400, COST)
    assert len(ledger.tasks()) == 2
    assert verified(ledger)
    assert postgres_proxy.cuts == 1


# -- more connections than there are --------------------------------------------------------------


def test_a_server_with_fewer_connections_than_the_pool_serves_all_in_turn(postgres: Server, postgres_url: str) -> None:
    ledger = opened(f"{postgres_url}?pool=20")
    try:
        postgres.sql(f"ALTER ROLE {USER} CONNECTION LIMIT 3")
        with ThreadPoolExecutor(12) as pool:
            list(pool.map(lambda _: hold(ledger, COST), range(60)))
        assert balance(ledger) == (0, 60 * COST)
        postgres.sql(f"ALTER ROLE {USER} CONNECTION LIMIT 0")
        refusal(lambda: open_engine(postgres_url), "no connection left", "?pool=")
    finally:
        postgres.sql(f"ALTER ROLE {USER} CONNECTION LIMIT -1")
    assert verified(ledger)
    ledger.close()


def test_two_schemas_of_one_database_are_two_ledgers(postgres_url: str) -> None:
    one, two = opened(f"{postgres_url}?schema=one"), opened(f"{postgres_url}?schema=two&pool=2")
    hold(one, COST)
    assert (balance(one), balance(two)) == ((0, COST), (0, 0))
    hold(two, 2 * COST)
    assert (balance(one), balance(two)) == ((0, COST), (0, 2 * COST))
    for ledger in (one, two):
        assert verified(ledger)
        ledger.close()


def test_behind_a_pooler_nothing_is_kept_on_a_connection(postgres_url: str) -> None:
    ledger = opened(f"{postgres_url}?pooler=on&pool=1&schema=s")
    for _ in range(8):
        (held,) = hold(ledger, COST)
        ledger.conclude(NOW_US, [Settle(held, a_charge(400), "0")])
    assert balance(ledger) == (8 * 400, 0)
    assert verified(ledger)
    link = ledger._engine._links.take(Patience(5))  # type: ignore[attr-defined]
    assert link.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
    for setting in ("search_path", "statement_timeout", "synchronous_commit"):
        query = "SELECT setting = reset_val AND source <> 'session' FROM pg_settings WHERE name = $1"
        assert link.execute(query, [setting]).fetchone() == (True,)
    assert link.execute("SELECT current_schemas(false)").fetchone() == (["public"],)
    ledger._engine._links.give_back(link)  # type: ignore[attr-defined]
    ledger.close()
