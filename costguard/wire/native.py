"""Runware's native wire: request bytes -> tasks, response bytes -> what became of each of them.

Requests are read strictly, for what cannot be read cannot be held for. Responses are read leniently, for
whatever was billed must be recorded. The wire is described at https://runware.ai/docs.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import Any, Literal, NamedTuple, NoReturn

from costguard.billing import Figures
from costguard.errors import InvalidRequest

Delivery = Literal["sync", "async", "stream"]

FREE_TASK_TYPES = frozenset(
    {"getResponse", "getTaskDetails", "accountManagement", "modelSearch", "mediaStorage", "authentication"}
)
"""The task types that cost nothing. Every other one is billable, unknown ones too."""

RESULTS_MAX = 100
"""The most results one task may ask for (Runware's own limit is 4 for text)."""

MAX_TOKENS_MAX = 10_000_000
"""The most completion tokens a task may allow (the largest documented limit is 128,000)."""

NAME_CHARS_MAX = 200
"""Longest taskUUID, taskType or model: these reach the ledger."""

CODE_CHARS_MAX = 80

_DELIVERIES = ("sync", "async", "stream")
_REFUSING = frozenset({*range(300, 406), 413, 415, 422, 429})
_DOUBTFUL = re.compile(r"tim(?:e|ed)[\s_-]*out|deadline|provider|stream|no[\s_-]*content", re.IGNORECASE)
_NOT_FOUND = re.compile(
    r"not[\s_-]*(?:be[\s_-]*)?found|not[\s_-]*exist|no[\s_-]*such|unknown[\s_-]*task", re.IGNORECASE
)
_DEPTH_MAX = 100
_RESULT_KEYS = frozenset({"text", "cost", "usage", "finishReason", "outputs"})
_MEDIA_ENDINGS = ("URL", "URLs", "DataURI", "Base64Data")
_ESCAPABLE_KEY = "".join(f"(?:{letter}|\\\\u00{ord(letter):x})" for letter in "taskType")
_TASK_TYPE_KEY = re.compile(f'"{_ESCAPABLE_KEY}"\\s*:'.encode(), re.IGNORECASE)


class NotTasks(InvalidRequest):
    """Readable JSON in which nothing is a task: no element has a `taskType`."""


# --- requests -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Task:
    """One task of a request. `raw` is its whole JSON object, as it will be sent.

    `model` is as the caller wrote it (AIR or slug). `results` is `numberResults`; `max_tokens` the allowance
    of completion tokens, None where none is stated. A task that is not `billable` is passed on untouched.
    """

    uuid: str
    task_type: str
    model: str | None
    billable: bool
    delivery: Delivery
    webhook: bool
    results: int
    max_tokens: int | None
    raw: dict[str, Any] = field(repr=False)


class Request:
    """The tasks of one POST, free ones too, and the bytes that ask for them: `ready` ones, or None to write them.

    `changed`: they are not the caller's own. Call `touch` after changing a task's `raw`.
    """

    __slots__ = ("_ready", "_single", "changed", "tasks")

    def __init__(self, tasks: tuple[Task, ...], ready: bytes | None, *, single: bool, changed: bool) -> None:
        self.tasks = tasks
        self.changed = changed
        self._ready = ready
        self._single = single

    def touch(self) -> None:
        """A task's `raw` was changed: its bytes are to be written anew."""
        self.changed = True
        self._ready = None

    def body(self) -> bytes:
        """The bytes to send: the caller's own, what was missing added at their end, else the same JSON, compact.

        Array or object form and the order of keys are kept. InvalidRequest if it is nested too deeply to
        be written: ask before holding money.
        """
        if self._ready is not None:
            return self._ready
        payload = self.tasks[0].raw if self._single else [task.raw for task in self.tasks]
        try:
            return _ENCODER.encode(payload).encode()
        except UnicodeEncodeError:  # a lone surrogate, which only an escape can carry
            return _ASCII_ENCODER.encode(payload).encode()
        except RecursionError:
            raise _invalid("it is nested too deeply to be written again") from None


def set_max_tokens(task: Task, tokens: int) -> None:
    """Lower the task's allowance, where the caller stated it or in `settings`."""
    task.max_tokens = tokens
    settings = task.raw.get("settings")
    if not isinstance(settings, dict) or ("maxTokens" in task.raw and "maxTokens" not in settings):
        if "maxTokens" in task.raw:
            task.raw["maxTokens"] = tokens
            return
        settings = task.raw["settings"] = {}
    settings["maxTokens"] = tokens
    if "maxTokens" in task.raw:
        task.raw["maxTokens"] = tokens


def details_request(task_uuids: Iterable[str]) -> list[dict[str, str]]:
    """The tasks that ask what became of `task_uuids`."""
    return [{"taskType": "getTaskDetails", "taskUUID": uuid} for uuid in task_uuids]


def looks_guarded(body: bytes) -> bool:
    """Whether a body may be a native task list: whether it has a key `taskType`, however escaped.

    Cheap (one scan for bytes where there is none), and only a hint: `parse_request` decides, and raises
    `NotTasks` where the key belongs to something else.
    """
    return (b'"taskType"' in body or b"\\u00" in body) and _TASK_TYPE_KEY.search(body) is not None


def parse_request(body: bytes) -> Request:
    """Read the body of a POST into tasks, made ready to be billed.

    Billable tasks get a `taskUUID` where it is missing, null or empty, `includeCost`, and for
    `textInference` `includeUsage`. InvalidRequest names what was found where; `NotTasks` if it is JSON
    without any task. Nothing of the body's text is quoted but keys and numbers.
    """
    found = _read_strictly(body)
    single = isinstance(found, dict)
    elements = [found] if single else found
    if not isinstance(elements, list) or not elements:
        raise NotTasks(
            f"request body is not a task list: expected an array of tasks, found {_kind(found)}; nothing was sent"
        )
    for index, element in enumerate(elements):
        if not isinstance(element, dict) or not isinstance(element.get("taskType"), str):
            _refuse_element(elements, index)

    tasks = []
    billable: dict[str, int] = {}
    changes = 0
    fields = len(elements[0])
    for index, raw in enumerate(elements):
        where = f"task {index}"
        task = _read_task(raw, where)
        tasks.append(task)
        if task.billable:
            changes += _normalise(task)
            first = billable.setdefault(task.uuid, index)
            if first != index:
                raise _invalid(f"{where} has the taskUUID of task {first}, {task.uuid!r}; each task needs its own")
    ready: bytes | None = body
    if changes:
        only_added = len(elements) == 1 and len(elements[0]) - fields == changes
        ready = _with_added(body, elements[0], fields) if only_added else None
    return Request(tuple(tasks), ready, single=single, changed=changes > 0)


def _with_added(body: bytes, raw: dict[str, Any], fields: int) -> bytes:
    """The `body` of one task with the fields of `raw` after the first `fields`: a large one is not written anew."""
    # `true`, or a UUID made here: nothing in them is to be escaped.
    added = [f',"{k}":true' if v is True else f',"{k}":"{v}"' for k, v in islice(raw.items(), fields, None)]
    end = body.rindex(b"}")
    return b"%b%b%b" % (body[:end], "".join(added).encode(), body[end:])


def from_dict(task: Mapping[str, Any]) -> Task:
    """One task as a caller wrote it, made ready to be billed; the caller's mapping is not changed.

    InvalidRequest as for `parse_request`.
    """
    if not isinstance(task, Mapping):
        raise _invalid(f"expected one task as a mapping, found {type(task).__name__}")
    raw = dict(task)
    if not isinstance(raw.get("taskType"), str):
        raise _invalid(f"the task has no text 'taskType' but {_kind(raw.get('taskType'))}")
    read = _read_task(raw, "the task")
    if read.billable:
        _normalise(read)
    return read


def _read_task(raw: dict[str, Any], where: str) -> Task:
    task_type = raw["taskType"]
    model = raw.get("model")
    task_uuid = raw.get("taskUUID")
    if task_type in FREE_TASK_TYPES:
        return Task(_stored_name(task_uuid), task_type, _stored_name(model) or None, False, "sync", False, 1, None, raw)

    _check_name(task_type, where, "taskType")
    if model is not None:
        _check_name(model, where, "model")
    if task_uuid is None:
        task_uuid = ""
    elif task_uuid != "":
        _check_name(task_uuid, where, "taskUUID")
    stated = raw.get("deliveryMethod")
    delivery: Delivery = "sync" if stated is None else stated
    if delivery not in _DELIVERIES:
        raise _invalid(f"{where}: deliveryMethod: expected 'sync', 'async' or 'stream', found {_shown(delivery)}")
    results = _whole(raw.get("numberResults"), RESULTS_MAX, where, "numberResults")
    max_tokens = _whole(raw.get("maxTokens"), MAX_TOKENS_MAX, where, "maxTokens")
    settings = raw.get("settings")
    if isinstance(settings, Mapping):
        allowed = _whole(settings.get("maxTokens"), MAX_TOKENS_MAX, where, "settings.maxTokens")
        if allowed is not None and (max_tokens is None or allowed > max_tokens):
            max_tokens = allowed  # of two allowances the larger: it is unknown which one is obeyed
    return Task(
        task_uuid,
        task_type,
        model,
        True,
        delivery,
        bool(raw.get("webhookURL")),
        1 if results is None else results,
        max_tokens,
        raw,
    )


def _normalise(task: Task) -> int:
    """Name a billable task and make it tell its cost; how many fields that changed or added."""
    raw = task.raw
    changes = 0
    if not task.uuid:
        raw["taskUUID"] = task.uuid = str(uuid.uuid4())
        changes += 1
    if raw.get("includeCost") is not True:
        raw["includeCost"] = True
        changes += 1
    if task.task_type == "textInference" and raw.get("includeUsage") is not True:
        raw["includeUsage"] = True
        changes += 1
    return changes


def _invalid(problem: str) -> InvalidRequest:
    return InvalidRequest(f"request body: {problem}; nothing was sent")


def _refuse_element(elements: list[Any], index: int) -> NoReturn:
    element = elements[index]
    found = _kind(element)
    if isinstance(element, dict):
        found = (
            f"an object whose 'taskType' is {_kind(element['taskType'])}"
            if "taskType" in element
            else ("an object without 'taskType'")
        )
    kind = InvalidRequest if any(isinstance(e, dict) and "taskType" in e for e in elements) else NotTasks
    raise kind(
        f"request body is not a task list: element {index} is {found}; expected an object with a text"
        " 'taskType'; nothing was sent"
    )


def _check_name(value: Any, where: str, key: str) -> None:
    if not isinstance(value, str):
        raise _invalid(f"{where}: {key}: expected a text, found {_kind(value)}")
    if not _stored_name(value):
        raise _invalid(
            f"{where}: {key}: expected 1 to {NAME_CHARS_MAX} printable characters, found {len(value)} characters:"
            f" {value[:40]!a}"
        )


def _whole(value: Any, most: int, where: str, key: str) -> int | None:
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= most:
        raise _invalid(f"{where}: {key}: expected a whole number from 1 to {most:,}, found {_shown(value)}")
    return value


def _kind(value: Any) -> str:
    if value == [] and isinstance(value, list):
        return "an empty array"
    names = {dict: "an object", list: "an array", str: "a text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _shown(value: Any) -> str:
    return repr(value)[:40] if isinstance(value, (int, float)) else _kind(value)


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
_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"))
_ASCII_ENCODER = json.JSONEncoder(check_circular=False, allow_nan=False, separators=(",", ":"))


def _read_strictly(body: bytes) -> Any:
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
            problem = "it is empty; expected an array of tasks"
    except RecursionError:
        problem = "it is nested too deeply"
    except ValueError:
        problem = _locate_forbidden(text)
    raise _invalid(problem)


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


# --- responses ----------------------------------------------------------------------------------------


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
        return Frame(None, tuple(_errors(failures, _stored_name(raw.get("taskUUID")))), 0, False)
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
            errors.extend(_errors(failure, item.task_uuid))
            if item.figures != (None, None):
                items.append(item)  # failed, and billed all the same
        else:
            items.append(item)
    return Envelope(tuple(items), tuple(errors), tuple(details))


def _item(raw: dict[str, Any], task_uuid: str) -> Item:
    text = raw.get("text")
    index, seed, status = raw.get("resultIndex"), raw.get("seed"), raw.get("status")
    return Item(
        _stored_name(raw.get("taskUUID")) or task_uuid,
        _stored_name(raw.get("taskType")),
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
        task_uuid = _stored_name(request.get("taskUUID"))
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
        _stored_name(entry.get("taskUUID")) or task_uuid,
        _stored_name(entry.get("taskType")),
        "".join(c for c in code[:CODE_CHARS_MAX] if c.isprintable()),
        message,
        _DOUBTFUL.search(code) is not None or _DOUBTFUL.search(message) is not None,
    )


def _stored_name(value: Any) -> str:
    """A name that may reach the ledger; "" for anything that is none."""
    return value if isinstance(value, str) and len(value) <= NAME_CHARS_MAX and value.isprintable() else ""


# --- endings ------------------------------------------------------------------------------------------


class Success(NamedTuple):
    """Results came: settle them. `partial`: more may come or be billed, so the rest of the hold stays."""

    items: tuple[Item, ...]
    partial: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Ack:
    """Accepted and under way: the hold stays until the results come."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Refused before work: release."""

    reason: str


@dataclass(frozen=True, slots=True)
class Doubt:
    """Possibly billed: unresolved."""

    reason: str


Ending = Success | Ack | Refused | Doubt


class Judgement(NamedTuple):
    """How a response ends each billable task of its POST, and what it tells of `others`, by taskUUID."""

    endings: dict[str, Ending]
    others: dict[str, Ending]


def judge(request_tasks: Sequence[Task], status: int, envelope: Envelope | None) -> Judgement:
    """Read one whole response (not a stream) to a POST of `request_tasks`; `envelope` None: unreadable.

    Every billable task gets exactly one ending. Items and errors that name no task belong to the one task
    the response does not mention, if it is just one; else they settle nothing.
    """
    billable = {task.uuid: task for task in request_tasks if task.billable}
    items: dict[str, list[Item]] = {}
    errors: dict[str, list[WireError]] = {}
    for item in envelope.items if envelope else ():
        if item.task_type not in FREE_TASK_TYPES or item.task_type == "getResponse":
            items.setdefault(item.task_uuid, []).append(item)
    for error in envelope.errors if envelope else ():
        errors.setdefault(error.task_uuid, []).append(error)
    unnamed_items, unnamed_errors = items.pop("", []), errors.pop("", [])
    asked = {task.uuid for task in request_tasks if task.task_type == "getTaskDetails"}
    polled = {task.uuid for task in request_tasks if task.task_type == "getResponse"}

    if unnamed_items or unnamed_errors:
        silent = {
            task.uuid
            for task in request_tasks
            if task.task_type != "authentication" and task.uuid not in items and task.uuid not in errors
        }
        if len(silent) == 1:
            concerned = silent.pop()
            if unnamed_items:
                items[concerned] = unnamed_items
            if unnamed_errors:
                # Of a poll it may be the question that failed.
                in_doubt = concerned not in billable
                errors[concerned] = [replace(e, doubtful=True) for e in unnamed_errors] if in_doubt else unnamed_errors

    for task_uuid in polled - billable.keys():
        # A poll that does not find its task may only have come too early.
        errors[task_uuid] = [
            replace(error, doubtful=error.doubtful or error.not_found) for error in errors.get(task_uuid, [])
        ]
    for task_uuid in asked - polled - billable.keys():
        errors.pop(task_uuid, None)  # it is the question that failed; its answer is read apart
    doubt_for_all = any(error.doubtful for error in unnamed_errors)
    endings = {
        task_uuid: _ending(
            task,
            items.pop(task_uuid, []),
            errors.pop(task_uuid, []),
            status,
            doubt_for_all=doubt_for_all,
            readable=envelope is not None,
        )
        for task_uuid, task in billable.items()
    }
    if not 200 <= status < 300:
        errors = {}  # a poll that failed says nothing of the task it asked for
    items.pop("", None)
    errors.pop("", None)
    errors = {task_uuid: own for task_uuid, own in errors.items() if own} if errors else {}
    return Judgement(endings, _outcomes(items, errors) if items or errors else {})


def outcomes(envelope: Envelope) -> dict[str, Ending]:
    """What an envelope from elsewhere (poll, webhook, task details) tells of each task it names."""
    items: dict[str, list[Item]] = {}
    errors: dict[str, list[WireError]] = {}
    for item in envelope.items:
        if item.task_uuid:
            items.setdefault(item.task_uuid, []).append(item)
    for error in envelope.errors:
        if error.task_uuid:
            errors.setdefault(error.task_uuid, []).append(error)
    return _outcomes(items, errors)


def _outcomes(items: dict[str, list[Item]], errors: dict[str, list[WireError]]) -> dict[str, Ending]:
    endings: dict[str, Ending] = {}
    for task_uuid in {**items, **errors}:
        own = items.get(task_uuid, [])
        failed = errors.get(task_uuid, [])
        results = tuple(item for item in own if _settles(item))
        doubtful = next((error for error in failed if error.doubtful), None)
        if results:
            waiting = len(results) < len(own)
            reason = _said(doubtful) if doubtful else "more results under way" if waiting else ""
            endings[task_uuid] = Success(results, waiting or doubtful is not None, reason)
        elif own:
            endings[task_uuid] = Ack()
        elif doubtful or failed[0].task_type in FREE_TASK_TYPES:  # then the question failed, not the task
            endings[task_uuid] = Doubt(_said(doubtful or failed[0]))
        else:
            endings[task_uuid] = Refused(_said(failed[0]))
    return endings


def _ending(
    task: Task,
    items: list[Item],
    errors: list[WireError],
    status: int,
    *,
    doubt_for_all: bool,
    readable: bool,
) -> Ending:
    """The ending of one task: results first, then acknowledgements, then errors and the status."""
    succeeded = 200 <= status < 300
    doubtful = next((error for error in errors if error.doubtful), None) if errors else None
    rest: Ending | None = None
    if doubtful or (doubt_for_all and (items or not succeeded)):
        rest = Doubt(_said(doubtful, status) if doubtful else f"http {status} doubtful error")
    elif succeeded:
        rest = Refused(_said(errors[0])) if errors else None
    elif status in _REFUSING:
        rest = Refused(_said(errors[0] if errors else None, status))
    else:
        rest = Doubt(_said(errors[0] if errors else None, status))

    results = tuple([item for item in items if _settles(item)])
    if results:
        waiting = any(item.status == "processing" for item in items)
        short = len(results) < task.results
        reason = f"{len(results)} of {task.results} results" if short else ""
        if short and isinstance(rest, Doubt):
            return Success(results, True, f"{reason}, {rest.reason}")
        return Success(results, waiting, reason)
    if any(item.status == "processing" for item in items) or (items and (task.delivery == "async" or task.webhook)):
        return Ack()
    if rest is not None:
        return rest
    if items:
        return Doubt(f"http {status} item without a result")
    return Doubt(f"http {status} task not mentioned" if readable else f"http {status} unreadable response")


def _settles(item: Item) -> bool:
    return item.status == "success" or (item.has_result and item.status != "processing")


def _said(error: WireError | None, status: int | None = None) -> str:
    """A reason fit for the ledger: the status and the error's code, never its message."""
    parts = ["error" if status is None else f"http {status}", error.code if error else ""]
    return " ".join(part for part in parts if part)
