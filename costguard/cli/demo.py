"""`costguard demo`: guarded calls against a stand-in of the API on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from costguard.cli import status
from costguard.cli.app import FILE, Session, pass_session
from costguard.cli.output import show
from costguard.errors import ConfigurationError, LedgerError
from costguard.refusals import BudgetExceeded

if TYPE_CHECKING:
    import httpx

    from costguard.guard import Guard
    from costguard.testing import Seed

PROJECT = "demo/search"
LIMIT_USD = "0.075"
"""Enough for all published examples but one."""
VIDEO_S = 15
"""The examples' clips are about 6 seconds long; a caller states what they never pass."""

_INTRODUCTION = f"""\
A stand-in for Runware's API, on this machine, answers with the eight examples
that Runware publishes. No key, no internet, nothing is billed.

Budget: the project `demo`, and all below it, may spend {LIMIT_USD} USD a month.
Every call is held at its worst case before it is sent, and charged what the
provider says it cost.
"""


@click.command()
@click.option(
    "--keep",
    metavar="FILE",
    type=FILE,
    help="Keep the ledger in this new file, to look at it with the other commands.",
)
@pass_session
def demo(session: Session, keep: Path | None) -> None:
    """See it work: no key, no internet, nothing billed."""
    import tempfile

    if keep is not None and keep.exists():
        raise ConfigurationError(f"--keep: {keep} exists; name a new file")
    mode = os.environ.get("COSTGUARD") or "enforce"
    if mode != "enforce":
        raise ConfigurationError(f"COSTGUARD={mode} is set, and would turn off what the demo shows; unset it")
    with tempfile.TemporaryDirectory(prefix="costguard-demo-") as folder:
        _run(Path(folder) / "costguard.db" if keep is None else keep, session.clock)
    if keep is not None:
        click.echo(f"\nThe ledger is {keep}; try: costguard --db {keep} tasks")


def _run(path: Path, clock: Callable[[], datetime] | None) -> None:
    import logging

    import httpx

    from costguard.guard import Guard
    from costguard.reports import periods, statement
    from costguard.reports.facts import state
    from costguard.testing import StandIn, seeds

    alerts: list[str] = []
    logging.getLogger("costguard").addHandler(logging.NullHandler())  # alerts are printed below
    click.echo(_INTRODUCTION)
    with (
        StandIn().serve() as url,
        Guard(
            path,
            project=PROJECT,
            media_max={"video_s": VIDEO_S},
            on_alert=lambda alert: alerts.append(str(alert)),
            clock=clock,
        ) as guard,
        httpx.Client(base_url=url, trust_env=False) as client,
    ):
        guard.set_budget("demo", LIMIT_USD, per="month", timezone="UTC", warn_at=(50, 80))
        guard.wrap(client)
        click.echo(_line("Call, USD", "Expected", "Upper", "Charged"))
        for seed in seeds():
            _call(guard, client, seed)
            while alerts:
                click.echo(f"    ! {alerts.pop(0)}")

        click.echo("\n$ costguard status")
        show(status.document(guard.status()), "table")
        at_us = guard.now_us()
        click.echo("\n$ costguard report --by modality")
        month = periods.month(f"{guard.status()[0].window_start:%Y-%m}")
        show(statement.document(state(guard.ledger, month, by=("modality",), at_us=at_us)), "table")
        click.echo("\n$ costguard verify")
        difference = guard.verify().difference
    if difference is not None:
        raise LedgerError(f"a promise does not hold: {difference}")
    click.echo("All promises hold.")


def _call(guard: Guard, client: httpx.Client, seed: Seed) -> None:
    """One guarded call and its line: what was expected, held and charged."""
    import textwrap

    from costguard import money
    from costguard.reports.document import usd

    found = guard.estimate(seed.request)
    name = f"{seed.name}, {seed.model.rpartition('@')[2]}"
    try:
        client.post("/v1", json=[seed.request]).raise_for_status()
    except BudgetExceeded as stop:
        click.echo(_line(name, usd(found.expected), usd(found.upper), "not sent"))
        click.echo(textwrap.fill(f"BudgetExceeded: {stop}", 80, initial_indent="    ", subsequent_indent="    "))
        return
    task = guard.ledger.task(seed.request["taskUUID"])
    charged = "unknown" if task is None else usd(money.to_usd(task.charged))
    click.echo(_line(name, usd(found.expected), usd(found.upper), charged))


def _line(name: str, expected: str, upper: str, charged: str) -> str:
    return f"{name:<50} {expected:<9} {upper:<9} {charged}"


COMMANDS = (demo,)
