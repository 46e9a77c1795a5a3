"""Images, audio, video and documents -> tokens, expected and upper.

An image has a published maximum. The tokens of audio, video and documents grow with their length, which is
known of a medium in the request itself (`costguard.estimating.measure`) and of a UUID that was billed before. A length
that is unknown counts as the model's whole context, unless the caller states a maximum; one that is known is
taken as it is, also above that maximum. A URL that was billed before is only likely to lead to the same
medium again: its count is expected, and bounds nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import ROUND_CEILING, Decimal, InvalidOperation
from typing import NamedTuple

from costguard.errors import ConfigurationError
from costguard.modalities import MODALITIES
from costguard.prices.price import MediaTokens

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


Reference = tuple[str, str]
"""A medium that is not in the request itself: its kind (a key of `inputs`), and its UUID or URL."""


class Recalled(NamedTuple):
    """What the ledger has of a reference: its `digest`, and the tokens it was billed as, None if it never was."""

    digest: str
    counts: Mapping[str, int] | None


class MediaCount(NamedTuple):
    """Tokens by modality, and the settings that would bound what is of unknown length.

    `teaches`: digests of references whose count the bill will tell: for each modality the ones it is billed in.
    """

    counts: dict[str, Count]
    unbounded: tuple[str, ...]
    teaches: dict[str, Mapping[str, tuple[str, ...]]]


def references(inputs: object) -> list[Reference]:
    """The UUIDs and URLs in a task's `inputs`."""
    return [(kind, item) for kind, item in _media(inputs) if isinstance(item, str) and _REFERENCE.match(item)]


def digest(key: bytes, model: str, reference: Reference) -> str:
    """What the ledger keeps in place of a reference: 128 bits, which only `key` can compare with one."""
    import hmac

    kind, name = reference
    text = "\0".join((model, kind, name.lower() if _is_uuid(name) else name))
    return hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256")[:16].hex()


def count_media(
    inputs: object,
    tokens: MediaTokens,
    stated: MediaMax,
    context_tokens: int,
    recalled: Mapping[Reference, Recalled] | None = None,
) -> MediaCount:
    """Tokens of a task's `inputs` (lists of UUIDs, URLs, data URIs or base64 by kind), per result.

    A video counts as VIDEO and, for its sound, as AUDIO. Unknown kinds count as the whole context.
    """
    totals = {modality: [0, 0] for modality in MODALITIES}
    unbounded: list[str] = []
    teaches = {}
    media = list(_media(inputs))
    for kind, item in media:
        known = recalled.get((kind, item)) if recalled and isinstance(item, str) else None
        if known is not None and _bills_alone(kind, media):
            teaches[known.digest] = _BILLED[kind]
        billed = known.counts if known is not None else None
        if billed is not None and _is_uuid(item):
            counts = {modality: Count(found, found) for modality, found in billed.items()}
        else:
            measured = _count(kind, item, tokens, stated)
            if measured is None:
                unbounded.append(_SETTINGS.get(kind, f"inputs.{kind}"))
            whole = Count(context_tokens, context_tokens)
            counts = measured or dict.fromkeys(_BILLED.get(kind, ("DOCUMENT",)), whole)
            if billed is not None:
                counts = {m: Count(min(billed.get(m, 0), count.upper), count.upper) for m, count in counts.items()}
        for modality, count in counts.items():
            totals[modality][0] += count.expected
            totals[modality][1] += count.upper
    return MediaCount({m: Count(*total) for m, total in totals.items()}, tuple(dict.fromkeys(unbounded)), teaches)


def _count(kind: str, item: object, tokens: MediaTokens, stated: MediaMax) -> dict[str, Count] | None:
    """Tokens of one medium, measured or else as stated; None if its length is unknown."""
    inline = _inline(item)
    if inline:
        from costguard.estimating import measure  # late: few tasks carry media
    if kind == "images":
        size = measure.image_size(inline) if inline and tokens.image_grid else None
        expected = tokens.image_expected if size is None else _grid(*size, tokens.image_upper)
        return {"IMAGE": Count(expected, tokens.image_upper)}
    if kind == "documents":
        pages = measure.pdf_pages(inline) if inline else None
        if pages is None and stated.pdf_pages is None:
            return None
        expected, upper = pages or (_up(stated.pdf_pages or Decimal(0)),) * 2
        return {"DOCUMENT": Count(expected * tokens.document_page, upper * tokens.document_page)}
    if kind not in ("audios", "videos"):
        return None
    length = measure.length_s(inline, kind) if inline else None
    if length is not None:
        # Encoders pad, and a provider may round: the bound is a second longer.
        sound = Count(_up(length * tokens.audio_per_s), _up((length + 1) * tokens.audio_per_s))
        frames = Count(max(1, int(length)), int(length) + 1)
    else:
        length = stated.audio_s if kind == "audios" else stated.video_s
        if length is None:
            return None
        sound = Count(_up(length * tokens.audio_per_s), _up(length * tokens.audio_per_s))
        frames = Count(_up(length), _up(length))
    if kind == "audios":
        return {"AUDIO": sound}
    return {
        "VIDEO": Count(frames.expected * tokens.frame_expected, frames.upper * tokens.frame_upper),
        "AUDIO": sound,
    }


_BILLED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "images": {"IMAGE": ("IMAGE",)},
    "audios": {"AUDIO": ("AUDIO",)},
    "videos": {"VIDEO": ("VIDEO",), "AUDIO": ("AUDIO",)},
    "documents": {"DOCUMENT": ("DOCUMENT", "IMAGE")},
}
"""By kind: the modalities it is counted in, and those the provider may report for each."""

_SETTINGS = {"audios": "audio_s", "videos": "video_s", "documents": "pdf_pages"}
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_REFERENCE = re.compile(rf"(?:{_UUID.pattern})\Z|(?!data:)[a-z][a-z0-9+.-]{{0,30}}:", re.IGNORECASE)
_DATA = re.compile(r"data:(?:[^,]{0,200};base64,)?", re.IGNORECASE)


def _media(inputs: object) -> Iterator[tuple[str, object]]:
    """Each medium of `inputs` with its kind; "" for what is not a mapping of lists."""
    for kind, value in (inputs if isinstance(inputs, Mapping) else {"": inputs}).items():
        for item in _flat(value):
            if item is not None and item not in ("", {}):
                yield kind, item


def _flat(value: object) -> Iterator[object]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _is_uuid(item: object) -> bool:
    return isinstance(item, str) and _UUID.fullmatch(item) is not None


def _inline(item: object) -> str | None:
    """The base64 text of a medium in the request itself, None for anything else."""
    if not isinstance(item, str) or _REFERENCE.match(item):
        return None
    uri = _DATA.match(item)
    if uri is None:
        return item
    return item[uri.end() :] if uri[0].endswith(",") else None


def _bills_alone(kind: str, media: Sequence[tuple[str, object]]) -> bool:
    """True if no other medium of the task can be billed in the modalities that this one is billed in."""
    own = {modality for billed in _BILLED.get(kind, {}).values() for modality in billed}
    rivals = 0
    for other, _ in media:
        theirs = {modality for billed in _BILLED.get(other, {}).values() for modality in billed}
        rivals += bool(own & theirs) or not theirs
    return bool(own) and rivals == 1


def _grid(width: int, height: int, tokens: int) -> int:
    """Tokens of an image scaled to fill a grid of at most `tokens` square patches, its aspect ratio kept."""
    rows, columns = math.isqrt(tokens * height // width), math.isqrt(tokens * width // height)
    if not rows or not columns:
        return min(max(width // height, height // width), tokens)
    return rows * columns


def _up(number: Decimal) -> int:
    return int(number.to_integral_value(ROUND_CEILING))
