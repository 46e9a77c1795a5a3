"""Strict JSON: what cannot be read the same way by everybody is refused, and named by its place.

Nothing of a text is quoted but keys and numbers.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from costguard.errors import InvalidRequest


class _ForbiddenError(ValueError):
    """What strict JSON forbids and Python's reader allows."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _ForbiddenError
    return found


def _finite(literal: str) -> float:
    number = float(literal)
    if number in (float("inf"), float("-inf")):
        raise _ForbiddenError(f"the number {literal[:40]}, too large to be sent as it is")
    return number


def _no_constant(literal: str) -> NoReturn:
    raise _ForbiddenError(f"{literal}, which is not JSON")


_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_float=_finite, parse_constant=_no_constant)
_PLAIN = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"))
_ASCII = json.JSONEncoder(check_circular=False, allow_nan=False, separators=(",", ":"))


def invalid(problem: str) -> InvalidRequest:
    """The refusal of a request body."""
    return InvalidRequest(f"request body: {problem}; nothing was sent")


def read(body: bytes) -> Any:
    """The JSON value of a request body; InvalidRequest names what is wrong with it, and where."""
    # Raised outside of `except`: the original errors carry the whole body, which must not reach a log.
    try:
        text = body.decode()
        if not text.startswith("\ufeff"):
            return _STRICT.decode(text)
        problem = "it starts with a byte order mark, which JSON must not have"
    except UnicodeDecodeError as error:
        problem = f"byte {error.start} is not UTF-8"
    except json.JSONDecodeError as error:
        problem = f"not JSON: {error.msg} at line {error.lineno} column {error.colno}"
        if not body.strip():
            problem = "it is empty; expected JSON"
    except RecursionError:
        problem = "it is nested too deeply"
    except ValueError:
        problem = _locate_forbidden(text)
    raise invalid(problem)


def write(payload: Any) -> bytes:
    """Compact JSON; InvalidRequest if it is nested too deeply."""
    try:
        return _PLAIN.encode(payload).encode()
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can carry
        return _ASCII.encode(payload).encode()
    except RecursionError:
        raise invalid("it is nested too deeply to be written again") from None


def with_added(body: bytes, fields: dict[str, Any]) -> bytes:
    """The `body` of an object, or of an array of one, with `fields` added at the object's end, after others."""
    end = body.rindex(b"}")
    return b"".join((body[:end], b",", write(fields)[1:-1], body[end:]))


def whole(value: Any, most: int, where: str, key: str) -> int | None:
    """A whole number from 1 to `most`, or None for null; InvalidRequest for anything else."""
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= most:
        raise invalid(f"{where}: {key}: expected a whole number from 1 to {most:,}, found {shown(value)}")
    return value


def kind(value: Any) -> str:
    """What kind of JSON value it is, in words."""
    if value == [] and isinstance(value, list):
        return "an empty array"
    names = {dict: "an object", list: "an array", str: "a text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def shown(value: Any) -> str:
    """A number as it is, anything else by its kind: no text is quoted."""
    return repr(value)[:40] if isinstance(value, (int, float)) else kind(value)


def _locate_forbidden(text: str) -> str:
    """Read again, with objects as tuples and what is forbidden left in its place, and name the first."""

    def kept(read: Any) -> Any:
        def read_or_keep(literal: str) -> Any:
            try:
                return read(literal)
            except _ForbiddenError as fault:
                return fault
            except ValueError:
                return _ForbiddenError(f"a number of {len(literal)} digits")

        return read_or_keep

    decoder = json.JSONDecoder(
        object_pairs_hook=tuple,
        parse_float=kept(_finite),
        parse_int=kept(int),
        parse_constant=kept(_no_constant),
    )
    stack = [("", decoder.decode(text))]
    while stack:
        path, node = stack.pop()
        where = path.lstrip(".") or "the body"
        if isinstance(node, _ForbiddenError):
            return f"{where} is {node}"
        if isinstance(node, list):
            stack.extend((f"{path}[{i}]", entry) for i, entry in reversed(list(enumerate(node))))
        elif isinstance(node, tuple):
            seen = set()
            for key, _ in node:
                if key in seen:
                    return f"{where} has the key {key[:40]!a} twice"
                seen.add(key)
            stack.extend((f"{path}.{ascii(key[:40])[1:-1]}", entry) for key, entry in reversed(node))
    return "it holds something that is not JSON"
