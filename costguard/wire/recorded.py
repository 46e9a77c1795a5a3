"""Recorded responses, of whatever wire: a record is an object of a log or a file, with a response somewhere in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from costguard.wire import openai_usage
from costguard.wire.dialect import Told
from costguard.wire.runware import recorded
from costguard.wire.runware.answers import read_leniently

_DEPTH_MAX = 3
_WITHIN = ("response", "body")
"""Where a record keeps its response, beside a request or a status."""


def parse(text: str) -> Any:
    """The value of a JSON text, Decimal for float; ValueError or RecursionError if it is none."""
    return read_leniently(text)


def tell(record: Any, name: Callable[[], str]) -> list[Told]:
    """What a record tells of each task it speaks of; none if nothing in it is a result.

    `record` is a value that `parse` gave; `name` gives what a task is called that has no name.
    """
    value = _response(record, 0)
    found = openai_usage.tell(record, value, name)
    return recorded.tell(record, value, name) if found is None else found


def is_piece(record: Any) -> bool:
    """Whether a record is a piece of a stream, which need not tell anything."""
    return openai_usage.is_piece(_response(record, 0))


def _response(node: Any, depth: int) -> Any:
    """The response within a record; the record itself if there is none in it."""
    if not isinstance(node, Mapping) or depth >= _DEPTH_MAX:
        return node
    for key in _WITHIN:
        inner = node.get(key)
        if isinstance(inner, str):
            try:
                inner = parse(inner)
            except (ValueError, RecursionError):
                continue
        if isinstance(inner, (Mapping, list)) and inner:
            return _response(inner, depth + 1)
    return node
