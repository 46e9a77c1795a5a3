"""Figures as they stand in JSON: what is a number, two tellings merged into one, and a text fit to be kept."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any

FIGURE_MAX = 1_000_000
"""USD. A figure above this is taken for an error, not for a bill."""

COUNT_MAX = 10**9
"""Tokens or uses. A count above this is taken for an error."""

DEPTH_MAX = 10
"""Levels of figures that are looked at; what is published has 5."""

_MONEY = ("cost", "total")
_RAW_STRING_CHARS = 40

_NUMBER_TEXT = re.compile(r"-?[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?")
_FIGURE_TEXT = re.compile(r"[-+$ ]{0,3}[0-9][0-9.,eE+-]{0,38}|NaN|-?Infinity|[A-Z]{1,12}")
_NAME_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}")


def number(value: Any) -> Decimal | int | None:
    """A JSON number, or a text that is exactly one; None for all else."""
    kind = type(value)
    if kind is int or kind is Decimal:
        return value  # type: ignore[no-any-return]
    if kind is str and _NUMBER_TEXT.fullmatch(value):
        return int(value) if value.isdigit() else Decimal(value)
    return None


def says_something(node: Any, depth: int = 0) -> bool:
    """Whether any number in it is another than zero."""
    if isinstance(node, (dict, list)):
        nodes = node.values() if isinstance(node, dict) else node
        return depth <= DEPTH_MAX and any(says_something(one, depth + 1) for one in nodes)
    found = number(node)
    return found is not None and found != 0


def merge(old: Any, new: Any, most: int = COUNT_MAX, depth: int = 0) -> Any:
    """One value of two tellings; a number is cumulative, so the larger one holds, up to `most`."""
    if new is None or depth > DEPTH_MAX:
        return old
    if old is None:
        return new
    if isinstance(old, dict) and isinstance(new, dict):
        both = dict(old)
        for key, value in new.items():
            both[key] = merge(old.get(key), value, FIGURE_MAX if key in _MONEY else COUNT_MAX, depth + 1)
        return both
    if isinstance(old, list) and isinstance(new, list):
        return _merged_leaves(old, new, depth)
    before, after = _weight(old, most), _weight(new, most)
    if before == after == _FIGURE:
        return max(old, new, key=lambda value: number(value) or 0)
    return old if before > after or before == after != _TEXT else new


_TEXT, _ZERO, _UNUSABLE, _OBJECT, _FIGURE = range(5)


def _weight(value: Any, most: int) -> int:
    """Of two tellings of one value that are not of one kind the heavier holds."""
    found = number(value)
    if found is None:
        return _OBJECT if value and isinstance(value, (dict, list)) else _TEXT
    if not is_finite(found) or not 0 <= found <= most:
        return _UNUSABLE
    return _FIGURE if found else _ZERO


def is_finite(value: Decimal | int) -> bool:
    """False for NaN and infinities."""
    return type(value) is int or Decimal(value).is_finite()


def _merged_leaves(old: list[Any], new: list[Any], depth: int) -> list[Any]:
    """Lists of leaves are told apart by modality, the nth of a name with the nth."""

    def keyed(leaves: list[Any]) -> dict[tuple[str, int], Any]:
        found: dict[tuple[str, int], Any] = {}
        counts: dict[str, int] = {}
        for leaf in leaves:
            name = str(leaf.get("modality")).upper() if isinstance(leaf, dict) else ""
            counts[name] = counts.get(name, 0) + 1
            found[name, counts[name]] = leaf
        return found

    both = keyed(old)
    for key, leaf in keyed(new).items():
        both[key] = merge(both.get(key), leaf, depth=depth + 1)
    return list(both.values())


def compact(node: Any, depth: int = DEPTH_MAX) -> str:
    """Canonical JSON of a parsed value, bounded in depth and in the length of its strings."""
    if isinstance(node, str):
        # A text that is no figure may be a piece of an answer.
        return json.dumps(node if _FIGURE_TEXT.fullmatch(node) else "...")
    if node is None or isinstance(node, bool):
        return json.dumps(node)
    if isinstance(node, Decimal):
        if not node.is_finite() or abs(node.adjusted()) > _RAW_STRING_CHARS:
            return str(node)
        text = f"{node:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(node, int):
        return str(node)
    if depth == 0 or not isinstance(node, (dict, list)):
        return '"..."'
    if isinstance(node, list):
        return f"[{','.join([compact(entry, depth - 1) for entry in node])}]"
    names = {key: key if _NAME_TEXT.fullmatch(str(key)) else "..." for key in node}
    entries = [f"{json.dumps(names[key])}:{compact(node[key], depth - 1)}" for key in sorted(node, key=str)]
    return "{" + ",".join(entries) + "}"
