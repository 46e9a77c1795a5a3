"""`costguard backup`: a copy of the ledger while it is in use."""

from __future__ import annotations

from pathlib import Path

import click

from costguard.cli.app import FILE, Session, pass_session


@click.command(short_help="Copy the ledger while it is in use.")
@click.argument("file", type=FILE)
@click.option("--force", is_flag=True, help="Overwrite FILE if it is there.")
@pass_session
def backup(session: Session, file: Path, force: bool) -> None:
    """Copy the ledger to FILE while programs use it.

    The copy is one file that only its owner may read, and `verify` has passed on it. No program is held up.
    """
    from costguard.guard import open_ledger
    from costguard.ledger.engines.copying import back_up

    def check(copy: Path) -> str | None:
        return open_ledger(copy, read_only=True).verify().difference

    with session.guard():  # says where there is none, and brings an old one up to date
        made = back_up(session.path(), file, check, force=force)
    click.echo(f"Copied the ledger to {made}; all promises hold in it.")


COMMANDS = (backup,)
