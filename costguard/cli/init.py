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

    Other commands that write begin one, too, in UTC or in the --timezone that they are given. At a postgresql:// URL
    it makes the schema and its tables, for which it needs a role that may, and brings those of an older costguard up
    to date.
    """
    from costguard.ledger.place import shown

    place = session.place()
    if session.is_there:
        with session.guard(write=isinstance(place, str)) as guard:
            raise ConfigurationError(
                f"there is a ledger at {shown(place)} already; it reports in {guard.ledger.timezone}"
            )
    with session.guard(create=True, timezone=timezone) as guard:
        click.echo(f"The ledger {shown(place)} reports in {guard.ledger.timezone}.")


COMMANDS = (init,)
