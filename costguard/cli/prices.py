"""`costguard prices`: the price lists in use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from costguard.cli.app import prices_option
from costguard.cli.hints import near_model
from costguard.cli.output import format_option, show
from costguard.errors import ConfigurationError

if TYPE_CHECKING:
    from costguard.prices.model import ModelPrices
    from costguard.prices.price import Price


@click.group()
def prices() -> None:
    """Show the prices in use, with their sources."""


@prices.command("list")
@prices_option
@format_option
def list_(folder: Path | None, output: str) -> None:
    """List the models that have a price."""
    from costguard.prices.book import PriceBook
    from costguard.reports.document import Column, Document, Table

    rows: list[dict[str, Any]] = [
        {
            "model": known.model,
            "name": known.name,
            "aliases": list(known.aliases),
            "task_type": known.task_type,
            "entries": len(known.prices),
            "checked": known.prices[-1].checked,
            "file": str(known.file),
        }
        for known in PriceBook.load(folder).models()
    ]
    joined = [{**row, "aliases": " ".join(row["aliases"])} for row in rows]
    columns = (
        Column("model", "Model"),
        Column("aliases", "Also named"),
        Column("name", "Name"),
        Column("checked", "Checked", whole=True),
    )
    show(Document({"models": rows}, _MODEL_KEYS, joined, (Table(columns, joined),)), output)


@prices.command("show")
@click.argument("model")
@prices_option
@format_option
def show_(model: str, folder: Path | None, output: str) -> None:
    """Show every price of MODEL (AIR or slug), by effective date.

    Rates are USD per 1,000,000 tokens; feature fees are USD per use.
    """
    from costguard.prices.book import PriceBook
    from costguard.reports.document import Column, Document, Table

    book = PriceBook.load(folder)
    known = book.find(model)
    if known is None:
        names = ", ".join(each.model for each in book.models())
        hint = near_model(book, model) or f"; known: {names}"
        raise ConfigurationError(f"no price for model {model!r}{hint}; add a price file with --prices FOLDER")
    rows = [row for entry in known.prices for row in _rates(entry)]
    columns = (
        Column("effective_from", "From", whole=True),
        Column("above_prompt_tokens", "Above prompt tokens", number=True),
        Column("component", "Component"),
        Column("modality", "Modality"),
        Column("usd", "USD", number=True),
        Column("per", "Per", number=True),
    )
    parts: tuple[str | Table, ...] = (
        f"{known.name} ({known.model}), {known.task_type}, {known.context_tokens:,} tokens of context",
        Table(columns, rows),
        *(_origin(entry) for entry in known.prices),
        str(known.file),
    )
    show(Document({**_document(known), "rates": rows}, _RATE_KEYS, rows, parts), output)


def _origin(entry: Price) -> str:
    origin = f"From {entry.effective_from:%Y-%m-%d}, checked {entry.checked}: {entry.source}"
    return f"{origin}\n{entry.note}" if entry.note else origin


def _document(known: ModelPrices) -> dict[str, Any]:
    return {
        "model": known.model,
        "name": known.name,
        "aliases": list(known.aliases),
        "task_type": known.task_type,
        "tokenizer": known.tokenizer,
        "context_tokens": known.context_tokens,
        "completion_default": known.completion_default,
        "completion_max": known.completion_max,
        "media": {**known.media.counts, **known.media.flags},
        "file": str(known.file),
        "entries": [
            {
                "id": entry.id,
                "effective_from": entry.effective_from,
                "checked": entry.checked,
                "source": entry.source,
                "note": entry.note,
            }
            for entry in known.prices
        ],
    }


def _rates(entry: Price) -> Iterator[dict[str, Any]]:
    """One row per rate or fee; modalities as the price file has them."""
    from costguard import money
    from costguard.prices.price import PER_TOKENS

    def row(above: int, component: str, modality: str | None, nanos: int, per: int) -> dict[str, Any]:
        return {
            "effective_from": f"{entry.effective_from:%Y-%m-%d}",
            "above_prompt_tokens": above,
            "component": component,
            "modality": modality,
            "usd": money.to_usd(nanos),
            "per": per,
        }

    for tier in entry.tiers:
        for component, rates in (("prompt", tier.prompt), ("cache", tier.cached)):
            for modality, rate in rates.items():
                yield row(tier.above_prompt_tokens, component, modality, rate, PER_TOKENS)
        yield row(tier.above_prompt_tokens, "completion", None, tier.completion, PER_TOKENS)
    for feature, fee in entry.features.items():
        yield row(0, f"feature:{feature}", None, fee.nanos_per_unit, 1)


_MODEL_KEYS = ("model", "name", "aliases", "task_type", "entries", "checked", "file")
_RATE_KEYS = ("effective_from", "above_prompt_tokens", "component", "modality", "usd", "per")

COMMANDS = (prices,)
