"""How long a caller waits for the ledger: from when it began to wait, and not beyond its own cancellation."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable, Iterable

WAIT_S = 10.0
"""The one bound, in seconds, of every wait for a ledger that others keep, counted from when the call began to wait:
in the queue of an event loop's thread, for other threads, for other processes, for programs that know SQLite only."""

GRACE_S = 0.1
"""A cancelled call still waits this long in all, so that a moment's contention does not put off an ending."""


class Patience:
    """One caller's wait: when it ends (`time.monotonic()`), and whether it was given up."""

    __slots__ = ("_turn", "deadline", "is_given_up")

    def __init__(self, wait_s: float) -> None:
        self.deadline = time.monotonic() + wait_s
        self.is_given_up = False
        self._turn = [None]

    def take(self) -> bool:
        """True for the first who asks: the thread that begins the work, or the caller that no longer wants it."""
        try:
            self._turn.pop()
        except IndexError:
            return False
        return True

    def give_up(self) -> None:
        """Wait no longer for what others hold; what has begun is finished."""
        self.is_given_up = True
        self.deadline = min(self.deadline, time.monotonic() + GRACE_S)


class Least:
    """The wait of several callers at once: no longer than that of the least patient of those who still wait."""

    __slots__ = ("_waits",)

    def __init__(self, waits: Callable[[], Iterable[Patience]]) -> None:
        self._waits = waits

    @property
    def deadline(self) -> float:
        """See `Patience`; long ago if nobody waits."""
        return min((wait.deadline for wait in self._waits()), default=0.0)


current: contextvars.ContextVar[Patience | None] = contextvars.ContextVar("costguard_patience", default=None)
"""The wait of the call that this context works for; None: it begins when the ledger is asked."""
