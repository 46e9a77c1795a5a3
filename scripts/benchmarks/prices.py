"""How fast `PriceBook.cost` is, against `genai_prices.calc_price` on the same usage in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial

from genai_prices import Usage, calc_price

from costguard.prices.book import PriceBook
from scripts.benchmarks.runner.measurement import Measurement

# what, costguard's model, genai-prices' model, prompt tokens, completion tokens
CASES: tuple[tuple[str, str, str, dict[str, int], int], ...] = (
    ("image and text", "google:gemini@3-flash", "gemini-3-flash-preview", {"TEXT": 74, "IMAGE": 1064}, 216),
    (
        "video with sound",
        "google:gemini@3-flash",
        "gemini-3-flash-preview",
        {"AUDIO": 152, "TEXT": 108, "VIDEO": 384},
        895,
    ),
    ("199,999 tokens", "google:gemini@3.1-pro", "gemini-3.1-pro-preview", {"TEXT": 199_999}, 8000),
    ("200,000 tokens", "google:gemini@3.1-pro", "gemini-3.1-pro-preview", {"TEXT": 200_000}, 8000),
    ("200,001 tokens", "google:gemini@3.1-pro", "gemini-3.1-pro-preview", {"TEXT": 200_001}, 8000),
)


def results() -> Iterator[Measurement]:
    """Our time over theirs.

    Both are asked for the total in USD. RuntimeError if the two disagree on it.
    """
    book = PriceBook.load()
    for what, model, genai_model, prompt, completion in CASES:
        usage = Usage(
            input_tokens=sum(prompt.values()),
            input_audio_tokens=prompt.get("AUDIO", 0),
            output_tokens=completion,
        )
        ours = partial(_ours, book, model, prompt, completion)
        theirs = partial(_theirs, usage, genai_model)
        if ours() != theirs():
            raise RuntimeError(f"{what}: costguard says {ours()} USD, genai-prices {theirs()}")
        ours_s, theirs_s = _fastest(ours, theirs)
        yield Measurement(f"cost(): {what}", ours_s / theirs_s, 0.1, "genai_prices.calc_price")


def _ours(book: PriceBook, model: str, prompt: dict[str, int], completion: int) -> Decimal:
    return book.cost(model, prompt=prompt, completion=completion).total


def _theirs(usage: Usage, model: str) -> Decimal:
    return calc_price(usage, model, provider_id="google").total_price


def _fastest(*calls: Callable[[], object], rounds: int = 15, times: int = 200) -> list[float]:
    """Seconds per call of each, the best of `rounds`, taken in turn so that noise hits all alike."""
    best = [float("inf")] * len(calls)
    for _ in range(rounds):
        for number, call in enumerate(calls):
            start = time.perf_counter()
            for _ in range(times):
                call()
            best[number] = min(best[number], (time.perf_counter() - start) / times)
    return best
