"""Price files of the user's own, where they are what a command is about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from costguard.errors import PriceFileError

if TYPE_CHECKING:
    from costguard.prices.book import PriceBook


def load(folder: Path | None) -> PriceBook:
    """The shipped prices, with those of `folder`; PriceFileError if none is in it, or one cannot be used."""
    from costguard.prices.book import PriceBook

    prices = PriceBook.load(folder)
    if folder is not None and not any(file.suffix == ".toml" for file in folder.iterdir()):
        raise PriceFileError(f"{folder}: there is no price file (.toml) in it; put one in, or leave --prices out")
    return prices
