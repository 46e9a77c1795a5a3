"""Programs on a PostgreSQL ledger: threads, forks, pools, ends without a close; and a password that nobody sees."""

from __future__ import annotations

import logging
import pickle
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast
from urllib.parse import quote

import psycopg
import pytest
from ledgers import NOW_US, a_charge, balance, hold, outcome, python, verified
from postgres import PASSWORD, Server, free_port
from proxies import Proxy

from costguard import Guard
from costguard.budgets import make_budget
from costguard.errors import ConfigurationError, LedgerError
from costguard.exchange.offload import in_one_wait
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.engine import Tx
from costguard.ledger.engines import open_engine
from costguard.ledger.engines.postgres import linking
from costguard.ledger.engines.postgres.engine import PostgresEngine
from costguard.ledger.engines.postgres.linking import GATES
from costguard.ledger.engines.postgres.pipelining import Pipeline
from costguard.ledger.place import has_password, place, portable, shown, without_password
from costguard.ledger.records import Settle

SECRETS = (PASSWORD, quote(PASSWORD, safe=""))

PROGRAM = """
import multiprocessing, os, sys, threading, time
from ledgers import *
from costguard import Guard
from costguard.ledger.records import Settle

url = sys.argv[1]

def opened():
    return Ledger(open_engine(url), now_us=lambda: NOW_US)

def call(ledger, times=20):
    for _ in range(times):
        (held,) = hold(ledger, 10)
        ledger.conclude(NOW_US, [Settle(held, a_charge(4), "0")])

"""

ENDS = {
    "opened and left": "ledger = opened()",
    "used and left": "ledger = opened(); call(ledger)",
    "used by threads and left": """
ledger = opened()
threads = [threading.Thread(target=call, args=(ledger,)) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
""",
    "a daemon is at it": """
ledger = opened()
threading.Thread(target=call, args=(ledger, 10**6), daemon=True).start()
time.sleep(0.3)
""",
    "closed": "ledger = opened(); call(ledger); ledger.close()",
    "dropped": "ledger = opened(); call(ledger); del ledger; import gc; gc.collect()",
    "a guard that is left": "guard = Guard(url); guard.set_budget('acme', 5)",
    "a guard that is closed": "guard = Guard(url); guard.set_budget('acme', 5); guard.close(); guard.close()",
    "an exception": """
ledger = opened(); call(ledger)
try:
    ledger._engine.write(lambda tx: 1 / 0)
except ZeroDivisionError:
    pass
call(ledger)
""",
}


@pytest.mark.parametrize("code", ENDS.values(), ids=ENDS)
def test_a_program_ends_without_a_warning_and_at_once(postgres_url: str, code: str) -> None:
    started = python(PROGRAM + code, postgres_url, under=("env", "PYTHONDEVMODE=1", "PYTHONWARNINGS=error"))
    out, err = started.communicate(timeout=60)
    assert (started.returncode, out, err) == (0, "", "")
    ledger = Ledger(open_engine(postgres_url), now_us=lambda: NOW_US)
    assert verified(ledger)
    ledger.close()


FORKS = {
    "idle": "",
    "used before": "call(ledger)",
    "while threads use it": """
threads = [threading.Thread(target=call, args=(ledger, 30)) for _ in range(4)]
for thread in threads: thread.start()
""",
}


@pytest.mark.parametrize("before", FORKS.values(), ids=FORKS)
def test_parent_and_child_of_a_fork_go_on_with_connections_of_their_own(postgres_url: str, before: str) -> None:
    code = f"""
ledger = opened()
threads = []
{before}
children = []
for _ in range(3):
    child = os.fork()
    if not child:
        call(ledger)
        os._exit(0)
    children.append(child)
call(ledger)
for thread in threads: thread.join()
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
print(len(ledger.tasks()))
ledger.close()
"""
    ended, tasks = outcome(python(PROGRAM + code, postgres_url)).splitlines()
    assert ended == "[0, 0, 0]"
    ledger = Ledger(open_engine(postgres_url), now_us=lambda: NOW_US)
    assert len(ledger.tasks()) == int(tasks)
    assert verified(ledger)
    ledger.close()


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_guard_goes_to_the_processes_of_a_pool(postgres_url: str, tmp_path: Path, method: str) -> None:
    program = tmp_path / "pooled.py"
    program.write_text(
        f"""
import multiprocessing, sys
from costguard import Guard

def count(guard, n):
    guard.set_ceiling(f"acme:writer@{{n}}", "0.1")
    return guard.is_closed

if __name__ == "__main__":
    guard = Guard(sys.argv[1])
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        print(pool.starmap(count, [(guard, n) for n in range(6)]))
    print(len(guard.ceilings()))
    guard.close()
"""
    )
    run = python(
        "import subprocess, sys; sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))", program, postgres_url
    )
    assert outcome(run).splitlines() == [str([False] * 6), "6"]


def test_many_threads_of_one_guard_share_a_pool_of_one(postgres_url: str) -> None:
    ledger = Ledger(open_engine(f"{postgres_url}?pool=1"), now_us=lambda: NOW_US)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: hold(ledger, 10), range(40)))
    assert len(ledger.tasks()) == 40
    assert verified(ledger)
    ledger.close()


def test_calls_go_on_by_the_only_connection_while_a_chore_waits_for_others(postgres_url: str) -> None:
    url = f"{postgres_url}?pool=1"
    ledger, done = Ledger(open_engine(url), now_us=lambda: NOW_US), threading.Event()
    hold(ledger, 10)
    engine = cast(PostgresEngine, ledger._engine)
    (own,) = engine.read(lambda tx: tx.one("SELECT pg_backend_pid() % ?", (GATES,))) or (0,)
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT id FROM costguard.gates WHERE id <> %s FOR UPDATE", (own,))
        engine._begin_later([lambda _: done.set()])
        in_one_wait(lambda: [hold(ledger, 10) for _ in range(5)], 5)
        assert not done.is_set()
    assert done.wait(30)
    assert len(ledger.tasks()) == 6
    ledger.close()


def test_a_report_of_many_questions_may_take_longer_than_any_of_its_answers(postgres_url: str) -> None:
    ledger = Ledger(open_engine(postgres_url), now_us=lambda: NOW_US)

    def read(tx: Tx) -> int:
        return len([tx.one("SELECT pg_sleep(0.15)") for _ in range(10)])

    assert in_one_wait(lambda: ledger._read(read), 0.3) == 10
    ledger.close()


def test_a_report_may_take_longer_than_a_call_would_wait(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linking, "WAIT_S", 0.3)  # what the server is told when a connection is made
    ledger = Ledger(open_engine(postgres_url), now_us=lambda: NOW_US)

    def read(tx: Tx) -> object:
        return tx.one("SELECT pg_sleep(0.8)")

    assert ledger._read(read) is not None
    with pytest.raises(LedgerError, match="took too long"):
        in_one_wait(lambda: ledger._read(read), 0.3)
    ledger.close()


def test_what_the_server_keeps_of_a_connection_does_not_grow_with_the_projects(postgres_url: str) -> None:
    ledger = Ledger(open_engine(f"{postgres_url}?pool=1&leases=off"), now_us=lambda: NOW_US)
    names = "SELECT count(*) FROM pg_prepared_statements WHERE name LIKE 'c%'"
    known = []
    for n in range(30):
        ledger.set_budget(make_budget(f"p{n}", 1, per="total"), NOW_US)
        (attempt,) = hold(ledger, 10, project=f"p{n}")
        ledger.conclude(NOW_US, [Settle(attempt, a_charge(7))])
        known.append(ledger._read(lambda tx: tx.one(names)))
    assert known[5] == known[-1]
    ledger.close()


def test_a_connection_that_an_interrupt_left_half_way_out_is_not_used_again(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(open_engine(f"{postgres_url}?pool=1"), now_us=lambda: NOW_US)
    hold(ledger, 10)
    with monkeypatch.context() as patched:
        patched.setattr(Pipeline, "_leave", interrupted)
        with pytest.raises(KeyboardInterrupt):
            hold(ledger, 20)
    assert len(ledger.tasks()) == 2, "it was committed before"
    hold(ledger, 30)
    ledger.close()


def interrupted(_: object) -> None:
    raise KeyboardInterrupt


def test_a_closed_ledger_says_so(postgres_url: str) -> None:
    ledger = Ledger(open_engine(postgres_url), now_us=lambda: NOW_US)
    hold(ledger, 10)
    ledger.close()
    ledger.close()
    for run in (lambda: hold(ledger, 10), ledger.tasks):
        with pytest.raises(LedgerError, match="is closed"):
            run()


# -- the password ---------------------------------------------------------------------------------


def test_no_word_of_the_password_is_shown_or_logged(
    postgres: Server, postgres_url: str, postgres_proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    guard = Guard(postgres_proxy.url(postgres_url), ledger_wait="1s")
    engine = guard.ledger._engine
    told = [repr(guard), repr(guard.ledger), repr(engine), str(engine)]
    guard.set_budget("acme", 5)
    postgres_proxy.refuse()
    postgres_proxy.cut()
    with pytest.raises(LedgerError) as raised:
        in_one_wait(lambda: balance(guard.ledger, "acme", "month"), 0.4)
    told += [str(raised.value), repr(raised.value), *traceback.format_exception(raised.value)]
    for url in (
        postgres.url(ports=[free_port()]),
        postgres.url("no_such_one"),
        postgres.url(password=f"{PASSWORD}x"),
        postgres.url().replace("%40", "@"),
        postgres.url().replace("%2F", "/"),
        f"{postgres.url()}?nonsense={quote(PASSWORD)}",
    ):
        with pytest.raises((LedgerError, ConfigurationError)) as raised_by_opening:
            Guard(url)
        told += [str(raised_by_opening.value), *traceback.format_exception(raised_by_opening.value)]
    postgres_proxy.mend()
    guard.close()
    told += [record.getMessage() for record in caplog.records]
    told += [str(record.exc_info) + str(record.exc_text) for record in caplog.records]
    for text in told:
        assert not any(secret in text for secret in SECRETS)
        assert "ss/w" not in text


def test_what_travels_to_another_process_leaves_a_password_of_the_environment_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = "postgresql://u:s3cret@h/d?schema=s"
    monkeypatch.setenv("COSTGUARD_DB", url)
    assert place() == url
    assert portable() == "postgresql://u@h/d?schema=s"
    assert place(portable()) == url  # where the environment is the same
    assert portable(url) == url  # what a program names it keeps
    assert portable("postgresql://u@h/d?schema=s") == "postgresql://u@h/d?schema=s"
    assert place("postgresql://v@h/d?schema=s") == "postgresql://v@h/d?schema=s"
    assert place("postgresql://u:other@h/d?schema=s") == "postgresql://u:other@h/d?schema=s"
    monkeypatch.delenv("COSTGUARD_DB")
    assert place("postgresql://u@h/d?schema=s") == "postgresql://u@h/d?schema=s"


def test_a_guard_of_the_environment_is_pickled_without_its_password(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSTGUARD_DB", postgres_url)
    with Guard() as guard:
        data = pickle.dumps(guard)
        assert not any(secret.encode() in data for secret in SECRETS)
        assert pickle.loads(data) is guard
    again = pickle.loads(data)
    again.set_budget("acme", 5)
    again.close()


@pytest.mark.parametrize(
    ("url", "without"),
    [
        ("postgresql://u:s3cret@h:1,i:2/d?schema=s", "postgresql://u@h:1,i:2/d?schema=s"),
        ("postgresql://h/d?user=u&password=s3cret&pool=2", "postgresql://h/d?user=u&pool=2"),
        ("postgresql://h/d?PASSWORD=s3cret&sslpassword=s3cret", "postgresql://h/d"),
        ("postgres://u:s3/c@r?et@h/d", "postgres://u@h/d"),
        ("postgres://:s3cret@h", "postgres://@h"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, without: str) -> None:
    assert has_password(url)
    assert without_password(url) == shown(url) == without
    assert not has_password(without)


@pytest.mark.parametrize(
    "named", [Path("postgresql://u:s3cret@h/d"), "postgresql:/u:s3cret@h/d", Path("POSTGRES://h/d")]
)
def test_a_url_that_was_made_into_a_path_is_an_error_without_its_password(named: str | Path) -> None:
    with pytest.raises(ConfigurationError, match=r"name it as text") as raised:
        Guard(named)
    assert "s3cret" not in str(raised.value)
