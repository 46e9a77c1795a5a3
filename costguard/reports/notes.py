"""What must be said of a statement: what is not there, how sure its figures are, and what may be added."""

from __future__ import annotations

from costguard.reports.amounts import Amounts, percent
from costguard.reports.document import usd
from costguard.reports.facts import Statement
from costguard.reports.forecast import Forecast
from costguard.reports.sections import count

PROVIDER_BASES = ("breakdown", "cost")
"""Bases whose figure the provider stated; charges on any other basis are ours, and a report says so."""


def absent(found: Statement) -> list[str]:
    """What is not there that was asked for."""
    lines = []
    if not found.found.is_known:
        lines.append(f"Nothing was ever booked on {found.project}, and no budget is of it.")
    if found.began is None and found.found.has_refused:
        lines.append("Nothing was ever charged: all that was asked for was refused.")
    elif found.began is None:
        lines.append("The ledger is empty.")
    elif found.began >= found.period.end:
        lines.append(f"The ledger began on {found.began}, after this period.")
    elif found.began > found.period.first:
        lines.append(f"The ledger began on {found.began}: what was spent before is not in it.")
    return lines


def notes(found: Statement, amounts: Amounts) -> list[str]:
    """How sure the figures are, and what may be added."""
    lines = []
    by_basis = found.by("basis")
    for one, cost in zip(by_basis, amounts.parts([one.nanos for one in by_basis]), strict=True):
        (basis,) = one.keys
        origin = "the provider's figure" if basis in PROVIDER_BASES else "not the provider's figure"
        lines.append(f"{usd(cost)} USD by {basis} ({origin}).")
    if {one.keys[0] for one in by_basis} - {"breakdown"}:
        lines.append("Tokens are those that were stated; charges not by breakdown may come without.")
    if found.found.open.tasks:
        held = usd(amounts.usd(found.found.open.held))
        lines.append(f"{count(found.found.open.tasks, 'task')} still open: up to {held} USD is held and may be added.")
    components = {one.keys[0]: one for one in found.by("component")}
    for component, what in (
        ("rounding", "the provider's own rounding"),
        ("unexplained", "nothing the provider itemized"),
    ):
        if component in components and components[component].nanos:
            lines.append(f"{usd(amounts.usd(components[component].nanos))} USD is {what}.")
    reasoning = sum(one.reasoning for one in found.rows)
    completion = sum(one.tokens for one in found.by("component") if one.keys[0] == "completion")
    if reasoning:
        lines.append(
            f"{reasoning:,} of {completion:,} completion tokens were reasoning ({percent(reasoning, completion)} %)."
        )
    priced, computed = sum(one.priced for one in found.rows), sum(one.computed for one in found.rows)
    if priced != computed:
        more = "more" if priced > computed else "less"
        lines.append(
            f"{usd(amounts.usd(priced))} USD was charged where our price files come to"
            f" {usd(amounts.usd(computed))} USD: {usd(abs(amounts.difference(priced, computed)))} USD {more}."
        )
    if amounts.round_to and amounts.usd(found.total) != Amounts().usd(found.total):
        lines.append(
            f"The total is {usd(Amounts().usd(found.total))} USD to the last digit; in cents, parts are rounded so that"
            " they add up to what is shown."
        )
    return lines


def left_out(found: Statement) -> list[str]:
    """What the whole statement does not show, though it could be asked for."""
    return ["What was spent by tags is told with --by tag:NAME."] if found.found.left_tags else []


def ahead(found: Statement, amounts: Amounts) -> list[str]:
    """Where the period will end, by which method, or why nobody can tell; nothing once it is over."""
    expected = found.forecast
    if isinstance(expected, Forecast):
        least, most = usd(amounts.usd(expected.least)), usd(amounts.usd(expected.most))
        return [
            f"Expected at the end: {usd(amounts.usd(expected.expected))} USD, between {least} and {most}."
            f" {method(expected, amounts)}"
        ]
    return [] if found.is_over else [f"No forecast: {expected.reason}."]


def method(ahead: Forecast, amounts: Amounts) -> str:
    """How a forecast was come by, and what limits it."""
    if ahead.limit is None or ahead.unlimited is None:
        return ahead.method
    limit = f"limited to {usd(amounts.usd(ahead.limit))} by {ahead.limited_by}"
    if ahead.unlimited <= ahead.limit:
        return f"{ahead.method} Its range is {limit}."
    return f"{ahead.method} {limit[0].upper()}{limit[1:]}; without it {usd(amounts.usd(ahead.unlimited))}."


def as_of(found: Statement) -> str:
    """When the statement was made."""
    return f"As of {found.at:%Y-%m-%d %H:%M:%S %Z}."
