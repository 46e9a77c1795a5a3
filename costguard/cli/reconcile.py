"""`costguard reconcile`: ask the provider what became of tasks whose outcome is unknown."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from costguard.cli.app import AGE, ENDPOINT, Session, pass_session
from costguard.cli.asking import provider_client
from costguard.cli.output import format_option, show
from costguard.errors import ConfigurationError, CostguardError

if TYPE_CHECKING:
    from costguard.exchange.reconcile import Progress
    from costguard.exchange.settlement import Finding
    from costguard.guard import Guard
    from costguard.reports.document import Document

KEY_VARIABLE = "RUNWARE_API_KEY"
"""Environment variable with the API key: a key among the arguments would show in the list of processes."""

URL = "https://api.runware.ai/v1"
TIMEOUT_S = 60
"""For each answer: one tells of up to 50 tasks."""


@click.command(short_help="Ask the provider for tasks whose outcome is unknown.")
@click.option(
    "--min-age",
    type=AGE,
    default="60s",
    show_default=True,
    help="Ask for held tasks older than this (5m, 2h, 1d).",
)
@click.option(
    "--unknown-age",
    type=AGE,
    default="24h",
    show_default=True,
    help="Release what the provider does not know this long after it was sent: longer than the longest work.",
)
@click.option(
    "--lost-after",
    type=AGE,
    help="Charge calls that cannot be asked for, such as chat completions, as expected this long after they were sent.",
)
@click.option("--url", type=ENDPOINT, default=URL, show_default=True, help="The endpoint to ask.")
@format_option
@pass_session
def reconcile(session: Session, min_age: str, unknown_age: str, lost_after: str | None, url: str, output: str) -> None:
    """Ask the provider for every unresolved task, and for held ones older than --min-age; book what it says.

    The key is read from RUNWARE_API_KEY; it must be of the account that the tasks were sent with. What
    cannot be settled or released stays held, with its reason, and the exit code is 0 all the same; 1 if the
    provider could not be asked at all.
    """
    with session.guard(write=True, lost_after=lost_after) as guard:
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if not (key and key.isascii() and key.isprintable()):
            found = "holds no API key" if key else "is not set"
            raise ConfigurationError(f"{KEY_VARIABLE} {found}; it takes the key that the tasks were sent with")
        headers = {"Authorization": f"Bearer {key}"}
        with provider_client(url, headers, TIMEOUT_S) as client, _progress() as progress:
            result = guard.reconcile(client, min_age=min_age, unknown_age=unknown_age, progress=progress)
        rows = [_row(guard, finding) for finding in result.findings]
    show(_told(rows, sum(finding.told is not None for finding in result.findings)), output)
    if not result.answered:
        raise CostguardError(f"{url} told nothing of any task: {result.findings[-1].reason}; nothing was changed")


def _row(guard: Guard, finding: Finding) -> dict[str, Any]:
    from costguard import money

    task = guard.ledger.task(finding.task_uuid)
    return {
        "task_uuid": finding.task_uuid,
        "outcome": finding.outcome if finding.outcome in _HEADINGS else "left",
        "charged": money.to_usd(task.charged) if task and finding.outcome == "settled" else None,
        "reason": finding.reason or None,
    }


def _told(rows: Sequence[dict[str, Any]], asked: int) -> Document:
    from costguard.reports.document import Column, Document, Table

    outcomes = {outcome: [row for row in rows if row["outcome"] == outcome] for outcome in _HEADINGS}
    kept = {"settled": ("task_uuid", "charged", "reason")}
    lists = {
        outcome: [{key: row[key] for key in kept.get(outcome, ("task_uuid", "reason"))} for row in found]
        for outcome, found in outcomes.items()
    }
    columns = (
        Column("task_uuid", "Task", whole=True),
        Column("outcome", "Outcome", whole=True),
        Column("charged", "Charged", number=True),
        Column("reason", "Reason"),
    )
    counts = ", ".join(f"{len(found)} {outcome}" for outcome, found in outcomes.items())
    parts = (*((Table(columns, rows),) if rows else ()), f"Asked for {asked}: {counts}")
    return Document({"asked": asked, **lists}, [column.key for column in columns], rows, parts)


_HEADINGS = ("settled", "released", "left")


@contextmanager
def _progress() -> Iterator[Progress | None]:
    """A bar on stderr while the provider is asked; None where nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Asking", total=None)

        def show(asked: int, total: int) -> None:
            bar.update(task, completed=asked, total=total)

        yield show


COMMANDS = (reconcile,)
