"""The command line: `costguard [--db FILE|URL] COMMAND …`. One file per command group."""

from __future__ import annotations

from pathlib import Path

import click

from costguard.cli import (
    accuracy,
    backup,
    budgets,
    ceilings,
    demo,
    estimate,
    export,
    grants,
    importing,
    init,
    log,
    migrate,
    prices,
    project,
    reconcile,
    report,
    reprice,
    run,
    serve,
    status,
    tasks,
    token,
    verify,
)
from costguard.cli.app import App, Session
from costguard.cli.database import db_option, offer

__all__ = ["main"]


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("runware-costguard")
    except PackageNotFoundError:
        number = "(not installed)"
    click.echo(f"costguard {number}")
    ctx.exit()


@click.group(cls=App, context_settings={"help_option_names": ["-h", "--help"]}, params=[db_option()])
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show it.")
@click.pass_context
def main(ctx: click.Context, db: str | Path | None) -> None:
    """Budgets, holds and an exact ledger for LLM calls.

    Exit codes: 0 fine, 1 error, 2 wrong usage, 3 over budget.
    """
    if ctx.obj is None:
        ctx.obj = Session(db)


for _module in (
    init,
    run,
    budgets,
    ceilings,
    status,
    tasks,
    reconcile,
    report,
    accuracy,
    reprice,
    importing,
    log,
    project,
    export,
    estimate,
    prices,
    verify,
    backup,
    migrate,
    grants,
    serve,
    token,
    demo,
):
    for _command in _module.COMMANDS:
        offer(_command)
        main.add_command(_command)
