"""Exact money: whole nano-dollars (1e-9 USD) as `int` inside, `Decimal` at the edges, never float."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import MAX_PREC, Context, Decimal, Inexact, InvalidOperation

from costguard.errors import ConfigurationError

NANOS = 10**9
"""Nano-dollars in one USD."""

AMOUNT_MAX = 10**9 * NANOS
"""No amount a user states may pass this (10^9 USD): sums of them stay within 64 bits."""

_NANO = Decimal((0, (1,), -9))

# Contexts of our own: the program's may have any precision, and would round silently.
_EXACT = Context(prec=80, traps=[InvalidOperation, Inexact])
_EXACT_PRODUCT = Context(prec=MAX_PREC, traps=[InvalidOperation])
_NANOS = Decimal(NANOS)


def parse_usd(value: str | int | Decimal, what: str = "amount") -> int:
    """Read an amount in USD, as a user states it, into nano-dollars.

    Accepts str, int or Decimal, not negative, with at most 9 decimals. A float raises TypeError
    (0.1 is not a tenth); anything else unusable raises ConfigurationError naming `what`.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, Decimal)):
        raise TypeError(
            f"{what}: expected str, int or Decimal in USD, got {type(value).__name__} {value!r};"
            " write the amount as text, such as '12.50'"
        )
    try:
        amount = Decimal(value.strip() if isinstance(value, str) else value)
    except InvalidOperation:
        raise ConfigurationError(f"{what}: {value!r} is not an amount in USD, such as '12.50'") from None
    if not amount.is_finite():
        raise ConfigurationError(f"{what}: {value!r} is not a finite amount")
    if amount < 0:
        raise ConfigurationError(f"{what}: {value!r} is negative; state 0 or more")
    if amount > AMOUNT_MAX // NANOS:
        raise ConfigurationError(f"{what}: {value!r} is above {AMOUNT_MAX // NANOS} USD")
    try:
        return int(amount.quantize(_NANO, context=_EXACT).scaleb(9, context=_EXACT))
    except Inexact:
        raise ConfigurationError(f"{what}: {value!r} has more than 9 decimals (a nano-dollar is the unit)") from None


def to_usd(nanos: int) -> Decimal:
    """Nano-dollars as an exact Decimal of USD, with 2 to 9 decimals."""
    return Decimal(to_text(nanos))


def to_text(nanos: int) -> str:
    """Nano-dollars as a plain decimal string: 2 to 9 decimals, no exponent, no commas."""
    sign = "-" if nanos < 0 else ""
    whole, part = divmod(abs(nanos), NANOS)
    decimals = f"{part:09d}".rstrip("0").ljust(2, "0")
    return f"{sign}{whole}.{decimals}"


def sum_known(amounts: Iterable[int | None]) -> int | None:
    """The sum, None if any part is unknown: unknown is never zero."""
    total = 0
    for amount in amounts:
        if amount is None:
            return None
        total += amount
    return total


def from_provider(value: Decimal) -> int:
    """A provider's finite figure in USD, rounded half-even to a nano-dollar."""
    return round(_EXACT_PRODUCT.multiply(value, _NANOS))
