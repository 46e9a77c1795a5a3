"""The fields of JSON and CSV that docs/output.md tells are those that the commands print."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner
from conftest import API, FLASH, a_task

from costguard import Guard, tokens
from costguard.cli import main
from costguard.testing import StandIn

PAGE = (Path(__file__).parents[2] / "docs" / "output.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## `costguard ([\w ]+)`\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))

ARGUMENTS = {
    "check": ["acme", "0.01"],
    "estimate": ["request.json"],
    "import": ["calls.jsonl", "--project", "acme/search", "--at", "2026-01-15"],
    "prices show": [FLASH],
    "reprice": ["--as-of", "2026-01-15"],
    "report": ["--by", "project", "--by", "model", "--by", "modality", "--by", "day", "--top", "3"],
}
"""What a command needs, or what makes it tell all it can."""

NAMED = {
    "left_out_because": "REASON",
    "prompt": "MODALITY",
    "bases": "BASIS",
    "checked": "PROMISE",
    "media": "NAME",
    "tags": "NAME",
    "made": "UNIT",
}
"""Objects whose keys are data."""


def data_commands() -> Iterator[str]:
    """Every command with `--format`."""
    for name, command in main.commands.items():
        below = command.commands.items() if isinstance(command, click.Group) else ()
        for full, each in ((name, command), *((f"{name} {sub}", found) for sub, found in below)):
            if any(option.name == "output" for option in each.params):
                yield full


def fields(value: Any, path: str = "") -> Iterator[str]:
    """The paths of all values; an empty list or object is its own path."""
    if isinstance(value, dict) and value:
        name = NAMED.get(path.rpartition(".")[2])
        for key, below in value.items():
            yield from fields(below, f"{path}.{name or key}".lstrip("."))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for each in value:
            yield from fields(each, f"{path}[]")
    else:
        yield path


@pytest.fixture
def asked(standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Options of every command for a ledger that has something of everything; what they ask goes to the stand-in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNWARE_API_KEY", "a-key")
    Path("request.json").write_text(json.dumps([a_task()]))
    Path("calls.jsonl").write_text('{"taskUUID": "a", "cost": 1}\n')
    with Guard("costguard.db", project="acme/search", durability="normal") as guard:
        guard.set_budget("acme", 1, warn_at=(50, 80))
        guard.set_ceiling("acme:writer@1", "0.1")
        guard.ledger.add_token(tokens.make("acme", "The app", guard.now_us(), "somebody")[1])
        with guard.wrap(httpx.Client(base_url=API, transport=standin.transport())) as client:
            with guard.scope(tags={"run": "42"}):
                client.post("/v1", json=[a_task()])
            standin.fault("drop_after")
            with pytest.raises(httpx.ReadError):
                client.post("/v1", json=[a_task()])
    with standin.serve() as url:
        ARGUMENTS["reconcile"] = ["--url", f"{url}/v1"]
        yield ["--db", "costguard.db"]


def run(asked: list[str], command: str, output: str) -> str:
    args = [*asked, *command.split(), *ARGUMENTS.get(command, []), "--format", output]
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_every_command_that_prints_data_has_its_section() -> None:
    assert set(SECTIONS) == set(data_commands())


@pytest.mark.parametrize("command", SECTIONS)
def test_the_fields_of_json_are_those_that_are_told(asked: list[str], command: str) -> None:
    rows = re.findall(r"^\| (`.*?) \|", SECTIONS[command], re.M)
    told = {field for row in rows for field in re.findall(r"`([^`]+)`", row)}
    printed = json.loads(run(asked, command, "json"))
    assert printed.pop("schema") == 1
    seen = set(fields(printed))
    empty = {path for path in seen if any(each.startswith((f"{path}[", f"{path}.")) for each in told)}
    assert seen - told - empty == set(), "printed, and not told"
    assert {each for each in told - seen if not each.startswith(tuple(empty) or "\0")} == set(), "told, and not printed"


@pytest.mark.parametrize("command", SECTIONS)
def test_the_columns_of_csv_are_those_that_are_told(asked: list[str], command: str) -> None:
    (told,) = re.findall(r"^CSV.*: `(.*)`$", SECTIONS[command], re.M)
    header, *_ = run(asked, command, "csv").splitlines()
    assert header == told
