"""Prices of what is made: which rate holds, how much is counted, and what a price file must say."""

from __future__ import annotations

import tomllib
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from makers import CLIP, FILES, PAINTER, SKETCHER, VOICE, write_prices

from costguard.errors import ConfigurationError, PriceFileError
from costguard.outputs import Output, in_units, quantity_text
from costguard.prices.book import PriceBook
from costguard.prices.output import OutputPrice, Rate

NOBODY = Output()
sides = st.integers(1, 5000)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> PriceBook:
    return PriceBook.load(write_prices(tmp_path_factory.mktemp("made")))


def price_of(book: PriceBook, model: str) -> OutputPrice:
    known = book.find(model)
    assert known is not None
    entry = known.entry()
    assert isinstance(entry, OutputPrice)
    return entry


def a_price(*rates: Rate, meter: str = "results", is_whole: bool = False, pixels: int = 10**6, **bounds: Any) -> Any:
    unsaid = {"default": NOBODY, "most": NOBODY, **bounds}
    return OutputPrice("acme/2026-01-01", 0, "2026-01-01", "test", "", meter, is_whole, pixels, rates, **unsaid)


# --- which rate holds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "usd"),
    [
        (1024, 1024, "0.02"),
        (1, 1, "0.02"),
        (1025, 1024, "0.041"),
        (1024, 1025, "0.041"),
        (1025, 1, "0.041"),
        (2048, 2048, "0.041"),
    ],
)
def test_a_size_takes_the_smallest_tier_that_holds_both_sides(
    book: PriceBook, width: int, height: int, usd: str
) -> None:
    assert price_of(book, PAINTER).cost(Output(width, height)).total == Decimal(usd)


@pytest.mark.parametrize(("width", "height"), [(2049, 2048), (2048, 2049), (4096, 16)])
def test_a_size_beyond_all_tiers_has_no_price(book: PriceBook, width: int, height: int) -> None:
    price = price_of(book, PAINTER)
    for ask in (price.cost, price.expected, price.worst):
        with pytest.raises(ConfigurationError, match=f"no rate for {width}x{height}; it has up to 1024x1024, up to"):
            ask(Output(width, height))


def test_sides_hold_in_either_orientation_and_pixels_by_their_product() -> None:
    sided = a_price(Rate(1, sides=(1280, 720)), Rate(2, sides=(1920, 1080)))
    assert [sided.cost(Output(*size)).nanos for size in ((720, 1280), (1280, 720), (1281, 16))] == [1, 1, 2]
    by_area = a_price(Rate(1, pixels=10**6), Rate(2, pixels=2 * 10**6))
    assert [by_area.cost(Output(*size)).nanos for size in ((5000, 200), (5000, 201), (1000, 1000))] == [1, 2, 1]


def test_a_resolution_by_name_decides_over_the_size_and_sound_over_neither() -> None:
    price = a_price(
        *(
            Rate(nanos, resolution=name, audio=audio, sides=size)
            for name, size, pair in (("720p", (1280, 720), (1, 2)), ("1080p", (1920, 1080), (3, 4)))
            for nanos, audio in zip(pair, (False, True), strict=True)
        )
    )
    assert price.cost(Output(width=1920, height=1080, resolution="720p", audio=False)).nanos == 1
    assert price.cost(Output(width=1280, height=720, audio=True)).nanos == 2
    assert price.cost(Output(width=1281, height=720, audio=True)).nanos == 4
    assert price.cost(Output(resolution="1080p", audio=False)).nanos == 3
    with pytest.raises(ConfigurationError, match="no rate for 4k"):
        price.worst(Output(resolution="4k"))
    with pytest.raises(ConfigurationError, match="not known which rate is for such a result"):
        price.cost(Output(resolution="1080p"))
    assert price.worst(Output(resolution="1080p")).rate.nanos == 4
    assert price.worst(NOBODY).rate.nanos == 4


def test_what_is_not_said_is_likely_the_default_and_at_most_the_maximum(book: PriceBook) -> None:
    painter, clip = price_of(book, PAINTER), price_of(book, CLIP)
    assert [m.rate.name for m in (painter.expected(NOBODY), painter.worst(NOBODY))] == [
        "up to 1024x1024",
        "up to 2048x2048",
    ]
    asked = Output(resolution="720p", audio=True)
    assert [m.parts for m in (clip.expected(asked), clip.worst(asked))] == [5000, 10_000]
    stated = asked._replace(milliseconds=3000)
    assert [m.parts for m in (clip.expected(stated), clip.worst(stated))] == [3000, 3000]


def test_a_length_without_a_maximum_is_not_known_and_never_zero(book: PriceBook) -> None:
    price = price_of(book, VOICE)
    for ask in (price.cost, price.expected, price.worst):
        with pytest.raises(ConfigurationError, match="length of a result is not known: state duration in the task"):
            ask(NOBODY)
    sized = a_price(Rate(1), meter="megapixels")
    with pytest.raises(ConfigurationError, match="size of a result is not known: state width and height"):
        sized.worst(Output(width=1024))


# --- how much is counted ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("milliseconds", "exact", "whole"),
    [(1, 1, 1000), (999, 999, 1000), (1000, 1000, 1000), (1001, 1001, 2000), (5000, 5000, 5000)],
)
def test_seconds_are_counted_as_they_are_or_begun_ones_whole(milliseconds: int, exact: int, whole: int) -> None:
    made = Output(milliseconds=milliseconds)
    counted = [a_price(Rate(1), meter="seconds", is_whole=up).cost(made).lines[0].quantity for up in (False, True)]
    assert counted == [exact, whole]


@pytest.mark.parametrize(
    ("size", "exact", "millions", "binary"),
    [
        ((1000, 1000), 1_000_000, 1, 1),
        ((1024, 1024), 1_048_576, 2, 1),
        ((1024, 1025), 1_049_600, 2, 2),
        ((16, 16), 256, 1, 1),
        ((2048, 2048), 4_194_304, 5, 4),
    ],
)
def test_megapixels_are_counted_as_they_are_or_begun_ones_whole_of_as_many_pixels_as_stated(
    size: tuple[int, int], exact: int, millions: int, binary: int
) -> None:
    made = Output(*size)

    def counted(**how: Any) -> int:
        return int(a_price(Rate(1), meter="megapixels", **how).cost(made).lines[0].quantity)

    assert counted() == exact
    assert counted(is_whole=True) == millions * 10**6
    assert counted(is_whole=True, pixels=1024 * 1024) == binary * 10**6


@given(st.integers(0, 10**15), st.integers(1, 10**6), st.sampled_from(["seconds", "megapixels"]))
def test_a_line_is_the_exact_product_rounded_once_half_even_or_up(nanos: int, amount: int, meter: str) -> None:
    price = a_price(Rate(nanos), meter=meter)
    made = Output(milliseconds=amount) if meter == "seconds" else Output(amount, 1)
    exact = Decimal(nanos) * amount / {"seconds": 1000, "megapixels": 10**6}[meter]
    assume(exact <= 10**15)
    assert price.cost(made).nanos == int(exact.to_integral_value(ROUND_HALF_EVEN))
    assert price.cost(made, round_up=True).nanos == int(exact.to_integral_value(ROUND_CEILING))


@pytest.mark.parametrize(
    "made", [Output(milliseconds=10**9), Output(10**6, 10**6)], ids=["eleven days", "a square kilometre"]
)
def test_what_is_beyond_all_bounds_is_refused_and_not_carried_on(made: Output) -> None:
    with pytest.raises(ConfigurationError, match="beyond all bounds"):
        a_price(Rate(10**15), meter="seconds" if made.milliseconds else "megapixels").cost(made)


# --- the promise: nothing within the request passes the worst case ---------------------------------------------

_TIERS = st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=4).map(
    lambda steps: [
        (max(w, h), min(w, h))
        for w, h in ((sum(s[0] for s in steps[:n]), sum(s[1] for s in steps[:n])) for n in range(1, len(steps) + 1))
    ]
)


@st.composite
def prices(draw: st.DrawFn) -> OutputPrice:
    """Any price, cheaper tiers above dearer ones included."""
    resolutions = draw(st.sampled_from([("",), ("720p", "1080p")]))
    sounds = draw(st.sampled_from([(None,), (True, False)]))
    tiers: st.SearchStrategy[list[Any]] = draw(st.sampled_from([st.just([None]), _TIERS]))
    rates = [
        Rate(draw(st.integers(0, 10**12)), resolution, audio, tier)
        for resolution in resolutions
        for audio in sounds
        for tier in draw(tiers)
    ]
    most = Output(*draw(st.sampled_from([(None, None), (4096, 4096)])), draw(st.sampled_from([None, 20_000])))
    meter = draw(st.sampled_from(["results", "seconds", "megapixels"]))
    price: OutputPrice = a_price(
        *rates,
        meter=meter,
        is_whole=draw(st.booleans()),
        pixels=draw(st.sampled_from([10**6, 1024 * 1024])),
        most=most,
    )
    return price


asks = st.builds(
    Output,
    st.none() | sides,
    st.none() | sides,
    st.none() | st.integers(1, 60_000),
    st.sampled_from(["", "720p", "1080p"]),
    st.sampled_from([None, True, False]),
)


@given(prices(), asks, st.data())
def test_no_result_within_the_request_costs_more_than_the_worst_case(
    price: OutputPrice, asked: Output, data: st.DataObject
) -> None:
    try:
        worst = price.nanos(price.worst(asked), round_up=True)
        expected = price.nanos(price.expected(asked), round_up=False)
    except ConfigurationError:
        assume(False)
    bound = asked.over(price.most)
    size: tuple[int | None, int | None] = (None, None)
    if bound.width is not None and bound.height is not None:
        size = (data.draw(st.integers(1, bound.width)), data.draw(st.integers(1, bound.height)))
    length = data.draw(st.integers(1, bound.milliseconds)) if bound.milliseconds is not None else None
    # Whether it has sound where the task does not say is the provider's to choose.
    told = Output(*size, length, audio=data.draw(st.sampled_from([None, True, False])) if asked.audio is None else None)
    try:
        cost = price.cost(told.over(asked))
    except ConfigurationError:
        return  # not known, so not computed
    assert cost.nanos <= worst
    assert sum(line.nanos for line in cost.lines) == cost.nanos
    assert expected <= worst


_LOUD_AND_SILENT = (
    Rate(5, audio=True, sides=(1024, 1024)),
    Rate(100, audio=True, sides=(2048, 2048)),
    Rate(1, audio=False, sides=(512, 512)),
    Rate(2, audio=False, sides=(1500, 1500)),
)


def test_where_sound_is_not_said_the_tiers_of_each_are_looked_at() -> None:
    price = a_price(*_LOUD_AND_SILENT)
    assert price.worst(Output(1400, 1400)).rate.nanos == 100
    with pytest.raises(ConfigurationError, match="'up to 2048x2048 with audio' or 'up to 1500x1500 without audio'"):
        price.cost(Output(1400, 1400))
    assert price.cost(Output(1400, 1400, audio=False)).nanos == 2
    with pytest.raises(ConfigurationError, match="has no rate for 1501x1 without audio"):
        price.worst(Output(1501, 1))
    assert price.worst(Output(1501, 1, audio=True)).rate.nanos == 100


def test_one_side_beyond_all_tiers_has_no_rate_and_one_beyond_the_most_counts() -> None:
    tiers = a_price(Rate(1, sides=(1024, 768)), Rate(2, sides=(2048, 1536)))
    areas = a_price(Rate(1, pixels=1024 * 768))
    for price, side in ((tiers, 2049), (areas, 1024 * 768 + 1)):
        for asked in (Output(width=side), Output(height=side)):
            with pytest.raises(ConfigurationError, match="has no rate for such a result"):
                price.worst(asked)
    assert tiers.worst(Output(width=2048)).rate.nanos == 2
    bounded = a_price(Rate(10**9), meter="megapixels", most=Output(2048, 1024))
    assert [bounded.worst(Output(height=side)).parts for side in (512, 2048, 4096)] == [
        2048 * 1024,
        2048 * 1024,
        4096 * 2048,
    ]


# --- price files -----------------------------------------------------------------------------------------------


def test_prices_are_found_by_model_and_type_of_task_then_by_type_alone(book: PriceBook) -> None:
    def found(model: str | None, task_type: str) -> str | None:
        known = book.of(model, task_type)
        return known.name if known else None

    assert found(PAINTER, "imageInference") == found("acme-painter", "imageInference") == "Acme Painter"
    assert found(PAINTER, "videoInference") is None
    assert found("other:model@1", "upscale") == found(None, "upscale") == found(PAINTER, "upscale")
    assert found("other:model@1", "upscale") == "Upscaling by any model"
    assert found("other:model@1", "imageInference") is None


def test_a_price_of_what_is_made_says_so_where_tokens_are_asked_for(book: PriceBook) -> None:
    with pytest.raises(ConfigurationError, match="is a price per megapixel, not of tokens; `Guard"):
        book.cost(SKETCHER, prompt={"TEXT": 1})


def test_a_price_of_nothing_is_a_price(tmp_path: Path) -> None:
    folder = write_prices(tmp_path)
    text = FILES["upscale.toml"].replace("0.0016", "0").replace("upscale", "imageUpload")
    (folder / "upload.toml").write_text(text, encoding="utf-8")
    entry = PriceBook.load(folder).of(None, "imageUpload").entry()  # type: ignore[union-attr]
    assert isinstance(entry, OutputPrice)
    assert entry.cost(NOBODY).nanos == 0


def test_megapixels_may_be_of_other_pixels_and_tiers_by_area(tmp_path: Path) -> None:
    folder = write_prices(tmp_path)
    text = FILES["sketcher.toml"].replace('round = "exact"', 'round = "up"\nmegapixel = 1_048_576')
    text = text.replace("[[prices.rates]]\n", "[[prices.rates]]\nup_to_pixels = 4_194_304\n")
    (folder / "sketcher.toml").write_text(text, encoding="utf-8")
    price = price_of(PriceBook.load(folder), SKETCHER)
    cost = price.cost(Output(1024, 1024))
    assert (cost.lines[0].quantity, cost.lines[0].modality, cost.total) == (
        1_000_000,
        "up to 4194304 pixels",
        Decimal("0.0013377"),
    )


MISTAKES = [
    ("painter", 'per = "result"', 'per = "picture"', "prices[0].per", "'picture' is not one of result, second, meg"),
    ("painter", 'per = "result"\n', "", "prices[0].per", "missing"),
    ("painter", 'per = "result"', 'per = "result"\nround = "up"', "prices[0].round", "leave it out"),
    ("sketcher", 'round = "exact"\n', "", "prices[0].round", "missing"),
    ("sketcher", 'round = "exact"', 'round = "down"', "prices[0].round", "not one of exact, up"),
    ("sketcher", 'round = "exact"', 'round = "exact"\nmegapixel = 1048576', "prices[0].megapixel", 'round = "up" only'),
    ("clip", 'round = "up"', 'round = "up"\nmegapixel = 1048576', "prices[0].megapixel", 'per = "megapixel"'),
    ("painter", 'usd = "0.02"', "usd = 0.02", "prices[0].rates[0].usd", "as text"),
    ("painter", 'usd = "0.02"', 'usd = "-0.02"', "prices[0].rates[0].usd", "negative"),
    ("painter", 'usd = "0.02"\n', "", "prices[0].rates[0].usd", "missing"),
    ("painter", 'usd = "0.02"', 'usd = "0.02"\ncolour = true', "prices[0].rates[0].colour", "unknown key"),
    ("painter", 'up_to = "1024x1024"', 'up_to = "1024"', "prices[0].rates[0].up_to", "\"1024x768\", got '1024'"),
    ("painter", 'up_to = "1024x1024"', "up_to = 1024", "prices[0].rates[0].up_to", "got 1024"),
    ("painter", 'up_to = "2048x2048"', 'up_to = "512x512"', "prices[0].rates[1].up_to", "they ascend"),
    ("painter", 'up_to = "2048x2048"\n', "", "prices[0].rates[1].up_to", "same conditions"),
    (
        "painter",
        'up_to = "1024x1024"',
        'up_to = "1024x1024"\nup_to_pixels = 1048576',
        "prices[0].rates[0].up_to_pixels",
        "not by both",
    ),
    ("painter", 'size = "1024x1024"', 'size = "4096x4096"', "output.size", "above max_size = 2048x2048"),
    ("clip", "seconds = 5", "seconds = 11", "output.seconds", "above max_seconds"),
    ("clip", "seconds = 5", "seconds = 5.5", "output.seconds", '"7.5"'),
    ("clip", "seconds = 5", 'seconds = "soon"', "output.seconds", "got 'soon'"),
    ("clip", "seconds = 5", 'seconds = "0.0001"', "output.seconds", "3 decimals"),
    ("clip", "seconds = 5", 'seconds = "1e999999999"', "output.seconds", "got '1e999999999'"),
    ("clip", "seconds = 5", "seconds = 1000001", "output.seconds", "at most 1,000,000, got 1000001"),
    ("clip", "seconds = 5", "fps = 24", "output.fps", "unknown key"),
    ("clip", "audio = true", 'audio = "yes"', "prices[0].rates[1].audio", "true or false"),
    (
        "clip",
        'resolution = "1080p"\naudio = false',
        'resolution = "720p"\naudio = false',
        "prices[0].rates[2].usd",
        "once",
    ),
    ("clip", "[output]", "[output_]", "output_", "unknown key"),
    ("clip", 'task_type = "videoInference"\n', "", "task_type", "missing"),
    (
        "clip",
        'task_type = "videoInference"',
        'task_type = "videoInference"\ntokenizer = "none"',
        "tokenizer",
        "unknown",
    ),
    ("clip", "[[prices.rates]]", "[[prices.tiers]]", "prices[0].rates", "missing"),
    ("upscale", "name = ", 'aliases = ["x"]\nname = ', "aliases", "without a model"),
]


_TOKENS_TOO = """
[[prices]]
from = 2026-01-01
checked = 2026-01-05
source = "https://acme.example/pricing"

[[prices.tiers]]
above_prompt_tokens = 0
prompt = { TEXT = "1" }
completion = "2"
"""


def test_a_file_of_tokens_and_of_what_is_made_is_told_which_entry_is_of_the_other_kind(tmp_path: Path) -> None:
    file = write_prices(tmp_path) / "clip.toml"
    file.write_text(FILES["clip.toml"] + _TOKENS_TOO, encoding="utf-8")
    with pytest.raises(
        PriceFileError, match=r"clip.toml: prices\[1\].tiers: prices tokens, and another entry what is made"
    ):
        PriceBook.load(file.parent)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: f"{mistake[3]}: {mistake[4]}")
def test_a_mistake_in_a_price_file_names_file_and_key_and_what_to_do(
    tmp_path: Path, mistake: tuple[str, str, str, str, str]
) -> None:
    name, old, new, key, reason = mistake
    folder = write_prices(tmp_path)
    file = folder / f"{name}.toml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    changed = text.replace(old, new) if new == "[[prices.tiers]]" else text.replace(old, new, 1)
    file.write_text(changed, encoding="utf-8")
    tomllib.loads(changed)
    with pytest.raises(PriceFileError) as caught:
        PriceBook.load(folder)
    assert str(caught.value).startswith(f"{file}: {key}: ")
    assert reason in str(caught.value)


def test_two_files_for_a_type_of_task_are_one_too_many(tmp_path: Path) -> None:
    folder = write_prices(tmp_path)
    (folder / "upscale2.toml").write_text(FILES["upscale.toml"], encoding="utf-8")
    with pytest.raises(PriceFileError, match="'upscale' already has a price file"):
        PriceBook.load(folder)


# --- quantities ------------------------------------------------------------------------------------------------


@given(st.integers(0, 10**12), st.sampled_from(["results", "seconds", "megapixels"]))
def test_parts_are_told_in_units_without_loss(parts: int, meter: str) -> None:
    per_unit = {"results": 1, "seconds": 1000, "megapixels": 10**6}[meter]
    number = in_units(meter, parts)
    assert number * per_unit == parts
    assert "E" not in str(number)


def test_quantities_in_words() -> None:
    assert quantity_text("results", 1) == "1 result"
    assert quantity_text("seconds", 5500) == "5.5 seconds"
    assert quantity_text("megapixels", 1_000_000) == "1 megapixel"
