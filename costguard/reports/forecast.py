"""Where a period will end: what was spent so far, and what days like those to come have cost. Whole numbers only."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from math import isqrt
from typing import NamedTuple

HISTORY_DAYS = 56
"""Days before today that are looked at: eight weeks."""

LEAST_DAYS = 14
"""Whole days that there must be: two of every weekday."""

DIGITS = 4
"""A forecast is told to so many digits, its range rounded outwards: it knows no more."""

_Z_NUMERATOR, _Z_DENOMINATOR = 1645, 1000
"""Standard deviations that nine of ten ends lie within, if days differ as those before did."""


class Forecast(NamedTuple):
    """What a period may end at, in nano-USD: the expected end, and the range that nine of ten would end in.

    `method` says in one sentence how it was come by, `days` how many whole days it was learned from. Where a budget
    stops the spending earlier, `limited_by` is that budget, `limit` where, and `unlimited` the expected end without it.
    """

    expected: int
    least: int
    most: int
    days: int
    method: str
    limited_by: str | None = None
    limit: int | None = None
    unlimited: int | None = None

    def limited(self, by: str, limit: int) -> Forecast:
        """The same if no more than `limit` can be spent, which is no less than what was; itself if it ends below."""
        if self.most <= limit:
            return self
        expected, least = min(self.expected, limit), min(self.least, limit)
        return Forecast(expected, least, limit, self.days, self.method, by, limit, self.expected)


class NoForecast(NamedTuple):
    """Why there is none."""

    reason: str


def forecast(
    spent: int, days: Mapping[date, int], *, first: date, end: date, today: date, began: date | None
) -> Forecast | NoForecast:
    """What [first, end) will end at, `today` being the day that has begun last.

    `spent` is what the period came to so far and `days` what each day did, in nano-USD; absent is nothing. `began`: the
    first day that the ledger knows of. Learned from the whole days of the last `HISTORY_DAYS`, since the first one
    on which anything was spent.
    """
    if today >= end:
        return NoForecast("the period is over")
    if today < first:
        return NoForecast("the period has not begun")
    oldest = max(today - timedelta(days=HISTORY_DAYS), began or today)
    used = [day for day, nanos in days.items() if oldest <= day < today and nanos]
    known = (today - min(used)).days if used else 0
    if known < LEAST_DAYS:
        return NoForecast(
            f"it takes {LEAST_DAYS} whole days, two of every weekday, and there {'is' if known == 1 else 'are'} {known}"
        )
    samples: list[list[int]] = [[] for _ in range(7)]
    for n in range(1, known + 1):
        day = today - timedelta(days=n)
        samples[day.weekday()].append(days.get(day, 0))

    # Today's rest: what such a day costs, less what it has cost already.
    to_come = max(_mean(samples[today.weekday()]) - days.get(today, 0), 0)
    counts = [0] * 7
    counts[today.weekday()] += 1
    for n in range(1, (end - today).days):
        day = today + timedelta(days=n)
        to_come += _mean(samples[day.weekday()])
        counts[day.weekday()] += 1
    # Each day strays from its mean, and the mean of few days strays from the true one.
    variance = sum(
        _variance(sample) * (count + count * count // len(sample))
        for sample, count in zip(samples, counts, strict=True)
        if count
    )
    stray = isqrt(variance) * _Z_NUMERATOR // _Z_DENOMINATOR
    expected = spent + to_come
    step = 10 ** max(len(str(expected)) - DIGITS, 0)
    method = (
        f"What was spent so far, and for each day to come the mean of its weekday over the last {known} whole days;"
        " the range holds nine of ten ends if days go on to differ as they did."
    )
    least, most = (expected - stray) // step * step, -(-(expected + stray) // step) * step
    return Forecast(max((expected + step // 2) // step * step, spent), max(least, spent), most, known, method)


def _mean(sample: list[int]) -> int:
    return -(-sum(sample) // len(sample))


def _variance(sample: list[int]) -> int:
    """Of a sample of at least two, rounded up."""
    mean = _mean(sample)
    return -(-sum((value - mean) ** 2 for value in sample) // (len(sample) - 1))
