"""What the guard adds to a call through the proxy, and what 500 streams take of it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx

from costguard import Guard
from costguard.estimating import tokens
from costguard.serving import app, running
from costguard.serving.upstream import endpoint_of
from scripts.benchmarks.calls import REPLY, a_task
from scripts.benchmarks.runner.measurement import Measurement

CALLS = 600
STREAMS = 500
FIRST, LAST = 20, 520
"""Chunks that every stream has delivered when memory is looked at."""

RATIO_MAX = 2.0
STREAM_KB_MAX = 256
GROWTH_MAX = 1.1

_PAGE_BYTES = 4096
_CHUNK = (
    b"data: %b\n\n"
    % json.dumps(
        {"choices": [{"index": 0, "delta": {"content": "resting on a weathered wooden sill, "}, "finish_reason": None}]}
    ).encode()
)
_FRAMED = b"%x\r\n%b\r\n" % (len(_CHUNK), _CHUNK)
_CHAT = json.dumps(
    {
        "model": "google:gemini@3-flash",
        "stream": True,
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "x"}],
    }
).encode()


def results() -> Iterator[Measurement]:
    """What is added to a call, and memory."""
    logging.disable(logging.WARNING)
    tokens.preload()
    with tempfile.TemporaryDirectory() as folder, _program("api") as api:
        with _program("bare", api, f"{folder}/bare.db") as bare, _program("proxy", api, f"{folder}/proxy.db") as proxy:
            here, there = asyncio.run(_added(api, bare, proxy, Path(folder)))
        yield Measurement(
            "guarded call through the proxy adds",
            there / here,
            RATIO_MAX,
            "what the guard adds to an asynchronous call in the program itself",
            detail=f"{there:.0f} µs over {here:.0f} µs",
        )
        with _program("proxy", api, f"{folder}/streams.db") as proxy:
            idle, first, last = asyncio.run(_memory(api, proxy))
    yield Measurement(
        f"memory of a proxy with {STREAMS} streams, after {LAST} chunks of each",
        last / first,
        GROWTH_MAX,
        f"after {FIRST} chunks of each",
        detail=f"{last / 2**20:.0f} MB over {first / 2**20:.0f} MB",
    )
    yield Measurement(
        f"memory of each of {STREAMS} streams",
        (last - idle) / STREAMS / 1024,
        STREAM_KB_MAX,
        "the proxy without a call",
        "KB",
        detail=f"{idle / 2**20:.0f} MB without",
    )


class _Program(str):
    """The address of a program, and its process."""

    pid: int


@contextlib.contextmanager
def _program(*words: str) -> Iterator[_Program]:
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.benchmarks.serving", *words], stdout=subprocess.PIPE, text=True
    )
    try:
        found = _Program(process.stdout.readline().strip() if process.stdout else "")
        found.pid = process.pid
        yield found
    finally:
        process.kill()
        process.communicate()


async def _added(api: str, bare: str, proxy: str, folder: Path) -> tuple[float, float]:
    """Medians of what the guard adds, in µs: in this program, and in the proxy; all four in turns."""
    with Guard(folder / "here.db", project="acme/search", durability="normal", endpoints=[endpoint_of(api)]) as guard:
        _limit(guard)
        clients = [
            httpx.AsyncClient(base_url=api),
            guard.wrap(httpx.AsyncClient(base_url=api)),
            httpx.AsyncClient(base_url=bare),
            httpx.AsyncClient(base_url=proxy),
        ]
        spans: list[list[float]] = [[] for _ in clients]
        for n in range(CALLS):
            for taken, client in zip(spans, clients, strict=True):
                task = a_task()
                begin = time.perf_counter()
                response = await client.post("/v1", json=[task])
                if n >= CALLS // 10:
                    taken.append(time.perf_counter() - begin)
                assert response.status_code == 200
        for client in clients:
            await client.aclose()
    plain, guarded, passed, held = (statistics.median(taken) * 1e6 for taken in spans)
    return guarded - plain, held - passed


async def _memory(api: str, proxy: _Program) -> tuple[int, int, int]:
    """Bytes of the proxy: without a call, and when all streams have delivered so many chunks."""
    async with httpx.AsyncClient() as client:
        await client.post(f"{proxy}/v1", json=[a_task()])
        idle = _bytes_of(proxy)
        async with contextlib.AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(_stream(proxy)) for _ in range(STREAMS)]
            found = []
            for count in (FIRST, LAST):
                await client.put(f"{api}/go/{count}")
                await asyncio.gather(*(_read(reader, count) for reader in streams))
                found.append(_bytes_of(proxy))
    return idle, found[0], found[1]


@contextlib.asynccontextmanager
async def _stream(proxy: str) -> AsyncIterator[_Counted]:
    host, port = proxy.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(_CHAT)}\r\n\r\n"
    writer.write(head.encode() + _CHAT)
    try:
        yield _Counted(reader)
    finally:
        writer.close()


class _Counted:
    """A stream and how many chunks came."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.reader = reader
        self.count = 0


async def _read(stream: _Counted, count: int) -> None:
    while stream.count < count:
        line = await stream.reader.readline()
        assert line
        stream.count += line.startswith(b"data: ")


def _bytes_of(program: _Program) -> int:
    return int(Path(f"/proc/{program.pid}/statm").read_text().split()[1]) * _PAGE_BYTES


def _limit(guard: Guard) -> None:
    for project in ("acme/search", "acme", "/"):
        guard.set_budget(project, "100000", warn_at=(50, 80, 100))


def _serve(kind: str, api: str, path: str) -> None:
    """A proxy, guarded or bare: the same app, without the guard's transport."""
    logging.disable(logging.WARNING)
    with (
        Guard(path, project="acme/search", durability="normal", endpoints=[endpoint_of(api)]) as guard,
        running.listen("127.0.0.1", 0) as listening,
    ):
        _limit(guard)
        proxy = app(guard, api)
        if kind == "bare":
            proxy._upstream.transport = proxy._upstream.transport.inner
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        running.run(proxy, listening, drain_s=0, started=lambda: print(address, flush=True))


async def _answer() -> None:
    """An API that answers tasks at once, and streams as many chunks as it was told to."""
    allowed, more = 0, asyncio.Condition()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal allowed
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
                body = await reader.readexactly(int(length or 0))
                if head.startswith(b"post /v1 "):
                    reply = REPLY % json.loads(body)[0]["taskUUID"].encode()
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
                    writer.write(b"content-length: %d\r\n\r\n%b" % (len(reply), reply))
                elif head.startswith(b"put "):
                    async with more:
                        allowed = int(head.split()[1].rpartition(b"/")[2])
                        more.notify_all()
                    writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                else:
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
                    writer.write(b"transfer-encoding: chunked\r\n\r\n")
                    sent = 0
                    while True:
                        async with more:
                            while allowed <= sent:
                                await more.wait()
                        while sent < allowed:
                            writer.write(_FRAMED)
                            await writer.drain()
                            sent += 1
                await writer.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=2048)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    running._allow_connections()
    if sys.argv[1] == "api":
        asyncio.run(_answer())
    else:
        _serve(*sys.argv[1:4])
