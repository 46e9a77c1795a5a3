"""Blocking work off the event loop: one thread per guard, its results handed back in batches.

The ledger admits one writer at a time, so more threads would only queue for it; and handing results
back one by one would make the loop and the thread fight for the interpreter after each of them.
"""

from __future__ import annotations

import contextvars
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from costguard.exchange.effects import Interrupted
from costguard.ledger.engines import patience
from costguard.ledger.engines.patience import Patience

if TYPE_CHECKING:
    import asyncio

T = TypeVar("T")

BATCH_S = 0.03
"""Results are handed to a loop at once, but the first waits no longer than this for the others."""


class Worker:
    """Runs functions on a thread of its own, in order; started when first needed, and after a fork."""

    def __init__(self) -> None:
        # Reentrant: the end of a stream that was dropped comes from garbage collection, at any moment.
        self._start_lock = threading.RLock()
        self._pid = 0
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def __call__(self, run: Callable[[], Any]) -> Any:
        """Run `run` and return its result.

        A wait for the ledger counts from here, the queue included. A cancellation takes work that is `is_droppable`
        out of the queue; any other stops waiting for the ledger, and raises `Interrupted` if it came to something.
        """
        import asyncio  # not with the module: a synchronous program never pays for it

        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return await _run_elsewhere(run)
        future: asyncio.Future[Any] = loop.create_future()
        wait, work = _job(run)
        self._put((work, loop, future))
        cancellation: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.shield(future)
            except asyncio.CancelledError as error:
                cancellation = error
                if getattr(run, "is_droppable", False) and wait.take():
                    raise  # it has not begun
                wait.give_up()
            except BaseException:
                if cancellation is None:
                    raise
        if cancellation is None:
            return future.result()
        if future.exception() is not None:
            raise cancellation
        raise Interrupted(future.result(), cancellation)

    def later(self, run: Callable[[], Any]) -> None:
        """Run `run` some time soon; its exceptions are its own business."""
        self._put((run, None, None))

    def _put(self, item: Any) -> None:
        if self._pid != os.getpid():
            with self._start_lock:
                if self._pid != os.getpid():
                    self._queue = queue.SimpleQueue()
                    self._thread = threading.Thread(
                        target=_serve, args=(self._queue,), name="costguard-ledger", daemon=True
                    )
                    self._thread.start()
                    self._pid = os.getpid()
        self._queue.put(item)

    def close(self) -> None:
        """Finish what is queued and end the thread."""
        with self._start_lock:
            if self._thread is not None and self._pid == os.getpid():
                self._queue.put(None)
                if self._thread is not threading.current_thread():
                    self._thread.join()
            self._pid = 0
            self._thread = None


def in_one_wait(run: Callable[[], T]) -> T:
    """Run `run` here and now; however often it asks the ledger, it waits for others no longer than one call may."""
    token = patience.current.set(Patience(patience.WAIT_S))
    try:
        return run()
    finally:
        patience.current.reset(token)


def _job(run: Callable[[], Any]) -> tuple[Patience, Callable[[], Any]]:
    """A caller's wait, and its work: run in the caller's context (a scope is one) by whoever takes its turn first."""
    wait = Patience(patience.WAIT_S)
    context = contextvars.copy_context()
    context.run(patience.current.set, wait)

    def work() -> Any:
        return context.run(run) if wait.take() else None

    return wait, work


async def _run_elsewhere(run: Callable[[], Any]) -> Any:
    """As `Worker.__call__`, on a loop that is not asyncio's: trio's, and one of its threads."""
    import anyio
    import anyio.lowlevel
    import anyio.to_thread

    wait, work = _job(run)
    done = anyio.Event()
    outcome: list[Any] = []

    async def serve() -> None:
        with anyio.CancelScope(shield=True):
            try:
                outcome.append(await anyio.to_thread.run_sync(work))
            except BaseException as error:  # noqa: BLE001  it belongs to the caller, and to no group
                outcome.append(_Failure(error))
        done.set()

    with anyio.CancelScope(shield=True) as whole:
        async with anyio.create_task_group() as group:
            group.start_soon(serve)
            whole.shield = False
            try:
                await done.wait()
            except anyio.get_cancelled_exc_class():
                whole.shield = True
                wait.give_up()
                await done.wait()
    (value,) = outcome
    try:
        await anyio.lowlevel.checkpoint_if_cancelled()
    except anyio.get_cancelled_exc_class() as cancellation:
        if isinstance(value, _Failure):
            raise
        raise Interrupted(value, cancellation) from None
    if isinstance(value, _Failure):
        raise value.error
    return value


class _Failure:
    """What work raised."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


async def sleep(seconds: float) -> None:
    """Let time pass on whichever loop is running."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        import anyio

        await anyio.sleep(seconds)
    else:
        await asyncio.sleep(seconds)


def _serve(jobs: queue.SimpleQueue[Any]) -> None:
    job = jobs.get()
    while job is not None:
        begin_s = time.monotonic()
        done: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Any], Any, BaseException | None]]] = {}
        while job is not None:
            run, loop, future = job
            value: Any = None
            failure: BaseException | None = None
            try:
                value = run()
            except BaseException as error:  # noqa: BLE001  it belongs to the caller
                failure = error
            if loop is not None:
                done.setdefault(loop, []).append((future, value, failure))
            if jobs.empty() or time.monotonic() - begin_s > BATCH_S:
                break
            job = jobs.get()
        _hand_back(done)
        if job is not None:
            job = jobs.get()


def _hand_back(done: dict[Any, list[Any]]) -> None:
    for loop, outcomes in done.items():
        try:
            loop.call_soon_threadsafe(_resolve, outcomes)
        except RuntimeError:  # the loop is closed: nobody waits any more
            continue


def _resolve(outcomes: list[tuple[asyncio.Future[Any], Any, BaseException | None]]) -> None:
    for future, value, error in outcomes:
        if future.done():
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(value)
