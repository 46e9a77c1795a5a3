"""What was made and is no text: results, seconds and megapixels, by kind of task and model."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from costguard.outputs import PARTS, in_units
from costguard.reports.amounts import Amounts
from costguard.reports.document import Column, Heading, Part, Row, Table
from costguard.reports.facts import Statement
from costguard.reports.sections import COST, TASKS, VALUES_MAX, column
from costguard.tasks import TEXT_INFERENCE


class Made(NamedTuple):
    """What one model made for one type of task, in `unit`: `results`, `seconds` or `megapixels`; nano-USD."""

    task_type: str
    model: str
    unit: str
    tasks: int
    quantity: Decimal
    nanos: int


def made(found: Statement) -> list[Made]:
    """All that was made, the most expensive first: counted by what its price counts, else in results."""
    together: dict[tuple[str, str, str], Made] = {}
    for one in found.by("task_type", "model", "component"):
        task_type, model, component = one.keys
        if component in PARTS:
            unit, quantity = component, in_units(component, one.quantity)
        elif component == "unitemized" and task_type != TEXT_INFERENCE:
            unit, quantity = "results", Decimal(one.results)
        else:
            continue
        key = task_type, model, unit
        same = together.get(key, Made(*key, 0, Decimal(0), 0))
        together[key] = Made(*key, same.tasks + one.tasks, same.quantity + quantity, same.nanos + one.nanos)
    return sorted(together.values(), key=lambda row: (-row.nanos, row[:3]))


def rows(found: Statement, amounts: Amounts) -> list[Row]:
    """All of it, as rows."""
    every = made(found)
    return [
        {
            "task_type": one.task_type,
            "model": one.model or None,
            "tasks": one.tasks,
            "quantity": one.quantity,
            "unit": one.unit,
            "cost": cost,
        }
        for one, cost in zip(every, amounts.parts([one.nanos for one in every]), strict=True)
    ]


def section(found: Statement, amounts: Amounts) -> list[Part]:
    """What was made, as a table; nothing where all was text."""
    every = rows(found, amounts)
    if not every:
        return []
    columns = (
        column("task_type"), column("model"), TASKS, Column("quantity", "Quantity", number=True),
        Column("unit", "Unit"), COST,
    )  # fmt: skip
    more = [f"{len(every) - VALUES_MAX:,} more are in the JSON."] if len(every) > VALUES_MAX else []
    shown = [{**row, "quantity": f"{row['quantity']:,f}"} for row in every[:VALUES_MAX]]
    return [Heading("What was made"), Table(columns, shown), *more]
