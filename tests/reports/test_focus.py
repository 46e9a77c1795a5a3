"""A FOCUS export adds up to the ledger, keeps the specification's rules, and says nothing that is not known."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import HOUR_US, NOW_US, a_charge, an_attempt, open_ledger
from recordings import a_record, an_item, import_text, lines
from sample_documents import HOSTILE

from costguard.budgets import to_us
from costguard.errors import ConfigurationError
from costguard.ledger.accounting import charged
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.accounting.spending import Span
from costguard.ledger.charges import Basis, Charge, Line
from costguard.ledger.engines import files
from costguard.ledger.records import Admitted, Observation, Settle
from costguard.prices.book import PriceBook
from costguard.reports import focus_files, periods
from costguard.reports.document import Row
from costguard.reports.focus import COLUMNS, Month, rows
from costguard.reports.skus import Catalogue

FLASH, PRO = "google:gemini@3-flash", "google:gemini@3.1-pro"
BOOK = PriceBook.load()
DECEMBER_US = to_us(datetime(2026, 12, 10, tzinfo=UTC))
NANO = Decimal("0.000000001")

COMPONENTS = (
    ("prompt", "TEXT"), ("prompt", "IMAGE"), ("prompt", ""), ("prompt", "SMELL"), ("cache", "TEXT"),
    ("completion", ""), ("feature:search", ""), ("rounding", ""), ("unexplained", ""), ("unitemized", ""),
)  # fmt: skip

OF_USE = {"prompt", "cache", "completion", "unitemized"}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """One that reports in Berlin's days."""
    opened = open_ledger(tmp_path / "ledger.db", timezone="Europe/Berlin")
    yield opened
    opened.close()


def month_of(ledger: Ledger, name: str = "2026-11", zone: str | None = None) -> Month:
    span = periods.month(name).span(zone or ledger.timezone)
    return Month(span, "an-account", DECEMBER_US)


def export(
    ledger: Ledger,
    name: str = "2026-11",
    per: Literal["task", "hour"] = "task",
    *,
    zone: str | None = None,
    project: str | None = None,
    book: PriceBook = BOOK,
) -> list[Row]:
    month = month_of(ledger, name, zone)
    return list(rows(ledger.charged(month.span, project), month, per, Catalogue(book)))


def spend(
    ledger: Ledger,
    *charges: Charge,
    at_us: int = NOW_US,
    project: str = "acme",
    model: str = FLASH,
    tags: str = "{}",
    uuid: str | None = None,
) -> str:
    """A task of so many results, each charged; its name."""
    attempt = an_attempt(10**9, task_uuid=uuid, model=model, results=max(len(charges), 1))._replace(tags=tags)
    admitted = ledger.admit(project, at_us, [attempt], enforce=False)
    assert isinstance(admitted, Admitted)
    if charges:
        settles = [Settle(admitted.attempt_ids[0], one, f"i:{n} s:{n}") for n, one in enumerate(charges)]
        ledger.conclude(at_us + 1, settles)
    return attempt.task_uuid


def charge(*lines: Line, basis: Basis = "breakdown", **fields: Any) -> Charge:
    nanos = sum(line.nanos for line in lines)
    return a_charge(nanos, lines=lines)._replace(basis=basis, **fields)


def computed(model: str, prompt: dict[str, int], completion: int, **usage: Any) -> Charge:
    """What the price list makes of usage, as the guard charges it where the provider tells no figure."""
    cost = BOOK.cost(model, prompt=prompt, completion=completion, at=datetime(2026, 11, 22, tzinfo=UTC), **usage)
    lines = [Line(*line) for line in cost.lines]
    return charge(*lines, basis="computed", computed_nanos=cost.nanos, price_id=cost.price_id)


def total(found: list[Row]) -> int:
    return int(sum((row["BilledCost"] for row in found), Decimal(0)) / NANO)


def booked(ledger: Ledger, condition: str = "1=1", *parameters: object) -> int:
    """What the journal's rows add up to, by plain SQL."""
    with sqlite3.connect(ledger._engine.path) as connection:  # type: ignore[attr-defined]
        (nanos,) = connection.execute(
            "SELECT coalesce(sum(c.spent), 0) FROM entries c JOIN attempts a ON a.id = c.attempt_id"
            f" WHERE c.kind = 'charge' AND {condition}",
            parameters,
        ).fetchone()
    connection.close()
    return int(nanos)


def check(row: Row) -> None:
    """The rules of the specification for a row's values and nulls, and how they belong together."""
    assert list(row) == list(COLUMNS)
    for name, kind in COLUMNS.items():
        expected = {"text": str, "amount": Decimal, "moment": datetime, "count": int}[kind]
        assert row[name] is None or type(row[name]) is expected, name
        assert row[name] != "", name
    for name in (
        "BilledCost", "BillingAccountId", "BillingCurrency", "BillingPeriodStart", "BillingPeriodEnd",
        "ChargeCategory", "ChargeDescription", "ChargeFrequency", "ChargePeriodStart", "ChargePeriodEnd",
        "ContractedCost", "EffectiveCost", "InvoiceIssuerName", "ListCost", "ProviderName", "PublisherName",
        "ServiceCategory", "ServiceName", "ServiceSubcategory",
    ):  # fmt: skip
        assert row[name] is not None, name
    assert row["BilledCost"] == row["EffectiveCost"] == row["ContractedCost"]
    assert row["BillingPeriodStart"] <= row["ChargePeriodStart"] < row["ChargePeriodEnd"] <= row["BillingPeriodEnd"]
    assert row["ChargeClass"] in (None, "Correction")
    assert (row["ServiceCategory"], row["ServiceSubcategory"]) == ("AI and Machine Learning", "Generative AI")
    is_usage = row["x_Component"] in OF_USE or str(row["x_Component"]).startswith("feature:")
    assert row["ChargeCategory"] == ("Usage" if is_usage else "Adjustment")
    assert row["ChargeFrequency"] == ("Usage-Based" if is_usage else "One-Time")
    assert row["PricingCategory"] == ("Standard" if is_usage else None)
    assert (row["SkuId"] is None) == (row["SkuMeter"] is None) == (not is_usage)
    assert (row["SkuPriceId"] is None) == (row["SkuPriceDetails"] is None) == (row["ListUnitPrice"] is None)
    assert (row["ConsumedQuantity"] is None) == (row["ConsumedUnit"] is None)
    assert (row["PricingQuantity"] is None) == (row["PricingUnit"] is None)
    assert (row["ResourceId"] is None) == (row["ResourceType"] is None)
    if not is_usage:
        assert row["ConsumedQuantity"] is row["PricingQuantity"] is row["ListUnitPrice"] is None
    if row["ListUnitPrice"] is None or row["PricingQuantity"] is None:
        assert row["ListCost"] == row["BilledCost"]
    else:
        assert row["ListUnitPrice"] >= 0
        assert row["ListCost"] == row["ListUnitPrice"] * row["PricingQuantity"]
    if row["PricingUnit"] == "1000000 Tokens":
        assert row["ConsumedUnit"] == "Tokens"
        assert row["ConsumedQuantity"] == row["PricingQuantity"] * 1_000_000
    for name in ("Tags", "SkuPriceDetails"):
        told = json.loads(row[name] or "{}")
        assert all(isinstance(value, str) for value in told.values())
        if name == "SkuPriceDetails":
            assert all(key.startswith("x_") for key in told)


def check_all(found: list[Row]) -> None:
    parents = defaultdict(set)
    for row in found:
        check(row)
        parents[row["SkuPriceId"]].add(row["SkuId"])
    parents.pop(None, None)
    assert all(len(skus) == 1 for skus in parents.values())


# -- what it adds up to -------------------------------------------------------------------------

a_line = st.builds(
    lambda name, quantity, nanos: Line(name[0], name[1], quantity, nanos),
    st.sampled_from(COMPONENTS),
    st.none() | st.integers(0, 400_000),
    st.integers(0, 10**7),
)
some_lines = st.lists(a_line, max_size=4, unique_by=lambda line: line[:2])
a_call = st.fixed_dictionaries(
    {
        "minutes": st.integers(0, 60 * 24 * 60),
        "project": st.sampled_from(["acme", "acme/search", "acme2"]),
        "model": st.sampled_from([FLASH, PRO, "somebody:else@1", ""]),
        "tags": st.sampled_from(["{}", '{"user": "ann"}', '{"user": "=1+1"}']),
        "results": st.lists(some_lines, min_size=1, max_size=2),
        "basis": st.sampled_from(["breakdown", "cost", "computed", "assumed"]),
        "then": st.sampled_from(["", "", "again", "better", "better later", "by hand", "by hand later"]),
        "better": some_lines,
    }
)

START = datetime(2026, 10, 15, tzinfo=UTC)


def perform(ledger: Ledger, call: dict[str, Any]) -> None:
    at_us = to_us(START + timedelta(minutes=call["minutes"]))
    of = {"at_us": at_us, "project": call["project"], "model": call["model"], "tags": call["tags"]}
    results = [charge(*lines, basis=call["basis"]) for lines in call["results"]]
    then, later_us = call["then"], to_us(datetime(2027, 1, 20, tzinfo=UTC))
    if then.startswith("by hand"):
        uuid = spend(ledger, **of)
        ledger.correct(later_us if "later" in then else at_us + 5, uuid, 77, "told by telephone")
        if len(results) > 1:  # the truth came after all
            ledger.observe(later_us + 5, Observation(uuid, (("i:0 s:0", results[0]),)))
        return
    uuid = spend(ledger, *results, **of)
    if then == "again":
        spend(ledger, *results, **{**of, "at_us": at_us + 3 * HOUR_US}, uuid=uuid)
    elif then:
        told = (("i:0 s:0", charge(*call["better"], basis="breakdown")),)
        ledger.observe(later_us if "later" in then else at_us + 5, Observation(uuid, told))


@settings(max_examples=40)
@given(calls=st.lists(a_call, min_size=1, max_size=12))
def test_the_rows_of_every_month_add_up_to_the_ledger_and_keep_the_rules(
    calls: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    ledger = open_ledger(tmp_path_factory.mktemp("focus") / "ledger.db", timezone="Europe/Berlin")
    for call in calls:
        perform(ledger, call)
    everything = 0
    for name in ("2026-10", "2026-11", "2026-12"):
        by_task, by_hour = export(ledger, name), export(ledger, name, "hour")
        check_all(by_task)
        check_all(by_hour)
        assert total(by_task) == total(by_hour) == booked(ledger, "a.day LIKE ?", f"{name}%")
        for project in ("acme", "acme/search"):
            below = "a.day LIKE ? AND (a.project = ? OR a.project LIKE ? || '/%')"
            found = export(ledger, name, project=project)
            assert total(found) == booked(ledger, below, f"{name}%", project, project)
        first = date.fromisoformat(f"{name}-01")
        span = periods.containing("month", first).span("America/New_York")
        assert total(export(ledger, name, zone="America/New_York")) == booked(
            ledger, "a.at_us >= ? AND a.at_us < ?", span.start_us, span.end_us
        )
        days = periods.containing("month", first).span("Europe/Berlin").days
        assert days is not None
        (whole,) = ledger.usage((), *days) or (None,)
        assert total(by_task) == (whole.nanos if whole else 0)
        everything += total(by_task)
    assert everything == booked(ledger)
    ledger.close()


def test_tokens_add_up_to_those_of_the_report(ledger: Ledger) -> None:
    for n in range(12):
        lines = [Line("prompt", "TEXT", 10 + n, 5_000), Line("cache", "TEXT", n, 1), Line("completion", "", 3 * n, 9)]
        uuid = spend(ledger, charge(*lines, Line("feature:search", "", 2, 5)), at_us=NOW_US + n * HOUR_US // 4)
        if n % 3 == 0:
            better = charge(*[line._replace(nanos=line.nanos + 1) for line in lines])
            ledger.observe(DECEMBER_US, Observation(uuid, (("i:0 s:0", better),)))
    (whole,) = ledger.usage((), "2026-11-01", "2026-12-01")
    pers: tuple[Literal["task", "hour"], ...] = ("task", "hour")
    for per in pers:
        assert sum(row["x_Tokens"] or 0 for row in export(ledger, per=per)) == whole.tokens > 0


def test_an_hour_has_one_row_for_each_meter_of_a_project(ledger: Ledger) -> None:
    for n in range(6):
        at_us = NOW_US + n * HOUR_US // 3
        spend(ledger, charge(Line("prompt", "TEXT", 10, 5_000), Line("completion", "", 4, 12_000)), at_us=at_us)
    found = export(ledger, per="hour")
    assert [(row["ChargePeriodStart"].hour, row["x_Component"], row["ConsumedQuantity"]) for row in found] == [
        (12, "prompt", 30), (12, "completion", 12), (13, "prompt", 30), (13, "completion", 12),
    ]  # fmt: skip
    assert {row["x_TaskId"] for row in found} == {None}
    assert {row["ChargePeriodEnd"] - row["ChargePeriodStart"] for row in found} == {timedelta(hours=1)}


def test_an_hour_that_two_months_share_is_cut_where_the_month_is(tmp_path: Path) -> None:
    """In India a month begins at half past an hour of UTC."""
    ledger = open_ledger(tmp_path / "ledger.db", timezone="Asia/Kolkata")
    begin_us = to_us(datetime(2026, 10, 31, 18, 30, tzinfo=UTC))
    for n in (-1, 1):
        spend(ledger, a_charge(9 + n), at_us=begin_us + n * 60_000_000)
    before, after = export(ledger, "2026-10", "hour"), export(ledger, "2026-11", "hour")
    assert (total(before), total(after)) == (8, 10)
    check_all([*before, *after])
    assert before[0]["ChargePeriodEnd"] == after[0]["ChargePeriodStart"] == after[0]["BillingPeriodStart"]
    ledger.close()


# -- prices -------------------------------------------------------------------------------------


@given(
    model=st.sampled_from([FLASH, PRO]),
    text=st.integers(1, 300_000),
    image=st.integers(0, 5_000),
    share=st.integers(0, 100),
    completion=st.integers(0, 60_000),
)
@settings(max_examples=40)
def test_usage_charged_at_the_price_list_is_its_list_cost_to_the_nano_dollar(
    model: str, text: int, image: int, share: int, completion: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ledger = open_ledger(tmp_path_factory.mktemp("prices") / "ledger.db")
    spend(ledger, computed(model, {"TEXT": text, "IMAGE": image}, completion, cached=text * share // 100), model=model)
    found = export(ledger)
    check_all(found)
    for row in found:
        assert row["ListUnitPrice"] is not None
        assert row["ListCost"].quantize(NANO, ROUND_HALF_EVEN) == row["BilledCost"]
    ledger.close()


def test_a_long_prompt_has_the_price_of_its_tier_and_says_so(ledger: Ledger) -> None:
    for tokens in (200_000, 200_001):
        spend(ledger, charge(Line("prompt", "TEXT", tokens, 400_000_000), Line("completion", "", 10, 1)), model=PRO)
    found = [row for row in export(ledger) if row["x_Component"] == "prompt"]
    low, high = BOOK.find(PRO).at(NOW_US).tiers  # type: ignore[union-attr]
    assert [row["ListUnitPrice"] for row in found] == [Decimal(tier.prompt["TEXT"]).scaleb(-9) for tier in (low, high)]
    assert found[0]["SkuId"] == found[1]["SkuId"]
    assert found[0]["SkuPriceId"] != found[1]["SkuPriceId"]
    assert json.loads(found[1]["SkuPriceDetails"])["x_Tier"] == "more than 200000 prompt tokens"


def test_what_has_no_list_price_has_none_and_costs_what_was_billed(ledger: Ledger) -> None:
    spend(ledger, charge(Line("prompt", "TEXT", 10, 7)), model="somebody:else@1")
    spend(ledger, charge(Line("unitemized", "", None, 8), basis="cost"), at_us=NOW_US + 1)
    spend(ledger, charge(Line("prompt", "", 10, 9)), at_us=NOW_US + 2)
    spend(ledger, charge(Line("prompt", "TEXT", None, 10)), at_us=NOW_US + 3, model=PRO)
    spend(ledger, charge(Line("prompt", "TEXT", 10, 11), price_id="mine/2026-01-01"), at_us=NOW_US + 4)
    found = export(ledger)
    check_all(found)
    assert [row["ListUnitPrice"] for row in found] == [None] * 5
    assert [row["ListCost"] for row in found] == [row["BilledCost"] for row in found]
    assert [(row["ConsumedQuantity"], row["ConsumedUnit"], row["PricingUnit"]) for row in found] == [
        (10, "Tokens", "1000000 Tokens"), (1, "Results", "Results"), (10, "Tokens", "1000000 Tokens"),
        (None, None, None), (10, "Tokens", "1000000 Tokens"),
    ]  # fmt: skip


def test_a_model_by_its_alias_is_the_same_resource_and_sku(ledger: Ledger) -> None:
    known = BOOK.find(FLASH)
    assert known is not None
    for name in (known.model, *known.aliases):
        spend(ledger, charge(Line("prompt", "TEXT", 10, 5_000)), model=name)
    found = export(ledger)
    assert {(row["ResourceId"], row["ResourceName"], row["SkuId"]) for row in found} == {
        (FLASH, known.name, f"{FLASH}/prompt/TEXT")
    }


def test_what_was_imported_without_a_model_is_no_resource(ledger: Ledger) -> None:
    import_text(ledger, lines([{"at": a_record()["at"], **an_item("a", "0.5")}]))
    (row,) = export(ledger)
    assert (row["ResourceId"], row["ResourceName"], row["ResourceType"]) == (None, None, None)
    assert row["SkuId"] == "textInference/unitemized"


def test_a_name_means_the_project_that_is_shown_so_and_else_the_path_it_was_booked_on(ledger: Ledger) -> None:
    spend(ledger, charge(Line("unitemized", "", None, 1)), project="lab")
    spend(ledger, charge(Line("unitemized", "", None, 2)), project="acme")
    ledger.call_project("lab", "old", NOW_US)
    ledger.call_project("acme", "lab", NOW_US)
    for name, nanos in (("lab", 2), ("acme", 2), ("old", 1)):
        assert total(export(ledger, project=name)) == nanos, name


def test_a_result_that_is_not_itemized_is_priced_whole_and_tells_its_tokens_where_it_knows_them(ledger: Ledger) -> None:
    spend(ledger, charge(Line("unitemized", "", 321, 8), basis="cost"))
    (row,) = export(ledger)
    assert (row["PricingQuantity"], row["PricingUnit"]) == (1, "Results")
    assert (row["ConsumedQuantity"], row["ConsumedUnit"], row["x_Tokens"]) == (321, "Tokens", 321)


def test_a_task_that_was_free_is_a_row_of_nothing(ledger: Ledger) -> None:
    spend(ledger, charge(basis="cost"))
    (row,) = export(ledger)
    check(row)
    assert (row["BilledCost"], row["ConsumedQuantity"], row["ConsumedUnit"]) == (0, 1, "Results")


def test_reasoning_is_told_of_the_completion_alone(ledger: Ledger) -> None:
    lines = (Line("prompt", "TEXT", 10, 5_000), Line("completion", "", 40, 9))
    spend(ledger, charge(*lines, reasoning_tokens=30))
    assert [row["x_ReasoningTokens"] for row in export(ledger)] == [None, 30]


# -- what was changed ---------------------------------------------------------------------------


def of_books(found: list[Row]) -> list[tuple[object, ...]]:
    return [(row["BilledCost"] / NANO, row["x_Basis"], row["ChargeClass"], row["ConsumedQuantity"]) for row in found]


def test_a_figure_that_took_another_s_place_within_the_month_is_all_that_is_left(ledger: Ledger) -> None:
    uuid = spend(ledger, charge(Line("prompt", "TEXT", 10, 50), basis="computed"))
    ledger.observe(NOW_US + HOUR_US, Observation(uuid, (("i:0 s:0", charge(Line("prompt", "TEXT", 10, 60))),)))
    assert of_books(export(ledger)) == [(60, "breakdown", None, 10)]


def test_a_figure_that_came_after_the_month_is_a_correction_and_what_was_exported_stays(ledger: Ledger) -> None:
    uuid = spend(ledger, charge(Line("prompt", "TEXT", 10, 50), basis="computed"))
    before = export(ledger)
    told = Observation(uuid, (("i:0 s:0", charge(Line("prompt", "TEXT", 11, 60))),))
    ledger.observe(DECEMBER_US, told)
    after = export(ledger)
    check_all(after)
    assert after[: len(before)] == before
    assert of_books(after) == [
        (50, "computed", None, 10), (-50, "computed", "Correction", -10), (60, "breakdown", "Correction", 11),
    ]  # fmt: skip
    assert {row["x_RecordedAt"] for row in after[1:]} == {datetime(2026, 12, 10, tzinfo=UTC)}
    assert {row["BillingPeriodStart"].month for row in after} == {10}  # in UTC, Berlin's November begins in October


def test_a_first_figure_that_came_after_the_month_corrects_nothing(ledger: Ledger) -> None:
    uuid = spend(ledger)
    ledger.observe(DECEMBER_US, Observation(uuid, (("i:0", charge(Line("prompt", "TEXT", 10, 50))),)))
    assert of_books(export(ledger)) == [(50, "breakdown", None, 10)]


def test_an_operator_s_word_is_an_adjustment_until_the_truth_comes(ledger: Ledger) -> None:
    uuid = spend(ledger)
    ledger.correct(NOW_US + HOUR_US, uuid, 44, "told by telephone")
    (row,) = export(ledger)
    check(row)
    assert (row["ChargeCategory"], row["x_Basis"], row["BilledCost"]) == ("Adjustment", "correction", 44 * NANO)
    ledger.observe(DECEMBER_US, Observation(uuid, (("i:0", charge(Line("prompt", "TEXT", 10, 50))),)))
    assert of_books(export(ledger)) == [
        (44, "correction", None, None), (-44, "correction", "Correction", None), (50, "breakdown", "Correction", 10),
    ]  # fmt: skip


def test_what_is_held_is_not_in_it_and_is_told_apart(ledger: Ledger) -> None:
    spend(ledger)
    spend(ledger, at_us=NOW_US + 1, project="other")
    spend(ledger, a_charge(9))
    span = month_of(ledger).span
    assert total(export(ledger)) == 9
    assert ledger.held_in(span) == (2, 2 * 10**9)
    assert ledger.held_in(span, "acme") == (1, 10**9)
    assert ledger.held_in(month_of(ledger, "2026-10").span) == (0, 0)


def test_a_project_goes_by_its_present_name(ledger: Ledger) -> None:
    spend(ledger, a_charge(9), project="acme/search")
    spend(ledger, a_charge(5), project="acme")
    ledger.call_project("acme/search", "shop/find", NOW_US)
    assert {row["x_Project"] for row in export(ledger)} == {"shop/find", "acme"}
    assert (total(export(ledger, project="shop")), total(export(ledger, project="acme"))) == (9, 5)


# -- how it is read -----------------------------------------------------------------------------


@pytest.mark.parametrize("page", [1, 2, 3, 100])
def test_pages_lose_nothing_and_tell_nothing_twice(ledger: Ledger, page: int) -> None:
    for n in range(9):
        spend(ledger, *([] if n == 4 else [a_charge(1), a_charge(2)]), at_us=NOW_US + n // 5 * HOUR_US)
    span = month_of(ledger).span
    assert [one.id for one in ledger.charged(span, page=page)] == [1, 2, 3, 4, 6, 7, 8, 9]
    assert sum(len(one.charges) for one in ledger.charged(span, page=page)) == 16


def test_what_is_written_while_it_is_read_is_not_in_it(ledger: Ledger) -> None:
    uuids = [spend(ledger, a_charge(100), at_us=NOW_US + n) for n in range(4)]
    spend(ledger, a_charge(1), project="old")
    expected = booked(ledger)
    reading = ledger.charged(month_of(ledger).span, page=1)
    found = [next(reading)]
    ledger.observe(NOW_US + 9, Observation(uuids[0], (("i:0 s:0", a_charge(900)),)))
    ledger.observe(NOW_US + 9, Observation(uuids[3], (("i:0 s:0", a_charge(900)),)))
    spend(ledger, a_charge(77), at_us=NOW_US + 8)
    ledger.call_project("old", "new", NOW_US)
    found += reading
    assert sum(one.nanos for attempt in found for one in attempt.charges) == expected
    assert "old" in {attempt.project for attempt in found}
    assert total(export(ledger)) == booked(ledger) > expected


def test_no_more_than_a_page_is_kept_in_mind(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(30):
        spend(ledger, a_charge(9), at_us=NOW_US + n * HOUR_US)
    looked_at: list[int] = []
    original = files.SqliteTx.all

    def all_(self: files.SqliteTx, sql: str, parameters: Any = ()) -> Any:
        found = original(self, sql, parameters)
        if "LEFT JOIN entries" in sql:
            looked_at.append(len(found))
        return found

    monkeypatch.setattr(files.SqliteTx, "all", all_)
    monkeypatch.setattr(charged.Charged.charged, "__kwdefaults__", {"page": 5})
    month = month_of(ledger)
    reading = rows(ledger.charged(month.span), month, "task", Catalogue(BOOK))
    next(reading)
    assert sum(looked_at) <= 6
    assert len(list(reading)) == 59
    assert max(looked_at) <= 5


def test_an_attempt_is_of_the_day_that_it_was_booked_on_even_if_the_zone_s_rules_cut_it_otherwise_now(
    ledger: Ledger,
) -> None:
    spend(ledger, a_charge(9))
    span = month_of(ledger).span
    elsewhere = Span(span.timezone, span.start_us, NOW_US - HOUR_US, span.days)
    assert [one.id for one in ledger.charged(elsewhere)] == [1]


# -- the files ----------------------------------------------------------------------------------


def as_csv(found: list[Row]) -> str:
    file = io.BytesIO()
    assert focus_files.write_csv(found, file) == len(found)
    return file.getvalue().decode()


def test_hostile_names_stay_text_in_their_cells_and_in_json(ledger: Ledger) -> None:
    names = [name for name in HOSTILE if name.strip() and name.isprintable()]
    for n, name in enumerate(names):
        spend(
            ledger, a_charge(3), at_us=NOW_US + n, tags=json.dumps({name: name, "=x": "\n\u2028\"'"}), model=name[:200]
        )
    found = list(csv.DictReader(io.StringIO(as_csv(export(ledger)), newline="")))
    assert len(found) == 2 * len(names)
    for n, row in enumerate(found):
        assert json.loads(row["Tags"]) == {names[n // 2]: names[n // 2], "=x": "\n\u2028\"'"}
        assert row["ResourceId"] in (names[n // 2], f"'{names[n // 2]}")
        for name, kind in COLUMNS.items():
            assert kind != "text" or not row[name].startswith(tuple("=+-@\t\r\n＝＋－＠"))


def test_csv_writes_nulls_as_nothing_moments_with_a_z_and_amounts_with_a_point(ledger: Ledger) -> None:
    spend(ledger, charge(Line("prompt", "TEXT", 10_000_000, 500_000_000), Line("rounding", "", None, -1)))
    (prompt, rounding) = csv.DictReader(io.StringIO(as_csv(export(ledger))))
    assert prompt["ChargePeriodStart"] == "2026-11-22T12:00:00Z"
    assert prompt["BillingPeriodStart"] == "2026-10-31T23:00:00Z"
    assert (prompt["BilledCost"], prompt["PricingQuantity"], prompt["ConsumedQuantity"]) == (
        "0.5",
        "10.0",
        "10000000.0",
    )
    assert (prompt["InvoiceId"], prompt["ChargeClass"], prompt["Tags"]) == ("", "", "")
    assert (rounding["BilledCost"], rounding["ConsumedQuantity"]) == ("-0.000000001", "")


def test_parquet_says_the_same_in_exact_types(ledger: Ledger) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    spend(ledger, computed(PRO, {"TEXT": 300_001, "IMAGE": 77}, 12_345), model=PRO, tags='{"a": "\u2028"}')
    spend(ledger, charge(Line("rounding", "", None, -1)), at_us=NOW_US + 1)
    found = export(ledger)
    file = io.BytesIO()
    assert focus_files.write_parquet(found, file) == len(found)
    table = parquet.read_table(io.BytesIO(file.getvalue()))
    assert table.to_pylist() == [dict(row) for row in found]
    types = {"text": pa.string(), "amount": pa.decimal128(38, 15), "count": pa.int64()}
    types["moment"] = pa.timestamp("us", tz="UTC")
    assert {name: table.schema.field(name).type for name in COLUMNS} == {
        name: types[kind] for name, kind in COLUMNS.items()
    }


def test_a_month_without_charges_is_a_file_with_its_columns(ledger: Ledger) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert as_csv(export(ledger)) == ",".join(COLUMNS) + "\n"
    file = io.BytesIO()
    assert focus_files.write_parquet([], file) == 0
    assert parquet.read_table(io.BytesIO(file.getvalue())).column_names == list(COLUMNS)


def test_columns_of_our_own_come_last_and_are_named_so() -> None:
    own = [name.startswith("x_") for name in COLUMNS]
    assert own == sorted(own)
    assert sum(own) == 10


def test_parquet_without_its_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigurationError, match=r"runware-costguard\[parquet\]"):
        focus_files.write_parquet([], io.BytesIO())
