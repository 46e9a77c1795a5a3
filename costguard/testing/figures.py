"""The figures of a result: which of them are told, and how they are spelled."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from costguard.testing.manners import Manners, Told


def tell(item: dict[str, Any], told: Told) -> dict[str, Any]:
    """A result with the figures `told` of it and no others."""
    if told == "all":
        return item
    kept = {key: value for key, value in item.items() if key not in ("cost", "usage")}
    if told == "cost":
        return {**kept, "cost": item["cost"]} if "cost" in item else kept
    usage = item.get("usage", {})
    shown = {key: value for key, value in usage.items() if (key == "costBreakdown") == (told == "breakdown")}
    return {**kept, "usage": shown} if shown else kept


def spell(node: Any, manners: Manners) -> Any:
    """Anything that is answered, its names and figures spelled as `manners` has them.

    What `getTaskDetails` quotes of a request is the client's own spelling and stays.
    """
    if isinstance(node, list):
        return [spell(entry, manners) for entry in node]
    if not isinstance(node, dict):
        return node
    told = {key: value if key == "request" else _spelled(key, value, manners) for key, value in node.items()}
    if not manners.breakdown_total:
        told.pop("total", None)
        told.pop("totalDisplay", None)
    if manners.usage_cost and "cost" in told and "taskUUID" in told:
        told["usage"] = {**told.get("usage", {}), "cost": told.pop("cost")}
    return told


def _spelled(key: str, value: Any, manners: Manners) -> Any:
    if key == "taskUUID" and isinstance(value, str) and manners.uuid_case:
        return value.upper() if manners.uuid_case == "upper" else value.lower()
    is_number = isinstance(value, (int, Decimal)) and not isinstance(value, bool)
    if manners.figures_as_text and is_number and key in ("cost", "total"):
        return _money(Decimal(value))
    if manners.counts_as_text and is_number and (key == "count" or key.lower().endswith("tokens")):
        return str(value)
    return spell(value, manners)


def _money(amount: Decimal) -> str:
    """Six decimals as the published `costDisplay` has them, more where there are more."""
    exponent = amount.as_tuple().exponent
    return f"{amount:.{max(6, -exponent)}f}" if isinstance(exponent, int) else str(amount)
