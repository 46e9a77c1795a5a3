"""`costguard verify`: recompute every promise of the ledger from its rows."""

from __future__ import annotations

import click

from costguard.cli.app import Session, format_option, pass_session, write
from costguard.errors import LedgerError


@click.command()
@format_option
@pass_session
def verify(session: Session, output: str) -> None:
    """Recompute the ledger's promises from its rows.

    Exit code 1 if one does not hold; the first difference is named.
    """
    from costguard.reports.output import Column, csv_text, json_text, table_text

    with session.guard() as guard:
        found = guard.verify()
    rows = [{"promise": name, "checked": count} for name, count in found.checked.items()]
    if output == "json":
        write(json_text({"schema": 1, "ok": found.ok, "difference": found.difference, "checked": found.checked}))
    elif output == "csv":
        write(csv_text((Column("promise", ""), Column("checked", "")), rows))
    elif found.ok:
        click.echo(table_text((Column("promise", "Promise"), Column("checked", "Rows", number=True)), rows))
        click.echo("\nAll promises hold.")
    if found.difference is not None:
        raise LedgerError(f"a promise does not hold: {found.difference}")


COMMANDS = (verify,)
