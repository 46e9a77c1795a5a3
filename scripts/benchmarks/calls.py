"""What the guard adds to a call, synchronous and asynchronous, against the floor of two bare transactions."""

from __future__ import annotations

import asyncio
import functools
import logging
import sqlite3
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from costguard import Guard
from costguard.estimating import tokens
from scripts.benchmarks.runner.measurement import Measurement

CALLS = 1500
CONCURRENT = 100

REPLY = (
    b'{"data":[{"taskType":"textInference","taskUUID":"%s","text":"Resting on a weathered wooden sill","seed":80140,'
    b'"cost":0.00122,"finishReason":"length","usage":{"promptTokens":1138,"completionTokens":216,"totalTokens":1354,'
    b'"completionTokensDetails":{"reasoningTokens":209},"costBreakdown":{"tokens":{"prompt":{"modalities":['
    b'{"modality":"TEXT","tokens":74,"cost":0.000037,"costDisplay":"0.000037"},{"modality":"IMAGE","tokens":1064,'
    b'"cost":0.000532,"costDisplay":"0.000532"}],"billableTokens":1138,"cost":0.000569,"costDisplay":"0.000569"},'
    b'"cache":{"billableTokens":0,"cost":0,"costDisplay":"0.000000"},"completion":{"billableTokens":216,'
    b'"textTokens":7,"reasoningTokens":209,"cost":0.000648,"costDisplay":"0.000648"}},"features":{"search":'
    b'{"count":0,"cost":0,"costDisplay":"0.000000"},"maps":{"count":0,"cost":0,"costDisplay":"0.000000"}},'
    b'"total":0.001217,"totalDisplay":"0.001217"}}}]}'
)


def results() -> Iterator[Measurement]:
    """What a call adds, and how long it holds up a loop."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    tokens.preload()
    for durability in ("normal", "full"):
        with tempfile.TemporaryDirectory() as folder:
            floor_us, added_us, spans_us = _interleaved(Path(folder), durability)
            yield Measurement(
                f"guarded call adds, {durability}",
                added_us / floor_us,
                2.5 if durability == "normal" else 1.7,
                "two bare transactions",
                detail=f"{added_us:.0f} µs over {floor_us:.0f} µs",
            )
            p99_us, longest_us = spans_us[len(spans_us) * 99 // 100], spans_us[-1]
            yield Measurement(
                f"99th percentile of a guarded call, {durability}",
                p99_us / statistics.median(spans_us),
                4,
                "its median",
                detail=f"{p99_us / 1e3:.1f} ms, the longest {longest_us / 1e3:.1f} ms",
            )
    with tempfile.TemporaryDirectory() as folder:
        async_us, sync_us = asyncio.run(_concurrent(Path(folder)))
        yield Measurement(
            f"async call adds at {CONCURRENT} concurrent",
            async_us / sync_us,
            2,
            "what a synchronous call adds",
            detail=f"{async_us:.0f} µs over {sync_us:.0f} µs",
        )
    with tempfile.TemporaryDirectory() as folder:
        stall_ms = asyncio.run(_stall(Path(folder)))
        yield Measurement("longest stall of the loop, bodies up to 1 MB", stall_ms, 20, "a clock", "ms")


def a_task() -> dict[str, Any]:
    """A task with a prompt of 2 KB."""
    return {
        "taskType": "textInference",
        "taskUUID": str(uuid.uuid4()),
        "model": "google:gemini@3-flash",
        "settings": {"maxTokens": 220, "temperature": 0.7},
        "messages": [{"role": "user", "content": "Describe the harbour in the morning light. " * 48}],
    }


def reply(request: httpx.Request) -> httpx.Response:
    """The provider's answer, for a transport in memory."""
    start = request.content.index(b'"taskUUID":"') + 12
    body = REPLY % request.content[start : start + 36]
    return httpx.Response(200, headers={"Content-Type": "application/json"}, content=body)


def a_guard(folder: Path, durability: str) -> Guard:
    """A guard with three budgets that have room for all."""
    guard = Guard(folder / "guard.db", project="acme/search", durability=durability)
    for project in ("acme/search", "acme", "/"):
        guard.set_budget(project, "100000", warn_at=(50, 80, 100))
    return guard


def _interleaved(folder: Path, durability: str) -> tuple[float, float, list[float]]:
    """Median of the floor and of what a call adds, taken in turns so that both meet the same machine; all spans of a
    guarded call, sorted. In µs.
    """
    bare = httpx.Client(base_url="https://api.runware.ai", transport=httpx.MockTransport(reply))
    guard = a_guard(folder, durability)
    guarded = guard.wrap(httpx.Client(base_url="https://api.runware.ai", transport=httpx.MockTransport(reply)))
    floor = _floor(folder / "floor.db", durability)
    times: dict[str, list[float]] = {"floor": [], "bare": [], "guarded": []}
    for _ in range(CALLS):
        task = [a_task()]
        begin = time.perf_counter()
        floor()
        after_floor = time.perf_counter()
        bare.post("/v1", json=task)
        after_bare = time.perf_counter()
        guarded.post("/v1", json=task)
        times["guarded"].append(time.perf_counter() - after_bare)
        times["bare"].append(after_bare - after_floor)
        times["floor"].append(after_floor - begin)
    guard.close()
    medians = {name: statistics.median(values) * 1e6 for name, values in times.items()}
    spans = sorted(span * 1e6 for span in times["guarded"][CALLS // 10 :])
    return medians["floor"], medians["guarded"] - medians["bare"], spans


def _floor(path: Path, durability: str) -> Callable[[], object]:
    """Two bare `BEGIN IMMEDIATE` transactions that read three budgets and write what a call must."""
    make_floor(path)
    connection = connect_floor(path, durability)
    begin, commit = (functools.partial(connection.execute, word) for word in ("BEGIN IMMEDIATE", "COMMIT"))
    return floor(connection, begin, commit)


def connect_floor(path: Path, durability: str) -> sqlite3.Connection:
    """A connection to the floor's database."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {durability}")
    return connection


def make_floor(path: Path) -> None:
    """The database of the floor: three budgets, and the tables of what a call must write."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(
        """
        CREATE TABLE budgets (id INTEGER PRIMARY KEY, project TEXT, per TEXT, amount INTEGER);
        CREATE TABLE balances (budget_id INTEGER, window INTEGER, spent INTEGER, held INTEGER,
          PRIMARY KEY (budget_id, window)) WITHOUT ROWID;
        CREATE TABLE tasks (id INTEGER PRIMARY KEY, uuid TEXT UNIQUE, project TEXT, model TEXT, status TEXT,
          upper INTEGER, at INTEGER);
        CREATE TABLE holds (task_id INTEGER, budget_id INTEGER, window INTEGER, amount INTEGER,
          PRIMARY KEY (task_id, budget_id)) WITHOUT ROWID;
        CREATE TABLE lines (task_id INTEGER, component TEXT, modality TEXT, quantity INTEGER, cost INTEGER);
        CREATE TABLE rollups (day TEXT, project TEXT, model TEXT, component TEXT, modality TEXT, quantity INTEGER,
          cost INTEGER, PRIMARY KEY (day, project, model, component, modality)) WITHOUT ROWID;
        INSERT INTO budgets VALUES (1,'acme/search','month',1), (2,'acme','month',1), (3,'/','month',1);
        INSERT INTO balances VALUES (1,1,0,0), (2,1,0,0), (3,1,0,0);
        """
    )
    connection.close()


def floor(
    connection: sqlite3.Connection, begin: Callable[[], object], commit: Callable[[], object]
) -> Callable[[], object]:
    """A function that does both transactions once, each from `begin` to `commit`."""
    execute, executemany = connection.execute, connection.executemany
    leaves = (("prompt", "TEXT"), ("prompt", "IMAGE"), ("completion", ""), ("rounding", ""))

    def run() -> None:
        begin()
        execute(
            "SELECT b.id, b.amount, w.spent, w.held FROM budgets b JOIN balances w"
            " ON w.budget_id = b.id AND w.window = 1 WHERE b.project IN (?,?,?)",
            ("acme/search", "acme", "/"),
        ).fetchall()
        task_id = execute(
            "INSERT INTO tasks (uuid, project, model, status, upper, at) VALUES (?,?,?,?,?,?)",
            (str(uuid.uuid4()), "acme/search", "google:gemini@3-flash", "held", 5, 1),
        ).lastrowid
        executemany("INSERT INTO holds VALUES (?,?,1,5)", [(task_id, n) for n in (1, 2, 3)])
        executemany("UPDATE balances SET held = held + 5 WHERE budget_id = ? AND window = 1", [(1,), (2,), (3,)])
        commit()
        begin()
        execute("SELECT budget_id, amount FROM holds WHERE task_id = ?", (task_id,)).fetchall()
        execute("UPDATE tasks SET status = 'settled' WHERE id = ?", (task_id,))
        executemany(
            "UPDATE balances SET held = held - 5, spent = spent + 4 WHERE budget_id = ? AND window = 1",
            [(1,), (2,), (3,)],
        )
        executemany("INSERT INTO lines VALUES (?,?,?,4,4)", [(task_id, *leaf) for leaf in leaves])
        executemany(
            "INSERT INTO rollups VALUES ('2026-11-22','acme/search','google:gemini@3-flash',?,?,4,4)"
            " ON CONFLICT DO UPDATE SET quantity = quantity + 4, cost = cost + 4",
            leaves,
        )
        commit()

    return run


async def _concurrent(folder: Path) -> tuple[float, float]:
    """Added time per call in µs: asynchronous with many at once, and synchronous, in one run."""
    _, sync_us, _ = _interleaved(folder, "full")
    guard = a_guard(folder, "full")
    bare = httpx.AsyncClient(base_url="https://api.runware.ai", transport=httpx.MockTransport(reply))
    guarded = guard.wrap(httpx.AsyncClient(base_url="https://api.runware.ai", transport=httpx.MockTransport(reply)))
    spans: dict[str, list[float]] = {"bare": [], "guarded": []}
    for _ in range(10):
        for name, client in (("bare", bare), ("guarded", guarded)):
            tasks = [[a_task()] for _ in range(CONCURRENT)]
            begin = time.perf_counter()
            await asyncio.gather(*(client.post("/v1", json=task) for task in tasks))
            spans[name].append((time.perf_counter() - begin) / CONCURRENT * 1e6)
    await guarded.aclose()
    await bare.aclose()
    guard.close()
    return statistics.median(spans["guarded"]) - statistics.median(spans["bare"]), sync_us


async def _stall(folder: Path) -> float:
    """The longest time, in ms, that the loop did not run while large and small bodies were guarded."""
    guard = a_guard(folder, "full")
    client = guard.wrap(httpx.AsyncClient(base_url="https://api.runware.ai", transport=httpx.MockTransport(reply)))
    longest_s = 0.0
    is_over = False

    async def watch() -> None:
        nonlocal longest_s
        while not is_over:
            begin = time.perf_counter()
            await asyncio.sleep(0.001)
            longest_s = max(longest_s, time.perf_counter() - begin - 0.001)

    watcher = asyncio.create_task(watch())
    words = "The harbour master counts boats, gulls and gold. "
    for size in (10_000, 100_000, 1_000_000):
        for n in range(3):
            task = a_task() | {"messages": [{"role": "user", "content": f"{n} " + words * (size // len(words))}]}
            request = client.build_request("POST", "/v1", json=[task])
            longest_before = longest_s
            await asyncio.sleep(0.01)
            longest_s = longest_before  # building the request is the caller's own work
            await client.send(request)
    is_over = True
    await watcher
    await client.aclose()
    guard.close()
    return longest_s * 1000
