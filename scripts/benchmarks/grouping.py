"""Calls that wait together share a transaction: many threads, or tasks of a loop, against one call at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx

from costguard import Guard
from costguard.budgets import make_budget
from costguard.estimating import tokens
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.charges import Charge, Line
from costguard.ledger.engines.sqlite import SqliteEngine
from costguard.ledger.records import Admitted, NewAttempt, Settle
from scripts.benchmarks.calls import a_guard, a_task, reply
from scripts.benchmarks.runner.measurement import Measurement

CALLS = 1280
TASKS = 64
PROJECT = "acme/search"
NOW_US = 1_795_348_800_000_000
CHARGE = Charge(
    400, "breakdown", (Line("prompt", "TEXT", 10, 100), Line("completion", "", 10, 300)), 400, 400, None, None, 10, 10,
    None, None, None, False, (), None, 1,
)  # fmt: skip


def results() -> Iterator[Measurement]:
    """The time of a call among many, at durability "full", against one at a time in the same run."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    tokens.preload()
    for threads, bound in ((8, 0.5), (64, 0.25)):
        with tempfile.TemporaryDirectory() as folder:
            yield _compared(f"hold and settle, {threads} threads", bound, *_at_ledger(Path(folder), threads))
        with tempfile.TemporaryDirectory() as folder:
            yield _compared(f"guarded call, {threads} threads", bound, *_guarded(Path(folder), threads))
    with tempfile.TemporaryDirectory() as folder:
        yield _compared(f"guarded call, {TASKS} tasks of a loop", 0.25, *asyncio.run(_on_loop(Path(folder))))


class Run:
    """How long each of some calls took, and all together; and how many transactions they needed."""

    def __init__(self) -> None:
        self.spans: list[float] = []
        self.seconds = 0.0
        self.commits = 0

    @property
    def rate(self) -> float:
        """Calls a second."""
        return len(self.spans) / self.seconds

    @property
    def p99_ms(self) -> float:
        """What one call in a hundred took longer than."""
        return sorted(self.spans)[int(len(self.spans) * 0.99)] * 1000


def _compared(what: str, bound: float, single: Run, grouped: Run) -> Measurement:
    detail = (
        f"{grouped.rate:.0f} over {single.rate:.0f} calls/s, p99 {grouped.p99_ms:.1f} over {single.p99_ms:.1f} ms,"
        f" {len(grouped.spans) / max(1, grouped.commits):.1f} calls a commit"
    )
    return Measurement(what, single.rate / grouped.rate, bound, "one call at a time", detail=detail)


def _at_ledger(folder: Path, threads: int) -> tuple[Run, Run]:
    ledger = Ledger(SqliteEngine(folder / "ledger.db", durability="full"))
    for project in (PROJECT, "acme", "/"):
        ledger.set_budget(make_budget(project, "100000", warn_at=(50, 80, 100)), NOW_US)

    def call() -> None:
        task = NewAttempt(str(uuid.uuid4()), "textInference", "model", "sync", 1, 1_000, 1_000, None, "{}", "{}")
        answer = ledger.admit(PROJECT, NOW_US, [task])
        if not isinstance(answer, Admitted):
            raise TypeError(answer)
        ledger.conclude(NOW_US, [Settle(answer.attempt_ids[0], CHARGE, task.task_uuid)])

    runs = _threaded(call, threads)
    ledger.close()
    return runs


def _guarded(folder: Path, threads: int) -> tuple[Run, Run]:
    guard = a_guard(folder, "full")
    client = guard.wrap(httpx.Client(base_url="https://api.runware.ai", transport=httpx.MockTransport(reply)))
    runs = _threaded(lambda: client.post("/v1", json=[a_task()]), threads)
    client.close()
    _verified(guard)
    return runs


def _threaded(call: Callable[[], object], threads: int) -> tuple[Run, Run]:
    """As many threads in either: at a time one of them, or all."""
    runs = []
    for turn in (threading.Lock(), contextlib.nullcontext()):
        run = Run()

        def work(turn: AbstractContextManager[object] = turn, run: Run = run) -> None:
            for _ in range(CALLS // threads):
                began_s = time.perf_counter()
                with turn:
                    call()
                run.spans.append(time.perf_counter() - began_s)

        with _counted(run):
            workers = [threading.Thread(target=work) for _ in range(threads)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        runs.append(run)
    return runs[0], runs[1]


async def _on_loop(folder: Path) -> tuple[Run, Run]:
    guard = a_guard(folder, "full")
    client = guard.wrap(httpx.AsyncClient(base_url="https://api.runware.ai", transport=httpx.MockTransport(reply)))
    runs = []
    for most in (1, TASKS):
        run, turn = Run(), asyncio.Semaphore(most)

        async def work(turn: asyncio.Semaphore = turn, run: Run = run) -> None:
            for _ in range(CALLS // TASKS):
                began_s = time.perf_counter()
                async with turn:
                    await client.post("/v1", json=[a_task()])
                run.spans.append(time.perf_counter() - began_s)

        with _counted(run):
            await asyncio.gather(*(work() for _ in range(TASKS)))
        runs.append(run)
    await client.aclose()
    _verified(guard)
    return runs[0], runs[1]


@contextlib.contextmanager
def _counted(run: Run) -> Iterator[None]:
    """Take the time, and count the transactions."""
    transact = SqliteEngine._transact

    def counted(engine: SqliteEngine, *arguments: object) -> None:
        run.commits += 1
        transact(engine, *arguments)  # type: ignore[arg-type]

    SqliteEngine._transact = counted  # type: ignore[assignment]
    began_s = time.perf_counter()
    try:
        yield
    finally:
        run.seconds = time.perf_counter() - began_s
        SqliteEngine._transact = transact  # type: ignore[method-assign]


def _verified(guard: Guard) -> None:
    found = guard.verify()
    guard.close()
    if not found.ok:
        raise RuntimeError(f"the ledger does not verify: {found.difference}")
