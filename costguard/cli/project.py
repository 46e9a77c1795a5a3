"""`costguard project`: what projects are called in reports; what was booked is never changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from costguard.cli.app import PROJECT, Session, pass_session
from costguard.cli.output import format_option, show
from costguard.cli.suggesting import near_project
from costguard.errors import ConfigurationError

if TYPE_CHECKING:
    from costguard.guard import Guard


@click.group()
def project() -> None:
    """List projects, and call them by another name in reports."""


@project.command("list")
@format_option
@pass_session
def list_(session: Session, output: str) -> None:
    """List all projects by their present names, with what they were booked on, and since when they are called so."""
    from zoneinfo import ZoneInfo

    from costguard.budgets import from_us
    from costguard.ledger.accounting.naming import Names
    from costguard.projects import covers, is_default
    from costguard.reports.document import Column, Document, Table

    with session.guard() as guard:
        zone = ZoneInfo(guard.ledger.timezone)
        moves = guard.ledger.moves()
        names = Names((move.project, move.name) for move in moves)
        booked = [name for name in guard.ledger.named("project") if not is_default(name)]
        budgets = [budget.project for budget in guard.budgets()]
    rows: list[dict[str, Any]] = []
    for name in booked:
        present = names.present(name)
        move = next((one for one in reversed(moves) if covers(one.name, present)), None) if present != name else None
        rows.append(
            {
                "project": present,
                "booked_on": name,
                "budgets": budgets.count(name),
                "since": move and from_us(move.at_us).astimezone(zone),
                "who": move and move.who,
            }
        )
    rows.sort(key=lambda row: (row["project"], row["booked_on"]))
    columns = (
        Column("project", "Project"),
        Column("booked_on", "Booked on"),
        Column("budgets", "Budgets", number=True),
        Column("since", "Called so since", whole=True),
        Column("who", "By"),
    )
    parts = (Table(columns, rows),) if rows else ("No projects.",)
    show(Document({"projects": rows}, [column.key for column in columns], rows, parts), output)


@project.command()
@click.argument("old", type=PROJECT)
@click.argument("new", type=PROJECT)
@pass_session
def rename(session: Session, old: str, new: str) -> None:
    """Show OLD, and all below it, as NEW from now on: a name that nothing else has.

    Kept as a row of its own; nothing that was booked is changed. Renaming it back undoes it.
    """
    with session.guard(write=True) as guard:
        if new in _present(guard):
            raise ConfigurationError(
                f"there is a project {new} already; to show both as one: `costguard project merge {old} {new}`"
            )
        _call(guard, old, new)
        _say(guard, old, new, f"{old} is shown as {new} from now on, and so is all below it.")


@project.command()
@click.argument("old", type=PROJECT)
@click.argument("into", type=PROJECT)
@pass_session
def merge(session: Session, old: str, into: str) -> None:
    """Show what is booked on OLD, and all below it, together with what is INTO.

    Kept as a row of its own; nothing that was booked is changed.
    """
    with session.guard(write=True) as guard:
        known = _present(guard)
        if into not in known:
            raise ConfigurationError(f"there is no project {into}{near_project(into, known) or ''}")
        _call(guard, old, into)
        _say(guard, old, into, f"{old} is shown together with {into} from now on, and so is all below it.")


def _present(guard: Guard) -> set[str]:
    """What projects are called now, those above them with them."""
    from costguard.ledger.accounting.naming import Names
    from costguard.projects import ancestors, is_default

    names = Names((move.project, move.name) for move in guard.ledger.moves())
    known = [name for name in guard.ledger.named("project") if not is_default(name)]
    return {path for name in known for path in ancestors(names.present(name))}


def _call(guard: Guard, old: str, new: str) -> None:
    from costguard.projects import ROOT, covers

    if old == ROOT:
        raise ConfigurationError("/ is all projects; name one of them")
    if covers(old, new):
        raise ConfigurationError(f"{new} is {old} or lies below it; name another place")
    known = [*guard.ledger.named("project"), *_present(guard)]
    if old not in known:
        raise ConfigurationError(
            f"there is no project {old}{near_project(old, known) or '; see `costguard project list`'}"
        )
    guard.ledger.call_project(old, new, guard.now_us())


def _say(guard: Guard, old: str, new: str, told: str) -> None:
    """What was done, and what it means for budgets."""
    from costguard.projects import covers

    click.echo(told)
    click.echo("Nothing that was booked is changed; calls are booked on the path that programs name, as before.")
    set_on = sorted({budget.project for budget in guard.budgets() if covers(old, budget.project)})
    if set_on:
        click.echo(
            f"Budgets stay on the paths they were set on ({', '.join(set_on)}): they limit calls of {old}, not of"
            f" {new}."
        )
    else:
        click.echo(f"Budgets stay on the paths they were set on: those of {new} do not limit calls of {old}.")


COMMANDS = (project,)
