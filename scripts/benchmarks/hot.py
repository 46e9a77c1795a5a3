"""One budget of 32 programs, on PostgreSQL: calls per second beside a hand-written floor, without leases and with."""

from __future__ import annotations

import functools
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg

from costguard.budgets import make_budget
from costguard.ledger.accounting.book import wall_clock_us
from costguard.money import to_usd
from scripts.benchmarks.ground import floor
from scripts.benchmarks.ground.crew import Crew, Sides, Told, rate
from scripts.benchmarks.ground.pairs import check, hold_and_settle, open_ledger
from scripts.benchmarks.ground.servers import Server
from scripts.benchmarks.runner.measurement import Measurement

PROGRAMS = 32
"""Each with one connection and no threads: with threads, Python's own lock would be measured too."""
TURNS, TURN_S = 3, 2.5
"""Each side runs this often, in turns with the others; half as long as a lease, which is taken anew in every turn."""
SLOW_US = 2_000
"""What a commit takes longer where it is to be slow. `commit_delay` has whoever writes the log sleep first: it costs
no computing, rows stay locked meanwhile, and commits that come together share it, as they share a disk or a standby."""
LOOK_S = 0.02
"""It is looked this often what connections wait for."""
FLOOR, OFF, ON = "floor", "off", "on"


def results() -> Iterator[Measurement]:
    """Ratios of calls per second, at a commit that waits for the disk, and at one that waits longer."""
    with Server(fsync=True) as server:
        url = server.url(server.new_database())
        _prepare(url)
        with Crew(functools.partial(_sides, url), PROGRAMS, preload=(__name__,)) as crew:
            told = crew.turns((FLOOR, OFF, ON), TURNS, TURN_S)
            yield _ratio("without leases", told, FLOOR, OFF, 1 / 0.8, "two transactions by hand")
            yield _ratio("with leases", told, OFF, ON, 1, "without leases")
            alone_s = rate(crew.turn(ON, TURN_S, count=1))
            for count in (4, 16, PROGRAMS):
                yield _with_so_many(crew, server, url, count, alone_s)
            _slow_down(server, SLOW_US)
            told = crew.turns((FLOOR, OFF, ON), TURNS, TURN_S)
            yield _ratio("with leases, commits of 2 ms", told, OFF, ON, 1 / 3, "without leases")
            yield _ratio("without leases, commits of 2 ms", told, FLOOR, OFF, 1 / 0.8, "two transactions by hand")
        for side in (OFF, ON):
            check(_url(url, side))


def _ratio(what: str, told: dict[str, list[Told]], beside: str, side: str, bound: float, against: str) -> Measurement:
    rates = {name: rate(told[name]) for name in (side, beside)}
    detail = f"{rates[side]:.0f} calls/s beside {rates[beside]:.0f}"
    return Measurement(f"{PROGRAMS} programs, {what}", rates[beside] / rates[side], bound, against, detail=detail)


def _with_so_many(crew: Crew[Sides], server: Server, url: str, count: int, alone_s: float) -> Measurement:
    """The rate of one program over that of `count`; and where their time goes."""
    with _watched(server, url) as states, _computed() as computed_s:
        told = crew.turn(ON, TURN_S, count=count)
    cores = os.cpu_count() or 1
    clients, all_of_it = (
        100 * spent / told[0].seconds / cores for spent in (sum(one.cpu_s for one in told), *computed_s)
    )
    seen = sum(states.values())
    waits = ", ".join([f"{state} {100 * times // seen} %" for state, times in states.most_common(4)])
    detail = (
        f"{rate(told):.0f} calls/s beside {alone_s:.0f}; the cores computed {all_of_it:.0f} %, {clients:.0f} % for the"
        f" programs; connections: {waits}"
    )
    return Measurement(f"{count} programs with leases", alone_s / rate(told), 1, "one program", detail=detail)


@contextmanager
def _watched(server: Server, url: str) -> Iterator[Counter[str]]:
    """What connections of programs that are at work were seen to wait for, and how often."""
    seen: Counter[str] = Counter()
    is_over = threading.Event()

    def look() -> None:
        with psycopg.connect(server.url(url.rpartition("/")[2], user="postgres"), autocommit=True) as connection:
            while not is_over.wait(LOOK_S):
                for state, times in connection.execute(
                    "SELECT coalesce(wait_event_type || ' ' || wait_event, 'computing'), count(*)"
                    " FROM pg_stat_activity WHERE application_name = 'costguard' AND state <> 'idle' GROUP BY 1"
                ):
                    seen[state] += times

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        is_over.set()
        looking.join()


@contextmanager
def _computed() -> Iterator[list[float]]:
    """Once it is over, the seconds that all cores together computed, for whomever."""
    found: list[float] = []
    began_s = _busy_s()
    yield found
    found.append(_busy_s() - began_s)


def _busy_s() -> float:
    """Of /proc/stat: user, nice, system, idle, iowait, irq, softirq."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def _slow_down(server: Server, delay_us: int) -> None:
    server.sql(f"ALTER SYSTEM SET commit_delay = {delay_us}")
    server.sql("ALTER SYSTEM SET commit_siblings = 0")
    server.sql("SELECT pg_reload_conf()")


def _url(url: str, leases: str) -> str:
    return f"{url}?schema=leases_{leases}&leases={leases}&pool=1"


def _prepare(url: str) -> None:
    floor.make(url)
    for side in (OFF, ON):
        with closing(open_ledger(_url(url, side))) as ledger:
            ledger.set_budget(make_budget("/", to_usd(floor.LIMIT), per="total"), wall_clock_us())


@contextmanager
def _sides(url: str) -> Iterator[Sides]:
    """One program's: a connection by hand, and two ledgers."""
    with (
        closing(floor.connect(url)) as connection,
        closing(open_ledger(_url(url, OFF))) as without,
        closing(open_ledger(_url(url, ON))) as leasing,
    ):
        yield {
            FLOOR: lambda: floor.hold_and_settle(connection),
            OFF: lambda: hold_and_settle(without),
            ON: lambda: hold_and_settle(leasing),
        }
