"""Reports of a month are those of its zone, say what they do not know, and every way of writing them is exact."""

from __future__ import annotations

import csv
import io
import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from conftest import API, FLASH, PRO, Clock, a_task

from costguard import ConfigurationError, Guard, money
from costguard.ledger.records import TaskRow
from costguard.reports import formats, periods, statement
from costguard.reports.document import Column, Document, Row, Table
from costguard.reports.facts import Statement, state
from costguard.testing import StandIn, seeds

MakeGuard = Callable[..., Guard]


def send(guard: Guard, standin: StandIn, *tasks: dict[str, Any], project: str = "acme/search") -> None:
    with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:
        client.post("/v1", json=list(tasks or (a_task(),)), extensions={"costguard": {"project": project}})


def read(guard: Guard, month: str, **options: Any) -> Statement:
    return state(guard.ledger, periods.month(month), at_us=guard.now_us(), **options)


def written(report: Statement, name: str) -> str:
    return formats.named(name).write(statement.document(report))


def bases(report: Statement) -> dict[str, int]:
    return {row.keys[0]: row.nanos for row in report.by("basis")}


def csv_text(keys: Sequence[str], rows: Sequence[Row]) -> str:
    return formats.named("csv").write(Document({}, keys, rows, ()))


def table_text(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    return formats.named("table").write(Document({}, (), (), (Table(columns, rows),)))


def by_keys(report: Statement) -> dict[tuple[str, ...], tuple[int, int]]:
    return {row.keys: (row.tasks, row.nanos) for row in report.rows}


@pytest.fixture
def busy(make_guard: MakeGuard, clock: Clock, standin: StandIn) -> Guard:
    """A ledger of 80 calls around two changes of month, with every basis and with open ones."""
    guard = make_guard()
    chance = random.Random(7)
    for _ in range(80):
        clock.now = datetime(2026, 10, 29, tzinfo=UTC) + timedelta(minutes=chance.randrange(35 * 24 * 60))
        fault = chance.choice(["", "", "", "cost_only", "usage_only", "no_cost", "forget", "error_entry"])
        if fault:
            standin.fault(fault)
        project = chance.choice(["acme", "acme/search", "acme/search/prod", "acme2"])
        send(guard, standin, a_task(model=chance.choice([FLASH, PRO]), numberResults=2), project=project)
    clock.now = datetime(2026, 12, 3, tzinfo=UTC)
    return guard


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "America/Santiago", "Pacific/Kiritimati", "Asia/Kathmandu"]


def admitted(task: TaskRow, zone: str) -> date:
    """The local day by arithmetic of the standard library alone: no midnight is skipped in these months."""
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=task.at_us)).astimezone(ZoneInfo(zone)).date()


@pytest.mark.parametrize("zone", ZONES)
def test_the_rows_of_every_grouping_sum_to_what_the_tasks_were_charged(busy: Guard, zone: str) -> None:
    for project in (None, "acme", "acme/search"):
        charged = sum(
            task.charged
            for task in busy.ledger.tasks(project=project)
            if admitted(task, zone).isoformat().startswith("2026-11")
        )
        assert charged > 0
        for by in ((), ("project",), ("model",), ("modality",), ("day",), ("day", "project", "model", "modality")):
            report = read(busy, "2026-11", by=by, timezone=zone, project=project)
            assert report.total == charged
            assert sum(row.nanos for row in report.rows) == report.total
            assert sum(bases(report).values()) == report.total


@pytest.mark.parametrize("zone", ZONES)
def test_days_and_tasks_are_those_of_the_zone_asked_for(busy: Guard, zone: str) -> None:
    expected: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for task in busy.ledger.tasks():
        day = admitted(task, zone).isoformat()
        if day.startswith("2026-11") and task.basis:
            expected[day, task.project][0] += 1
            expected[day, task.project][1] += task.charged
    report = read(busy, "2026-11", by=("day", "project"), timezone=zone)
    assert by_keys(report) == {keys: (count, nanos) for keys, (count, nanos) in expected.items()}
    assert report.tasks == sum(count for count, _ in expected.values())


def test_roll_ups_and_lines_give_the_same_report(busy: Guard) -> None:
    bounds = [datetime(2026, month, 1, tzinfo=UTC) for month in (11, 12)]
    start, end = (int(moment.timestamp()) * 10**6 for moment in bounds)
    for by in (("project",), ("modality",), ("model", "day")):
        rolled = busy.ledger.usage(by, "2026-11-01", "2026-12-01")
        assert rolled == busy.ledger.usage_in(by, "UTC", start, end)


def test_a_published_breakdown_is_reported_line_by_line(make_guard: MakeGuard, standin: StandIn) -> None:
    guard = make_guard()
    logbook = next(seed for seed in seeds() if seed.name == "Storm-Battered Lighthouse Logbook")
    send(guard, standin, logbook.request)
    report = read(guard, "2026-11", by=("modality",))
    assert [(*row.keys, row.tokens, row.nanos) for row in report.rows] == [
        ("completion", "", 216, 648_000),
        ("prompt", "IMAGE", 1064, 532_000),
        ("prompt", "TEXT", 74, 37_000),
    ]
    assert (report.columns, report.total, report.tasks, report.tokens) == (
        ("component", "modality"), 1_217_000, 1, 1354,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("zone", "before", "first"),
    [
        ("Europe/Berlin", "2026-10-31T22:59:59Z", "2026-10-31T23:00:00Z"),  # winter time since the 25th
        ("UTC", "2026-10-31T23:59:59Z", "2026-11-01T00:00:00Z"),
        ("America/New_York", "2026-11-01T03:59:59Z", "2026-11-01T04:00:00Z"),  # clocks change later that day
        ("America/Havana", "2026-11-01T03:59:59Z", "2026-11-01T04:00:00Z"),  # midnight comes twice
    ],
)
def test_a_month_begins_at_its_first_instant_in_the_zone(
    make_guard: MakeGuard, clock: Clock, standin: StandIn, zone: str, before: str, first: str
) -> None:
    guard = make_guard()
    for moment, project in ((before, "last"), (first, "next")):
        clock.now = datetime.fromisoformat(moment)
        send(guard, standin, project=project)
    assert list(by_keys(read(guard, "2026-10", timezone=zone))) == [("last",)]
    assert list(by_keys(read(guard, "2026-11", timezone=zone))) == [("next",)]


@pytest.mark.parametrize("reporting_zone", ["America/Santiago", "UTC"])
def test_days_meet_where_a_midnight_is_missing(
    make_guard: MakeGuard, clock: Clock, standin: StandIn, reporting_zone: str
) -> None:
    guard = make_guard(timezone=reporting_zone)  # by roll-ups, and by lines
    for moment in ("2026-09-06T03:59:59Z", "2026-09-06T04:00:00Z"):  # 23:59:59, then 01:00:00
        clock.now = datetime.fromisoformat(moment)
        send(guard, standin)
    report = read(guard, "2026-09", by=("day",), timezone="America/Santiago")
    assert list(by_keys(report)) == [("2026-09-05",), ("2026-09-06",)]


def test_a_report_is_in_the_ledgers_zone_unless_told_otherwise(make_guard: MakeGuard, clock: Clock) -> None:
    guard = make_guard(timezone="Asia/Tokyo")
    clock.now = datetime(2026, 11, 30, 15, 30, tzinfo=UTC)
    report = read(guard, "2026-12")
    assert (report.timezone, report.at.isoformat()) == ("Asia/Tokyo", "2026-12-01T00:30:00+09:00")


def test_open_tasks_of_the_month_and_project_are_counted_with_what_they_hold(
    make_guard: MakeGuard, clock: Clock, standin: StandIn
) -> None:
    guard = make_guard()
    standin.fault("forget", times=4)
    for project, day in (("acme", 1), ("acme/search", 2), ("other", 3), ("acme", 31)):
        clock.now = datetime(2026, 10 if day == 31 else 11, day, tzinfo=UTC)
        send(guard, standin, project=project)
    send(guard, standin, a_task(deliveryMethod="async"), project="acme/search")
    in_november = [task for task in guard.ledger.tasks(project="acme") if task.day > "2026-10-31"]
    assert [task.status for task in in_november] == ["unresolved", "unresolved"]
    everywhere, in_acme = read(guard, "2026-11"), read(guard, "2026-11", project="acme")
    assert everywhere.found.open.tasks == 3
    held = sum(task.held for task in in_november)
    assert in_acme.found.open == (2, held, 2, held)
    assert (in_acme.rows, in_acme.total) == ([], 0)


def test_a_project_includes_what_lies_below_it_and_no_other_of_like_name(
    make_guard: MakeGuard, standin: StandIn
) -> None:
    guard = make_guard()
    for project in ("acme", "acme/search", "acme2", "acme-x"):
        send(guard, standin, project=project)
    assert list(by_keys(read(guard, "2026-11", project="acme"))) == [("acme",), ("acme/search",)]


def test_charges_that_are_not_the_providers_figure_are_said(make_guard: MakeGuard, standin: StandIn) -> None:
    guard = make_guard()
    for fault in ("usage_only", "no_cost", "cost_only"):
        standin.fault(fault)
        send(guard, standin)
    send(guard, standin)
    report = read(guard, "2026-11")
    charged = {task.basis: task.charged for task in guard.ledger.tasks()}
    assert bases(report) == charged
    assert list(bases(report)) == ["assumed", "breakdown", "computed", "cost"]
    text = written(report, "table")
    for basis, origin in (
        ("assumed", "not the provider's figure"), ("computed", "not the provider's figure"),
        ("cost", "the provider's figure"),
    ):  # fmt: skip
        assert f"{money.to_text(bases(report)[basis])} USD by {basis} ({origin})." in text


def test_unknown_tokens_are_unknown_and_not_zero(make_guard: MakeGuard, standin: StandIn) -> None:
    guard = make_guard()
    standin.fault("cost_only")
    send(guard, standin)
    report = read(guard, "2026-11")
    told = json.loads(written(report, "json"))
    assert told["tokens"] is told["rows"][0]["tokens"] is told["projects"][0]["tokens"] is None
    assert written(report, "csv").splitlines()[1].endswith(f",acme/search,1,,,{money.to_text(report.total)}")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"month": "2026-13"}, "month"),
        ({"month": "November"}, "month"),
        ({"by": ("colour",)}, "by"),
        ({"by": ("tag:",)}, "by"),
        ({"tags": {"": "x"}}, "tags"),
        ({"timezone": "Europe/Berln"}, "timezone"),
        ({"project": "acme//search"}, "project"),
    ],
)
def test_an_unusable_argument_is_named(make_guard: MakeGuard, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^{named}: "):
        read(make_guard(), **{"month": "2026-11", **options})


# -- writing ------------------------------------------------------------------------------------


def test_money_is_written_plainly_whatever_its_size() -> None:
    rows = [{"cost": money.to_usd(nanos)} for nanos in (0, 1, -5_000_000_000, 10**18)]
    expected = ["0.00", "0.000000001", "-5.00", "1000000000.00"]
    assert [
        row["cost"] for row in json.loads(formats.named("json").write(Document({"rows": rows}, (), (), ())))["rows"]
    ] == expected
    assert csv_text(["cost"], rows).splitlines() == ["cost", *expected]


def test_text_that_a_spreadsheet_would_run_is_guarded_and_negative_money_is_not() -> None:
    texts = ["=cmd|' /C calc'!A0", "+1", "-1+1", "@SUM(A1)", "\tx", "acme/=x", 'say "hi", twice']
    rows = [{"project": text, "cost": Decimal("-0.50"), "tokens": -3} for text in texts]
    found = list(csv.DictReader(io.StringIO(csv_text(["project", "cost", "tokens"], rows))))
    assert [row["project"] for row in found] == [*(f"'{text}" for text in texts[:5]), *texts[5:]]
    assert {(row["cost"], row["tokens"]) for row in found} == {("-0.50", "-3")}


def test_a_project_named_like_a_formula_is_guarded_in_the_report(make_guard: MakeGuard, standin: StandIn) -> None:
    guard = make_guard()
    send(guard, standin, project="=1+1")
    report = read(guard, "2026-11")
    assert ",'=1+1,1," in written(report, "csv").splitlines()[1]
    assert json.loads(written(report, "json"))["rows"][0]["project"] == "=1+1"


def test_decimal_points_stand_under_each_other_and_headings_above_them() -> None:
    column = Column("usd", "USD", number=True)
    amounts = [Decimal("0.001217"), Decimal("200.00"), None, Decimal("-3.5")]
    lines = table_text([column], [{"usd": amount} for amount in amounts]).splitlines()
    assert [lines[0], *lines[2:]] == ["       USD", "  0.001217", "200.00", "  –", " -3.5"]


def test_markup_and_wide_characters_in_names_are_shown_as_they_are() -> None:
    columns = [Column("project", "Project"), Column("tasks", "Tasks", number=True)]
    names = ["[red]acme[/red]", ":smile:", "検索/本番", "x" * 200]
    lines = table_text(columns, [{"project": name, "tasks": 1000} for name in names]).splitlines()[2:]
    assert [line.split("  ")[0] for line in lines] == names
    assert all(line.endswith("  1,000") for line in lines)


def test_a_report_without_charges_says_so(make_guard: MakeGuard) -> None:
    report = read(make_guard(), "2026-10", project="acme")
    text = written(report, "table")
    assert text.startswith("2026-10, acme, days in UTC\n\nNothing was charged.\n")
    assert "Nothing was ever booked on acme, and no budget is of it." in text
    assert "The ledger is empty." in text
    assert written(report, "csv").splitlines() == [
        "period,since,until,timezone,currency,as_of,project,tasks,tokens,reasoning,cost"
    ]
    assert (report.total, report.tasks, report.tokens) == (0, 0, 0)
