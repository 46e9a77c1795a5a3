"""What the commands print as JSON is what the published schema says, and the schema says all of it."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from click.testing import CliRunner
from conftest import API, FLASH, a_task
from makers import CLIP, PAINTER, SKETCHER, picture, sound, video, write_prices
from test_cli_formats import ARGUMENTS, commands_with_formats

from costguard import BudgetExceeded, Guard, tokens
from costguard.cli import main
from costguard.reports.formats.json_format import SCHEMA
from costguard.testing import StandIn

FILE = Path(__file__).parents[2] / "docs" / f"output-{SCHEMA}.schema.json"
PUBLISHED: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))

VARIANTS: dict[str, list[tuple[str, ...]]] = {
    "report": [
        (),
        ("--by", "project", "--by", "model", "--by", "modality", "--by", "day"),
        ("--month", "2020-01"),
        ("--by", "tag:run", "--by", "task_type", "--round", "cents"),
        ("--per", "week", "--top", "3", "--depth", "1"),
    ],
    "check": [("acme", "0.01"), ("elsewhere", "0.01")],
    "estimate": [("request.json",), ("made.json", "--prices", "prices")],
    "prices show": [(FLASH,), *((model, "--prices", "prices") for model in (CLIP, PAINTER, "upscale"))],
    "prices list": [(), ("--prices", "prices")],
    "reprice": [("--as-of", "2026-11-22"), ("--as-of", "2020-01-01", "--month", "2020-01")],
    "import": [("records.jsonl", "--project", "acme/old", "--at", "created", "--dry-run")],
}
"""Arguments of the commands, where there is more than one answer."""


def strict(schema: Any) -> Any:
    """The same, which refuses every field that it does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    if "properties" in found and found.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found


def check(command: str, answer: Any, schema: Any) -> None:
    named = {**schema, "$ref": f"#/$defs/{command.replace(' ', '-')}"}
    del named["anyOf"]
    jsonschema.Draft202012Validator(named, format_checker=jsonschema.FormatChecker()).validate(answer)


@pytest.fixture
def asked(standin: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Options of every command for a ledger with charges, tags, a refusal, open tasks, budgets and a ceiling."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNWARE_API_KEY", "a-key")
    Path("request.json").write_text(json.dumps([a_task(), a_task(model="nobody:knows@1"), {"taskType": "ping"}]))
    record = {
        "taskUUID": str(uuid.uuid4()),
        "taskType": "textInference",
        "cost": 0.001,
        "created": "2026-11-01T00:00:00Z",
    }
    made = [picture(numberResults=2), picture(model=SKETCHER), picture(taskType="upscale"), sound()]
    Path("made.json").write_text(json.dumps([*made, sound(duration=None), video(duration=None)]))
    Path("records.jsonl").write_text(f"{json.dumps(record | {'model': FLASH})}\nnot a record\n")
    prices = write_prices(tmp_path)
    with Guard("costguard.db", project="acme/search", durability="normal", prices=prices) as guard:
        guard.set_budget("acme", 1, warn_at=(50, 80))
        guard.set_budget("acme/*", "0.5", per="day")
        guard.set_ceiling("acme:writer@1", "0.1")
        guard.ledger.add_token(tokens.make("acme", "", guard.now_us(), "somebody")[1])
        with guard.wrap(httpx.Client(base_url=API, transport=standin.transport())) as client:
            with guard.scope(tags={"run": "42"}):
                client.post("/v1", json=[a_task()])
            for fault in ("cost_only", "usage_only", "no_cost"):
                standin.fault(fault)
                client.post("/v1", json=[a_task()])
            client.post("/v1", json=made)
            with pytest.raises(BudgetExceeded):
                client.post("/v1", json=[a_task(settings={"maxTokens": 60000}, numberResults=20)])
            standin.fault("drop_after")
            with pytest.raises(httpx.ReadError):
                client.post("/v1", json=[a_task()])
        guard.remove_budget("acme/*", per="day")
    with standin.serve() as url:
        VARIANTS["reconcile"] = [("--url", f"{url}/v1")]
        yield ["--db", "costguard.db", "--format", "json"]


def test_the_schema_is_one_and_has_a_definition_for_each_command() -> None:
    jsonschema.Draft202012Validator.check_schema(PUBLISHED)
    named = {each["$ref"].removeprefix("#/$defs/") for each in PUBLISHED["anyOf"]}
    assert named == {command.replace(" ", "-") for command in commands_with_formats()}
    assert PUBLISHED["$id"].endswith(f":{SCHEMA}")


@pytest.mark.parametrize("command", ARGUMENTS)
def test_what_a_command_prints_is_what_the_schema_says_and_nothing_else(asked: list[str], command: str) -> None:
    for args in VARIANTS.get(command, [()]):
        result = CliRunner().invoke(main, [*asked[:2], *command.split(), *args, *asked[2:]])
        assert result.stdout, result.output
        check(command, json.loads(result.stdout), strict(PUBLISHED))


def test_a_field_that_is_added_is_no_error_and_one_that_goes_or_changes_is() -> None:
    answer = {"schema": SCHEMA, "ceilings": [{"name": "a", "per_result": "0.01"}]}
    check("ceiling list", {**answer, "new": 1}, PUBLISHED)
    for wrong in (0.01, "0.0100000001", "1e-2", "1,000.00", None):
        changed = copy.deepcopy(answer)
        changed["ceilings"][0]["per_result"] = wrong  # type: ignore[index]
        with pytest.raises(jsonschema.ValidationError):
            check("ceiling list", changed, PUBLISHED)
    with pytest.raises(jsonschema.ValidationError):
        check("ceiling list", {"schema": SCHEMA, "ceilings": [{"name": "a"}]}, PUBLISHED)
