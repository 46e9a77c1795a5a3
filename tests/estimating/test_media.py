"""Media to tokens: the published maxima, stated lengths, and what is of unknown length."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from costguard.errors import ConfigurationError
from costguard.estimating.counts import Count
from costguard.estimating.media import MediaMax, count_media, parse_media_max
from costguard.modalities import MODALITIES
from costguard.prices.model import MediaTokens

GEMINI = MediaTokens(
    {
        "image_expected": 1064,
        "image_upper": 1120,
        "frame_expected": 64,
        "frame_upper": 70,
        "audio_per_s": 25,
        "document_page": 560,
    }
)
CONTEXT = 1_048_576
URL = "https://example.com/clip"


def count(inputs: object, stated: MediaMax = MediaMax()) -> dict[str, Count]:  # noqa: B008
    counts = count_media(inputs, GEMINI, stated, CONTEXT).counts
    assert tuple(counts) == MODALITIES
    return {modality: found for modality, found in counts.items() if found.upper}


def test_an_image_counts_as_billed_and_at_most_the_published_maximum() -> None:
    assert count({"images": [URL, "uuid"]}) == {"IMAGE": Count(2 * 1064, 2 * 1120)}


def test_a_clip_of_6_08_s_counts_as_in_the_published_breakdown() -> None:
    found = count({"videos": [URL]}, MediaMax(video_s=Decimal("6.08")))
    assert found["AUDIO"] == Count(152, 152)
    assert found["VIDEO"].expected - 64 == 384  # six whole seconds, and the one begun
    assert found["VIDEO"].upper == 7 * 70


@pytest.mark.parametrize(
    ("inputs", "stated", "found"),
    [
        ({"audios": [URL]}, {"audio_s": "0.01"}, {"AUDIO": Count(1, 1)}),
        ({"audios": [URL, URL]}, {"audio_s": 2}, {"AUDIO": Count(100, 100)}),
        ({"documents": [URL]}, {"pdf_pages": 3}, {"DOCUMENT": Count(1680, 1680)}),
        ({"videos": URL}, {"video_s": 1}, {"VIDEO": Count(64, 70), "AUDIO": Count(25, 25)}),
        ({"audios": [], "images": None, "documents": [None, "", {}]}, {}, {}),
        (None, {}, {}),
    ],
)
def test_stated_lengths_bound_media(inputs: object, stated: dict[str, object], found: dict[str, Count]) -> None:
    assert count(inputs, parse_media_max(stated)) == found


ALL = Count(CONTEXT, CONTEXT)
ANYTHING = dict.fromkeys(MODALITIES[1:], ALL)


@pytest.mark.parametrize(
    ("inputs", "found", "setting"),
    [
        ({"audios": [URL]}, {"AUDIO": ALL}, "audio_s"),
        ({"videos": [URL]}, {"VIDEO": ALL, "AUDIO": ALL}, "video_s"),
        ({"documents": [URL]}, {"DOCUMENT": ALL}, "pdf_pages"),
        ({"holograms": [URL]}, ANYTHING, "inputs.holograms"),
        ([URL], ANYTHING, "inputs."),
        ("text", ANYTHING, "inputs."),
    ],
)
def test_media_of_unknown_length_count_as_the_context_and_name_their_setting(
    inputs: object, found: dict[str, Count], setting: str
) -> None:
    media = count_media(inputs, GEMINI, MediaMax(), CONTEXT)
    assert {modality: counted for modality, counted in media.counts.items() if counted.upper} == found
    assert media.unbounded == (setting,)


def test_each_setting_bounds_its_own_kind_only() -> None:
    media = count_media({"audios": [URL], "videos": [URL, URL]}, GEMINI, MediaMax(audio_s=Decimal(1)), CONTEXT)
    assert media.unbounded == ("video_s",)


@pytest.mark.parametrize("value", [0, -1, True, "long", "NaN", "Infinity", None, [], 10**8, 1e400])
def test_a_length_must_be_a_sensible_number(value: object) -> None:
    with pytest.raises(ConfigurationError, match="video_s must be a number above 0"):
        parse_media_max({"video_s": value})


@pytest.mark.parametrize(("value", "said"), [(["video_s"], "expected a mapping"), ({"images": 1}, "unknown key")])
def test_the_setting_must_be_a_mapping_of_known_keys(value: object, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        parse_media_max(value)


def test_a_call_states_over_what_the_guard_states() -> None:
    base = parse_media_max({"video_s": 60, "audio_s": 1.5})
    assert parse_media_max({"video_s": "7"}, base) == {"video_s": Decimal(7), "audio_s": Decimal("1.5")}


odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
kinds = st.sampled_from(["images", "audios", "videos", "documents", "other"])


@given(inputs=odd | st.dictionaries(kinds, odd | st.lists(odd, max_size=4)), video=st.none() | st.integers(1, 9999))
def test_inputs_of_any_shape_count_from_expected_to_upper(inputs: Any, video: int | None) -> None:
    stated = MediaMax({} if video is None else {"video_s": Decimal(video)})
    for expected, upper in count_media(inputs, GEMINI, stated, CONTEXT).counts.values():
        assert 0 <= expected <= upper
