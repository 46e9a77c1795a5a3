"""JSON whose numbers keep every digit: fractions are `Decimal` on both sides, never float."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")


def loads(text: str | bytes) -> Any:
    """Parse JSON; numbers with a fraction or exponent, and NaN, become Decimal. ValueError when not JSON."""
    return json.loads(text, parse_float=Decimal, parse_constant=Decimal)


def dumps(value: Any) -> str:
    """Write JSON with Decimals digit for digit; Decimal('NaN') becomes the bare word NaN, as in some APIs.

    Takes None, bool, int, str, Decimal, list and dict; anything else, a float too, is a TypeError.
    """
    if value is None or isinstance(value, (bool, int)):
        return json.dumps(value)
    if isinstance(value, str):
        # A lone surrogate, legal in JSON, exists in UTF-8 only as an escape.
        return json.dumps(value, ensure_ascii=bool(_SURROGATE.search(value)))
    if isinstance(value, Decimal):
        # Plain digits, except where an exponent spares a flood of zeros.
        plain = value.is_nan() or abs(value.adjusted()) < 30
        return format(value, "f") if plain else str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{dumps(key)}:{dumps(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(dumps(item) for item in value) + "]"
    raise TypeError(f"cannot write {type(value).__name__} as exact JSON: use Decimal, int or str")
