"""A ledger that is away, and calls go on all the same: what it is to be told waits in a spool until it is back."""

from __future__ import annotations

import functools
import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

from costguard.errors import ConfigurationError, LedgerError
from costguard.exchange.replaying import WRITING, Desk, Replay, adopt
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.engines import patience
from costguard.ledger.spool import BYTES_MAX, Spool, kept_lines
from costguard.ledger.spooled import Begun, Degraded, Ended, Heard, degraded

PAUSE_S = (0.5, 30.0)
"""First and longest pause between two looks for a ledger that is away; each is twice the one before."""

PASSES_MAX = 3
"""So often what came meanwhile is told too before new calls go to the ledger again: else a busy program never ends."""

log = logging.getLogger("costguard")


class Outage:
    """Whether the ledger is away, and the spool for as long as it has anything.

    `reach` gives the ledger, or raises why it cannot be opened. Once it is away nobody waits for it: a thread of this
    looks for it, with growing pauses, tells it all, and only then do calls go to it again.
    """

    def __init__(self, folder: Path, reach: Callable[[], Ledger], desk: Desk) -> None:
        self._folder = folder
        self._reach = reach
        self._desk = desk
        self._spool = Spool(folder)
        self._keys: set[str] = set()
        """Admissions that are in the file."""
        self._waiting: list[Callable[[Ledger], object]] = []
        self._why = ""
        self.since_us: int | None = None
        """When it was found to be away; None: it is not."""
        self._is_closed = False
        self._begin()
        _outages.add(self)

    def _begin(self) -> None:
        # Reentrant: the end of a stream that was dropped comes from garbage collection, at any moment.
        self._turn = threading.RLock()
        self._looking = threading.RLock()
        self._bell = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_wanted = False
        """Something came since the thread began its last look."""
        self._pid = os.getpid()
        self._replay: Replay | None = None
        self._told = 0
        """Bytes of the file that the ledger has been told, but for"""
        self._failed: set[str] = set()
        """the keys of records that it did not take."""

    def after_fork(self) -> None:
        """In a fork's child: the thread, its locks and the file are the parent's."""
        self._spool.after_fork()
        self._keys = set()
        self._begin()

    @property
    def is_away(self) -> bool:
        """True from its first failure until it has been told what it missed."""
        if self.since_us is None:
            return False
        self._watch()
        return True

    @property
    def is_behind(self) -> bool:
        """True if there is something that the ledger is yet to be told."""
        return self.is_away or bool(self._keys) or self._spool.size > 0

    @property
    def why(self) -> LedgerError:
        """The failure, as an error to raise."""
        return LedgerError(self._why)

    def failed(self, error: Exception) -> None:
        """The ledger failed, with `error`: from here on nobody waits for it.

        Unless it was the caller that gave up waiting: then it may well be there.
        """
        self._why = str(error)
        wait = patience.current.get()
        with self._turn:
            is_first = self.since_us is None and (wait is None or not wait.is_given_up)
            if is_first:
                self.since_us = self._desk.now_us()
        if is_first:
            log.error(
                'degraded: the ledger is away, calls go on without it (on_ledger_error="allow"), no budget is checked'
                " and all is written once it is back: %s",
                error,
            )
        self._watch()

    # -- keeping --------------------------------------------------------------------------------

    def begin(self, begun: Begun) -> None:
        """Keep an admission, before anything is sent; LedgerError if there is no room for it, or no disk."""
        self._keep([begun], is_bounded=True)

    def end(self, begun: Begun, ended: Ended) -> None:
        """Keep how an admission ended, with it, unless the file has it."""
        self._keep([begun, ended], is_bounded=False)

    def hear(self, heard: Heard) -> None:
        """Keep what was heard of tasks; LedgerError if there is no room for it, or no disk."""
        self._keep([heard], is_bounded=True)

    def _keep(self, records: Sequence[Begun | Ended | Heard], *, is_bounded: bool) -> None:
        self._check_process()
        with self._spool.lock:
            new = [each for each in records if not (isinstance(each, Begun) and each.key in self._keys)]
            size = self._spool.size
            if is_bounded and size >= BYTES_MAX:
                raise LedgerError(
                    f"the spool {self._spool.path} is full ({size} bytes): nothing is sent until the ledger is back;"
                    f" it is away: {self._why}"
                )
            self._spool.append([WRITING.text(each) for each in new])
            self._keys.update(each.key for each in new if isinstance(each, Begun))
            if self._is_closed:
                self._let_go()
        self._watch()

    def later(self, change: Callable[[Ledger], object]) -> None:
        """Do this first once the ledger is back, in this program."""
        self._waiting.append(change)
        self._watch()

    # -- looking --------------------------------------------------------------------------------

    def _watch(self) -> None:
        """See to it that somebody looks for the ledger."""
        self._check_process()
        with self._turn:
            self._is_wanted = True
            if self._is_closed or self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name="costguard-spool", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the interpreter ends: the next program finds the file
                self._thread = None

    def _run(self) -> None:
        pause_s = PAUSE_S[0]
        while not self._bell.wait(pause_s):
            self._is_wanted = False
            is_over = self.look()
            with self._turn:  # nothing else is held: who keeps something may be called from garbage collection
                if is_over and not self._is_wanted:
                    self._thread = None
                    return
            pause_s = min(pause_s * 2, PAUSE_S[1])

    def look(self) -> bool:
        """Look for the ledger now, and tell it all; False if it is away, or some of it could not be told."""
        try:
            with self._looking:
                return self._tell_all(self._desk.work(self._reach))
        except (LedgerError, ConfigurationError) as error:
            self._why = str(error)
            log.info("the ledger could not be told what it missed: %s", error)
        except Exception:
            log.exception("the ledger could not be told what it missed")
        return False

    def _tell_all(self, ledger: Ledger) -> bool:
        while self._waiting:
            try:
                self._desk.work(functools.partial(self._waiting[0], ledger))
            except ConfigurationError as error:
                log.error("what was to be set once the ledger is back cannot be: %s", error)
            self._waiting.pop(0)
        if not self._spool.size:
            self._desk.work(ledger.budgets)  # is it there?
        self._replay = self._replay or Replay(ledger, self._desk)
        records = passes = 0
        while not self._cleared():
            lines = self._spool.lines(self._told)
            if lines.damaged:
                log.error("%d records of the spool %s cannot be read any more", lines.damaged, self._spool.path)
            told = self._replay.tell([line.text for line in lines.found])
            self._failed |= told.failed
            if told.heeded:
                self._told = lines.found[told.heeded - 1].end
                records += told.heeded
            if told.error is not None:
                raise told.error
            passes += 1
            if passes == PASSES_MAX:
                self.since_us = None
        if records or self.since_us is not None:
            log.warning("the ledger is back: %d records were written, budgets are checked again", records)
        self.since_us = None
        if self._spool.size:
            log.error("some records were not taken by the ledger: they stay in %s", self._spool.path)
        adopt(self._folder, ledger, self._desk)
        return not self._spool.size

    def _cleared(self) -> bool:
        """Remove the file if the ledger has all of it, but for what could not be told; False if it has not."""
        with self._spool.lock:
            if self._spool.lines(self._told).found:
                return False
            kept = [line.text for line in self._spool.lines().found] if self._failed else []
            kept = [text for text in kept if _key(text) in self._failed]
            self._spool.clear(kept)
            self._keys &= self._failed
            self._told, self._failed, self._replay = 0, set(), None
            return True

    # -- the end --------------------------------------------------------------------------------

    def degraded(self) -> Degraded | None:
        """What the ledger is yet to be told by programs on this host; None if nothing."""
        return degraded((line.text for line in kept_lines(self._folder)), self.since_us)

    def close(self) -> None:
        """Tell the ledger what can be told; what is left stays in its file, which the log names."""
        self._check_process()
        with self._turn:
            self._is_closed = True
            thread = self._thread
        self._bell.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(patience.WAIT_S)
        if self._waiting or self.is_behind:
            self.look()
        with self._spool.lock:
            path, size = self._spool.path, self._spool.size
            self._let_go()
        if size:
            log.warning("%s keeps what the ledger is to be told: the next program that opens it does", path)

    def _let_go(self) -> None:
        """The file is nobody's from here on; what comes yet has one of its own."""
        self._spool.close()
        self._keys.clear()

    def _check_process(self) -> None:
        if self._pid != os.getpid():
            self.after_fork()


def _key(text: str) -> str:
    """The key of a record, or all of one that cannot be read: see `Told.failed`."""
    try:
        return WRITING.record(text).key
    except ValueError:
        return text


_outages: weakref.WeakSet[Outage] = weakref.WeakSet()


def _after_fork() -> None:
    for outage in list(_outages):
        outage.after_fork()


os.register_at_fork(after_in_child=_after_fork)
