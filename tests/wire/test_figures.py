"""What a provider tells of one result: read exactly, merged over any tellings, doubted where it does not add up."""

from __future__ import annotations

import copy
import decimal
import itertools
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wires import IMAGE, PUBLISHED, VIDEO, exactly, read, response, same

from costguard.ledger.charges import Line
from costguard.wire.dialect import Figures
from costguard.wire.runware.figures import Told
from costguard.wire.runware.tellings import number

PROMPT = {"modalities": [{"modality": "TEXT", "tokens": 10, "cost": Decimal("0.01")}]}
COMPLETION = {"billableTokens": 5, "cost": Decimal("0.02")}


def broken_down(**more: Any) -> Figures:
    """The figures of a breakdown with these groups of tokens; `features` and `total` stand beside them."""
    beside = {key: more.pop(key) for key in ("features", "total") if key in more}
    usage = more.pop("usage", {})
    return Told(None, {**usage, "costBreakdown": {"tokens": more, **beside}}).read()


# --- what counts as a number ---


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.000300", "0.0003"), ("1e-7", "0.0000001"), ("74", "74"), ("0", "0"), ("-0.5", "-0.5"), ("1E+2", "100"),
        ("007", "7"), ("0.10", "0.1"),
    ],
)  # fmt: skip
def test_a_text_that_is_exactly_a_decimal_number_is_one(text: str, value: str) -> None:
    assert number(text) == Decimal(value)
    if Decimal(value) >= 0:
        assert same(Told(text).read()) == same(Told(Decimal(value)).read())


@pytest.mark.parametrize(
    "text",
    [
        "", " ", " 1", "1 ", "1,5", "1_0", "0x1", "NaN", "nan", "Infinity", "+1", ".5", "5.", "1e", "e5", "--1",
        "1.2.3", "$1", "1 USD", "1\n", "\u0661", "\uff11", "\u00b2", "1" * 31, "1e1000", "true", "one",
    ],
)  # fmt: skip
def test_any_other_text_is_not(text: str) -> None:
    assert number(text) is None
    found = Told(text, {"promptTokens": text, "costBreakdown": {"total": text}}).read()
    assert (found.cost, found.total, found.prompt_tokens, found.odd) == (None, None, None, True)


@given(st.decimals(0, 1000, places=9), st.integers(0, 10**9))
def test_a_figure_is_the_same_as_number_and_as_text(amount: Decimal, count: int) -> None:
    def told(cost: Any, tokens: Any) -> Figures:
        leaf = {"modality": "TEXT", "tokens": tokens, "cost": cost}
        usage = {"promptTokens": tokens, "completionTokens": tokens, "cost": cost}
        tree = {"tokens": {"prompt": {"modalities": [leaf]}}, "features": {"search": {"count": tokens, "cost": cost}}}
        return Told(cost, {**usage, "costBreakdown": {**tree, "total": cost}}).read()

    plain = told(amount, count)
    assert plain.cost == plain.total == int(amount * 10**9)
    assert plain.prompt_tokens == count
    assert plain.prompt == (Line("prompt", "TEXT", count, int(amount * 10**9)),)
    for as_text in (str(amount), f"{amount:f}", f"{amount:e}"):
        assert same(told(as_text, str(count))) == same(plain)


@pytest.mark.parametrize("bad", ["-1", "-0.000001", "NaN", "Infinity", "-Infinity", "1000000.01", "1e999999"])
def test_an_unusable_figure_is_none_and_odd_and_leaves_the_others(bad: str) -> None:
    found = Told(Decimal(bad), {"costBreakdown": {"total": Decimal("0.5")}}).read()
    assert (found.cost, found.total, found.odd) == (None, 500_000_000, True)
    found = Told(Decimal("0.5"), {"cost": Decimal(bad), "costBreakdown": {"total": Decimal(bad)}}).read()
    assert (found.cost, found.total, found.odd) == (500_000_000, None, True)
    found = Told(None, {"cost": Decimal(bad), "promptTokens": Decimal(bad), "completionTokens": 3}).read()
    assert (found.cost, found.prompt_tokens, found.completion_tokens, found.odd) == (None, None, 3, True)


# --- where a figure may stand ---


def test_a_cost_within_the_usage_is_one_and_of_two_the_larger_holds() -> None:
    assert Told(None, {"cost": Decimal("0.3")}).read().cost == 300_000_000
    assert Told(Decimal("0.2"), {"cost": Decimal("0.3")}).read().cost == 300_000_000
    assert Told(Decimal("0.3"), {"cost": Decimal("0.2")}).read().cost == 300_000_000
    assert not Told(Decimal("0.3"), {"cost": Decimal("0.2")}).read().odd


def test_a_breakdown_beside_the_usage_is_the_usages() -> None:
    usage = dict(IMAGE.usage)
    breakdown = usage.pop("costBreakdown")
    within = {"taskUUID": "u", "cost": IMAGE.cost}
    for item in (
        {**within, "usage": usage, "costBreakdown": breakdown},
        {**within, "usage": None, "costBreakdown": breakdown},
        {**within, "usage": {**usage, "costBreakdown": None}, "costBreakdown": breakdown},
    ):
        (found,) = read(exactly({"data": [item]}).encode()).items
        assert found.told.read().total == IMAGE.read().total
        assert found.told.read().prompt == IMAGE.read().prompt


def test_a_breakdown_without_a_total_is_added_up() -> None:
    found = broken_down(
        prompt=PROMPT, completion=COMPLETION, features={"search": {"count": 1, "cost": Decimal("0.04")}}
    )
    assert (found.total, found.odd) == (70_000_000, False)
    assert found.notes


@pytest.mark.parametrize("told", [IMAGE, VIDEO])
def test_the_published_breakdowns_add_up_without_their_total(told: Told) -> None:
    usage = copy.deepcopy(told.usage)
    del usage["costBreakdown"]["total"]
    found = Told(told.cost, usage).read()
    assert same(found) == same(told.read())


@pytest.mark.parametrize(
    "figures",
    [
        broken_down(prompt=PROMPT),
        broken_down(completion=COMPLETION),
        broken_down(prompt=PROMPT, usage={"completionTokens": 5}),
        broken_down(completion=COMPLETION, usage={"promptTokens": 10}),
        broken_down(features={"search": {"count": 1, "cost": Decimal("0.04")}}),
        broken_down(),
        broken_down(prompt={"modalities": [{"modality": "TEXT", "tokens": 10}]}, completion=COMPLETION),
        broken_down(prompt=PROMPT, completion=COMPLETION, total=Decimal(-1)),
    ],
)
def test_a_breakdown_with_a_leaf_missing_is_not_added_up(figures: Figures) -> None:
    assert figures.total is None


def test_the_absent_leaf_of_no_tokens_is_not_missing() -> None:
    assert broken_down(prompt=PROMPT, usage={"completionTokens": 0}).total == 10_000_000
    assert broken_down(completion=COMPLETION, usage={"promptTokens": 0}).total == 20_000_000


@pytest.mark.parametrize("count", [10, None])
def test_a_cost_told_of_the_group_alone_is_one_line(count: int | None) -> None:
    leaves = [{"modality": "TEXT", "tokens": 4}, {"modality": "IMAGE", "tokens": 6}]
    group = {"cost": Decimal("0.01"), "billableTokens": count}
    found = broken_down(prompt={**group, "modalities": leaves}, completion=COMPLETION)
    assert found.prompt == (Line("prompt", "", count, 10_000_000),)
    assert (found.total, found.odd) == (30_000_000, False)
    single = broken_down(prompt={**group, "modalities": leaves[:1]}, completion=COMPLETION, total=Decimal("0.03"))
    assert single.prompt == (Line("prompt", "TEXT", count, 10_000_000),)


def test_a_cost_of_the_group_never_stands_in_for_one_leaf_among_others() -> None:
    leaves = [{"modality": "TEXT", "tokens": 4, "cost": Decimal("0.01")}, {"modality": "IMAGE", "tokens": 6}]
    found = broken_down(prompt={"cost": Decimal("0.03"), "modalities": leaves}, total=Decimal("0.03"))
    assert (found.rest, found.total, found.odd) == (None, 30_000_000, True)


# --- tokens that their parts do not explain ---


@pytest.mark.parametrize("item", PUBLISHED)
def test_no_published_result_is_odd(item: dict[str, Any]) -> None:
    (one,) = read(exactly({"data": [item]}).encode()).items
    found = one.told.read()
    assert (found.odd, found.notes) == (False, ())
    assert found.cost == int(item["cost"] * 10**9)


@pytest.mark.parametrize(
    ("total", "is_odd"),
    [(30, False), (35, False), (37, False), (42, False), (31, True), (29, True), (47, True), (0, True), (None, False)],
)
def test_a_total_is_explained_by_prompt_completion_reasoning_and_cache(total: int | None, *, is_odd: bool) -> None:
    usage = {
        "promptTokens": 10,
        "completionTokens": 20,
        "totalTokens": total,
        "promptTokensDetails": {"cachedTokens": 7},
        "costBreakdown": {"tokens": {"completion": {"billableTokens": 20, "cost": 1}}, "total": 1},
        "thinkingTokens": 5,
    }
    found = Told(None, usage).read()
    assert found.odd is is_odd
    assert found.total == 10**9, "odd or not, the bill is the bill"


def test_a_total_of_text_counts_is_explained_too() -> None:
    usage = {"promptTokens": "10", "completionTokens": "20", "totalTokens": "30"}
    assert not Told(1, usage).read().odd
    assert Told(1, {**usage, "totalTokens": "31"}).read().odd


@pytest.mark.parametrize(
    ("stated", "cached", "is_odd"),
    [(10, 0, False), (10, 4, False), (14, 4, False), (6, 4, False), (11, 4, True), (9, 0, True)],
)
def test_a_prompt_is_explained_by_its_modalities_and_the_cache(stated: int, cached: int, *, is_odd: bool) -> None:
    usage = {"promptTokens": stated, "promptTokensDetails": {"cachedTokens": cached}}
    assert broken_down(prompt=PROMPT, total=1, usage=usage).odd is is_odd


@pytest.mark.parametrize(("text", "reasoning", "is_odd"), [(2, 3, False), (5, 0, False), (5, 3, True), (1, 3, True)])
def test_a_completion_is_explained_by_text_and_reasoning(text: int, reasoning: int, *, is_odd: bool) -> None:
    for write in (int, str):
        completion = {**COMPLETION, "textTokens": write(text), "reasoningTokens": write(reasoning)}
        assert broken_down(completion=completion, total=1).odd is is_odd


@pytest.mark.parametrize(
    "lone", [{"textTokens": 2}, {"reasoningTokens": 3}, {"textTokens": None, "reasoningTokens": 3}]
)
def test_one_part_alone_explains_nothing_and_is_not_odd(lone: dict[str, Any]) -> None:
    assert not broken_down(completion={**COMPLETION, **lone}, total=1).odd


# --- merging ---

amounts = st.decimals(0, 10, places=6)
counts = st.integers(0, 10**6)
MODALITIES = ("TEXT", "IMAGE", "AUDIO", "VIDEO")


@st.composite
def bills(draw: st.DrawFn) -> Told:
    """The bill of one result: some of its figures, or all."""
    leaves = [
        {"modality": name, "tokens": draw(counts), "cost": draw(amounts)}
        for name in draw(st.lists(st.sampled_from(MODALITIES), min_size=1, unique=True))
    ]
    breakdown = {
        "tokens": {
            "prompt": {"modalities": leaves, "cost": draw(amounts), "billableTokens": draw(counts)},
            "cache": {"billableTokens": draw(counts), "cost": draw(amounts)},
            "completion": {"billableTokens": draw(counts), "cost": draw(amounts), "reasoningTokens": draw(counts)},
        },
        "features": {name: {"count": draw(counts), "cost": draw(amounts)} for name in ("search", "maps")},
        "total": draw(amounts),
        "totalDisplay": "0.001217",
    }
    usage = {
        "promptTokens": draw(counts),
        "completionTokens": draw(counts),
        "totalTokens": draw(counts),
        "completionTokensDetails": {"reasoningTokens": draw(counts)},
        "promptTokensDetails": {"cachedTokens": draw(counts)},
        "cost": draw(amounts),
        "costBreakdown": breakdown,
    }
    kept = draw(st.sets(st.sampled_from(sorted(usage)), min_size=1))
    return Told(draw(st.none() | amounts), {key: usage[key] for key in kept})


def paths(node: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every plain value of a bill stands."""
    if isinstance(node, dict):
        return [path for key, value in node.items() for path in paths(value, (*at, key))]
    if isinstance(node, list):
        return [path for index, value in enumerate(node) for path in paths(value, (*at, index))]
    return [at]


def telling(node: Any, said: set[tuple[Any, ...]], change: Any, at: tuple[Any, ...] = ()) -> Any:
    """A bill with the values at `said` alone, through `change`; a leaf keeps its name, an empty object goes."""
    if isinstance(node, dict):
        kept = {key: telling(value, said, change, (*at, key)) for key, value in node.items()}
        kept = {key: value for key, value in kept.items() if value is not None}
        if set(kept) <= {"modality"}:
            return None
        return kept
    if isinstance(node, list):
        return [
            entry for index, value in enumerate(node) if (entry := telling(value, said, change, (*at, index)))
        ] or None
    if at[-1] == "modality":
        return node
    return change(node) if at in said else None


def smaller(value: Any) -> Any:
    """What a frame in the middle may say of a figure that grows."""
    return value // 2 if isinstance(value, (int, Decimal)) else value


def zero(value: Any) -> Any:
    return 0 if isinstance(value, (int, Decimal)) else value


def as_text(value: Any) -> Any:
    return str(value) if isinstance(value, (int, Decimal)) else value


CHANGES = (lambda value: value, smaller, zero, as_text)


@st.composite
def tellings(draw: st.DrawFn) -> tuple[Told, list[Told]]:
    """A bill, and a list of tellings that say all of it between them, and further ones that say less."""
    bill = draw(bills())
    whole = bill._asdict()
    every = paths(whole)
    owners = {path: draw(st.integers(0, 3)) for path in every}
    told = []
    for part in range(4):
        said = {path for path, owner in owners.items() if owner == part}
        told.append(telling(whole, said, draw(st.sampled_from([CHANGES[0], as_text]))))
    for _ in range(draw(st.integers(0, 4))):
        said = set(draw(st.lists(st.sampled_from(every), max_size=len(every))))
        told.append(telling(whole, said, draw(st.sampled_from(CHANGES))))
    parts = [Told((part or {}).get("cost"), (part or {}).get("usage")) for part in told]
    return bill, draw(st.permutations(parts))


def merged(parts: list[Told]) -> Told:
    found = Told()
    for part in parts:
        found = found.merged(part)
    return found


@given(tellings())
def test_tellings_of_one_bill_in_any_order_and_any_split_give_the_bill(told: tuple[Told, list[Told]]) -> None:
    bill, parts = told
    assert same(merged(parts).read()) == same(bill.read())


@given(tellings(), st.integers(0, 8))
def test_in_any_grouping_too(told: tuple[Told, list[Told]], cut: int) -> None:
    bill, parts = told
    assert same(merged(parts[:cut]).merged(merged(parts[cut:])).read()) == same(bill.read())


@given(bills(), bills())
def test_merging_once_more_changes_nothing(one: Told, other: Told) -> None:
    assert one.merged(one) == one
    both = one.merged(other)
    assert both.merged(one) == both.merged(other) == both.merged(both) == both


@given(bills(), bills())
def test_no_figure_ever_falls(one: Told, other: Told) -> None:
    both = one.merged(other).read()
    for figures in (one.read(), other.read()):
        assert (both.cost or 0) >= (figures.cost or 0)
        if figures.total is not None and not figures.notes:
            assert both.total is not None
            assert both.total >= figures.total
        for field in ("prompt_tokens", "cached_tokens", "total_tokens"):
            told, before = getattr(both, field), getattr(figures, field)
            assert before is None or told is not None


NOTHINGS: list[Any] = [None, {}, [], 0, "", False, {"costBreakdown": None}, {"costBreakdown": 0}, {"costBreakdown": {}}]


@pytest.mark.parametrize("nothing", NOTHINGS)
@pytest.mark.parametrize("cost", [None, 0, Decimal(0), "0", Decimal("NaN"), Decimal(-1), "", {}, [], False])
def test_what_says_nothing_takes_nothing_away_before_or_after(nothing: Any, cost: Any) -> None:
    for bill, empty in itertools.product((IMAGE, VIDEO), (Told(cost, nothing),)):
        assert same(bill.merged(empty).read()) == same(bill.read())
        assert same(empty.merged(bill).read()) == same(bill.read())


@pytest.mark.parametrize(
    "later", [Decimal("0.1"), 0, "0", "0.1", None, Decimal("NaN"), Decimal("-5"), Decimal("Infinity"), Decimal(10**12)]
)
def test_a_cumulative_figure_never_falls_and_no_absurd_one_takes_its_place(later: Any) -> None:
    known = Decimal("0.5")
    assert Told(known).merged(Told(later)).read().cost == 500_000_000
    assert Told(later).merged(Told(known)).read().cost == 500_000_000
    assert Told(None, {"cost": known}).merged(Told(None, {"cost": later})).read().cost == 500_000_000
    assert Told(None, {"cost": later}).merged(Told(None, {"cost": known})).read().cost == 500_000_000


def test_usage_split_over_frames_is_one_usage() -> None:
    frames = [
        Told(None, {"promptTokens": 1138}),
        Told(None, {"completionTokens": 216, "totalTokens": 1354, "completionTokensDetails": {"reasoningTokens": 209}}),
        Told(None, {"costBreakdown": IMAGE.usage["costBreakdown"]}),
        Told(IMAGE.cost),
    ]
    for order in itertools.permutations(frames):
        assert same(merged(list(order)).read()) == same(IMAGE.read())


def test_leaves_of_a_modality_are_told_apart_by_name_and_the_nth_goes_with_the_nth() -> None:
    def leaves(*told: tuple[str, dict[str, Any]]) -> Told:
        modalities = [{"modality": name, **leaf} for name, leaf in told]
        return Told(None, {"costBreakdown": {"tokens": {"prompt": {"modalities": modalities}}, "total": 1}})

    counted = leaves(("TEXT", {"tokens": 4}), ("image", {"tokens": 6}), ("TEXT", {"tokens": 8}))
    priced = leaves(("IMAGE", {"cost": 1}), ("text", {"cost": 2}), ("TEXT", {"cost": 3}))
    for found in (counted.merged(priced).read(), priced.merged(counted).read()):
        assert set(found.prompt) == {Line("prompt", "TEXT", 12, 5 * 10**9), Line("prompt", "IMAGE", 6, 10**9)}


# --- raw figures ---


def test_raw_figures_are_canonical() -> None:
    a = Told(Decimal("0.10"), {"b": 1, "a": Decimal("2.0"), "c": [None, True, Decimal("NaN")]})
    b = Told(Decimal("0.1"), {"a": 2, "b": Decimal("1.00"), "c": [None, True, Decimal("NaN")]})
    assert a.raw() == b.raw() == '{"cost":0.1,"usage":{"a":2,"b":1,"c":[null,true,NaN]}}'
    assert a.read().raw() == a.raw()


def test_raw_figures_keep_no_long_text_and_no_depth() -> None:
    deep: Any = 1
    for _ in range(5000):
        deep = [deep]
    raw = Told("an answer " * 50, {"x": deep, "\ud800" * 99: 1}).raw()
    assert raw.isascii()
    assert len(raw) < 500


def test_no_text_of_an_answer_can_hide_in_a_figure() -> None:
    told = Told("the harbour", {"it is grey": "wet and cold", "costBreakdown": {"total": "at dawn"}})
    assert not {"harbour", "grey", "wet", "dawn"} & set(told.raw().replace('"', " ").split())


def test_a_figure_read_from_a_response_keeps_every_digit() -> None:
    (item,) = read(b'{"data":[{"taskUUID":"u","cost":0.1234567890123456789}]}').items
    assert item.told.cost == Decimal("0.1234567890123456789")
    assert response({"taskUUID": "u", "cost": 1}).items[0].told == Told(1)


# --- nothing raises ---

absurd = st.sampled_from(
    [Decimal(text) for text in ("Infinity", "-Infinity", "NaN", "9e999999", "-9e999999", "1e-999999", "1.23456789")]
    + ["9e999", "1e-999", "NaN", 10**4000, -1, True]
)


@pytest.mark.parametrize("precision", [1, 28])
@given(values=st.lists(absurd, min_size=9, max_size=9))
def test_no_absurd_number_raises_whatever_the_callers_own_decimal_settings(precision: int, values: list[Any]) -> None:
    billed, text, reasoning, prompt, completion, total, cached, cost, leaf = values
    usage = {
        "promptTokens": prompt,
        "completionTokens": completion,
        "totalTokens": total,
        "promptTokensDetails": {"cachedTokens": cached},
        "thinkingTokens": reasoning,
        "cost": cost,
        "costBreakdown": {
            "tokens": {
                "prompt": {"modalities": [{"modality": "TEXT", "tokens": prompt, "cost": leaf}]},
                "completion": {
                    "billableTokens": billed,
                    "textTokens": text,
                    "reasoningTokens": reasoning,
                    "cost": leaf,
                },
            }
        },
    }
    one = Told(cost, usage)
    with decimal.localcontext() as context:
        context.prec = precision
        context.traps[decimal.Inexact] = precision == 1
        context.traps[decimal.FloatOperation] = True
        for told in (one, one.merged(one), one.merged(IMAGE), IMAGE.merged(one)):
            found = told.read()
            assert found.cost is None or 0 <= found.cost <= 10**15
        assert IMAGE.merged(one).read().total == IMAGE.read().total


def test_parts_that_are_no_counts_explain_nothing() -> None:
    completion = {**COMPLETION, "textTokens": Decimal("Infinity"), "reasoningTokens": Decimal("-Infinity")}
    assert broken_down(completion=completion, total=1).total == 10**9
