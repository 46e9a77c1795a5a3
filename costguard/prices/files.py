"""Price files: authored TOML -> `ModelPrices`, refused with the file and the key when anything is off.

The format is described in pricing/README.md.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import NoReturn

from costguard.errors import ConfigurationError, PriceFileError
from costguard.modalities import MODALITIES
from costguard.money import parse_usd
from costguard.prices.price import COUNT_MAX, FeatureFee, MediaTokens, ModelPrices, Price, Tier, to_epoch_us

TOKENIZERS = ("gemma4", "none")
"""The tokenizers a price file may name; "none" bounds a text by its UTF-8 bytes."""

RATE_MAX_USD = 10**6
"""No rate or fee may pass this (USD): one line of `COUNT_MAX` tokens then stays within 64 bits."""

_MEDIA_MODALITY = {
    "image_expected": "IMAGE",
    "image_upper": "IMAGE",
    "frame_expected": "VIDEO",
    "frame_upper": "VIDEO",
    "audio_per_s": "AUDIO",
    "document_page": "DOCUMENT",
}
_NAME = re.compile(r"\S{1,200}")


def load(folder: str | Path | None = None) -> list[ModelPrices]:
    """All models of the shipped files, with those of the user's `folder` added or replaced whole.

    PriceFileError names the file and the key that cannot be used, or the folder that cannot be read.
    """
    shipped = _read_folder(shipped_folder())
    own = _read_folder(Path(folder)) if folder is not None else {}
    models = list((shipped | own).values())
    owners: dict[str, ModelPrices] = {prices.model: prices for prices in models}
    for prices in models:
        for alias in prices.aliases:
            owner = owners.setdefault(alias, prices)
            if owner is not prices:
                raise PriceFileError(f"{prices.file}: aliases: {alias!r} already names {owner.model} in {owner.file}")
    return models


def shipped_folder() -> Path:
    """The price files that came with costguard: inside the installed package, or else the checkout's."""
    package = Path(__file__).parent.parent
    inside = package / "pricing"
    return inside if inside.is_dir() else package.parent / "pricing"


def read(file: Path) -> ModelPrices:
    """Read one price file. PriceFileError names the file and the key that cannot be used."""
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PriceFileError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PriceFileError(f"{file}: not valid TOML: {error}") from error
    top = _Table(file, "", document)
    model = top.name("model")
    aliases = top.names("aliases")
    if model in aliases:
        top.refuse("aliases", f"{model!r} is the model's own name")
    name = top.text("name")
    task_type = top.name("task_type")
    tokenizer = top.text("tokenizer")
    if tokenizer not in TOKENIZERS:
        top.refuse("tokenizer", f"{tokenizer!r} is not one of {', '.join(TOKENIZERS)}")
    context_tokens = top.count("context_tokens")
    completion = top.table("completion")
    completion_default = completion.count("default")
    completion_max = completion.count("max")
    if completion_default > completion_max:
        completion.refuse("default", f"{completion_default} is above max = {completion_max}")
    completion.close()
    media_table = top.table("media", optional=True)
    prices: list[Price] = []
    for entry in top.tables("prices"):
        prices.append(_price(entry, model, prices[-1] if prices else None))
    media = _media(media_table, prices, context_tokens)
    top.close()
    return ModelPrices(
        model=model,
        aliases=aliases,
        name=name,
        task_type=task_type,
        tokenizer=tokenizer,
        context_tokens=context_tokens,
        completion_default=completion_default,
        completion_max=completion_max,
        media=media,
        prices=tuple(prices),
        file=file,
    )


def _read_folder(folder: Path) -> dict[str, ModelPrices]:
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix == ".toml")
    except OSError as error:
        raise PriceFileError(f"{folder}: cannot be read as a folder of price files: {error.strerror}") from error
    models: dict[str, ModelPrices] = {}
    for file in files:
        prices = read(file)
        if prices.model in models:
            raise PriceFileError(
                f"{file}: model: {prices.model!r} already has a price file, {models[prices.model].file};"
                " new prices are entries of the same file"
            )
        models[prices.model] = prices
    return models


def _media(table: _Table, prices: Iterable[Price], context_tokens: int) -> MediaTokens:
    priced = {modality for price in prices for modality in price.tiers[0].prompt}
    counts = {}
    for key, modality in _MEDIA_MODALITY.items():
        if table.has(key):
            counts[key] = table.count(key)
        elif modality in priced:
            table.refuse(key, f"missing; {modality} is priced, so its tokens must be stated")
        else:
            counts[key] = context_tokens
    media = MediaTokens(**counts, image_grid=table.has("image_grid") and table.flag("image_grid"))
    if media.image_expected > media.image_upper:
        table.refuse("image_expected", f"{media.image_expected} is above image_upper = {media.image_upper}")
    if media.frame_expected > media.frame_upper:
        table.refuse("frame_expected", f"{media.frame_expected} is above frame_upper = {media.frame_upper}")
    table.close()
    return media


def _price(table: _Table, model: str, before: Price | None) -> Price:
    start = table.moment("from")
    effective_us = to_epoch_us(start)
    if before is not None and effective_us <= before.effective_us:
        table.refuse(
            "from",
            f"{start.isoformat()} is not later than the entry before it"
            f" ({before.effective_from.isoformat()}); an entry is superseded by a later one below it",
        )
    tiers: list[Tier] = []
    for entry in table.tables("tiers"):
        tiers.append(_tier(entry, tiers[-1] if tiers else None))
    features = {}
    for feature, fee in table.table("features", optional=True).named_tables():
        features[feature] = FeatureFee(fee.usd("fee"), fee.count("max_per_request"))
        fee.close()
    began = start.date() if start.time() == time(0) else start.replace(tzinfo=None)
    price = Price(
        id=f"{model}/{began.isoformat()}",
        effective_us=effective_us,
        checked=table.day("checked"),
        source=table.text("source"),
        note=table.text("note") if table.has("note") else "",
        tiers=tuple(tiers),
        features=features,
    )
    table.close()
    return price


def _tier(table: _Table, before: Tier | None) -> Tier:
    above = table.count("above_prompt_tokens", least=0)
    if before is None and above:
        table.refuse("above_prompt_tokens", f"the first tier starts at 0, not {above}")
    if before is not None and above <= before.above_prompt_tokens:
        table.refuse("above_prompt_tokens", f"{above} is not above the tier before it ({before.above_prompt_tokens})")
    prompt_table = table.table("prompt")
    prompt = _rates(prompt_table)
    if "TEXT" not in prompt:
        prompt_table.refuse("TEXT", "missing; every prompt has text")
    cached_table = table.table("cached", optional=True)
    cached = _rates(cached_table)
    for modality, rate in cached.items():
        if modality not in prompt:
            cached_table.refuse(modality, "has no rate in prompt")
        if rate > prompt[modality]:
            cached_table.refuse(modality, "is above the full input rate, which no bound would cover")
    if "DOCUMENT" not in prompt:
        for rates in (prompt, cached):
            if "IMAGE" in rates:
                rates["DOCUMENT"] = rates["IMAGE"]
    if before is not None and prompt.keys() != before.prompt.keys():
        odd = sorted(prompt.keys() ^ before.prompt.keys())
        table.refuse("prompt", f"{', '.join(odd)} is not priced in every tier of the entry")
    completion = table.usd("completion")
    table.close()
    return Tier(above, prompt, cached, completion)


def _rates(table: _Table) -> dict[str, int]:
    rates = {modality: table.usd(modality) for modality in MODALITIES if table.has(modality)}
    table.close()
    return rates


class _Table:
    """One table of a price file: keys are asked for by kind, and `close` refuses what nobody asked for."""

    def __init__(self, file: Path, where: str, values: Mapping[str, object]) -> None:
        self._file = file
        self._where = where
        self._values = values
        self._asked: set[str] = set()

    def refuse(self, key: str, why: str) -> NoReturn:
        raise PriceFileError(f"{self._file}: {self._where}{key}: {why}")

    def has(self, key: str) -> bool:
        self._asked.add(key)
        return key in self._values

    def close(self) -> None:
        for key in self._values:
            if key not in self._asked:
                self.refuse(key, f"unknown key; known here: {', '.join(sorted(self._asked))}")

    def text(self, key: str) -> str:
        value = self._value(key)
        if not isinstance(value, str) or not value.strip():
            self.refuse(key, f"expected text, got {value!r}")
        return value

    def name(self, key: str) -> str:
        return self._checked_name(key, self._value(key))

    def names(self, key: str) -> tuple[str, ...]:
        values = self._value(key)
        if not isinstance(values, list):
            self.refuse(key, f"expected a list of names, got {values!r}")
        names = tuple(self._checked_name(f"{key}[{number}]", value) for number, value in enumerate(values))
        for number, name in enumerate(names):
            if name in names[:number]:
                self.refuse(f"{key}[{number}]", f"{name!r} is listed twice")
        return names

    def count(self, key: str, least: int = 1) -> int:
        value = self._value(key)
        if type(value) is not int or not least <= value <= COUNT_MAX:
            self.refuse(key, f"expected a whole number from {least} to {COUNT_MAX}, got {value!r}")
        return value

    def flag(self, key: str) -> bool:
        value = self._value(key)
        if not isinstance(value, bool):
            self.refuse(key, f"expected true or false, got {value!r}")
        return value

    def usd(self, key: str) -> int:
        """A rate or fee written as text, in nano-dollars."""
        value = self._value(key)
        if not isinstance(value, str):
            self.refuse(key, f'expected USD as text, such as "0.5", got {type(value).__name__} {value!r}')
        try:
            nanos = parse_usd(value, "rate")
        except ConfigurationError as error:
            self.refuse(key, str(error).removeprefix("rate: "))
        if nanos > RATE_MAX_USD * 10**9:
            self.refuse(key, f"{value!r} is above {RATE_MAX_USD} USD")
        return nanos

    def day(self, key: str) -> str:
        value = self._value(key)
        if type(value) is not date:
            self.refuse(key, f"expected a date, such as 2026-11-22, got {value!r}")
        return value.isoformat()

    def moment(self, key: str) -> datetime:
        """A date (its first instant in UTC), or a date-time with an offset, in UTC."""
        value = self._value(key)
        if isinstance(value, date) and not 2000 <= value.year < 9999:
            self.refuse(key, f"{value.isoformat()} is not a year from 2000 to 9998")
        if type(value) is date:
            return datetime.combine(value, time(0), UTC)
        if not isinstance(value, datetime) or value.tzinfo is None:
            self.refuse(key, f"expected a date, such as 2026-11-22, or a date-time with its offset, got {value!r}")
        return value.astimezone(UTC)

    def table(self, key: str, *, optional: bool = False) -> _Table:
        value = {} if optional and key not in self._values else self._value(key)
        self._asked.add(key)
        if not isinstance(value, dict):
            self.refuse(key, f"expected a table, got {value!r}")
        return _Table(self._file, f"{self._where}{key}.", value)

    def tables(self, key: str) -> list[_Table]:
        values = self._value(key)
        if not isinstance(values, list) or not values or not all(isinstance(value, dict) for value in values):
            self.refuse(key, f"expected one or more [[{self._where}{key}]] tables, got {values!r}")
        return [_Table(self._file, f"{self._where}{key}[{number}].", value) for number, value in enumerate(values)]

    def named_tables(self) -> Iterator[tuple[str, _Table]]:
        for key in self._values:
            yield self._checked_name(key, key), self.table(key)

    def _value(self, key: str) -> object:
        if not self.has(key):
            self.refuse(key, "missing")
        return self._values[key]

    def _checked_name(self, key: str, value: object) -> str:
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            self.refuse(key, f"expected a name of 1 to 200 characters without blanks, got {value!r}")
        return value
