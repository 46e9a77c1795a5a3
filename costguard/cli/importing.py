"""`costguard import`: book what was recorded before costguard was there, or without it."""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from costguard.cli import own_prices
from costguard.cli.app import MOMENT, NAME, PROJECT, Session, pass_session, prices_option
from costguard.cli.output import format_option, show
from costguard.cli.tags import TAG, distinct
from costguard.cli.tasks import instant
from costguard.errors import ConfigurationError, CostguardError

if TYPE_CHECKING:
    from costguard.exchange.importing import Imported
    from costguard.exchange.pieces import Pieces
    from costguard.guard import Guard
    from costguard.prices.book import PriceBook
    from costguard.reports.document import Document

_STDIN = "-"
_BUFFER = 2**20


class _AtType(click.ParamType[str | date | datetime]):
    """The path of a field, or a time."""

    name = "field or time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str | date | datetime:
        """What begins with a digit is a time."""
        told = str(value).strip()
        if not told:
            self.fail("name a field, or a time such as 2026-11-01T12:00Z", param, ctx)
        return MOMENT.convert(told, param, ctx) if told[0].isdecimal() else told


@click.command("import", short_help="Book recorded responses.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--project", type=PROJECT, required=True, help="What all of it is booked on.")
@click.option(
    "--at",
    type=_AtType(),
    metavar="FIELD|TIME",
    required=True,
    help="Where a record tells when it was sent, such as created or request.time; or the time of all, in ISO 8601.",
)
@click.option("--tag", "tags", type=TAG, multiple=True, help="Give every task this tag; may be repeated.")
@click.option("--model", type=NAME, help="The model of records that name none.")
@prices_option
@click.option("--list", "shown", type=click.IntRange(0), default=20, show_default=True, help="List so many bad lines.")
@click.option("--dry-run", is_flag=True, help="Tell what it would come to, and change nothing.")
@format_option
@pass_session
def import_(
    session: Session,
    file: str,
    project: str,
    at: str | date | datetime,
    tags: tuple[tuple[str, str], ...],
    model: str | None,
    folder: Path | None,
    shown: int,
    dry_run: bool,
    output: str,
) -> None:
    """Book the recorded responses in FILE (- is standard input) as tasks of a project.

    FILE has a JSON object a line, or an array of them: responses as Runware sends them ({"data": [...]}, or items
    alone), OpenAI-style ones with their usage, or either as "response" beside the "request". Figures are read as live
    ones are; usage without a cost is charged at the price of its time. What is booked already is not booked again, so
    that an import may be stopped, and run as often as you like; it goes on where it was.

    It counts in the windows and days of its own time, is refused by no budget, and fires no alert. Lines that cannot
    be booked are listed, and all others are booked: exit code 1 then, 0 without any.
    """
    from costguard.projects import parse_tags

    named = parse_tags(distinct(tags))
    prices = own_prices.load(folder)
    with _open(file) as (stream, size), _ledger(session, dry_run=dry_run) as guard:
        found, pieces = _run(guard, stream, size, file, project, at, named, model, prices, shown, dry_run=dry_run)
        guard.ledger.roll_up()
    show(_told(found, pieces, file, project, dry_run=dry_run), output)
    if found.bad:
        unit = f"{pieces.unit}{'s' if found.bad != 1 else ''}"
        raise CostguardError(
            f"{found.bad:,} {unit} of {_name(file)} could not be booked, all others are; mend them and import it again:"
            " what is booked is not booked twice"
        )


def _run(
    guard: Guard,
    stream: IO[bytes],
    size: int,
    file: str,
    project: str,
    at: str | date | datetime,
    tags: dict[str, str],
    model: str | None,
    prices: PriceBook,
    shown: int,
    *,
    dry_run: bool,
) -> tuple[Imported, Pieces]:
    from costguard.exchange.importing import import_pieces
    from costguard.exchange.pieces import HEAD, Pieces
    from costguard.exchange.recorded import EARLIEST_US, Reader
    from costguard.ledger.accounting.importing import Importer, Source

    ledger = guard.ledger
    when = at if isinstance(at, str) else instant(at, ledger.timezone, end=False)
    if isinstance(when, int) and when > guard.now_us():
        raise click.BadParameter(f"{at} is yet to come", param_hint="'--at'")
    if isinstance(when, int) and when < EARLIEST_US:
        raise click.BadParameter(f"{at} is long before any call", param_hint="'--at'")
    reader = Reader(
        prices,
        at=when,
        model=model,
        timezone=ledger.timezone,
        now_us=guard.now_us,
    )
    place = _name(file) if file == _STDIN else os.path.realpath(file)
    terms = json.dumps([str(at), model])
    importer = Importer(ledger, Source(place, project, json.dumps(tags) if tags else "{}", terms))
    pieces = Pieces(stream, stream.peek(HEAD))  # type: ignore[attr-defined]
    mark = importer.last()
    if file != _STDIN and mark.bytes:
        pieces.skip(mark.bytes, mark.number, mark.digest)
    with click.progressbar(
        length=size, label="Importing", file=sys.stderr, hidden=not sys.stderr.isatty() or not size
    ) as bar:
        bar.update(pieces.offset)
        done: list[Imported] = []

        def told(so_far: Imported) -> None:
            done[:] = [so_far]
            bar.update(so_far.bytes - bar.pos)

        try:
            found = import_pieces(importer, pieces, reader, now_us=guard.now_us, progress=told, faults_max=shown)
        except KeyboardInterrupt:
            click.echo(_stopped(done[0] if done else None, pieces.unit, dry_run=dry_run), err=True)
            raise
    return found, pieces


def _stopped(found: Imported | None, unit: str, *, dry_run: bool) -> str:
    """How far an import came that was stopped."""
    from costguard.money import to_text

    if dry_run or found is None:
        return "Stopped: nothing was booked by it"
    booking = found.booking
    again = "it goes on there" if not found.bad else f"its bad {unit}s are tried again, and nothing is booked twice"
    return (
        f"Stopped after {unit} {found.after + found.lines:,}: {booking.results + booking.settled:,} results are booked,"
        f" {to_text(booking.nanos + booking.changed)} USD; import it again, and {again}"
    )


@contextmanager
def _ledger(session: Session, *, dry_run: bool) -> Iterator[Guard]:
    """The ledger to write to: of a dry run a copy, which is thrown away."""
    if not dry_run:
        with session.guard(create=True, write=True) as guard:
            yield guard
        return
    from costguard.guard import Guard
    from costguard.ledger.engines.copying import back_up

    path = session.place()
    if isinstance(path, str):
        raise ConfigurationError(
            "--dry-run works on a copy of the ledger, and one on a server is not copied here; import into a copy of"
            " your own, made by pg_dump and pg_restore in another database"
        )
    with tempfile.TemporaryDirectory(prefix="costguard-") as folder:
        copy = Path(folder, "costguard.db")
        if path.exists() and path.stat().st_size:
            back_up(path, copy, lambda _: None)
        with Guard(copy, clock=session.clock, durability="normal") as guard:
            _ = guard.ledger.timezone
            yield guard


@contextmanager
def _open(file: str) -> Iterator[tuple[IO[bytes], int]]:
    """The file and how many bytes are in it, 0 where that is not known."""
    if file == _STDIN:
        piped = io.BufferedReader(sys.stdin.buffer, _BUFFER)  # type: ignore[type-var]
        try:
            yield piped, 0
        finally:
            piped.detach()
        return
    try:
        stream = Path(file).open("rb", buffering=_BUFFER)  # noqa: SIM115
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    with stream:
        yield stream, os.fstat(stream.fileno()).st_size


def _name(file: str) -> str:
    return "standard input" if file == _STDIN else file


def _told(found: Imported, pieces: Pieces, file: str, project: str, *, dry_run: bool) -> Document:
    from costguard import money
    from costguard.reports.document import Column, Document, Table, usd
    from costguard.rows import visible

    booking, unit = found.booking, pieces.unit
    row: dict[str, Any] = {
        "file": _name(file),
        "project": project,
        "dry_run": dry_run,
        "after": found.after,
        "lines": found.lines,
        "bad": found.bad,
        "tasks": booking.tasks,
        "results": booking.results,
        "charged": money.to_usd(booking.nanos),
        "known": booking.known,
        "improved": booking.improved,
        "settled": booking.settled,
        "changed": money.to_usd(booking.changed),
        "repeated": booking.repeated,
        "not_billed": found.idle,
    }
    faults = [fault._asdict() for fault in found.faults]
    would = "Would book" if dry_run else "Booked"
    lines = [
        f"{would} {booking.results:,} results of {booking.tasks:,} new tasks on {project}: {usd(row['charged'])} USD.",
        f"Read {found.lines:,} {unit}s{f' after {unit} {found.after:,}, where it was' if found.after else ''}:"
        f" {booking.known:,} results known already, {booking.improved:,} of them now told better;"
        f" {found.idle:,} tasks not billed; {found.bad:,} bad {unit}s.",
    ]
    if booking.settled or booking.changed:
        lines.append(
            f"Of what was booked before, {booking.settled:,} results of open calls {'would be' if dry_run else 'were'}"
            f" settled, and {booking.improved:,} told better: {usd(row['changed'])} USD."
        )
    if booking.repeated:
        one = booking.repeated == 1
        lines.append(
            f"{booking.repeated:,} {unit}{' was' if one else 's were'} equal to another and {'has' if one else 'have'}"
            " no name: booked once."
        )
    parts: list[str | Table] = ["\n".join(lines)]
    if faults:
        parts.append(Table((Column("number", unit.capitalize(), number=True), Column("why", "Why")), faults))
    if found.bad and len({fault.number for fault in found.faults}) < found.bad:
        parts.append(f"More bad {unit}s are not listed: --list N.")
    flat = {**row, "file": visible(row["file"])}
    return Document({**row, "unit": unit, "faults": faults}, list(row), [flat], parts)


COMMANDS = (import_,)
