"""`costguard run`: a program that was never changed, under a guard."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Container, Mapping
from decimal import Decimal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from costguard.budgets import PERIODS, make_budget
from costguard.cli import streams
from costguard.cli.app import AMOUNT, PROJECT, Session, pass_session, prices_option
from costguard.cli.tags import TAG, distinct
from costguard.errors import ConfigurationError, CostguardError
from costguard.projects import DEFAULT_PROJECT

if TYPE_CHECKING:
    from costguard.guard import Guard

PASSED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that the program gets in place of this one."""
_FROM_KEYS = (signal.SIGINT, signal.SIGQUIT)
EXIT_NOT_FOUND, EXIT_NOT_RUN = 127, 126
"""What shells report for a command that is not there, or cannot be run."""


class LimitType(click.ParamType[tuple[Decimal, str]]):
    """An amount in USD per window, as `5/day`."""

    name = "usd/window"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Decimal, str]:
        """Both."""
        if isinstance(value, tuple):
            return value
        amount, _, per = str(value).partition("/")
        if per not in PERIODS:
            self.fail(
                f"{value!r} is not an amount per window such as 5/day; windows are {', '.join(PERIODS)}", param, ctx
            )
        found: Decimal = AMOUNT.convert(amount, param, ctx)
        return found, per


@click.command(
    short_help="Run a program under a guard, without changing it.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option(
    "--project", type=PROJECT, default=DEFAULT_PROJECT, show_default=True, help="What its calls are booked on."
)
@click.option(
    "--budget", "limits", type=LimitType(), multiple=True, help="A budget to set on the project first, such as 5/day."
)
@click.option("--tag", "tags", type=TAG, multiple=True, help="A tag that all its calls get, such as user=ann.")
@click.option("--endpoint", "endpoints", multiple=True, help="A further host that speaks a wire that is guarded.")
@prices_option
@click.option("--allow-unguarded", "allows", is_flag=True, help="Let Pythons go that cannot be guarded.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@pass_session
@click.pass_context
def run(
    ctx: click.Context,
    /,
    session: Session,
    project: str,
    limits: tuple[tuple[Decimal, str], ...],
    tags: tuple[tuple[str, str], ...],
    endpoints: tuple[str, ...],
    folder: Path | None,
    allows: bool,
    command: tuple[str, ...],
) -> None:
    """Run COMMAND with every httpx, httpx2, aiohttp, requests and Runware client in it guarded, its child processes
    included.

    costguard run --project nightly --budget 5/day -- python app.py

    A budget is set as `costguard budget set` does, and stays; the ledger is made if there is none. At the end standard
    error says what the run cost; its tasks have the tag run=ID. The exit code is the program's (128 + N for one that
    signal N ended), and signals are passed on.

    Guarded is what Python calls by those libraries. What a program in another language calls is not, nor a Python with
    -I, -E or -S, or one whose environment has no costguard: the last two are stopped where that can be seen.
    """
    from costguard.exchange.endpoints import Endpoints
    from costguard.running import RUN_TAG, Run
    from costguard.running.children import ignoring, python_words

    name = uuid.uuid4().hex[:12]
    tagged = {**distinct(tags), RUN_TAG: name}
    try:
        for amount, per in limits:
            make_budget(project, amount, per=per)
        Endpoints(endpoints)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error
    file = shutil.which(command[0])
    if file is None:
        streams.complain(f"Error: {command[0]}: no such command was found; nothing was started")
        ctx.exit(EXIT_NOT_FOUND)
    words = python_words(list(command), file)
    option = None if allows or words is None else ignoring(words)
    if option is not None:
        raise ConfigurationError(
            f"{command[0]} {option} looks at nothing that would guard it; run it without {option}, or let it go"
            " unguarded with --allow-unguarded; nothing was started"
        )
    place = session.place(make_folder=True)
    with session.guard(create=True, prices=folder) as guard:
        for line in _replaced(guard, project, limits):
            streams.complain(f"costguard run: {line}")
        for amount, per in limits:
            guard.set_budget(project, amount, per=per)
        since_us = guard.now_us()
    with tempfile.TemporaryDirectory(prefix="costguard-run-") as kept:
        told = Run(place, project, tagged, kept, endpoints=endpoints, prices=folder, allows=allows)
        try:
            code = _run(command, told.environment(os.environ))
        except OSError as error:
            streams.complain(f"Error: {command[0]} cannot be run: {error.strerror}; nothing was started")
            ctx.exit(EXIT_NOT_RUN)
        noted = {each.name for each in Path(kept).iterdir()}
    try:
        with session.guard() as guard:
            said = _said(guard, project, name, since_us, noted, [per for _, per in limits])
    except CostguardError as error:  # the exit code is the program's all the same
        said = [f"what it cost cannot be told: {error}"]
    for line in said:
        streams.complain(f"costguard run: {line}")
    ctx.exit(code)


def _replaced(guard: Guard, project: str, limits: tuple[tuple[Decimal, str], ...]) -> list[str]:
    """What is to be known of budgets that are there already, in lines."""
    from costguard.reports.document import usd

    known = {(each.project, each.per): each for each in guard.ledger.budgets()}
    lines = []
    for amount, per in limits:
        budget = known.get((project, per))
        if budget is not None and budget.limit != amount:
            lines.append(f"budget {budget}: {usd(amount)} USD from now on, {usd(budget.limit)} USD until now")
        if budget is not None and not budget.hard:
            lines.append(f"budget {budget}: its action is {budget.action}, so it refuses nothing")
    return lines


def _run(command: tuple[str, ...], environment: Mapping[str, str]) -> int:
    """Run it to its end, and give the exit code that a shell would."""
    with _Passing() as passing, subprocess.Popen(command, env=environment) as child:  # noqa: S603
        passing.to(child)
        code = child.wait()
    return 128 - code if code < 0 else code


class _Passing:
    """Passes signals on to the program that is run, those too that come before it is there."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Passing:
        for number in PASSED:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup: the program ignores it, too
                self._before[number] = signal.signal(number, self._pass)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def to(self, child: subprocess.Popen[bytes]) -> None:
        """The program is there."""
        self._child = child
        while self._early:
            child.send_signal(self._early.pop(0))

    def _pass(self, number: int, _: FrameType | None) -> None:
        if number in _FROM_KEYS and _is_in_front():
            return  # the terminal told the program, too
        if self._child is None:
            self._early.append(number)
        else:
            self._child.send_signal(number)


def _is_in_front() -> bool:
    """Whether the keys of a terminal speak to this program."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _said(guard: Guard, project: str, name: str, since_us: int, noted: Container[str], named: list[str]) -> list[str]:
    """What the run came to, in lines. `named`: the budgets that it set on its project; without one, all are told of."""
    from costguard import money
    from costguard.projects import covers
    from costguard.reports.document import usd
    from costguard.running import RUN_TAG

    if os.environ.get("COSTGUARD", "").strip().lower() == "off":
        return ["COSTGUARD=off: nothing was guarded"]
    if "started" not in noted:
        return ["no Python was started that could be guarded: what else it called is neither held for nor known"]
    if "guarded" not in noted:
        return ["no client library was imported (httpx, httpx2, aiohttp, requests): no call was guarded"]
    found = [
        task
        for task in guard.ledger.tasks(project=project, since_us=since_us)
        if json.loads(task.tags or "{}").get(RUN_TAG) == name
    ]
    charged, held = money.to_usd(sum(task.charged for task in found)), money.to_usd(sum(task.held for task in found))
    count = f"{len(found):,} {'task' if len(found) == 1 else 'tasks'}"
    lines = [f"{count} of {project}, {usd(charged)} USD charged (tag {RUN_TAG}={name})"]
    if held:
        unknown = sum(task.held > 0 for task in found)
        lines.append(
            f"{usd(held)} USD still held for {unknown:,} of them, whose end is not known: `costguard reconcile`"
        )
    lines += [
        f"budget {each.project} per {each.per}: {usd(each.remaining)} of {usd(each.limit)} USD left"
        for each in guard.status(project)
        if ((each.project == project and each.per in named) if named else covers(each.project, project))
    ]
    return lines


COMMANDS = (run,)
