"""Price files: authored TOML -> `ModelPrices`, refused with the file and the key when anything is off.

The format is described in pricing/README.md.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from datetime import time
from pathlib import Path

from costguard.budgets import to_us
from costguard.errors import PriceFileError
from costguard.modalities import KINDS, MODALITIES, REPORTED
from costguard.prices.model import AnyPrice, MediaTokens, ModelPrices
from costguard.prices.output import OutputPrice
from costguard.prices.output_files import read_price, read_unsaid
from costguard.prices.price import FeatureFee, Price, Tier
from costguard.prices.table import Dated, Table

TOKENIZERS = ("gemma4", "none")
"""The tokenizers a price file may name; "none" bounds a text by its UTF-8 bytes."""

_OF_OUTPUT = frozenset(("per", "rates"))
_OF_TOKENS = frozenset(("tokenizer", "context_tokens", "completion", "media"))
"""Keys of an entry that prices what is made, and those of a file that prices tokens."""


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
        if file.exists() and not file.is_file():  # a pipe would be waited for
            raise OSError(0, "it is no regular file; take it out of the folder")
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise PriceFileError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PriceFileError(f"{file}: not valid TOML: {error}") from error
    top = Table(file, "", document)
    found = _read_output(top, file) if _prices_output(document) else _read_tokens(top, file)
    top.close()
    return found


def _prices_output(document: Mapping[str, object]) -> bool:
    """Whether a file prices what is made, and not tokens; of one that is neither, what it lacks is said."""
    entries = document.get("prices")
    listed = entries if isinstance(entries, list) else []
    return any(isinstance(entry, dict) and not _OF_OUTPUT.isdisjoint(entry) for entry in listed) or (
        "task_type" in document and _OF_TOKENS.isdisjoint(document)
    )


def _read_output(top: Table, file: Path) -> ModelPrices:
    """A file of prices of what is made: of one model, or without one of a type of task."""
    task_type = top.name("task_type")
    is_any = not top.has("model")
    model = task_type if is_any else top.name("model")
    if is_any and top.has("aliases"):
        top.refuse("aliases", "without a model there is nothing that they could name; leave it out, or add `model`")
    aliases = _aliases(top, model) if top.has("aliases") else ()
    name = top.text("name")
    unsaid = read_unsaid(top.table("output", optional=True))
    prices: list[OutputPrice] = []
    for entry in top.tables("prices"):
        if entry.has("tiers") and not entry.has("per"):
            entry.refuse("tiers", "prices tokens, and another entry what is made (`per`); a file prices one of the two")
        prices.append(read_price(entry, _dated(entry, model, prices[-1] if prices else None), unsaid))
    return ModelPrices(
        model, aliases, name, task_type, "none", 0, 0, 0, MediaTokens({}), (), file, tuple(prices), is_any
    )


def _aliases(top: Table, model: str) -> tuple[str, ...]:
    aliases = top.names("aliases")
    if model in aliases:
        top.refuse("aliases", f"{model!r} is the model's own name")
    return aliases


def _read_tokens(top: Table, file: Path) -> ModelPrices:
    """A file of prices of tokens."""
    model = top.name("model")
    aliases = _aliases(top, model)
    name = top.text("name")
    task_type = top.name("task_type")
    tokenizer = top.choice("tokenizer", TOKENIZERS)
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
    return ModelPrices(
        model=model,
        aliases=aliases,
        name=name,
        task_type=task_type,
        tokenizer=tokenizer,
        context_tokens=context_tokens,
        completion_default=completion_default,
        completion_max=completion_max,
        media=_media(media_table, prices, context_tokens),
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


def _media(table: Table, prices: Iterable[Price], context_tokens: int) -> MediaTokens:
    priced = {modality for price in prices for modality in price.tiers[0].prompt}
    counts: dict[str, int] = {}
    flags: dict[str, bool] = {}
    for kind in KINDS.values():
        for key, modality in kind.tokens.items():
            if table.has(key):
                counts[key] = table.count(key)
            elif modality in priced:
                table.refuse(key, f"missing; {modality} is priced, so its tokens must be stated")
            else:
                counts[key] = context_tokens
        for flag in kind.flags:
            flags[flag] = table.has(flag) and table.flag(flag)
    for key, count in counts.items():
        upper = key.removesuffix("_expected") + "_upper"
        if count > counts.get(upper, count):
            table.refuse(key, f"{count} is above {upper} = {counts[upper]}")
    table.close()
    return MediaTokens(counts, flags)


def _dated(table: Table, model: str, before: AnyPrice | None) -> Dated:
    start = table.moment("from")
    effective_us = to_us(start)
    if before is not None and effective_us <= before.effective_us:
        table.refuse(
            "from",
            f"{start.isoformat()} is not later than the entry before it"
            f" ({before.effective_from.isoformat()}); an entry is superseded by a later one below it",
        )
    began = start.date() if start.time() == time(0) else start.replace(tzinfo=None)
    return Dated(
        id=f"{model}/{began.isoformat()}",
        effective_us=effective_us,
        checked=table.day("checked"),
        source=table.text("source"),
        note=table.text("note") if table.has("note") else "",
    )


def _price(table: Table, model: str, before: Price | None) -> Price:
    dated = _dated(table, model, before)
    tiers: list[Tier] = []
    for entry in table.tables("tiers"):
        tiers.append(_tier(entry, tiers[-1] if tiers else None))
    features = {}
    for feature, fee in table.table("features", optional=True).named_tables():
        features[feature] = FeatureFee(fee.usd("fee"), fee.count("max_per_request"))
        fee.close()
    table.close()
    return Price(*dated, tiers=tuple(tiers), features=features)


def _tier(table: Table, before: Tier | None) -> Tier:
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
    for modality, reported in REPORTED.items():
        if modality not in prompt:
            priced_as = next((name for name in reported if name in prompt), modality)
            for rates in (prompt, cached):
                if priced_as in rates:
                    rates[modality] = rates[priced_as]
    if before is not None and prompt.keys() != before.prompt.keys():
        odd = sorted(prompt.keys() ^ before.prompt.keys())
        table.refuse("prompt", f"{', '.join(odd)} is not priced in every tier of the entry")
    completion = table.usd("completion")
    table.close()
    return Tier(above, prompt, cached, completion)


def _rates(table: Table) -> dict[str, int]:
    rates = {modality: table.usd(modality) for modality in MODALITIES if table.has(modality)}
    table.close()
    return rates
