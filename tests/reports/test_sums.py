"""Whatever a statement is asked for, its sums are the ledger's: to the nano-dollar, and in cents to the total shown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statements import NOW_US, ZONE, Charged, charged, make_ledger

from costguard import money
from costguard.ledger.accounting import rolling
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.accounting.spending import GROUPS
from costguard.projects import covers
from costguard.reports import formats, periods
from costguard.reports.document import Chart, Document, Row, Table
from costguard.reports.facts import Statement, state
from costguard.reports.sections import nodes
from costguard.reports.statement import document
from costguard.reports.tree import Node

BY = st.lists(st.sampled_from([*GROUPS, "tag:user", "tag:nobody"]), unique=True, max_size=3)
ZONES = st.sampled_from([ZONE, "UTC", "Asia/Kathmandu", "Pacific/Kiritimati", "America/St_Johns"])
FIRST = date(2026, 8, 20)
DAYS = st.integers(0, 110).map(lambda n: FIRST + timedelta(days=n))
PERIODS = st.one_of(
    st.tuples(DAYS, st.integers(0, 60)).map(lambda pair: periods.between(pair[0], pair[0] + timedelta(days=pair[1]))),
    st.tuples(st.sampled_from(["week", "month", "quarter", "year"]), DAYS).map(lambda pair: periods.containing(*pair)),
)
PROJECT = st.sampled_from([None, "/", "acme", "acme/search", "kunde", "=1+1", "nobody"])
TAGS = st.sampled_from([{}, {}, {"user": "u1"}, {"user": 'ü"%'}, {"user": "u_1", "team": "b"}, {"user": "nobody"}])


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """Three months, of which a part is in the roll-ups."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rolling, "ROLL_EVERY", 32)
        opened = make_ledger(tmp_path_factory.mktemp("sums") / "ledger.db")
        yield opened
        assert opened.verify().difference is None
        opened.close()


@pytest.fixture(scope="module")
def rows(ledger: Ledger) -> list[Charged]:
    return charged(ledger)


def meant(
    rows: Sequence[Charged], period: periods.Period, zone: str, project: str | None, tags: dict[str, str]
) -> list[Charged]:
    return [
        one
        for one in rows
        if period.first <= one.day(zone) < period.end
        and (project is None or covers(project, one.project))
        and tags.items() <= one.tags.items()
    ]


def tables(written: Document) -> Iterator[Table]:
    for part in written.parts:
        if isinstance(part, Chart):
            yield part.table
        elif isinstance(part, Table):
            yield part


def outermost(rows: Sequence[Row], key: str) -> Decimal:
    """The sum of what is not a part of another row."""
    return sum((row["cost"] for row in rows if not str(row[key]).startswith(" ")), Decimal(0))


def assert_adds_up(found: Statement, written: Document) -> None:
    shown: Decimal = written.record["total"]
    assert sum((row["cost"] for row in written.rows), Decimal(0)) == shown
    for table in tables(written):
        if table.total is not None:
            assert outermost(table.rows, table.columns[0].key) == table.total["cost"] == shown, table.columns[0]
    for grouping in ("models", "components", "task_types", "over_time"):
        assert sum((row["cost"] for row in written.record[grouping]), Decimal(0)) == shown, grouping
    assert sum(written.record["bases"].values(), Decimal(0)) == shown
    text = formats.named("csv").write(written)
    told = [Decimal(row["cost"]) for row in csv.DictReader(io.StringIO(text))]
    assert sum(told, Decimal(0)) == shown
    parsed = json.loads(formats.named("json").write(written))
    assert sum((Decimal(row["cost"]) for row in parsed["rows"]), Decimal(0)) == Decimal(parsed["total"])
    assert found.total == sum(node.nanos for node in nodes(found))


def assert_tree(node: Node) -> None:
    assert node.nanos == node.own + sum(below.nanos for below in node.below.values())
    assert node.tasks == node.own_tasks + sum(below.tasks for below in node.below.values())
    for below in node.below.values():
        assert below.project.startswith(f"{node.project}/")
        assert_tree(below)


@settings(max_examples=120)
@given(by=BY, per=st.none() | st.sampled_from(["day", "week", "month"]), zone=ZONES, period=PERIODS, project=PROJECT,
       tags=TAGS, cents=st.booleans(), depth=st.none() | st.integers(1, 3))  # fmt: skip
def test_every_statement_sums_to_what_its_attempts_were_charged(
    ledger: Ledger, rows: list[Charged], by: list[str], per: str | None, zone: str, period: periods.Period,
    project: str | None, tags: dict[str, str], cents: bool, depth: int | None,
) -> None:  # fmt: skip
    wanted = meant(rows, period, zone, project, tags)
    found = state(ledger, period, at_us=NOW_US, by=by, per=per, project=project, tags=tags, timezone=zone)
    assert found.total == sum(one.nanos for one in wanted)
    assert sum(row.nanos for row in found.rows) == found.total
    assert sum(nanos for _, nanos, _ in found.parts) == found.total
    for part, nanos, _ in found.parts:
        assert nanos == sum(one.nanos for one in wanted if part.first <= one.day(zone) < part.end)
    for node in nodes(found):
        assert_tree(node)
    assert_adds_up(found, document(found, round_to="cents" if cents else None, depth=depth))


@settings(max_examples=40)
@given(zone=ZONES, period=PERIODS, project=PROJECT, tags=TAGS)
def test_the_period_before_is_what_was_charged_in_it(
    ledger: Ledger, rows: list[Charged], zone: str, period: periods.Period, project: str | None, tags: dict[str, str]
) -> None:
    found = state(ledger, period, at_us=NOW_US, project=project, tags=tags, timezone=zone)
    earlier = period.before()
    assert earlier is not None
    assert found.before is not None
    assert earlier.end == period.first
    began = min(one.day(zone) for one in rows)
    if began >= earlier.end:
        assert found.before.total is None, "unknown is never zero"
        return
    assert found.before.total == sum(one.nanos for one in meant(rows, earlier, zone, project, tags))
    assert found.before.is_partial == (began > earlier.first)
    if found.before.same_total is not None:
        same = earlier.beginning(found.before.same_days)
        assert found.before.same_total == sum(one.nanos for one in meant(rows, same, zone, project, tags))


@given(st.lists(st.integers(0, 10**11), min_size=1, max_size=30))
def test_cents_and_their_remainder_add_up_to_the_rounded_sum(nanos: list[int]) -> None:
    from costguard.reports.amounts import REMAINDER, Amounts

    amounts = Amounts("cents")
    rows: list[dict[str, Any]] = [{"project": str(n), "cost": amounts.usd(value)} for n, value in enumerate(nanos)]
    shown = amounts.with_remainder(rows, nanos, ("project",))
    assert sum((row["cost"] for row in shown), Decimal(0)) == amounts.usd(sum(nanos))
    assert all(
        abs(row["cost"] - money.to_usd(value)) <= Decimal("0.005") for row, value in zip(rows, nanos, strict=True)
    )
    assert [row["project"] for row in shown[len(rows) :]] in ([], [REMAINDER])


def test_rounding_to_cents_is_half_to_even() -> None:
    from costguard.reports.amounts import Amounts

    shown = [
        str(Amounts("cents").usd(nanos)) for nanos in (5_000_000, 15_000_000, 5_000_001, -5_000_000, -15_000_000, 0)
    ]
    assert shown == ["0.00", "0.02", "0.01", "0.00", "-0.02", "0.00"]
