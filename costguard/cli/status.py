"""`costguard status` and `costguard check`: what budgets have left."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from costguard.cli.app import AMOUNT, EXIT_OVER_BUDGET, PROJECT, Session, pass_session
from costguard.cli.hints import hint_at_project
from costguard.cli.output import format_option, show

if TYPE_CHECKING:
    from costguard.budgets import Budget
    from costguard.ledger.standing import BudgetStatus
    from costguard.reports.document import Document


@click.command()
@click.argument("project", type=PROJECT, required=False)
@format_option
@pass_session
def status(session: Session, project: str | None, output: str) -> None:
    """Show every budget with its current window, and the defaults that children have who have none.

    With PROJECT, the budgets that cover it and those below it.
    """
    from costguard.projects import ROOT, covers, is_default, parent_of

    with session.guard() as guard:
        found = guard.status(project)
        defaults = [
            one
            for one in guard.budgets()
            if is_default(one.project) and covers(project or ROOT, parent_of(one.project))
        ]
        hint_at_project(guard, project)
    nothing = "No budgets." if project is None else f"No budget covers {project}, and there is none below it."
    show(document(found, defaults, nothing), output)


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
    from costguard.reports.document import Document, usd

    session: Session = ctx.obj
    with session.guard() as guard:
        hard = [found for found in guard.status(project) if found.action != "warn" and covers(found.project, project)]
        hint_at_project(guard, project)
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
    flat = {**row, "budget": f"{tightest.project} per {tightest.per}" if tightest else None}
    answer = "fits" if fits else "does not fit"
    said = (
        f"{usd(tightest.remaining)} USD remaining ({flat['budget']})"
        if tightest
        else f"no hard budget covers {project}"
    )
    show(Document(row, list(flat), [flat], (f"{usd(amount)} USD {answer}: {said}",)), output)
    if not fits:
        ctx.exit(EXIT_OVER_BUDGET)


def document(found: Sequence[BudgetStatus], defaults: Sequence[Budget] = (), nothing: str = "No budgets.") -> Document:
    """Budgets with their current windows, amounts in USD, then defaults; people read `nothing` where there are none."""
    from costguard.reports.document import Column, Document, Table

    rows = [_row(each) for each in found]
    columns = (
        Column("project", "Project"),
        Column("per", "Per"),
        Column("limit", "Limit USD", number=True),
        Column("spent", "Spent", number=True),
        Column("held", "Held", number=True),
        Column("remaining", "Remaining", number=True),
        Column("used_percent", "Used%", number=True),
        Column("window_end", "Resets", whole=True),
    )
    stated = [
        {"project": one.project, "per": one.per, "timezone": one.timezone, "limit": one.limit, "action": one.action}
        for one in defaults
    ]
    named = (*columns[:3], Column("timezone", "Time zone"), Column("action", "Action"))
    parts: list[str | Table] = [Table(columns, rows)] if rows else [] if stated else [nothing]
    if stated:
        parts += ["By default, for each child that has no budget of its own:", Table(named, stated)]
    return Document({"budgets": rows, "defaults": stated}, _KEYS, rows, parts)


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
        "used_percent": found.used_percent,
    }


def _local(moment: datetime | None, timezone: str) -> datetime | None:
    from zoneinfo import ZoneInfo

    return None if moment is None else moment.astimezone(ZoneInfo(timezone))


_KEYS = (
    "project", "per", "timezone", "window_start", "window_end", "limit", "spent", "held", "remaining", "used_percent",
)  # fmt: skip

COMMANDS = (status, check)
