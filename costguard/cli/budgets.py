"""`costguard budget`: set, list and remove budgets, and who did."""

from __future__ import annotations

import functools
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from costguard.budgets import ACTIONS, PERIODS, make_budget
from costguard.cli.app import AMOUNT, PERCENTS, ZONE, ProjectType, Session, pass_session
from costguard.cli.hints import hint_at_project
from costguard.cli.output import format_option, show
from costguard.cli.suggesting import did_you_mean, near_project
from costguard.errors import ConfigurationError
from costguard.projects import like, parse_budget_project

if TYPE_CHECKING:
    from costguard.budgets import Budget
    from costguard.reports.document import Column


@click.group()
def budget() -> None:
    """Set, list and remove budgets, and see who did."""


class BudgetProjectType(ProjectType):
    """A project path, `acme/*` for each direct child of acme, or `/*` for each top-level project."""

    def read(self, value: str) -> str:
        """The canonical path."""
        return parse_budget_project(value)


BUDGET_PROJECT = BudgetProjectType()


@budget.command("set")
@click.argument("project", type=BUDGET_PROJECT)
@click.argument("amount", type=AMOUNT)
@click.option("--per", type=click.Choice(PERIODS), default="month", show_default=True, help="The window.")
@click.option("--timezone", type=ZONE, help="Where the window begins at midnight.  [new: UTC]")
@click.option("--warn", "warn_at", type=PERCENTS, help="Alert at these percents, such as 50,80,100.  [new: none]")
@click.option("--action", type=click.Choice(ACTIONS), help="When it is exceeded.  [new: block]")
@click.option("--floor", type=int, help="The fewest maxTokens that the action clamp lowers a call to.  [new: 1]")
@click.option("--wait", type=float, help="Seconds a call may wait for held money before it is refused.  [new: 0]")
@click.option("--if-absent", is_flag=True, help="Leave a budget that there is, a default's too, as it is.")
@pass_session
def set_(session: Session, /, project: str, amount: Decimal, per: str, if_absent: bool, **terms: Any) -> None:
    """Limit PROJECT, and all below it, to AMOUNT USD.

    PROJECT is a path such as acme/search; / is all projects, and acme/* is a budget like it on each direct child of
    acme that has none of its own. A budget that exists (same project and window), or applies by such a default, keeps
    what is not named, and what it has spent and holds. Makes the ledger if there is none; its reports are in
    --timezone, then.
    """
    try:
        # A floor goes with the action that the budget may have already.
        action = terms["action"] or (None if terms["floor"] is None or not session.is_there else "clamp")
        make_budget(project, amount, per=per, **{**terms, "action": action})
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
    with session.guard(create=True, timezone=terms["timezone"]) as guard:
        meant = near_project(project, guard.ledger.named("project"))
        now, before = guard.ledger.change_budget(
            project, per, functools.partial(make_budget, project, amount, per=per, **terms), guard.now_us(),
            if_absent=if_absent,
        )  # fmt: skip
        if if_absent and before is not None:
            is_own = any((one.project, one.per) == (project, per) for one in guard.budgets())
            click.echo(f"{_sentence(now)}; as it was{'' if is_own else f', by {like(project)}'}")
            return
    if meant:
        click.echo(f"no project of that name is known yet{meant}", err=True)
    click.echo(_sentence(now))
    if before not in (None, now):
        click.echo(f"before: {_sentence(before)}")


@budget.command("list")
@format_option
@pass_session
def list_(session: Session, output: str) -> None:
    """List all budgets."""
    from costguard.reports.document import Column, Document, Table

    with session.guard() as guard:
        rows = [{"project": found.project, "per": found.per, **_terms(found)} for found in guard.budgets()]
    columns = (Column("project", "Project"), Column("per", "Per"), *_columns())
    joined = _joined(rows)
    parts = (Table(columns, joined),) if rows else ("No budgets.",)
    show(Document({"budgets": rows}, [column.key for column in columns], joined, parts), output)


@budget.command("log")
@click.argument("project", type=BUDGET_PROJECT, required=False)
@format_option
@pass_session
def log(session: Session, project: str | None, output: str) -> None:
    """Show who set and removed which budget and ceiling, oldest first; with PROJECT the budgets on it only."""
    from zoneinfo import ZoneInfo

    from costguard import money
    from costguard.budgets import from_us
    from costguard.reports.document import Column, Document, Table

    with session.guard() as guard:
        zone = ZoneInfo(guard.ledger.timezone)
        rows: list[dict[str, Any]] = [
            {
                "at": from_us(change.at_us).astimezone(zone),
                "who": change.who,
                "change": change.change,
                "project": change.project,
                "per": change.per,
                "ceiling": change.ceiling,
                **_terms(change.budget),
                **({} if change.nanos is None else {"limit": money.to_usd(change.nanos)}),
            }
            for change in guard.ledger.changes()
            if project in (None, change.project)
        ]
        if not rows:
            hint_at_project(guard, project)
    columns = (
        Column("at", "At", whole=True),
        Column("who", "Who"),
        Column("change", "Change"),
        Column("what", "Budget or ceiling"),
        *_columns(),
    )
    joined = _joined(rows)
    people = [{**row, "what": row["ceiling"] or f"{row['project']} per {row['per']}"} for row in joined]
    keys = ("at", "who", "change", "project", "per", "ceiling", *(column.key for column in _columns()))
    parts = (Table(columns, people),) if rows else ("No changes.",)
    show(Document({"changes": rows}, keys, joined, parts), output)


@budget.command("remove")
@click.argument("project", type=BUDGET_PROJECT)
@click.option("--per", type=click.Choice(PERIODS), default="month", show_default=True, help="The window.")
@pass_session
def remove(session: Session, project: str, per: str) -> None:
    """Forget a budget; its charges stay. With acme/*, those of the children that have none of their own go too."""
    with session.guard(write=True) as guard:
        if not guard.remove_budget(project, per=per):
            meant = did_you_mean(f"{project} per {per}", [f"{one.project} per {one.per}" for one in guard.budgets()])
            raise ConfigurationError(
                f"there is no budget on {project} per {per}{meant or '; see `costguard budget list`'}"
            )
        click.echo(f"Removed the budget on {project} per {per}.")


def _terms(known: Budget | None) -> dict[str, Any]:
    """What a budget was set to, by the names that are printed; all None without one."""
    return {
        "timezone": known and known.timezone,
        "limit": known and known.limit,
        "warn_at": known and list(known.warn_at),
        "action": known and known.action,
        "floor_tokens": known and known.floor_tokens,
        "wait_s": known and known.wait_ms / 1000,
    }


def _columns() -> tuple[Column, ...]:
    from costguard.reports.document import Column

    return (
        Column("limit", "Limit USD", number=True),
        Column("timezone", "Time zone"),
        Column("warn_at", "Alerts at"),
        Column("action", "Action"),
        Column("floor_tokens", "Floor", number=True),
        Column("wait_s", "Wait s", number=True),
    )


def _joined(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows with their thresholds in one cell."""
    return [{**row, "warn_at": None if row["warn_at"] is None else ",".join(map(str, row["warn_at"]))} for row in rows]


def _sentence(known: Budget) -> str:
    from costguard.reports.document import usd

    alerts = f", alerts at {', '.join(map(str, known.warn_at))} %" if known.warn_at else ""
    floor = f", floor {known.floor_tokens:,} tokens" if known.action == "clamp" else ""
    wait = f", waits up to {known.wait_ms / 1000:g} s" if known.wait_ms else ""
    return f"{known}: {usd(known.limit)} USD, {known.timezone}, {known.action}{floor}{wait}{alerts}"


COMMANDS = (budget,)
