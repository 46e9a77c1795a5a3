"""costguard: wrap your LLM client so that the bill can never surprise you."""

from costguard.budgets import Budget
from costguard.errors import (
    BudgetExceeded,
    ConfigurationError,
    CostguardError,
    InvalidRequest,
    LedgerError,
    PriceFileError,
    UnpricedTask,
)
from costguard.estimate import Estimate
from costguard.guard import BudgetStatus, Guard
from costguard.ledger import Alert

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
    "UnpricedTask",
]
