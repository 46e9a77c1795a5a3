"""Responses: bytes -> items and errors, read leniently, for whatever was billed must be recorded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from costguard.exchange.charging import Figures
from costguard.wire.runware.requests import stored_name

CODE_CHARS_MAX = 80

_DOUBTFUL = re.compile(r"tim(?:e|ed)[\s_-]*out|deadline|provider|stream|no[\s_-]*content", re.IGNORECASE)
_NOT_FOUND = re.compile(
    r"not[\s_-]*(?:be[\s_-]*)?found|not[\s_-]*exist|no[\s_-]*such|unknown[\s_-]*task", re.IGNORECASE
)
_DEPTH_MAX = 100
_RESULT_KEYS = frozenset({"text", "cost", "usage", "finishReason", "outputs"})
_MEDIA_ENDINGS = ("URL", "URLs", "DataURI", "Base64Data")


class Item(NamedTuple):
    """One entry of a response's `data`: a result, or an acknowledgement. Its text is counted, not kept.

    `task_uuid` and `task_type` may be ""; `status` is "", "processing" or "success". `has_result`: it says
    more than an acknowledgement does. `text_length` is in characters.
    """

    task_uuid: str
    task_type: str
    status: str
    result_index: int | None
    seed: int | None
    figures: Figures
    has_result: bool
    text_length: int

    @property
    def names(self) -> str:
        """What this result is called within its task: its index and its seed, as far as they are told."""
        index = "" if self.result_index is None else f"i:{self.result_index}"
        seed = "" if self.seed is None else f"s:{self.seed}"
        return f"{index} {seed}".strip()


@dataclass(frozen=True, slots=True)
class WireError:
    """One error of a response. `task_uuid`, `task_type` and `code` may be "".

    `doubtful`: the work may have been done and billed all the same. It speaks of a timeout, the provider,
    streaming or "no content", or it cannot be read. `message` may quote a prompt: it is not for any log.
    """

    task_uuid: str
    task_type: str
    code: str
    message: str = field(repr=False)
    doubtful: bool
    of_item: bool = False
    """True if it stands in a task's own item, so that it speaks of the task and not of a question."""

    @property
    def not_found(self) -> bool:
        """True if it says that what was asked for does not exist."""
        return _NOT_FOUND.search(self.code) is not None or _NOT_FOUND.search(self.message) is not None


class Envelope(NamedTuple):
    """A response: its items, its errors, and what it tells of past tasks (`getTaskDetails`)."""

    items: tuple[Item, ...]
    errors: tuple[WireError, ...]
    details: tuple[Details, ...]


class Details(NamedTuple):
    """What `getTaskDetails` knows of the task `task_uuid`: its response, None if there is none.

    Items and errors of `envelope` that name no task carry this `task_uuid`.
    """

    task_uuid: str
    envelope: Envelope | None


def parse_response(body: bytes) -> Envelope | None:
    """Read a response; None if it is not JSON, so unreadable or cut.

    Takes `{data, errors}`, a singular `error`, a bare array of items, and one bare item (a webhook's body).
    Other shapes give an empty envelope. Raises nothing. Figures keep every digit; NaN stays visible in them.
    """
    try:
        return _envelope(_read_leniently(body.decode(errors="replace").removeprefix("\ufeff")), "", True)
    except (ValueError, RecursionError):
        return None


def read_payload(payload: object) -> Envelope | None:
    """As `parse_response`, for a result from anywhere: text, bytes, or JSON that is parsed already.

    Floats of a parsed payload are read by their shortest decimal text.
    """
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return parse_response(bytes(payload))
    if isinstance(payload, str):
        return parse_response(payload.encode("utf-8", "replace"))
    return _envelope(_exact(payload, 0), "", True) if isinstance(payload, (Mapping, list, tuple)) else None


def _exact(node: Any, depth: int) -> Any:
    if isinstance(node, float):
        return _figure(repr(node))
    if depth > _DEPTH_MAX:
        return None
    if isinstance(node, Mapping):
        return {key: _exact(value, depth + 1) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_exact(value, depth + 1) for value in node]
    return node


class Frame(NamedTuple):
    """One frame of a stream: `item` is None for an error frame, `text_length` counts its delta."""

    item: Item | None
    errors: tuple[WireError, ...]
    text_length: int
    finished: bool


def parse_frame(data: bytes) -> Frame | None:
    """Read the JSON of one stream frame; None if it is not an object. Raises nothing."""
    try:
        raw = _read_leniently(data.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(raw, dict):
        return None
    nested = raw.get("data")
    if isinstance(nested, list) and nested and isinstance(nested[0], dict):
        raw = {**raw, **nested[0]}
    failures = raw.get("errors") or raw.get("error") or (raw if raw.get("status") in ("error", "failed") else None)
    if failures:
        return Frame(None, tuple(_errors(failures, stored_name(raw.get("taskUUID")))), 0, False)
    item = _item(raw, "")
    delta = raw.get("delta")
    length = item.text_length
    if isinstance(delta, dict):
        length += sum(len(part) for part in delta.values() if isinstance(part, str))
    return Frame(item, (), length, isinstance(raw.get("finishReason"), str))


def _figure(literal: str) -> Decimal:
    try:
        return Decimal(literal)
    except InvalidOperation:  # an exponent beyond all bounds
        return Decimal("NaN")


_LENIENT = json.JSONDecoder(parse_float=Decimal, parse_constant=Decimal, strict=False)
_MOST_LENIENT = json.JSONDecoder(parse_float=_figure, parse_constant=Decimal, strict=False)


def _read_leniently(text: str) -> Any:
    try:
        return _LENIENT.decode(text)
    except InvalidOperation:
        return _MOST_LENIENT.decode(text)


def _envelope(found: Any, task_uuid: str, with_details: bool) -> Envelope:
    """`task_uuid` stands in where an item or error names none."""
    items: list[Item] = []
    errors: list[WireError] = []
    details: list[Details] = []
    data = found
    if isinstance(found, dict) and not ("taskUUID" in found and "data" not in found):
        data = found.get("data")
        for key in ("errors", "error"):
            if found.get(key):
                errors.extend(_errors(found[key], task_uuid))
    for raw in data if isinstance(data, list) else [data]:
        if not isinstance(raw, dict):
            continue
        item = _item(raw, task_uuid)
        failed = raw.get("status") in ("error", "failed") or raw.get("error") or raw.get("errors")
        if item.task_type == "getTaskDetails" and not (failed and not raw.get("response")):
            if with_details:
                details.append(_details(raw, item.task_uuid))
        elif failed:
            failure = raw.get("error") or raw.get("errors") or {**raw, "taskType": ""}  # of the task, not of the poll
            errors.extend(replace(error, of_item=True) for error in _errors(failure, item.task_uuid))
            if item.figures != (None, None):
                items.append(item)  # failed, and billed all the same
        else:
            items.append(item)
    return Envelope(tuple(items), tuple(errors), tuple(details))


def _item(raw: dict[str, Any], task_uuid: str) -> Item:
    text = raw.get("text")
    index, seed, status = raw.get("resultIndex"), raw.get("seed"), raw.get("status")
    return Item(
        stored_name(raw.get("taskUUID")) or task_uuid,
        stored_name(raw.get("taskType")),
        status if status in ("processing", "success") else "",
        index if type(index) is int and 0 <= index < 2**63 else None,
        seed if type(seed) is int and 0 <= seed < 2**63 else None,
        Figures(raw.get("cost"), raw.get("usage")),
        text is not None or _is_result(raw),
        len(text) if isinstance(text, str) else 0,
    )


def _is_result(raw: dict[str, Any]) -> bool:
    for key, value in raw.items():
        if value is not None and (key in _RESULT_KEYS or (key.endswith(_MEDIA_ENDINGS) and key != "webhookURL")):
            return True
    return False


def _details(raw: dict[str, Any], task_uuid: str) -> Details:
    request, response = raw.get("request"), raw.get("response")
    if not task_uuid and isinstance(request, dict):
        task_uuid = stored_name(request.get("taskUUID"))
    if isinstance(response, str):
        try:
            response = _read_leniently(response)
        except (ValueError, RecursionError):
            response = None
    known = isinstance(response, (dict, list)) and bool(response)
    return Details(task_uuid, _envelope(response, task_uuid, False) if known else None)


def _errors(found: Any, task_uuid: str) -> list[WireError]:
    if not found:
        return []
    return [_error(entry, task_uuid) for entry in (found if isinstance(found, list) else [found])]


def _error(entry: Any, task_uuid: str) -> WireError:
    if isinstance(entry, str):
        entry = {"message": entry}
    if not isinstance(entry, dict):
        return WireError(task_uuid, "", "", "", True)
    code, message = entry.get("code"), entry.get("message")
    message = message if isinstance(message, str) else ""
    code = str(code) if isinstance(code, (str, int)) else ""
    return WireError(
        stored_name(entry.get("taskUUID")) or task_uuid,
        stored_name(entry.get("taskType")),
        "".join(c for c in code[:CODE_CHARS_MAX] if c.isprintable()),
        message,
        _DOUBTFUL.search(code) is not None or _DOUBTFUL.search(message) is not None,
    )
