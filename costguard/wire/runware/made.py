"""What a task asks to be made, or a result is, where that is no text: its size, its length, its sound."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any

from costguard.outputs import MILLISECONDS_MAX, PARTS, PIXELS_MAX, Output
from costguard.wire.runware.prompt import OBJECT
from costguard.wire.runware.tellings import is_finite, number

_KEYS = frozenset(("width", "height", "duration", "resolution"))
_SOUND = ("audio", "generateAudio")
_RESOLUTION = re.compile(r"[0-9A-Za-z.]{1,12}")
_UNSAID = Output()


def read_output(raw: Mapping[str, Any]) -> Output:
    """What a task of any type but text asks for. What cannot be read is not said, so that the most is held for it."""
    return _sizes(raw)._replace(audio=_sound(raw))


def read_made(item: Mapping[str, Any]) -> Output:
    """What a result is told to be, where that is told."""
    return _UNSAID if _KEYS.isdisjoint(item) else _sizes(item)


def _sizes(raw: Mapping[str, Any]) -> Output:
    resolution = raw.get("resolution")
    is_name = isinstance(resolution, str) and _RESOLUTION.fullmatch(resolution)
    return Output(
        _count(raw.get("width"), 1, PIXELS_MAX),
        _count(raw.get("height"), 1, PIXELS_MAX),
        _count(raw.get("duration"), PARTS["seconds"], MILLISECONDS_MAX),
        str(resolution).lower() if is_name else "",
    )


def _count(value: Any, parts: int, most: int) -> int | None:
    """A number above 0 in so many parts of its unit, begun ones whole; None for anything else."""
    found = number(repr(value) if isinstance(value, float) else value)
    if found is None or not is_finite(found) or not 0 < found <= most:
        return None
    counted = int((Decimal(found) * parts).to_integral_value(ROUND_CEILING))
    return counted if counted <= most else None


def _sound(raw: Mapping[str, Any]) -> bool | None:
    """Whether it is to have sound: of two words for it, the one that costs more."""
    said = [place[key] for place in _places(raw) for key in _SOUND if isinstance(place.get(key), bool)]
    return any(said) if said else None


def _places(raw: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Where a provider's own settings are: at the top, in `settings`, in `providerSettings` by provider."""
    yield raw
    own = raw.get("providerSettings")
    for place in (raw.get("settings"), own, *(own.values() if isinstance(own, OBJECT) else ())):
        if isinstance(place, OBJECT):
            yield place
