"""What a task may cost here and now: prices, what media were billed before, what the project's history teaches."""

from __future__ import annotations

from costguard.estimating.estimate import Estimate, estimate
from costguard.estimating.media import MediaMax, Recalled, Reference, digest, references
from costguard.ledger.accounting.book import Ledger
from costguard.prices.book import PriceBook
from costguard.tasks import Task

HISTORY_AGE_US = 60 * 1_000_000
"""How old a learned expectation may be before it is read again."""

UNLEARNED_AGE_US = 1_000_000
"""And how old the word that there is no history yet: the first results are learned from soon."""

HISTORY_MAX = 1000
"""Pairs of project and model whose expectation is remembered."""

RECALLED_MAX = 500
"""References to media that are looked up for one task; the others count as never seen."""


class Appraiser:
    """Estimates tasks with what the ledger has learned."""

    def __init__(self, ledger: Ledger, prices: PriceBook) -> None:
        self._ledger = ledger
        self._prices = prices
        self._means: dict[tuple[str, str], tuple[int, int | None]] = {}

    def estimate(self, task: Task, at_us: int, project: str, media_max: MediaMax) -> Estimate:
        """Estimate `task` as it would be admitted at `at_us`."""
        known = self._prices.of(task.model, task.task_type)
        if known is not None and known.outputs:
            return estimate(task, self._prices, at_us)
        mean = self._mean(project, known.model, at_us) if known else None
        recalled = self._recall(known.model, task.prompt.media) if known and task.prompt.media else None
        return estimate(task, self._prices, at_us, media_max, mean, recalled)

    def _mean(self, project: str, model: str, at_us: int) -> int | None:
        """Completion tokens of a result over the last days, rounded up; None without history."""
        read_us, mean = self._means.get((project, model), (None, None))
        age_us = UNLEARNED_AGE_US if mean is None else HISTORY_AGE_US
        if read_us is None or not 0 <= at_us - read_us < age_us:
            mean = self._ledger.mean_completion(project, model, at_us)
            if len(self._means) >= HISTORY_MAX:
                self._means.clear()
            self._means[project, model] = (at_us, mean)
        return mean

    def _recall(self, model: str, media: object) -> dict[Reference, Recalled] | None:
        """What the ledger has of the URLs and UUIDs among the media."""
        named = references(media)[:RECALLED_MAX]
        if not named:
            return None
        key = self._ledger.media_key()
        digests = {reference: digest(key, model, reference) for reference in named}
        counts = self._ledger.media_counts(list(digests.values()))
        return {reference: Recalled(found, counts.get(found)) for reference, found in digests.items()}
