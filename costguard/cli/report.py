"""`costguard report`: a month's charges."""

from __future__ import annotations

import click

from costguard.cli.app import MONTH, PROJECT, ZONE, Session, format_option, pass_session, show
from costguard.cli.hints import hint_at_month, hint_at_project


@click.command()
@click.option("--month", type=MONTH, help="The month, such as 2026-11. Default: the current one.")
@click.option("--project", type=PROJECT, help="Of this project and all below it.")
@click.option(
    "--by",
    type=click.Choice(["project", "model", "modality", "day"]),
    multiple=True,
    help="Group by this; may be repeated. Default: project.",
)
@click.option("--timezone", type=ZONE, help="Zone of the days. Default: the ledger's reporting zone.")
@format_option
@pass_session
def report(
    session: Session, month: str | None, project: str | None, by: tuple[str, ...], timezone: str | None, output: str
) -> None:
    """Report what a month's tasks were charged.

    A task belongs to the month of its admission. The rows sum to the total, exactly.
    """
    from costguard.budgets import day_of
    from costguard.reports import statement
    from costguard.reports.monthly import monthly

    with session.guard() as guard:
        at_us = guard.now_us()
        found = monthly(
            guard.ledger,
            month or day_of(timezone or guard.ledger.timezone, at_us)[: len("2026-11")],
            project=project,
            by=by or ("project",),
            timezone=timezone,
            at_us=at_us,
        )
        if not found.rows:
            hint_at_project(guard, project)
            hint_at_month(guard, found.month)
    show(statement.document(found), output)


COMMANDS = (report,)
