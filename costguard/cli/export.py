"""`costguard export`: the ledger's charges for other programs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from costguard.cli.app import MONTH, NAME, PROJECT, ZONE, Session, pass_session, prices_option
from costguard.cli.hints import hint_at_month, hint_at_project
from costguard.cli.output import file_option, named_file

if TYPE_CHECKING:
    from costguard.reports.focus_files import Sink

FORMATS = ("csv", "parquet")


@click.group()
def export() -> None:
    """Write what was charged down for other programs."""


@export.command("focus")
@click.option("--month", type=MONTH, help="A month, such as 2026-11. Default: the current one.")
@click.option("--project", type=PROJECT, help="Of this project and all below it.")
@click.option(
    "--per",
    type=click.Choice(["task", "hour"]),
    default="task",
    show_default=True,
    help="A row for each meter of each task, or of each hour's tasks.",
)
@click.option("--account", type=NAME, default="runware", show_default=True, help="BillingAccountId.")
@click.option("--timezone", type=ZONE, help="Zone of the month. Default: the ledger's reporting zone.")
@prices_option
@click.option("--format", "kind", type=click.Choice(FORMATS), help="Default: that of FILE's ending, else csv.")
@file_option(".csv, .parquet")
@pass_session
def focus(
    session: Session,
    month: str | None,
    project: str | None,
    per: Literal["task", "hour"],
    account: str,
    timezone: str | None,
    folder: Path | None,
    kind: str | None,
) -> None:
    """Export a month's charges as FOCUS 1.2, the FinOps specification of cost and usage.

    BilledCost sums to what the ledger has of the month, exactly. Tasks whose outcome is open are not costs yet, and
    are not in it.
    """
    from costguard.budgets import day_of
    from costguard.money import to_text
    from costguard.prices.book import PriceBook
    from costguard.reports import periods
    from costguard.reports.focus import Month, rows
    from costguard.reports.focus_files import WRITERS
    from costguard.reports.skus import Catalogue

    file = named_file(click.get_current_context())
    kind = kind or _format_of(file)
    if kind == "parquet" and file is None and sys.stdout.isatty():
        raise click.UsageError("--format parquet is no text for a terminal; write it to a file: -o FILE")
    catalogue = Catalogue(PriceBook.load(folder))
    with session.guard() as guard:
        ledger, as_of_us = guard.ledger, guard.now_us()
        zone = timezone or ledger.timezone
        name = month or day_of(zone, as_of_us)[: len("2026-11")]
        span = periods.containing("month", date.fromisoformat(f"{name}-01")).span(zone)
        found = rows(ledger.charged(span, project), Month(span, account, as_of_us), per, catalogue)
        with _opened(file) as sink:
            count = WRITERS[kind](found, sink)
        if not count:
            hint_at_project(guard, project)
            hint_at_month(guard, name)
        tasks, held = ledger.held_in(span, project)
        if tasks:
            what = f"{tasks} task{'s' if tasks > 1 else ''} whose outcome is open"
            click.echo(f"Not in it: {what}, for which {to_text(held)} USD are held", err=True)
        if file is not None:
            click.echo(f"Wrote {count} rows to {file}", err=True)


def _format_of(file: Path | None) -> str:
    """By the ending of a file; CSV where there is none."""
    if file is None:
        return "csv"
    from costguard.reports.formats import by_ending

    told = by_ending(file)
    if told not in FORMATS:
        raise click.UsageError(f"--output: FOCUS is written to .csv and .parquet files, not to {file.name!r}")
    return told


@contextmanager
def _opened(file: Path | None) -> Iterator[Sink]:
    """Standard output, or the file once it is whole."""
    if file is None:
        yield _Printed()
        return
    from costguard.cli.files import replacing

    with replacing(file) as opened:
        yield opened


class _Printed:
    """Standard output as bytes."""

    def write(self, data: bytes, /) -> None:
        """Print some more."""
        click.echo(data, nl=False)


COMMANDS = (export,)
