"""What other prices would have made of a period: exact, charge by charge, and nothing is left out unsaid."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledgers import NOW_US, hold, open_ledger
from recordings import PRICES, a_record, an_item, import_text, lines

from costguard.ledger.accounting.book import Ledger
from costguard.ledger.records import Doubt
from costguard.prices.book import PriceBook
from costguard.reports import periods
from costguard.reports.document import Table
from costguard.reports.reprice import BY_HAND, NO_PRICE, NO_USAGE, document, reprice

NOVEMBER = periods.month("2026-11")
PRO = "google:gemini@3.1-pro"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = open_ledger(tmp_path / "ledger.db")
    yield ledger
    ledger.close()


def chat(name: str, prompt: int, completion: int, model: str = "google:gemini@3-flash", **usage: Any) -> dict[str, Any]:
    told = {"prompt_tokens": prompt, "completion_tokens": completion, **usage}
    return {"at": a_record()["at"], "id": name, "model": model, "usage": told}


def repriced(ledger: Ledger, prices: PriceBook = PRICES) -> Any:
    return reprice(ledger.charged(NOVEMBER.span("UTC")), prices, NOW_US)


def dearer(tmp_path: Path) -> PriceBook:
    """The shipped prices, but Flash at twice what it is."""
    (flash,) = [model for model in PRICES.models() if model.model == "google:gemini@3-flash"]
    folder = tmp_path / "prices"
    folder.mkdir()
    rate = re.compile(r'(\b(?:TEXT|IMAGE|VIDEO|AUDIO|completion)\s*=\s*)"([0-9.]+)"')
    text = rate.sub(lambda found: f'{found[1]}"{Decimal(found[2]) * 2}"', flash.file.read_text(encoding="utf-8"))
    (folder / "flash.toml").write_text(text, encoding="utf-8")
    return PriceBook.load(folder)


def test_the_same_prices_give_what_was_computed_and_twice_the_price_twice_as_much(
    ledger: Ledger, tmp_path: Path
) -> None:
    import_text(ledger, lines([chat("a", 1000, 100), chat("b", 7, 3, cost="0.5")]))
    (same,), why = repriced(ledger)
    computed = 1000 * 500 + 100 * 3000 + 7 * 500 + 3 * 3000
    assert (same.charged, same.computed, same.left, why) == (800_000 + 500_000_000, computed, 0, {})
    (twice,), _ = repriced(ledger, dearer(tmp_path))
    assert twice.computed == 2 * computed
    assert repriced(ledger) == ([same], why), "and nothing was changed by it"


def test_the_tier_is_that_of_each_request_and_not_of_their_sum(ledger: Ledger) -> None:
    import_text(ledger, lines([chat(name, 150_000, 10, PRO) for name in "ab"] + [chat("c", 200_001, 10, PRO)]))
    (row,), _ = repriced(ledger)
    assert row.computed == 2 * (150_000 * 2000 + 10 * 12_000) + 200_001 * 4000 + 10 * 18_000
    assert row.computed == row.charged


def test_cached_tokens_are_priced_as_such_by_the_breakdown_that_was_booked(ledger: Ledger) -> None:
    tokens = {
        "prompt": {"modalities": [{"modality": "TEXT", "tokens": 1000, "cost": "0.0005"}]},
        "cache": {"modalities": [{"modality": "TEXT", "tokens": 400, "cost": "0.0002"}]},
        "completion": {"billableTokens": 100, "cost": "0.0003"},
    }
    usage = {"promptTokens": 1000, "costBreakdown": {"tokens": tokens, "total": "0.0008"}}
    import_text(ledger, lines([a_record(an_item("a", "0.0008", usage=usage))]))
    (row,), _ = repriced(ledger)
    price = PRICES.cost("google:gemini@3-flash", prompt={"TEXT": 1000}, completion=100, cached={"TEXT": 400})
    assert row.computed == price.nanos


def test_what_cannot_be_priced_is_counted_with_its_reason_and_never_taken_as_free(ledger: Ledger) -> None:
    import_text(ledger, lines([a_record(an_item("a", "0.5")), {**a_record(an_item("b", "0.25")), "model": "acme:x@1"}]))
    (attempt,) = hold(ledger, 10)
    ledger.conclude(NOW_US, [Doubt(attempt, "timeout")])
    ledger.correct(NOW_US, ledger.attempts(ledger.tasks()[-1].task_uuid)[0].task_uuid, 7, "seen on the invoice")
    rows, why = repriced(ledger)
    assert why == {NO_USAGE: 1, NO_PRICE: 1, BY_HAND: 1}
    assert sum(row.left_nanos for row in rows) == 750_000_007
    assert sum(row.computed for row in rows) == 0


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.integers(1, 10**6), st.integers(0, 10**5), st.sampled_from([None, "0.5", "0.000001"])), max_size=6
    )
)
def test_what_is_compared_and_what_is_not_sum_to_the_period(told: list[tuple[int, int, str | None]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ledger = open_ledger(Path(folder, "ledger.db"))
        records = [chat(str(n), prompt, made, cost=cost) for n, (prompt, made, cost) in enumerate(told)]
        # A second telling takes the place of some: these must not count twice.
        import_text(ledger, lines(records))
        better = [chat(str(n), prompt, made, cost="0.75") for n, (prompt, made, _) in enumerate(told)]
        import_text(ledger, lines(better))
        rows, _ = repriced(ledger)
        total = sum(row.nanos for row in ledger.usage(("day",), "2026-11-01", "2026-12-01"))
        assert sum(row.charged + row.left_nanos for row in rows) == total
        ledger.close()


def test_the_document_sums_and_says_that_nothing_was_changed(ledger: Ledger) -> None:
    import_text(ledger, lines([chat("a", 1000, 100), a_record(an_item("b", "0.5"))]))
    found = document(NOVEMBER, None, "UTC", NOW_US, repriced(ledger))
    assert found.record["charged"] == Decimal("0.0008")
    (table,) = [part for part in found.parts if isinstance(part, Table)]
    for key in ("charged", "computed", "difference"):
        assert len({row[key].as_tuple().exponent for row in (*table.rows, table.total or {})}) == 1
    assert found.record["computed"] == Decimal("0.0008")
    assert found.record["difference"] == 0
    assert (found.record["left_out"], found.record["left_out_charged"]) == (1, Decimal("0.5"))
    assert any("Nothing was changed" in part for part in found.parts if isinstance(part, str))
    assert document(NOVEMBER, None, "UTC", NOW_US, ([], {})).parts == ["Nothing was charged in 2026-11."]
