"""What commands say to somebody who named a project, model or month that is not there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

from costguard.cli.suggesting import did_you_mean, near_project

if TYPE_CHECKING:
    from costguard.guard import Guard
    from costguard.prices.book import PriceBook

MONTHS_SHOWN = 6
"""So many months are named one by one; of more, the first and the last."""


def hint_at_project(guard: Guard, project: str | None) -> None:
    """Say on standard error that a project is in nothing of the ledger, if another one looks like it."""
    found = near_project(project, guard.ledger.named("project")) if project is not None else ""
    if found:
        click.echo(f"No charge, no hold and no budget is of {project}{found}", err=True)


def hint_at_month(guard: Guard, month: str) -> None:
    """Say on standard error which months there are, if `month` is none of them."""
    months = guard.ledger.named("month")
    if months and month not in months:
        there_are = ", ".join(months) if len(months) <= MONTHS_SHOWN else f"{months[0]} to {months[-1]}"
        click.echo(f"No charge and no hold is of {month}; there are of {there_are}", err=True)


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
    from costguard.budgets import YEAR_MAX, YEAR_MIN

    numbers = re.findall(r"[0-9]+", text)
    year = next((part for part in numbers if len(part) == 4), None)
    month = next((int(part) for part in numbers if len(part) <= 2), None)
    if year is None or month is None:
        return ""
    meant = f"{year}-{min(max(month, 1), 12):02}"
    return f"; did you mean '{meant}'?" if meant != text and YEAR_MIN <= int(year) <= YEAR_MAX else ""
