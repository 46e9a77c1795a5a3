"""`costguard log`: what happened beside the calls, and by whom."""

from __future__ import annotations

from datetime import date, datetime

import click

from costguard.cli.app import MOMENT, PROJECT, Session, pass_session
from costguard.cli.hints import hint_at_project
from costguard.cli.output import format_option, show

KINDS = ("alert", "budget", "ceiling", "correction", "import", "project")


@click.command(short_help="Show alerts, changes of limits, corrections and imports.")
@click.option("--since", type=MOMENT, help="On this day or at this time, or later.")
@click.option("--until", type=MOMENT, help="On this day or earlier, or before this time.")
@click.option("--project", type=PROJECT, help="Of this project and all below it.")
@click.option("--what", type=click.Choice(KINDS), multiple=True, help="Only of this kind; may be repeated.")
@format_option
@pass_session
def log(
    session: Session,
    since: date | datetime | None,
    until: date | datetime | None,
    project: str | None,
    what: tuple[str, ...],
    output: str,
) -> None:
    """Show what happened beside the calls, oldest first: alerts that fired, who set which budget and ceiling, what was
    corrected by hand and why, what was imported, and which projects were renamed.

    Days and times without an offset are in the ledger's reporting zone.
    """
    from costguard.cli.tasks import instant
    from costguard.ledger.accounting.sql import FOREVER_US
    from costguard.reports.log import document

    with session.guard() as guard:
        zone = guard.ledger.timezone
        events = guard.ledger.events(
            0 if since is None else instant(since, zone, end=False),
            FOREVER_US if until is None else instant(until, zone, end=True),
            project=project,
            what=what or KINDS,
        )
        if not events:
            hint_at_project(guard, project)
    show(document(events, zone), output)


COMMANDS = (log,)
