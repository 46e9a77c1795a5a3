"""`costguard ceiling`: the worst case of models and task types that have no price."""

from __future__ import annotations

from decimal import Decimal

import click

from costguard.cli.app import AMOUNT, NAME, Session, pass_session
from costguard.cli.output import format_option, show
from costguard.cli.suggesting import did_you_mean
from costguard.errors import ConfigurationError


@click.group()
def ceiling() -> None:
    """State the most that a result without a price may cost."""


@ceiling.command("set")
@click.argument("name", type=NAME)
@click.argument("amount", type=AMOUNT)
@pass_session
def set_(session: Session, name: str, amount: Decimal) -> None:
    """Let NAME (a model or task type without a price) be sent, held at AMOUNT USD per result."""
    from costguard.reports.document import usd

    with session.guard(create=True) as guard:
        guard.set_ceiling(name, amount)
        meant = did_you_mean(
            name, [known for priced in guard.prices.models() for known in (priced.model, *priced.aliases)]
        )
        if meant and guard.prices.find(name) is None:
            click.echo(f"No price file names {name!r}{meant}", err=True)
        click.echo(f"{name}: at most {usd(amount)} USD per result")


@ceiling.command("list")
@format_option
@pass_session
def list_(session: Session, output: str) -> None:
    """List all ceilings."""
    from costguard.reports.document import Column, Document, Table

    with session.guard() as guard:
        rows = [{"name": name, "per_result": amount} for name, amount in guard.ceilings().items()]
    columns = (Column("name", "Model or task type"), Column("per_result", "USD per result", number=True))
    parts = (Table(columns, rows),) if rows else ("No ceilings.",)
    show(Document({"ceilings": rows}, [column.key for column in columns], rows, parts), output)


@ceiling.command("remove")
@click.argument("name")
@pass_session
def remove(session: Session, name: str) -> None:
    """Forget the ceiling of NAME."""
    with session.guard(write=True) as guard:
        if not guard.remove_ceiling(name):
            meant = did_you_mean(name, guard.ceilings())
            raise ConfigurationError(f"there is no ceiling for {name!r}{meant or '; see `costguard ceiling list`'}")
        click.echo(f"Removed the ceiling of {name}.")


COMMANDS = (ceiling,)
