"""What one price file says about a model: its limits, its tokens of media, and its dated price lists."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from costguard.budgets import from_us, to_us
from costguard.errors import ConfigurationError
from costguard.prices.output import OutputPrice
from costguard.prices.price import Price

AnyPrice = Price | OutputPrice
"""A dated price: of tokens, or of what is made."""


class MediaTokens(NamedTuple):
    """Tokens of media, as the price file states them by the keys of `costguard.modalities.KINDS`.

    `counts` has them all: of one image, one video frame (at 1 frame per second), one second of audio, one PDF
    page, …. Where the model has no price for a modality and its file states no count, the whole context stands
    in. `flags` are false where the file says nothing. `image_grid`: an image is scaled to fill at most
    `image_upper` square patches, of a token each.
    """

    counts: Mapping[str, int]
    flags: Mapping[str, bool] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ModelPrices:
    """A model with a price. Counts are tokens; `prices`, of tokens, and `outputs`, of what is made, ascend by date.

    `model` is the AIR, `aliases` other names of the same model, `task_type` such as "textInference",
    `tokenizer` "gemma4" or "none". `context_tokens` bounds the prompt. A request that does not state its
    completion allowance gets `completion_default`; `completion_max` is the most it may ask for. They are
    0 where tokens are not what is priced. `is_any`: it is of every model of `task_type` that has no price file for
    it, and `model` is that task type.
    """

    model: str
    aliases: tuple[str, ...]
    name: str
    task_type: str
    tokenizer: str
    context_tokens: int
    completion_default: int
    completion_max: int
    media: MediaTokens
    prices: tuple[Price, ...]
    file: Path
    outputs: tuple[OutputPrice, ...] = ()
    is_any: bool = False

    @property
    def entries(self) -> Sequence[AnyPrice]:
        """All that is in `prices` or `outputs`: a file has entries of one kind."""
        return self.prices or self.outputs

    def at(self, when: datetime | int | None = None) -> Price:
        """The entry of `prices` effective at `when`: see `entry`. ConfigurationError if it is no price of tokens."""
        found = self.entry(when)
        if not isinstance(found, Price):
            raise ConfigurationError(
                f"{found.id} is a price per {found.unit}, not of tokens; `Guard.estimate` prices such a task"
            )
        return found

    def entry(self, when: datetime | int | None = None) -> AnyPrice:
        """The entry effective at `when`: an aware datetime, microseconds since 1970 UTC, or None for now.

        ConfigurationError if `when` is naive, or before the first entry.
        """
        if when is None:
            moment = time.time_ns() // 1000
        elif isinstance(when, datetime):
            moment = to_us(when)
        else:
            moment = when
        for price in reversed(self.entries):
            if price.effective_us <= moment:
                return price
        first = self.entries[0].effective_from.isoformat()
        asked = from_us(moment).isoformat()
        raise ConfigurationError(
            f"no price of {self.model} at {asked}; the first entry in {self.file} starts at {first}"
        )
