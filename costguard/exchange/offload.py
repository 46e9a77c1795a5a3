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
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from costguard.exchange.effects import Interrupted
from costguard.ledger.engine import Engine, Outcome, Steps, Write
from costguard.ledger.engine import run as run_steps
from costguard.ledger.engines import patience
from costguard.ledger.engines.patience import Patience

if TYPE_CHECKING:
    import asyncio

BATCH_S = 0.03
"""Results are handed to a loop at once, but the first waits no longer than this for the others."""

GROUP_S = 0.005
"""Calls that are ready to write wait no longer than this for others that may join their transaction, and"""

GROUP_MAX = 64
"""no longer than until there are so many."""


class Worker:
    """Runs functions on a thread of its own, in order; started when first needed, and after a fork.

    Those that come to `Steps` are put aside before each write, and what was put aside is written together. Each waits
    for the ledger for `wait_s` at most.
    """

    def __init__(self, wait_s: float | None = None) -> None:
        self._wait_s = patience.WAIT_S if wait_s is None else wait_s
        # Reentrant: the end of a stream that was dropped comes from garbage collection, at any moment.
        self._start_lock = threading.RLock()
        self._pid = 0
        self._jobs: deque[_Job] = deque()
        self._bell: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._due: set[object] = set()
        self._first_s = 0.0
        self._thread: threading.Thread | None = None

    async def __call__(self, run: Callable[[], Any]) -> Any:
        """Run `run` and return its result, or what the steps that it returns come to.

        A wait for the ledger counts from here, the queue included. A cancellation takes work that is `is_droppable`
        out of the queue; any other stops waiting for the ledger, and raises `Interrupted` if it came to something.
        """
        import asyncio  # not with the module: a synchronous program never pays for it

        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return await _run_elsewhere(run, self._wait_s)
        future: asyncio.Future[Any] = loop.create_future()
        job = _Job(run, *_with_wait(self._wait_s), loop, future)
        self._put(job, loop)
        cancellation: asyncio.CancelledError | None = None
        while not future.done():
            try:
                await asyncio.shield(future)
            except asyncio.CancelledError as error:
                cancellation = error
                if getattr(run, "is_droppable", False) and job.wait.take():
                    raise  # it has not begun
                job.wait.give_up()
            except GeneratorExit:
                self._ring(loop)  # it may never run again
                raise
            except BaseException:
                if cancellation is None:
                    raise
        if cancellation is None:
            return future.result()
        if future.exception() is not None:
            raise cancellation
        raise Interrupted(future.result(), cancellation)

    def later(self, run: Callable[[], Any]) -> None:
        """Run `run` some time soon, behind all that has begun; its exceptions are its own business."""
        self._put(_Job(run, contextvars.Context(), Patience(self._wait_s), None, None), None)

    def _put(self, job: _Job, loop: asyncio.AbstractEventLoop | None) -> None:
        if self._pid != os.getpid():
            self._start()
        self._jobs.append(job)
        # A loop's tasks that are ready at once come at once: the thread is woken when they have had their turn.
        if loop is None or len(self._jobs) >= GROUP_MAX:
            self._bell.put(True)
        elif loop not in self._due:
            self._due.add(loop)
            self._first_s = time.monotonic()
            loop.call_soon(self._ring, loop)
        elif time.monotonic() - self._first_s > GROUP_S:
            self._ring(loop)

    def _ring(self, loop: object) -> None:
        self._due.discard(loop)
        self._bell.put(True)

    def _start(self) -> None:
        with self._start_lock:
            if self._pid != os.getpid():
                if self._pid:  # a fork's child: what is queued is its parent's
                    self._jobs = deque()
                self._bell, self._due = queue.SimpleQueue(), set()
                self._thread = threading.Thread(
                    target=_serve, args=(self._jobs, self._bell), name="costguard-ledger", daemon=True
                )
                self._thread.start()
                self._pid = os.getpid()

    def close(self) -> None:
        """Finish what is queued and end the thread."""
        with self._start_lock:
            if self._thread is not None and self._pid == os.getpid():
                self._bell.put(False)
                if self._thread is not threading.current_thread():
                    self._thread.join()
            self._pid = 0
            self._thread = None


class _Job:
    """A caller's work, run in the caller's context: a scope is one, and so is its wait."""

    __slots__ = ("context", "error", "future", "loop", "run", "steps", "value", "wait", "write")

    def __init__(
        self,
        run: Callable[[], Any],
        context: contextvars.Context,
        wait: Patience,
        loop: asyncio.AbstractEventLoop | None,
        future: asyncio.Future[Any] | None,
    ) -> None:
        self.run = run
        self.context = context
        self.wait = wait
        self.loop = loop
        self.future = future
        self.steps: Steps[Any] | None = None
        self.write: Write | None = None
        """What it waits for, None if it is over."""
        self.value: Any = None
        self.error: BaseException | None = None

    def begin(self) -> None:
        """Run it as far as its first write."""
        if not self.wait.take():
            return
        try:
            self.value = self.context.run(self.run)
        except BaseException as error:  # noqa: BLE001  it belongs to the caller
            self.error = error
            return
        if isinstance(self.value, GeneratorType):
            self.steps = self.value
            self.go_on(Outcome(None, None))

    def go_on(self, outcome: Outcome) -> None:
        """Run it as far as its next write, now that its last one came to `outcome`."""
        steps = self.steps
        if steps is None:
            return
        self.write = None
        try:
            if outcome.error is None:
                self.write = self.context.run(steps.send, outcome.value)
            else:
                self.write = self.context.run(steps.throw, outcome.error)
        except StopIteration as end:
            self.value = end.value
        except BaseException as error:  # noqa: BLE001  it belongs to the caller
            self.error = error


def in_one_wait(run: Callable[[], Any], wait_s: float | None = None) -> Any:
    """Run `run` here and now, and the steps that it may return; however often it asks the ledger, it waits for others
    no longer than one call may, which is `wait_s`.
    """
    token = patience.current.set(Patience(patience.WAIT_S if wait_s is None else wait_s))
    try:
        return _whole(run)
    finally:
        patience.current.reset(token)


def _whole(work: Callable[[], Any]) -> Any:
    value = work()
    return run_steps(value) if isinstance(value, GeneratorType) else value


def in_this_wait(run: Callable[[], Any], wait_s: float) -> Any:
    """As `in_one_wait`; within something else's wait it is that one's."""
    return in_one_wait(run, wait_s) if patience.current.get() is None else _whole(run)


def _with_wait(wait_s: float) -> tuple[contextvars.Context, Patience]:
    """The caller's context, with a wait of its own in it that begins now."""
    context, wait = contextvars.copy_context(), Patience(wait_s)
    context.run(patience.current.set, wait)
    return context, wait


async def _run_elsewhere(run: Callable[[], Any], wait_s: float) -> Any:
    """As `Worker.__call__`, on a loop that is not asyncio's: trio's, and one of its threads."""
    import anyio
    import anyio.lowlevel
    import anyio.to_thread

    context, wait = _with_wait(wait_s)
    done = anyio.Event()
    outcome: list[Any] = []

    async def serve() -> None:
        with anyio.CancelScope(shield=True):
            try:
                outcome.append(await anyio.to_thread.run_sync(context.run, _whole, run))
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


def _serve(jobs: deque[_Job], bell: queue.SimpleQueue[bool]) -> None:
    is_open = True
    while is_open:
        is_open = bell.get()
        while jobs:
            _serve_some(jobs)


def _serve_some(jobs: deque[_Job]) -> None:
    """Begin what waits, write together what it comes to, and hand back what is over."""
    done: list[_Job] = []
    parked: list[_Job] = []
    until_s = time.monotonic() + BATCH_S
    while jobs or parked:
        # What is to run behind all that has begun, does.
        while jobs and len(parked) < GROUP_MAX and not (parked and jobs[0].loop is None):
            job = jobs.popleft()
            job.begin()
            now_s = time.monotonic()
            if job.write is None:
                done.append(job)
            else:
                parked.append(job)
                until_s = min(until_s, now_s + GROUP_S)
            if now_s > until_s:
                break
        _write(parked)
        done += [job for job in parked if job.write is None]
        parked = [job for job in parked if job.write is not None]
        _hand_back(done)
        done = []
        until_s = time.monotonic() + BATCH_S


def _write(parked: Sequence[_Job]) -> None:
    """One transaction for what each of them waits for, and each as far as its next one."""
    writes: dict[Engine, list[tuple[_Job, Write]]] = {}
    for job in parked:
        if job.write is not None:
            writes.setdefault(job.write.engine, []).append((job, job.write))
    for engine, some in writes.items():
        try:
            outcomes = engine.write_all([(job.context, write) for job, write in some])
        except BaseException as error:  # noqa: BLE001  it belongs to the callers
            outcomes = [Outcome(None, error)] * len(some)
        for (job, _), outcome in zip(some, outcomes, strict=True):
            job.go_on(outcome)


def _hand_back(done: Iterable[_Job]) -> None:
    over: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in done:
        if job.loop is not None:
            over.setdefault(job.loop, []).append(job)
    for loop, some in over.items():
        try:
            loop.call_soon_threadsafe(_resolve, some)
        except RuntimeError:  # the loop is closed: nobody waits any more
            continue


def _resolve(done: Iterable[_Job]) -> None:
    for job in done:
        if job.future is None or job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.value)
