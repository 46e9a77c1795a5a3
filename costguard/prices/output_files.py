"""Price files of what is made: by the result, the second or the megapixel. pricing/README.md describes the format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from costguard.outputs import PARTS, Output
from costguard.prices.output import OutputPrice, Rate, meters
from costguard.prices.table import Dated, Table

ROUNDING = ("exact", "up")
"""How seconds and megapixels are counted: as they are, or begun ones whole."""

_CONDITIONS = ("resolution", "audio", "up_to", "up_to_pixels")


class Unsaid(NamedTuple):
    """What a result is taken to be where its task does not say: likely, and at most."""

    default: Output
    most: Output


def read_unsaid(table: Table) -> Unsaid:
    """The `[output]` of a price file. PriceFileError names the key that cannot be used."""
    size, max_size = (table.size(key) if table.has(key) else None for key in ("size", "max_size"))
    length, longest = (table.seconds(key) if table.has(key) else None for key in ("seconds", "max_seconds"))
    if size and max_size and (max(size) > max(max_size) or min(size) > min(max_size)):
        table.refuse("size", f"{size[0]}x{size[1]} is above max_size = {max_size[0]}x{max_size[1]}")
    if length and longest and length > longest:
        table.refuse("seconds", "is above max_seconds")
    table.close()
    return Unsaid(_output(size, length), _output(max_size, longest))


def _output(size: tuple[int, int] | None, milliseconds: int | None) -> Output:
    width, height = size or (None, None)
    return Output(width, height, milliseconds)


def read_price(table: Table, dated: Dated, unsaid: Unsaid) -> OutputPrice:
    """One entry of `[[prices]]`. PriceFileError names the key that cannot be used."""
    known = meters()
    unit = table.choice("per", tuple(known))
    meter = known[unit]
    is_whole, pixels = False, PARTS["megapixels"]
    if meter != "results":
        is_whole = table.choice("round", ROUNDING) == "up"
    elif table.has("round"):
        table.refuse("round", "results are always whole; leave it out")
    if table.has("megapixel"):
        pixels = table.count("megapixel")
        if meter != "megapixels" or not is_whole:
            table.refuse("megapixel", 'can be stated with per = "megapixel" and round = "up" only')
    rates: list[Rate] = []
    stated: set[str] = set()
    for number, entry in enumerate(table.tables("rates")):
        conditions = {key for key in _CONDITIONS if entry.has(key)}
        if number and conditions != stated:
            odd = sorted(conditions ^ stated)[0]
            entry.refuse(odd, "every rate of an entry states the same conditions, and the first one states other ones")
        stated = conditions
        rates.append(_rate(entry, conditions, rates))
    price = OutputPrice(
        dated.id, dated.effective_us, dated.checked, dated.source, dated.note, meter, is_whole, pixels, tuple(rates),
        *unsaid,
    )  # fmt: skip
    table.close()
    return price


def _rate(table: Table, conditions: set[str], before: Sequence[Rate]) -> Rate:
    if {"up_to", "up_to_pixels"} <= conditions:
        table.refuse("up_to_pixels", "state the size by its sides (up_to) or by its pixels (up_to_pixels), not by both")
    width_height = table.size("up_to") if "up_to" in conditions else None
    rate = Rate(
        nanos=table.usd("usd"),
        resolution=table.name("resolution").lower() if "resolution" in conditions else "",
        audio=table.flag("audio") if "audio" in conditions else None,
        sides=(max(width_height), min(width_height)) if width_height else None,
        pixels=table.count("up_to_pixels") if "up_to_pixels" in conditions else None,
    )
    table.close()
    alike = [other for other in before if (other.resolution, other.audio) == (rate.resolution, rate.audio)]
    if alike and rate.reach is None:
        table.refuse("usd", f"there is a rate {rate.name or 'for all results'} already; each is stated once")
    for other in alike[-1:]:
        if not _is_above(rate, other):
            key = "up_to" if rate.sides else "up_to_pixels"
            table.refuse(key, f"{rate.name!r} does not go beyond the rate before it, {other.name!r}; they ascend")
    return rate


def _is_above(rate: Rate, other: Rate) -> bool:
    if rate.sides is None or other.sides is None:
        return (rate.pixels or 0) > (other.pixels or 0)
    return rate.sides != other.sides and rate.sides[0] >= other.sides[0] and rate.sides[1] >= other.sides[1]
