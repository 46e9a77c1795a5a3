"""The ledger's thread: in order, never abandoned, and never in an event loop's way."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import anyio
import anyio.to_thread
import pytest

from costguard.exchange.effects import Interrupted
from costguard.exchange.offload import Worker, in_one_wait
from costguard.ledger.engine import Outcome, Steps, Write, attempt


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def fail() -> None:
    raise ValueError("on purpose")


class Gate:
    """Work that waits until it may go on."""

    def __init__(self, result: Callable[[], Any] = lambda: "done") -> None:
        self.begun, self.open, self.result = threading.Event(), threading.Event(), result

    def __call__(self) -> Any:
        self.begun.set()
        assert self.open.wait(30)
        return self.result()

    async def wait_until_begun(self) -> None:
        await anyio.to_thread.run_sync(self.begun.wait, 30)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_work_runs_on_another_thread_and_gives_its_result(backend: str, worker: Worker) -> None:
    async def main() -> Any:
        return await worker(threading.get_ident)

    assert anyio.run(main, backend=backend) != threading.get_ident()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_work_that_fails_raises_in_its_caller(backend: str, worker: Worker) -> None:
    async def main() -> None:
        await worker(fail)

    with pytest.raises(ValueError, match="on purpose"):
        anyio.run(main, backend=backend)


def test_work_is_done_in_order_by_one_thread(worker: Worker) -> None:
    done: list[int] = []
    threads: set[int] = set()

    def work(n: int) -> int:
        done.append(n)
        threads.add(threading.get_ident())
        return n

    async def main() -> list[Any]:
        return await asyncio.gather(*(worker(lambda n=n: work(n)) for n in range(100)))  # type: ignore[misc]

    assert asyncio.run(main()) == done == list(range(100))
    assert len(threads) == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_work_sees_the_context_of_its_caller(backend: str, worker: Worker) -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")

    async def main() -> Any:
        name.set("mine")
        return await worker(name.get)

    assert anyio.run(main, backend=backend) == "mine"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_loop_goes_on_while_work_blocks(backend: str, worker: Worker) -> None:
    gate = Gate()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(worker, gate)
            await gate.wait_until_begun()
            gate.open.set()  # only a loop that goes on comes here

    anyio.run(main, backend=backend)


@pytest.mark.parametrize("times", [1, 3])
def test_a_cancelled_caller_learns_what_its_work_came_to(times: int, worker: Worker) -> None:
    gate = Gate()

    async def main() -> BaseException | None:
        task = asyncio.ensure_future(worker(gate))
        await gate.wait_until_begun()
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        gate.open.set()
        try:
            await task
        except Interrupted as interrupted:
            return interrupted
        return None

    interrupted = asyncio.run(main())
    assert isinstance(interrupted, Interrupted)
    assert interrupted.value == "done"
    assert isinstance(interrupted.cancellation, asyncio.CancelledError)


def test_a_cancelled_caller_of_failing_work_is_cancelled(worker: Worker) -> None:
    gate = Gate(fail)

    async def main() -> None:
        task = asyncio.ensure_future(worker(gate))
        await gate.wait_until_begun()
        task.cancel()
        await asyncio.sleep(0)
        gate.open.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_trio_learns_of_work_that_a_cancellation_met(worker: Worker) -> None:
    gate = Gate()
    values: list[Any] = []

    async def call() -> None:
        try:
            values.append(await worker(gate))
        except Interrupted as interrupted:
            values.append(interrupted.value)
            raise interrupted.cancellation from None

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await gate.wait_until_begun()
            group.cancel_scope.cancel()
            gate.open.set()

    anyio.run(main, backend="trio")
    assert values == ["done"]


def test_a_closed_loop_hurts_neither_its_work_nor_others(worker: Worker) -> None:
    gate = Gate()
    loop = asyncio.new_event_loop()
    call = worker(gate)

    async def start() -> None:
        call.send(None)
        await gate.wait_until_begun()

    loop.run_until_complete(start())
    call.close()
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    gate.open.set()

    async def main() -> Any:
        return await worker(lambda: "another")

    assert asyncio.run(main()) == "another"


def test_two_loops_share_a_worker(worker: Worker) -> None:
    results: dict[str, list[Any]] = {}

    def run(name: str) -> None:
        async def main() -> list[Any]:
            return await asyncio.gather(*(worker(lambda n=n: f"{name}{n}") for n in range(50)))  # type: ignore[misc]

        results[name] = asyncio.run(main())

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {name: [f"{name}{n}" for n in range(50)] for name in "ab"}


def test_closing_finishes_what_is_queued(worker: Worker) -> None:
    done: list[int] = []
    for n in range(100):
        worker.later(lambda n=n: done.append(n))  # type: ignore[misc]
    worker.later(fail)  # and its failure is nobody's
    worker.later(lambda: done.append(100))
    worker.close()
    assert done == list(range(101))


def test_closing_twice_or_unused_or_from_its_own_thread_is_fine(worker: Worker) -> None:
    Worker().close()
    closed = threading.Event()

    def close() -> None:
        worker.close()
        closed.set()

    worker.later(close)
    assert closed.wait(30)
    worker.close()


def test_a_closed_worker_starts_again_when_needed(worker: Worker) -> None:
    worker.later(lambda: None)
    worker.close()

    async def main() -> Any:
        return await worker(lambda: "again")

    assert asyncio.run(main()) == "again"


def test_the_thread_ends_with_the_worker(worker: Worker) -> None:
    name = "costguard-ledger"
    before = sum(thread.name == name for thread in threading.enumerate())
    worker.later(lambda: None)
    assert sum(thread.name == name for thread in threading.enumerate()) == before + 1
    worker.close()
    assert sum(thread.name == name for thread in threading.enumerate()) == before


def test_a_forked_child_has_a_thread_of_its_own(worker: Worker) -> None:
    worker.later(lambda: None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # to fork beside a thread is what is tested
        child = os.fork()
    if child == 0:
        done = threading.Event()
        worker.later(done.set)
        os._exit(0 if done.wait(20) else 1)
    deadline = time.monotonic() + 30
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        assert time.monotonic() < deadline, "the child hangs"
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(ended[1]) == 0


# Steps: what many come to is written together


class Together:
    """An engine that writes nothing, and remembers how much came at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def write(self, op: Callable[[Any], Any], *, beside: bool = False) -> Any:
        self.sizes.append(1)
        return op(None)

    def write_all(self, writes: Sequence[tuple[contextvars.Context, Write]]) -> list[Outcome]:
        self.sizes.append(len(writes))
        return [attempt(context.run, write.op, None) for context, write in writes]


@pytest.fixture
def engine() -> Any:
    return Together()


def doubled(engine: Any, n: int) -> Steps[int]:
    first: int = yield Write(engine, lambda _: n)
    second: int = yield Write(engine, lambda _: n)
    return first + second


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_steps_come_to_their_value(backend: str, worker: Worker, engine: Any) -> None:
    async def main() -> Any:
        return await worker(lambda: doubled(engine, 3))

    assert anyio.run(main, backend=backend) == in_one_wait(lambda: doubled(engine, 3)) == 6


def test_steps_of_many_tasks_are_written_together(worker: Worker, engine: Any) -> None:
    async def main() -> list[Any]:
        return await asyncio.gather(*(worker(lambda n=n: doubled(engine, n)) for n in range(30)))  # type: ignore[misc]

    assert asyncio.run(main()) == [2 * n for n in range(30)]
    assert sum(engine.sizes) == 60
    assert max(engine.sizes) > 1


def test_a_write_that_fails_is_thrown_into_its_own_steps_alone(worker: Worker, engine: Any) -> None:
    def careful(n: int) -> Steps[str]:
        try:
            yield Write(engine, lambda _: 1 // n)
        except ZeroDivisionError:
            return "failed"
        return "written"

    async def main() -> list[Any]:
        return await asyncio.gather(*(worker(lambda n=n: careful(n)) for n in range(3)))  # type: ignore[misc]

    assert asyncio.run(main()) == ["failed", "written", "written"]


def test_an_engine_that_breaks_is_the_error_of_all_that_wrote_and_the_thread_goes_on(
    worker: Worker, engine: Any
) -> None:
    def broken(_: object) -> list[Outcome]:
        raise SystemError("on purpose")

    async def main() -> list[Any]:
        calls = (worker(lambda: doubled(engine, 1)) for _ in range(3))
        found = await asyncio.gather(*calls, return_exceptions=True)
        return [*map(str, found), await worker(lambda: "another")]

    engine.write_all = broken
    assert asyncio.run(main()) == ["on purpose"] * 3 + ["another"]


def test_each_step_sees_the_context_of_its_caller(worker: Worker, engine: Any) -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name")

    def steps() -> Steps[list[str]]:
        before = name.get()
        yield Write(engine, lambda _: None)
        between = name.get()
        name.set(f"{between}!")
        yield Write(engine, lambda _: None)
        return [before, between, name.get()]

    async def call(own: str) -> Any:
        name.set(own)
        return await worker(steps)

    async def main() -> list[Any]:
        return list(await asyncio.gather(call("a"), call("b")))

    assert asyncio.run(main()) == [["a", "a", "a!"], ["b", "b", "b!"]]


def test_what_is_to_run_later_runs_behind_steps_that_have_begun(worker: Worker, engine: Any) -> None:
    """What gives back a hold must not look before the hold is written."""
    seen: list[str] = []

    def steps() -> Steps[None]:
        yield Write(engine, lambda _: None)
        yield Write(engine, lambda _: None)
        seen.append("steps")

    async def main() -> None:
        call = asyncio.ensure_future(worker(steps))
        await asyncio.sleep(0)
        worker.later(lambda: seen.append("later"))
        await call

    for _ in range(20):
        asyncio.run(main())
    worker.close()
    assert seen == ["steps", "later"] * 20


def test_work_of_a_loop_that_ends_before_its_turn_is_done_all_the_same(worker: Worker) -> None:
    done = threading.Event()
    loop = asyncio.new_event_loop()
    call = worker(done.set)

    async def start() -> None:
        call.send(None)

    loop.run_until_complete(start())
    call.close()
    loop.close()
    assert done.wait(30)
