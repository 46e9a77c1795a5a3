"""`costguard estimate`: what a request body may cost, before it is sent."""

from __future__ import annotations

import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from costguard.cli.app import MEDIA_MAX, PROJECT, Session, pass_session, prices_option
from costguard.cli.hints import hint_at_project, near_model
from costguard.cli.output import format_option, show
from costguard.errors import ConfigurationError
from costguard.modalities import MEDIA_MAX as SETTINGS

if TYPE_CHECKING:
    from costguard.estimating.estimate import Estimate
    from costguard.estimating.making import Making
    from costguard.estimating.media import MediaMax
    from costguard.reports.document import Table
    from costguard.tasks import Task

BODY_MAX = 256 * 2**20
"""Bytes that are read of a request body."""


@click.command(short_help="Estimate a request body before it is sent.")
@click.argument("file", type=click.Path(allow_dash=True))
@click.option(
    "--media-max",
    type=MEDIA_MAX,
    help=f"Longest media you send, such as {','.join(f'{setting}=30' for setting in SETTINGS)}.",
)
@click.option("--project", type=PROJECT, help="Learn expectations from this project's history in the ledger.")
@prices_option
@format_option
@pass_session
def estimate(
    session: Session, file: str, media_max: MediaMax | None, project: str | None, folder: Path | None, output: str
) -> None:
    """Estimate a request body in FILE (- reads standard input): an array of tasks, or one task.

    Tokens, seconds and megapixels are per result, USD for all results of a task. Nothing is sent, and no ledger is
    needed but with --project: then the expected completion is the mean of that project's calls of the model.

    Exit code 1 if a task has no known worst case; the others are printed all the same.
    """
    from costguard.estimating.estimate import estimate as estimate_task
    from costguard.estimating.media import MediaMax
    from costguard.prices.book import PriceBook
    from costguard.reports.document import Document
    from costguard.wire.runware.requests import parse_request

    body = _read(file)
    book = PriceBook.load(folder)
    at_us = time.time_ns() // 1000
    request = parse_request(body)
    named = {task.uuid: book.of(task.model, task.task_type) for task in request.tasks if task.billable}
    means = _means(session, project, {known.model for known in named.values() if known and known.prices}, at_us)

    def estimated(task: Task) -> Estimate:
        known = named.get(task.uuid)
        return estimate_task(task, book, at_us, media_max or MediaMax(), means.get(known.model) if known else None)

    found = [(n, task, estimated(task) if task.billable else None) for n, task in enumerate(request.tasks)]
    rows = [_row(index, task, each) for index, task, each in found]
    total = {bound: _sum(row[bound] for row in rows) for bound in ("expected", "upper")}
    parts: list[str | Table] = list(_parts(rows, total))
    learned = sorted({each.model for _, _, each in found if each and each.learned})
    if learned:
        parts.append(f"Expected completions are learned from {project}: {', '.join(learned)}.")
    settings = sorted({setting for _, _, each in found if each for setting in each.unbounded})
    if settings:
        parts.append(
            "Media of unknown length count as the model's whole context; state their maximum:"
            f" --media-max {','.join(f'{setting}=N' for setting in settings)}"
        )
    lines = [line for row in rows for line in _token_rows(row)]
    show(Document({"tasks": rows, "total": total}, _TOKEN_KEYS, lines, parts), output)
    unknown = next((row for row in rows if row["upper"] is None), None)
    if unknown is not None:
        raise ConfigurationError(_no_worst_case(unknown) + near_model(book, unknown["model"] or ""))


def _read(file: str) -> bytes:
    """The body; a usage error for what cannot be opened, ConfigurationError for what cannot be read or has no end."""
    name = "standard input" if file == "-" else file
    try:
        opened = click.open_file(file, "rb")
    except OSError as error:
        raise click.BadParameter(
            f"{file!r}: {error.strerror}", click.get_current_context(), param_hint="FILE"
        ) from error
    try:
        with opened:
            body: bytes = opened.read(BODY_MAX + 1)
    except OSError as error:
        raise ConfigurationError(f"{name} cannot be read: {error.strerror}; name a file with a request body") from error
    if len(body) > BODY_MAX:
        raise ConfigurationError(f"{name} is longer than {BODY_MAX // 2**20} MiB; name a file with one request body")
    return body


def _no_worst_case(row: dict[str, Any]) -> str:
    return f"Task {row['task']} has no worst case: {row['unpriced']}"


def _row(index: int, task: Task, found: Estimate | None) -> dict[str, Any]:
    row: dict[str, Any] = {"task": index, "task_type": task.task_type, "model": task.model, "results": task.results}
    if found is None:
        free = Decimal("0.00")
        return {
            **row,
            "prompt": {},
            "completion": None,
            "expected": free,
            "upper": free,
            "price": None,
            "unpriced": None,
            "learned": False,
            "made": {},
            "reckoning": None,
        }
    return {
        **row,
        "model": found.model if task.model else None,
        "prompt": {modality: count._asdict() for modality, count in found.prompt.items() if count.upper},
        # A task always allows some completion: none means that nothing is known of it.
        "completion": found.completion._asdict() if found.completion.upper else None,
        "expected": found.expected,
        "upper": found.upper,
        "price": found.price.id if found.price else None,
        "unpriced": found.unpriced,
        "learned": found.learned,
        "made": {} if found.making is None else {found.making.meter: _made(found.making)},
        "reckoning": found.reckoning,
    }


def _made(making: Making) -> dict[str, Decimal]:
    """What one result is counted as, in units of its meter."""
    from costguard.outputs import in_units

    return {bound: in_units(making.meter, parts) for bound, parts in making.parts._asdict().items()}


def _means(session: Session, project: str | None, models: set[str], at_us: int) -> dict[str, int]:
    """Mean completion tokens by model, from the history of `project`; nothing without one."""
    if project is None:
        return {}
    with session.guard() as guard:
        hint_at_project(guard, project)
        found = {model: guard.ledger.mean_completion(project, model, at_us) for model in models}
    return {model: mean for model, mean in found.items() if mean is not None}


def _token_rows(row: dict[str, Any]) -> list[dict[str, Any]]:
    """A task's tokens, a line a modality, or what it makes, then its cost."""
    counts = {**row["prompt"], **({"completion": row["completion"]} if row["completion"] else {})}
    common = {"task": row["task"], "model": row["model"] or row["task_type"]}
    lines = [
        {**common, "what": name, "expected": count["expected"], "upper": count["upper"], "unit": "tokens"}
        for name, count in counts.items()
    ]
    lines += [{**common, "what": meter, **count, "unit": meter} for meter, count in row["made"].items()]
    return [*lines, {**common, "what": "cost", "expected": row["expected"], "upper": row["upper"], "unit": "USD"}]


_TOKEN_KEYS = ("task", "model", "what", "expected", "upper", "unit")


def _parts(rows: list[dict[str, Any]], total: dict[str, Decimal | None]) -> Iterator[str | Table]:
    """Tokens per result, then what each task comes to."""
    from costguard.reports.document import Column, Table, usd

    bounds = (Column("expected", "Expected", number=True), Column("upper", "Upper", number=True))
    tokens = [line for row in rows for line in _token_rows(row) if line["unit"] == "tokens"]
    costs = [{**row, "model": row["model"] or row["task_type"]} for row in rows]
    task = (Column("task", "Task", number=True), Column("model", "Model"))
    if tokens:
        yield Table((*task, Column("what", "Tokens per result"), *bounds), tokens)
    in_usd = tuple(column._replace(title=f"{column.title} USD") for column in bounds)
    results = Column("results", "Results", number=True)
    yield Table((*task, results, *in_usd), costs, {"model": "total", **total})
    notes = [
        f"Task {row['task']} at most: {row['reckoning']} = {usd(row['upper'])} USD." for row in rows if row["reckoning"]
    ]
    notes += [f"{_no_worst_case(row)}." for row in rows if row["unpriced"]]
    if notes:
        yield "\n".join(notes)


def _sum(amounts: Any) -> Decimal | None:
    """The exact sum, None if any part is unknown."""
    from costguard import money

    nanos = money.sum_known(None if amount is None else money.parse_usd(amount) for amount in amounts)
    return None if nanos is None else money.to_usd(nanos)


COMMANDS = (estimate,)
