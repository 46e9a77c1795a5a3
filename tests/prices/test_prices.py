"""Prices: what a cost comes to, line by line, and what a price file must say."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path

import genai_prices
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from costguard.errors import ConfigurationError, PriceFileError
from costguard.modalities import KINDS, MODALITIES
from costguard.outputs import Output
from costguard.prices import price as prices_module
from costguard.prices.book import PriceBook
from costguard.prices.files import shipped_folder
from costguard.prices.model import ModelPrices
from costguard.prices.price import COUNT_MAX, Price, PricedCost, Tier

PRO = "google:gemini@3.1-pro"
FLASH = "google:gemini@3-flash"
NOW = datetime(2026, 11, 22, tzinfo=UTC)

GOOD = """\
model = "acme:writer@1"
aliases = ["acme-writer-1"]
name = "Acme Writer"
task_type = "textInference"
tokenizer = "none"
context_tokens = 1000

[completion]
default = 100
max = 200

[media]
image_expected = 90
image_upper = 100
frame_expected = 6
frame_upper = 7
audio_per_s = 25
document_page = 50

[[prices]]
from = 2026-01-01
checked = 2026-01-02
source = "https://acme.example/pricing"

[[prices.tiers]]
above_prompt_tokens = 0
prompt = { TEXT = "2", IMAGE = "3", AUDIO = "4", VIDEO = "5" }
cached = { TEXT = "0.2", IMAGE = "0.3" }
completion = "12"

[[prices.tiers]]
above_prompt_tokens = 500
prompt = { TEXT = "4", IMAGE = "6", AUDIO = "8", VIDEO = "10" }
completion = "18"

[prices.features.search]
fee = "0.014"
max_per_request = 10

[[prices]]
from = 2026-06-01T12:00:00+02:00
checked = 2026-05-30
source = "https://acme.example/pricing-june"
note = "Half price."

[[prices.tiers]]
above_prompt_tokens = 0
prompt = { TEXT = "1" }
completion = "6"
"""

counts = st.integers(min_value=0, max_value=2_000_000)


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return PriceBook.load()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write `text` with replacements as a price file of the folder `tmp_path`."""

    def write_file(*changes: tuple[str, str], name: str = "acme.toml", text: str = GOOD) -> Path:
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        return file

    return write_file


@pytest.fixture
def acme(write: Callable[..., Path], tmp_path: Path) -> ModelPrices:
    write()
    found = PriceBook.load(tmp_path).find("acme:writer@1")
    assert found is not None
    return found


def rows(cost: PricedCost) -> list[tuple[str, str, int, str]]:
    return [(line.component, line.modality, line.quantity, f"{line.cost:.9f}") for line in cost.lines]


def usd(rate: str) -> int:
    """A rate in USD per 1M tokens, in nano-USD."""
    return int(Decimal(rate).scaleb(9))


def price(*tiers: Tier) -> Price:
    """An entry with these tiers and nothing else."""
    return Price("test/2026-01-01", 0, "2026-01-01", "test", "", tiers, {})


# --- the published breakdowns ---------------------------------------------------------------------------


def test_first_published_breakdown_is_reproduced_line_by_line(book: PriceBook) -> None:
    cost = book.cost(FLASH, prompt={"TEXT": 74, "IMAGE": 1064}, completion=216, at=NOW)
    assert rows(cost) == [
        ("prompt", "TEXT", 74, "0.000037000"),
        ("prompt", "IMAGE", 1064, "0.000532000"),
        ("completion", "", 216, "0.000648000"),
    ]
    assert cost.total == Decimal("0.001217")
    assert cost.nanos == 1_217_000
    assert cost.price_id == "google:gemini@3-flash/2025-12-17"
    assert cost.notes == ()


def test_second_published_breakdown_is_reproduced_line_by_line(book: PriceBook) -> None:
    cost = book.cost(FLASH, prompt={"AUDIO": 152, "TEXT": 108, "VIDEO": 384}, completion=895, at=NOW)
    assert rows(cost) == [
        ("prompt", "AUDIO", 152, "0.000152000"),
        ("prompt", "TEXT", 108, "0.000054000"),
        ("prompt", "VIDEO", 384, "0.000192000"),
        ("completion", "", 895, "0.002685000"),
    ]
    assert cost.total == Decimal("0.003083")


def test_shipped_files_say_what_the_model_pages_say(book: PriceBook) -> None:
    assert [prices.model for prices in book.models()] == [FLASH, PRO]
    pro, flash = book.find("google-gemini-3-1-pro"), book.find("google-gemini-3-flash")
    assert pro is not None
    assert flash is not None
    assert pro is book.find(PRO)
    assert flash is book.find(FLASH)
    assert (pro.completion_default, pro.completion_max) == (4096, 128_000)
    assert (flash.completion_default, flash.completion_max) == (4096, 65_536)
    assert flash.at(NOW).note
    for prices in (pro, flash):
        assert (prices.task_type, prices.tokenizer, prices.context_tokens) == (
            "textInference",
            "gemma4",
            1_048_576,
        )
        assert prices.media.counts == {
            "image_expected": 1064,
            "image_upper": 1120,
            "frame_expected": 64,
            "frame_upper": 70,
            "audio_per_s": 25,
            "document_page": 560,
        }
        assert prices.media.flags == {"image_grid": True}
        assert prices.at(NOW).fee("search") is None
        assert all(not tier.cached for tier in prices.at(NOW).tiers)
        assert prices.file.name == f"{prices.aliases[0]}.toml"
    assert pro.at(NOW).id == "google:gemini@3.1-pro/2026-02-19"


def test_find_minds_the_case_and_knows_nothing_else(book: PriceBook) -> None:
    assert book.find("google:gemini@3.1-Pro") is None
    assert book.find("") is None


# --- tiers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "total"),
    [(199_999, "0.495998"), (200_000, "0.496"), (200_001, "0.944004")],
)
def test_tier_switches_the_whole_request_strictly_above_the_threshold(book: PriceBook, tokens: int, total: str) -> None:
    cost = book.cost(PRO, prompt={"TEXT": tokens}, completion=8000, at=NOW)
    assert cost.total == Decimal(total)
    usage = genai_prices.Usage(input_tokens=tokens, output_tokens=8000)
    oracle = genai_prices.calc_price(usage, "gemini-3.1-pro-preview", provider_id="google")
    assert cost.total == oracle.total_price


def test_tier_is_decided_by_all_modalities_and_cached_tokens_included(book: PriceBook) -> None:
    below = book.cost(PRO, prompt={"TEXT": 100_000, "IMAGE": 100_000}, cached=90_000, at=NOW)
    above = book.cost(PRO, prompt={"TEXT": 100_000, "IMAGE": 100_001}, cached=90_000, at=NOW)
    assert below.total == Decimal("0.4")
    assert above.total == Decimal("0.800004")


@given(text=counts, image=counts, audio=counts, completion=counts)
def test_costs_equal_those_of_genai_prices(book: PriceBook, text: int, image: int, audio: int, completion: int) -> None:
    prompt = {"TEXT": text, "IMAGE": image, "AUDIO": audio}
    for ours, theirs in ((PRO, "gemini-3.1-pro-preview"), (FLASH, "gemini-3-flash-preview")):
        usage = genai_prices.Usage(
            input_tokens=text + image + audio, input_audio_tokens=audio, output_tokens=completion
        )
        oracle = genai_prices.calc_price(usage, theirs, provider_id="google")
        cost = book.cost(ours, prompt=prompt, completion=completion, at=NOW)
        assert cost.total == oracle.total_price
        assert sum(line.nanos for line in cost.lines) == cost.nanos


@given(data=st.data(), text=counts, audio=counts, completion=counts)
def test_cached_costs_equal_those_of_genai_prices(data: st.DataObject, text: int, audio: int, completion: int) -> None:
    text_hits = data.draw(st.integers(0, text))
    audio_hits = data.draw(st.integers(0, audio))
    usage = genai_prices.Usage(
        input_tokens=text + audio,
        input_audio_tokens=audio,
        cache_read_tokens=text_hits + audio_hits,
        cache_audio_read_tokens=audio_hits,
        output_tokens=completion,
    )
    oracle = genai_prices.calc_price(usage, "gemini-3-flash-preview", provider_id="google")
    cost = price(
        Tier(0, {"TEXT": usd("0.5"), "AUDIO": usd("1")}, {"TEXT": usd("0.05"), "AUDIO": usd("0.1")}, usd("3"))
    ).cost({"TEXT": text, "AUDIO": audio}, completion, {"TEXT": text_hits, "AUDIO": audio_hits})
    assert Decimal(cost.nanos).scaleb(-9) == oracle.total_price
    assert cost.notes == ()


# --- cached tokens --------------------------------------------------------------------------------------


def test_cached_tokens_without_a_rate_cost_the_full_input_rate_and_the_cost_says_so(book: PriceBook) -> None:
    cost = book.cost(PRO, prompt={"TEXT": 1000}, cached=400, at=NOW)
    assert rows(cost) == [("prompt", "TEXT", 600, "0.001200000"), ("cache", "TEXT", 400, "0.000800000")]
    assert len(cost.notes) == 1
    assert "cached TEXT at the full input rate" in cost.notes[0]
    assert cost.price_id in cost.notes[0]


def test_a_plain_number_of_cached_tokens_is_taken_from_text_first_then_alphabetically(
    acme: ModelPrices,
) -> None:
    cost = acme.prices[0].cost({"VIDEO": 10, "IMAGE": 10, "AUDIO": 10, "TEXT": 10}, cached=25)
    assert [(line.modality, line.quantity) for line in cost.lines if line.component == "cache"] == [
        ("TEXT", 10),
        ("AUDIO", 10),
        ("IMAGE", 5),
    ]
    assert [(line.modality, line.quantity) for line in cost.lines if line.component == "prompt"] == [
        ("VIDEO", 10),
        ("IMAGE", 5),
    ]


def test_cached_tokens_by_modality_take_their_own_rates(acme: ModelPrices) -> None:
    cost = acme.prices[0].cost({"TEXT": 100, "IMAGE": 100, "AUDIO": 7}, cached={"IMAGE": 100, "TEXT": 0})
    assert [(line.component, line.modality, line.quantity, line.nanos) for line in cost.lines] == [
        ("prompt", "TEXT", 100, 200_000),
        ("prompt", "AUDIO", 7, 28_000),
        ("cache", "IMAGE", 100, 30_000),
    ]


# --- features, documents, rounding ----------------------------------------------------------------------


def test_features_cost_their_fee_a_use_and_unused_ones_nothing(acme: ModelPrices) -> None:
    cost = acme.prices[0].cost({"TEXT": 1}, features={"search": 3, "maps": 0})
    assert cost.lines[-1] == ("feature:search", "", 3, 42_000_000)
    assert acme.prices[0].fee("search") == (14_000_000, 10)
    assert acme.prices[0].fee("maps") is None


def test_a_feature_without_a_fee_is_refused_as_unpriced(book: PriceBook) -> None:
    with pytest.raises(ConfigurationError, match=r"features\['search'\]: unpriced.*fees known: none"):
        book.cost(PRO, prompt={"TEXT": 1}, features={"search": 1}, at=NOW)


def test_documents_are_priced_as_images_unless_the_file_says_otherwise(
    book: PriceBook, write: Callable[..., Path], tmp_path: Path
) -> None:
    assert rows(book.cost(FLASH, prompt={"DOCUMENT": 560}, at=NOW)) == [("prompt", "DOCUMENT", 560, "0.000280000")]
    write()
    assert PriceBook.load(tmp_path).cost(
        "acme:writer@1", prompt={"DOCUMENT": 10}, cached=10, at=datetime(2026, 1, 1, tzinfo=UTC)
    ).total == Decimal("0.000003")
    write(('VIDEO = "5" }', 'VIDEO = "5", DOCUMENT = "7" }'))
    own = PriceBook.load(tmp_path).cost(
        "acme:writer@1", prompt={"DOCUMENT": 10}, cached=10, at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    assert own.total == Decimal("0.00007")
    assert "cached DOCUMENT at the full input rate" in own.notes[0]


@pytest.mark.parametrize(
    ("tokens", "half_even", "up"), [(1, 0, 1), (2, 1, 1), (3, 2, 2), (4, 2, 2), (5, 2, 3), (7, 4, 4)]
)
def test_each_line_is_rounded_half_even_or_up(tokens: int, half_even: int, up: int) -> None:
    half_a_nano = price(Tier(0, {"TEXT": 500_000, "IMAGE": 500_000}, {}, 500_000))
    prompt = {"TEXT": tokens, "IMAGE": tokens}
    assert half_a_nano.cost(prompt, tokens).nanos == 3 * half_even
    assert half_a_nano.cost(prompt, tokens, round_up=True).nanos == 3 * up


@given(rate=st.integers(0, 10**13), tokens=st.integers(0, COUNT_MAX))
def test_a_line_is_the_exact_product_rounded_once(rate: int, tokens: int) -> None:
    exact = Decimal(rate) * tokens / 1_000_000
    cost = price(Tier(0, {"TEXT": rate}, {}, 0)).cost({"TEXT": tokens})
    assert cost.nanos == int(exact.quantize(Decimal(1), ROUND_HALF_EVEN))


def test_counts_of_zero_have_no_line_and_need_no_price(book: PriceBook) -> None:
    assert book.cost(PRO, prompt={"TEXT": 0, "SMELL": 0}, cached=0, features={"maps": 0}, at=NOW).lines == ()


# --- bad arguments --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1, True, False, 1.0, Decimal(1), "1", None, COUNT_MAX + 1])
@pytest.mark.parametrize(
    ("argument", "arguments"),
    [
        (r"prompt\['TEXT'\]", lambda bad: {"prompt": {"TEXT": bad}}),
        ("completion", lambda bad: {"prompt": {"TEXT": 1}, "completion": bad}),
        ("cached", lambda bad: {"prompt": {"TEXT": 1}, "cached": bad}),
        (r"cached\['TEXT'\]", lambda bad: {"prompt": {"TEXT": 1}, "cached": {"TEXT": bad}}),
        (r"features\['search'\]", lambda bad: {"prompt": {"TEXT": 1}, "features": {"search": bad}}),
    ],
)
def test_an_argument_that_is_not_a_count_is_refused_by_name(
    acme: ModelPrices, argument: str, arguments: Callable[[object], dict[str, object]], bad: object
) -> None:
    with pytest.raises(ConfigurationError, match=f"^{argument}: "):
        acme.prices[0].cost(**arguments(bad))  # type: ignore[arg-type]


@pytest.mark.parametrize("cached", [4, {"TEXT": 3}, {"IMAGE": 2}, {"AUDIO": 1}])
def test_more_cached_tokens_than_the_prompt_has_are_refused(acme: ModelPrices, cached: int | dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match=r"^cached.* tokens, but the prompt has"):
        acme.prices[0].cost({"TEXT": 2, "IMAGE": 1}, cached=cached)


def test_a_modality_without_a_rate_is_refused_by_name(acme: ModelPrices) -> None:
    with pytest.raises(ConfigurationError, match=r"prompt\['AUDIO'\].*acme:writer@1/2026-06-01.*prices TEXT"):
        acme.prices[1].cost({"TEXT": 1, "AUDIO": 1})
    with pytest.raises(ConfigurationError, match=r"prompt\['AUDIO'\]"):
        acme.prices[1].worst_nanos({"AUDIO": 1}, 0, 1000)
    with pytest.raises(ConfigurationError, match=r"prompt\['AUDIO'\]"):
        acme.prices[1].cost({"AUDIO": 1}, cached=1)


def test_an_unknown_model_is_refused_with_the_names_near_it(book: PriceBook) -> None:
    with pytest.raises(ConfigurationError, match=r"'google:gemini@3\.1-por'; did you mean google:gemini@3\.1"):
        book.cost("google:gemini@3.1-por", prompt={"TEXT": 1})
    with pytest.raises(ConfigurationError, match="known: google-gemini-3-1-pro, "):
        book.cost("zzz", prompt={"TEXT": 1})


# --- effective dates ------------------------------------------------------------------------------------


def test_an_entry_holds_from_its_first_microsecond_until_the_next_one(acme: ModelPrices) -> None:
    first, second = acme.prices
    switch = datetime(2026, 6, 1, 10, tzinfo=UTC)
    assert second.effective_from == switch
    assert (first.id, second.id) == ("acme:writer@1/2026-01-01", "acme:writer@1/2026-06-01T10:00:00")
    assert (second.note, second.checked) == ("Half price.", "2026-05-30")
    assert acme.at(datetime(2026, 1, 1, tzinfo=UTC)) is first
    assert acme.at(switch - timedelta(microseconds=1)) is first
    assert acme.at(switch) is second
    assert acme.at(switch.astimezone(timezone(timedelta(hours=-9)))) is second
    us = int(switch.timestamp()) * 10**6
    assert (acme.at(us - 1), acme.at(us)) == (first, second)


def test_without_a_date_the_entry_of_now_is_used(
    acme: ModelPrices, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for moment, rate in ((datetime(2026, 3, 1, tzinfo=UTC), 2), (datetime(2026, 7, 1, tzinfo=UTC), 1)):
        now_ns = int(moment.timestamp()) * 10**9
        monkeypatch.setattr("costguard.prices.model.time.time_ns", lambda now_ns=now_ns: now_ns)
        cost = PriceBook.load(tmp_path).cost("acme-writer-1", prompt={"TEXT": 1_000_000 // 2000})
        assert cost.nanos == rate * 500_000


def test_a_date_before_the_first_entry_or_without_a_zone_is_refused(acme: ModelPrices) -> None:
    with pytest.raises(ConfigurationError, match=r"no price of acme:writer@1 at 2025-12-31.*acme\.toml"):
        acme.at(datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC))
    with pytest.raises(ConfigurationError, match="without a time zone"):
        acme.at(datetime(2026, 3, 1))  # noqa: DTZ001 - the point


# --- the worst case -------------------------------------------------------------------------------------


def test_worst_case_fills_the_context_with_the_dearest_modality_first(acme: ModelPrices) -> None:
    first = acme.prices[0]
    assert first.worst_nanos({"TEXT": 900, "VIDEO": 300}, 100, 1000) == 300 * 10_000 + 700 * 4_000 + 1_800_000
    assert first.worst_nanos({"TEXT": 100, "VIDEO": 300}, 0, 1000) == 300 * 5_000 + 100 * 2_000
    assert first.worst_nanos({}, 1, 1000) == 12_000


def test_worst_case_of_unknown_length_is_the_whole_context(book: PriceBook) -> None:
    pro = book.find(PRO)
    assert pro is not None
    worst = pro.at(NOW).worst_nanos({"TEXT": 10**30, "VIDEO": 10**30}, 4096, pro.context_tokens)
    assert worst == 1_048_576 * 4_000 + 4096 * 18_000


@pytest.mark.parametrize(("tokens", "worst"), [(200_000, "0.400012"), (200_001, "0.800022")])
def test_worst_case_reaches_the_upper_tier_only_strictly_above_the_threshold(
    book: PriceBook, tokens: int, worst: str
) -> None:
    pro = book.find(PRO)
    assert pro is not None
    for upper, context in (({"TEXT": tokens}, 10**6), ({"TEXT": 10**6, "IMAGE": 10**6}, tokens)):
        assert pro.at(NOW).worst_nanos(upper, 1, context) == usd(worst)


def test_worst_case_covers_the_rounding_of_every_split_where_rates_are_fractions() -> None:
    half_a_nano = price(Tier(0, {"TEXT": 500_000}, {}, 0))
    split_by_cache = half_a_nano.cost({"TEXT": 6}, cached=3)
    assert split_by_cache.nanos == 4 > half_a_nano.cost({"TEXT": 6}).nanos
    assert half_a_nano.worst_nanos({"TEXT": 6}, 0, 6) >= 4
    near = price(Tier(0, {"TEXT": 1_500_000, "IMAGE": 1_400_000}, {}, 0))
    split_by_modality = near.cost({"TEXT": 1, "IMAGE": 1}, round_up=True)
    assert split_by_modality.nanos == 4 > near.cost({"TEXT": 2}, round_up=True).nanos
    assert near.worst_nanos({"TEXT": 2, "IMAGE": 2}, 0, 2) >= 4


def test_worst_case_of_a_dearer_lower_tier_stays_within_it() -> None:
    cheaper_above = price(Tier(0, {"TEXT": usd("4")}, {}, 0), Tier(500, {"TEXT": usd("1")}, {}, 0))
    assert cheaper_above.worst_nanos({"TEXT": 1000}, 0, 10_000) == 500 * 4_000
    assert cheaper_above.worst_nanos({"TEXT": 9000}, 0, 10_000) == 9000 * 1_000


@pytest.mark.parametrize(
    ("argument", "arguments"),
    [
        (r"prompt_upper\['TEXT'\]", ({"TEXT": -1}, 0, 1)),
        (r"prompt_upper\['TEXT'\]", ({"TEXT": 1.5}, 0, 1)),
        ("completion", ({}, -1, 1)),
        ("completion", ({}, COUNT_MAX + 1, 1)),
        ("context_tokens", ({}, 0, True)),
    ],
)
def test_worst_case_refuses_what_is_not_a_count_by_name(
    acme: ModelPrices, argument: str, arguments: tuple[dict[str, int], int, int]
) -> None:
    with pytest.raises(ConfigurationError, match=f"^{argument}: "):
        acme.prices[0].worst_nanos(*arguments)


rates = st.one_of(st.integers(0, 3_000_000), st.integers(0, 20).map(lambda dollars: dollars * 10**9))


@st.composite
def tiered_prices(draw: st.DrawFn) -> Price:
    tiers = []
    above = 0
    for _ in range(draw(st.integers(1, 3))):
        prompt = {modality: draw(rates) for modality in ("TEXT", "IMAGE", "AUDIO")}
        cached = {modality: draw(st.integers(0, rate)) for modality, rate in prompt.items() if draw(st.booleans())}
        tiers.append(Tier(above, prompt, cached, draw(rates)))
        above += draw(st.integers(1, 20))
    return price(*tiers)


@given(data=st.data(), any_price=tiered_prices(), context=st.integers(0, 60))
def test_worst_case_is_never_below_the_cost_of_any_prompt_within_it(
    data: st.DataObject, any_price: Price, context: int
) -> None:
    upper = {modality: data.draw(st.integers(0, 30)) for modality in ("TEXT", "IMAGE", "AUDIO")}
    prompt = {modality: data.draw(st.integers(0, most)) for modality, most in upper.items()}
    assume(sum(prompt.values()) <= context)
    cached = {modality: data.draw(st.integers(0, tokens)) for modality, tokens in prompt.items()}
    allowance = data.draw(st.integers(0, 30))
    completion = data.draw(st.integers(0, allowance))
    worst = any_price.worst_nanos(upper, allowance, context)
    for round_up in (False, True):
        assert any_price.cost(prompt, completion, cached, round_up=round_up).nanos <= worst


@given(data=st.data(), whole=st.lists(st.integers(0, 20), min_size=8, max_size=8))
def test_worst_case_is_attained_where_rates_are_whole_nano_dollars(data: st.DataObject, whole: list[int]) -> None:
    a, b, c, d, e, f, g, h = (rate * 1_000_000 for rate in whole)
    tiers = (
        Tier(0, {"TEXT": a, "IMAGE": b, "AUDIO": c}, {}, d),
        Tier(5, {"TEXT": e, "IMAGE": f, "AUDIO": g}, {}, h),
    )
    upper = {modality: data.draw(st.integers(0, 4)) for modality in ("TEXT", "IMAGE", "AUDIO")}
    context = data.draw(st.integers(0, 12))
    dearest = max(
        price(*tiers).cost({"TEXT": text, "IMAGE": image, "AUDIO": audio}, 7).nanos
        for text in range(upper["TEXT"] + 1)
        for image in range(upper["IMAGE"] + 1)
        for audio in range(upper["AUDIO"] + 1)
        if text + image + audio <= context
    )
    assert price(*tiers).worst_nanos(upper, 7, context) == dearest


# --- price files ----------------------------------------------------------------------------------------

FIRST_TIER = 'prompt = { TEXT = "2", IMAGE = "3", AUDIO = "4", VIDEO = "5" }'
MISTAKES: list[tuple[str, str, str, str]] = [
    # old, new, the key the error names, a word of the reason
    ('model = "acme:writer@1"', "", "model", "missing"),
    ('model = "acme:writer@1"', "model = 3", "model", "name"),
    ('"acme:writer@1"', '"acme writer"', "model", "without blanks"),
    ('"acme:writer@1"', '"acme\\u200bwriter"', "model", "U+200B"),
    ('"acme-writer-1"', '"acme\\u007fwriter"', "aliases[0]", "U+007F"),
    ("[prices.features.search]", '[prices.features."a\\u001bb"]', r"prices[0].features.'a\x1bb'", "U+001B"),
    ('aliases = ["acme-writer-1"]', "", "aliases", "missing"),
    ('["acme-writer-1"]', '"acme-writer-1"', "aliases", "list"),
    ('["acme-writer-1"]', "[1]", "aliases[0]", "name"),
    ('["acme-writer-1"]', '["a", "a"]', "aliases[1]", "listed twice"),
    ('["acme-writer-1"]', '["acme:writer@1"]', "aliases", "own name"),
    ('name = "Acme Writer"', 'name = " "', "name", "text"),
    ('task_type = "textInference"', "", "task_type", "missing"),
    ('tokenizer = "none"', 'tokenizer = "gpt2"', "tokenizer", "gemma4, none"),
    ("context_tokens = 1000", "context_tokens = 0", "context_tokens", "from 1"),
    ("context_tokens = 1000", "context_tokens = 1e3", "context_tokens", "whole number"),
    ("context_tokens = 1000", "context_tokens = true", "context_tokens", "whole number"),
    ("context_tokens = 1000", "context_tokens = 10_000_000_000", "context_tokens", "1000000000"),
    ("context_tokens = 1000", "context_tokens = 1000\ncontxt = 1", "contxt", "unknown key"),
    ("[completion]\ndefault = 100\nmax = 200", "completion = 5", "completion", "table"),
    ("default = 100", "", "completion.default", "missing"),
    ("default = 100", "default = 300", "completion.default", "above max"),
    ("max = 200", "max = 200\nmin = 1", "completion.min", "unknown key"),
    ("image_upper = 100", "", "media.image_upper", "missing"),
    ("image_upper = 100", "image_upper = 80", "media.image_expected", "above"),
    ("frame_upper = 7", "frame_upper = 5", "media.frame_expected", "above"),
    ("audio_per_s = 25", "audio_per_s = -25", "media.audio_per_s", "whole number"),
    ("document_page = 50", "", "media.document_page", "DOCUMENT is priced"),
    ("document_page = 50", "document_page = 50\npage = 1", "media.page", "unknown key"),
    ("document_page = 50", "document_page = 50\nimage_grid = 1", "media.image_grid", "true or false"),
    ("from = 2026-01-01", "", "prices[0].from", "missing"),
    ("from = 2026-01-01", 'from = "2026-01-01"', "prices[0].from", "date"),
    ("from = 2026-01-01", "from = 2026-01-01T00:00:00", "prices[0].from", "offset"),
    ("from = 2026-01-01", "from = 0226-01-01", "prices[0].from", "year"),
    (
        "from = 2026-01-01",
        "from = 2026-01-01T00:00:00Z\nuntil = 2026-02-01",
        "prices[0].until",
        "unknown key",
    ),
    ("from = 2026-06-01T12:00:00+02:00", "from = 2026-01-01", "prices[1].from", "not later"),
    ("from = 2026-06-01T12:00:00+02:00", "from = 2026-01-01T01:00:00+02:00", "prices[1].from", "not later"),
    ("checked = 2026-01-02", "", "prices[0].checked", "missing"),
    ("checked = 2026-01-02", "checked = 2026-01-02T00:00:00Z", "prices[0].checked", "a date"),
    ('source = "https://acme.example/pricing"', "", "prices[0].source", "missing"),
    ('source = "https://acme.example/pricing"', 'source = ""', "prices[0].source", "text"),
    ('note = "Half price."', "note = 1", "prices[1].note", "text"),
    ("above_prompt_tokens = 0", "", "prices[0].tiers[0].above_prompt_tokens", "missing"),
    (
        "above_prompt_tokens = 0",
        "above_prompt_tokens = 1",
        "prices[0].tiers[0].above_prompt_tokens",
        "first tier",
    ),
    (
        "above_prompt_tokens = 500",
        "above_prompt_tokens = 0",
        "prices[0].tiers[1].above_prompt_tokens",
        "not above",
    ),
    (FIRST_TIER, "", "prices[0].tiers[0].prompt", "missing"),
    (FIRST_TIER, 'prompt = "2"', "prices[0].tiers[0].prompt", "table"),
    ('TEXT = "2"', "TEXT = 2.0", "prices[0].tiers[0].prompt.TEXT", "as text"),
    ('TEXT = "2"', "TEXT = 2", "prices[0].tiers[0].prompt.TEXT", "as text"),
    ('TEXT = "2"', "TEXT = nan", "prices[0].tiers[0].prompt.TEXT", "as text"),
    ('TEXT = "2"', 'TEXT = "NaN"', "prices[0].tiers[0].prompt.TEXT", "finite"),
    ('TEXT = "2"', 'TEXT = "inf"', "prices[0].tiers[0].prompt.TEXT", "finite"),
    ('TEXT = "2"', 'TEXT = "-2"', "prices[0].tiers[0].prompt.TEXT", "negative"),
    ('TEXT = "2"', 'TEXT = "two"', "prices[0].tiers[0].prompt.TEXT", "not an amount"),
    ('TEXT = "2"', 'TEXT = "0.0000000001"', "prices[0].tiers[0].prompt.TEXT", "9 decimals"),
    ('TEXT = "2"', 'TEXT = "1000001"', "prices[0].tiers[0].prompt.TEXT", "above"),
    ('TEXT = "2", ', "", "prices[0].tiers[0].prompt.TEXT", "missing"),
    ('AUDIO = "4"', 'AUDOI = "4"', "prices[0].tiers[0].prompt.AUDOI", "unknown key"),
    (', VIDEO = "10"', "", "prices[0].tiers[1].prompt", "VIDEO is not priced in every tier"),
    ('TEXT = "0.2"', 'TEXT = "2.1"', "prices[0].tiers[0].cached.TEXT", "above the full input rate"),
    ('TEXT = "0.2"', "TEXT = 0.2", "prices[0].tiers[0].cached.TEXT", "as text"),
    (
        'cached = { TEXT = "0.2"',
        'cached = { DOCUMENT = "0.2"',
        "prices[0].tiers[0].cached.DOCUMENT",
        "no rate",
    ),
    ('completion = "12"', "completion = 12.0", "prices[0].tiers[0].completion", "as text"),
    ('completion = "12"', "", "prices[0].tiers[0].completion", "missing"),
    ('completion = "12"', 'completion = "12"\nbatch = "6"', "prices[0].tiers[0].batch", "unknown key"),
    ('fee = "0.014"', "fee = 0.014", "prices[0].features.search.fee", "as text"),
    ('fee = "0.014"', "", "prices[0].features.search.fee", "missing"),
    ("max_per_request = 10", "", "prices[0].features.search.max_per_request", "missing"),
    (
        "max_per_request = 10",
        "max_per_request = 10\nfree = 1",
        "prices[0].features.search.free",
        "unknown key",
    ),
    ("[prices.features.search]", '[prices.features."a b"]', "prices[0].features.a b", "without blanks"),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: f"{mistake[2]}: {mistake[3]}")
def test_a_mistake_in_a_price_file_is_an_error_that_names_file_and_key(
    write: Callable[..., Path], tmp_path: Path, mistake: tuple[str, str, str, str]
) -> None:
    old, new, key, reason = mistake
    file = write((old, new))
    tomllib.loads(file.read_text(encoding="utf-8"))
    with pytest.raises(PriceFileError) as caught:
        PriceBook.load(tmp_path)
    assert str(caught.value).startswith(f"{file}: {key}: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [("prices", "precios", "prices"), ("[[prices.tiers]]", "[[prices.tears]]", "prices[0].tiers")],
)
def test_a_price_file_without_entries_or_an_entry_without_tiers_is_refused(
    write: Callable[..., Path], tmp_path: Path, old: str, new: str, key: str
) -> None:
    file = write(text=GOOD.replace(old, new))
    with pytest.raises(PriceFileError) as caught:
        PriceBook.load(tmp_path)
    assert str(caught.value) == f"{file}: {key}: missing"


@pytest.mark.parametrize("empty", ["prices = []", "prices = [1]", 'prices = "none"'])
def test_a_price_list_that_is_not_a_list_of_tables_is_refused(
    write: Callable[..., Path], tmp_path: Path, empty: str
) -> None:
    file = write(text=f"{empty}\n{GOOD[: GOOD.index('[[prices]]')]}")
    with pytest.raises(PriceFileError, match=r"prices: expected one or more \[\[prices\]\] tables") as caught:
        PriceBook.load(tmp_path)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("content", [b"model = ", b"\xff\xfe", b"a = 1\na = 2", b"x = " + b"[" * 100_000, b"model\x00"])
def test_a_file_that_is_not_toml_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.toml"
    file.write_bytes(content)
    with pytest.raises(PriceFileError) as caught:
        PriceBook.load(tmp_path)
    assert str(caught.value).startswith(f"{file}: not valid TOML: ")


def test_a_file_or_folder_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(PriceFileError, match=r"folder\.toml: cannot be read: "):
        PriceBook.load(tmp_path)
    with pytest.raises(PriceFileError, match="nowhere: cannot be read as a folder of price files"):
        PriceBook.load(tmp_path / "nowhere")


def test_names_that_mean_two_models_are_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    write()
    second = write(("acme:writer@1", "acme:writer@2"), name="second.toml")
    with pytest.raises(PriceFileError) as alias_twice:
        PriceBook.load(tmp_path)
    assert str(alias_twice.value).startswith(f"{second}: aliases: 'acme-writer-1' already names acme:writer@1")
    write(("acme:writer@1", "acme:writer@2"), ("acme-writer-1", "acme:writer@1"), name="second.toml")
    with pytest.raises(PriceFileError, match=r"second\.toml: aliases: 'acme:writer@1' already names"):
        PriceBook.load(tmp_path)
    write(("acme-writer-1", "google-gemini-3-flash"), name="second.toml")
    with pytest.raises(PriceFileError, match=r"second\.toml: model: 'acme:writer@1' already has a price file"):
        PriceBook.load(tmp_path)
    second.unlink()
    write(("acme-writer-1", "google-gemini-3-flash"))
    with pytest.raises(PriceFileError, match=r"acme\.toml: aliases: 'google-gemini-3-flash' already names"):
        PriceBook.load(tmp_path)


def test_media_counts_of_modalities_without_a_price_may_be_left_out(write: Callable[..., Path], tmp_path: Path) -> None:
    media = GOOD[GOOD.index("[media]") : GOOD.index("[[prices]]")]
    entry = GOOD[GOOD.index("[[prices]]") : GOOD.index("[[prices]]\nfrom = 2026-06")]
    write((media, ""), (entry, ""))
    found = PriceBook.load(tmp_path).find("acme:writer@1")
    assert found is not None
    assert found.media == (
        dict.fromkeys((key for kind in KINDS.values() for key in kind.tokens), 1000),
        {"image_grid": False},
    )


def test_a_folder_of_ones_own_adds_models_and_replaces_shipped_ones_whole(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    write()
    write(("acme:writer@1", FLASH), ("acme-writer-1", "my-flash"), name="mine.toml")
    (tmp_path / "README.md").write_text("not a price file")
    book = PriceBook.load(str(tmp_path))
    assert [prices.model for prices in book.models()] == ["acme:writer@1", FLASH, PRO]
    mine = book.find(FLASH)
    assert mine is not None
    assert mine is book.find("my-flash")
    assert (mine.file, mine.context_tokens) == (tmp_path / "mine.toml", 1000)
    assert book.find("google-gemini-3-flash") is None
    assert len(mine.prices) == 2


def test_the_example_of_the_authoring_guide_is_a_valid_price_file(tmp_path: Path) -> None:
    guide = (shipped_folder() / "README.md").read_text(encoding="utf-8")
    example = guide[guide.index("```toml\n") + 8 :]
    (tmp_path / "example.toml").write_text(example[: example.index("```")], encoding="utf-8")
    found = PriceBook.load(tmp_path).find("acme-writer-1")
    assert found is not None
    cost = found.prices[0].cost({"TEXT": 200_001}, cached=200_001, features={"search": 1})
    assert cost.total == Decimal("0.0340001")


def test_the_example_of_what_is_made_is_a_valid_price_file(tmp_path: Path) -> None:
    guide = (shipped_folder() / "README.md").read_text(encoding="utf-8")
    _, _, example = guide.split("```toml\n")
    (tmp_path / "example.toml").write_text(example[: example.index("```")], encoding="utf-8")
    found = PriceBook.load(tmp_path).find("acme-clip-1")
    assert found is not None
    (entry,) = found.outputs
    assert entry.cost(Output(width=720, height=1280, milliseconds=4001, audio=True)).total == Decimal("0.3")


def test_price_files_are_found_inside_the_installed_package_or_else_beside_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "costguard"
    monkeypatch.setattr("costguard.prices.files.__file__", str(package / "prices" / "files.py"))
    assert shipped_folder() == tmp_path / "pricing"
    (package / "pricing").mkdir(parents=True)
    assert shipped_folder() == package / "pricing"


@pytest.mark.parametrize("file", sorted(shipped_folder().glob("*.toml")), ids=lambda file: file.stem)
def test_shipped_files_are_checked_sourced_and_not_from_the_future(file: Path) -> None:
    for entry in tomllib.loads(file.read_text(encoding="utf-8"))["prices"]:
        assert entry["source"].startswith("https://runware.ai/docs/models/")
        assert entry["from"] <= entry["checked"] <= datetime.now(UTC).date()


def test_the_modalities_of_the_wire_are_all_priced_by_shipped_models(book: PriceBook) -> None:
    for prices in book.models():
        for tier in prices.at(NOW).tiers:
            assert set(tier.prompt) == set(MODALITIES)


# --- weight and speed -----------------------------------------------------------------------------------


def test_importing_and_loading_prices_brings_in_no_heavy_module() -> None:
    # The package's own __init__ is left out, so that only this module and what it needs is seen.
    script = """
import sys, types
package = types.ModuleType("costguard")
package.__path__ = [sys.argv[1]]
sys.modules["costguard"] = package
import costguard.prices.book
assert "tomllib" not in sys.modules
costguard.prices.book.PriceBook.load()
heavy = {"tiktoken", "numpy", "sqlite_utils", "sqlite3", "rich", "httpx", "httpx2", "aiohttp", "openai",
         "pydantic", "genai_prices", "asyncio", "difflib"}
print(sorted(heavy & set(sys.modules)))
"""
    package = Path(prices_module.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", script, str(package)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]\n"


def test_the_benchmark_yields_a_ratio_and_a_bound_for_each_case(monkeypatch: pytest.MonkeyPatch) -> None:
    file = Path(__file__).parents[2] / "scripts" / "benchmarks" / "prices.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_prices", file)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(benchmark, "_fastest", lambda ours, theirs: [1.0, 20.0])
    assert [(one.value, one.bound) for one in benchmark.results()] == [(0.05, 0.1)] * 5
