"""How a command's answer leaves it: `--format`, `--output`, and writing it down."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from costguard.errors import ConfigurationError
from costguard.reports import formats
from costguard.reports.document import UNTITLED, Document

F = TypeVar("F", bound=Callable[..., Any])

_FILE = "costguard.output"
"""Key of the file that was named, in what all contexts share."""


class FormatType(click.ParamType[str]):
    """The name of a format, of those there are when it is asked for."""

    name = "format"

    @property
    def _choice(self) -> click.Choice[str]:
        return click.Choice(formats.names())

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """One of the names; anything else is a usage error."""
        return self._choice.convert(value, param, ctx)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """All names, for the help."""
        return self._choice.get_metavar(param, ctx)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The names that begin so."""
        return self._choice.shell_complete(ctx, param, incomplete)


def format_option(command: F) -> F:
    """Add `--format`, as the argument `output`, and `--output`, which `show` sees to, to a command that prints data."""
    return click.option(
        "--format",
        "output",
        type=FormatType(),
        default=next(iter(formats.FORMATS)),
        show_default=True,
        callback=_choose,
        help="How to print it.",
    )(file_option(".txt, .json, .csv, .md, .html, .parquet")(command))


def file_option(endings: str) -> Callable[[F], F]:
    """Add `--output`, whose value is `named_file`, to a command that writes files with these endings."""
    return click.option(
        "-o",
        "--output",
        "file_",
        metavar="FILE",
        type=click.Path(path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_take_file,
        help=f"Write it to FILE, in the format of its ending: {endings}.",
    )


def named_file(ctx: click.Context) -> Path | None:
    """The file that was named to write to; None for standard output. One that the command itself reads is refused."""
    file: Path | None = ctx.meta.get(_FILE)
    if file is not None:
        _check_use(ctx, file)
    return file


def _take_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:  # noqa: ARG001
    if value is None or ctx.resilient_parsing or str(value) == "-":
        return
    from costguard.cli.files import check_place

    try:
        value = value.expanduser()
        check_place(value)
    except (ConfigurationError, RuntimeError) as error:  # no home to expand
        raise click.ClickException(str(error)) from error
    except ValueError as error:
        raise click.UsageError(f"--output: {error}", ctx) from error
    ctx.meta[_FILE] = value


def _choose(ctx: click.Context, param: click.Parameter, value: str) -> str:
    """The format that was named, or the one of the file's ending."""
    file: Path | None = ctx.meta.get(_FILE)
    if file is not None and ctx.get_parameter_source(param.name or "") is ParameterSource.DEFAULT:
        told = formats.by_ending(file)
        if told is None:
            raise click.UsageError(
                f"--output: the ending of {file.name!r} tells no format; use .txt, .json, .csv, .md, .html or .parquet,"
                " or name one with --format",
                ctx,
            )
        value = told
    if value in formats.BINARY and file is None and sys.stdout.isatty():
        raise click.UsageError(f"--format {value} is no text for a terminal; write it to a file: -o FILE", ctx)
    return value


def show(document: Document, output: str) -> None:
    """Write a document down in the format `output`: to the file that was named, or print it.

    For programs it is always UTF-8, whatever the locale says. ConfigurationError if the file cannot be written.
    """
    ctx = click.get_current_context()
    if document.title == UNTITLED:
        document = replace(document, title=_title(ctx))
    file = named_file(ctx)
    if file is not None:
        from costguard.cli.files import replace_file

        with _no_terminal():
            replace_file(file, _encoded(document, output))
    elif not formats.is_for_people(output):
        packed = _encoded(document, output)
        if packed:
            click.echo(packed, nl=False)
    else:
        text = formats.named(output).write(document).rstrip("\n")
        if text:
            click.echo(text)


def _title(ctx: click.Context) -> str:
    """The command's name, however the program was started."""
    words = []
    while ctx.parent is not None:
        words.append(ctx.info_name or "")
        ctx = ctx.parent
    return " ".join(["costguard", *reversed(words)])


def _encoded(document: Document, output: str) -> bytes:
    """What a file has in it: bytes, or text in UTF-8 that ends with a newline."""
    if output in formats.BINARY:
        return formats.binary(output).pack(document)
    text = formats.named(output).write(document).rstrip("\n")
    return f"{text}\n".encode(errors="backslashreplace") if text else b""


@contextlib.contextmanager
def _no_terminal() -> Iterator[None]:
    """What is written to a file is neither folded to a terminal's width nor in its colours."""
    before = os.environ.get("NO_COLOR")
    os.environ["NO_COLOR"] = "1"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        if before is None:
            del os.environ["NO_COLOR"]
        else:
            os.environ["NO_COLOR"] = before


def _check_use(ctx: click.Context, file: Path) -> None:
    """Refuse a file that the command itself reads: the ledger and what lies beside it, and its arguments."""
    place = os.path.realpath(file)
    with contextlib.suppress(ConfigurationError, AttributeError, OSError):  # no ledger is needed, and none is named
        ledger = os.path.realpath(ctx.obj.place())  # a URL is no file's name
        if place == ledger or place.startswith(f"{ledger}-"):
            raise click.ClickException(f"{file} is the ledger, or belongs to it; name another file")
    for param in ctx.command.params:
        value = ctx.params.get(param.name or "")
        if isinstance(param.type, click.Path) and value is not None and os.path.realpath(value) == place:
            raise click.ClickException(f"{file} is what {param.human_readable_name} reads; name another file")
