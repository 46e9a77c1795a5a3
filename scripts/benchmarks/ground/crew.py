"""Programs of their own that are told what to do: each a process with things that it has opened for itself."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

S = TypeVar("S")
R = TypeVar("R")

AHEAD_S = 0.05
"""A turn is told so long before it begins."""

WARM = "scripts.benchmarks.ground.warm"


class Crew(Generic[S]):
    """So many processes that `make` something each, and do jobs with it. A context manager.

    They are forked from a process that has the modules named by `preload`, and opened nothing.
    """

    def __init__(
        self, make: Callable[[], AbstractContextManager[S]], processes: int, *, preload: Sequence[str] = ()
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*preload, __name__])
        self._members: list[tuple[Any, Connection]] = []
        for _ in range(processes):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(make, there))
            process.start()
            there.close()
            self._members.append((process, here))
        for _, pipe in self._members:
            _answer(pipe)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for _, pipe in self._members:
            pipe.close()
        for process, _ in self._members:
            process.join()

    def start(self, job: Callable[..., R], *arguments: object, count: int | None = None) -> Callable[[], list[R]]:
        """Have `count` of them run `job` with what it made, and `arguments`.

        Returns a function that waits for what they return, and raises what one raises.
        """
        return self._start(self._members[:count], lambda _: (job, arguments))

    def turn(self, side: str, seconds: float, *, count: int | None = None, every_s: float = 0.0) -> list[Told]:
        """What `count` of those that make `Sides` did on one side in so many seconds.

        `every_s`: each has a call to make that often, and they come evenly; 0: the next when one is done.
        """
        begin_s, members = time.monotonic() + AHEAD_S, self._members[:count]

        def told(n: int) -> tuple[Any, ...]:
            return _turn, (side, begin_s + every_s * n / len(members), begin_s + seconds, every_s)

        return self._start(members, told)()

    def turns(self, sides: Sequence[str], times: int, seconds: float) -> dict[str, list[Told]]:
        """What each did on every side, which take so many turns of so many seconds."""
        told = {side: [Told(0.0, [], 0.0) for _ in self._members] for side in sides}
        for _ in range(times):
            for side, so_far in told.items():
                told[side] = [one.plus(more) for one, more in zip(so_far, self.turn(side, seconds), strict=True)]
        return told

    def kill(self, count: int) -> None:
        """`kill -9` so many of them, whatever they are at, and know them no more: `start` tells of the others."""
        for process, pipe in self._members[:count]:
            process.kill()
            process.join()
            pipe.close()
        del self._members[:count]

    def _start(
        self, members: Sequence[tuple[Any, Connection]], told: Callable[[int], tuple[Any, ...]]
    ) -> Callable[[], list[Any]]:
        for n, (_, pipe) in enumerate(members):
            pipe.send(told(n))
        return lambda: [_answer(pipe) for _, pipe in members if not pipe.closed]


class Told(NamedTuple):
    """What one process did on one side."""

    seconds: float
    waits: list[float]
    """Seconds that each call told, and those that it was late."""
    cpu_s: float
    """What the process computed meanwhile."""

    def plus(self, other: Told) -> Told:
        """Both together."""
        return Told(self.seconds + other.seconds, self.waits + other.waits, self.cpu_s + other.cpu_s)


Sides = Mapping[str, Callable[[], float]]
"""By name, a call; it tells the seconds of what is measured of it."""


def rate(told: Sequence[Told]) -> float:
    """Calls a second of all together."""
    return sum(len(one.waits) for one in told) / told[0].seconds


def waits(told: Sequence[Told]) -> list[float]:
    """Those of all calls, sorted."""
    return sorted(wait for one in told for wait in one.waits)


def _answer(pipe: Connection) -> Any:
    found = pipe.recv()
    if isinstance(found, Exception):
        raise found
    return found


def _serve(make: Callable[[], AbstractContextManager[S]], pipe: Connection) -> None:
    """One process: a job whenever it is told one, until the pipe is closed."""
    logging.disable(logging.WARNING)
    with make() as made, contextlib.suppress(EOFError):
        pipe.send(None)
        while True:
            job, arguments = pipe.recv()
            try:
                pipe.send(job(made, *arguments))
            except Exception as error:  # noqa: BLE001  it belongs to who told the job
                pipe.send(error)


def _turn(sides: Sides, side: str, begin_s: float, end_s: float, every_s: float) -> Told:
    call, found, due_s = sides[side], list[float](), begin_s
    time.sleep(max(0.0, begin_s - time.monotonic()))
    computed_s = time.process_time()
    while (now_s := time.monotonic()) < end_s:
        late_s = 0.0
        if every_s:
            late_s = max(0.0, now_s - due_s)
            time.sleep(max(0.0, due_s - now_s))
            due_s += every_s
        found.append(call() + late_s)
    return Told(end_s - begin_s, found, time.process_time() - computed_s)
