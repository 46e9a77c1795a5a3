"""What the guard adds to a stream: before its first byte, and to every chunk after it."""

from __future__ import annotations

import asyncio
import json
import logging
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx

from costguard import Guard
from costguard.estimating import tokens
from scripts.benchmarks.runner.measurement import Measurement

STREAMS = 600
CHUNKS = 2000
ROUNDS = 15

CHUNK_US_MAX = 50
CHUNK_RATIO_MAX = 1.05
"""A chunk may come this much later than the bare client's: 50 µs, or 5 %, whichever is more."""

NOISE = 0.15
"""Two medians of the same run still differ by this much."""

_TEXT = "resting on a weathered wooden sill, the "


def results() -> Iterator[Measurement]:
    """What comes later and by how much, all over an in-memory transport."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    tokens.preload()
    for durability in ("normal", "full"):
        with tempfile.TemporaryDirectory() as folder:
            added_us, hold_us = _first_byte(Path(folder), durability)
        yield Measurement(
            f"first byte of a stream comes later, {durability}",
            added_us / hold_us,
            1 + NOISE,
            "one hold: what a plain call waits before it is sent",
            detail=f"{added_us:.0f} µs over {hold_us:.0f} µs",
        )
    for kind, measure in (("sync", _chunks), ("async", lambda guard: asyncio.run(_achunks(guard)))):
        with tempfile.TemporaryDirectory() as folder, _guard(Path(folder), "normal") as guard:
            bare_us, guarded_us = measure(guard)
        added_us = guarded_us - bare_us
        allowed_us = max(CHUNK_US_MAX, bare_us * (CHUNK_RATIO_MAX - 1))
        yield Measurement(
            f"each later chunk comes later, {kind}",
            added_us,
            allowed_us,
            "the bare client",
            "µs",
            f"its chunk takes {bare_us:.1f} µs",
        )


def _guard(folder: Path, durability: str) -> Guard:
    guard = Guard(folder / "guard.db", project="acme/search", durability=durability)
    for project in ("acme/search", "acme", "/"):
        guard.set_budget(project, "100000", warn_at=(50, 80, 100))
    return guard


def _task() -> dict[str, Any]:
    return {
        "taskType": "textInference",
        "taskUUID": str(uuid.uuid4()),
        "model": "google:gemini@3-flash",
        "deliveryMethod": "stream",
        "includeCost": True,
        "includeUsage": True,
        "settings": {"maxTokens": 220},
        "messages": [{"role": "user", "content": "Describe the harbour in the morning light. " * 48}],
    }


class _Stream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Frames that are there already, `count` of them with text."""

    def __init__(self, task_uuid: str, count: int) -> None:
        head = {"taskType": "textInference", "taskUUID": task_uuid}
        text = b"data: %b\n\n" % json.dumps({**head, "delta": {"text": _TEXT}}).encode()
        end = b"data: %b\n\n" % json.dumps({**head, "delta": {}, "finishReason": "stop", "cost": 0.001}).encode()
        self._chunks = [text] * count + [end, b"data: [DONE]\n\n"]

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk


def _transport(count: int) -> httpx.MockTransport:
    def answer(request: httpx.Request) -> httpx.Response:
        (task,) = json.loads(request.content)
        stream = _Stream(task["taskUUID"], count)
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=stream)

    return httpx.MockTransport(answer)


def _first_byte(folder: Path, durability: str) -> tuple[float, float]:
    """Medians of what is added before a stream's first chunk, and before a plain call is sent, in turns."""
    sent_s = 0.0

    def plainly(_: httpx.Request) -> httpx.Response:
        nonlocal sent_s
        sent_s = time.perf_counter()
        return httpx.Response(429, json={"errors": []})

    with _guard(folder, durability) as guard:
        pairs = [
            [
                httpx.Client(base_url="https://api.runware.ai", transport=guard.transport(inner) if guarded else inner)
                for guarded in (False, True)
            ]
            for inner in (_transport(3), httpx.MockTransport(plainly))
        ]
        first: list[list[float]] = [[], []]
        hold: list[list[float]] = [[], []]
        for _ in range(STREAMS):
            for n in range(2):
                task = _task()
                begin = time.perf_counter()
                with pairs[0][n].stream("POST", "/v1", json=[task]) as response:
                    chunks = response.iter_raw()
                    next(chunks)
                    first[n].append(time.perf_counter() - begin)
                    for _ in chunks:
                        pass
                task = _task()
                begin = time.perf_counter()
                pairs[1][n].post("/v1", json=[task])
                hold[n].append(sent_s - begin)
        for client in (*pairs[0], *pairs[1]):
            client.close()
    added_us, hold_us = ((statistics.median(taken[1]) - statistics.median(taken[0])) * 1e6 for taken in (first, hold))
    return added_us, hold_us


def _chunks(guard: Guard) -> tuple[float, float]:
    """Microseconds a chunk after the first, bare and guarded: the best of rounds taken in turns."""
    best = [float("inf"), float("inf")]
    with (
        httpx.Client(base_url="https://api.runware.ai", transport=_transport(CHUNKS)) as bare,
        httpx.Client(base_url="https://api.runware.ai", transport=guard.transport(_transport(CHUNKS))) as guarded,
    ):
        for _ in range(ROUNDS):
            for n, client in enumerate((bare, guarded)):
                with client.stream("POST", "/v1", json=[_task()]) as response:
                    chunks = response.iter_raw()
                    next(chunks)
                    begin = time.perf_counter()
                    for _ in range(CHUNKS - 1):
                        next(chunks)
                    best[n] = min(best[n], (time.perf_counter() - begin) / (CHUNKS - 1))
                    for _ in chunks:
                        pass
    return best[0] * 1e6, best[1] * 1e6


async def _achunks(guard: Guard) -> tuple[float, float]:
    """As `_chunks`, asynchronous."""
    best = [float("inf"), float("inf")]
    transport = guard.async_transport(_transport(CHUNKS))
    async with (
        httpx.AsyncClient(base_url="https://api.runware.ai", transport=_transport(CHUNKS)) as bare,
        httpx.AsyncClient(base_url="https://api.runware.ai", transport=transport) as guarded,
    ):
        for _ in range(ROUNDS):
            for n, client in enumerate((bare, guarded)):
                async with client.stream("POST", "/v1", json=[_task()]) as response:
                    chunks = response.aiter_raw()
                    await anext(chunks)
                    begin = time.perf_counter()
                    for _ in range(CHUNKS - 1):
                        await anext(chunks)
                    best[n] = min(best[n], (time.perf_counter() - begin) / (CHUNKS - 1))
                    async for _ in chunks:
                        pass
    return best[0] * 1e6, best[1] * 1e6
