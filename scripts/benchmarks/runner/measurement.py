"""What a benchmark yields, and what becomes of several runs of it."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import NamedTuple


class Measurement(NamedTuple):
    """One value of one run."""

    what: str
    """What was measured: the same in every run, so without any figure, and once in a benchmark.

    Those that belong together are named alike up to a colon: of many such, tables show the worst alone."""
    value: float
    """A ratio, or an amount of `unit`; less is better."""
    bound: float
    """The most that `value` may be."""
    against: str
    """What was measured beside it."""
    unit: str = "×"
    """`×`, or what `value` and `bound` are amounts of."""
    detail: str = ""
    """The figures of this run that the value was made of."""


@dataclass
class Repeated:
    """One measurement over several runs: a value and a detail for each run that told it, and the strictest bound."""

    what: str
    bound: float
    against: str
    unit: str = "×"
    values: list[float] = field(default_factory=list)
    details: list[str] = field(default_factory=list)

    @property
    def median(self) -> float:
        """What is said of all runs together."""
        return statistics.median(self.values)

    @property
    def detail(self) -> str:
        """That of the run whose value is next to the median."""
        return min(zip(self.values, self.details, strict=True), key=lambda run: abs(run[0] - self.median))[1]

    @property
    def is_met(self) -> bool:
        """Whether the median is within the bound."""
        return self.median <= self.bound


def repeat(runs: list[list[Measurement]]) -> list[Repeated]:
    """The measurements of several runs, each with its values, in the order in which they first came."""
    found: dict[str, Repeated] = {}
    for run in runs:
        for one in run:
            kept = found.setdefault(one.what, Repeated(one.what, one.bound, one.against, one.unit))
            kept.bound = min(kept.bound, one.bound)
            kept.values.append(one.value)
            kept.details.append(one.detail)
    return list(found.values())


def shown(value: float) -> str:
    """Three digits that count: `0.047`, `3.8`; from 100 on, the whole number."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values: list[float]) -> str:
    """The least and the most of the values, as `0.047 – 0.064`; empty for fewer than two, which say nothing of it."""
    return f"{shown(min(values))} – {shown(max(values))}" if len(values) > 1 else ""
