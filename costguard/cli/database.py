"""`--db`, before the command or after it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from costguard.cli.app import Session
from costguard.ledger.place import PATH_VARIABLE, has_password, is_url

_STATED = "costguard.db"
"""Key of the option's value, as the command line has stated it so far, in what all contexts share."""


class LedgerType(click.ParamType[str | Path]):
    """A ledger: the path of a file, or a URL as it stands."""

    name = "ledger"

    def convert(self, value: Any, *_: object) -> str | Path:
        """A path as a path, a URL as text."""
        return value if isinstance(value, Path) or is_url(value) else Path(value)


def db_option(*, after: bool = False) -> click.Option:
    """The option; `after` the command it takes the value's place that was stated before, in the environment say."""
    return click.Option(
        ["--db"],
        metavar="FILE|URL",
        type=LedgerType(),
        envvar=None if after else PATH_VARIABLE,
        show_envvar=not after,
        expose_value=not after,
        callback=_take,
        help="The ledger; --db may stand before the command, too."
        if after
        else "The ledger: a file, or a postgresql:// URL. Default: costguard.db in the platform's data folder.",
    )


def offer(command: click.Command) -> None:
    """Add `--db` to a command, and to all commands below it."""
    command.params.append(db_option(after=True))
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            offer(inner)


def _take(ctx: click.Context, param: click.Parameter, value: str | Path | None) -> str | Path | None:
    if value is None or ctx.get_parameter_source(param.name or "") is not ParameterSource.COMMANDLINE:
        return value
    refuse_password(ctx, "--db", value)
    stated = ctx.meta.setdefault(_STATED, value)
    if _absolute(stated) != _absolute(value):
        raise click.UsageError(f"--db is stated twice: {stated} and {value}; which is it?", ctx)
    if isinstance(ctx.obj, Session):
        ctx.obj = replace(ctx.obj, db=value)
    return value


def refuse_password(ctx: click.Context, what: str, value: str | Path) -> None:
    """UsageError for a ledger on the command line whose URL holds a password."""
    if isinstance(value, str) and has_password(value):
        raise click.UsageError(
            f"{what} holds a password, which every user of this machine can read in the list of processes; nothing was"
            " done. Name the URL without it, and the password in PGPASSWORD, ~/.pgpass or a PGSERVICE; or the whole URL"
            f" in {PATH_VARIABLE}. Change the password if others may have seen it",
            ctx,
        )


def _absolute(place: str | Path) -> str:
    if isinstance(place, str):
        return place
    try:
        return os.path.abspath(os.path.expanduser(place))  # noqa: PTH100, PTH111  no error of what is there, or is not
    except OSError:  # the folder that a relative path begins from is gone: said when the ledger is opened
        return str(place)
