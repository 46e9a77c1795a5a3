"""`costguard grants`: the rights that a role needs on a ledger in PostgreSQL."""

from __future__ import annotations

import click

from costguard.cli.app import Session, pass_session


@click.command(short_help="Print the rights that a role of PostgreSQL needs.")
@click.argument("role")
@click.option("--schema", help="The ledger's schema. Default: that of the URL, or costguard.")
@click.option("--read-only", is_flag=True, help="Only what reports need.")
@pass_session
def grants(session: Session, role: str, schema: str | None, read_only: bool) -> None:
    """Print the SQL that lets ROLE use a ledger in PostgreSQL, for the owner of its tables to run (by psql, say).

    Programs read all, add to all, and change what is derived; they never delete, never change what has happened, and
    make no tables. To remove a budget or a ceiling, or change a budget's zone, is the owner's. No server is asked.
    Run it again after an upgrade that made new tables.
    """
    from costguard.ledger.engines.postgres import granting, naming
    from costguard.ledger.place import is_url

    if schema is None:
        schema = naming.SCHEMA
        if session.db is not None and is_url(session.db):
            schema = naming.read_place(str(session.db)).schema
    for statement in granting.grants(role, schema, read_only=read_only):
        click.echo(f"{statement};")


COMMANDS = (grants,)
