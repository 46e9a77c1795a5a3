"""Many calls at once race for one limit, through guarded clients: how far is it passed, how much of it is used?"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import httpx

from costguard import BudgetExceeded, Guard
from costguard.testing import StandIn
from scripts.benchmarks.ground.crew import WARM, Crew
from scripts.benchmarks.ground.servers import a_database
from scripts.benchmarks.ground.tasks import API, UPPER, a_task
from scripts.benchmarks.runner.measurement import Measurement

CALLS = (1, 8, 32, 128)
"""At once, of all processes together."""
PROCESSES = 8
FITS, FITS_LEASES = 150, 700
"""How many holds of a call the limit has room for: with leases more, as none are taken of what is nearly used up."""
LARGE = 15
"""And with large calls."""
VICTIMS, FITS_KILLED = 3, 900
PAUSE_S = 0.005
"""Refused for what others have under way, a call is tried again after so long."""
STYLES = ("threads", "asyncio")


class Cell(NamedTuple):
    """A race: so many calls at once, each program's in threads of one client or tasks of one loop."""

    engine: str
    calls: int
    processes: int
    style: str
    fits: int
    victims: int = 0

    def __str__(self) -> str:
        programs = f"{self.processes} processes" if self.processes > 1 else "1 process"
        killed = f", {self.victims} killed" if self.victims else ""
        large = ", large calls" if self.fits == LARGE else ""
        at_once = f"{self.calls} calls at once" if self.calls > 1 else "one call at a time"
        return f"{self.engine}, {at_once}, {programs}, {self.style}{killed}{large}"

    @property
    def bound(self) -> float:
        """The most that limit / spent may be: small calls leave less of it over."""
        return 1 / 0.9 if self.victims or self.fits == LARGE else 1 / 0.98


def results() -> Iterator[Measurement]:
    """What was spent and held beyond the limit, and what was spent of it, for every race."""
    with tempfile.TemporaryDirectory() as folder, a_database(fsync=False) as url:
        places: dict[str, tuple[Callable[[int], str], int]] = {
            "SQLite": (lambda n: str(Path(folder, f"{n}.db")), FITS),
            "PostgreSQL, leases off": (lambda n: f"{url}?schema=off_{n}&leases=off", FITS),
            "PostgreSQL, leases on": (lambda n: f"{url}?schema=on_{n}&leases=on", FITS_LEASES),
        }
        with _crew() as crew:
            for engine, (place, fits) in places.items():
                for n, cell in enumerate(_cells(engine, fits)):
                    yield from _measured(cell, *_raced(crew, place(n), cell))
        for engine, (place, _) in places.items():
            for n, style in enumerate(STYLES):
                cell = Cell(engine, 128, PROCESSES, style, FITS_KILLED, VICTIMS)
                with _crew() as crew:
                    yield from _measured(cell, *_raced(crew, place(100 + n), cell))


def _cells(engine: str, fits: int) -> Iterator[Cell]:
    for processes in (1, PROCESSES):
        for calls in CALLS:
            if calls >= processes:
                yield from (Cell(engine, calls, processes, style, fits) for style in STYLES)
    yield from (Cell(engine, 32, PROCESSES, style, LARGE) for style in STYLES)


def _measured(cell: Cell, limit: Decimal, spent: Decimal, held: Decimal) -> Iterator[Measurement]:
    over = max(Decimal(0), spent + held - limit)
    yield Measurement(f"over the limit: {cell}", float(over * 10**9), 0, "the limit", "nano-dollars")
    yield Measurement(f"limit / what was spent of it: {cell}", float(limit / spent), cell.bound, "the limit")


def _crew() -> Crew[None]:
    return Crew(nullcontext, PROCESSES, preload=(WARM, __name__))


def _raced(crew: Crew[None], place: str, cell: Cell) -> tuple[Decimal, Decimal, Decimal]:
    """The limit, and what was spent and held once nothing more fits, in USD; the stand-ins' bills agree with it."""
    limit = UPPER * cell.fits
    with Guard(place, durability="normal") as guard:
        guard.set_budget("/", limit, per="total")
        wait = crew.start(_race, place, cell, count=cell.processes)
        if cell.victims:
            while guard.status("/")[0].spent < limit / random.randrange(3, 6):
                time.sleep(PAUSE_S)
            crew.kill(cell.victims)
        billed = sum(wait(), Decimal(0))
        (status,) = guard.status("/")
        found = guard.verify()
    if not found.ok:
        raise RuntimeError(f"{cell}: the ledger does not verify: {found.difference}")
    if status.spent != billed if not cell.victims else status.spent < billed:
        raise RuntimeError(f"{cell}: {status.spent} USD are in the ledger, and {billed} on the bill")
    return limit, status.spent, status.held


def _race(_: None, place: str, cell: Cell) -> Decimal:
    """One program's part: call until nothing that is still under way can make room; what it was billed in USD."""
    standin, calls = StandIn(), cell.calls // cell.processes
    with Guard(place, durability="normal") as guard:
        if cell.style == "asyncio":
            asyncio.run(_on_a_loop(guard, standin, calls))
        else:
            _in_threads(guard, standin, calls)
    return standin.billed()


def _in_threads(guard: Guard, standin: StandIn, calls: int) -> None:
    with guard.wrap(httpx.Client(base_url=API, transport=standin.transport())) as client:

        def work() -> None:
            while True:
                try:
                    client.post("/v1", json=[a_task()]).raise_for_status()
                except BudgetExceeded as refused:
                    if _is_used_up(guard, refused):
                        return
                    time.sleep(PAUSE_S)

        with ThreadPoolExecutor(calls) as pool:
            for each in [pool.submit(work) for _ in range(calls)]:
                each.result()


async def _on_a_loop(guard: Guard, standin: StandIn, calls: int) -> None:
    async with guard.wrap(httpx.AsyncClient(base_url=API, transport=standin.async_transport())) as client:

        async def work() -> None:
            while True:
                try:
                    (await client.post("/v1", json=[a_task()])).raise_for_status()
                except BudgetExceeded as refused:
                    if await asyncio.to_thread(_is_used_up, guard, refused):
                        return
                    await asyncio.sleep(PAUSE_S)

        await asyncio.gather(*(work() for _ in range(calls)))


def _is_used_up(guard: Guard, refused: BudgetExceeded) -> bool:
    """Whether nothing that is still under way can make room: what was held by the killed is not."""
    if not refused.busy or not refused.unresolved:
        return not refused.busy
    (status,) = guard.status("/")
    return status.remaining + status.held - refused.unresolved < refused.requested
