"""What the tests of spools share: a ledger that goes away and comes back, and programs that are killed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from costguard import Guard, LedgerError
from costguard.exchange import outage
from costguard.ledger.engine import Outcome
from costguard.ledger.engines.sqlite import SqliteEngine
from costguard.ledger.spool import Spool

AWAY = "the ledger is somewhere else"


class KilledError(BaseException):
    """The program is gone."""


class Weather:
    """Whether ledgers can be used, and when the program is killed.

    `away`: nothing can be read or written. `lost`: what is written is written, and the answer gets lost. `left`: so
    many steps that last (commits, records of a spool) until the program is killed, before the step or `after` it.
    """

    def __init__(self) -> None:
        self.away = self.lost = self.after = self.dead = False
        self.left: int | None = None
        self.asked = 0

    def read(self, do: Callable[[], Any]) -> Any:
        if self.dead:
            raise KilledError
        self.asked += 1
        if self.away:
            raise LedgerError(AWAY)
        return do()

    def write(self, do: Callable[[], Any]) -> Any:
        def written() -> Any:
            value = do()
            if self.lost:
                raise LedgerError(AWAY)
            return value

        return self.read(lambda: self.step(written))

    def step(self, do: Callable[[], Any]) -> Any:
        if self.dead:
            raise KilledError
        if self.left is not None:
            self.left -= 1
        is_last = self.left is not None and self.left < 0
        if is_last and not self.after:
            self.dead = True
            raise KilledError
        value = do()
        if is_last:
            self.dead = True
            raise KilledError
        return value


@contextmanager
def weather() -> Iterator[Weather]:
    """Every ledger and spool of this process has it; a ledger is looked for when a test says so."""
    found = Weather()
    write, write_all, read, append = SqliteEngine.write, SqliteEngine.write_all, SqliteEngine.read, Spool.append

    def write_each(engine: SqliteEngine, writes: Any) -> list[Outcome]:
        if found.away or found.lost or found.left is not None:
            outcomes = []
            for context, each in writes:
                try:
                    value = context.run(engine.write, each.op, beside=each.beside)
                except Exception as error:
                    outcomes.append(Outcome(None, error))
                else:
                    outcomes.append(Outcome(value, None))
            return outcomes
        return write_all(engine, writes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outage, "PAUSE_S", (3600.0, 3600.0))
        patch.setattr(SqliteEngine, "write", lambda self, *a, **k: found.write(lambda: write(self, *a, **k)))
        patch.setattr(SqliteEngine, "write_all", write_each)
        patch.setattr(SqliteEngine, "read", lambda self, op: found.read(lambda: read(self, op)))
        patch.setattr(Spool, "append", lambda self, texts: found.step(lambda: append(self, texts)))
        yield found


def outage_of(guard: Guard) -> outage.Outage:
    """What a guard made with `on_ledger_error="allow"` keeps."""
    assert guard._spooling is not None
    return guard._spooling.outage


def look(guard: Guard) -> bool:
    """Look for the ledger now."""
    return outage_of(guard).look()


def kill(guard: Guard) -> None:
    """The program is gone: its locks with it, and nothing of it is written any more."""
    kept = outage_of(guard)
    kept._is_closed = True
    kept._bell.set()
    if kept._thread is not None:
        kept._thread.join()
    spool = kept._spool
    if spool._fd is not None:
        os.close(spool._fd)
    spool._fd = None
    if guard._spooling is not None and guard._spooling.ledger is not None:
        guard._spooling.ledger.close()
    guard.is_closed = True


def spool_files(folder: Path) -> list[Path]:
    """All files of spools below `folder`."""
    return sorted(path for path in folder.rglob("*") if path.is_file())
