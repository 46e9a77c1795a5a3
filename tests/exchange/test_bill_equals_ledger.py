"""After any mix of deliveries, faults and kills, and one `reconcile`, the ledger is the provider's bill.

The mix is drawn from one seed, which a failure prints; `COSTGUARD_TEST_SEED=N` repeats it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from ledgers import keep, place, rows

from costguard import BudgetExceeded, Guard
from costguard.testing import KINDS, StandIn

CALLS = {"sqlite": 2000, "postgresql": 500}
"""Sendings of tasks, retries included; refused ones do not count, and a few more are made."""

THREADS = 12
TIMEOUT_S = 0.4
"""How long the clients wait for an answer: those that hang cost this much."""

STATUSES = {
    "status": (400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 500, 503, 504),
    "status_billed": (408, 409, 500, 502, 503, 504),
    "redirect": (307, 308),
    "error_entry": (200, 400),
    "error_timeout": (200, 504),
}
SLOW = ("hang",)
MANNERS: dict[str, tuple[Any, ...]] = {
    "result_index": (True,),
    "polls_until_done": (0, 2),
    "poll_statuses": (("queued", "pending"), ("warming up",)),
    "poll_figures": ("tokens",),
    "webhook_times": (2, 3),
    "webhook_envelope": (True,),
    "webhook_figures": ("tokens",),
    "chunk_bytes": (7, 61),
    "sse_crlf": (True,),
    "sse_space": (False,),
    "sse_heartbeats": (False,),
    "sse_pings": (True,),
    "sse_late_cost": (True,),
    "sse_empty_uuid": (True,),
    "sse_bom": (True,),
    "sse_single_newline": (True,),
    "sse_bare": (True,),
    "sse_done": (False,),
    "sse_content_type": ("application/json", None),
    "stream_whole": (True,),
    "stream_figures": ("tokens",),
    "sse_envelope": ("object", "list"),
    "sse_split_usage": (True,),
    "sse_trailing_zeros": (True,),
    "sse_repeat_figures": (True,),
    "sse_chunk_index": (True,),
    "content_encoding": ("gzip", "deflate", "deflate-raw", "br", "deflate, gzip"),
    "figures_as_text": (True,),
    "counts_as_text": (True,),
    "usage_cost": (True,),
    "uuid_case": ("upper",),
    "blank_error": (True,),
}
"""Ways of telling the same bill, but for its defaults; each round has a few of them.

Left out is what cannot come to the bill by one reconcile: a road that tells one of `cost` and `total` alone, of which
a fault may have made the other the larger, is the provider's own word and is not asked for again; and leaves that a
fault made wrong are all there is where no total is told.
"""


@dataclass
class Story:
    """One POST, how often it is sent, what goes wrong each time, and what its caller does with the answer."""

    tasks: list[dict[str, Any]]
    project: str
    faults: list[list[str | None]]
    """Of each sending, the fault of each task."""
    reading: str
    """Of a stream: `all`, `close`, `drop`, `raise` or (asynchronous) `cancel`."""
    chunks: int
    polls: int
    is_async: bool
    cancel_s: float | None


def a_fault(rng: random.Random) -> str | None:
    if rng.random() < 0.4:
        return None
    kind = rng.choice(KINDS)
    if kind in SLOW and rng.random() < 0.6:
        return None
    return f"{kind}:{rng.choice(STATUSES[kind])}" if kind in STATUSES else kind


def a_story(rng: random.Random) -> Story:
    tasks = []
    stream = rng.random() < 0.25
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3))):
        kind = "imageInference" if rng.random() < 0.1 and not stream else "textInference"
        task: dict[str, Any] = {
            "taskType": kind,
            "taskUUID": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            "model": rng.choice(("google:gemini@3-flash", "google:gemini@3.1-pro", "google-gemini-3-flash")),
            "numberResults": rng.choice((1, 1, 2, 3, 4)),
        }
        if kind == "textInference":
            task["messages"] = [{"role": "user", "content": f"Describe harbour {rng.randrange(50)} in one line."}]
            task["settings"] = {"maxTokens": rng.choice((40, 125, 400))}
        else:
            task["model"] = "painter:1@1"
        if rng.random() < 0.4:
            task["seed"] = rng.choice((7, rng.randrange(2**31)))
        if stream:
            task["deliveryMethod"] = "stream"
        elif rng.random() < 0.5:
            task["deliveryMethod"] = rng.choice(("async", "sync"))
        if not stream and rng.random() < 0.3:
            task["webhookURL"] = "https://hooks.example.com/costguard"
        tasks.append(task)
    sendings = rng.choice((1, 1, 1, 2, 2, 3))
    is_async = rng.random() < 0.4
    return Story(
        tasks,
        rng.choice(("acme/search", "acme/chat", "acme/tight", "acme/clamped")),
        [[a_fault(rng) for _ in tasks] for _ in range(sendings)],
        rng.choice(("all", "all", "all", "close", "drop", "raise", "cancel")),
        rng.randrange(0, 12),
        rng.choice((0, 1, 3, 6)),
        is_async,
        rng.choice((None, None, None, 0.0, 0.002, 0.01)) if is_async else None,
    )


class Walkout(Exception):
    """What a caller raises in the middle of a stream."""


class Play:
    """Acts stories out against one stand-in, with one guard."""

    def __init__(self, guard: Guard, standin: StandIn, url: str, rng: random.Random) -> None:
        self.guard = guard
        self.standin = standin
        self.url = url
        self.rng = rng
        self.lock = threading.Lock()

    def commit(self, story: Story, sending: int) -> None:
        """Order the faults of a sending."""
        for task, fault in zip(story.tasks, story.faults[sending], strict=True):
            if fault is not None:
                self.standin.fault(fault, task_uuid=task["taskUUID"])

    def a_webhook(self) -> bytes | None:
        """Any webhook that is owed, so that they come in no order, some of them again and again."""
        with self.lock:
            owed = self.standin.webhooks
            return self.rng.choice(owed).body if owed else None

    def polls(self, story: Story) -> list[dict[str, Any]]:
        return [{"taskType": "getResponse", "taskUUID": task["taskUUID"]} for task in story.tasks]

    # -- synchronous ------------------------------------------------------------------------------

    def act(self, story: Story, client: httpx.Client) -> None:
        options = {"costguard": {"project": story.project}}
        for sending in range(len(story.faults)):
            self.commit(story, sending)
            with suppress(httpx.TransportError, httpx.StreamError, BudgetExceeded, Walkout):
                if story.tasks[0].get("deliveryMethod") == "stream":
                    self.read(story, client, options)
                else:
                    client.post("/v1", json=story.tasks, extensions=options, follow_redirects=True)
            if story.polls and (webhook := self.a_webhook()):
                self.guard.observe(webhook)
        for _ in range(story.polls):
            with suppress(httpx.TransportError):
                client.post("/v1", json=self.polls(story))

    def read(self, story: Story, client: httpx.Client, options: dict[str, Any]) -> None:
        request = client.build_request("POST", "/v1", json=story.tasks, extensions=options)
        response = client.send(request, stream=True, follow_redirects=True)
        if story.reading == "drop":
            for _, _ in zip(range(story.chunks), response.iter_raw(), strict=False):
                pass
            return  # never closed: garbage collection ends it
        try:
            for n, _ in enumerate(response.iter_raw()):
                if n == story.chunks and story.reading != "all":
                    if story.reading == "raise":
                        raise Walkout
                    break
        finally:
            response.close()

    # -- asynchronous -----------------------------------------------------------------------------

    async def aact(self, story: Story, client: httpx.AsyncClient) -> None:
        options = {"costguard": {"project": story.project}}
        for sending in range(len(story.faults)):
            self.commit(story, sending)
            with suppress(httpx.TransportError, httpx.StreamError, BudgetExceeded, Walkout, TimeoutError):
                async with asyncio.timeout(story.cancel_s):
                    if story.tasks[0].get("deliveryMethod") == "stream":
                        await self.aread(story, client, options)
                    else:
                        await client.post("/v1", json=story.tasks, extensions=options, follow_redirects=True)
            if story.polls and (webhook := self.a_webhook()):
                await asyncio.to_thread(self.guard.observe, webhook)
        for _ in range(story.polls):
            with suppress(httpx.TransportError):
                await client.post("/v1", json=self.polls(story))

    async def aread(self, story: Story, client: httpx.AsyncClient, options: dict[str, Any]) -> None:
        request = client.build_request("POST", "/v1", json=story.tasks, extensions=options)
        response = await client.send(request, stream=True, follow_redirects=True)
        try:
            n = 0
            async for _ in response.aiter_raw():
                n += 1
                if n > story.chunks and story.reading != "all":
                    if story.reading == "raise":
                        raise Walkout
                    if story.reading == "cancel":
                        raise asyncio.CancelledError
                    break
        except asyncio.CancelledError:
            if story.reading != "cancel":
                raise
        finally:
            await response.aclose()


CHILD = """
import sys, threading, httpx
from costguard import Guard
path, url, *stories = sys.argv[1:]
import json
guard = Guard(path, "acme/child", durability="normal")
client = guard.wrap(httpx.Client(base_url=url, timeout=60, limits=httpx.Limits(max_connections=64)))
def call(task):
    if task.get("deliveryMethod") == "stream":
        with client.stream("POST", "/v1", json=[task]) as response:
            for _ in response.iter_raw():
                pass
    else:
        client.post("/v1", json=[task])
threads = [threading.Thread(target=call, args=(task,)) for task in json.load(sys.stdin)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def start_child(path: Path, url: str, standin: StandIn, rng: random.Random) -> tuple[subprocess.Popen[bytes], set[str]]:
    """A process that is in the middle of its calls when it is killed: most of its answers never end."""
    tasks = []
    for _ in range(12):
        story = a_story(rng)
        task = {**story.tasks[0], "taskType": "textInference", "model": "google:gemini@3-flash"}
        task.setdefault("messages", [{"role": "user", "content": "Describe the harbour."}])
        task.setdefault("settings", {"maxTokens": 40})
        fault = rng.choice(("hang", "hang", "hang", None))
        if fault:
            standin.fault(fault, task_uuid=task["taskUUID"])
        tasks.append(task)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(place(path)), url],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    assert child.stdin is not None
    child.stdin.write(json.dumps(tasks).encode())
    child.stdin.close()
    return child, {task["taskUUID"] for task in tasks}


def has_arrived(standin: StandIn, uuids: set[str]) -> bool:
    """True once all these tasks reached the provider."""
    found = set()
    for request in standin.received:
        with suppress(ValueError):  # cut while it was sent
            found |= {str(task.get("taskUUID")) for task in request.tasks}
    return uuids <= found


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def attempts(path: Path) -> int:
    """How often a task was sent, as the ledger knows."""
    ((count,),) = rows(path, "SELECT count(*) FROM attempts")
    return int(count)


def perform(rng: random.Random, path: Path, standin: StandIn, calls: int) -> None:
    """The whole mix, until `calls` were sent."""
    with Guard(place(path), "acme", durability="normal") as guard, standin.serve() as url:
        guard.set_budget("/", "1000", per="total", warn_at=(1, 50))
        guard.set_budget("acme", "500", per="month", timezone="Europe/Berlin")
        guard.set_budget("acme/tight", "0.05", per="day", timezone="Pacific/Auckland", wait=0.05)
        guard.set_budget("acme/clamped", "0.05", per="total", action="clamp", floor=10)
        guard.set_budget("acme/chat", "0.000001", per="week", action="warn")
        guard.set_ceiling("painter:1@1", "0.5")
        play = Play(guard, standin, url, rng)
        children = [start_child(path, url, standin, rng) for _ in range(2)]
        limits = httpx.Limits(max_connections=64)
        client = guard.wrap(httpx.Client(base_url=url, timeout=TIMEOUT_S, limits=limits))
        while attempts(path) < calls:
            mannerly = StandIn()
            chosen = rng.sample(sorted(MANNERS), rng.randrange(6))
            for name, values in MANNERS.items():
                setattr(standin, name, rng.choice(values) if name in chosen else getattr(mannerly, name))
            stories = [a_story(rng) for _ in range(200)]

            async def act_all(stories: list[Story] = stories) -> None:
                gate = asyncio.Semaphore(20)
                async with guard.wrap(httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, limits=limits)) as aclient:

                    async def one(story: Story) -> None:
                        async with gate:
                            await play.aact(story, aclient)

                    async with asyncio.TaskGroup() as group:
                        for story in stories:
                            if story.is_async:
                                group.create_task(one(story))

            with ThreadPoolExecutor(THREADS) as pool:
                running = pool.submit(asyncio.run, act_all())
                acts = [pool.submit(play.act, story, client) for story in stories if not story.is_async]
                for act in (running, *acts):
                    act.result()
            webhooks = standin.webhooks
            rng.shuffle(webhooks)
            for webhook in webhooks[:60]:
                guard.observe(webhook.body)
        for child, uuids in children:
            wait_for(partial(has_arrived, standin, uuids))
            child.kill()
            child.wait()
        client.close()
        gc.collect()
        heard = threading.Event()
        guard.later(heard.set)
        assert heard.wait(10)


def told(guard: Guard, standin: StandIn, uuid: str) -> str:
    """All that ledger and bill say of a task, for whoever must find out why they differ."""
    sql = "SELECT e.* FROM entries e JOIN attempts a ON a.id = e.attempt_id WHERE a.task_uuid = ? ORDER BY seq"
    entries = guard.ledger._engine.read(lambda tx: tx.all(sql, (uuid,)))
    bills = [bill for bill in standin.bill if bill.task_uuid == uuid]
    return "\n".join(["", *map(str, guard.ledger.attempts(uuid)), *map(str, entries), *map(str, bills)])


def test_after_any_mix_and_one_reconcile_the_ledger_is_the_bill(each_engine: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("COSTGUARD_TEST_SEED", "20261122"))
    path = tmp_path / "ledger.db"
    keep(path)
    standin = StandIn()
    said = f"COSTGUARD_TEST_SEED={seed}"
    print(said)  # shown by pytest if anything fails
    calls = CALLS[each_engine]
    perform(random.Random(seed), path, standin, calls)
    assert attempts(path) >= calls
    with Guard(place(path), durability="normal") as guard, standin.serve() as url, httpx.Client(base_url=url) as client:
        found = guard.reconcile(client, min_age="0s", unknown_age="0s")
        assert found.left == [], said
        charged = {row.task_uuid: row.charged for row in guard.ledger.tasks()}
        billed: dict[str, Decimal] = {}
        for bill in standin.bill:
            billed[bill.task_uuid] = billed.get(bill.task_uuid, Decimal(0)) + bill.amount * 10**9
        wrong = [uuid for uuid, amount in billed.items() if charged.get(uuid) != amount]
        assert wrong == [], said + "".join(told(guard, standin, uuid) for uuid in wrong[:3])
        assert {uuid for uuid, nanos in charged.items() if nanos} == billed.keys(), said
        assert sum(charged.values()) == standin.billed() * 10**9, said
        assert all(budget.held == 0 for budget in guard.status()), said
        assert guard.ledger.open_attempts() == [], said
        assert guard.verify().difference is None, said
        spent = next(budget.spent for budget in guard.status() if budget.project == "/")
        assert spent == standin.billed(), said
        # What the stand-in did not know, or had no record of, is asked for once more, and then never again.
        again = guard.reconcile(client, min_age="0s").findings
        assert {finding.outcome for finding in again} <= {"released", "settled"}, said
        assert {row.task_uuid: row.charged for row in guard.ledger.tasks()} == charged, said
        assert guard.reconcile(client, min_age="0s").findings == [], said
