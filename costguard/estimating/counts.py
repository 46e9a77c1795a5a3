"""A count of tokens before they are billed."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import NamedTuple


class Count(NamedTuple):
    """Tokens: what is likely, and what cannot be passed."""

    expected: int
    upper: int


def up(number: Decimal) -> int:
    """The least whole number that is not below `number`."""
    return int(number.to_integral_value(ROUND_CEILING))
