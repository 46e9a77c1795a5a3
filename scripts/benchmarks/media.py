"""How long the worst media take to measure: a thousand damaged files of each kind, and files made to hurt."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path

from costguard.estimating.media import MediaMax, count_media
from costguard.prices.model import MediaTokens
from scripts.benchmarks.runner.measurement import Measurement

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from media_files import BOMBS, KINDS, TRAPS, b64, mutated

LIMIT_MS = 100
"""What one medium may take."""

FILES = 1000
GEMINI = MediaTokens(
    {
        "image_expected": 1064, "image_upper": 1120, "frame_expected": 64, "frame_upper": 70,
        "audio_per_s": 25, "document_page": 560,
    },
    {"image_grid": True},
)  # fmt: skip


def results() -> Iterator[Measurement]:
    """The slowest of the damaged files of each kind, and each file made to hurt, in milliseconds."""
    for name, (kind, data) in KINDS.items():
        _slowest_s(kind, [data])  # loads the libraries
        worst_s = _slowest_s(kind, mutated(data, FILES, seed=len(name)))
        yield _measurement(f"the slowest of {FILES:,} damaged files: {name}", worst_s)
    for what, (kind, make) in BOMBS.items():
        yield _measurement(f"made to harm: {what}", _slowest_s(kind, [make()]))
    for what, trap in TRAPS.items():
        yield _measurement(f"made to harm: a pdf with {what}", _slowest_s("documents", [trap()]))


def _measurement(what: str, seconds: float) -> Measurement:
    return Measurement(what, seconds * 1000, LIMIT_MS, "a clock", "ms")


def _slowest_s(kind: str, files: Iterable[bytes]) -> float:
    """Seconds of the slowest file, from base64 to tokens; a slow one is tried again, for the noise's sake."""
    slowest_s = 0.0
    for data in files:
        text = b64(data)
        taken_s = _seconds(kind, text)
        if taken_s > slowest_s:
            slowest_s = max(slowest_s, min(taken_s, *(_seconds(kind, text) for _ in range(3))))
    return slowest_s


def _seconds(kind: str, text: str) -> float:
    start = time.perf_counter()
    count_media({kind: [text]}, GEMINI, MediaMax(video_s=Decimal(60)), 1_048_576)
    return time.perf_counter() - start
