"""What a task that makes no text may cost before it is sent: results, seconds or megapixels at their price."""

from __future__ import annotations

from typing import NamedTuple

from costguard.estimating.counts import Count
from costguard.outputs import Output
from costguard.prices.output import OutputPrice


class Making(NamedTuple):
    """Of ONE result: so many parts of `meter` (see `costguard.outputs.PARTS`), and nano-USD, expected and at most.

    `words` say how the worst case of all results comes about: the amount times the price of a unit.
    """

    meter: str
    parts: Count
    nanos: Count
    words: str


def measure(asked: Output, results: int, price: OutputPrice) -> Making:
    """Measure a task that asks for `results` such results. ConfigurationError if its price forbids a figure."""
    worst = price.worst(asked)
    likely = price.expected(asked)
    upper = price.nanos(worst, round_up=True)
    return Making(
        price.meter,
        Count(min(likely.parts, worst.parts), worst.parts),
        Count(min(price.nanos(likely, round_up=False), upper), upper),
        price.words(worst, results),
    )
