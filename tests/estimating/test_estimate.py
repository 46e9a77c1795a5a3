"""Estimates: exact on what was published, never below what can be billed, whatever the task looks like."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from conftest import API, FLASH, PRO, a_task
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from costguard import BudgetExceeded, Estimate, Guard, InvalidRequest
from costguard.estimating.estimate import estimate
from costguard.estimating.tokens import FRAMING_TOKENS
from costguard.prices.book import PriceBook
from costguard.testing import Seed, StandIn, seeds
from costguard.wire.runware.requests import from_dict

BOOK = PriceBook.load()
AT_US = 1_795_000_000_000_000
CLIP_S = {"Multimodal Incident Brief": 12}
"""Seconds of a clip, from its bill: (cost - TEXT - completion at maxTokens) / (64 + 25 tokens a second)."""


def of(task: dict[str, Any], **media_max: Any) -> Estimate:
    from costguard.estimating.media import parse_media_max

    return estimate(from_dict(task), BOOK, AT_US, parse_media_max(media_max))


def usd(nanos: int) -> Decimal:
    return Decimal(nanos).scaleb(-9)


# --- what was published --------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [s for s in seeds() if s.response.get("usage")], ids=lambda seed: seed.name)
def test_text_is_counted_exactly_as_it_was_billed(seed: Seed) -> None:
    billed = {
        leaf["modality"]: leaf["tokens"]
        for leaf in seed.response["usage"]["costBreakdown"]["tokens"]["prompt"]["modalities"]
    }
    assert billed["TEXT"] in (74, 108)
    found = of(seed.request, video_s="6.08").prompt
    assert found["TEXT"].expected == billed["TEXT"]
    assert all(billed[modality] <= found[modality].upper for modality in billed)


@pytest.mark.parametrize("seed", seeds(), ids=lambda seed: seed.name)
def test_the_published_costs_lie_between_zero_and_upper(seed: Seed) -> None:
    unknown, known = of(seed.request), of(seed.request, video_s=CLIP_S.get(seed.name, 7))
    assert unknown.upper is not None
    assert known.upper is not None
    assert 0 < seed.response["cost"] <= known.upper <= 3 * seed.response["cost"]
    assert known.upper <= unknown.upper
    assert (known.upper < unknown.upper) == bool(seed.request["inputs"].get("videos"))


def test_the_cost_of_one_result_is_prompt_and_allowance() -> None:
    found = of(a_task("word " * 100, numberResults=3, settings={"maxTokens": 1000}))
    text = found.prompt["TEXT"]
    assert found.completion == (1000, 1000)
    assert found.results == 3
    assert found.expected == usd(3 * (500 * text.expected + 3000 * 1000))
    assert found.upper == usd(3 * (500 * text.upper + 3000 * 1000))


def test_without_an_allowance_the_documented_default_counts() -> None:
    assert of(a_task(settings=None)).completion.upper == 4096


def test_air_and_slug_are_estimated_alike() -> None:
    assert of(a_task(model="google-gemini-3-flash", taskUUID="a")) == of(a_task(taskUUID="a"))


# --- tiers and context ---------------------------------------------------------------------------------------


def digits(tokens: int) -> str:
    """Text of exactly that many tokens: Gemma gives each digit one."""
    return "7" * tokens


@pytest.mark.parametrize(("tokens", "rate", "out"), [(200_000, 2000, 12_000), (200_001, 4000, 18_000)])
def test_the_tier_of_the_likely_cost_switches_strictly_above_200k(tokens: int, rate: int, out: int) -> None:
    found = of(a_task(digits(tokens), model=PRO, settings={"maxTokens": 10}))
    assert found.expected == usd(rate * tokens + out * 10)


@pytest.mark.parametrize(("upper", "rate", "out"), [(200_000, 2000, 12_000), (200_001, 4000, 18_000)])
def test_the_tier_of_the_worst_cost_switches_strictly_above_200k(upper: int, rate: int, out: int) -> None:
    # A digit is a byte and a token, so that no margin is left but the message's framing.
    found = of(a_task(digits(upper - FRAMING_TOKENS), model=PRO, settings={"maxTokens": 10}))
    assert found.prompt["TEXT"].upper == upper
    assert found.upper == usd(rate * upper + out * 10)


def test_all_modalities_decide_on_the_tier() -> None:
    task = a_task(digits(199_000), model=PRO, settings={"maxTokens": 10}, inputs={"images": ["u"]})
    found = of(task)
    assert found.expected == usd(4000 * (199_000 + 1064) + 18_000 * 10)
    assert found.upper == usd(4000 * (199_000 + FRAMING_TOKENS + 1120) + 18_000 * 10)


def test_near_the_switch_the_worst_case_is_beyond_it() -> None:
    found = of(a_task("word " * 199_000, model=PRO))
    assert found.prompt["TEXT"].expected < 200_000 < found.prompt["TEXT"].upper
    assert found.upper == usd(4000 * found.prompt["TEXT"].upper + 18_000 * 200)


def test_media_of_unknown_length_cost_as_much_as_the_context_can_hold() -> None:
    found = of(a_task(inputs={"videos": ["u", "u"], "audios": ["u"]}))
    context = BOOK.find(FLASH)
    assert context is not None
    # All of it as the dearest modality, AUDIO.
    assert found.upper == usd(1000 * context.context_tokens + 3000 * 200)
    assert found.unbounded == ("video_s", "audio_s")


def test_media_of_no_known_kind_cost_as_much_as_the_dearest_medium_can() -> None:
    found = of(a_task("", inputs={"holograms": ["u"]}))
    context = BOOK.find(FLASH)
    assert context is not None
    # It may turn out to be AUDIO.
    assert found.upper == usd(1000 * context.context_tokens + 3000 * 200)
    assert found.unbounded == ("inputs.holograms",)


def test_media_of_no_known_kind_are_bounded_by_what_the_model_has_prices_for(tmp_path: Path) -> None:
    authored = Path(BOOK.find(FLASH).file).read_text(encoding="utf-8")  # type: ignore[union-attr]
    prompt = next(line for line in authored.splitlines() if line.startswith("prompt = "))
    (tmp_path / "flash.toml").write_text(authored.replace(prompt, 'prompt = { TEXT = "1", IMAGE = "2" }'), "utf-8")
    found = estimate(from_dict(a_task(inputs={"holograms": ["u"]})), PriceBook.load(tmp_path), AT_US)
    assert {modality for modality, count in found.prompt.items() if count.upper} == {"TEXT", "IMAGE", "DOCUMENT"}
    assert found.upper == usd(2000 * found.context_tokens + 3000 * 200)


def test_documents_are_priced_as_images() -> None:
    found = of(a_task("", inputs={"documents": ["u"]}), pdf_pages=2)
    assert found.prompt["DOCUMENT"] == (1120, 1120)
    assert found.expected == usd(500 * 1120 + 3000 * 200)


# --- texts ---------------------------------------------------------------------------------------------------


def test_every_text_the_model_reads_is_counted() -> None:
    plain = of(a_task("one two")).prompt["TEXT"].expected
    assert of(a_task("one two", settings={"systemPrompt": "three four"})).prompt["TEXT"].expected > plain
    assert of(a_task("one two", extra="three four")).prompt["TEXT"].expected > plain
    assert of(a_task("one two", extra={"a": ["three", 4]})).prompt["TEXT"].expected > plain
    assert of(a_task("one two", settings={"schema": {"type": "object"}})).prompt["TEXT"].expected > plain
    assert (
        of(a_task("one two", messages=[{"role": "user", "content": "one two", "name": "eve"}])).prompt["TEXT"].expected
        > plain
    )


def test_settings_that_are_no_text_cost_nothing() -> None:
    bare = of(a_task(settings={"maxTokens": 9})).prompt["TEXT"]
    dressed = of(
        a_task(
            settings={"maxTokens": 9, "temperature": 0.3, "topP": 0.9, "thinkingLevel": "high", "stopSequences": ["x"]},
            seed=7, webhookURL="https://example.com/hook", deliveryMethod="sync",
        )
    ).prompt["TEXT"]  # fmt: skip
    assert bare == dressed


def test_function_tools_count_by_their_json() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "Find the harbour " * 50}}
    found, bare = of(a_task(tools=[tool])), of(a_task())
    assert found.prompt["TEXT"].expected - bare.prompt["TEXT"].expected > 150
    assert found.upper is not None


def test_a_text_is_bounded_by_its_bytes_or_5_percent_and_by_8_a_message() -> None:
    assert of(a_task("7777")).prompt["TEXT"] == (4, 4 + 8)
    assert of(a_task("")).prompt["TEXT"] == (0, 8)
    assert of(a_task(messages=[])).prompt["TEXT"] == (0, 0)
    turns = [{"role": "user", "content": "The harbour lamp turns. " * 40}] * 5
    text = of(a_task(messages=turns)).prompt["TEXT"]
    assert text.upper == text.expected + -(-text.expected // 20) + 8 * 5


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb" * 9, "\ud83c\udf0a", "\x00\u3000▁" * 50, "🌊" * 99, ""])
def test_texts_of_odd_characters_count_within_their_bytes(text: str) -> None:
    found = of(a_task(text)).prompt["TEXT"]
    size = len(text.encode("utf-8", "surrogatepass"))
    assert 0 <= found.expected <= size
    assert found.expected <= found.upper <= size + FRAMING_TOKENS


@pytest.mark.parametrize("unit", ["The lamp turns over grey water. ", "x", "7", "港"])
def test_a_megabyte_of_text_is_counted(unit: str) -> None:
    size = 10**6 // len(unit.encode())
    found = of(a_task(unit * size)).prompt["TEXT"]
    assert 0 < found.expected <= found.upper <= 10**6 + FRAMING_TOKENS


@pytest.fixture(scope="module")
def wordless(tmp_path_factory: pytest.TempPathFactory) -> PriceBook:
    """The shipped prices, and FLASH's once more for a model whose tokenizer is not known: acme:w@1."""
    folder = tmp_path_factory.mktemp("prices")
    authored = Path(BOOK.find(FLASH).file).read_text(encoding="utf-8")  # type: ignore[union-attr]
    authored = authored.replace('"gemma4"', '"none"').replace(FLASH, "acme:w@1").replace("google-gemini-3-flash", "w")
    (folder / "w.toml").write_text(authored, encoding="utf-8")
    return PriceBook.load(folder)


def test_without_its_tokenizer_a_model_s_text_is_bounded_by_bytes(wordless: PriceBook) -> None:
    said = "The harbour lamp turns over grey water."
    text = estimate(from_dict(a_task(said, model="acme:w@1")), wordless, AT_US).prompt["TEXT"]
    assert text.upper == len(said) + FRAMING_TOKENS
    assert 0 < text.expected < len(said)


@given(digits=st.lists(st.integers(0, 30), max_size=60), model=st.sampled_from([FLASH, "acme:w@1", "acme:unpriced@1"]))
@example(digits=[1] * 60, model=FLASH)
def test_many_short_messages_are_bounded_by_what_a_chat_template_adds(
    digits: list[int], model: str, wordless: PriceBook
) -> None:
    # Gemma gives each digit a token of its own, so that neither the bytes nor the 5 % leave room for the framing.
    turns = [{"role": "user", "content": "7" * size} for size in digits]
    text = estimate(from_dict(a_task(messages=turns, model=model)), wordless, AT_US).prompt["TEXT"]
    assert text.expected == sum(digits)
    assert text.upper >= sum(digits) + 8 * len(turns)


# --- without a price -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model": "acme:unknown@1"}, "acme:unknown@1"),
        ({"model": None}, "textInference"),
        ({"taskType": "imageInference"}, FLASH),
        ({"tools": [{"type": "search"}]}, "'search'"),
        ({"tools": [{"type": "function"}, {"type": "codeInterpreter"}]}, "'codeInterpreter'"),
        ({"tools": [{}]}, "None"),
        ({"tools": ["search"]}, "None"),
        ({"tools": {"type": "search"}}, "'search'"),
        ({"tools": "search"}, "None"),
    ],
)
def test_without_a_price_there_is_no_worst_case_and_a_reason(fields: dict[str, Any], said: str) -> None:
    found = of(a_task(**fields))
    assert found.upper is found.expected is None
    assert said in str(found.unpriced)


def test_a_task_older_than_the_prices_is_unpriced() -> None:
    found = estimate(from_dict(a_task()), BOOK, 0)
    assert found.upper is None
    assert "starts at" in str(found.unpriced)


def test_a_published_fee_is_held_at_its_stated_maximum(tmp_path: Path) -> None:
    authored = Path(BOOK.find(FLASH).file).read_text(encoding="utf-8")  # type: ignore[union-attr]
    fee = '\n[prices.features.search]\nfee = "0.014"\nmax_per_request = 10\n'
    (tmp_path / "flash.toml").write_text(authored + fee, encoding="utf-8")
    book = PriceBook.load(tmp_path)
    plain = estimate(from_dict(a_task()), book, AT_US)
    tools = [{"type": "search"}]
    found = estimate(from_dict(a_task(tools=tools, numberResults=2)), book, AT_US)
    assert found.upper is not None
    assert plain.upper is not None
    text = found.prompt["TEXT"].upper - plain.prompt["TEXT"].upper
    assert found.upper == 2 * (plain.upper + Decimal("0.14") + usd(500 * text))


# --- any shape -----------------------------------------------------------------------------------------------

values = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10**7) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
media = st.lists(st.text(max_size=9), max_size=3)
tasks = st.fixed_dictionaries(
    {"taskType": st.just("textInference"), "model": st.sampled_from([FLASH, PRO])},
    optional={
        "messages": values | st.lists(st.fixed_dictionaries({"role": values, "content": values}), max_size=3),
        "settings": values | st.fixed_dictionaries({"maxTokens": st.integers(1, 10**7), "systemPrompt": values}),
        "inputs": values | st.dictionaries(st.sampled_from(["images", "audios", "videos", "documents"]), media),
        "tools": values | st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": values})),
        "numberResults": st.integers(1, 100),
        "extra": values,
    },
)


@given(task=tasks, video_s=st.none() | st.integers(1, 10**6))
@example(task={"taskType": "textInference", "model": FLASH, "messages": "\ud800"}, video_s=None)
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_for_any_task_zero_to_expected_to_upper(task: dict[str, Any], video_s: int | None) -> None:
    try:
        found = of(task, **({} if video_s is None else {"video_s": video_s}))
    except InvalidRequest:
        return  # refused, and nothing is sent
    for expected, upper in (*found.prompt.values(), found.completion):
        assert 0 <= expected <= upper
    if found.upper is None or found.expected is None:
        assert found.unpriced
    else:
        assert 0 <= found.expected <= found.upper
    json.loads(found.to_json())


# --- through the guard ---------------------------------------------------------------------------------------


def test_an_estimate_changes_nothing(guard: Guard) -> None:
    task = a_task(taskUUID=None, includeCost=False)
    before = json.dumps(task)
    guard.estimate(task)
    assert json.dumps(task) == before
    assert not guard.ledger.tasks()


def test_the_refusal_names_the_setting_that_would_bound_the_media(guard: Guard, standin: StandIn) -> None:
    import httpx

    task = a_task(inputs={"videos": ["https://example.com/v.mp4"], "documents": ["u"]})
    with httpx.Client(base_url=API, transport=standin.transport()) as client:
        guard.wrap(client)
        with pytest.raises(BudgetExceeded, match=r"pdf_pages, video_s.*media_max"):
            client.post("/v1", json=[task])
        stated = {"costguard": {"media_max": {"video_s": 7, "pdf_pages": 2}}}
        assert client.post("/v1", json=[task], extensions=stated).status_code == 200


def test_the_guard_s_media_max_is_the_call_s_default(make_guard: Callable[..., Guard]) -> None:
    guard = make_guard(media_max={"video_s": 60})
    task = a_task(inputs={"videos": ["u"]})
    assert guard.estimate(task).prompt["VIDEO"].upper == 60 * 70
    assert guard.estimate(task, media_max={"video_s": 7}).prompt["VIDEO"].upper == 7 * 70
    assert not guard.estimate(task).unbounded


def test_a_model_without_a_price_still_has_its_text_counted_and_never_shows_zero(guard: Guard) -> None:
    said = "Describe the harbour."
    found = guard.estimate(a_task(said, model="runware:unknown@1"))
    assert (found.expected, found.upper) == (None, None)
    assert found.prompt["TEXT"] == (4, len(said) + FRAMING_TOKENS)  # nothing but bytes bounds it
    assert found.completion == (200, 200)


@pytest.mark.parametrize(
    "fields",
    [
        {"videos": ["https://example.com/a.mp4"]},
        {"inputs": {"videos": [["https://example.com/a.mp4"]]}},
        {"messages": [{"role": "user", "content": [{"type": "video_url", "url": "https://example.com/a.mp4"}]}]},
    ],
)
def test_media_in_places_the_wire_does_not_document_count_as_the_whole_context(
    fields: dict[str, Any], guard: Guard
) -> None:
    found = guard.estimate(a_task(**fields))
    assert max(count.upper for count in found.prompt.values()) == 1_048_576
    assert found.unbounded


def test_images_at_the_top_of_a_task_and_in_its_inputs_are_all_counted(guard: Guard) -> None:
    found = guard.estimate(a_task(images=["a.png"], inputs={"images": ["b.png", "c.png"]}))
    assert found.prompt["IMAGE"].upper == 3 * 1120
