"""`costguard reprice`: what other prices would have made of a month."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path

import click

from costguard.cli import own_prices
from costguard.cli.app import MOMENT, MONTH, PROJECT, Session, pass_session, prices_option
from costguard.cli.hints import hint_at_month, hint_at_project
from costguard.cli.output import format_option, show


@click.command(short_help="Show what other prices would have made of a month.")
@click.option(
    "--as-of",
    type=MOMENT,
    required=True,
    help="Take the prices in force at the end of this day in UTC, or at this time.",
)
@click.option("--month", type=MONTH, help="The month, such as 2026-11. Default: the current one.")
@click.option("--project", type=PROJECT, help="Of this project and all below it.")
@prices_option
@click.option("--dry-run/--no-dry-run", default=True, help="Nothing else is possible: a charge is never changed.")
@format_option
@pass_session
def reprice(
    session: Session,
    as_of: date | datetime,
    month: str | None,
    project: str | None,
    folder: Path | None,
    dry_run: bool,
    output: str,
) -> None:
    """Show what a month's usage would have cost at the prices of another day, or at those of your own files.

    By project and model, what was charged beside what would have been, each charge with its own tokens. It is always a
    dry run: what was charged is what was charged.
    """
    from costguard.budgets import day_of
    from costguard.cli.tasks import instant
    from costguard.reports import periods
    from costguard.reports.reprice import document
    from costguard.reports.reprice import reprice as compare

    if not dry_run:
        raise click.UsageError("a charge is frozen once it is booked: reprice only ever shows; leave --no-dry-run out")
    prices = own_prices.load(folder)
    with session.guard() as guard:
        zone = guard.ledger.timezone
        today = date.fromisoformat(day_of(zone, guard.now_us()))
        period = periods.month(month) if month else periods.containing("month", today)
        # Entries of price files begin in UTC: a day's prices are those in force at its end there.
        is_time = isinstance(as_of, datetime)
        as_of_us = instant(as_of, zone if is_time else "UTC", end=True) - (not is_time)
        found = compare(guard.ledger.charged(period.span(zone), project), prices, as_of_us)
        if not found[0]:
            hint_at_project(guard, project)
            hint_at_month(guard, period.name)
    show(document(period, project, zone, as_of_us, found), output)


COMMANDS = (reprice,)
