"""`costguard token`: what the clients of a proxy call with."""

from __future__ import annotations

from datetime import datetime

import click

from costguard.cli.app import NAME, PROJECT, Session, pass_session
from costguard.cli.output import format_option, show
from costguard.errors import ConfigurationError


@click.group()
def token() -> None:
    """Issue tokens to the clients of `costguard serve`."""


@token.command()
@click.argument("project", type=PROJECT)
@click.option("--name", type=NAME, default="", help="Whose it is, for the list.")
@pass_session
def create(session: Session, project: str, name: str) -> None:
    """Print a new token, by which calls are booked on PROJECT.

    It is shown this once: the ledger keeps a hash. Once there is a token, nobody calls without one.
    """
    from costguard import tokens
    from costguard.ledger.owner import who

    with session.guard(create=True) as guard:
        text, made = tokens.make(project, name, guard.now_us(), who())
        guard.ledger.add_token(made)
    click.echo(text)
    click.echo(f"Token {made.id} for {made.project}: keep it now, it is not shown again.", err=True)


@token.command("list")
@format_option
@pass_session
def list_(session: Session, output: str) -> None:
    """List all tokens, revoked ones too; never what they are."""
    from zoneinfo import ZoneInfo

    from costguard.budgets import from_us
    from costguard.reports.document import Column, Document, Table

    with session.guard() as guard:
        zone, found = ZoneInfo(guard.ledger.timezone), guard.ledger.tokens()

    def at(instant_us: int | None) -> datetime | None:
        return None if instant_us is None else from_us(instant_us).astimezone(zone)

    rows = [
        {
            "token": one.id,
            "project": one.project,
            "name": one.name or None,
            "created": at(one.at_us),
            "created_by": one.who,
            "revoked": at(one.revoked_us),
            "revoked_by": one.revoked_by,
        }
        for one in found
    ]
    columns = (
        Column("token", "Token"),
        Column("project", "Project"),
        Column("name", "Name"),
        Column("created", "Created", whole=True),
        Column("created_by", "By"),
        Column("revoked", "Revoked", whole=True),
        Column("revoked_by", "By"),
    )
    parts = (Table(columns, rows),) if rows else ("No tokens.",)
    show(Document({"tokens": rows}, [column.key for column in columns], rows, parts), output)


@token.command()
@click.argument("token_id", metavar="TOKEN")
@pass_session
def revoke(session: Session, token_id: str) -> None:
    """Refuse TOKEN (its id, as `list` shows it) from now on; running proxies do within a second."""
    from costguard import tokens

    with session.guard(write=True) as guard:
        found = guard.ledger.revoke_token(tokens.id_of(token_id) or token_id, guard.now_us())
    if found is None:
        raise ConfigurationError(f"there is no token {token_id!r:.40}; see `costguard token list`")
    click.echo(f"Token {found.id} for {found.project} is revoked.")


COMMANDS = (token,)
