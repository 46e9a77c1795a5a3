"""Images, audio, video and documents -> tokens, expected and upper.

An image has a published maximum. The tokens of audio, video and documents grow with their length:
where that is unknown they count as the model's whole context, unless the caller states a maximum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import NamedTuple

from costguard.errors import ConfigurationError
from costguard.prices import MediaTokens

MODALITIES = ("TEXT", "IMAGE", "AUDIO", "VIDEO", "DOCUMENT")
"""The prompt modalities of an estimate, in the order they are shown."""

_LENGTH_MAX = Decimal(10**7)


class Count(NamedTuple):
    """Tokens: what is likely, and what cannot be passed."""

    expected: int
    upper: int


class MediaMax(NamedTuple):
    """The longest medium the caller sends, each; None if not stated. Seconds and pages."""

    video_s: Decimal | None = None
    audio_s: Decimal | None = None
    pdf_pages: Decimal | None = None


def parse_media_max(value: object, base: MediaMax = MediaMax(), what: str = "media_max") -> MediaMax:  # noqa: B008
    """Read `{"video_s": …, "audio_s": …, "pdf_pages": …}` (numbers above 0) over `base`."""
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{what}: expected a mapping such as {{'video_s': 60}}, got {value!r}")
    lengths: dict[str, Decimal] = {}
    for key, length in value.items():
        if key not in MediaMax._fields:
            raise ConfigurationError(f"{what}: unknown key {key!r}; known are {', '.join(MediaMax._fields)}")
        try:
            # Seconds and pages are not money: a float is welcome, by its shortest decimal text.
            number = Decimal("NaN") if isinstance(length, bool) else Decimal(str(length))
        except InvalidOperation:
            number = Decimal("NaN")
        if not number.is_finite() or not 0 < number <= _LENGTH_MAX:
            raise ConfigurationError(f"{what}: {key} must be a number above 0 and at most 10^7, got {length!r}")
        lengths[key] = number
    return base._replace(**lengths)


class MediaCount(NamedTuple):
    """Tokens by modality, and the settings that would bound what is of unknown length."""

    counts: dict[str, Count]
    unbounded: tuple[str, ...]


def count_media(inputs: object, tokens: MediaTokens, stated: MediaMax, context_tokens: int) -> MediaCount:
    """Tokens of a task's `inputs` (lists of UUIDs, URLs, data URIs or base64 by kind), per result.

    A video counts as VIDEO and, for its sound, as AUDIO. Unknown kinds count as the whole context.
    """
    totals = {modality: [0, 0] for modality in MODALITIES}
    unbounded: list[str] = []
    if inputs is None:
        inputs = {}
    if not isinstance(inputs, Mapping):
        inputs = {"": inputs}

    def add(modality: str, expected: int, upper: int) -> None:
        totals[modality][0] += expected
        totals[modality][1] += upper

    for kind, value in inputs.items():
        items = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        for item in items:
            if item is None or item in ("", {}):
                continue
            if kind == "images":
                add("IMAGE", tokens.image_expected, tokens.image_upper)
            elif kind == "audios" and stated.audio_s is not None:
                heard = _up(stated.audio_s * tokens.audio_per_s)
                add("AUDIO", heard, heard)
            elif kind == "videos" and stated.video_s is not None:
                frames = _up(stated.video_s)
                heard = _up(stated.video_s * tokens.audio_per_s)
                add("VIDEO", frames * tokens.frame_expected, frames * tokens.frame_upper)
                add("AUDIO", heard, heard)
            elif kind == "documents" and stated.pdf_pages is not None:
                pages = _up(stated.pdf_pages) * tokens.document_page
                add("DOCUMENT", pages, pages)
            else:
                for modality in _UNBOUNDED.get(kind, ("DOCUMENT",)):
                    add(modality, context_tokens, context_tokens)
                unbounded.append(_SETTINGS.get(kind, f"inputs.{kind}"))
    return MediaCount({m: Count(*total) for m, total in totals.items()}, tuple(dict.fromkeys(unbounded)))


_UNBOUNDED = {"audios": ("AUDIO",), "videos": ("VIDEO", "AUDIO"), "documents": ("DOCUMENT",)}
_SETTINGS = {"audios": "audio_s", "videos": "video_s", "documents": "pdf_pages"}


def _up(number: Decimal) -> int:
    return int(number.to_integral_value(ROUND_CEILING))
