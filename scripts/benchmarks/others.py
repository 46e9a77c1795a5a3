"""What `costguard.install` adds to a JSON POST to another host, of each client library."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import httpx2
import requests

import costguard
from costguard import Guard
from scripts.benchmarks.runner.measurement import Measurement

TURNS, CALLS, FIRST = 40, 100, 15
"""Turns of either side, the calls of each, and how many of those are left out: an install empties Python's caches."""
DECILE = 10
"""The tenth part of the calls is quicker than the figure: what others take on the machine is in the rest."""

ADDED_US_MAX = 20
BODY = {"question": "Describe the harbour in the morning light. " * 48}

_SERVER = """
import asyncio

class Answering(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.got = transport, b""

    def data_received(self, data):
        self.got += data
        head, found, body = self.got.partition(b"\\r\\n\\r\\n")
        if found and len(body) >= int(head.lower().partition(b"content-length:")[2].split()[0]):
            self.got = b""
            self.transport.write(
                b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: 2\\r\\n\\r\\n{}")

async def main():
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


def results() -> Iterator[Measurement]:
    """What each library's call takes longer, and whether aiohttp's does by more than httpx's."""
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    added: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, Guard(Path(folder) / "ledger.db") as guard, _server() as url:
        for name, bare_us, installed_us in _all(guard, url):
            added[name] = installed_us - bare_us
            yield Measurement(
                f"a POST to another host takes longer, {name}",
                added[name],
                ADDED_US_MAX,
                "the same without install()",
                "µs",
                detail=f"{installed_us:.0f} µs over {bare_us:.0f} µs",
            )
    yield Measurement(
        "a POST to another host takes longer, aiohttp",
        added["aiohttp.ClientSession"] / added["httpx.AsyncClient"],
        1,
        "httpx.AsyncClient in the same run",
        detail=f"{added['aiohttp.ClientSession']:.0f} µs over {added['httpx.AsyncClient']:.0f} µs",
    )


@contextmanager
def _server() -> Iterator[str]:
    """The address of a server in a process of its own that answers every POST by `{}`."""
    with subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None:
            raise RuntimeError("no output")
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1/other"
        finally:
            process.kill()


def _all(guard: Guard, url: str) -> Iterator[tuple[str, float, float]]:
    for module in (httpx, httpx2):
        client: Any = module.Client(trust_env=False)
        with client:
            yield f"{module.__name__}.Client", *asyncio.run(_turns(guard, _sync(client, url)))
    with requests.Session() as session:
        session.trust_env = False
        yield "requests.Session", *asyncio.run(_turns(guard, _sync(session, url)))
    for module in (httpx, httpx2):
        yield f"{module.__name__}.AsyncClient", *asyncio.run(_by_httpx(guard, url, module))
    yield "aiohttp.ClientSession", *asyncio.run(_by_aiohttp(guard, url))


def _sync(client: Any, url: str) -> Callable[[], Awaitable[None]]:
    async def call() -> None:
        client.post(url, json=BODY)

    return call


async def _by_httpx(guard: Guard, url: str, module: Any) -> tuple[float, float]:
    async with module.AsyncClient(trust_env=False) as client:

        async def call() -> None:
            await client.post(url, json=BODY)

        return await _turns(guard, call)


async def _by_aiohttp(guard: Guard, url: str) -> tuple[float, float]:
    async with aiohttp.ClientSession() as session:

        async def call() -> None:
            async with session.post(url, json=BODY) as response:
                await response.read()

        return await _turns(guard, call)


async def _turns(guard: Guard, call: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """µs of a call, bare and installed, taken in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(TURNS):
        for is_bare, taken in zip((True, False), times, strict=True):
            if is_bare:
                costguard.uninstall()
            else:
                costguard.install(guard)
            for n in range(CALLS):
                begin = time.perf_counter()
                await call()
                if n >= FIRST:
                    taken.append(time.perf_counter() - begin)
    costguard.uninstall()
    bare, installed = (sorted(taken)[len(taken) // DECILE] * 1e6 for taken in times)
    return bare, installed
