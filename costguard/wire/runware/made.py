"""What a task asks to be made, or a result is, where that is no text: its size, its length, its sound."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import MAX_EMAX, MIN_EMIN, ROUND_CEILING, Context, Decimal
from typing import Any

from costguard.outputs import MILLISECONDS_MAX, PARTS, PIXELS_MAX, Output
from costguard.wire.runware.prompt import OBJECT
from costguard.wire.runware.tellings import is_finite, number

_KEYS = frozenset(("width", "height", "duration", "resolution"))
_SOUND = ("audio", "generateAudio")
_SCALED = ("upscaleFactor", "targetMegapixels")
_RESOLUTION = re.compile(r"[0-9A-Za-z.]{1,12}")
_UNSAID = Output()
_EXACT = Context(prec=80, Emin=MIN_EMIN, Emax=MAX_EMAX)  # the program's own may have any precision


def read_output(raw: Mapping[str, Any]) -> Output:
    """What a task of any type but text asks for. What cannot be read is not said, so that the most is held for it.

    Of several words for one thing the largest counts, of several resolutions none. The size of what is scaled up is
    not said: any that the task states may be that of what it was made from.
    """
    said = list(places(raw))
    asked = Output(
        _largest(said, "width", 1, PIXELS_MAX),
        _largest(said, "height", 1, PIXELS_MAX),
        _largest(said, "duration", PARTS["seconds"], MILLISECONDS_MAX),
        _only([_resolution(place["resolution"]) for place in said if place.get("resolution") not in (None, "")]),
        _sound(said),
    )
    is_scaled = any(place.get(key) is not None for place in said for key in _SCALED)
    return asked._replace(width=None, height=None) if is_scaled else asked


def read_made(item: Mapping[str, Any]) -> Output:
    """What a result is told to be, where that is told."""
    if _KEYS.isdisjoint(item):
        return _UNSAID
    sizes = [_count(item.get("width"), 1), _count(item.get("height"), 1)]
    width, height = [side if side is not None and side <= PIXELS_MAX else None for side in sizes]
    length = _count(item.get("duration"), PARTS["seconds"])
    is_length = length is not None and length <= MILLISECONDS_MAX
    return Output(width, height, length if is_length else None, _resolution(item.get("resolution")))


def _largest(said: Sequence[Mapping[str, Any]], key: str, parts: int, most: int) -> int | None:
    """The largest that is said of something; none where one of the words for it is no number."""
    counts = [_count(place[key], parts) for place in said if place.get(key) is not None]
    known = [count for count in counts if count is not None]
    return min(max(known), most) if known and len(known) == len(counts) else None


def _only(names: Sequence[str]) -> str:
    return names[0] if len(set(names)) == 1 else ""


def _resolution(value: Any) -> str:
    return value.lower() if isinstance(value, str) and _RESOLUTION.fullmatch(value) else ""


def _count(value: Any, parts: int) -> int | None:
    """A number above 0 in so many parts of its unit, begun ones whole; None for anything else.

    What is beyond `MILLISECONDS_MAX` is that and one more: nobody counts further.
    """
    found = number(repr(value) if isinstance(value, float) else value)
    if found is None or not is_finite(found) or found <= 0:
        return None
    if found > MILLISECONDS_MAX:
        return MILLISECONDS_MAX + 1
    return max(1, int(_EXACT.multiply(Decimal(found), parts).to_integral_value(ROUND_CEILING, _EXACT)))


def _sound(said: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether it is to have sound: of two words for it, the one that costs more."""
    words = [place[key] for place in said for key in _SOUND if isinstance(place.get(key), bool)]
    return any(words) if words else None


def places(raw: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Where a provider's own settings are: at the top, in `settings`, in `providerSettings` by provider."""
    yield raw
    own = raw.get("providerSettings")
    for place in (raw.get("settings"), own, *(own.values() if isinstance(own, OBJECT) else ())):
        if isinstance(place, OBJECT):
            yield place
