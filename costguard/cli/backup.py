"""`costguard backup`: a copy of the ledger while it is in use."""

from __future__ import annotations

from pathlib import Path

import click

from costguard.cli.app import FILE, Session, pass_session
from costguard.errors import ConfigurationError


@click.command(short_help="Copy the ledger while it is in use.")
@click.argument("file", type=FILE)
@click.option("--force", is_flag=True, help="Overwrite FILE if it is there.")
@pass_session
def backup(session: Session, file: Path, force: bool) -> None:
    """Copy the ledger to FILE while programs use it.

    The copy is one file that only its owner may read, and `verify` has passed on it. No program is held up. A ledger
    at a postgresql:// URL is copied by pg_dump.
    """
    from costguard.exchange.opening import open_ledger
    from costguard.ledger.engines.copying import back_up

    place = session.place()
    if isinstance(place, str):
        from costguard.ledger.engines.postgres.naming import read_place

        raise ConfigurationError(
            "a ledger in PostgreSQL is backed up by the server's own program, which holds nobody up either: pg_dump"
            f" --format=custom --schema={read_place(place).schema} --file={file} and the database's name;"
            " see docs/postgresql.md"
        )

    def check(copy: Path) -> str | None:
        return open_ledger(copy, read_only=True).verify().difference

    with session.guard():  # says where there is none, and brings an old one up to date
        made = back_up(place, file, check, force=force)
    click.echo(f"Copied the ledger to {made}; all promises hold in it.")


COMMANDS = (backup,)
