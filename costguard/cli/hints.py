"""What commands say to somebody who named a project, model or month that is not there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from costguard.cli.suggesting import did_you_mean, hint

if TYPE_CHECKING:
    from costguard.guard import Guard
    from costguard.prices.book import PriceBook


def hint_at_project(guard: Guard, project: str | None) -> None:
    """Say on standard error that a project is in nothing of the ledger, if another one looks like it."""
    found = hint(guard.ledger, "project", project) if project is not None else ""
    if found:
        click.echo(f"No call and no budget is of {project}{found}", err=True)


def hint_at_model(guard: Guard, model: str | None) -> None:
    """Say on standard error that a model has no price, if one that has looks like it."""
    found = near_model(guard.prices, model) if model is not None else ""
    if found:
        click.echo(f"No price is known for {model}{found}", err=True)


def near_model(prices: PriceBook, model: str) -> str:
    """`; did you mean …?` of the models that have a price, by AIR and alias; "" for one of them, or if none is near."""
    names = [name for known in prices.models() for name in (known.model, *known.aliases)]
    return "" if model in names else did_you_mean(model, names)


def near_month(text: str) -> str:
    """`; did you mean '2026-01'?` of a month that is written otherwise, or that no year has; "" if it is none."""
    numbers = re.findall(r"[0-9]+", text)
    year = next((part for part in numbers if len(part) == 4), None)
    month = next((int(part) for part in numbers if len(part) <= 2), None)
    if year is None or month is None:
        return ""
    return f"; did you mean '{year}-{min(max(month, 1), 12):02}'?"
