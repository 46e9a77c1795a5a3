"""What all commands share: the session, argument types, and how errors end a command.

Only click and light modules here: `costguard --help` loads no ledger, no tables, no vocabulary.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from reprlib import repr as short
from typing import TYPE_CHECKING, Any, TypeVar

import click

from costguard.cli import streams
from costguard.errors import ConfigurationError, CostguardError, LedgerError
from costguard.refusals import BudgetExceeded

if TYPE_CHECKING:
    from costguard.guard import Guard

F = TypeVar("F", bound=Callable[..., Any])

EXIT_ERROR = 1
EXIT_OVER_BUDGET = 3
EXIT_INTERRUPTED = 130
"""What shells report for a program stopped by Ctrl-C (128 + SIGINT)."""


class App(click.Group):
    """The command group: turns everything that goes wrong into one line and an exit code."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the program and exit; 1 for an error, 2 for wrong usage, 130 and silence for Ctrl-C."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        streams.prepare()
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.ClickException as error:
            code = error.exit_code
            told = io.StringIO()
            error.show(told)
            streams.complain(told.getvalue().rstrip("\n"))
        except click.Abort:
            code = EXIT_INTERRUPTED
        except OSError as error:
            code = EXIT_ERROR
            streams.complain(f"Error: {streams.explain(error)}")
        sys.exit(code if isinstance(code, int) else 0)

    def _main_shell_completion(self, ctx_args: Any, prog_name: str, complete_var: str | None = None) -> None:
        """As click's, with a usage error where no shell asks: it would say which word of which line to complete."""
        try:
            super()._main_shell_completion(ctx_args, prog_name, complete_var)
        except (KeyError, ValueError) as error:
            raise click.UsageError(
                f"completion is asked for by a shell, with COMP_WORDS and COMP_CWORD ({type(error).__name__}: {error})"
            ) from error

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Arguments as the system passes them; a caller in the same process could put a NUL character in."""
        if any("\0" in arg for arg in args):
            raise click.UsageError("an argument contains a NUL character; remove it", ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; 1 for an error, 3 over budget, 130 and silence for Ctrl-C."""
        try:
            return super().invoke(ctx)
        except CostguardError as error:
            raise _Failed(error) from error
        except UnicodeEncodeError as error:
            raise click.UsageError(f"{error.object!a} is not text in UTF-8", ctx) from error
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)


@dataclass(frozen=True, slots=True)
class Session:
    """One run of the program: the ledger it was told to use, and its clock (None: the system's)."""

    db: str | Path | None = field(repr=False)  # a URL may hold a password
    clock: Callable[[], datetime] | None = None

    def place(self, *, make_folder: bool = False) -> str | Path:
        """Where the ledger is, whether or not it, or its folder, is there."""
        from costguard.ledger.place import place

        return place(self.db, make_folder=make_folder)

    @property
    def is_there(self) -> bool:
        """Whether there is a ledger; LedgerError where that cannot be seen."""
        from costguard.ledger.engines import is_there

        return is_there(self.place())

    @contextmanager
    def guard(
        self, *, create: bool = False, write: bool = False, timezone: str | None = None, **options: Any
    ) -> Iterator[Guard]:
        """A Guard over the ledger: to read only, unless `write` or `create`.

        Without `create`, LedgerError if there is no ledger: reading makes none. `timezone`: the reporting zone of
        one that is begun. `options`: more of the Guard's own.
        """
        from costguard.guard import Guard, ReadingGuard
        from costguard.ledger.place import shown

        place = self.place(make_folder=create)
        missing = not self.is_there
        empty = missing and isinstance(place, Path) and place.exists()
        if missing and not create:
            raise LedgerError(
                f"no ledger at {shown(place)}{' (the file is empty)' if empty else ''}; name one with --db FILE or"
                " COSTGUARD_DB, or begin one with `costguard budget set`"
            )
        opened = Guard if write or create else ReadingGuard
        with opened(place, clock=self.clock, timezone=timezone if missing else None, **options) as guard:
            _ = guard.ledger.timezone  # in mode observe, too, a command is of no use without its ledger
            if missing and not empty:
                click.echo(f"Created the ledger {shown(place)}.", err=True)
            yield guard


pass_session = click.make_pass_decorator(Session)


def prices_option(command: F) -> F:
    """Add `--prices` to a command that reads price lists."""
    return click.option(
        "--prices",
        "folder",
        metavar="FOLDER",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Folder of price files of your own, on top of the shipped ones.",
    )(command)


class _Failed(click.ClickException):
    """One line `Error: …` on stderr, and the exit code."""

    def __init__(self, error: CostguardError) -> None:
        super().__init__(" ".join(str(error).splitlines()))
        self.exit_code = EXIT_OVER_BUDGET if isinstance(error, BudgetExceeded) else EXIT_ERROR  # type: ignore[misc]


class _Checked(click.ParamType[Any]):
    """A parameter checked by one of costguard's own parsers: unusable text is a usage error."""

    name = "text"

    def read(self, value: str) -> Any:
        raise NotImplementedError

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.read(value)
        except (ConfigurationError, ValueError) as error:
            self.fail(str(error), param, ctx)


class FileType(_Checked):
    """The path of a file to be made, `~` and all."""

    name = "file"

    def read(self, value: str) -> Path:
        """The path, as one that may be there or not."""
        try:
            path = Path(value).expanduser()
            path.exists()
        except (OSError, RuntimeError) as error:  # too long, a loop of links, an unknown user
            raise ValueError(f"{short(value)} can be no file: {getattr(error, 'strerror', '') or error}") from None
        return path


class NameType(_Checked):
    """The name of a model or task type."""

    name = "text"

    def read(self, value: str) -> str:
        """The same text."""
        from costguard.projects import check_name

        check_name(value, "name")
        return value


class ProjectType(_Checked):
    """A project path; `/` is all projects."""

    name = "project"

    def read(self, value: str) -> str:
        """The canonical path."""
        from costguard.projects import parse_project

        return parse_project(value)


class AmountType(_Checked):
    """An amount in USD, exact."""

    name = "usd"

    def read(self, value: str) -> Decimal:
        """The amount, with 2 to 9 decimals."""
        from costguard.money import parse_usd, to_usd

        return to_usd(parse_usd(value))


class ZoneType(_Checked):
    """An IANA time zone."""

    name = "zone"

    def read(self, value: str) -> str:
        """Its name."""
        from costguard.budgets import parse_timezone

        return parse_timezone(value)


class MonthType(_Checked):
    """A calendar month, `YYYY-MM`."""

    name = "yyyy-mm"

    def read(self, value: str) -> str:
        """The same text."""
        from costguard.budgets import month_bounds

        try:
            month_bounds(value, "UTC")
        except ConfigurationError as error:
            from costguard.cli.hints import near_month

            raise ConfigurationError(f"{error}{near_month(value)}") from None
        return value


class MomentType(_Checked):
    """An ISO 8601 date or datetime."""

    name = "date"

    def read(self, value: str) -> date | datetime:
        """A date, or a datetime that may be naive."""
        from costguard.budgets import YEAR_MAX, YEAR_MIN

        try:
            moment = date.fromisoformat(value) if len(value) <= len("2026-11-01") else datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r} is not a date such as 2026-11-01 or a time such as 2026-11-01T12:00") from None
        if not YEAR_MIN <= moment.year <= YEAR_MAX:
            raise ValueError(f"{value!r}: use a year from {YEAR_MIN} to {YEAR_MAX}")
        return moment


class AgeType(_Checked):
    """How long ago, as `60s`, `5m`, `2h` or `1d`."""

    name = "age"

    def read(self, value: str) -> str:
        """The same text."""
        from costguard.exchange.reconcile import parse_age

        parse_age(value)
        return value


class EndpointType(_Checked):
    """The address of an API."""

    name = "url"

    def read(self, value: str) -> str:
        """The same text."""
        from urllib.parse import urlsplit

        example = "an address such as https://api.runware.ai/v1"
        try:
            parts = urlsplit(value)
            host, _ = parts.hostname or "", parts.port
            host.encode("idna")
        except ValueError as error:
            raise ValueError(f"{value!r} is not {example}: {error}") from None
        if parts.scheme not in ("https", "http") or not host or not value.isprintable() or " " in value:
            raise ValueError(f"{value!r} is not {example}")
        return value


class PercentsType(_Checked):
    """Whole percents joined by commas."""

    name = "percents"

    def read(self, value: str) -> tuple[int, ...]:
        """The percents; their range is the budget's to check."""
        try:
            return tuple(int(percent.strip().removesuffix("%")) for percent in value.split(",") if percent.strip())
        except ValueError:
            raise ValueError(f"{value!r} is not a list of whole percents such as 50,80,100") from None


class MediaMaxType(_Checked):
    """Longest media, as `video_s=60,audio_s=30,pdf_pages=10`."""

    name = "media"

    def read(self, value: str) -> Any:
        """A `MediaMax`."""
        from costguard.estimating.media import parse_media_max

        stated = {}
        for part in value.split(","):
            key, equals, length = part.partition("=")
            if not equals:
                raise ValueError(f"{part!r} is not a maximum such as video_s=60")
            stated[key.strip()] = length.strip()
        return parse_media_max(stated)


FILE, NAME, PROJECT, AMOUNT, ZONE, MONTH, MOMENT = (
    FileType(), NameType(), ProjectType(), AmountType(), ZoneType(), MonthType(), MomentType(),
)  # fmt: skip
AGE, ENDPOINT, PERCENTS, MEDIA_MAX = AgeType(), EndpointType(), PercentsType(), MediaMaxType()
