"""What a task asks to be made, and what a result is told to be: read where it can be, and never guessed."""

from __future__ import annotations

import json
from decimal import Decimal, Inexact, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costguard.errors import InvalidRequest
from costguard.outputs import Output
from costguard.wire.runware.answers import parse_response, read_payload
from costguard.wire.runware.made import read_made, read_output
from costguard.wire.runware.requests import from_dict, parse_request

UNUSABLE: tuple[Any, ...] = (
    None,
    0,
    -5,
    True,
    "auto",
    "",
    [5],
    {"s": 5},
    Decimal("NaN"),
    float("inf"),
)


@pytest.mark.parametrize(
    ("stated", "milliseconds"),
    [
        (5, 5000), ("5", 5000), (5.0, 5000), (6.08, 6080), ("6.08", 6080), (Decimal("6.0416667"), 6042),
        (6.0416667, 6042), (0.0001, 1), (Decimal("1E+1"), 10_000),
    ],
)  # fmt: skip
def test_a_length_is_read_in_thousandths_of_a_second_begun_ones_whole(stated: Any, milliseconds: int) -> None:
    assert read_output({"duration": stated}).milliseconds == milliseconds


@pytest.mark.parametrize("value", UNUSABLE, ids=repr)
def test_what_is_no_length_or_size_is_not_said(value: Any) -> None:
    assert read_output({"duration": value, "width": value, "height": value}) == Output()
    assert read_made({"duration": value, "width": value, "height": value}) == Output()


@pytest.mark.parametrize("value", [10**12, "1e999", 10**9 + 1, Decimal("1E+999999999")], ids=repr)
def test_what_is_beyond_all_bounds_is_asked_for_as_the_most_there_is_and_not_believed_of_a_result(value: Any) -> None:
    raw = {"duration": value, "width": value, "height": value}
    assert read_output(raw) == Output(10**6, 10**6, 10**9)
    assert read_made(raw) == Output()


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"duration": 5, "settings": {"duration": 30}}, Output(milliseconds=30_000)),
        ({"duration": 5, "providerSettings": {"acme": {"duration": 4}}}, Output(milliseconds=5000)),
        ({"providerSettings": {"acme": {"duration": 30}}}, Output(milliseconds=30_000)),
        ({"duration": "auto", "settings": {"duration": 4}}, Output()),
        ({"width": 512, "height": 512, "settings": {"width": 2048}}, Output(2048, 512)),
        ({"resolution": "720p", "settings": {"resolution": "1080p"}}, Output()),
        ({"resolution": "720p", "settings": {"resolution": "720P"}}, Output(resolution="720p")),
        ({"resolution": "16:9", "settings": {"resolution": "720p"}}, Output()),
        ({"settings": {"resolution": "1080p"}}, Output(resolution="1080p")),
    ],
)
def test_of_several_words_for_one_thing_the_largest_counts_and_of_several_resolutions_none(
    raw: dict[str, Any], said: Output
) -> None:
    assert read_output(raw) == said


@pytest.mark.parametrize("scaled", [{"upscaleFactor": 2}, {"settings": {"targetMegapixels": 8}}])
def test_the_size_of_what_is_scaled_up_is_not_that_of_what_it_is_made_from(scaled: dict[str, Any]) -> None:
    assert read_output({"width": 512, "height": 512, **scaled}) == Output()


def test_a_length_is_read_to_its_last_digit_whatever_the_precision_of_the_program() -> None:
    with localcontext() as context:
        context.prec = 2
        context.traps[Inexact] = True
        assert read_output({"duration": 6.0416667}).milliseconds == 6042
        assert read_made({"duration": Decimal("6.0410000000000000000000000000000001")}).milliseconds == 6042
        assert read_made({"duration": Decimal("1E-99999999")}).milliseconds == 1


@pytest.mark.parametrize(
    ("raw", "results"),
    [
        ({}, 1),
        ({"providerSettings": {"bytedance": {"maxSequentialImages": 4}}}, 4),
        ({"settings": {"maxSequentialImages": 4}, "numberResults": 3}, 12),
        ({"settings": {"maxSequentialImages": None}}, 1),
    ],
)
def test_every_image_of_a_sequence_is_a_result(raw: dict[str, Any], results: int) -> None:
    assert from_dict({"taskType": "imageInference", "model": "a:b@1", **raw}).results == results


@pytest.mark.parametrize("many", [0, -1, 51, "4", 2.5, True])
def test_a_sequence_of_no_known_length_is_refused_by_its_name(many: Any) -> None:
    task = {"taskType": "imageInference", "model": "a:b@1", "settings": {"maxSequentialImages": many}}
    with pytest.raises(InvalidRequest, match="maxSequentialImages: expected a whole number from 1 to 50, found"):
        from_dict(task)


def test_a_size_is_said_by_both_sides() -> None:
    assert read_output({"width": 1024, "height": 768}).pixels == 786_432
    assert read_output({"width": 1024}).pixels is None
    asked = Output(1024, 1024, 5000, "720p", True)
    assert Output(width=512).over(asked) == asked
    assert Output(512, 256, 4000).over(asked) == Output(512, 256, 4000, "720p", True)


@pytest.mark.parametrize(
    ("stated", "name"), [("1080p", "1080p"), ("4K", "4k"), ("0.5K", "0.5k"), (1080, ""), ("a b", ""), ("x" * 13, "")]
)
def test_a_resolution_is_a_short_name_in_lower_case(stated: object, name: str) -> None:
    assert read_output({"resolution": stated}).resolution == name


@pytest.mark.parametrize(
    ("raw", "audio"),
    [
        ({}, None),
        ({"audio": "yes"}, None),
        ({"audio": False}, False),
        ({"settings": {"audio": True}}, True),
        ({"providerSettings": {"google": {"generateAudio": True}}}, True),
        ({"providerSettings": {"google": {"generateAudio": False}}, "settings": {"audio": False}}, False),
        ({"providerSettings": {"google": {"generateAudio": True}}, "settings": {"audio": False}}, True),
        ({"providerSettings": [1], "settings": "x"}, None),
    ],
)
def test_sound_is_read_wherever_it_is_said_and_of_two_words_the_dearer(raw: dict[str, Any], audio: bool | None) -> None:
    assert read_output(raw).audio is audio


def test_a_request_says_what_is_to_be_made_and_a_text_nothing() -> None:
    raw = {"taskType": "videoInference", "model": "a:b@1", "duration": 5.5, "resolution": "720p", "width": 2}
    told = Output(width=2, milliseconds=5500, resolution="720p")
    assert parse_request(json.dumps([raw]).encode()).tasks[0].output == told
    assert from_dict(raw).output == told
    assert from_dict({**raw, "taskType": "textInference"}).output == Output()


def test_a_result_says_what_was_made_and_later_tellings_add_to_it() -> None:
    item = {"taskUUID": "a", "taskType": "videoInference", "videoURL": "https://x.example/v.mp4"}
    found = parse_response(json.dumps({"data": [{**item, "duration": 4.96, "width": 1280, "height": 720}]}).encode())
    assert found is not None
    told = found.items[0].told
    assert told.read().made == Output(1280, 720, 4960)
    later = read_payload({**item, "cost": 0.25})
    assert later is not None
    for both in (told.merged(later.items[0].told), later.items[0].told.merged(told)):
        assert (both.read().made, both.read().cost) == (Output(1280, 720, 4960), 250_000_000)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["audio", "google", "x"]), inner),
    max_leaves=8,
)
_KEYS = st.sampled_from(["width", "height", "duration", "resolution", "audio", "settings", "providerSettings"])


@given(st.dictionaries(_KEYS, _JSON))
def test_whatever_stands_there_is_read_without_an_error_and_within_bounds(raw: dict[str, Any]) -> None:
    found = read_output(raw)
    assert all(number is None or 0 < number <= 10**9 for number in found[:3])
    assert found.resolution == found.resolution.lower()
