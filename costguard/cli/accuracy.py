"""`costguard accuracy`: how good the estimates of a month were."""

from __future__ import annotations

import click

from costguard.cli.app import MONTH, PROJECT, Session, pass_session
from costguard.cli.hints import hint_at_month, hint_at_project
from costguard.cli.output import format_option, show


@click.command(short_help="Compare estimates with what was billed.")
@click.option("--month", type=MONTH, help="The month, such as 2026-11. Default: the current one.")
@click.option("--project", type=PROJECT, help="Of this project and all below it.")
@format_option
@pass_session
def accuracy(session: Session, month: str | None, project: str | None, output: str) -> None:
    """Compare expected and upper with what was billed, by model and modality.

    Reads every settled charge of the month. Tokens and USD are for the results that were charged.
    """
    from costguard.budgets import day_of, month_days
    from costguard.reports.accuracy import accuracy as compare
    from costguard.reports.accuracy import over_line
    from costguard.reports.document import Column, Document, Table

    with session.guard() as guard:
        zone = guard.ledger.timezone
        month = month or day_of(zone, guard.now_us())[: len("2026-11")]
        found = compare(guard.ledger.estimates(*month_days(month), project))
        if not found:
            hint_at_project(guard, project)
            hint_at_month(guard, month)
    rows = [{**row._asdict(), "unit": row.unit} for row in found]
    over = sum(row.over for row in found)
    numbers = (
        Column("attempts", "Attempts", number=True),
        Column("expected", "Expected", number=True),
        Column("upper", "Upper", number=True),
        Column("billed", "Billed", number=True),
        Column("ratio", "Billed / expected", number=True),
        Column("over", "Above upper", number=True),
    )
    columns = (Column("model", "Model"), Column("what", "What"), Column("unit", "Unit"), *numbers)
    stacked = [{**row, "model": f"{row['model']}\n{row['what']}, {row['unit']}"} for row in rows]
    table = Table(columns, rows, stacked=Table((Column("model", "Model, what, unit"), *numbers), stacked))
    show(
        Document(
            {"month": month, "project": project, "rows": rows, "over": over},
            [column.key for column in columns],
            rows,
            (table, over_line(found)) if rows else (f"Nothing was settled in {month}.",),
        ),
        output,
    )


COMMANDS = (accuracy,)
