"""A PostgreSQL ledger whose server is killed under load, or gives its place to a standby: nothing is lost, or over."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from ledgers import HOUR_US, NOW_US, a_charge, an_attempt, balance, hold, verified
from postgres import Pair, Server, wait_until
from test_postgres import COST, opened, refusal, within

from costguard.ledger.accounting.book import Ledger
from costguard.ledger.engines import open_engine, open_reader
from costguard.ledger.records import Admitted, Settle


class Load:
    """Threads that hold and settle until told to stop, and what they were told was done."""

    def __init__(self, ledger: Ledger, threads: int = 6) -> None:
        self.held: list[int] = []
        self.settled: list[int] = []
        self._ledger = ledger
        self._is_over = threading.Event()
        self._pool = ThreadPoolExecutor(threads)
        self._futures = [self._pool.submit(self._call) for _ in range(threads)]

    def _call(self) -> None:
        while not self._is_over.is_set():
            with within(60):
                answer = self._ledger.admit("acme", NOW_US, [an_attempt(10)])
                assert isinstance(answer, Admitted)
                self.held += answer.attempt_ids
                self._ledger.conclude(NOW_US, [Settle(answer.attempt_ids[0], a_charge(4), "0")])
                self.settled += answer.attempt_ids

    def goes_on(self) -> None:
        """Returns once more calls have been settled than so far."""
        reached = len(self.settled) + 20
        wait_until(lambda: len(self.settled) >= reached or any(future.done() for future in self._futures))

    def stop(self) -> None:
        """All threads have ended; raises what one of them raised."""
        self._is_over.set()
        self._pool.shutdown()
        for future in self._futures:
            future.result()


def audit(ledger: Ledger, load: Load) -> None:
    """What was done is in the ledger, once, and nothing else."""
    assert verified(ledger)
    ledger.end_leases(NOW_US + HOUR_US)  # those as well whose owner never heard of them
    assert verified(ledger)
    assert sorted(load.held) == sorted(load.settled) == sorted(set(load.held))
    assert balance(ledger) == (4 * len(load.settled), 0)
    assert len(ledger.tasks()) == len(load.held)


@pytest.mark.parametrize("leases", ["on", "off"])
def test_a_server_that_is_killed_under_load_and_started_again_has_all_that_was_done(leases: str) -> None:
    with Server() as server:
        ledger = opened(f"{server.url(server.new_database())}?leases={leases}")
        load = Load(ledger)
        try:
            for _ in range(2):
                load.goes_on()
                server.kill()
                server.start()
            load.goes_on()
        finally:
            load.stop()
        audit(ledger, load)
        ledger.close()


@pytest.mark.parametrize("leases", ["on", "off"])
def test_a_failover_to_the_synchronous_standby_loses_nothing(postgres_pair: Pair, leases: str) -> None:
    primary, standby = postgres_pair
    ledger = opened(primary.url(primary.new_database(), ports=(primary.port, standby.port), leases=leases))
    load = Load(ledger)
    try:
        load.goes_on()
        primary.kill()
        standby.promote()
        load.goes_on()
    finally:
        load.stop()
    audit(ledger, load)
    ledger.close()


def test_a_standby_serves_reports_and_nothing_else(postgres_pair: Pair) -> None:
    primary, standby = postgres_pair
    name = primary.new_database()
    ledger = opened(primary.url(name))
    hold(ledger, COST)
    standby.catch_up()
    refusal(lambda: open_engine(standby.url(name)), "read-only", "host1,host2")
    reader = Ledger(open_reader(standby.url(name)), now_us=lambda: NOW_US)
    assert balance(reader) == (0, COST)
    assert verified(reader)
    refusal(lambda: hold(reader, COST), "opened for reading")
    reader.close()
    ledger.close()
