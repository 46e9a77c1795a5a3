"""`--db`, before the command or after it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import click
from click.core import ParameterSource

from costguard.cli.app import Session

_STATED = "costguard.db"
"""Key of the option's value, as the command line has stated it so far, in what all contexts share."""


def db_option(*, after: bool = False) -> click.Option:
    """The option; `after` the command it takes the value's place that was stated before, in the environment say."""
    return click.Option(
        ["--db"],
        metavar="FILE",
        type=click.Path(path_type=Path),
        envvar=None if after else "COSTGUARD_DB",
        show_envvar=not after,
        expose_value=not after,
        callback=_take,
        help="The ledger; --db may stand before the command, too."
        if after
        else "The ledger. Default: costguard.db in the platform's data folder.",
    )


def offer(command: click.Command) -> None:
    """Add `--db` to a command, and to all commands below it."""
    command.params.append(db_option(after=True))
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            offer(inner)


def _take(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    if value is None or ctx.get_parameter_source(param.name or "") is not ParameterSource.COMMANDLINE:
        return value
    stated = ctx.meta.setdefault(_STATED, value)
    if _absolute(stated) != _absolute(value):
        raise click.UsageError(f"--db is stated twice: {stated} and {value}; which is it?", ctx)
    if isinstance(ctx.obj, Session):
        ctx.obj = replace(ctx.obj, db=value)
    return value


def _absolute(path: Path) -> str:
    try:
        return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111  no error of what is there, or is not
    except OSError:  # the folder that a relative path begins from is gone: said when the ledger is opened
        return str(path)
