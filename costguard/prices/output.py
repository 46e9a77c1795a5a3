"""One dated price of what a task makes: by the result, the second or the megapixel, exactly.

A rate is an `int` of nano-USD per unit; a quantity counts parts of that unit (`costguard.outputs.PARTS`), so a line is
one integer product, rounded once to a nano-dollar.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple, NoReturn

from costguard.budgets import from_us
from costguard.errors import ConfigurationError
from costguard.money import to_usd
from costguard.outputs import PARTS, Output, quantity_text
from costguard.prices.price import COUNT_MAX, PricedCost, PriceLine

COST_MAX_NANOS = 10**15
"""No result may cost more (1,000,000 USD): sums of them stay within 64 bits."""

_UNITS = {"results": "result", "seconds": "second", "megapixels": "megapixel"}


class Rate(NamedTuple):
    """Nano-USD of one unit, and for which results: an empty `resolution` and a None hold for any.

    `sides`: the longer and the shorter side, in pixels, that it goes up to; `pixels`: or their product.
    """

    nanos: int
    resolution: str = ""
    audio: bool | None = None
    sides: tuple[int, int] | None = None
    pixels: int | None = None

    @property
    def reach(self) -> int | None:
        """The most pixels that it is for; None if it is not by size."""
        return self.pixels if self.sides is None else self.sides[0] * self.sides[1]

    @property
    def name(self) -> str:
        """What its results are, in short; "" if it is for all. A charge's line has it as its modality."""
        size = "" if self.sides is None else f"up to {self.sides[0]}x{self.sides[1]}"
        size = size if self.pixels is None else f"up to {self.pixels} pixels"
        sound = "" if self.audio is None else "with audio" if self.audio else "without audio"
        return " ".join(filter(None, [self.resolution, size, sound]))

    def holds(self, made: Output) -> bool:
        """Whether a result may be of this rate, as far as it is said what it is: a resolution by name decides."""
        if None not in (self.audio, made.audio) and self.audio != made.audio:
            return False
        if self.resolution and made.resolution:
            return self.resolution == made.resolution
        sides = sorted(side for side in (made.width, made.height) if side is not None)
        if not sides:
            return True
        if self.sides is not None:
            longer, shorter = self.sides
            return sides[-1] <= longer and (len(sides) == 1 or sides[0] <= shorter)
        return self.pixels is None or math.prod(sides) <= self.pixels


class Measured(NamedTuple):
    """So many parts of the price's meter, at this rate."""

    parts: int
    rate: Rate


@dataclass(frozen=True, slots=True)
class OutputPrice:
    """The price of one result, second or megapixel, effective from `effective_us` (microseconds since 1970 UTC).

    `id` is the model, or the task type, and the effective date; `checked`, `source` and `note` are the price file's.
    `meter` is `results`, `seconds` or `megapixels`. `is_whole`: a begun second or megapixel counts whole. `pixels` make
    a megapixel. `rates` all state the same conditions. `default` and `most` are what a result is taken to be where
    that is not said: likely, and at most.
    """

    id: str
    effective_us: int
    checked: str
    source: str
    note: str
    meter: str
    is_whole: bool
    pixels: int
    rates: tuple[Rate, ...]
    default: Output
    most: Output

    @property
    def effective_from(self) -> datetime:
        """When this entry takes effect, in UTC."""
        return from_us(self.effective_us)

    @property
    def unit(self) -> str:
        """What the rates are stated for: `result`, `second` or `megapixel`."""
        return _UNITS[self.meter]

    @property
    def rounding(self) -> str:
        """How the meter is counted, in words."""
        if self.meter == "results" or not self.is_whole:
            return "exact"
        return f"begun ones whole, of {self.pixels:,} pixels" if self.meter == "megapixels" else "begun ones whole"

    def cost(self, made: Output, *, round_up: bool = False) -> PricedCost:
        """What one result costs that is as `made` says; nothing is guessed.

        Rounded half-even to a nano-dollar, or up. ConfigurationError if its size or length is not known, or no rate is
        for it, or more than one may be.
        """
        fitting = self._fitting(made)
        rate = fitting[0]
        if any(other.nanos != rate.nanos for other in fitting):
            names = " or ".join(repr(other.name) for other in fitting)
            raise ConfigurationError(f"{self.id}: it is not known which rate is for such a result: {names}")
        counted = self._parts(made)
        nanos = self._nanos(rate, counted, round_up=round_up)
        return PricedCost(nanos, (PriceLine(self.meter, rate.name, counted, nanos),), self.id, ())

    def expected(self, asked: Output) -> Measured:
        """What a result that is asked for as `asked` will likely be. ConfigurationError as for `cost`."""
        known = asked.over(self.default).over(self.most)
        return Measured(self._parts(known), _dearest(self._fitting(known)))

    def worst(self, asked: Output) -> Measured:
        """The dearest that a result within `asked` can come to: smaller ones may have a dearer rate.

        Never below `cost` of any result that is no larger and no longer. ConfigurationError as for `cost`.
        """
        known = asked.within(self.most)
        fitting = self._fitting(known)
        sizeless = known._replace(width=None, height=None)
        smaller = [
            rate
            for rate in self.rates
            if rate.holds(sizeless)
            and any(rate.audio == top.audio and (rate.reach or 0) <= (top.reach or 0) for top in fitting)
        ]
        return Measured(self._parts(known), _dearest([*fitting, *smaller]))

    def nanos(self, measured: Measured, *, round_up: bool) -> int:
        """What that costs in nano-USD, rounded up or half-even."""
        return self._nanos(measured.rate, measured.parts, round_up=round_up)

    def rate_named(self, name: str) -> Rate | None:
        """The rate that a charge's line names."""
        return next((rate for rate in self.rates if rate.name == name), None)

    def words(self, measured: Measured, results: int) -> str:
        """`2 results × 5 seconds × 0.05 USD per second (1080p)`."""
        amount = [] if self.meter == "results" else [quantity_text(self.meter, measured.parts)]
        named = f" ({measured.rate.name})" if measured.rate.name else ""
        factors = [quantity_text("results", results), *amount, f"{to_usd(measured.rate.nanos):f} USD per {self.unit}"]
        return " × ".join(factors) + named

    def _parts(self, made: Output) -> int:
        """Parts of the meter, begun units whole if they count so."""
        if self.meter == "results":
            return 1
        if self.meter == "seconds":
            if made.milliseconds is None:
                self._refuse("second", "length", "duration", "max_seconds")
            parts = -(-made.milliseconds // PARTS["seconds"]) * PARTS["seconds"] if self.is_whole else made.milliseconds
        else:
            if made.pixels is None:
                self._refuse("megapixel", "size", "width and height", "max_size")
            parts = -(-made.pixels // self.pixels) * PARTS["megapixels"] if self.is_whole else made.pixels
        if parts > COUNT_MAX:
            raise ConfigurationError(
                f"{self.id}: a result of {quantity_text(self.meter, parts)} is beyond all bounds; the largest that"
                f" has a price is of {quantity_text(self.meter, COUNT_MAX)}"
            )
        return parts

    def _refuse(self, unit: str, what: str, asked: str, key: str) -> NoReturn:
        raise ConfigurationError(
            f"{self.id} is a price per {unit}, and the {what} of a result is not known: state {asked} in the task, or"
            f" {key} in [output] of the price file"
        )

    def _nanos(self, rate: Rate, parts: int, *, round_up: bool) -> int:
        whole = PARTS[self.meter]
        nanos, rest = divmod(rate.nanos * parts, whole)
        if rest and (round_up or 2 * rest > whole or (2 * rest == whole and nanos & 1)):
            nanos += 1
        if nanos > COST_MAX_NANOS:
            amount = quantity_text(self.meter, parts)
            raise ConfigurationError(f"{self.id}: {amount} at {to_usd(rate.nanos):f} USD is beyond all bounds")
        return nanos

    def _fitting(self, made: Output) -> list[Rate]:
        """The rates that a result may be of: with each sound that it may have, those of the smallest size that holds
        it. ConfigurationError if there is none for one of them.
        """
        found: list[Rate] = []
        for audio in dict.fromkeys(rate.audio for rate in self.rates):
            if None in (audio, made.audio) or audio == made.audio:
                own = [rate for rate in self.rates if rate.audio == audio and rate.holds(made)]
                if not own:
                    self._refuse_rate(made._replace(audio=audio))
                reach = self._reach(own, made)
                found += [rate for rate in own if reach is None or rate.reach == reach]
        return found or self._refuse_rate(made)

    def _refuse_rate(self, made: Output) -> NoReturn:
        said = [made.resolution, f"{made.width}x{made.height}" if made.pixels is not None else ""]
        sound = "" if made.audio is None else "with audio" if made.audio else "without audio"
        asked = " ".join(filter(None, [*said, sound])) or "such a result"
        raise ConfigurationError(
            f"{self.id} has no rate for {asked}; it has {', '.join(rate.name or 'one for all' for rate in self.rates)};"
            " add one to the price file"
        )

    def _reach(self, fitting: Sequence[Rate], made: Output) -> int | None:
        """How far the rate of a result goes, in pixels; None if it does not go by its size."""
        is_named = made.resolution and self.rates[0].resolution
        if made.pixels is None or is_named:
            return None
        return min((rate.reach for rate in fitting if rate.reach is not None), default=None)


def _dearest(rates: Sequence[Rate]) -> Rate:
    return max(rates, key=lambda rate: rate.nanos)


def meters() -> dict[str, str]:
    """By the unit that a price file states its price for, the meter that counts it."""
    return {unit: meter for meter, unit in _UNITS.items()}
