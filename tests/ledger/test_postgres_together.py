"""Many at a time on one server: who must be alone comes in, and nothing that came in meanwhile is overlooked."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from faults import Faults
from ledgers import NOW_US, a_charge, an_attempt, balance, hold, verified
from psycopg_pool import ConnectionPool

from costguard.budgets import make_budget
from costguard.errors import LedgerError
from costguard.exchange.offload import in_one_wait
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.engine import Tx
from costguard.ledger.engines import open_engine
from costguard.ledger.engines.postgres import linking
from costguard.ledger.records import Observation, Refused, Settle
from costguard.money import to_usd

LIMIT = 1000


def opened(url: str) -> Ledger:
    return Ledger(open_engine(url), now_us=lambda: NOW_US, leases="off")


def all_at_once(run: Callable[[], Any], times: int) -> list[Any]:
    """What `run` comes to in so many threads, which begin together: values and errors."""
    found: list[Any] = []
    begin = threading.Barrier(times)

    def one() -> None:
        begin.wait()
        try:
            found.append(run())
        except Exception as error:
            found.append(error)

    threads = [threading.Thread(target=one) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_who_must_be_alone_comes_in_though_others_follow_each_other_through_a_gate_without_a_pause(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, is_over = opened(f"{postgres_url}?pool=6"), threading.Event()
    monkeypatch.setattr(linking, "GATES", 1)  # from here on all connections go by the same one

    def slow(tx: Tx) -> None:
        tx.one("SELECT 1")
        time.sleep(0.05)

    def busy() -> None:
        while not is_over.is_set():
            ledger._engine.write(slow, beside=True)

    threads = [threading.Thread(target=busy) for _ in range(5)]
    for thread in threads:
        thread.start()
    try:
        for usd in (1, 2, 3):
            in_one_wait(lambda usd=usd: ledger.set_budget(make_budget("/", usd), NOW_US), 4)  # type: ignore[misc]
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert verified(ledger)
    ledger.close()


def test_a_ledger_whose_gates_are_not_all_there_is_not_used(postgres_url: str) -> None:
    opened(postgres_url).close()
    with psycopg.connect(postgres_url, autocommit=True) as other:
        other.execute("DELETE FROM costguard.gates WHERE id = 7")
    with pytest.raises(LedgerError, match="127 of its 128 gates are there"):
        opened(postgres_url)


def test_a_result_that_several_hear_of_while_its_task_is_being_told_is_charged_once(postgres_url: str) -> None:
    ledger = opened(postgres_url)
    ledger.set_budget(make_budget("/", "1", per="total"), NOW_US)
    task, is_in = an_attempt(1000), threading.Event()

    def tell(tx: Tx) -> None:
        ledger._admit(tx, "acme", NOW_US, [task], False, "key")
        is_in.set()
        time.sleep(0.5)

    def hear() -> int:
        seen = Observation(task.task_uuid, (("cost=700", a_charge(700)),), reason="webhook")
        return ledger.observe(NOW_US, seen)[1]

    teller = threading.Thread(target=ledger._engine.write, args=(tell,))
    teller.start()
    assert is_in.wait(10)
    changes = all_at_once(hear, 4)
    teller.join()
    assert sorted(changes) == [0, 0, 0, 1]
    assert balance(ledger) == (700, 0)
    assert verified(ledger)
    ledger.close()


def test_threads_that_are_the_first_to_ask_share_one_pool(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = opened(postgres_url)
    ledger._engine._links.forget()  # type: ignore[attr-defined]
    make, made = ConnectionPool, []

    def slowly(*arguments: Any, **settings: Any) -> Any:
        made.append(settings["name"])
        time.sleep(0.1)
        return make(*arguments, **settings)

    monkeypatch.setattr(linking, "ConnectionPool", slowly)
    assert not [one for one in all_at_once(lambda: hold(ledger, 10), 6) if isinstance(one, Exception)]
    assert len(made) == 1
    assert verified(ledger)
    ledger.close()


@pytest.mark.parametrize("fault", ["committed, and cut", "cut before the commit"])
def test_alerts_of_a_commit_whose_answer_was_lost_are_told_once_and_its_refusal_is_counted_once(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, fault: Any
) -> None:
    faults, ledger = Faults(monkeypatch), opened(postgres_url)
    ledger.set_budget(make_budget("/", to_usd(LIMIT), per="total", warn_at=[50, 90]), NOW_US)
    (attempt_id,) = hold(ledger, 600)
    with faults.arm(fault):
        alerts = ledger.conclude(NOW_US, [Settle(attempt_id, a_charge(600), "key")])
    assert [(alert.percent, alert.spent_nanos) for alert in alerts] == [(50, 600)]
    assert ledger.conclude(NOW_US + 1, [Settle(attempt_id, a_charge(600), "key")]) == ()
    hold(ledger, 100)
    second = an_attempt(100)
    ledger.admit("acme", NOW_US, [second])
    seen = Observation(second.task_uuid, (("cost=300", a_charge(300)),), reason="webhook")
    with faults.arm(fault):
        alerts, _ = ledger.observe(NOW_US + 2, seen)
    assert [alert.percent for alert in alerts] == [90]
    assert ledger.observe(NOW_US + 3, seen) == ((), 0)
    refused = ledger.admit("acme", NOW_US, [asked := an_attempt(900)])
    assert isinstance(refused, Refused)
    with faults.arm(fault):
        (alert,) = ledger.count_refusal(refused, "acme", NOW_US + 4, [asked])
    assert alert.percent is None
    assert ledger._read(lambda tx: tx.all("SELECT tasks, upper FROM refusals")) == [(1, 900)]
    assert len(ledger._read(lambda tx: tx.all("SELECT id FROM fired"))) == 3
    assert verified(ledger)
    ledger.close()


def test_a_ledger_that_others_keep_is_opened_in_bounded_time_behind_a_pooler_too(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(postgres_url).close()
    monkeypatch.setattr(linking, "WAIT_S", 0.2)
    monkeypatch.setattr(linking, "GRACE_S", 0.1)
    with psycopg.connect(postgres_url) as other:
        other.execute("LOCK TABLE costguard.meta")
        with pytest.raises(LedgerError, match="no answer came in time"):
            opened(f"{postgres_url}?pooler=on")


def test_many_programs_that_come_first_make_one_ledger(postgres_url: str) -> None:
    url = f"{postgres_url}?schema=s_{uuid.uuid4().hex}"
    found = all_at_once(lambda: opened(url), 12)
    assert not [one for one in found if isinstance(one, Exception)]
    for ledger in found:
        ledger.close()
