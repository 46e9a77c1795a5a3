"""Media -> tokens by modality, expected and upper, whatever their kind.

How one medium of a kind counts is told in `kinds/`. Where that depends on its length, the length of a medium in
the request itself is measured, also above what the caller states as the longest, and a UUID that was billed
before counts as it was billed. A length that stays unknown counts as the model's whole context, unless the
caller states a maximum. A URL that was billed before is only likely to lead to the same medium again: its count
is expected, and bounds nothing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from costguard.errors import ConfigurationError
from costguard.estimating.counts import Count
from costguard.estimating.kinds import counter
from costguard.modalities import KINDS, MEDIA_MAX, MODALITIES, REPORTED, Kind
from costguard.prices.model import MediaTokens

_LENGTH_MAX = Decimal(10**7)


class MediaMax(dict[str, Decimal]):
    """The longest medium the caller sends, by setting (`MEDIA_MAX`): seconds and pages. Not to be changed."""


def parse_media_max(value: object, base: MediaMax = MediaMax(), what: str = "media_max") -> MediaMax:  # noqa: B008
    """Read `{"video_s": …, "audio_s": …, "pdf_pages": …}` (numbers above 0) over `base`.

    ConfigurationError names `what` and the key that cannot be used.
    """
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{what}: expected a mapping such as {{'video_s': 60}}, got {value!r}")
    lengths = MediaMax(base)
    for key, length in value.items():
        if key not in MEDIA_MAX:
            raise ConfigurationError(f"{what}: unknown key {key!r}; known are {', '.join(MEDIA_MAX)}")
        try:
            # Seconds and pages are not money: a float is welcome, by its shortest decimal text.
            number = Decimal("NaN") if isinstance(length, bool) else Decimal(str(length))
        except InvalidOperation:
            number = Decimal("NaN")
        if not number.is_finite() or not 0 < number <= _LENGTH_MAX:
            raise ConfigurationError(f"{what}: {key} must be a number above 0 and at most 10^7, got {length!r}")
        lengths[key] = number
    return lengths


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
    priced: Collection[str] = MODALITIES,
) -> MediaCount:
    """Tokens of a task's `inputs` (lists of UUIDs, URLs, data URIs or base64 by kind), per result.

    What is of no known kind counts as the whole context in every modality of media that has a price (`priced`).
    """
    totals = {modality: [0, 0] for modality in MODALITIES}
    unbounded: list[str] = []
    teaches = {}
    whole = Count(context_tokens, context_tokens)
    anything = [modality for modality in REPORTED if modality in priced] or list(REPORTED)
    media = list(_media(inputs))
    for name, item in media:
        kind = KINDS.get(name)
        known = recalled.get((name, item)) if recalled and isinstance(item, str) else None
        if known is not None and kind is not None and _bills_alone(kind, media):
            teaches[known.digest] = kind.billed
        billed = known.counts if known is not None else None
        if billed is not None and _is_uuid(item):
            counts = {modality: Count(found, found) for modality, found in billed.items()}
        else:
            measured = kind and counter(name)(_inline(item), tokens, stated.get(kind.maximum))
            if measured is None:
                unbounded.append((kind and kind.maximum) or f"inputs.{name}")
            counts = measured or dict.fromkeys(kind.billed if kind else anything, whole)
            if billed is not None:
                counts = {m: Count(min(billed.get(m, 0), count.upper), count.upper) for m, count in counts.items()}
        for modality, count in counts.items():
            totals[modality][0] += count.expected
            totals[modality][1] += count.upper
    return MediaCount({m: Count(*total) for m, total in totals.items()}, tuple(dict.fromkeys(unbounded)), teaches)


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


def _bills_alone(kind: Kind, media: Sequence[tuple[str, object]]) -> bool:
    """True if no other medium of the task can be billed in the modalities that one of `kind` is billed in."""
    own = _reported(kind)
    rivals = [other for other, _ in media if other not in KINDS or own & _reported(KINDS[other])]
    return len(rivals) == 1


def _reported(kind: Kind) -> set[str]:
    return {modality for reported in kind.billed.values() for modality in reported}
