"""What a task makes where that is no text: its size and length, and the meters that such work is priced by."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Context, Decimal
from typing import Any, NamedTuple

PARTS: Mapping[str, int] = {"results": 1, "seconds": 1_000, "megapixels": 1_000_000}
"""The meters, by the component of a charge's line, and in how many parts of one unit the line counts: whole results,
thousandths of a second, millionths of a megapixel."""

OUTPUT = "output"
"""The key of an `Output` beside the counts of an estimate, as the ledger keeps them."""

PIXELS_MAX = 10**6
"""Pixels of a side: no picture is larger."""

MILLISECONDS_MAX = 10**9
"""The longest result: eleven days."""


_EXACT = Context(prec=40)  # the program's own may have any precision


class Output(NamedTuple):
    """What one result is to be, or is, as far as it is said: pixels, thousandths of a second, a resolution by name
    (`1080p`, lower case), and whether a video has sound.
    """

    width: int | None = None
    height: int | None = None
    milliseconds: int | None = None
    resolution: str = ""
    audio: bool | None = None

    @property
    def pixels(self) -> int | None:
        """Width times height; None unless both are said."""
        return None if self.width is None or self.height is None else self.width * self.height

    def over(self, other: Output) -> Output:
        """This, and of `other` what this leaves unsaid; of a size both sides are one's or the other's."""
        sized = self if self.pixels is not None else other
        return Output(
            sized.width,
            sized.height,
            other.milliseconds if self.milliseconds is None else self.milliseconds,
            self.resolution or other.resolution,
            other.audio if self.audio is None else self.audio,
        )

    def within(self, most: Output) -> Output:
        """The largest that this may be: `most` where it leaves something unsaid, and never less than a side it says."""
        known = self.over(most)
        if known.width is None or known.height is None:
            return known._replace(width=self.width, height=self.height)
        side, longer = self.width or self.height or 0, max(known.width, known.height)
        return known if self.pixels is not None or side <= longer else known._replace(width=side, height=longer)

    def to_row(self) -> dict[str, Any]:
        """What is said, by name: fit for JSON."""
        return {key: value for key, value in self._asdict().items() if value not in (None, "")}


def in_units(meter: str, parts: int) -> Decimal:
    """Parts of a meter as a number of its units: 5,500 of `seconds` are 5.5."""
    whole, rest = divmod(parts, PARTS[meter])
    return Decimal(whole) if not rest else _EXACT.divide(Decimal(parts), PARTS[meter]).normalize(_EXACT)


def quantity_text(meter: str, parts: int) -> str:
    """A quantity in words: `1 result`, `5.5 seconds`, `1.048576 megapixels`."""
    number = in_units(meter, parts)
    return f"{number:,f} {meter if number != 1 else meter.removesuffix('s')}"
