"""`costguard verify`: recompute every promise of the ledger from its rows."""

from __future__ import annotations

import click

from costguard.cli.app import Session, format_option, pass_session, show
from costguard.errors import LedgerError


@click.command()
@format_option
@pass_session
def verify(session: Session, output: str) -> None:
    """Recompute the ledger's promises from its rows.

    Exit code 1 if one does not hold; the first difference is named.
    """
    from costguard.reports.document import Column, Document, Table

    with session.guard() as guard:
        found = guard.verify()
    rows = [{"promise": name, "checked": count} for name, count in found.checked.items()]
    columns = (Column("promise", "Promise"), Column("checked", "Rows", number=True))
    record = {"ok": found.ok, "difference": found.difference, "checked": found.checked}
    # A difference is told as an error.
    parts = (Table(columns, rows), "All promises hold.") if found.ok else ()
    show(Document(record, [column.key for column in columns], rows, parts), output)
    if found.difference is not None:
        raise LedgerError(f"a promise does not hold: {found.difference}")


COMMANDS = (verify,)
