"""`costguard verify`: recompute every promise of the ledger from its rows."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from costguard.cli.app import FILE, Session, pass_session
from costguard.cli.output import format_option, show
from costguard.errors import LedgerError

if TYPE_CHECKING:
    from costguard.ledger.accounting.checkpoint import Checkpoint

SAVE_EVERY_S = 1.0


@click.command()
@click.option(
    "--resume",
    type=FILE,
    metavar="FILE",
    help="Go on from where FILE says an earlier verification had come to, and keep in FILE how far this one comes.",
)
@format_option
@pass_session
def verify(session: Session, resume: Path | None, output: str) -> None:
    """Recompute the ledger's promises from its rows.

    Exit code 1 if one does not hold; the first difference is named. With --resume what was verified before is not
    looked at again, and a verification that was stopped goes on: as a nightly job, with a whole one now and then.
    """
    from costguard.ledger.accounting.checkpoint import Checkpoint
    from costguard.reports.document import Column, Document, Table

    state = Checkpoint.load(resume) if resume is not None else Checkpoint()
    with session.guard() as guard, _Progress(state, resume) as progress:
        found = guard.ledger.verify(state, progress)
    rows = [{"promise": name, "checked": count} for name, count in found.checked.items()]
    columns = (Column("promise", "Promise"), Column("checked", "Rows", number=True))
    record = {"ok": found.ok, "difference": found.difference, "checked": found.checked}
    # A difference is told as an error.
    parts = (Table(columns, rows), "All promises hold.") if found.ok else ()
    show(Document(record, [column.key for column in columns], rows, parts), output)
    if found.difference is not None:
        raise LedgerError(f"a promise does not hold: {found.difference}")


class _Progress:
    """A bar on a terminal, and the file that another run goes on from."""

    def __init__(self, state: Checkpoint, file: Path | None) -> None:
        self._state = state
        self._file = file
        self._saved_s = time.monotonic()
        self._bar = click.progressbar(
            length=0, label="Verifying", file=sys.stderr, hidden=not sys.stderr.isatty(), show_pos=True
        )

    def __enter__(self) -> _Progress:
        self._bar.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.__exit__(None, None, None)
        self._save()

    def __call__(self, done: int, of: int) -> None:
        self._bar.length = of
        self._bar.update(done - self._bar.pos)
        if time.monotonic() - self._saved_s > SAVE_EVERY_S:
            self._save()

    def _save(self) -> None:
        if self._file is not None:
            self._state.save(self._file)
        self._saved_s = time.monotonic()


COMMANDS = (verify,)
