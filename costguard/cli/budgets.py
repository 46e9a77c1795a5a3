"""`costguard budget`: set, list and remove budgets."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from costguard.budgets import ACTIONS, PERIODS, make_budget
from costguard.cli.app import AMOUNT, PERCENTS, PROJECT, ZONE, Session, format_option, pass_session, show
from costguard.errors import ConfigurationError

if TYPE_CHECKING:
    from costguard.budgets import Budget


@click.group()
def budget() -> None:
    """Set, list and remove budgets."""


@budget.command("set")
@click.argument("project", type=PROJECT)
@click.argument("amount", type=AMOUNT)
@click.option("--per", type=click.Choice(PERIODS), default="month", show_default=True, help="The window.")
@click.option("--timezone", type=ZONE, default="UTC", show_default=True, help="Where the window begins at midnight.")
@click.option("--warn", "warn_at", type=PERCENTS, default="", help="Alert at these percents, such as 50,80,100.")
@click.option("--action", type=click.Choice(ACTIONS), default="block", show_default=True, help="When it is exceeded.")
@click.option("--floor", type=int, default=1, help="The fewest maxTokens that the action clamp lowers a call to.")
@click.option("--wait", type=float, default=0, help="Seconds a call may wait for held money before it is refused.")
@pass_session
def set_(
    session: Session,
    project: str,
    amount: Decimal,
    per: str,
    timezone: str,
    warn_at: tuple[int, ...],
    action: str,
    floor: int,
    wait: float,
) -> None:
    """Limit PROJECT, and all below it, to AMOUNT USD.

    PROJECT is a path such as acme/search; / is all projects. A budget that exists (same project and
    window) is replaced by what is stated; what it has spent and holds stays. Makes the ledger if there is none.
    """
    try:
        new = make_budget(
            project, amount, per=per, timezone=timezone, warn_at=warn_at, action=action, floor=floor, wait=wait
        )
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
    with session.guard(create=True) as guard:
        before = [known for known in guard.budgets() if (known.project, known.per) == (project, per)]
        guard.ledger.set_budget(new, guard.now_us())
        click.echo(_sentence(new))
        if before and before[0] != new:
            click.echo(f"before: {_sentence(before[0])}")


@budget.command("list")
@format_option
@pass_session
def list_(session: Session, output: str) -> None:
    """List all budgets."""
    from costguard.reports.document import Column, Document, Table

    with session.guard() as guard:
        rows: list[dict[str, Any]] = [
            {
                "project": found.project,
                "per": found.per,
                "timezone": found.timezone,
                "limit": found.limit,
                "warn_at": list(found.warn_at),
                "action": found.action,
                "floor_tokens": found.floor_tokens,
                "wait_s": found.wait_ms / 1000,
            }
            for found in guard.budgets()
        ]
    columns = (
        Column("project", "Project"),
        Column("per", "Per"),
        Column("limit", "Limit USD", number=True),
        Column("timezone", "Time zone"),
        Column("warn_at", "Alerts at"),
        Column("action", "Action"),
        Column("floor_tokens", "Floor", number=True),
        Column("wait_s", "Wait s", number=True),
    )
    joined = [{**row, "warn_at": ",".join(map(str, row["warn_at"]))} for row in rows]
    parts = (Table(columns, joined),) if rows else ("No budgets.",)
    show(Document({"budgets": rows}, [column.key for column in columns], joined, parts), output)


@budget.command("remove")
@click.argument("project", type=PROJECT)
@click.option("--per", type=click.Choice(PERIODS), default="month", show_default=True, help="The window.")
@pass_session
def remove(session: Session, project: str, per: str) -> None:
    """Forget a budget; its charges stay."""
    with session.guard() as guard:
        if not guard.remove_budget(project, per=per):
            raise ConfigurationError(f"there is no budget on {project} per {per}; see `costguard budget list`")
        click.echo(f"Removed the budget on {project} per {per}.")


def _sentence(known: Budget) -> str:
    from costguard.reports.document import usd

    alerts = f", alerts at {', '.join(map(str, known.warn_at))} %" if known.warn_at else ""
    floor = f", floor {known.floor_tokens:,} tokens" if known.action == "clamp" else ""
    wait = f", waits up to {known.wait_ms / 1000:g} s" if known.wait_ms else ""
    return f"{known}: {usd(known.limit)} USD, {known.timezone}, {known.action}{floor}{wait}{alerts}"


COMMANDS = (budget,)
