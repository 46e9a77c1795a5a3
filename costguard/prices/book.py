"""Every model with a price, found by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from costguard.errors import ConfigurationError
from costguard.prices.model import ModelPrices
from costguard.prices.price import PricedCost


class PriceBook:
    """Every model with a price: the shipped files, and the user's own on top."""

    __slots__ = ("_by_name", "_by_task", "_models")

    def __init__(self, models: Iterable[ModelPrices]) -> None:
        """Hold `models`, whose names must all differ, as `load` sees to."""
        self._models = tuple(sorted(models, key=lambda prices: prices.model))
        self._by_name = {
            name: prices for prices in self._models if not prices.is_any for name in (prices.model, *prices.aliases)
        }
        self._by_task = {prices.task_type: prices for prices in self._models if prices.is_any}

    @classmethod
    def load(cls, folder: str | Path | None = None) -> PriceBook:
        """Read the shipped price files, and those of `folder`, whose models replace shipped ones whole.

        PriceFileError names the file and the key that cannot be used.
        """
        from costguard.prices import files  # late: it brings tomllib

        return cls(files.load(folder))

    def models(self) -> tuple[ModelPrices, ...]:
        """All models, sorted by AIR."""
        return self._models

    def find(self, name: str) -> ModelPrices | None:
        """The model with this AIR or alias (case matters), or None."""
        return self._by_name.get(name)

    def of(self, model: str | None, task_type: str) -> ModelPrices | None:
        """The prices of a task: those of its model for that type of task, else those of the type of task, or None."""
        known = self._by_name.get(model) if model else None
        return known if known is not None and known.task_type == task_type else self._by_task.get(task_type)

    def cost(
        self,
        model: str,
        *,
        prompt: Mapping[str, int],
        completion: int = 0,
        cached: int | Mapping[str, int] = 0,
        features: Mapping[str, int] | None = None,
        at: datetime | None = None,
    ) -> PricedCost:
        """Price usage of `model` (AIR or alias) by the entry effective `at` (aware; None is now).

        Counts and errors as in `Price.cost`; a model without a price of tokens is a ConfigurationError too.
        """
        prices = self._by_name.get(model)
        if prices is None:
            self._refuse_model(model)
        return prices.at(at).cost(prompt, completion, cached, features)

    def _refuse_model(self, model: str) -> NoReturn:
        from difflib import get_close_matches  # late: only for this message

        near = get_close_matches(model, self._by_name, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(sorted(self._by_name))}"
        raise ConfigurationError(f"no price for model {model!r}; {hint}")
