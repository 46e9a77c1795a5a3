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
    from costguard.outputs import Output
    from costguard.prices.model import AnyPrice, ModelPrices


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
            "entries": len(known.entries),
            "checked": known.entries[-1].checked,
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
    """Show every price of MODEL (AIR or slug, or a type of task), by effective date.

    Rates are USD per 1,000,000 tokens, or per result, second or megapixel; feature fees are USD per use.
    """
    from costguard.prices.book import PriceBook
    from costguard.reports.document import Column, Document, Table

    book = PriceBook.load(folder)
    known = book.find(model) or book.of(None, model)
    if known is None:
        names = ", ".join(each.model for each in book.models())
        hint = near_model(book, model) or f"; known: {names}"
        raise ConfigurationError(f"no price for model {model!r}{hint}; add a price file with --prices FOLDER")
    rows = [row for entry in known.entries for row in _rates(entry)]
    if known.outputs:
        of = "each model without a price file of its own" if known.is_any else known.model
        heading = f"{known.name} ({of}), {known.task_type}"
    else:
        heading = f"{known.name} ({known.model}), {known.task_type}, {known.context_tokens:,} tokens of context"
    columns = (
        Column("effective_from", "From", whole=True),
        Column("above_prompt_tokens", "Above prompt tokens", number=True),
        Column("component", "Component"),
        Column("modality", "Modality"),
        Column("usd", "USD", number=True),
        Column("per", "Per", number=True),
    )
    if known.outputs:
        columns = (
            columns[0],
            Column("component", "Of"),
            Column("modality", "For"),
            columns[-2],
            Column("unit", "Per"),
            Column("counted", "Counted"),
        )
    parts: tuple[str | Table, ...] = (
        heading,
        *_unsaid(known),
        Table(columns, rows),
        *(_origin(entry) for entry in known.entries),
        str(known.file),
    )
    show(Document({**_document(known), "rates": rows}, _RATE_KEYS, rows, parts), output)


def _origin(entry: AnyPrice) -> str:
    origin = f"From {entry.effective_from:%Y-%m-%d}, checked {entry.checked}: {entry.source}"
    return f"{origin}\n{entry.note}" if entry.note else origin


def _document(known: ModelPrices) -> dict[str, Any]:
    return {
        "model": known.model,
        "name": known.name,
        "aliases": list(known.aliases),
        "task_type": known.task_type,
        "tokenizer": known.tokenizer if known.prices else None,
        "context_tokens": known.context_tokens or None,
        "completion_default": known.completion_default or None,
        "completion_max": known.completion_max or None,
        "media": {**known.media.counts, **known.media.flags},
        "output": {bound: _shown(output) for bound, output in _outputs(known)},
        "file": str(known.file),
        "entries": [
            {
                "id": entry.id,
                "effective_from": entry.effective_from,
                "checked": entry.checked,
                "source": entry.source,
                "note": entry.note,
            }
            for entry in known.entries
        ],
    }


def _outputs(known: ModelPrices) -> Iterator[tuple[str, Output]]:
    """What a result is taken to be where its task does not say; nothing of tokens."""
    if known.outputs:
        yield "default", known.outputs[-1].default
        yield "most", known.outputs[-1].most


def _shown(output: Output) -> dict[str, Any]:
    from costguard.outputs import in_units

    size = None if output.pixels is None else f"{output.width}x{output.height}"
    length = None if output.milliseconds is None else in_units("seconds", output.milliseconds)
    return {"size": size, "seconds": length}


def _unsaid(known: ModelPrices) -> Iterator[str]:
    for bound, output in _outputs(known):
        shown = _shown(output)
        said = [shown["size"], None if shown["seconds"] is None else f"{shown['seconds']:f} seconds"]
        if any(said):
            word = "likely" if bound == "default" else "at most"
            yield f"Where a task does not say: {word} {', '.join(filter(None, said))}"


def _rates(entry: AnyPrice) -> Iterator[dict[str, Any]]:
    """One row per rate or fee; modalities as the price file has them."""
    from costguard import money
    from costguard.prices.output import OutputPrice
    from costguard.prices.price import PER_TOKENS

    def row(above: int, component: str, modality: str | None, nanos: int, per: int) -> dict[str, Any]:
        return {
            "effective_from": f"{entry.effective_from:%Y-%m-%d}",
            "above_prompt_tokens": above,
            "component": component,
            "modality": modality,
            "usd": money.to_usd(nanos),
            "per": per,
            "unit": None,
            "counted": None,
        }

    if isinstance(entry, OutputPrice):
        told = {"unit": entry.unit, "counted": entry.rounding}
        for stated in entry.rates:
            yield {**row(0, entry.meter, stated.name or None, stated.nanos, 1), **told}
        return
    for tier in entry.tiers:
        for component, rates in (("prompt", tier.prompt), ("cache", tier.cached)):
            for modality, rate in rates.items():
                yield row(tier.above_prompt_tokens, component, modality, rate, PER_TOKENS)
        yield row(tier.above_prompt_tokens, "completion", None, tier.completion, PER_TOKENS)
    for feature, fee in entry.features.items():
        yield row(0, f"feature:{feature}", None, fee.nanos_per_unit, 1)


_MODEL_KEYS = ("model", "name", "aliases", "task_type", "entries", "checked", "file")
_RATE_KEYS = ("effective_from", "above_prompt_tokens", "component", "modality", "usd", "per", "unit", "counted")

COMMANDS = (prices,)
