"""The servers and the networks that tests of PostgreSQL stand on do what those tests take for granted."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import postgres as module
import psycopg
import pytest
from postgres import PASSWORD, USER, Pair, Server, wait_until
from proxies import Lost, Proxy

Connection = psycopg.Connection[tuple[Any, ...]]
Commit = Callable[[Connection], None]


def connected(url: str, *, autocommit: bool = False) -> closing[Connection]:
    return closing(psycopg.connect(url, autocommit=autocommit, connect_timeout=10))


def rows(url: str) -> list[int]:
    """What the table of one column holds, in order."""
    with connected(url) as connection:
        return [number for (number,) in connection.execute("SELECT * FROM t ORDER BY 1")]


@pytest.fixture
def url(postgres_url: str) -> str:
    """A database with an empty table `t`."""
    with connected(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (n int)")
    return postgres_url


def test_the_url_names_an_owner_without_other_rights_and_its_odd_password(postgres: Server, postgres_url: str) -> None:
    with connected(postgres_url) as connection:
        row = connection.execute("SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
    assert row == (USER, False)
    name = postgres_url.rpartition("/")[2]
    for wrong in ("", PASSWORD.upper()):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(postgres.url(name, password=wrong))


def test_a_schema_of_its_own_is_where_its_url_works(postgres: Server, postgres_url: str) -> None:
    name = postgres_url.rpartition("/")[2]
    schema = postgres.new_schema(name)
    with connected(postgres.url(name, options=f"-csearch_path={schema}"), autocommit=True) as connection:
        connection.execute("CREATE TABLE t (n int)")
    assert postgres.sql("SELECT schemaname FROM pg_tables WHERE tablename = 't'", database=name) == [(schema,)]


def test_a_new_database_is_empty_and_a_dropped_one_ends_its_connections(postgres: Server, url: str) -> None:
    other = postgres.new_database()
    assert postgres.sql("SELECT 1 FROM pg_tables WHERE tablename = 't'", database=other) == []
    with connected(postgres.url(other)) as connection:
        postgres.drop_database(other)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


@pytest.mark.parametrize("ending", ["kill", "immediate", "fast"])
def test_what_was_committed_outlives_every_end_of_the_server(ending: Any) -> None:
    with Server() as server:
        url = server.url(server.new_database())
        with connected(url, autocommit=True) as connection, connected(url) as other:
            connection.execute("CREATE TABLE t (n int)")
            connection.execute("INSERT INTO t VALUES (1)")
            other.execute("INSERT INTO t VALUES (2)")
            if ending == "kill":
                server.kill()
            else:
                server.stop(ending)
            assert not server.is_running
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        with pytest.raises(psycopg.OperationalError, match="refused"):
            psycopg.connect(url)
        server.restart()
        assert rows(url) == [1]
        server.restart()
        assert rows(url) == [1]


def test_a_synchronous_standby_shows_what_was_committed_and_takes_the_place_of_a_killed_primary(
    postgres_pair: Pair,
) -> None:
    primary, standby = postgres_pair
    name = primary.new_database()
    with connected(postgres_pair.url(name), autocommit=True) as connection:
        connection.execute("CREATE TABLE t (n int)")
        connection.execute("INSERT INTO t VALUES (1)")
    standby.catch_up()
    assert rows(standby.url(name)) == [1]
    with connected(standby.url(name)) as connection, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connection.execute("INSERT INTO t VALUES (2)")
    primary.kill()
    standby.promote()
    with connected(postgres_pair.url(name), autocommit=True) as connection:
        connection.execute("INSERT INTO t VALUES (3)")
    assert rows(standby.url(name)) == [1, 3]


def insert(url: str, number: int) -> None:
    with connected(url, autocommit=True) as connection:
        connection.execute("INSERT INTO t VALUES (%s)", [number])


def test_a_commit_waits_for_a_synchronous_standby_that_is_down(postgres_pair: Pair) -> None:
    primary, standby = postgres_pair
    url = primary.url(primary.new_database())
    with connected(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE t (n int)")
    standby.kill()
    with ThreadPoolExecutor(1) as pool:
        inserted = pool.submit(insert, url, 1)
        wait_until(lambda: primary.sql("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == [(1,)])
        assert not inserted.done()
        assert rows(url) == []
        standby.start()
        inserted.result()
    assert rows(url) == [1]


def test_a_server_ends_with_the_process_that_started_it_even_from_a_thread() -> None:
    program = """
import threading, time
from postgres import Server
made = []
thread = threading.Thread(target=lambda: made.append(Server()))
thread.start()
thread.join()
print(made[0].url(), made[0].log, sep="\\n", flush=True)
time.sleep(600)
"""
    started = subprocess.Popen(
        [sys.executable, "-c", program], cwd=Path(module.__file__).parent, stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    with started:
        url, log = (started.stdout.readline().strip() for _ in range(2))
        try:
            with connected(url, autocommit=True) as connection:
                assert answers(connection)
                started.kill()
                wait_until(lambda: not answers(connection))
            running = Path(log).parent / "data" / "postmaster.pid"
            wait_until(lambda: not running.exists())
        finally:
            started.kill()
            shutil.rmtree(Path(log).parent)


def answers(connection: Connection) -> bool:
    try:
        connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def simple(connection: Connection) -> None:
    connection.execute("INSERT INTO t VALUES (1)")
    connection.commit()


def pipelined(connection: Connection) -> None:
    with connection.pipeline():
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute("COMMIT")


def in_one_message(connection: Connection) -> None:
    connection.execute("BEGIN; INSERT INTO t VALUES (1); COMMIT")


def after_much_else(connection: Connection) -> None:
    """The answer begins long before the commit is done."""
    connection.execute("BEGIN; INSERT INTO t VALUES (1); SELECT repeat('x', 1000000); SELECT pg_sleep(0.2); COMMIT")


def prepared(connection: Connection) -> None:
    connection.autocommit = True
    connection.execute("BEGIN", prepare=False)
    connection.execute("INSERT INTO t VALUES (1)")
    connection.execute("COMMIT", prepare=True)


COMMITS = [simple, pipelined, in_one_message, after_much_else, prepared]


@pytest.mark.parametrize("commit", COMMITS)
@pytest.mark.parametrize(("lost", "left"), [("request", []), ("answer", [1])])
def test_a_cut_commit_is_known_to_the_server_or_not_and_never_to_the_client(
    url: str, postgres_proxy: Proxy, commit: Commit, lost: Lost, left: list[int]
) -> None:
    with connected(postgres_proxy.url(url)) as connection:
        connection.execute("SELECT 1")
        connection.rollback()
        postgres_proxy.cut_commit(lost=lost)
        with pytest.raises(psycopg.OperationalError):
            commit(connection)
        assert connection.closed
    assert postgres_proxy.cuts == 1
    assert rows(url) == left


@pytest.mark.parametrize("commit", COMMITS)
def test_without_a_cut_the_proxy_changes_nothing(url: str, postgres_proxy: Proxy, commit: Commit) -> None:
    with connected(postgres_proxy.url(url)) as connection:
        commit(connection)
        assert [number for (number,) in connection.execute("SELECT * FROM t")] == [1]
    assert postgres_proxy.cuts == 0


@pytest.mark.parametrize(("lost", "left"), [("request", [1, 2]), ("answer", [1, 2, 3])])
def test_the_third_commit_is_cut_over_all_connections_and_no_other(
    url: str, postgres_proxy: Proxy, lost: Lost, left: list[int]
) -> None:
    postgres_proxy.cut_commit(3, lost)
    through = postgres_proxy.url(url)
    for number in (1, 2, 3, 4):
        with connected(through) as connection:
            connection.execute("INSERT INTO t VALUES (%s)", [number])
            if number == 3:
                with pytest.raises(psycopg.OperationalError):
                    connection.commit()
            else:
                connection.commit()
    assert rows(url) == [*left, 4]


def test_any_statement_can_be_the_one_that_is_cut(url: str, postgres_proxy: Proxy) -> None:
    postgres_proxy.cut_after(lambda statement: b"INSERT" in statement, 2)
    with connected(postgres_proxy.url(url), autocommit=True) as connection:
        connection.execute("INSERT INTO t VALUES (%s)", [1], prepare=True)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("INSERT INTO t VALUES (%s)", [2], prepare=True)
    assert rows(url) == [1, 2]


def test_a_statement_larger_than_any_piece_passes_whole(url: str, postgres_proxy: Proxy) -> None:
    text = "ü" * 500_000
    with connected(postgres_proxy.url(url)) as connection:
        assert connection.execute("SELECT %s::text", [text]).fetchone() == (text,)


def test_a_url_of_several_servers_goes_through_the_proxy_of_one() -> None:
    with Proxy(15_001) as proxy:
        assert proxy.url("postgresql://u@127.0.0.1:15001,127.0.0.1:15002/d") == (
            f"postgresql://u@127.0.0.1:{proxy.port},127.0.0.1:15002/d"
        )
        with pytest.raises(AssertionError, match="15001"):
            proxy.url("postgresql://u@127.0.0.1:15002/d")


def test_a_cut_ends_every_connection_and_new_ones_pass(url: str, postgres_proxy: Proxy) -> None:
    through = postgres_proxy.url(url)
    with connected(through) as one, connected(through) as other:
        postgres_proxy.cut()
        assert not answers(one)
        assert not answers(other)
    assert rows(through) == []


def test_refused_are_new_connections_alone_until_it_is_mended(url: str, postgres_proxy: Proxy) -> None:
    through = postgres_proxy.url(url)
    with connected(through) as connection:
        for _ in range(2):
            postgres_proxy.refuse()
            with pytest.raises(psycopg.OperationalError, match="refused"):
                psycopg.connect(through)
            assert answers(connection)
            postgres_proxy.mend()
            assert rows(through) == []


def test_what_hangs_goes_on_when_it_is_mended(url: str, postgres_proxy: Proxy) -> None:
    through = postgres_proxy.url(url)
    with connected(through, autocommit=True) as connection, ThreadPoolExecutor(2) as pool:
        postgres_proxy.hang()
        inserted = pool.submit(connection.execute, "INSERT INTO t VALUES (1)")
        read = pool.submit(rows, through)
        sleep(0.3)
        assert not inserted.done()
        assert not read.done()
        assert rows(url) == []
        postgres_proxy.mend()
        inserted.result()
        read.result()
    assert rows(url) == [1]


def test_each_batch_arrives_late_by_the_delay(url: str, postgres_proxy: Proxy) -> None:
    with connected(postgres_proxy.url(url), autocommit=True) as connection:
        postgres_proxy.delay_s = 0.2
        began = monotonic()
        with connection.pipeline():
            for number in range(10):
                connection.execute("INSERT INTO t VALUES (%s)", [number])
        assert monotonic() - began >= 0.2
    assert rows(url) == [*range(10)]


def test_a_connection_through_it_ends_when_the_server_is_killed_and_another_finds_the_new_target() -> None:
    with Server() as server, Server() as other, Proxy(server.port) as proxy:
        through = proxy.url(server.url())
        with connected(through, autocommit=True) as connection:
            server.kill()
            assert not answers(connection)
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(through)
        proxy.target = other.port
        with connected(through) as connection:
            assert connection.execute("SHOW port").fetchone() == (str(other.port),)


def test_without_the_programs_tests_are_skipped_but_fail_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find", lambda: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="scripts/postgres"):
        Server()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(AssertionError, match="scripts/postgres"):
        Server()
