"""One thread at a time writes, and leads those that wait: what they have queued runs in its transaction."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from costguard.errors import LedgerError
from costguard.ledger.engines import patience
from costguard.ledger.engines.files import SqliteTx
from costguard.ledger.engines.grouping import Group, Job, Turn, give_up, wake_next, withdraw
from costguard.ledger.engines.keeping import OpenFiles
from costguard.ledger.engines.patience import Least, Patience

T = TypeVar("T")


class Leading(OpenFiles):
    """The gate of one engine, and the queue before it."""

    # An interrupt (KeyboardInterrupt) may come after any call. So whatever is taken is taken inside the
    # `try` that gives it back, and given back by functions written in C: nothing comes in between.

    def __init__(self, path: Path, synchronous: str) -> None:
        super().__init__(path, synchronous)
        # Reentrant, so that a signal handler that forks, or ends a call, cannot hang on its own thread.
        self._gate = threading.RLock()
        self._queue: deque[Job] = deque()
        self._writing = False

    def _transact(self, job: Job | None, wait: Patience | Least, group: Group) -> None:
        """Run `job` and what is queued in one transaction of `group`; without a job, look after the files alone."""
        raise NotImplementedError

    def _write(self, op: Callable[[SqliteTx], T], wait: Patience) -> T:
        job = Job(op, wait)
        is_free = False
        try:
            is_free = self._gate.acquire(blocking=False)
            if is_free:
                self._check_idle()
                self._lead(job, wait)
        finally:
            try:  # noqa: SIM105  `suppress` costs as much as the lock
                self._gate.release()
            except RuntimeError:  # the gate was never taken
                pass
        if not is_free:
            self._wait_in_queue([job], wait)
        elif self._queue:
            wake_next(self._queue)
        value: T = job.result()
        return value

    def _wait_in_queue(self, jobs: Sequence[Job], wait: Patience | Least) -> None:
        """Until each of `jobs` is answered: by a thread that has the gate, or by this one once it gets it."""
        turn = Turn()
        for job in jobs:
            job.turn = turn
        try:
            self._queue.extend(jobs)
            self._lead_if_free(jobs, wait)  # the gate may have been given back before anybody saw what waits
            while left := [job for job in jobs if not job.is_answered]:
                turn.sleep()
                if not all(job.is_answered for job in left):
                    self._lead_if_free(left, wait)
                    give_up(left, self._queue, self._busy)
        except BaseException:
            withdraw(jobs, self._queue, self._gate)
            raise

    def _lead_if_free(self, jobs: Sequence[Job], wait: Patience | Least) -> None:
        is_free = False
        try:
            is_free = self._gate.acquire(blocking=False)
            if is_free:
                self._check_idle()
                while left := [job for job in jobs if job.is_open]:
                    self._take_out(left[0])
                    # A write within this thread (a finalizer's, a signal handler's) may have led it just before.
                    if left[0].is_open:
                        self._lead(left[0], wait, left)
                for job in jobs:
                    if job.group is not None:
                        job.group.is_over = True  # whoever committed it may have been interrupted before it said so
        finally:
            try:  # noqa: SIM105
                self._gate.release()
            except RuntimeError:
                pass
        if is_free and self._queue:
            wake_next(self._queue)

    def _take_out(self, job: Job) -> None:
        job.turn = None
        with contextlib.suppress(ValueError):
            self._queue.remove(job)

    def _check_idle(self) -> None:
        if self._writing:
            raise LedgerError(
                f"the ledger {self.path} is being written by this very thread: a signal handler, finalizer"
                " or transaction cannot write in between; do it later"
            )

    def _lead(self, job: Job, wait: Patience | Least, fellows: Sequence[Job] = ()) -> None:
        """Run `job`, and what others have queued, in one transaction; if that fails, each in one of its own.

        The gate is held. Every job is told what came of it; what this raises is an interrupt of this thread. What
        fails before any has begun is the answer to the least patient of `fellows`, whose wait it was.
        """
        group = Group(self._pid)
        try:
            self._transact(job, wait, group)
        except Exception as error:  # noqa: BLE001  it belongs to the caller
            if group.commits:
                group.lose(error)
            elif not group.others or group.pid != self._pid:  # or a fork's child: the others are its parent's
                self._least_patient(job, fellows).error = error
            else:
                for each in (job, *group.others):
                    self._run_alone(each)
        finally:
            group.hand_out(self._queue, self._pid)

    def _least_patient(self, job: Job, fellows: Sequence[Job]) -> Job:
        """Whose wait it was that failed: `job` if it has begun, else that one of its `fellows` and it."""
        if job.group is None:
            for each in sorted(fellows, key=lambda each: each.wait.deadline):
                self._take_out(each)
                if each.is_open:
                    return each
        return job

    def _run_alone(self, job: Job) -> None:
        group = Group(self._pid, is_closed=True)
        try:
            self._transact(job, job.wait, group)
        except Exception as error:  # noqa: BLE001  it belongs to the caller
            if group.commits:
                group.lose(error)
            else:
                job.error = error
        finally:
            group.hand_out(self._queue, self._pid)
            if job.turn is not None:
                job.turn.wake()

    def _busy(self) -> LedgerError:
        return LedgerError(f"the ledger {self.path}: other threads kept it busy for {patience.WAIT_S:g} s")
