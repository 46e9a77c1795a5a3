"""A statement answers from one snapshot: against which budget, compared with what, who, refused, how sure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from ledgers import a_charge, an_attempt, hold, open_ledger
from statements import NOW_US, ZONE, make_ledger

from costguard.budgets import Budget, make_budget, to_us
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.records import Admitted, Release, Settle
from costguard.reports import formats, periods
from costguard.reports.document import Chart, Document, Figures, Heading, Table
from costguard.reports.facts import Statement, state
from costguard.reports.statement import document

NOVEMBER = periods.month("2026-11")
OCTOBER = periods.month("2026-10")


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(tmp_path / "ledger.db", timezone=ZONE)
    yield opened
    assert opened.verify().difference is None
    opened.close()


def at(text: str) -> int:
    return to_us(datetime.fromisoformat(text).replace(tzinfo=UTC))


def spend(
    ledger: Ledger, nanos: int, when: str, project: str = "acme", tags: str = "{}", uuid: str | None = None
) -> str:
    attempt = an_attempt(nanos, task_uuid=uuid)._replace(tags=tags)
    admitted = ledger.admit(project, at(when), [attempt], enforce=False)
    assert isinstance(admitted, Admitted)
    ledger.conclude(at(when), [Settle(admitted.attempt_ids[0], a_charge(nanos), f"i:{when}")])
    return attempt.task_uuid


def read(ledger: Ledger, period: periods.Period = NOVEMBER, at_us: int = NOW_US, **options: Any) -> Statement:
    return state(ledger, period, at_us=at_us, **options)


def text_of(written: Document) -> str:
    return formats.named("table").write(written)


def table_under(written: Document, heading: str) -> Table:
    where = written.parts.index(Heading(heading)) + 1
    part = written.parts[where]
    table = part.table if isinstance(part, Chart) else part
    assert isinstance(table, Table)
    return table


def windows(found: Statement) -> list[tuple[str, str, int, int, int, bool, bool]]:
    return [
        (one.name, one.budget.per, one.budget.limit_nanos, one.spent, one.held, one.is_closed, one.is_removed)
        for one in found.found.budgets
    ]


# -- one snapshot -------------------------------------------------------------------------------


def test_everything_of_a_statement_is_one_snapshot(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    spend(ledger, 5, "2026-11-02")
    ledger.set_budget(make_budget("acme", "1", timezone=ZONE), NOW_US)
    reads = []
    monkeypatch.setattr(ledger._engine, "read", lambda op, read=ledger._engine.read: reads.append(op) or read(op))  # type: ignore[func-returns-value]
    document(read(ledger, by=("day", "tag:user"), top=3, tags={}))
    document(read(ledger, project="acme", timezone="Asia/Tokyo"))
    assert len(reads) == 2


# -- budgets ------------------------------------------------------------------------------------


def test_closed_windows_show_the_limit_that_applied_when_they_closed(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("acme", "0.000000100", timezone=ZONE), at("2026-10-02"))
    spend(ledger, 70, "2026-10-05")
    ledger.set_budget(make_budget("acme", "0.000000200", timezone=ZONE), at("2026-11-10"))
    spend(ledger, 30, "2026-11-11")
    assert windows(read(ledger, OCTOBER)) == [("acme", "month", 100, 70, 0, True, False)]
    assert windows(read(ledger)) == [("acme", "month", 200, 30, 0, False, False)]
    quarter = read(ledger, periods.quarter("2026-Q4"))
    assert [one[2:4] for one in windows(quarter)] == [(100, 70), (200, 30)]


def test_a_removed_budget_and_one_in_another_zone_are_shown_with_what_their_windows_came_to(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("acme", "0.000000100", timezone=ZONE), at("2026-10-02"))
    ledger.set_budget(make_budget("/", "0.000000900", timezone="UTC"), at("2026-10-02"))
    spend(ledger, 70, "2026-10-05", project="acme/search")
    spend(ledger, 11, "2026-10-31T23:30")  # in Berlin it is November
    hold(ledger, 5, project="acme", at_us=at("2026-10-06"))
    ledger.remove_budget("acme", "month", at("2026-10-20"))
    ledger.set_budget(make_budget("/", "0.000000900", timezone="Asia/Tokyo"), NOW_US)
    assert windows(read(ledger, OCTOBER)) == [
        ("/", "month", 900, 81, 5, True, False),
        ("acme", "month", 100, 70, 5, True, True),
    ]


def test_a_window_without_a_call_is_shown_from_when_the_budget_was_set(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("acme", "1", timezone=ZONE), at("2026-09-10"))
    ledger.set_budget(make_budget("late", "1", timezone=ZONE), at("2026-11-20"))
    spend(ledger, 5, "2026-09-11")
    assert [(one[0], one[3]) for one in windows(read(ledger, OCTOBER))] == [("acme", 0)]
    assert windows(read(ledger, periods.month("2026-08"))) == []
    assert [one[0] for one in windows(read(ledger))] == ["acme", "late"]


def test_the_budgets_of_a_project_are_those_of_its_path_and_below_it(ledger: Ledger) -> None:
    for project, per in (
        ("/", "year"),
        ("acme", "total"),
        ("acme/search", "month"),
        ("other", "month"),
        ("acme", "task"),
    ):
        ledger.set_budget(make_budget(project, "1", per=per, timezone=ZONE), at("2026-11-01"))
    spend(ledger, 7, "2026-11-02", project="acme/search")
    spend(ledger, 5, "2026-10-02", project="acme")
    assert [(one[0], one[1], one[3]) for one in windows(read(ledger, project="acme"))] == [
        ("/", "year", 12),
        ("acme", "total", 12),
        ("acme/search", "month", 7),
    ]


def test_a_budget_that_began_after_the_period_or_was_gone_before_it_is_not_of_it(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("gone", "1", per="total"), at("2026-09-03"))
    ledger.remove_budget("gone", "total", at("2026-09-20"))
    for per in ("total", "year", "quarter"):
        ledger.set_budget(make_budget("acme", "1", per=per, timezone=ZONE), at("2026-11-02"))
    for month in (9, 10, 11):
        spend(ledger, 5, f"2026-{month:02}-05")
    assert [one[1] for one in windows(read(ledger))] == ["quarter", "total", "year"]
    assert windows(read(ledger, OCTOBER)) == []
    ledger.remove_budget("acme", "total", at("2026-11-10"))
    budgets = [row["budget"] for row in table_under(document(read(ledger)), "Against budgets").rows]
    assert budgets == ["acme per quarter", "acme in total (removed)", "acme per year"]


def test_of_many_windows_people_are_shown_the_fullest_and_programs_all(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("acme", "0.000000100", per="day", timezone=ZONE), at("2026-11-01"))
    for day in range(1, 12):
        spend(ledger, day * 3, f"2026-11-{day:02}T12:00")
    written = document(read(ledger))
    (row,) = table_under(written, "Against budgets").rows
    assert (row["window"], row["spent"], row["used"]) == ("2026-11-11, the fullest of 22", Decimal("0.000000033"), 33)
    assert [one["spent"] for one in written.record["budgets"]][:3] == [Decimal(f"0.00000000{n}") for n in (3, 6, 9)]
    assert len(written.record["budgets"]) == 22


def test_a_default_shows_the_children_that_spent(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("acme/*", "0.000000050", timezone=ZONE), at("2026-11-01"))
    spend(ledger, 20, "2026-11-03", project="acme/a/x")
    spend(ledger, 30, "2026-11-03", project="acme/b")
    (released,) = hold(ledger, 9, project="acme/c", at_us=at("2026-11-03"))
    ledger.conclude(NOW_US, [Release(released, "refused")])
    assert [(one[0], one[2], one[3]) for one in windows(read(ledger))] == [("acme/a", 50, 20), ("acme/b", 50, 30)]


def test_how_much_is_used_is_never_rounded_up(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("acme", "0.000100000", timezone=ZONE), at("2026-11-01"))
    spend(ledger, 99_999, "2026-11-03")
    assert document(read(ledger)).record["budgets"][0]["used_percent"] == Decimal("99.9")


def test_a_filter_by_tags_is_of_no_budget_and_of_no_refusal(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("acme", "1", timezone=ZONE), at("2026-11-01"))
    spend(ledger, 5, "2026-11-03", tags='{"user": "u1"}')
    found = read(ledger, tags={"user": "u1"})
    assert (found.total, found.found.budgets, found.found.refused) == (5, [], [])


# -- before, and ahead --------------------------------------------------------------------------


def test_a_running_month_is_compared_with_as_many_days_of_the_one_before(ledger: Ledger) -> None:
    for when, nanos in (("2026-09-30", 1), ("2026-10-01", 10), ("2026-10-22T12:00", 20), ("2026-10-23T12:00", 70)):
        spend(ledger, nanos, when)
    spend(ledger, 45, "2026-11-03")
    before = document(read(ledger)).record["before"]
    assert (before["period"], before["total"], before["same_days"], before["same_total"]) == (
        "2026-10", Decimal("0.0000001"), 22, Decimal("0.00000003"),
    )  # fmt: skip
    assert (before["change"], before["change_percent"]) == (Decimal("0.000000015"), Decimal("50.0"))
    over = document(read(ledger, at_us=at("2026-12-05"))).record["before"]
    assert (over["change"], over["change_percent"]) == (Decimal("-0.000000055"), Decimal("-55.0"))


def test_what_was_before_the_ledger_is_unknown_and_said(ledger: Ledger) -> None:
    spend(ledger, 5, "2026-10-15")
    first = document(read(ledger, OCTOBER))
    assert first.record["before"]["total"] is first.record["before"]["change"] is None
    assert "The ledger began on 2026-10-15: what was spent before is not in it." in text_of(first)
    partial = document(read(ledger)).record["before"]
    assert (partial["is_partial"], partial["change"], partial["total"]) == (True, None, Decimal("0.000000005"))
    september = text_of(document(read(ledger, periods.month("2026-09"))))
    assert "The ledger began on 2026-10-15, after this period." in september


def test_a_project_that_was_never_seen_is_said_and_one_without_charges_is_not(ledger: Ledger) -> None:
    spend(ledger, 5, "2026-10-15", project="acme/search")
    hold(ledger, 5, project="held", at_us=at("2026-11-03"))
    ledger.set_budget(make_budget("planned/x", "1"), NOW_US)
    said = {
        project: "Nothing was ever booked on" in text_of(document(read(ledger, project=project)))
        for project in ("acme", "acme/search", "held", "planned", "acm", "acme/serach")
    }
    assert said == {
        "acme": False, "acme/search": False, "held": False, "planned": False, "acm": True, "acme/serach": True,
    }  # fmt: skip


def test_a_forecast_is_shown_with_its_range_and_method_or_why_there_is_none(ledger: Ledger) -> None:
    for day in range(5, 32):
        spend(ledger, 10**6, f"2026-10-{day:02}T12:00")
    early = document(read(ledger, at_us=at("2026-10-12T12:00"), period=OCTOBER))
    assert early.record["forecast"]["expected"] is None
    assert "No forecast: it takes 14 whole days, two of every weekday, and there are 7." in text_of(early)
    written = document(read(ledger))
    assert written.record["forecast"]["reason"] is None
    assert written.record["forecast"]["method"] in text_of(written)
    assert "forecast" not in text_of(document(read(ledger, OCTOBER))).lower()


def forecast_of(ledger: Ledger, period: periods.Period = NOVEMBER, **options: Any) -> dict[str, Any]:
    record: dict[str, Any] = document(read(ledger, period, **options)).record["forecast"]
    return record


def spend_daily(ledger: Ledger, nanos: int = 10**9) -> None:
    """In October and in November up to `NOW_US`, on one project."""
    for month, last in ((10, 31), (11, 21)):
        for day in range(1, last + 1):
            spend(ledger, nanos, f"2026-{month}-{day:02}T12:00", project="acme/search")


def test_a_hard_budget_of_all_that_is_reported_limits_the_forecast_and_its_method_says_so(ledger: Ledger) -> None:
    spend_daily(ledger)
    assert (forecast_of(ledger)["expected"], forecast_of(ledger)["limited_by"]) == (30, None)
    ledger.set_budget(make_budget("/", "24", timezone=ZONE), NOW_US)
    found = forecast_of(ledger)
    assert (found["expected"], found["least"], found["most"]) == (24, 24, 24)
    assert (found["limited_by"], found["unlimited"]) == ("/ per month", 30)
    assert found["method"].endswith(" Limited to 24.00 by / per month; without it 30.00.")
    assert "limited by / per month" in text_of(document(read(ledger)))
    ledger.set_budget(make_budget("acme", "22.5", timezone=ZONE, action="clamp"), NOW_US)
    assert forecast_of(ledger)["limited_by"] == "/ per month", "what is not of acme could still be spent"
    assert forecast_of(ledger, project="acme/search")["limited_by"] == "acme per month"


def test_a_budget_that_limits_the_range_alone_is_told_as_that(ledger: Ledger) -> None:
    spend_daily(ledger)
    spend(ledger, 3 * 10**9, "2026-11-10T13:00")
    ledger.set_budget(make_budget("/", "34.5", timezone=ZONE), NOW_US)
    found = forecast_of(ledger)
    assert found["least"] < found["expected"] == found["unlimited"] < found["most"] == Decimal("34.5")
    assert found["method"].endswith(" Its range is limited to 34.50 by / per month.")


def test_more_than_a_limit_is_expected_if_more_is_spent_already_and_others_use_it_up(ledger: Ledger) -> None:
    spend_daily(ledger)
    spend(ledger, 2 * 10**9, "2026-11-03", project="lab")
    ledger.set_budget(make_budget("acme", "20", timezone=ZONE), NOW_US)
    assert forecast_of(ledger, project="acme")["most"] == 21
    ledger.set_budget(make_budget("/", "24", timezone=ZONE), NOW_US)
    ledger.remove_budget("acme", "month", NOW_US)
    assert forecast_of(ledger, project="acme")["most"] == 22, "of 24, lab has 2"


@pytest.mark.parametrize(
    ("budget", "asked"),
    [
        (make_budget("acme", "22", timezone=ZONE), {}),
        (make_budget("/", "22", timezone=ZONE, action="warn"), {}),
        (make_budget("/", "22", timezone="Asia/Tokyo"), {}),
        (make_budget("/", "9", per="week", timezone=ZONE), {}),
        (make_budget("/", "22", timezone=ZONE), {"tags": {"user": "u1"}}),
        (make_budget("/", "22", timezone=ZONE), {"period": periods.quarter("2026-Q4")}),
    ],
    ids=["a part", "no block", "another zone", "another window", "tags", "another period"],
)
def test_no_other_budget_limits_a_forecast(ledger: Ledger, budget: Budget, asked: dict[str, Any]) -> None:
    spend_daily(ledger)
    ledger.set_budget(budget, NOW_US)
    assert forecast_of(ledger, **asked)["limited_by"] is None


# -- who, what was refused, how sure --------------------------------------------------------------


def test_the_tree_sums_what_lies_below_and_shows_what_a_parent_has_itself(ledger: Ledger) -> None:
    for project, nanos in (("acme", 1), ("acme/search/prod", 20), ("acme/search/test", 300), ("lab/x", 4000)):
        spend(ledger, nanos, "2026-11-03", project=project)
    found = read(ledger)

    def shown(depth: int | None) -> list[tuple[str, int]]:
        rows = table_under(document(found, depth=depth), "By project").rows
        return [(row["project"], int(row["cost"].scaleb(9))) for row in rows]

    assert shown(None) == [
        ("lab", 4000), ("  x", 4000), ("acme", 321), ("  (itself)", 1), ("  search", 320), ("    test", 300),
        ("    prod", 20),
    ]  # fmt: skip
    assert shown(1) == [("lab", 4000), ("acme", 321)]
    below = document(read(ledger, project="acme/search")).record["projects"]
    assert [(one["project"], one["depth"]) for one in below] == [
        ("acme/search", 1), ("acme/search/test", 2), ("acme/search/prod", 2),
    ]  # fmt: skip


def test_tags_say_who_and_what_has_none_is_a_row_of_its_own(ledger: Ledger) -> None:
    for tags, nanos in (('{"user": "ann"}', 5), ('{"user": "ben", "team": "x"}', 7), ("{}", 11)):
        spend(ledger, nanos, "2026-11-03", tags=tags)
    found = read(ledger, by=("tag:user",))
    assert [(row.keys, row.nanos, row.tasks) for row in found.rows] == [
        (("",), 11, 1), (("ann",), 5, 1), (("ben",), 7, 1),
    ]  # fmt: skip
    assert {row["tag:user"] for row in document(found).rows} == {None, "ann", "ben"}
    whole = document(read(ledger))
    assert [row["tag:user"] for row in table_under(whole, "By tag user").rows] == [None, "ben", "ann"]


def test_tags_that_would_take_long_to_read_are_left_out_and_that_is_said(ledger: Ledger) -> None:
    spend(ledger, 5, "2026-11-03", tags='{"user": "ann"}')
    ledger.roll_up()
    said = "What was spent by tags is told with --by tag:NAME."
    own, other = document(read(ledger)), document(read(ledger, timezone="Asia/Tokyo"))
    assert [Heading("By tag user") in written.parts for written in (own, other)] == [True, False]
    assert [said in text_of(written) for written in (own, other)] == [False, True]


def test_the_most_expensive_tasks_come_with_all_that_they_were_charged(ledger: Ledger) -> None:
    for n in range(30):
        spend(ledger, 100 + n, f"2026-11-{n % 20 + 1:02}")
    again = spend(ledger, 90, "2026-11-03")
    spend(ledger, 85, "2026-11-04", uuid=again)
    spend(ledger, 10**6, "2026-10-03")
    mine = spend(ledger, 3, "2026-11-04", tags='{"user": "u1"}')
    found = read(ledger, top=40)
    assert (found.found.top[0].task_uuid, found.found.top[0].attempts, found.found.top[0].nanos) == (again, 2, 175)
    assert [one.nanos for one in found.found.top[1:]] == [*range(129, 99, -1), 3]
    assert [one.task_uuid for one in read(ledger, top=1).found.top] == [again]
    assert [one.task_uuid for one in read(ledger, top=3, tags={"user": "u1"}).found.top] == [mine]
    assert len(document(read(ledger, top=3)).record["top"]) == 3


def test_what_was_refused_is_shown_with_what_it_would_have_cost(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("acme", "0.000000010", timezone=ZONE), at("2026-11-01"))
    for upper in (11, None):
        task = an_attempt(upper)
        answer = ledger.admit("acme", at("2026-11-03"), [task])
        assert not isinstance(answer, Admitted)
        ledger.count_refusal(answer, "acme", at("2026-11-03"), [task])
    spend(ledger, 5, "2026-11-03")
    table = table_under(document(read(ledger)), "Refused")
    assert [(row["reason"], row["tasks"], row["upper"]) for row in table.rows] == [
        ("no room", 1, Decimal("0.000000011")),
        ("unpriced", 1, None),
    ]
    assert table.total is not None
    assert (table.total["tasks"], table.total["upper"]) == (2, Decimal("0.000000011"))
    assert "1 of 2 without a price: what these would have cost is in no sum." in text_of(document(read(ledger)))
    assert "1 of 2 tasks without a price" in text_of(document(read(ledger)))
    assert [one["unpriced"] for one in document(read(ledger)).record["refused"]] == [0, 1]
    assert read(ledger, OCTOBER).found.refused == []


def test_where_no_price_of_what_was_refused_is_known_no_sum_is(ledger: Ledger) -> None:
    ledger.set_budget(make_budget("acme", "1", timezone=ZONE), at("2026-11-01"))
    task = an_attempt(None)
    answer = ledger.admit("acme", at("2026-11-03"), [task])
    assert not isinstance(answer, Admitted)
    ledger.count_refusal(answer, "acme", at("2026-11-03"), [task])
    text = text_of(document(read(ledger)))
    assert "The ledger is empty" not in text
    assert "Nothing was ever charged: all that was asked for was refused." in text
    spend(ledger, 5, "2026-11-03")
    written = document(read(ledger))
    table = table_under(written, "Refused")
    assert table.total is not None
    assert table.total["expected"] is table.total["upper"] is None
    (figures,) = (part for part in written.parts if isinstance(part, Figures))
    assert [item.value for item in figures.items if item.label == "Refused"] == [None]
    assert [(one["expected"], one["upper"]) for one in written.record["refused"]] == [(None, None)]


def test_rounding_reasoning_and_drift_are_told_in_the_record(tmp_path: Path) -> None:
    ledger = make_ledger(tmp_path / "three.db", 90)
    written = document(read(ledger, periods.year("2026")))
    rows = {row["component"]: row["cost"] for row in written.record["components"] if row["modality"] is None}
    assert written.record["rounding"] == rows["rounding"]
    drift = written.record["drift"]
    assert drift["difference"] == drift["charged"] - drift["own_price"]
    reasoning = written.record["reasoning"]
    assert 0 < reasoning["tokens"] < reasoning["completion_tokens"]
    assert written.record["rounded"] is None
    ledger.close()


# -- how it is written --------------------------------------------------------------------------


HOSTILE = [
    "=1+1",
    "@SUM(A1)",
    "<script>alert(1)<",
    "a|b`c*_[x](y)",
    'q"uote, comma',
    "x" * 200,
    "検索/本番",
    "a\u2019b",
]
UNSEEN = "\u202e\x1b\u2066\u200f\u061c\x9b"


@pytest.mark.parametrize("name", formats.FORMATS)
def test_hostile_names_of_projects_and_tags_are_only_names(ledger: Ledger, name: str) -> None:
    for project in HOSTILE:
        tags = json.dumps({"user": project[:60], "<b>": "|"})
        spend(ledger, 7, "2026-11-03", project=project, tags=tags)
    written = document(read(ledger, top=3))
    assert {row["project"] for row in written.rows} == set(HOSTILE)
    if name != "parquet":
        assert formats.named(name).write(written)


@pytest.mark.parametrize("name", ["table", "markdown", "html"])
def test_what_obeys_or_turns_text_is_in_writing_wherever_people_read_a_name(ledger: Ledger, name: str) -> None:
    for n in range(2):
        spend(ledger, 7, "2026-11-03", tags=json.dumps({"user": f"x{UNSEEN}{n}", f"t{UNSEEN}": "y"}))
    written = document(read(ledger, top=3))
    text = formats.named(name).write(written)
    assert not set(UNSEEN) & set(text)
    assert unescape(text).count("\\u202e\\x1b\\u2066\\u200f\\u061c\\x9b") > 3
    assert not set(UNSEEN) & set(written._repr_html_())


def test_amounts_of_a_column_have_one_number_of_decimals(ledger: Ledger) -> None:
    for project, nanos in (("a", 1_500_000_000), ("b", 123), ("c", 20_000_000)):
        spend(ledger, nanos, "2026-11-03", project=project)
    table = table_under(document(read(ledger)), "By project")
    assert [f"{row['cost']:f}" for row in table.rows] == ["1.500000000", "0.020000000", "0.000000123"]
    assert table.total is not None
    assert f"{table.total['cost']:f}" == "1.520000123"
    assert [f"{row['cost']:f}" for row in document(read(ledger)).rows] == ["1.50", "0.000000123", "0.02"]


def test_every_row_can_say_which_period_it_is_of(ledger: Ledger) -> None:
    spend(ledger, 5, "2026-11-03")
    about = document(read(ledger)).about
    assert {key: value for key, value in about.items() if key != "as_of"} == {
        "period": "2026-11", "since": "2026-11-01", "until": "2026-12-01", "timezone": ZONE, "currency": "USD",
    }  # fmt: skip
    assert about["as_of"].isoformat() == "2026-11-22T13:00:00+01:00"


def test_rows_of_a_part_say_of_which(ledger: Ledger) -> None:
    spend(ledger, 5, "2026-11-03", project="acme/search", tags='{"user": "u1"}')
    written = document(read(ledger, by=("model",), project="acme", tags={"user": "u1"}))
    (row,) = csv.DictReader(io.StringIO(formats.named("csv").write(written)))
    assert (row["project"], row["tags"]) == ("acme", '{"user": "u1"}')
    by_project = document(read(ledger, project="acme"))
    assert [one["project"] for one in by_project.stackable_rows] == ["acme/search"]
    assert "<dd><bdi>user=u1</bdi></dd>" in formats.named("html").write(written)


@pytest.mark.parametrize(
    ("period", "title", "days"),
    [
        (NOVEMBER, "in November 2026", "1 to 30 November 2026"),
        (periods.quarter("2026-Q4"), "in the 4th quarter of 2026", "1 October to 31 December 2026"),
        (periods.year("2026"), "in 2026", "1 January to 31 December 2026"),
        (periods.containing("week", date(2026, 12, 31)), "in week 53 of 2026", "28 December 2026 to 3 January 2027"),
        (periods.between(date(2026, 11, 3), date(2026, 11, 3)), "on 3 November 2026", "3 November 2026"),
        (periods.between(date(2026, 11, 3), date(2026, 11, 4)), "from 3 to 4 November 2026", "3 to 4 November 2026"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_page_says_its_period_as_people_do(ledger: Ledger, period: periods.Period, title: str, days: str) -> None:
    page = formats.named("html").write(document(read(ledger, period)))
    assert f"<h1><bdi>Spending {title}</bdi></h1>" in page
    assert f"<dt>Days</dt><dd><bdi>{days}</bdi></dd>" in page
    assert "Before</dt>" not in page


@pytest.mark.parametrize("year", ["1970", "1971", "9998"])
@pytest.mark.parametrize("per", [None, "day", "week", "month"])
def test_the_first_and_the_last_year_of_the_calendar_can_be_reported(
    ledger: Ledger, year: str, per: str | None
) -> None:
    spend(ledger, 5, "2026-11-03")
    assert read(ledger, periods.year(year), per=per).total == 0


def test_ten_years_that_run_still_can_be_reported(ledger: Ledger) -> None:
    spend(ledger, 5, "2026-11-03")
    assert read(ledger, periods.between(date(2026, 11, 1), date(2036, 11, 7))).total == 5


def test_a_period_of_a_day_has_no_table_over_time_and_a_year_is_shown_by_week(ledger: Ledger) -> None:
    spend(ledger, 5, "2026-11-03")
    day = document(read(ledger, periods.between(date(2026, 11, 3), date(2026, 11, 3))))
    assert not [part for part in day.parts if isinstance(part, Heading) and part.text == "By day"]
    assert table_under(document(read(ledger, periods.year("2026"))), "By week").rows[-1]["when"] == "2026-W47"
    assert any(isinstance(part, Figures) for part in day.parts)


def test_late_charges_and_open_tasks_of_the_period_count_in_it(ledger: Ledger) -> None:
    (attempt, still_open) = hold(ledger, 9, 4, project="acme", at_us=at("2026-10-31T20:00"))
    ledger.conclude(NOW_US, [Settle(attempt, a_charge(8), "0")])
    assert (read(ledger, OCTOBER).total, read(ledger, OCTOBER).found.open.held) == (8, 4)
    assert (read(ledger).total, read(ledger).found.open.tasks) == (0, 0)
    assert read(ledger, OCTOBER, project="other").found.open.tasks == 0
    assert read(ledger, OCTOBER, tags={"user": "u1"}).found.open.tasks == 0
    assert still_open
