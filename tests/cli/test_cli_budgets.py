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
from ledgers import DAY_US, NOW_US, a_charge, hold

from costguard import Guard
from costguard.cli import main
from costguard.cli.app import Session
from costguard.cli.hints import near_month
from costguard.cli.suggesting import did_you_mean, near_project
from costguard.errors import ConfigurationError
from costguard.ledger.records import Settle

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
    assert (listed(run)[0]["action"], listed(run)[0]["floor_tokens"]) == ("warn", 9)
    assert "goes with the action" in run("budget", "set", "acme", "300", "--floor", "8", code=1).stderr
    run("budget", "set", "acme", "300", "--action", "clamp")
    assert (listed(run)[0]["action"], listed(run)[0]["floor_tokens"]) == ("clamp", 9)


def test_if_absent_leaves_a_budget_as_it_is(run: Run) -> None:
    run("budget", "set", "acme", "200", "--if-absent")
    assert run("budget", "set", "acme", "1", "--action", "warn", "--if-absent").stdout == (
        "acme per month: 200.00 USD, UTC, block; as it was\n"
    )
    assert [(one["limit"], one["action"]) for one in listed(run)] == [("200.00", "block")]


def test_if_absent_leaves_a_default_in_force_and_says_which(run: Run) -> None:
    run("budget", "set", "tenants/*", "5")
    for _ in range(2):
        said = run("budget", "set", "tenants/bob", "100", "--if-absent").stdout
        assert said == "tenants/bob per month: 5.00 USD, UTC, block; as it was, by tenants/*\n"
    assert [one["project"] for one in listed(run)] == ["tenants/*"]
    run("check", "tenants/bob", "6", code=3)
    run("budget", "set", "tenants/bob", "100", "--per", "day", "--if-absent")
    assert [(one["project"], one["per"]) for one in listed(run)] == [("tenants/*", "month"), ("tenants/bob", "day")]


def test_a_child_s_own_budget_keeps_what_is_not_named_of_its_default(run: Run) -> None:
    run("budget", "set", "tenants/*", "5", *TERMS)
    said = run("budget", "set", "tenants/zoo", "6").stdout.splitlines()
    default, own = listed(run)
    assert own == {**default, "project": "tenants/zoo", "limit": "6.00"}
    assert said[1] == f"before: {said[0].replace('6.00', '5.00')}"
    said = run("budget", "set", "tenants/ada", "5", "--action", "warn", "--warn", "").stdout.splitlines()
    assert said[0] == "tenants/ada per month: 5.00 USD, Asia/Tokyo, warn, waits up to 2 s"
    assert said[1].endswith("5.00 USD, Asia/Tokyo, clamp, floor 256 tokens, waits up to 2 s, alerts at 50, 80 %")


def test_status_lists_defaults_as_what_children_have_who_have_none(run: Run, clock: Clock) -> None:
    run("budget", "set", "tenants/*", "5", "--action", "warn", "--timezone", "Asia/Tokyo")
    default = {
        "project": "tenants/*", "per": "month", "timezone": "Asia/Tokyo", "limit": "5.00", "action": "warn",
    }  # fmt: skip
    for args in ((), ("tenants",), ("/",)):
        told = json.loads(run("status", *args, "--format", "json").stdout)
        assert (told["budgets"], told["defaults"]) == ([], [default])
        lines = run("status", *args).stdout.splitlines()
        assert lines[0] == "By default, for each child that has no budget of its own:"
        assert lines[-1].split() == ["tenants/*", "month", "5.00", "Asia/Tokyo", "warn"]
    for args in (("tenants/zoo",), ("other",)):
        assert json.loads(run("status", *args, "--format", "json").stdout)["defaults"] == []
    assert run("status", "other").stdout == "No budget covers other, and there is none below it.\n"
    run("budget", "set", "acme", "1")
    both = run("status").stdout
    assert both.index("acme") < both.index("By default") < both.index("tenants/*")


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


def test_the_ledger_names_its_projects_with_those_above_its_models_and_months(guard: Guard) -> None:
    (attempt,) = hold(guard.ledger, 1, project="acme/search/prod")
    hold(guard.ledger, 1, project="open")
    guard.ledger.conclude(guard.now_us(), [Settle(attempt, a_charge(1))])
    guard.set_budget("billing", 1)
    guard.set_budget("tenants/*", 1)
    guard.set_budget("/*", 1, per="day")
    assert guard.ledger.named("project") == [
        "/", "/*", "acme", "acme/search", "acme/search/prod", "billing", "open", "tenants", "tenants/*",
    ]  # fmt: skip
    assert guard.ledger.named("model") == ["google:gemini@3-flash"]
    assert guard.ledger.named("month") == ["2026-11"]


@pytest.mark.parametrize(
    ("project", "near"),
    [
        ("acme/serach", "acme/search"),
        ("amce/search", "acme/search"),
        ("ACME/search", "acme/search"),
        ("tenats/*", "tenants/*"),
        ("acme/search", ""),
        ("acme/billing", ""),
        ("acme/search/new", ""),
        ("acme/team2", ""),
        ("tenants/x", ""),
        ("zzz", ""),
    ],
)
def test_a_project_is_near_where_the_part_that_differs_is(project: str, near: str) -> None:
    known = ["/", "acme", "acme/search", "acme/team1", "tenants", "tenants/*"]
    assert near_project(project, known) == (f"; did you mean {near!r}?" if near else "")


def test_a_misspelt_project_is_told_though_a_budget_covers_it(run: Run) -> None:
    run("budget", "set", "acme", "100")
    run("budget", "set", "acme/search", "1")
    for args in (("check", "acme/serach", "1"), ("status", "acme/serach"), ("budget", "log", "acme/serach")):
        told = run(*args)
        assert told.stderr == (
            "No charge, no hold and no budget is of acme/serach; did you mean 'acme/search'?\n"
        ), args  # fmt: skip
    for args in (("check", "acme/search", "1"), ("status", "acme"), ("check", "acme/other", "1"), ("status", "new")):
        assert run(*args).stderr == ""


def test_a_budget_on_a_misspelt_project_is_made_and_said(run: Run) -> None:
    run("budget", "set", "acme/search", "1")
    told = run("budget", "set", "acme/serach", "5")
    assert told.stderr == "no project of that name is known yet; did you mean 'acme/search'?\n"
    assert told.stdout == "acme/serach per month: 5.00 USD, UTC, block\n"
    assert run("budget", "set", "acme/serach", "6").stderr == run("budget", "set", "acme/x", "6").stderr == ""


def test_a_month_without_charges_is_told_with_those_that_have_some(run: Run, make_guard: Callable[..., Guard]) -> None:
    guard = make_guard()
    assert run("report", "--month", "2026-10").stderr == "", "an empty ledger has no months"
    hold(guard.ledger, 1)
    for command in ("report", "accuracy"):
        assert (
            run(command, "--month", "2026-10").stderr == "No charge and no hold is of 2026-10; there are of 2026-11\n"
        )
    assert run("report", "--month", "2026-11").stderr == ""
    for month in range(1, 8):
        hold(guard.ledger, 1, at_us=NOW_US - month * 31 * DAY_US)
    assert run("report", "--month", "2025-01").stderr.endswith("there are of 2026-04 to 2026-11\n")


def test_a_hint_at_a_month_is_one_that_may_be_named_and_was_not() -> None:
    assert near_month("2026-13") == "; did you mean '2026-12'?"
    assert near_month("11/2026") == "; did you mean '2026-11'?"
    for text in ("0000-01", "9999-12", "9999-13", "2026-11", "x", "1969-1"):
        assert near_month(text) == ""


@pytest.mark.parametrize("name", ["a\nb", "x\u2028y", "x\u2029y", "\x1b[2J", "a\u200bb"])
def test_a_ceiling_s_name_has_no_character_that_breaks_lines_or_is_not_seen(run: Run, ledger: Path, name: str) -> None:
    assert (
        f"U+{min(ord(c) for c in name if not c.isprintable()):04X}" in run("ceiling", "set", name, "1", code=2).stderr
    )
    assert not ledger.exists()
    with Guard(ledger) as guard, pytest.raises(ConfigurationError, match=r"^ceiling: .* contains the"):
        guard.set_ceiling(name, 1)
