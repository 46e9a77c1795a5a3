"""`costguard report`: what a period came to."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from typing import TYPE_CHECKING

import click

from costguard.cli.app import MOMENT, MONTH, PROJECT, ZONE, Session, pass_session
from costguard.cli.hints import hint_at_month, hint_at_project
from costguard.cli.output import format_option, show
from costguard.errors import ConfigurationError

if TYPE_CHECKING:
    from costguard.reports.periods import Period

GROUPS = ("project", "model", "modality", "task_type", "day", "week", "month", "basis")
"""What `--by` takes, beside `tag:NAME`."""

_TAG = "tag:"


class _Group(click.ParamType[str]):
    """What to group by."""

    name = "group"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """One of `GROUPS`, or `tag:NAME`."""
        if value.startswith(_TAG) and value != _TAG:
            return value
        if value not in GROUPS:
            self.fail(f"{value!r} is not one of {', '.join(GROUPS)}, tag:NAME", param, ctx)
        return value

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002
        """All of them, for the help."""
        return f"[{'|'.join(GROUPS)}|tag:NAME]"


class _Tag(click.ParamType[tuple[str, str]]):
    """A tag and the value that it must have."""

    name = "name=value"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Both."""
        name, equals, said = str(value).partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is not a tag such as user=ann", param, ctx)
        return name, said


@click.command()
@click.option("--month", type=MONTH, help="A month, such as 2026-11. Default: the current one.")
@click.option("--quarter", metavar="YYYY-QN", help="A quarter, such as 2026-Q4.")
@click.option("--year", metavar="YYYY", help="A year.")
@click.option("--last", metavar="PERIOD", help="The last whole month, quarter, year or week; or '30 days', with today.")
@click.option("--since", type=MOMENT, help="From this day on.")
@click.option("--until", type=MOMENT, help="Up to this day, itself too. Default: today.")
@click.option("--project", type=PROJECT, help="Of this project and all below it.")
@click.option("--tag", "tags", type=_Tag(), multiple=True, help="Of tasks with this tag; may be repeated.")
@click.option(
    "--by", type=_Group(), multiple=True, help="One table, grouped by this; may be repeated. Default: the whole report."
)
@click.option("--per", type=click.Choice(["day", "week", "month"]), help="Group by this time, before all else.")
@click.option("--depth", type=click.IntRange(min=1), help="Levels of projects that are shown one by one.")
@click.option("--top", type=click.IntRange(min=1, max=1000), help="So many of the most expensive tasks, too.")
@click.option("--round", "round_to", type=click.Choice(["cents"]), help="Amounts in cents that add up to the total.")
@click.option("--timezone", type=ZONE, help="Zone of the days. Default: the ledger's reporting zone.")
@format_option
@pass_session
def report(
    session: Session,
    month: str | None,
    quarter: str | None,
    year: str | None,
    last: str | None,
    since: date | datetime | None,
    until: date | datetime | None,
    project: str | None,
    tags: tuple[tuple[str, str], ...],
    by: tuple[str, ...],
    per: str | None,
    depth: int | None,
    top: int | None,
    round_to: str | None,
    timezone: str | None,
    output: str,
) -> None:
    """Report what a period's tasks were charged, and how sure that is.

    A task belongs to the day of its admission. The rows sum to the total, exactly.
    """
    from costguard.budgets import day_of
    from costguard.reports.facts import state
    from costguard.reports.statement import document

    if len(dict(tags)) < len(tags):
        raise click.UsageError("--tag names a tag twice; a task has one value of each")
    chosen = _period(month, quarter, year, last, since, until)
    with session.guard() as guard:
        at_us = guard.now_us()
        period = chosen(date.fromisoformat(day_of(timezone or guard.ledger.timezone, at_us)))
        found = state(
            guard.ledger,
            period,
            at_us=at_us,
            by=by,
            per=per,
            project=project,
            tags=dict(tags),
            timezone=timezone,
            top=top or 0,
        )
        if not found.rows:
            hint_at_project(guard, project)
            if period.kind == "month":
                hint_at_month(guard, period.name)
    show(document(found, round_to=round_to, depth=depth), output)


def _period(
    month: str | None,
    quarter: str | None,
    year: str | None,
    last: str | None,
    since: date | datetime | None,
    until: date | datetime | None,
) -> Callable[[date], Period]:
    """The period that is asked for, once it is known what day it is; what can be none is wrong usage."""
    from costguard.reports import periods

    stated = {"--month": month, "--quarter": quarter, "--year": year, "--last": last, "--since": since or until}
    named = [option for option, value in stated.items() if value is not None]
    if len(named) > 1:
        raise click.UsageError(f"{' and '.join(named)} name two periods; which is it?")
    if until is not None and since is None:
        raise click.UsageError("--until needs --since: where does the period begin?")
    first, end = None if since is None else _day("since", since), None if until is None else _day("until", until)
    choices: dict[str, Callable[[date], Period]] = {
        "--month": lambda today: periods.month(month) if month else periods.containing("month", today),
        "--quarter": lambda _: periods.quarter(quarter or ""),
        "--year": lambda _: periods.year(year or ""),
        "--last": lambda today: periods.last(last or "", today),
        "--since": lambda today: periods.between(first or today, end or today),
    }
    option = named[0] if named else "--month"

    def read(today: date) -> Period:
        try:
            return choices[option](today)
        except ConfigurationError as error:
            raise click.BadParameter(str(error), param_hint=f"'{option}'") from error

    if option != "--since" or end is not None:
        read(date(2000, 1, 1))  # what no day makes a period of is said before the ledger is opened
    return read


def _day(option: str, moment: date | datetime) -> date:
    if isinstance(moment, datetime):
        said = f"a report is of whole days; name one such as {moment.date()}"
        raise click.BadParameter(said, param_hint=f"'--{option}'")
    return moment


COMMANDS = (report,)
