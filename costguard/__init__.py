"""costguard: wrap your LLM client so that the bill can never surprise you."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from costguard.budgets import Budget
    from costguard.clients.everywhere import install, uninstall
    from costguard.errors import ConfigurationError, CostguardError, InvalidRequest, LedgerError, PriceFileError
    from costguard.estimating.estimate import Estimate
    from costguard.exchange.receipt import Receipt
    from costguard.guard import Guard
    from costguard.ledger.records import Alert
    from costguard.ledger.standing import BudgetStatus
    from costguard.refusals import BudgetExceeded, UnpricedTask

_HOMES = {
    "Alert": "ledger.records",
    "Budget": "budgets",
    "BudgetExceeded": "refusals",
    "BudgetStatus": "ledger.standing",
    "ConfigurationError": "errors",
    "CostguardError": "errors",
    "Estimate": "estimating.estimate",
    "Guard": "guard",
    "InvalidRequest": "errors",
    "LedgerError": "errors",
    "PriceFileError": "errors",
    "Receipt": "exchange.receipt",
    "UnpricedTask": "refusals",
    "install": "clients.everywhere",
    "uninstall": "clients.everywhere",
}
"""Public name -> the module it lives in."""

__all__ = [
    "Alert",
    "Budget",
    "BudgetExceeded",
    "BudgetStatus",
    "ConfigurationError",
    "CostguardError",
    "Estimate",
    "Guard",
    "InvalidRequest",
    "LedgerError",
    "PriceFileError",
    "Receipt",
    "UnpricedTask",
    "install",
    "uninstall",
]


def __getattr__(name: str) -> object:
    """Load a public name when it is first asked for: the command's help needs none of them."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'costguard' has no attribute {name!r}")
    value = getattr(import_module(f"costguard.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
