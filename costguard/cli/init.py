"""`costguard init`: begin a ledger, in the zone that its books are kept in."""

from __future__ import annotations

import click

from costguard.cli.app import ZONE, Session, pass_session
from costguard.errors import ConfigurationError


@click.command()
@click.option(
    "--timezone",
    type=ZONE,
    default="UTC",
    show_default=True,
    help="Zone of the ledger's days and months in reports; fixed from then on.",
)
@pass_session
def init(session: Session, timezone: str) -> None:
    """Begin a ledger. An error if there is one: its zone is fixed.

    Other commands that write begin one, too, in UTC or in the --timezone that they are given.
    """
    path = session.path()
    if path.exists() and (not path.is_file() or path.stat().st_size):
        with session.guard() as guard:
            raise ConfigurationError(f"there is a ledger at {path} already; it reports in {guard.ledger.timezone}")
    with session.guard(create=True, timezone=timezone) as guard:
        click.echo(f"The ledger {path} reports in {guard.ledger.timezone}.")


COMMANDS = (init,)
