"""20,000 guarded tasks while programs are killed and the database fails over: is the provider's bill in the ledger?"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Iterator, MutableSequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import httpx

from costguard import Guard
from costguard.errors import LedgerError
from costguard.ledger.accounting.book import wall_clock_us
from costguard.ledger.accounting.leasing import LEASE_S
from costguard.money import parse_usd
from costguard.testing import StandIn
from scripts.benchmarks.ground.crew import WARM
from scripts.benchmarks.ground.servers import Pair, a_pair
from scripts.benchmarks.ground.tasks import a_task
from scripts.benchmarks.runner.measurement import Measurement

TASKS, PROGRAMS, THREADS = 20_000, 8, 4
HANDS = PROGRAMS * THREADS
SHARE = TASKS // HANDS
KILLS = 50
AROUND = 3
"""So many of them just before the primary is killed, before the standby takes its place, and after."""
FAILS_OVER = (TASKS * 3 // 10, TASKS * 7 // 10)
"""After so many tasks, at random."""
STEP_S = 0.01
PAUSE_S = 0.05
"""A program that could not reach the ledger tries again after so long; nothing was sent."""
PROJECT = "acme/search"

_CHARGED = "SELECT task_uuid, sum(charged) FROM attempts WHERE delivery <> 'lease' GROUP BY task_uuid"

CONTEXT = multiprocessing.get_context("forkserver")


def results() -> Iterator[Measurement]:
    """What the ledger and the bill differ by after all of it, and how long no call ended."""
    CONTEXT.set_forkserver_preload([WARM, __name__])
    with _provider() as provider, a_pair() as pair:
        target = f"{pair.url(pair.primary.new_database())}&leases=on"
        with Guard(target, PROJECT) as guard:
            guard.set_budget("/", 10_000, per="total")
        began_s = time.monotonic()
        silent_s, failed = _Run(target, provider.url, pair).to_the_end()
        seconds = time.monotonic() - began_s
        books = _balanced(target, provider.url)
        bill = provider.bill()
    against = f"the bill, after {KILLS} kills and a failover"
    billed, charged = sum(bill.values()), sum(books.charged.values())
    detail = f"{TASKS / seconds:.0f} tasks/s, {books.found} tasks found by reconcile, {failed} calls tried again"
    yield Measurement("billed, not in the books", abs(billed - charged), 0, against, "nano-dollars", detail)
    yield Measurement("budget's balance, beside the bill", abs(books.spent - billed), 0, against, "nano-dollars")
    yield Measurement("tasks charged other than billed", len(_different(bill, books.charged)), 0, against, "tasks")
    yield Measurement("still held", books.held, 0, "after reconcile", "nano-dollars")
    yield Measurement("no call ended for", silent_s, 10, "how long calls wait for a ledger", "s")


class _Books(NamedTuple):
    """What a ledger says in the end; amounts in nano-dollars."""

    charged: dict[str, int]
    """By task."""
    spent: int
    held: int
    found: int
    """Tasks that `reconcile` found to be billed, or never to have come to the provider."""


def _balanced(target: str, api: str) -> _Books:
    """The books, once the provider was asked for what is open, and leases that nobody has any more are over."""
    with Guard(target, PROJECT) as guard:
        with httpx.Client(base_url=api, timeout=60) as client:
            # Nobody is at work any more: what the provider does not know by now never came to it.
            told = guard.reconcile(client, min_age=0, unknown_age=0)
        guard.ledger.end_leases(wall_clock_us() + 3 * LEASE_S * 1_000_000)
        (status,) = guard.status("/")
        charged = dict(guard.ledger._read(lambda tx: tx.all(_CHARGED)))
        found = guard.verify()
    if not found.ok:
        raise RuntimeError(f"the ledger does not verify: {found.difference}")
    if told.left:
        raise RuntimeError(f"{len(told.left)} tasks are left open: {told.left[0]}")
    ended = len(told.settled) + len(told.released)
    return _Books(charged, parse_usd(status.spent), parse_usd(status.held), ended)


def _different(bill: dict[str, int], charged: dict[str, int]) -> list[str]:
    return [name for name in bill | charged if bill.get(name, 0) != charged.get(name, 0)]


class _Run:
    """Programs that send their tasks, each of four hands one after the other, and what befalls them."""

    def __init__(self, target: str, api: str, pair: Pair) -> None:
        self._arguments = target, api
        self._pair = pair
        # Memory of all programs, each number written by one hand alone, which may be killed while it does.
        self._begun, self._ended, self._failed = (CONTEXT.RawArray("q", HANDS) for _ in range(3))
        self._programs = [self._new(n) for n in range(PROGRAMS)]
        self._last_s, self._seen, self._silent_s = time.monotonic(), 0, 0.0

    def to_the_end(self) -> tuple[float, int]:
        """Returns when all tasks were sent: the longest time in which no call ended, and how many were sent again."""
        fails_over = random.randrange(*FAILS_OVER)
        due = [*random.sample(range(1, TASKS - HANDS), KILLS - AROUND), fails_over]
        for at in sorted(due):
            self._wait_for(at)
            if at == fails_over:
                self._fail_over()
            else:
                self._kill_one()
        self._wait_for(TASKS)
        for program in self._programs:
            program.join()
        return self._silent_s, sum(self._failed)

    def _wait_for(self, tasks: int) -> None:
        """Until so many were begun, or, of all, are over."""
        while sum(self._begun) < tasks or (tasks == TASKS and any(one.is_alive() for one in self._programs)):
            self._look()
            time.sleep(STEP_S)

    def _look(self) -> None:
        if any(program.exitcode for program in self._programs):
            raise RuntimeError("a program ended that nobody killed: its error is above")
        ended, now_s = sum(self._ended), time.monotonic()
        if ended > self._seen:
            self._silent_s = max(self._silent_s, now_s - self._last_s)
            self._last_s, self._seen = now_s, ended

    def _fail_over(self) -> None:
        self._kill_one()
        self._pair.primary.kill()
        self._kill_one()
        self._pair.standby.promote()
        self._kill_one()

    def _kill_one(self) -> None:
        """Any that is at work; it is begun anew, with the tasks that it had not begun."""
        n = random.choice([n for n, program in enumerate(self._programs) if program.is_alive()])
        self._programs[n].kill()
        self._programs[n].join()
        self._programs[n] = self._new(n)

    def _new(self, n: int) -> Any:
        hands = range(n * THREADS, (n + 1) * THREADS)
        numbers = self._begun, self._ended, self._failed
        program = CONTEXT.Process(target=_work, args=(*self._arguments, hands, *numbers), daemon=True)
        program.start()
        return program


Numbers = MutableSequence[int]


def _work(target: str, api: str, hands: range, begun: Numbers, ended: Numbers, failed: Numbers) -> None:
    """One program."""
    logging.disable(logging.CRITICAL)
    guard = _opened(target)
    with guard, guard.wrap(httpx.Client(base_url=api, timeout=60)) as client:

        def send(hand: int) -> None:
            while begun[hand] < SHARE:
                begun[hand] += 1  # first: what was under way when it is killed is not sent again
                task = a_task()
                while True:
                    try:
                        client.post("/v1", json=[task]).raise_for_status()
                        break
                    except LedgerError:
                        failed[hand] += 1
                        time.sleep(PAUSE_S)
                ended[hand] += 1

        with ThreadPoolExecutor(THREADS) as pool:
            for each in [pool.submit(send, hand) for hand in hands]:
                each.result()


def _opened(target: str) -> Guard:
    """A guard, once the ledger is there."""
    while True:
        with contextlib.suppress(LedgerError):
            return Guard(target, PROJECT)
        time.sleep(PAUSE_S)


class _Provider(NamedTuple):
    """The stand-in in a process of its own, which nobody kills."""

    url: str
    pipe: Connection

    def bill(self) -> dict[str, int]:
        """Nano-dollars by task."""
        self.pipe.send(None)
        found: dict[str, int] = self.pipe.recv()
        return found


@contextmanager
def _provider() -> Iterator[_Provider]:
    here, there = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_provide, args=(there,), daemon=True)
    process.start()
    there.close()
    try:
        yield _Provider(here.recv(), here)
    finally:
        here.close()
        process.join()


def _provide(pipe: Connection) -> None:
    standin = StandIn()
    with standin.serve() as url, contextlib.suppress(EOFError):
        pipe.send(url)
        while True:
            pipe.recv()
            bill: Counter[str] = Counter()
            for one in standin.bill:
                bill[one.task_uuid] += parse_usd(one.amount)
            pipe.send(dict(bill))
