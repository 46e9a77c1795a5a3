"""Formats of the command line: every command that prints data offers every format, a new one too."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result
from conftest import Clock

from costguard import Guard
from costguard.cli import main
from costguard.cli.app import Session
from costguard.cli.output import FormatType
from costguard.reports import formats
from costguard.reports.document import Document, Table

ARGUMENTS = {
    "budget list": (),
    "budget log": (),
    "ceiling list": (),
    "status": (),
    "check": ("acme", "1"),
    "tasks": (),
    "report": (),
    "accuracy": (),
    "estimate": ("-",),
    "prices list": (),
    "prices show": ("google:gemini@3-flash",),
    "verify": (),
    "reconcile": (),
    "import": ("/dev/null", "--project", "acme", "--at", "2026-11-22", "--dry-run"),
    "reprice": ("--as-of", "2026-11-22"),
    "log": (),
    "project list": (),
    "token list": (),
}
"""Every command that prints data, with arguments that make it."""


def commands_with_formats() -> Iterator[str]:
    """The commands that take `--format`, as the program itself knows them."""

    def walk(command: click.Command, path: tuple[str, ...]) -> Iterator[str]:
        if any(isinstance(option.type, FormatType) for option in command.params):
            yield " ".join(path)
        if isinstance(command, click.Group):
            for name, inner in command.commands.items():
                yield from walk(inner, (*path, name))

    yield from walk(main, ())


@pytest.fixture
def outline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new format: one module, and one line in the registry."""
    module = ModuleType("outline_format")

    def write(document: Document) -> str:
        tables = [part for part in document.parts if isinstance(part, Table)]
        record = ",".join(map(str, document.record))
        return f"outline: {record} | {','.join(document.keys)} | {len(document.rows)} | {len(tables)}"

    module.__dict__.update(FOR_PEOPLE=False, write=write)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(formats.FORMATS, "outline", module.__name__)


def run(command: str, ledger: Path, clock: Clock, *options: str) -> Result:
    task = {
        "taskType": "textInference",
        "model": "google:gemini@3-flash",
        "messages": [{"role": "user", "content": "x"}],
    }
    args = [*command.split(), *ARGUMENTS[command], *options]
    env = {"RUNWARE_API_KEY": "secret"}
    return CliRunner().invoke(main, args, obj=Session(ledger, clock), input=json.dumps([task]), env=env)


def test_every_command_that_prints_data_is_known_here() -> None:
    assert set(commands_with_formats()) == set(ARGUMENTS)


@pytest.mark.usefixtures("outline")
@pytest.mark.parametrize("command", ARGUMENTS)
def test_a_registered_format_is_offered_by_every_command(
    command: str, guard: Guard, ledger: Path, clock: Clock
) -> None:
    guard.set_ceiling("painter:1@1", "0.01")
    result = run(command, ledger, clock, "--format", "outline")
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    assert result.stdout.startswith("outline: ")
    assert result.stdout.count("\n") == 1
    assert "|outline|" in CliRunner().invoke(main, [*command.split(), "--help"]).stdout


@pytest.mark.parametrize("command", ARGUMENTS)
@pytest.mark.parametrize("name", formats.FORMATS)
def test_every_command_writes_every_format(command: str, name: str, guard: Guard, ledger: Path, clock: Clock) -> None:
    result = run(command, ledger, clock, "--format", name)
    assert result.exit_code == 0, result.output
    if name == "json":
        assert json.loads(result.stdout)["schema"] == 1


def test_an_unknown_format_names_those_there_are(guard: Guard, ledger: Path, clock: Clock) -> None:
    result = run("status", ledger, clock, "--format", "xml")
    assert result.exit_code == 2
    assert "'xml' is not one of 'table', 'json', 'csv', 'markdown', 'html', 'parquet'." in result.stderr


def test_a_shell_completes_the_names() -> None:
    completions = ShellComplete(main, {}, "costguard", "_X").get_completions(["status", "--format"], "j")
    assert [item.value for item in completions] == ["json"]


def test_formats_are_loaded_when_they_are_asked_for() -> None:
    code = (
        "import sys; from costguard.reports import formats; formats.named('csv')\n"
        "print([name for name in sys.modules if name.startswith('costguard.reports.formats.') or name == 'rich'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['costguard.reports.formats.csv_format']"


def test_every_format_is_what_the_protocol_asks_for() -> None:
    for name in formats.FORMATS:
        chosen = formats.named(name)
        assert isinstance(chosen.FOR_PEOPLE, bool)
        assert chosen.write(Document({"n": 1}, ["n"], [{"n": 1}], ["one"]))
    assert [name for name in formats.FORMATS if formats.named(name).FOR_PEOPLE] == ["table"]
