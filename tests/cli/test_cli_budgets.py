"""`costguard budget`, `ceiling` and `init`: what is kept, who changed it, and what a misspelt name was meant to be."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import Clock

from costguard import Guard
from costguard.cli import main
from costguard.cli.app import Session
from costguard.cli.suggesting import did_you_mean, hint
from costguard.errors import ConfigurationError

Run = Callable[..., Result]


@pytest.fixture
def run(ledger: Path, clock: Clock) -> Run:
    """Run a command on the test's ledger at the test's time."""

    def invoke(*args: str, code: int = 0) -> Result:
        result = CliRunner().invoke(main, args, obj=Session(ledger, clock))
        assert result.exit_code == code, (result.stdout, result.stderr, result.exc_info)
        return result

    return invoke


def listed(run: Run) -> Any:
    return json.loads(run("budget", "list", "--format", "json").stdout)["budgets"]


TERMS = ("--timezone", "Asia/Tokyo", "--warn", "50,80", "--action", "clamp", "--floor", "256", "--wait", "2")


def test_a_budget_set_again_keeps_what_is_not_named(run: Run) -> None:
    run("budget", "set", "acme", "200", *TERMS)
    (before,) = listed(run)
    said = run("budget", "set", "acme", "300").stdout.splitlines()
    assert listed(run) == [{**before, "limit": "300.00"}]
    assert said[1] == f"before: {said[0].replace('300.00', '200.00')}"
    run("budget", "set", "acme", "300", "--floor", "9", "--warn", "")
    assert listed(run) == [{**before, "limit": "300.00", "floor_tokens": 9, "warn_at": []}]
    run("budget", "set", "acme", "300", "--action", "warn")
    assert (listed(run)[0]["action"], listed(run)[0]["floor_tokens"]) == ("warn", 1)
    assert "goes with the action" in run("budget", "set", "acme", "300", "--floor", "9", code=1).stderr


def test_if_absent_leaves_a_budget_as_it_is(run: Run) -> None:
    run("budget", "set", "acme", "200", "--if-absent")
    assert run("budget", "set", "acme", "1", "--action", "warn", "--if-absent").stdout == (
        "acme per month: 200.00 USD, UTC, block; as it was\n"
    )
    assert [(one["limit"], one["action"]) for one in listed(run)] == [("200.00", "block")]


def test_a_default_for_children_is_set_listed_and_removed(run: Run) -> None:
    run("budget", "set", "acme/*", "5", "--per", "day")
    assert [one["project"] for one in listed(run)] == ["acme/*"]
    assert json.loads(run("check", "acme/a/x", "5", "--format", "json").stdout)["budget"] == {
        "project": "acme/a",
        "per": "day",
    }
    run("check", "acme/a/x", "5.01", code=3)
    run("budget", "remove", "acme/*", "--per", "day")
    assert listed(run) == []


def test_the_log_tells_who_changed_what_in_every_format(run: Run, clock: Clock) -> None:
    run("budget", "set", "acme", "200", *TERMS)
    clock.now += timedelta(seconds=1)
    run("ceiling", "set", "painter:1@1", "0.04")
    clock.now += timedelta(seconds=1)
    run("budget", "set", "/", "7", "--per", "total")
    run("budget", "remove", "acme")
    changes = json.loads(run("budget", "log", "--format", "json").stdout)["changes"]
    assert [(one["change"], one["project"], one["per"], one["ceiling"], one["limit"]) for one in changes] == [
        ("set", "acme", "month", None, "200.00"),
        ("set", None, None, "painter:1@1", "0.04"),
        ("set", "/", "total", None, "7.00"),
        ("remove", "acme", "month", None, None),
    ]
    assert (changes[0]["timezone"], changes[0]["warn_at"], changes[0]["at"]) == (
        "Asia/Tokyo",
        [50, 80],
        "2026-11-22T21:00:00+09:00",
    )
    assert all("@" in one["who"] and ", " in one["who"] for one in changes)
    rows = list(csv.DictReader(io.StringIO(run("budget", "log", "--format", "csv").stdout)))
    assert [(row["project"], row["ceiling"], row["warn_at"]) for row in rows] == [
        ("acme", "", "50,80"), ("", "painter:1@1", ""), ("/", "", ""), ("acme", "", ""),
    ]  # fmt: skip
    assert len(json.loads(run("budget", "log", "acme", "--format", "json").stdout)["changes"]) == 2
    assert "No changes." in run("budget", "log", "other").stdout
    assert "Who" in run("budget", "log").stdout


def test_the_first_budget_s_zone_is_the_ledger_s(run: Run, ledger: Path) -> None:
    run("budget", "set", "acme", "200", "--timezone", "Europe/Berlin")
    run("budget", "set", "acme", "200", "--timezone", "Asia/Tokyo")
    with Guard(ledger, timezone="Europe/Berlin") as guard:
        assert guard.ledger.timezone == "Europe/Berlin"
    with pytest.raises(ConfigurationError, match="this ledger reports in Europe/Berlin"):
        Guard(ledger, timezone="UTC")


def test_init_begins_a_ledger_in_a_zone_and_only_begins(run: Run, ledger: Path) -> None:
    assert run("init", "--timezone", "Asia/Tokyo").stdout == f"The ledger {ledger} reports in Asia/Tokyo.\n"
    for args in ((), ("--timezone", "Asia/Tokyo"), ("--timezone", "UTC")):
        assert "already; it reports in Asia/Tokyo" in run("init", *args, code=1).stderr
    with Guard(ledger, timezone="Asia/Tokyo") as guard:
        assert guard.budgets() == []


def test_init_in_an_unknown_zone_makes_no_ledger(run: Run, ledger: Path) -> None:
    assert "did you mean 'Europe/Berlin'" in run("init", "--timezone", "Europe/Berln", code=2).stderr
    assert not ledger.exists()


def test_an_empty_file_is_begun(run: Run, ledger: Path) -> None:
    ledger.touch()
    run("init", "--timezone", "Asia/Tokyo")
    assert "Asia/Tokyo" in run("init", code=1).stderr


# Misspelt names


def test_a_misspelt_budget_or_ceiling_is_told_with_what_is_near(run: Run) -> None:
    run("budget", "set", "acme/search", "1")
    run("ceiling", "set", "painter:1@1", "1")
    near = run("budget", "remove", "acme/serach", code=1).stderr
    assert "there is no budget on acme/serach per month; did you mean 'acme/search per month'?" in near
    assert "per day; did you mean 'acme/search per month'?" in run(
        "budget", "remove", "acme/search", "--per", "day", code=1
    ).stderr  # fmt: skip
    assert "did you mean" not in run("budget", "remove", "zzz", code=1).stderr
    assert "did you mean 'painter:1@1'?" in run("ceiling", "remove", "painter:1@2", code=1).stderr


def test_a_ceiling_for_what_no_price_file_names_says_what_is_near(run: Run) -> None:
    assert "did you mean 'google:gemini@3-flash'" in run("ceiling", "set", "google:gemini@3-flsh", "1").stderr
    for name in ("imageInference", "google:gemini@3-flash"):
        assert "did you mean" not in run("ceiling", "set", name, "1").stderr


def test_names_are_near_in_any_case_and_the_right_one_is_no_hint() -> None:
    assert did_you_mean("ACME/Serch", ["acme/search", "other"]) == "; did you mean 'acme/search'?"
    assert did_you_mean("acme", ["acme"]) == did_you_mean("acme", []) == ""


def test_a_hint_knows_the_ledger_s_projects_models_and_months(guard: Guard) -> None:
    from ledgers import an_attempt

    guard.ledger.admit("acme/search/prod", guard.now_us(), [an_attempt(1)])
    guard.set_budget("billing", 1)
    for what, text, near in (
        ("project", "acme/serach", "acme/search"), ("project", "biling", "billing"), ("model", "google:gemini@3-flas",
         "google:gemini@3-flash"), ("month", "2026-12", "2026-11"),
    ):  # fmt: skip
        assert hint(guard.ledger, what, text).startswith(f"; did you mean '{near}'")
    for what, text in (("project", "acme"), ("project", "/"), ("month", "2026-11"), ("project", "zzz")):
        assert hint(guard.ledger, what, text) == ""
