"""Leases between two programs: one stops after each of its statements in turn, while the other one goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import ledgers
import psycopg
import pytest
from elsewhere import Schemas
from ledgers import HOUR_US, NOW_US, a_charge, an_attempt, balance, rows, verified
from postgres import SUPERUSER, Server, wait_until

from costguard.budgets import make_budget
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.engines import open_engine
from costguard.ledger.engines.postgres.transactions import WriteTx
from costguard.ledger.records import Admitted, Release, Settle
from costguard.money import to_usd

LIMIT = 1_000_000_000
STATEMENTS_MAX = 60


class Stops:
    """Lets one thread's first transaction stop once a statement of it was executed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._thread: int | None = None
        self._left = 0
        self.is_there = threading.Event()
        self._go = threading.Event()
        ask = WriteTx._ask

        def asked(tx: WriteTx, *arguments: Any) -> Any:
            answer = ask(tx, *arguments)
            if self._thread == threading.get_ident():
                self._left -= 1
                if not self._left:
                    self._thread = None
                    answer.rows()  # the server has executed it, and what it locks is locked
                    self.is_there.set()
                    self._go.wait(30)
            return answer

        monkeypatch.setattr(WriteTx, "_ask", asked)

    def begin(self, op: Callable[[], object], statement: int) -> threading.Thread:
        """Run `op` on a thread until it stops there, or is over before: `is_there` tells."""
        self._left = statement
        self.is_there.clear()
        self._go.clear()

        def run() -> None:
            self._thread = threading.get_ident()
            op()
            self._thread = None

        thread = threading.Thread(target=run)
        thread.start()
        wait_until(lambda: self.is_there.is_set() or not thread.is_alive())
        return thread

    def go_on(self) -> None:
        self._go.set()


class World(NamedTuple):
    """Three programs on one ledger, and whether any transaction waits for another."""

    path: Any
    programs: Sequence[Ledger]
    is_waiting: Callable[[], bool]

    def admit(self, of: int, *amounts: int, project: str = "acme/search") -> list[int]:
        """Attempts' ids, none if refused."""
        found = self.programs[of].admit(project, NOW_US, [an_attempt(amount) for amount in amounts])
        return list(found.attempt_ids) if isinstance(found, Admitted) else []

    def under_lease(self, of: int) -> int:
        """An attempt that was admitted under a lease, which is then in the purse."""
        for _ in range(3):
            (attempt_id,) = self.admit(of, 40)
            if rows(self.path, f"SELECT 1 FROM attempts WHERE id = {attempt_id} AND lease_id IS NOT NULL"):
                return attempt_id
        raise AssertionError

    def rest(self, of: int) -> int:
        """Of the lease in its purse, 0 without one."""
        return sum(lease.rest for free in self.programs[of]._purse._free.values() for lease in free)

    def left(self) -> int:
        """What the limit leaves, whatever leases have of it."""
        ((taken,),) = rows(self.path, "SELECT sum(held) + sum(charged) FROM attempts WHERE delivery <> 'lease'")
        return LIMIT - int(taken or 0)


@pytest.fixture
def world(schemas: Schemas, postgres: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[World]:
    with schemas:
        monkeypatch.setattr(ledgers, "elsewhere", schemas)
        monkeypatch.setattr(Ledger, "_keep_watching", lambda _: None)
        url = str(ledgers.place(tmp_path / "ledger"))
        programs = [Ledger(open_engine(url), now_us=lambda: NOW_US, leases="on") for _ in range(3)]
        programs[0].set_budget(make_budget("/", to_usd(LIMIT), per="total", warn_at=[1, 2, 3]), NOW_US)
        with psycopg.connect(postgres.url(user=SUPERUSER), autocommit=True) as watch:

            def is_waiting() -> bool:
                query = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                return watch.execute(query).fetchone() is not None

            yield World(tmp_path / "ledger", programs, is_waiting)
        for program in programs:
            program.close()


def settle(world: World, of: int, nanos: int, *attempt_ids: int) -> Callable[[], object]:
    return lambda: world.programs[of].conclude(NOW_US, [Settle(one, a_charge(nanos), "i:0") for one in attempt_ids])


def end_all(world: World, of: int) -> Callable[[], object]:
    return lambda: world.programs[of].end_leases(NOW_US + HOUR_US)


def set_budget(world: World, of: int, project: str, limit: int, per: str = "total") -> Callable[[], object]:
    budget = make_budget(project, to_usd(limit), per=per, warn_at=[1, 2, 3])
    return lambda: world.programs[of].set_budget(budget, NOW_US)


def draw_and_end(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
    world.under_lease(0)
    return lambda: world.admit(0, 40), end_all(world, 1)


def settle_and_end(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
    return settle(world, 0, 30, world.under_lease(0)), end_all(world, 1)


def settle_beyond_and_draw(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
    attempt_id = world.under_lease(0)
    return settle(world, 1, world.rest(0) + 50, attempt_id), lambda: world.admit(0, 40)


def take_and_lower(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
    world.programs[2].remove_budget("acme", "total", NOW_US)
    world.under_lease(0)
    return lambda: world.admit(1, 40), set_budget(world, 2, "acme", 2_000)


def draw_and_add(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
    world.programs[2].remove_budget("acme/search", "day", NOW_US)
    world.under_lease(0)
    return lambda: world.admit(0, 40), set_budget(world, 2, "acme/search", LIMIT, "day")


def recall_and_draw(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
    world.under_lease(0)
    back = world.left()
    return lambda: release(world, world.admit(1, back)), lambda: world.admit(0, 40)


def release(world: World, attempt_ids: Sequence[int]) -> None:
    if attempt_ids:
        world.programs[1].conclude(NOW_US, [Release(one, "refused") for one in attempt_ids])


def end_and_end(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
    world.under_lease(0)
    return end_all(world, 1), end_all(world, 2)


def two_under_two(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
    """Attempts in the order of their numbers, under leases in the other order; both beyond the rests."""
    under = [world.under_lease(of) for of in (0, 1, 1, 0)]
    much = world.rest(0) + world.rest(1)
    return settle(world, 2, much, *under[:2]), settle(world, 1, much, *under[2:])


def threads_of_one(world: World) -> tuple[Callable[[], object], Callable[[], object]]:
    attempt_id = world.under_lease(0)

    def both() -> None:
        world.admit(0, 40)
        settle(world, 0, 20, attempt_id)()

    return both, lambda: (world.admit(0, 40), world.programs[0].end_leases())


PAIRS = (
    draw_and_end, settle_and_end, settle_beyond_and_draw, take_and_lower, draw_and_add, recall_and_draw, end_and_end,
    two_under_two, threads_of_one,
)  # fmt: skip


@pytest.mark.parametrize("is_swapped", [False, True], ids=["", "swapped"])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_transaction_that_stops_after_any_statement_agrees_with_another(
    world: World, monkeypatch: pytest.MonkeyPatch, pair: Callable[[World], Any], is_swapped: bool
) -> None:
    failed: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    stops = Stops(monkeypatch)
    for statement in range(1, STATEMENTS_MAX):
        first, second = pair(world)
        if is_swapped:
            first, second = second, first
        one = stops.begin(first, statement)
        has_stopped = stops.is_there.is_set()
        other = threading.Thread(target=second)
        other.start()
        wait_until(lambda other=other: not other.is_alive() or world.is_waiting())  # type: ignore[misc]
        stops.go_on()
        one.join()
        other.join()
        assert failed == []
        assert_agreed(world)
        if not has_stopped:
            assert statement > 2
            return
    raise AssertionError(statement)


def assert_agreed(world: World) -> None:
    """`verify` finds nothing; the balance is what attempts and leases come to, and within the limit."""
    assert verified(world.programs[0])
    ((spent, held, rest),) = rows(
        world.path,
        "SELECT sum(charged), sum(held), (SELECT coalesce(sum(rest), 0) FROM leases WHERE is_open = 1) FROM attempts"
        " WHERE delivery <> 'lease'",
    )
    assert balance(world.programs[0], at_us=NOW_US) == (spent, held + rest)
    assert spent + held + rest <= LIMIT
