"""`costguard status` and `costguard check`: what budgets have left."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from costguard.cli.app import AMOUNT, EXIT_OVER_BUDGET, PROJECT, Session, format_option, pass_session, write

if TYPE_CHECKING:
    from costguard.guard import BudgetStatus


@click.command()
@click.argument("project", type=PROJECT, required=False)
@format_option
@pass_session
def status(session: Session, project: str | None, output: str) -> None:
    """Show every budget with its current window.

    With PROJECT, the budgets that cover it and those below it.
    """
    from costguard.reports.output import Column, csv_text, json_text

    with session.guard() as guard:
        rows = [_row(found) for found in guard.status(project)]
    if output == "json":
        write(json_text({"schema": 1, "budgets": rows}))
    elif output == "csv":
        write(csv_text([Column(key, "") for key in _KEYS], rows))
    elif not rows:
        click.echo("No budgets." if project is None else f"No budget covers {project}, and there is none below it.")
    else:
        click.echo(_table(rows))


@click.command(short_help="Ask whether an amount fits the budgets of a project.")
@click.argument("project", type=PROJECT)
@click.argument("amount", type=AMOUNT)
@format_option
@click.pass_context
def check(ctx: click.Context, project: str, amount: Decimal, output: str) -> None:
    """Ask whether a call of PROJECT that may cost AMOUNT USD fits its budgets now.

    Exit code 0 if it fits, 3 if a budget would refuse it. Nothing is held.
    """
    from costguard.projects import covers
    from costguard.reports.output import Column, csv_text, json_text, usd

    session: Session = ctx.obj
    with session.guard() as guard:
        hard = [found for found in guard.status(project) if found.action != "warn" and covers(found.project, project)]
    tightest = min(hard, key=lambda found: found.remaining, default=None)
    # A limit of 0 refuses a call that costs nothing, too.
    fits = all(amount <= found.remaining and found.limit > 0 for found in hard)
    row = {
        "project": project,
        "amount": amount,
        "fits": fits,
        "remaining": tightest.remaining if tightest else None,
        "budget": {"project": tightest.project, "per": tightest.per} if tightest else None,
    }
    if output == "json":
        write(json_text({"schema": 1, **row}))
    elif output == "csv":
        flat = {**row, "budget": f"{tightest.project} per {tightest.per}" if tightest else None}
        write(csv_text([Column(key, "") for key in flat], [flat]))
    elif tightest is None:
        click.echo(f"{usd(amount)} USD fits: no hard budget covers {project}")
    else:
        answer = "fits" if fits else "does not fit"
        click.echo(
            f"{usd(amount)} USD {answer}: {usd(tightest.remaining)} USD remaining"
            f" ({tightest.project} per {tightest.per})"
        )
    if not fits:
        ctx.exit(EXIT_OVER_BUDGET)


def table(found: Sequence[BudgetStatus]) -> str:
    """Budgets with their current windows, as `status` shows them. Amounts in USD."""
    return _table([_row(each) for each in found])


def _row(found: BudgetStatus) -> dict[str, Any]:
    return {
        "project": found.project,
        "per": found.per,
        "timezone": found.timezone,
        "window_start": _local(found.window_start, found.timezone),
        "window_end": _local(found.window_end, found.timezone),
        "limit": found.limit,
        "spent": found.spent,
        "held": found.held,
        "remaining": found.remaining,
    }


def _table(rows: list[dict[str, Any]]) -> str:
    from costguard.reports.output import Column, table_text

    columns = (
        Column("project", "Project"),
        Column("per", "Per"),
        Column("limit", "Limit USD", number=True),
        Column("spent", "Spent", number=True),
        Column("held", "Held", number=True),
        Column("remaining", "Remaining", number=True),
        Column("window_end", "Resets"),
    )
    return table_text(columns, rows)


def _local(moment: datetime | None, timezone: str) -> datetime | None:
    from zoneinfo import ZoneInfo

    return None if moment is None else moment.astimezone(ZoneInfo(timezone))


_KEYS = ("project", "per", "timezone", "window_start", "window_end", "limit", "spent", "held", "remaining")

COMMANDS = (status, check)
