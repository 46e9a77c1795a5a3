"""The command on what is made: estimates in words, prices of results, seconds and megapixels, and mistakes in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from makers import CLIP, PAINTER, SKETCHER, picture, sound, video, write_prices

from costguard.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_prices(tmp_path)


def run(*args: str, tasks: list[dict[str, Any]] | None = None) -> Result:
    return CliRunner().invoke(main, [*args, "--prices", "prices"], input=json.dumps(tasks))


@pytest.mark.usefixtures("folder")
def test_an_estimate_says_how_the_worst_case_comes_about() -> None:
    tasks = [picture(numberResults=2), video(duration=None), picture(model=SKETCHER, width=500, height=1)]
    shown = run("estimate", "-", tasks=tasks)
    assert shown.exit_code == 0, shown.output
    assert [line for line in shown.stdout.splitlines() if line.startswith("Task ") and "most" in line] == [
        "Task 0 at most: 2 results × 0.02 USD per result (up to 1024x1024) = 0.04 USD.",
        "Task 1 at most: 1 result × 10 seconds × 0.06 USD per second (720p with audio) = 0.60 USD.",
        "Task 2 at most: 1 result × 0.0005 megapixels × 0.0013377 USD per megapixel = 0.000000669 USD.",
    ]
    document = json.loads(run("estimate", "-", "--format", "json", tasks=tasks).stdout)
    assert [task["made"] for task in document["tasks"]] == [
        {"results": {"expected": "1", "upper": "1"}},
        {"seconds": {"expected": "5", "upper": "10"}},
        {"megapixels": {"expected": "0.0005", "upper": "0.0005"}},
    ]
    rows = run("estimate", "-", "--format", "csv", tasks=tasks).stdout.splitlines()
    assert f"1,{CLIP},seconds,5,10,seconds" in rows


@pytest.mark.usefixtures("folder")
def test_an_estimate_without_a_length_exits_with_1_and_says_what_to_state() -> None:
    shown = run("estimate", "-", tasks=[sound(duration=None)])
    assert shown.exit_code == 1
    assert "the length of a result is not known: state duration in the task, or max_seconds in [output]" in shown.stderr
    assert "Traceback" not in shown.output


@pytest.mark.usefixtures("folder")
def test_prices_are_listed_and_shown_by_model_alias_and_type_of_task() -> None:
    listed = json.loads(run("prices", "list", "--format", "json").stdout)["models"]
    assert {"upscale", CLIP, PAINTER} <= {row["model"] for row in listed}
    for name in (PAINTER, "acme-painter"):
        shown = run("prices", "show", name).stdout
        assert "Where a task does not say: likely 1024x1024" in shown
        assert "Where a task does not say: at most 2048x2048" in shown
    assert "each model without a price file of its own" in run("prices", "show", "upscale").stdout
    rates = json.loads(run("prices", "show", CLIP, "--format", "json").stdout)["rates"]
    assert [(row["modality"], row["usd"], row["unit"], row["counted"]) for row in rates][-1] == (
        "1080p with audio",
        "0.12",
        "second",
        "begun ones whole",
    )


@pytest.mark.parametrize("command", [("prices", "list"), ("prices", "show", CLIP), ("estimate", "-")])
def test_a_bad_price_file_stops_every_command_with_file_key_and_what_to_write(
    folder: Path, command: tuple[str, ...]
) -> None:
    file = folder / "clip.toml"
    file.write_text(file.read_text(encoding="utf-8").replace('"0.06"', "0.06"), encoding="utf-8")
    shown = run(*command, tasks=[])
    assert (shown.exit_code, shown.stdout) == (1, "")
    assert (
        'prices/clip.toml: prices[0].rates[1].usd: expected USD as text, such as "0.5", got float 0.06' in shown.stderr
    )
    file.write_text("model = \nname", encoding="utf-8")
    assert "clip.toml: not valid TOML: Invalid value (at line 1, column 9)" in run(*command, tasks=[]).stderr
