"""What the tests of the native roads share: streams read in every way, and what the ledger then says."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

from conftest import AnyClient, only_task
from loopback import LoopClient

from costguard import Guard
from costguard.ledger.engine import Tx
from costguard.testing import StandIn
from costguard.wire.sse import EVENT_STREAM

SSE = {"content-type": EVENT_STREAM}


class Scripted:
    """A transport for any client that answers with `chunks`; an exception among them is raised in its place.

    `before` is called before each chunk; what it returns is awaited in an asynchronous client.
    """

    def __init__(
        self,
        chunks: Iterable[bytes | BaseException],
        *,
        headers: dict[str, str] | None = None,
        status: int = 200,
        before: Callable[[int], Any] = lambda _: None,
    ) -> None:
        self._chunks = list(chunks)
        self._headers = SSE if headers is None else headers
        self._status = status
        self._before = before
        self.closed = 0

    def _answer(self, request: Any, stream: Any) -> Any:
        module = __import__(type(request).__module__.partition(".")[0])
        return module.Response(self._status, headers=self._headers, stream=stream(module), request=request)

    def handle_request(self, request: Any) -> Any:
        request.read()
        outer = self

        def stream(module: Any) -> Any:
            class Stream(module.SyncByteStream):  # type: ignore[misc]
                def __iter__(self) -> Iterator[bytes]:
                    for n, chunk in enumerate(outer._chunks):
                        outer._before(n)
                        if isinstance(chunk, BaseException):
                            raise chunk
                        yield chunk

                def close(self) -> None:
                    outer.closed += 1

            return Stream()

        return self._answer(request, stream)

    async def handle_async_request(self, request: Any) -> Any:
        await request.aread()
        outer = self

        def stream(module: Any) -> Any:
            class Stream(module.AsyncByteStream):  # type: ignore[misc]
                async def __aiter__(self) -> AsyncIterator[bytes]:
                    for n, chunk in enumerate(outer._chunks):
                        waiting = outer._before(n)
                        if waiting is not None:
                            await waiting
                        if isinstance(chunk, BaseException):
                            raise chunk
                        yield chunk

                async def aclose(self) -> None:
                    outer.closed += 1

            return Stream()

        return self._answer(request, stream)

    def close(self) -> None:
        """Nothing to close."""

    async def aclose(self) -> None:
        """Nothing to close."""

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing to close."""

    async def __aenter__(self) -> Scripted:
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Nothing to close."""


def read_stream(
    client: AnyClient, *tasks: Any, chunks: int | None = None, on_chunk: Callable[[bytes], None] = lambda _: None,
    url: str = "/v1", json: Any = None,
) -> Any:  # fmt: skip
    """POST streamed tasks, or `json`; read all of the answer, or `chunks` of it; then it is closed. The response."""
    body = json or list(tasks)
    over_loopback: Any = client
    if isinstance(over_loopback, LoopClient):
        return over_loopback.read_stream(url, body, chunks=chunks, on_chunk=on_chunk)
    if client.is_async:

        async def aread() -> Any:
            async with client.bare.stream("POST", url, json=body) as response:
                n = 0
                async for chunk in response.aiter_raw():
                    on_chunk(chunk)
                    n += 1
                    if n == chunks:
                        break
            return response

        return client.call(aread)
    with client.bare.stream("POST", url, json=body) as response:
        for n, chunk in enumerate(response.iter_raw(), start=1):
            on_chunk(chunk)
            if n == chunks:
                break
    return response


def frame(task: dict[str, Any], **fields: Any) -> bytes:
    """A frame of a task's stream; give `text=` for a delta."""
    said = fields.pop("text", None)
    delta = {} if said is None else {"text": said}
    told = {"taskType": task["taskType"], "taskUUID": task["taskUUID"], "delta": delta, **fields}
    return b"data: " + json.dumps(told).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def evidence(guard: Guard) -> dict[str, Any]:
    """What the ledger kept of the only task's stream."""
    ((found,),) = guard.ledger._engine.read(lambda tx: tx.all("SELECT evidence FROM attempts"))
    kept: dict[str, Any] = json.loads(found or "{}")
    return kept


def ledger_bytes(guard: Guard) -> bytes:
    """Everything the ledger wrote: its file and the log of it, or its rows on a server."""
    path: Path | None = getattr(guard.ledger._engine, "path", None)
    found = b""
    if path is None:
        return str(guard.ledger._engine.read(_all_rows)).encode()
    for name in (path.name, f"{path.name}-wal"):
        with suppress(FileNotFoundError):
            found += path.with_name(name).read_bytes()
    return found


def _all_rows(tx: Tx) -> list[list[tuple[Any, ...]]]:
    names = tx.all("SELECT tablename FROM pg_tables WHERE schemaname = current_schema")
    return [tx.all(f"SELECT * FROM {name}") for (name,) in names]


def charged(guard: Guard) -> Decimal:
    """USD charged in all."""
    return Decimal(sum(row.charged for row in guard.ledger.tasks())).scaleb(-9)


def agree(guard: Guard, standin: StandIn) -> bool:
    """The ledger is the bill, task by task, nothing is held, and every promise holds; fails naming what is not."""
    rows = guard.ledger.tasks()
    assert {row.task_uuid: Decimal(row.charged).scaleb(-9) for row in rows if row.charged} == {
        uuid: standin.billed(uuid) for uuid in {bill.task_uuid for bill in standin.bill}
    }
    assert [row for row in rows if row.held or row.status in ("held", "unresolved")] == []
    assert guard.verify().difference is None
    return True


def status(guard: Guard) -> tuple[str, int]:
    """How the only task stands, and its attempts."""
    task = only_task(guard)
    return task.status, task.attempts


class Provider(Scripted):
    """A transport for any client whose `answer(tasks)` gives (status, JSON), or raises."""

    def __init__(self, answer: Callable[[list[dict[str, Any]]], tuple[int, Any]]) -> None:
        super().__init__([])
        self._reply = answer
        self.asked: list[list[dict[str, Any]]] = []

    def _answer(self, request: Any, stream: Any) -> Any:
        tasks = json.loads(request.content)
        self.asked.append(tasks)
        status, told = self._reply(tasks)
        module = __import__(type(request).__module__.partition(".")[0])
        return module.Response(status, json=told, request=request)


def details(task: dict[str, Any], *items: dict[str, Any], errors: Any = None) -> dict[str, Any]:
    """What `getTaskDetails` says of a task."""
    named = [{"taskType": task["taskType"], "taskUUID": task["taskUUID"], **item} for item in items]
    response = {"errors": errors} if errors else {"data": named}
    return {"taskType": "getTaskDetails", "taskUUID": task["taskUUID"], "request": task, "response": response}


def unknown(task: dict[str, Any]) -> dict[str, Any]:
    """The error for a task that the provider does not know."""
    return {"code": "taskNotFound", "message": "Task was not found.", "taskUUID": task["taskUUID"]}
