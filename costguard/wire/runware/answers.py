"""Responses, frames, webhooks: bytes -> items and errors, read leniently: whatever was billed must be recorded."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from typing import Any, NamedTuple

from costguard.wire.runware.figures import Told
from costguard.wire.runware.made import read_made
from costguard.wire.runware.names import stored_name, task_name
from costguard.wire.runware.tellings import merge

CODE_CHARS_MAX = 80

SUCCESS, ERROR, WAITING = "success", "error", "waiting"
"""What an item's `status` comes to; "" if it has none."""

STATUSES: Mapping[str, str] = {
    "success": SUCCESS,
    "error": ERROR,
    "failed": ERROR,
    "processing": WAITING,
    "pending": WAITING,
    "queued": WAITING,
}
"""The statuses known: `processing`, `success` and `error` are documented, the others are met in older pages and on
neighbouring wires. An unknown one is no end, so it waits too."""

_DOUBTFUL = re.compile(r"tim(?:e|ed)[\s_-]*out|deadline|provider|stream|no[\s_-]*content", re.IGNORECASE)
_NOT_FOUND = re.compile(
    r"not[\s_-]*(?:be[\s_-]*)?found|not[\s_-]*exist|no[\s_-]*such|unknown[\s_-]*task", re.IGNORECASE
)
_DEPTH_MAX = 100
_PAYLOADS = (str, bytes, bytearray, memoryview, Mapping, list, tuple)
_FIGURE_KEYS = frozenset({"cost", "usage", "costBreakdown"})
_OUTPUT_KEYS = frozenset({"outputs", "toolCalls"})
_NAME_KEY = "imageUUID"  # an upload tells no more
_ITEM_KEYS = _FIGURE_KEYS | _OUTPUT_KEYS | {_NAME_KEY, "text", "finishReason", "taskUUID", "delta", "status"}
_BESIDE_KEYS = ("cost", "usage", "costBreakdown", "finishReason")
_MEDIA_ENDINGS = ("URL", "URLs", "DataURI", "Base64Data")


class Item(NamedTuple):
    """One entry of a response's `data`, or one frame: a result, a piece of one, or an acknowledgement.

    `task_uuid` and `task_type` may be "". `has_result`: it says more than an acknowledgement does. `text_length`
    counts characters of its text and its delta, which are not kept. `finished`: it says why it ended.
    """

    task_uuid: str
    task_type: str
    status: str
    result_index: int | None
    seed: int | None
    told: Told
    has_result: bool
    text_length: int
    finished: bool = False
    worked: bool = False
    """Something was made for it: a text, a call of a tool, a picture, or a piece of one."""
    only_named: bool = False
    """It tells what its picture is called, and nothing else of it: a result, unless that is to come later."""

    @property
    def settles(self) -> bool:
        """True if it is a result that has come to its end."""
        return self.status == SUCCESS or (self.has_result and self.status != WAITING)


@dataclass(frozen=True, slots=True)
class WireError:
    """One error of a response. `task_uuid`, `task_type` and `code` may be "".

    `doubtful`: the work may have been done and billed all the same. It speaks of a timeout, the provider,
    streaming or "no content", it stands beside a text, or it cannot be read. `message` may quote a prompt: it
    is not for any log.
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
    """Read a response or a frame; None if it is not JSON, so unreadable or cut.

    Takes `{data, errors}` with `data` a list or one object, a singular `error`, a bare array of items, and one
    bare item. Other shapes give an empty envelope. Raises nothing. Figures keep every digit; NaN stays visible.
    """
    try:
        return _envelope(read_leniently(body.decode(errors="replace").removeprefix("\ufeff")), "", True)
    except (ValueError, RecursionError):
        return None


def read_payload(payload: object) -> Envelope | None:
    """As `parse_response`, for a result from anywhere: text, bytes, or JSON that is parsed already.

    Floats of a parsed payload are read by their shortest decimal text.
    """
    try:
        return _envelope(_value(payload), "", True) if isinstance(payload, _PAYLOADS) else None
    except (ValueError, RecursionError):
        return None


def read_value_of(payload: object) -> Any:
    """The JSON value of a result from anywhere, exact as `read_payload` has it; None for what is none."""
    try:
        return _value(payload)
    except (ValueError, RecursionError):
        return None


def _value(payload: object) -> Any:
    if isinstance(payload, (bytes, bytearray, memoryview)):
        payload = bytes(payload).decode(errors="replace")
    if isinstance(payload, str):
        return read_leniently(payload.removeprefix("\ufeff"))
    return _exact(payload, 0)


def read_value(value: Any, task_uuid: str) -> Envelope:
    """As `parse_response`, of a value that `read_leniently` gave; `task_uuid` where an item or error names no task."""
    return _envelope(value, task_uuid, True)


def _exact(node: Any, depth: int) -> Any:
    if isinstance(node, float):
        return _figure(repr(node))
    if depth > _DEPTH_MAX:
        return None
    if isinstance(node, Mapping):
        return {str(key): _exact(value, depth + 1) for key, value in node.items()}
    if isinstance(node, (list, tuple)):
        return [_exact(value, depth + 1) for value in node]
    return node


def _figure(literal: str) -> Decimal:
    try:
        return Decimal(literal)
    except InvalidOperation:  # an exponent beyond all bounds
        return Decimal("NaN")


_LENIENT = json.JSONDecoder(parse_float=Decimal, parse_constant=Decimal, strict=False)
_MOST_LENIENT = json.JSONDecoder(parse_float=_figure, parse_constant=Decimal, strict=False)


def read_leniently(text: str) -> Any:
    """The value of a JSON text, Decimal for float, NaN and bare control characters as they are; ValueError for none."""
    try:
        return _LENIENT.decode(text)
    except InvalidOperation:
        return _MOST_LENIENT.decode(text)


def _envelope(found: Any, task_uuid: str, with_details: bool) -> Envelope:
    """`task_uuid` stands in where an item or error names none."""
    items: list[Item] = []
    errors: list[WireError] = []
    details: list[Details] = []
    outer, data = task_uuid, found
    if isinstance(found, dict):
        data = found.get("data")
        if data is None and not _ITEM_KEYS.isdisjoint(found):
            data = found  # one bare item: a webhook's body, a frame
        elif len(found) > 1 or data is None:
            outer = task_name(found.get("taskUUID")) or task_uuid
            for member in ("errors", "error"):
                for entry in _entries(found.get(member)):
                    errors.append(_error(entry, outer))
                    items += _billed(entry, outer)
            data = _with_outer_figures(found, data)
    for raw in data if isinstance(data, list) else [data]:
        if not isinstance(raw, dict):
            continue
        item = _item(raw, outer)
        failures: list[WireError] = []
        if item.status == ERROR or raw.get("error") or raw.get("errors"):
            entries = [*_entries(raw.get("error")), *_entries(raw.get("errors"))]
            failures = [_error(entry, item.task_uuid) for entry in entries]
            for billed in [one for entry in entries for one in _billed(entry, item.task_uuid)]:
                item = item._replace(told=item.told.merged(billed.told), has_result=True)
            if not failures and item.status == ERROR:
                failures = [_error({**raw, "taskType": ""}, item.task_uuid)]  # of the task, not of the poll
        if item.task_type == "getTaskDetails" and not (failures and not raw.get("response")):
            if with_details:
                details.append(_details(raw, item.task_uuid))
        elif failures:
            errors += [replace(e, of_item=True, doubtful=e.doubtful or item.worked) for e in failures]
            if not item.told.is_nothing:
                items.append(item)  # failed, and billed all the same
        else:
            items.append(item)
    return Envelope(tuple(items), tuple(errors), tuple(details))


def _entries(found: Any) -> list[Any]:
    """The errors of a member; none for what says nothing, such as null, {} or a blank."""
    entries = found if isinstance(found, list) else [found]
    return [entry for entry in entries if entry and not (isinstance(entry, str) and entry.isspace())]


def _billed(entry: Any, task_uuid: str) -> list[Item]:
    """An error that tells what the failed work cost, as the item that it is."""
    if not isinstance(entry, dict) or _FIGURE_KEYS.isdisjoint(entry):
        return []
    item = _item({**entry, "status": "error"}, task_uuid)
    return [] if item.told.is_nothing else [item]


def _with_outer_figures(found: dict[str, Any], data: Any) -> Any:
    """The items of a response; figures told beside them are those of the only one, or of all of them together."""
    beside = {key: found[key] for key in _BESIDE_KEYS if found.get(key) is not None}
    if not beside:
        return data
    entries = [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else [data or {}]
    if not all(isinstance(entry, dict) for entry in entries):
        return data
    first, *others = entries or [{}]
    if others and any(not _FIGURE_KEYS.isdisjoint(entry) for entry in entries):
        return entries
    whole = {**first, **{key: merge(told, first.get(key)) for key, told in beside.items()}}
    return [whole, *({**entry, "cost": 0} for entry in others)]


def _item(raw: dict[str, Any], task_uuid: str) -> Item:
    get = raw.get
    text, delta, status, usage = get("text"), get("delta"), get("status"), get("usage")
    index, seed = get("resultIndex"), get("seed")
    length = len(text) if isinstance(text, str) else 0
    if isinstance(delta, dict):
        length += sum([len(part) for part in delta.values() if isinstance(part, str)])
    elif isinstance(delta, str):
        length += len(delta)
    breakdown = get("costBreakdown")
    if breakdown is not None:
        usage = merge({"costBreakdown": breakdown}, usage)
    told = Told(get("cost"), usage, read_made(raw))
    finished = isinstance(get("finishReason"), str)
    is_named = bool(get(_NAME_KEY))
    made = bool(text) or _has_output(raw)
    tells = made or finished or not told.is_nothing
    if is_named and not tells and not status and get("progress") is not None:
        status = "processing"  # what it names is not made yet
    return Item(
        task_name(get("taskUUID")) or task_uuid,
        stored_name(get("taskType")),
        _status(status),
        index if type(index) is int and 0 <= index < 2**63 else None,
        seed if type(seed) is int and 0 <= seed < 2**63 else None,
        told,
        tells or is_named,
        length,
        finished,
        made or is_named or (any(delta.values()) if isinstance(delta, dict) else bool(delta)),
        is_named and not tells,
    )


def _status(status: Any) -> str:
    if status is None or status == "":
        return ""
    return STATUSES.get(status.lower(), WAITING) if isinstance(status, str) else WAITING


def _has_output(raw: dict[str, Any]) -> bool:
    """Whether something was made besides a text."""
    for key, value in raw.items():
        if value and (key in _OUTPUT_KEYS or (key.endswith(_MEDIA_ENDINGS) and key != "webhookURL")):
            return True
    return False


def _details(raw: dict[str, Any], task_uuid: str) -> Details:
    request, response = raw.get("request"), raw.get("response")
    if not task_uuid and isinstance(request, dict):
        task_uuid = task_name(request.get("taskUUID"))
    if isinstance(response, str):
        try:
            response = read_leniently(response)
        except (ValueError, RecursionError):
            response = None
    known = isinstance(response, (dict, list)) and bool(response)
    return Details(task_uuid, _envelope(response, task_uuid, False) if known else None)


def _error(entry: Any, task_uuid: str) -> WireError:
    if isinstance(entry, str):
        entry = {"message": entry}
    if not isinstance(entry, dict):
        return WireError(task_uuid, "", "", "", True)
    code, message = entry.get("code") or entry.get("type"), entry.get("message")
    message = message if isinstance(message, str) else ""
    code = str(code) if isinstance(code, (str, int)) else ""
    return WireError(
        task_name(entry.get("taskUUID")) or task_uuid,
        stored_name(entry.get("taskType")),
        "".join(c for c in code[:CODE_CHARS_MAX] if c.isprintable()),
        message,
        _DOUBTFUL.search(code) is not None or _DOUBTFUL.search(message) is not None,
    )
