"""Writes that wait together share a transaction: whoever has the gate runs what others have queued meanwhile."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from costguard.errors import LedgerError
from costguard.ledger.engines.files import SqliteTx
from costguard.ledger.engines.patience import Patience

GROUP_MAX = 64
"""Writes in one transaction: those behind wait for the next one."""

STEP_S = 0.05
"""A wait is woken when its turn has come, and looks by itself this often: its caller may give up meanwhile."""

Op = Callable[[SqliteTx], Any]


class Job:
    """One write, and what came of it. `op` may be run again, as long as nothing of it is committed."""

    __slots__ = ("error", "group", "op", "turn", "value", "wait")

    def __init__(self, op: Op, wait: Patience, turn: Turn | None = None) -> None:
        self.op = op
        self.wait = wait
        self.turn = turn
        """What its thread sleeps on; None once the job is in the hands of its own thread."""
        self.group: Group | None = None
        self.value: Any = None
        self.error: Exception | None = None

    @property
    def is_answered(self) -> bool:
        """True if its caller may go on."""
        return self.error is not None or (self.group is not None and self.group.is_over)

    @property
    def is_open(self) -> bool:
        """True if it is to be run, for whoever has the gate: nothing of it is under way then.

        What was committed is not, even if the thread that did it was interrupted before it could say so.
        """
        return self.error is None and not (self.group is not None and self.group.commits)

    def run(self, tx: SqliteTx, group: Group) -> None:
        """Run it in a transaction of `group`."""
        self.group = group
        self.value = self.op(tx)

    def result(self) -> Any:
        """Its value, or raise its error."""
        error = self.error or (self.group.failure() if self.group is not None else None)
        if error is None:
            return self.value
        try:
            raise error
        finally:
            self.error = error = None  # no ring of error, traceback and frames


class Turn:
    """What a waiting thread sleeps on: a lock that others release."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def sleep(self) -> None:
        """Wait until somebody calls `wake`, or for `STEP_S` seconds."""
        self._lock.acquire(timeout=STEP_S)

    def wake(self) -> None:
        """Let the thread go on; no harm if it is awake."""
        with contextlib.suppress(RuntimeError):
            self._lock.release()


class Group:
    """The writes of one transaction: those of the thread that leads, and `others`."""

    __slots__ = ("_lost", "commits", "is_closed", "is_over", "others", "pid")

    def __init__(self, pid: int, *, is_closed: bool = False) -> None:
        self.pid = pid
        self.is_closed = is_closed
        """True if nobody may join."""
        self.others: list[Job] = []
        self.commits: list[object] = []
        """Not empty once it is committed: filled by the very call that commits, so that no interrupt comes between."""
        self.is_over = False
        self._lost = ""

    def run_queued(self, queue: deque[Job], tx: SqliteTx) -> None:
        """Run what waits in `queue`, as long as anything does; whatever is taken out of it is in `others`."""
        others, run = self.others, 1
        while run < GROUP_MAX and not self.is_closed:
            try:
                others.extend(map(deque.popleft, (queue,)))  # in C: no interrupt comes between out and in
            except IndexError:
                return
            others[-1].run(tx, self)
            run += 1

    def lose(self, error: Exception) -> None:
        """What was committed may not be there: that is the answer to all of it."""
        self._lost = str(error)

    def failure(self) -> LedgerError | None:
        """An error for each who asks, None if all is well."""
        return LedgerError(self._lost) if self._lost else None

    def hand_out(self, queue: deque[Job], pid: int) -> None:
        """At its end: answer what was committed, and put the rest back to the front of the queue.

        In the child of a fork that a signal handler made (another `pid`) the threads of the others are not there.
        """
        if self.commits:
            self.is_over = True
        if not self.others or pid != self.pid:
            return
        if not self.commits:
            back = [job for job in self.others if job.is_open]
            for job in back:
                job.group = None
            queue.extendleft(reversed(back))
        for turn in dict.fromkeys([job.turn for job in self.others]):
            if turn is not None:
                turn.wake()


def wake_next(queue: deque[Job]) -> None:
    """Let the first who waits look whether the gate is free."""
    try:
        turn = queue[0].turn
    except IndexError:
        return
    if turn is not None:
        turn.wake()


def give_up(jobs: Iterable[Job], queue: deque[Job], error: Callable[[], LedgerError]) -> None:
    """Answer those of `jobs` that have waited for too long, and have not begun, with an `error`."""
    now_s = time.monotonic()
    for job in jobs:
        if now_s > job.wait.deadline:
            with contextlib.suppress(ValueError):  # it has begun
                queue.remove(job)
                job.error = error()


def withdraw(jobs: Iterable[Job], queue: deque[Job], gate: Any) -> None:
    """Take back what has not begun; what others have begun is waited for."""
    for job in jobs:
        while not job.is_answered and job.turn is not None:
            is_free = _is_free(gate)  # before the look into the queue: who had it has put back what was not done
            try:
                queue.remove(job)
            except ValueError:
                if is_free:
                    break
                job.turn.sleep()
            else:
                job.turn = None


def _is_free(gate: Any) -> bool:
    """True if nobody is at it."""
    try:
        return bool(gate.acquire(blocking=False))
    finally:
        with contextlib.suppress(RuntimeError):
            gate.release()
