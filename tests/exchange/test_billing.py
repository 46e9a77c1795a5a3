"""What a provider's figures are charged as, line by line."""

from __future__ import annotations

import copy
import decimal
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wires import IMAGE, VIDEO

from costguard.exchange.charging import RAW_CHARS_MAX, charge_each
from costguard.ledger.charges import Charge, Line
from costguard.money import to_text
from costguard.prices.price import FeatureFee, Price, Tier
from costguard.wire.dialect import Figures
from costguard.wire.runware.figures import Told

M = 10**6
"""Nano-dollars in 0.001 USD."""

RATES = {"TEXT": 500 * M, "IMAGE": 500 * M, "VIDEO": 500 * M, "AUDIO": 1000 * M}
FLASH = Price(
    id="flash/2025",
    effective_us=0,
    checked="2025-12-17",
    source="https://runware.ai/docs/models/google-gemini-3-flash",
    note="",
    tiers=(
        Tier(0, RATES, {"TEXT": 50 * M}, 3000 * M),
        Tier(200_000, {name: 2 * rate for name, rate in RATES.items()}, {}, 6000 * M),
    ),
    features={"search": FeatureFee(14 * M, 10)},
)


def told(cost: Any = None, usage: Any = None) -> Figures:
    """What the native wire's `cost` and `usage` of one result come to."""
    return Told(cost, usage).read()


def usd(text: str) -> int:
    return int(Decimal(text) * 10**9)


def charge(
    figures: Figures,
    *,
    price: Price | None = None,
    prompt_expected: dict[str, int] | None = None,
    expected_nanos: int | None = None,
) -> Charge:
    (found,) = charges(figures, price=price, prompt_expected=prompt_expected, expected_nanos=expected_nanos)
    return found


def charges(
    *items: Figures,
    price: Price | None = None,
    prompt_expected: dict[str, int] | None = None,
    expected_nanos: int | None = None,
) -> list[Charge]:
    found = charge_each(items, price=price, prompt_expected=prompt_expected, expected_nanos=expected_nanos)
    assert len(found) == len(items)
    for one in found:
        assert sum(line.nanos for line in one.lines) == one.nanos
    return found


def breakdown(
    total: Any,
    *,
    prompt: Any = None,
    cache: Any = None,
    completion: Any = None,
    features: Any = None,
    cost: Any = None,
    **usage: Any,
) -> Figures:
    """Figures with a breakdown; amounts as text are Decimals."""

    def exact(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: exact(value) for key, value in node.items()}
        if isinstance(node, list):
            return [exact(entry) for entry in node]
        return Decimal(node) if isinstance(node, str) and (node[:1].isdigit() or node == "NaN") else node

    tokens = {"prompt": prompt, "cache": cache, "completion": completion}
    found = {"tokens": {name: node for name, node in tokens.items() if node is not None}, "total": total}
    if features is not None:
        found["features"] = features
    return told(exact(cost), exact({**usage, "costBreakdown": found}))


def by_modality(**leaves: tuple[int, str]) -> dict[str, Any]:
    return {"modalities": [{"modality": m, "tokens": n, "cost": c} for m, (n, c) in leaves.items()]}


# --- the published breakdowns ---


def test_the_published_image_breakdown_is_charged_to_the_last_digit() -> None:
    found = charge(told(Decimal("0.00122"), IMAGE.usage), price=FLASH)
    assert to_text(found.nanos) == "0.001217"
    assert found.basis == "breakdown"
    assert found.lines == (
        Line("prompt", "TEXT", 74, 37_000),
        Line("prompt", "IMAGE", 1064, 532_000),
        Line("completion", "", 216, 648_000),
    )
    assert (found.cost_nanos, found.total_nanos, found.computed_nanos) == (1_220_000, 1_217_000, 1_217_000)
    assert found.price_id == "flash/2025"
    assert (found.prompt_tokens, found.completion_tokens, found.reasoning_tokens) == (1138, 216, 209)
    assert (found.cached_tokens, found.cache_reading) == (0, None)
    assert (found.odd, found.notes, found.raw, found.results) == (False, (), None, 1)


def test_the_published_video_breakdown_is_charged_to_the_last_digit() -> None:
    found = charge(told(Decimal("0.00308"), VIDEO.usage), price=FLASH)
    assert to_text(found.nanos) == "0.003083"
    assert found.lines == (
        Line("prompt", "AUDIO", 152, 152_000),
        Line("prompt", "TEXT", 108, 54_000),
        Line("prompt", "VIDEO", 384, 192_000),
        Line("completion", "", 895, 2_685_000),
    )
    assert (found.computed_nanos, found.odd) == (3_083_000, False)


# --- which figure is charged ---


def test_cost_alone_is_charged_as_one_unitemized_line() -> None:
    found = charge(told(Decimal("0.0025"), {"totalTokens": 90}))
    assert (found.basis, found.nanos, found.odd) == ("cost", usd("0.0025"), False)
    assert found.lines == (Line("unitemized", "", 90, usd("0.0025")),)


def test_unitemized_counts_prompt_and_completion_where_no_total_is_stated() -> None:
    assert charge(told(1, {"promptTokens": 7, "completionTokens": 2})).lines[0].quantity == 9
    assert charge(told(1)).lines[0].quantity is None


def test_a_cost_of_zero_is_a_figure() -> None:
    found = charge(told(0), expected_nanos=5)
    assert (found.basis, found.nanos, found.lines) == ("cost", 0, ())


def test_usage_without_a_figure_is_charged_at_the_price_list_and_says_so() -> None:
    usage = copy.deepcopy(IMAGE.usage)
    del usage["costBreakdown"]
    found = charge(told(None, usage), price=FLASH, prompt_expected={"TEXT": 74, "IMAGE": 1120})
    assert (found.basis, found.nanos) == ("computed", 1_217_000)
    assert found.lines == (
        Line("prompt", "TEXT", 74, 37_000),
        Line("prompt", "IMAGE", 1064, 532_000),
        Line("completion", "", 216, 648_000),
    )
    assert found.notes
    assert not found.odd


def test_usage_takes_the_modalities_of_a_breakdown_that_lacks_its_total_and_a_leaf() -> None:
    usage = copy.deepcopy(VIDEO.usage)
    del usage["costBreakdown"]["total"], usage["costBreakdown"]["tokens"]["completion"]
    found = charge(told(None, usage), price=FLASH, prompt_expected={"TEXT": 1})
    assert (found.basis, found.nanos) == ("computed", 3_083_000)


def test_a_breakdown_without_a_total_is_charged_at_the_sum_of_its_leaves() -> None:
    usage = copy.deepcopy(VIDEO.usage)
    del usage["costBreakdown"]["total"]
    found = charge(told(VIDEO.cost, usage), price=FLASH)
    assert (found.basis, found.nanos, found.lines) == ("breakdown", 3_083_000, charge(VIDEO.read(), price=FLASH).lines)
    assert found.notes
    assert not found.odd


def test_a_cost_as_text_or_within_the_usage_is_charged() -> None:
    for figures in (told("0.000300"), told(None, {"cost": Decimal("0.0003")}), told("0.0002", {"cost": "3e-4"})):
        found = charge(figures, expected_nanos=9)
        assert (found.basis, found.nanos, found.odd) == ("cost", 300_000, False)


def test_the_rest_of_a_prompt_goes_to_the_dearest_of_several_media() -> None:
    figures = told(None, {"promptTokens": 1000, "completionTokens": 0})
    found = charge(figures, price=FLASH, prompt_expected={"TEXT": 100, "VIDEO": 500, "AUDIO": 200})
    assert found.lines == (Line("prompt", "TEXT", 100, 50_000), Line("prompt", "AUDIO", 900, 900_000))


def test_text_never_takes_more_than_the_prompt() -> None:
    figures = told(None, {"promptTokens": 60, "completionTokens": 0})
    found = charge(figures, price=FLASH, prompt_expected={"TEXT": 100, "AUDIO": 200})
    assert found.lines == (Line("prompt", "TEXT", 60, 30_000),)


@pytest.mark.parametrize("expected", [None, {}, {"TEXT": 5}, {"TEXT": 5, "IMAGE": 0}])
def test_a_prompt_without_media_is_all_text(expected: dict[str, int] | None) -> None:
    figures = told(None, {"promptTokens": 60, "completionTokens": 10})
    found = charge(figures, price=FLASH, prompt_expected=expected)
    assert found.lines == (Line("prompt", "TEXT", 60, 30_000), Line("completion", "", 10, 30_000))


def test_cached_tokens_of_usage_get_the_cached_rate_as_a_part_of_the_prompt() -> None:
    usage = {"promptTokens": 60, "completionTokens": 0, "promptTokensDetails": {"cachedTokens": 20}}
    found = charge(told(None, usage), price=FLASH)
    assert found.lines == (Line("prompt", "TEXT", 40, 20_000), Line("cache", "TEXT", 20, 1_000))
    assert found.cached_tokens == 20
    assert any("cached" in note for note in found.notes)


def test_an_absent_cached_rate_is_said_in_the_charge() -> None:
    usage = {"promptTokens": 300_000, "completionTokens": 0, "promptTokensDetails": {"cachedTokens": 20}}
    found = charge(told(None, usage), price=FLASH)
    assert any("full input rate" in note for note in found.notes)


def test_nothing_said_is_charged_as_expected_and_says_so() -> None:
    found = charge(told(), expected_nanos=777)
    assert (found.basis, found.nanos, found.computed_nanos) == ("assumed", 777, None)
    assert found.lines == (Line("unitemized", "", None, 777),)
    assert found.notes


@pytest.mark.parametrize(
    "usage",
    [
        {"promptTokens": 10},
        {"completionTokens": 10},
        {"promptTokens": 0, "completionTokens": 0},
        {"promptTokens": -4, "completionTokens": 4},
    ],
)
def test_usage_that_lacks_a_count_is_not_priced(usage: dict[str, int]) -> None:
    assert charge(told(None, usage), price=FLASH, expected_nanos=777).basis == "assumed"


def test_usage_with_an_unpriced_modality_is_charged_as_expected() -> None:
    usage = {"promptTokens": 10, "completionTokens": 4}
    found = charge(told(None, usage), price=FLASH, prompt_expected={"SMELL": 9}, expected_nanos=777)
    assert found.basis == "assumed"


def test_unknown_is_never_zero() -> None:
    nothing = told(None, {"promptTokens": 10})
    assert charge_each([nothing, nothing], price=FLASH, prompt_expected=None, expected_nanos=None) == []
    assert charge_each([], price=FLASH, prompt_expected=None, expected_nanos=5) == []


@pytest.mark.parametrize("bad", ["-1", "-0.000001", "NaN", "Infinity", "1000000.01", "1e999999"])
def test_an_absurd_total_goes_to_cost_and_is_kept_and_marked(bad: str) -> None:
    found = charge(breakdown(Decimal(bad), cost="0.5"))
    assert (found.basis, found.nanos, found.total_nanos, found.odd) == ("cost", usd("0.5"), None, True)
    assert found.raw is not None
    assert f'"total":{Decimal(bad)}' in found.raw or f'"total":{bad}' in found.raw
    assert "costBreakdown.total is unusable" in found.notes


@pytest.mark.parametrize("bad", [True, False, " 0.5", "0,5", [], {}, 0.5, -1, 10**7, 10**4000])
def test_a_cost_that_is_no_amount_is_not_charged(bad: Any) -> None:
    found = charge(told(bad), expected_nanos=9)
    assert (found.basis, found.nanos, found.cost_nanos, found.odd) == ("assumed", 9, None, True)
    assert found.raw is not None
    assert len(found.raw) <= RAW_CHARS_MAX


def test_the_largest_amount_accepted_is_a_million_dollars() -> None:
    assert charge(told(1_000_000)).nanos == 10**15


def test_cost_may_differ_from_total_by_its_own_rounding() -> None:
    found = charge(breakdown("0.001217", cost="0.001222"))
    assert (found.nanos, found.odd) == (1_217_000, False)
    assert found.cost_nanos == 1_222_000


def test_a_larger_cost_is_charged_and_its_excess_is_a_line() -> None:
    found = charge(breakdown("0.001217", cost="0.001223", completion={"billableTokens": 1, "cost": "0.001217"}))
    assert (found.nanos, found.basis, found.odd) == (1_223_000, "breakdown", True)
    assert found.lines == (
        Line("completion", "", 1, 1_217_000),
        Line("unexplained", "", None, 6_000),
    )


def test_a_larger_total_is_charged_and_marked() -> None:
    found = charge(breakdown("0.001217", cost="0.001"))
    assert (found.nanos, found.odd) == (1_217_000, True)
    assert found.raw is not None


# --- lines ---


def test_rounding_of_the_provider_is_a_line_of_its_own() -> None:
    completion = {"billableTokens": 3, "cost": "0.000003"}
    found = charge(breakdown("0.000005", prompt=by_modality(TEXT=(1, "0.000001")), completion=completion))
    assert found.lines[-1] == Line("rounding", "", None, 1_000)
    assert not found.odd


def test_every_leaf_may_be_a_micro_dollar_off() -> None:
    completion = {"billableTokens": 3, "cost": "0.000003"}
    found = charge(breakdown("0.000006", prompt=by_modality(TEXT=(1, "0.000001")), completion=completion))
    assert (found.lines[-1], found.odd) == (Line("rounding", "", None, 2_000), False)


def test_rounding_may_be_negative() -> None:
    found = charge(breakdown("0.000001", completion={"billableTokens": 3, "cost": "0.000002"}))
    assert found.lines == (Line("completion", "", 3, 2_000), Line("rounding", "", None, -1_000))


def test_beyond_a_micro_dollar_a_leaf_it_is_unexplained_and_odd() -> None:
    found = charge(breakdown("0.000004", completion={"billableTokens": 3, "cost": "0.000002"}))
    assert found.lines == (Line("completion", "", 3, 2_000), Line("unexplained", "", None, 2_000))
    assert found.odd
    assert found.raw is not None


def test_finer_figures_round_half_even_and_the_difference_is_rounding() -> None:
    prompt = by_modality(TEXT=(1, "0.0000000005"), IMAGE=(1, "0.0000000015"))
    found = charge(breakdown("0.000000002", prompt=prompt))
    assert found.lines == (
        Line("prompt", "TEXT", 1, 0),
        Line("prompt", "IMAGE", 1, 2),
    )
    found = charge(breakdown("0.000000003", prompt=prompt))
    assert found.lines[-1] == Line("rounding", "", None, 1)


def test_a_breakdown_of_nothing_but_a_total_is_unitemized() -> None:
    found = charge(breakdown("0.04"))
    assert found.lines == (Line("unitemized", "", None, usd("0.04")),)
    assert (found.basis, found.odd) == ("breakdown", False)


def test_a_prompt_without_modalities_is_one_line() -> None:
    found = charge(breakdown("0.01", prompt={"billableTokens": 12, "cost": "0.01"}))
    assert found.lines == (Line("prompt", "", 12, usd("0.01")),)


def test_a_prompt_line_without_a_count_takes_the_usages() -> None:
    found = charge(breakdown("0.01", prompt={"cost": "0.01"}, promptTokens=44))
    assert found.lines == (Line("prompt", "", 44, usd("0.01")),)


def test_a_completion_without_a_count_takes_the_usages() -> None:
    found = charge(breakdown("0.01", completion={"cost": "0.01"}, completionTokens=44))
    assert found.lines == (Line("completion", "", 44, usd("0.01")),)


def test_the_same_modality_twice_is_one_line() -> None:
    prompt = {"modalities": [{"modality": m, "tokens": 2, "cost": "0.01"} for m in ("TEXT", "text")]}
    found = charge(breakdown("0.02", prompt=prompt))
    assert found.lines == (Line("prompt", "TEXT", 4, usd("0.02")),)


def test_features_that_cost_or_count_are_lines_unknown_ones_too() -> None:
    features = {
        "search": {"count": 2, "cost": "0.028"},
        "maps": {"count": 0, "cost": 0},
        "telepathy": {"count": 1, "cost": 0},
        "later": None,
    }
    found = charge(breakdown("0.028", features=features))
    assert found.lines == (
        Line("feature:search", "", 2, usd("0.028")),
        Line("feature:telepathy", "", 1, 0),
    )
    assert not found.odd


@pytest.mark.parametrize(
    "prompt",
    [
        by_modality(TEXT=(1, "0.01"), IMAGE=(1, "NaN")) | {"cost": "0.01"},
        {"modalities": [{"modality": "TEXT", "tokens": 1, "cost": Decimal("-0.01")}]},
        {"modalities": [{"modality": "TEXT", "tokens": 1, "cost": "abc"}]},
        {"modalities": [{"modality": "TEXT", "tokens": 1}]},
        {"modalities": [{"modality": 5, "tokens": 1, "cost": "0.01"}]},
        {"modalities": [{"modality": "TE\nXT", "tokens": 1, "cost": "0.01"}]},
        {"modalities": ["TEXT"]},
        {"modalities": "TEXT"},
        ["TEXT"],
        7,
    ],
)
def test_an_unusable_leaf_makes_the_charge_unitemized_and_odd(prompt: Any) -> None:
    figures = breakdown("0.03", prompt=prompt, completion={"billableTokens": 3, "cost": "0.02"})
    found = charge(figures)
    assert (found.nanos, found.basis, found.odd) == (usd("0.03"), "breakdown", True)
    assert found.lines == (Line("unitemized", "", None, usd("0.03")),)
    assert found.raw is not None


def test_a_count_that_is_none_is_unknown_and_odd_but_its_cost_is_a_line() -> None:
    found = charge(breakdown("0.01", completion={"billableTokens": -5, "cost": "0.01"}))
    assert found.lines == (Line("completion", "", None, usd("0.01")),)
    assert found.odd


def test_a_count_written_as_a_decimal_is_a_count() -> None:
    found = charge(told(1, {"promptTokens": Decimal("74.0"), "completionTokens": Decimal("1.5")}))
    assert (found.prompt_tokens, found.completion_tokens, found.odd) == (74, None, True)


# --- cache ---

COMPLETION = {"billableTokens": 5, "cost": "0.015"}


def test_a_cache_outside_the_prompt_is_a_line_beside_it() -> None:
    found = charge(
        breakdown(
            "0.12",
            prompt=by_modality(TEXT=(1000, "0.1")),
            cache={"billableTokens": 500, "cost": "0.005"},
            completion=COMPLETION,
        )
    )
    assert (found.cache_reading, found.cached_tokens, found.odd) == ("outside", 500, False)
    assert found.lines == (
        Line("prompt", "TEXT", 1000, usd("0.1")),
        Line("cache", "TEXT", 500, usd("0.005")),
        Line("completion", "", 5, usd("0.015")),
    )


def test_a_cache_inside_the_prompt_counts_neither_cost_nor_tokens_twice() -> None:
    found = charge(
        breakdown(
            "0.115",
            prompt=by_modality(TEXT=(1000, "0.1")),
            cache={"billableTokens": 500, "cost": "0.005"},
            completion=COMPLETION,
        )
    )
    assert (found.cache_reading, found.cached_tokens, found.odd) == ("inside", 500, False)
    assert found.lines == (
        Line("prompt", "TEXT", 500, usd("0.095")),
        Line("cache", "TEXT", 500, usd("0.005")),
        Line("completion", "", 5, usd("0.015")),
    )


def test_a_cache_by_modality_is_taken_out_of_each() -> None:
    found = charge(
        breakdown(
            "0.3",
            prompt=by_modality(TEXT=(100, "0.1"), IMAGE=(200, "0.2")),
            cache=by_modality(IMAGE=(50, "0.01"), TEXT=(10, "0.001")),
        )
    )
    assert found.cache_reading == "inside"
    assert found.cached_tokens == 60
    assert found.lines == (
        Line("prompt", "TEXT", 90, usd("0.099")),
        Line("prompt", "IMAGE", 150, usd("0.19")),
        Line("cache", "IMAGE", 50, usd("0.01")),
        Line("cache", "TEXT", 10, usd("0.001")),
    )


@pytest.mark.parametrize(
    ("prompt", "cache"),
    [
        (by_modality(TEXT=(100, "0.1"), IMAGE=(200, "0.2")), {"billableTokens": 50, "cost": "0.01"}),
        (by_modality(TEXT=(300, "0.3")), by_modality(AUDIO=(50, "0.01"))),
        (by_modality(TEXT=(30, "0.3")), by_modality(TEXT=(50, "0.01"))),
        (by_modality(TEXT=(300, "0.005"), IMAGE=(1, "0.295")), by_modality(TEXT=(50, "0.01"))),
    ],
)
def test_a_cache_that_cannot_be_taken_out_leaves_the_prompt_lines(prompt: Any, cache: Any) -> None:
    found = charge(breakdown("0.3", prompt=prompt, cache=cache))
    assert (found.cache_reading, found.cached_tokens, found.odd) == ("inside", 50, False)
    assert {line.component for line in found.lines} == {"prompt"}
    assert found.notes


def test_a_free_cache_is_read_by_the_counts() -> None:
    prompt, cache = by_modality(TEXT=(1000, "0.1")), {"billableTokens": 400, "cost": 0}
    inside = charge(breakdown("0.1", prompt=prompt, cache=cache, promptTokens=1000))
    assert inside.cache_reading == "inside"
    assert inside.lines[:2] == (Line("prompt", "TEXT", 600, usd("0.1")), Line("cache", "TEXT", 400, 0))
    outside = charge(breakdown("0.1", prompt=prompt, cache=cache, promptTokens=1400))
    assert outside.cache_reading == "outside"
    assert outside.lines[:2] == (Line("prompt", "TEXT", 1000, usd("0.1")), Line("cache", "TEXT", 400, 0))


def test_a_free_cache_larger_than_the_prompt_is_outside_it() -> None:
    cache = {"billableTokens": 4000, "cost": 0}
    found = charge(breakdown("0.1", prompt=by_modality(TEXT=(1000, "0.1")), cache=cache))
    assert found.cache_reading == "outside"
    assert found.lines == (Line("prompt", "TEXT", 1000, usd("0.1")), Line("cache", "TEXT", 4000, 0))


def test_a_cache_that_fits_neither_reading_has_none_and_is_odd() -> None:
    found = charge(
        breakdown("0.5", prompt=by_modality(TEXT=(100, "0.1")), cache={"billableTokens": 50, "cost": "0.01"})
    )
    assert (found.cache_reading, found.odd) == (None, True)
    assert found.lines[-1].component == "unexplained"


@pytest.mark.parametrize(("total", "computed"), [("0.115", 500 * 500 + 500 * 50), ("0.12", 1000 * 500 + 500 * 50)])
def test_our_own_price_follows_the_cache_reading(total: str, computed: int) -> None:
    figures = breakdown(
        total,
        prompt=by_modality(TEXT=(1000, "0.1")),
        cache={"billableTokens": 500, "cost": "0.005"},
        completion=COMPLETION,
    )
    assert charge(figures, price=FLASH).computed_nanos == computed + 5 * 3000


# --- our own price beside ---


def test_our_own_price_stands_beside_a_bare_cost() -> None:
    usage = {"promptTokens": 100, "completionTokens": 10}
    found = charge(told(Decimal("0.5"), usage), price=FLASH)
    assert (found.basis, found.computed_nanos, found.price_id) == ("cost", 80_000, "flash/2025")


def test_the_tier_is_each_results_own() -> None:
    usage = {"promptTokens": 150_000, "completionTokens": 0}
    found = charges(told(1, usage), told(1, usage), price=FLASH)
    assert [one.computed_nanos for one in found] == [150_000 * 500] * 2
    above = {"promptTokens": 200_001, "completionTokens": 0}
    assert charge(told(1, above), price=FLASH).computed_nanos == 200_001 * 1000


def test_features_are_priced_too_and_without_a_fee_nothing_is() -> None:
    usage = {"promptTokens": 100, "completionTokens": 10}
    priced = breakdown("0.02808", features={"search": {"count": 2, "cost": "0.028"}}, **usage)
    assert charge(priced, price=FLASH).computed_nanos == 80_000 + 28 * M
    unpriced = breakdown("0.02808", features={"maps": {"count": 2, "cost": "0.028"}}, **usage)
    assert charge(unpriced, price=FLASH).computed_nanos is None
    uncounted = breakdown("0.02808", features={"search": {"cost": "0.028"}}, **usage)
    assert charge(uncounted, price=FLASH).computed_nanos is None


# --- reasoning ---


def test_reasoning_is_a_part_of_the_completion_in_either_spelling() -> None:
    usage = {"promptTokens": 1, "completionTokens": 216, "totalTokens": 217, "thinkingTokens": 209}
    found = charge(told(1, usage))
    assert (found.completion_tokens, found.reasoning_tokens) == (216, 209)


@pytest.mark.parametrize("total", [226, None])
def test_reasoning_beside_the_completion_is_seen_by_the_counts(total: int | None) -> None:
    usage = {"promptTokens": 10, "completionTokens": 7, "totalTokens": total, "thinkingTokens": 209}
    assert charge(told(1, usage)).completion_tokens == 216
    usage = {"promptTokens": 10, "completionTokens": 209, "totalTokens": 226, "thinkingTokens": 7}
    assert charge(told(1, usage)).completion_tokens == 216


# --- several results ---


def test_each_result_gets_a_charge_of_its_own_and_their_sum_is_what_was_billed() -> None:
    whole = breakdown("0.03", prompt=by_modality(TEXT=(10, "0.01")), completion={"billableTokens": 5, "cost": "0.02"})
    found = charges(whole, whole, told(Decimal("0.005")))
    assert sum(one.nanos for one in found) == usd("0.065")
    assert [(one.nanos, one.basis, one.results) for one in found] == [
        (usd("0.03"), "breakdown", 1),
        (usd("0.03"), "breakdown", 1),
        (usd("0.005"), "cost", 1),
    ]
    itemized = (Line("prompt", "TEXT", 10, usd("0.01")), Line("completion", "", 5, usd("0.02")))
    unitemized = (Line("unitemized", "", None, usd("0.005")),)
    assert [one.lines for one in found] == [itemized, itemized, unitemized]
    assert [(one.cost_nanos, one.total_nanos) for one in found] == [
        (None, usd("0.03")),
        (None, usd("0.03")),
        (usd("0.005"), None),
    ]


def test_each_silent_result_is_charged_at_the_expectation_of_one() -> None:
    found = charges(told(), told(Decimal("0.5")), told(), expected_nanos=100)
    assert [(one.basis, one.nanos) for one in found] == [("assumed", 100), ("cost", usd("0.5")), ("assumed", 100)]


def test_without_an_expectation_a_silent_result_costs_what_its_dearest_sibling_did() -> None:
    found = charges(told(2), told(), told(1))
    assert [(one.basis, one.nanos) for one in found] == [
        ("cost", 2 * 10**9),
        ("assumed", 2 * 10**9),
        ("cost", 10**9),
    ]
    assert [any("sibling" in note for note in one.notes) for one in found] == [False, True, False]


def test_only_odd_results_are_kept_raw() -> None:
    found = charges(told(1), told(True), expected_nanos=1)
    assert [(one.odd, one.raw) for one in found] == [(False, None), (True, '[{"cost":true,"usage":null}]')]


# --- promises, whatever comes ---

numbers = (
    st.integers(-5, 5)
    | st.integers()
    | st.decimals(allow_nan=True, allow_infinity=True)
    | st.decimals(0, 1, places=7)
    | st.sampled_from([Decimal("1e999999"), Decimal("1e-999999"), Decimal("-0"), Decimal("1000000.1")])
)
leaves = st.none() | st.booleans() | numbers | st.text(max_size=8) | st.floats()
junk = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
expected_prompts = st.none() | st.dictionaries(
    st.sampled_from(["TEXT", "IMAGE", "AUDIO", "SMELL"]), st.integers(0, 300_000), max_size=3
)


@st.composite
def mutated(draw: st.DrawFn) -> Told:
    """Published figures with some nodes replaced, removed or added."""
    figures = {
        "cost": draw(st.sampled_from([Decimal("0.00122"), Decimal("0.00308"), None])),
        "usage": copy.deepcopy(draw(st.sampled_from([IMAGE.usage, VIDEO.usage]))),
    }
    for _ in range(draw(st.integers(0, 4))):
        node: Any = figures
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            child = node[key]
            if not isinstance(child, (dict, list)) or draw(st.integers(0, 5)) == 0:
                change = draw(st.sampled_from(["junk", "number", "copy", "remove"]))
                if change == "remove":
                    del node[key]
                elif change == "copy":
                    node[key] = copy.deepcopy(figures.get("usage"))
                else:
                    node[key] = draw(junk if change == "junk" else numbers)
                break
            node = child
    return Told(figures.get("cost"), figures.get("usage"))


any_told = mutated() | st.builds(Told, junk, junk | st.builds(lambda b: {"costBreakdown": b}, junk))


@given(
    st.lists(any_told.map(Told.read), max_size=4),
    st.sampled_from([None, FLASH]),
    expected_prompts,
    st.none() | st.integers(0, 10**12),
)
def test_lines_always_add_up_and_nothing_raises(
    items: list[Figures], price: Price | None, expected: dict[str, int] | None, expected_nanos: int | None
) -> None:
    charged = charge_each(items, price=price, prompt_expected=expected, expected_nanos=expected_nanos)
    if not charged:
        assert not items or expected_nanos is None
        return
    assert len(charged) == len(items)
    for found in charged:
        assert found.nanos >= 0
        assert sum(line.nanos for line in found.lines) == found.nanos
        assert len({line[:2] for line in found.lines}) == len(found.lines)
        for line in found.lines:
            assert line.nanos or line.quantity
            assert line.quantity is None or line.quantity >= 0
            assert line.nanos >= 0 or line.component in ("rounding", "unexplained")
            assert line.component.isprintable()
            assert line.modality.isprintable()
        assert found.odd == (found.raw is not None)
        assert found.raw is None or (found.raw.isascii() and len(found.raw) <= RAW_CHARS_MAX)
        assert found.results == 1


@given(mutated())
def test_a_usable_total_is_never_undercut(telling: Told) -> None:
    usage = telling.usage if isinstance(telling.usage, dict) else {}
    stated = usage.get("costBreakdown")
    total = stated.get("total") if isinstance(stated, dict) else None
    charged = charge_each([telling.read()], price=None, prompt_expected=None, expected_nanos=None)
    if isinstance(total, Decimal) and total.is_finite() and 0 <= total <= 1_000_000:
        (found,) = charged
        assert found.basis == "breakdown"
        assert found.nanos >= round(total, 9) * 10**9 - 1


@pytest.mark.parametrize("precision", [1, 3])
def test_the_callers_own_decimal_settings_change_nothing(precision: int) -> None:
    with decimal.localcontext() as context:
        context.prec = precision
        context.traps[decimal.Inexact] = True
        context.traps[decimal.FloatOperation] = True
        found = charge(told(Decimal("0.00122"), IMAGE.usage), price=FLASH)
        absurd = charge(told(Decimal("-1.23456"), {"promptTokens": Decimal("74.5")}), expected_nanos=1)
    assert (found.nanos, found.odd) == (1_217_000, False)
    assert absurd.raw == '[{"cost":-1.23456,"usage":{"promptTokens":74.5}}]'
