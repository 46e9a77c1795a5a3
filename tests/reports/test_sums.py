"""Whatever a statement is asked for, its sums are the ledger's: to the nano-dollar, and in cents to the total shown."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statements import NOW_US, ZONE, Charged, charged, make_ledger

from costguard import money
from costguard.ledger.accounting import rolling
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.accounting.spending import GROUPS
from costguard.ledger.records import UsageRow
from costguard.projects import covers
from costguard.reports import formats, periods
from costguard.reports.amounts import Amounts
from costguard.reports.document import Chart, Document, Row, Table
from costguard.reports.facts import Statement, state
from costguard.reports.sections import nodes, shown_tree
from costguard.reports.statement import document
from costguard.reports.tree import Node, tree

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


def levels(rows: Sequence[Row]) -> Iterator[tuple[Row | None, list[Row]]]:
    """Each row of a tree with those right below it, by their steps; None with the outermost."""

    def depth(row: Row) -> int:
        name = str(next(iter(row.values())))
        return (len(name) - len(name.lstrip(" "))) // 2

    yield None, [row for row in rows if depth(row) == 0]
    for at, row in enumerate(rows):
        below = list(itertools.takewhile(lambda other, row=row: depth(other) > depth(row), rows[at + 1 :]))  # type: ignore[misc]
        if below:
            yield row, [other for other in below if depth(other) == depth(row) + 1]


def added(rows: Sequence[Row], key: str) -> Decimal:
    return sum((row[key] for row in rows if row[key] is not None), Decimal(0))


def assert_table_adds_up(table: Table) -> None:
    """Every column of amounts, at every level, to the level above it or the total."""
    assert table.total is not None
    amounts = [key for key, value in table.total.items() if isinstance(value, Decimal)]
    for above, rows in levels(table.rows):
        for key in amounts:
            assert added(rows, key) == (above or table.total)[key], (key, above)


def assert_adds_up(found: Statement, written: Document) -> None:
    record, shown = written.record, written.record["total"]
    assert added(written.rows, "cost") == shown
    for table in tables(written):
        if table.total is not None:
            assert table.total.get("cost", shown) == shown, table.columns[0]
            assert_table_adds_up(table)
    for grouping in ("models", "components", "task_types", "over_time"):
        assert added(record[grouping], "cost") == shown, grouping
    assert sum(record["bases"].values(), Decimal(0)) == shown
    assert set(record["bases"]) == {row.keys[0] for row in found.by("basis")}
    for name in ("rounding", "unexplained"):
        assert record[name] == added([row for row in record["components"] if row["component"] == name], "cost")
    refused = [part for part in written.parts if isinstance(part, Table) and part.columns[2].key == "reason"]
    for table in refused:
        for key in ("expected", "upper"):
            assert table.total is not None
            assert added(record["refused"], key) == (table.total[key] or 0), key
    assert record["drift"]["difference"] == record["drift"]["charged"] - record["drift"]["own_price"]
    before = record["before"]
    if before is not None and before["change"] is not None:
        assert before["change"] in {shown - before["total"], shown - (before["same_total"] or 0)}
    text = formats.named("csv").write(written)
    told = [Decimal(row["cost"]) for row in csv.DictReader(io.StringIO(text))]
    assert sum(told, Decimal(0)) == shown
    parsed = json.loads(formats.named("json").write(written))
    assert sum((Decimal(row["cost"]) for row in parsed["rows"]), Decimal(0)) == Decimal(parsed["total"])
    assert found.total == sum(node.nanos for node in nodes(found))
    said = [
        line.partition(" USD by ")[::2] for part in written.parts if isinstance(part, str) for line in part.split("\n")
    ]
    told_bases = {rest.partition(" (")[0]: Decimal(amount) for amount, rest in said if rest.endswith("figure).")}
    assert told_bases == record["bases"]


def assert_projects_add_up(projects: Sequence[Row], total: Decimal, before: Decimal | None) -> None:
    """In the record of the whole tree: what is outermost to the totals, what lies below each and its own to it."""
    for key, own, whole in (("cost", "own", total), ("before", "own_before", before)):
        if whole is None:
            assert all(one[key] is one[own] is None for one in projects)
            continue
        assert added([one for one in projects if one["depth"] == 1], key) == whole
        for at, one in enumerate(projects):
            deeper = itertools.takewhile(lambda other, one=one: other["depth"] > one["depth"], projects[at + 1 :])  # type: ignore[misc]
            below = [other for other in deeper if other["depth"] == one["depth"] + 1]
            assert added(below, key) + one[own] == one[key], one["project"]


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
    round_to = "cents" if cents else None
    assert_adds_up(found, document(found, round_to=round_to, depth=depth))
    record = document(found, round_to=round_to, whole=True).record
    assert_projects_add_up(record["projects"], record["total"], record["before"] and record["before"]["total"])


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


@given(st.lists(st.integers(-(10**11), 10**11), min_size=1, max_size=30), st.sampled_from([-1, 0, 1]))
def test_parts_in_cents_add_up_to_what_is_shown_and_each_is_less_than_a_cent_from_what_it_is(
    nanos: list[int], off: int
) -> None:
    amounts = Amounts("cents")
    whole = amounts.usd(sum(nanos))
    if off and abs(whole + off * Decimal("0.01") - money.to_usd(sum(nanos))) < Decimal("0.01"):
        whole += off * Decimal("0.01")  # as a part of another sum
    shown = amounts.parts(nanos, whole)
    assert sum(shown, Decimal(0)) == whole
    assert all(abs(cost - money.to_usd(value)) < Decimal("0.01") for cost, value in zip(shown, nanos, strict=True))
    assert Amounts().parts(nanos) == [money.to_usd(value) for value in nanos]


PATHS = st.sampled_from(["a", "a/b", "a/b/c", "a/b/d", "a/e", "a/f", "g/h", "g/i", "/"])
SPENT = st.dictionaries(PATHS, st.integers(-(10**8), 10**8), min_size=1)


@given(SPENT, SPENT)
def test_in_cents_every_level_of_the_tree_adds_up_in_both_periods(now: dict[str, int], then: dict[str, int]) -> None:
    amounts = Amounts("cents")
    sums = amounts.usd(sum(now.values())), amounts.usd(sum(then.values()))
    outermost = tree([UsageRow((name,), 1, 0, nanos) for name, nanos in sorted(now.items())], then)
    shown = list(shown_tree(outermost, sums, amounts, None))
    by_name = {one.node.project: one for one in shown}
    assert sum((by_name[node.project].cost for node in outermost), Decimal(0)) == sums[0]
    assert sum((by_name[node.project].before for node in outermost), Decimal(0)) == sums[1]
    for one in shown:
        below = [by_name[node.project] for node in one.node.below.values()]
        assert sum((each.cost for each in below), one.own) == one.cost
        assert sum((each.before for each in below), one.own_before) == one.before
        assert abs(one.cost - money.to_usd(one.node.nanos)) < Decimal("0.01")
        assert abs(one.own_before - money.to_usd(one.node.own_before)) < Decimal("0.01")


def test_rounding_to_cents_is_half_to_even() -> None:
    shown = [
        str(Amounts("cents").usd(nanos)) for nanos in (5_000_000, 15_000_000, 5_000_001, -5_000_000, -15_000_000, 0)
    ]
    assert shown == ["0.00", "0.02", "0.01", "0.00", "-0.02", "0.00"]
