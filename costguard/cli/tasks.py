"""`costguard tasks`: what was sent, what it holds and what it was charged."""

from __future__ import annotations

import json
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from costguard.cli.app import AMOUNT, MOMENT, PROJECT, Session, pass_session
from costguard.cli.hints import hint_at_model, hint_at_project
from costguard.cli.output import format_option, show
from costguard.errors import ConfigurationError

if TYPE_CHECKING:
    from costguard.ledger.records import TaskRow
    from costguard.reports.document import Table

STATUSES = ("held", "settled", "released", "unresolved")
TABLE_ROWS = 50
"""Tasks in a table when no `--limit` is given."""
COUNTED_MAX = 10_000
"""A table says exactly how many older tasks there are up to this many: counting them reads them."""

_OPEN = ("held", "unresolved")


@click.group(invoke_without_command=True, short_help="List tasks with what they hold and were charged.")
@click.option("--project", type=PROJECT, help="Of this project and all below it.")
@click.option("--status", type=click.Choice(STATUSES), help="In this status.")
@click.option("--since", type=MOMENT, help="Admitted on this day or at this time, or later.")
@click.option("--until", type=MOMENT, help="Admitted on this day or earlier, or before this time.")
@click.option("--model", help="Of this model (AIR or slug) or task type.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the newest ones.")
@format_option
@click.pass_context
def tasks(
    ctx: click.Context,
    project: str | None,
    status: str | None,
    since: date | datetime | None,
    until: date | datetime | None,
    model: str | None,
    limit: int | None,
    output: str,
) -> None:
    """List tasks, oldest first: all of them in JSON and CSV, the newest 50 in a table.

    Days and times without an offset are in the ledger's reporting zone.
    """
    from costguard.reports.document import Document
    from costguard.reports.formats import is_for_people

    if ctx.invoked_subcommand is not None:
        return
    session: Session = ctx.obj
    shortened = limit is None and is_for_people(output)
    asked = TABLE_ROWS + COUNTED_MAX + 1 if shortened else limit
    with session.guard() as guard:
        zone = guard.ledger.timezone
        known = guard.prices.find(model) if model else None
        found = guard.ledger.tasks(
            project=project,
            status=status,
            model=known.model if known else model,
            since_us=None if since is None else instant(since, zone, end=False),
            until_us=None if until is None else instant(until, zone, end=True),
            limit=asked,
        )
        if not found:
            hint_at_project(guard, project)
            hint_at_model(guard, model)
    rows = [_row(task, zone) for task in (found[-TABLE_ROWS:] if shortened else found)]
    parts: list[str | Table] = [_table(rows) if rows else "No tasks."]
    older = len(found) - len(rows)
    if older:
        count = f"{older:,}" if older <= COUNTED_MAX else f"more than {COUNTED_MAX:,}"
        parts.append(f"The newest {TABLE_ROWS}; {count} older. All of them: --limit N, or --format json or csv.")
    show(Document({"tasks": rows}, _KEYS, rows, parts), output)


@tasks.command(short_help="Say by hand what became of a task that is still open.")
@click.argument("task_uuid", metavar="UUID")
@click.option("--charged", type=AMOUNT, help="It was billed this much, on top of what it is charged already.")
@click.option("--released", is_flag=True, help="It was not billed.")
@click.option("--reason", required=True, help="How you know; kept in the ledger.")
@pass_session
def resolve(session: Session, task_uuid: str, charged: Decimal | None, released: bool, reason: str) -> None:
    """Say what became of the task UUID that nobody else can tell: --charged X or --released, and why.

    Kept as a correction with its reason; the provider's own figure, should it come later, takes its place.
    Try `costguard reconcile` first.
    """
    from costguard import money
    from costguard.reports.document import usd

    if (charged is None) is not released:
        raise click.UsageError("state one of --charged X and --released")
    with session.guard(write=True) as guard:
        task = guard.ledger.task(task_uuid)
        if task is None:
            raise ConfigurationError(f"there is no task {task_uuid!r} in this ledger; see `costguard tasks`")
        if task.status not in _OPEN:
            raise ConfigurationError(
                f"task {task_uuid} is {task.status} already ({task.reason or task.basis or 'no reason given'});"
                " only what is still open can be resolved"
            )
        guard.resolve(task_uuid, charged=charged, reason=reason)
    outcome = "released" if charged is None else f"charged {usd(charged)} USD"
    click.echo(f"{task_uuid}: {outcome}; {usd(money.to_usd(task.held))} USD were held")


def _row(task: TaskRow, timezone: str) -> dict[str, Any]:
    from zoneinfo import ZoneInfo

    from costguard import money
    from costguard.budgets import from_us

    # Where the outcome is open and nothing was charged yet, what it was charged is unknown, not zero.
    charged = None if task.basis is None and task.status in _OPEN else money.to_usd(task.charged)
    return {
        "task_uuid": task.task_uuid,
        "project": task.project,
        "model": task.model,
        "status": task.status,
        "held": money.to_usd(task.held),
        "charged": charged,
        "basis": task.basis,
        "admitted_at": from_us(task.at_us).astimezone(ZoneInfo(timezone)),
        "day": task.day,
        "task_type": task.task_type,
        "delivery": task.delivery,
        "expected": None if task.expected is None else money.to_usd(task.expected),
        "upper": None if task.upper is None else money.to_usd(task.upper),
        "attempts": task.attempts,
        "clamped_from": task.clamped_from,
        "odd": task.odd,
        "reason": task.reason,
        "tags": json.loads(task.tags),
    }


def _table(rows: list[dict[str, Any]]) -> Table:
    """One line a task where the width allows it, else two, so that no identifier is folded."""
    from costguard.reports.document import Column, Table

    money = (Column("held", "Held", number=True), Column("charged", "Charged", number=True))
    columns = (
        Column("task_uuid", "Task", whole=True),
        Column("project", "Project"),
        Column("model", "Model"),
        Column("admitted_at", "Admitted", whole=True),
        Column("status", "Status", whole=True),
        *money,
        Column("basis", "Basis", whole=True),
    )
    stacked = [
        {
            **row,
            "task": f"{row['task_uuid']}\n{row['project']} {row['model']}",
            "state": f"{row['status']}{' (' + row['basis'] + ')' if row['basis'] else ''}\n"
            f"{row['admitted_at']:%Y-%m-%d %H:%M %Z}",
        }
        for row in rows
    ]
    task = Column("task", "Task, project, model", least=_UUID_CHARS)
    return Table(
        columns, rows, stacked=Table((task, Column("state", "Status (basis), admitted", whole=True), *money), stacked)
    )


_UUID_CHARS = 36

_KEYS = (
    "task_uuid", "project", "model", "status", "held", "charged", "basis", "admitted_at", "day", "task_type",
    "delivery", "expected", "upper", "attempts", "clamped_from", "odd", "reason", "tags",
)  # fmt: skip


def instant(moment: date | datetime, timezone: str, *, end: bool) -> int:
    """UTC microseconds of a time, or of the first instant (with `end`: past the last) of a day."""
    from datetime import time
    from zoneinfo import ZoneInfo

    from costguard.budgets import to_us, window_at

    zone = ZoneInfo(timezone)
    if isinstance(moment, datetime):
        return to_us(moment if moment.utcoffset() is not None else moment.replace(tzinfo=zone))
    # Noon is in the day whatever its clocks do at midnight.
    window = window_at("day", timezone, to_us(datetime.combine(moment, time(12), zone)))
    return window.end_us if end and window.end_us is not None else window.start_us


COMMANDS = (tasks,)
