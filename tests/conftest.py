"""What many tests share: a ledger, a guard, the stand-in, and four clients behind one face."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import ledgers
import pytest
from elsewhere import Schemas
from hypothesis import is_hypothesis_test, settings
from loopback import LOOPBACK, LoopClient, error_of
from postgres import Pair, Server
from proxies import Proxy

from costguard import Guard
from costguard.ledger.records import TaskRow
from costguard.testing import StandIn

settings.register_profile("costguard", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("costguard")

FLASH = "google:gemini@3-flash"
PRO = "google:gemini@3.1-pro"
API = "https://api.runware.ai"
CLIENTS = ("httpx.Client", "httpx.AsyncClient", "httpx2.Client", "httpx2.AsyncClient")

every_client = pytest.mark.parametrize("kind", [*CLIENTS, *LOOPBACK], indirect=True)
"""For a test of `kind` or `client` that says nothing of httpx alone."""

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LIMIT = Decimal(1)
"""USD: the hard budget of the `guard` fixture, on all projects, in total."""


def a_task(content: object = "Describe the harbour in one line.", **fields: Any) -> dict[str, Any]:
    """A text task of a few hundredths of a cent, with a new taskUUID; a field given as None is left out."""
    task = {
        "taskType": "textInference",
        "taskUUID": str(uuid.uuid4()),
        "model": FLASH,
        "messages": [{"role": "user", "content": content}],
        "settings": {"maxTokens": 200},
        **fields,
    }
    return {key: value for key, value in task.items() if value is not None}


class Clock:
    """A clock that stands still until told otherwise."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


class AnyClient:
    """One of the four clients, called as if it were synchronous; `bare` is the client itself."""

    def __init__(self, kind: str, **options: Any) -> None:
        client_class = kind.partition(".")[2]
        self.module = module_of(kind)
        self.is_async = client_class == "AsyncClient"
        self._runner = asyncio.Runner() if self.is_async else None
        self.bare: Any = getattr(self.module, client_class)(**{"base_url": API, **options})

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a method of the client, or an async function, and return its result."""
        result = function(*args, **options)
        if self._runner is None:
            return result
        return self._runner.run(result, context=contextvars.copy_context())  # a scope around the call holds

    def post(self, *tasks: Any, url: str = "/v1", **options: Any) -> Any:
        """POST tasks as a JSON array, or what `options` say instead."""
        if tasks:
            options["json"] = list(tasks)
        return self.call(self.bare.post, url, **options)

    def put_under(self, guard: Guard) -> None:
        """Put `guard` into the client."""
        guard.wrap(self.bare)

    def close(self) -> None:
        """Close the client and its event loop."""
        if self._runner is None:
            self.bare.close()
            return
        try:
            if not self.bare.is_closed:
                self.call(self.bare.aclose)
        finally:
            self._runner.close()  # which is open also where a test has closed the client


def module_of(kind: str) -> Any:
    """The library of a kind of client; for one over a loopback port, that of the transports behind it."""
    return importlib.import_module("httpx" if kind in LOOPBACK else kind.partition(".")[0])


def raised_by(kind: str, name: str) -> Any:
    """The exceptions of a kind of client that mean what httpx's of this name does."""
    return error_of(kind, name) if kind in LOOPBACK else getattr(module_of(kind), name, RuntimeError)


def memory(standin: StandIn, kind: str) -> Any:
    """The stand-in's in-memory transport for a kind of client."""
    name, _, client_class = kind.partition(".")
    if kind in LOOPBACK:
        return standin.transport()
    module: Any = name  # one of two literals, which a type checker cannot see
    return standin.async_transport(module) if client_class == "AsyncClient" else standin.transport(module)


def only_task(guard: Guard) -> TaskRow:
    """The one task in the ledger."""
    (row,) = guard.ledger.tasks()
    return row


def audit(guard: Guard, standin: StandIn | None = None) -> None:
    """Every promise of the ledger holds, and nothing the stand-in billed is neither charged nor held."""
    assert guard.verify().difference is None
    if standin is None:
        return
    booked = {row.task_uuid: row.charged + row.held for row in guard.ledger.tasks()}
    for task_uuid in {bill.task_uuid for bill in standin.bill}:
        assert standin.billed(task_uuid) * 10**9 <= booked[task_uuid]


def sent_tasks(standin: StandIn) -> list[dict[str, Any]]:
    """The tasks of the last request that reached the stand-in."""
    tasks: list[dict[str, Any]] = json.loads(standin.received[-1].body)
    return tasks


@pytest.fixture
def ledger(tmp_path: Path) -> Path | str:
    """Where a ledger may be created: a URL for a test of `each_engine`, in its turn."""
    return ledgers.place(tmp_path / "costguard.db")


@pytest.fixture
def clock() -> Clock:
    """Stands at `NOW`; set `clock.now` to move it."""
    return Clock(NOW)


@pytest.fixture
def make_guard(ledger: Path, clock: Clock) -> Iterator[Callable[..., Guard]]:
    """Open guards on one ledger, without a budget; they are closed at the end."""
    with ExitStack() as stack:

        def make(project: str = "acme/search", **options: Any) -> Guard:
            options = {"durability": "normal", "clock": clock, **options}
            return stack.enter_context(Guard(options.pop("path", ledger), project, **options))

        yield make


@pytest.fixture
def guard(make_guard: Callable[..., Guard]) -> Guard:
    """A guard for the project acme/search under a hard budget of `LIMIT`."""
    guard = make_guard()
    guard.set_budget("/", LIMIT, per="total")
    return guard


@pytest.fixture
def standin() -> StandIn:
    """The API's stand-in, with a bill of its own."""
    return StandIn()


@pytest.fixture
def make_client() -> Iterator[Callable[..., AnyClient]]:
    """Make clients of any kind; they are closed at the end."""
    with ExitStack() as stack:

        def make(kind: str, guard: Guard | None = None, **options: Any) -> Any:
            client = (LoopClient if kind in LOOPBACK else AnyClient)(kind, **options)
            stack.callback(client.close)
            if guard is not None:
                client.put_under(guard)
            return client

        yield make


@pytest.fixture(params=CLIENTS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each of the four kinds of client in turn."""
    return str(request.param)


@pytest.fixture(params=("httpx", "httpx2"))
def module(request: pytest.FixtureRequest) -> ModuleType:
    """Each of the two libraries in turn."""
    return importlib.import_module(request.param)


@pytest.fixture
def client(kind: str, guard: Guard, standin: StandIn, make_client: Callable[..., AnyClient]) -> AnyClient:
    """A guarded client of each kind over the in-memory stand-in."""
    return make_client(kind, guard, transport=memory(standin, kind))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server; without the programs the test is skipped, but fails in CI."""
    with Server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Server) -> Iterator[str]:
    """The URL of a new, empty database on it, whose owner connects: no superuser."""
    postgres.start()  # whatever the test before has left
    name = postgres.new_database()
    yield postgres.url(name)
    if postgres.is_running:
        postgres.drop_database(name)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On a server each shape of client is tried once: where httpx2 differs from httpx, the database is not asked."""
    twice = [item for item in items if _is_twice(getattr(getattr(item, "callspec", None), "params", {}))]
    config.hook.pytest_deselected(items=twice)
    left_out = set(twice)
    items[:] = [item for item in items if item not in left_out]


def _is_twice(params: dict[str, object]) -> bool:
    named = (params.get("kind"), params.get("module"))
    return params.get("each_engine") == "postgresql" and any(str(name).startswith("httpx2") for name in named)


@pytest.fixture(scope="session")
def schemas(postgres: Server) -> Schemas:
    """A database on it for many ledgers, each in a schema of its own."""
    return Schemas(postgres)


@pytest.fixture(params=("sqlite", "postgresql"))
def each_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each kind of database in turn, for the ledgers that `ledgers.open_ledger` opens; its name.

    On a server a property is tried on a fifth of the examples: what differs are statements, not histories.
    """
    if request.param == "sqlite":
        yield "sqlite"
        return
    if is_hypothesis_test(request.function):
        held_to = request.function._hypothesis_internal_use_settings
        few = settings(held_to, max_examples=max(1, held_to.max_examples // 5))
        monkeypatch.setattr(request.function, "_hypothesis_internal_use_settings", few)
    with request.getfixturevalue("schemas") as schemas:
        monkeypatch.setattr(ledgers, "elsewhere", schemas)
        yield "postgresql"


@pytest.fixture
def postgres_proxy(postgres: Server) -> Iterator[Proxy]:
    """A network before it, which can fail: `postgres_proxy.url(postgres_url)`."""
    with Proxy(postgres.port) as proxy:
        yield proxy


@pytest.fixture
def postgres_pair() -> Iterator[Pair]:
    """A primary and its synchronous standby, of the test's own."""
    with Server() as primary, primary.standby(synchronous=True) as standby:
        yield Pair(primary, standby)
