"""`costguard migrate`: the ledger, moved to another database."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import click

from costguard.cli.app import Session
from costguard.cli.database import LedgerType, refuse_password
from costguard.errors import LedgerError


@click.command(short_help="Move the ledger to another database.")
@click.argument("target", type=LedgerType(), metavar="FILE|URL")
@click.pass_context
def migrate(ctx: click.Context, target: str | Path) -> None:
    """Copy the ledger to FILE or URL: from SQLite to PostgreSQL, or back.

    Stop the programs that use it first. The copy is made in pieces, and one that was stopped goes on when this is run
    again. Then both are compared row by row, and `verify` passes on both; until then no program can use the copy. The
    ledger itself is not changed: point all programs to the copy, and do not use both.
    """
    from costguard.exchange.opening import open_ledger
    from costguard.ledger.engines import open_engine, open_reader
    from costguard.ledger.moving import move
    from costguard.ledger.place import place, shown

    session: Session = ctx.obj
    refuse_password(ctx, "the target", target)
    here, there = session.place(), place(target)
    if here == there:
        raise LedgerError(f"{shown(here)} is the ledger itself; name where it is to be moved to")
    with session.guard() as guard, _Bar() as bar:
        found = guard.ledger.verify(None, lambda done, of: bar("Verifying", done, of))
        if found.difference is not None:
            raise LedgerError(f"nothing was moved, since a promise does not hold here: {found.difference}")
        source, copy = open_reader(here), open_engine(there)
        try:
            rows = move(source, copy, bar)
        finally:
            source.close()
            copy.close()
        ledger = open_ledger(there, read_only=True)
        try:
            found = ledger.verify(None, lambda done, of: bar("Verifying", done, of))
        finally:
            ledger.close()
    if found.difference is not None:
        raise LedgerError(f"in the copy a promise does not hold: {found.difference}")
    click.echo(
        f"Copied {rows} rows from {shown(here)} to {shown(there)}; all promises hold in both. Programs that still use"
        " the old one go on writing there: point them to the copy before they start again."
    )


class _Bar:
    """What is done at the moment, on a terminal: one bar for each."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._what = ""
        self._told_s = 0.0

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)

    def __call__(self, what: str, done: int, of: int) -> None:
        if not sys.stderr.isatty() or (done < of and time.monotonic() - self._told_s < 0.05):
            return
        self._told_s = time.monotonic()
        if self._bar is None or what != self._what:
            self._end()
            self._what = what
            self._bar = click.progressbar(length=of, label=what, file=sys.stderr, show_pos=True)
            self._bar.__enter__()
        self._bar.length = of
        self._bar.update(done - self._bar.pos)


COMMANDS = (migrate,)
