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
from costguard.errors import LedgerError

if TYPE_CHECKING:
    from costguard.budgets import Budget
    from costguard.ledger.spooled import Degraded
    from costguard.ledger.standing import BudgetStatus
    from costguard.reports.document import Document


@click.command()
@click.argument("project", type=PROJECT, required=False)
@format_option
@pass_session
def status(session: Session, project: str | None, output: str) -> None:
    """Show every budget with its current window, and the defaults that children have who have none.

    With PROJECT, the budgets that cover it and those below it. Says so if programs on this host went on without the
    ledger, and what it is yet to be told.
    """
    from costguard.projects import ROOT, covers, is_default, parent_of

    missed = _missed(session)
    try:
        with session.guard() as guard:
            found = guard.status(project)
            defaults = [
                one
                for one in guard.budgets()
                if is_default(one.project) and covers(project or ROOT, parent_of(one.project))
            ]
            hint_at_project(guard, project)
    except LedgerError:
        if missed is not None:
            show(document(None, (), "Budgets: unknown, for the ledger cannot be read.", missed), output)
        raise
    nothing = "No budgets." if project is None else f"No budget covers {project}, and there is none below it."
    show(document(found, defaults, nothing, missed), output)


def _missed(session: Session) -> Degraded | None:
    """What the ledger is yet to be told by programs on this host."""
    from costguard.ledger.engines import name_of
    from costguard.ledger.spool import kept_lines, spool_folder
    from costguard.ledger.spooled import degraded

    return degraded(line.text for line in kept_lines(spool_folder(name_of(session.place()), make=False)))


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


def document(
    found: Sequence[BudgetStatus] | None,
    defaults: Sequence[Budget] = (),
    nothing: str = "No budgets.",
    missed: Degraded | None = None,
) -> Document:
    """Budgets with their current windows, amounts in USD, then defaults; people read `nothing` where there are none.

    `found` is None where they are unknown. `missed`: what the ledger is yet to be told.
    """
    from costguard.reports.document import Column, Document, Table, usd

    rows = [_row(each) for each in found or ()]
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
    if missed is not None:
        upper = "an unknown amount" if missed.upper is None else f"up to {usd(missed.upper)} USD"
        parts.append(
            f"Degraded since {missed.since:%Y-%m-%d %H:%M} UTC: programs on this host went on without the ledger. It is"
            f" yet to be told {missed.records} records; the calls it does not know of may cost {upper}."
        )
    known = {"budgets": None, "defaults": None} if found is None else {"budgets": rows, "defaults": stated}
    return Document({**known, "degraded": missed and missed._asdict()}, _KEYS, rows, parts)


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
