"""Requests: bytes -> tasks, read strictly, for what cannot be read cannot be held for."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, NoReturn

from costguard.errors import InvalidRequest
from costguard.tasks import Delivery, Prompt, Task
from costguard.wire.runware.prompt import read_prompt

FREE_TASK_TYPES = frozenset(
    {"getResponse", "getTaskDetails", "accountManagement", "modelSearch", "mediaStorage", "authentication"}
)
"""The task types that cost nothing. Every other one is billable, unknown ones too."""

ASKING_TASK_TYPES = frozenset({"getResponse", "getTaskDetails"})
"""Those of them whose answer tells what became of other tasks."""

MAX_TOKENS_DEFAULT = 4096
"""`settings.maxTokens` when absent, as Runware's model pages document."""

RESULTS_MAX = 100
"""The most results one task may ask for (Runware's own limit is 4 for text)."""

MAX_TOKENS_MAX = 10_000_000
"""The most completion tokens a task may allow (the largest documented limit is 128,000)."""

NAME_CHARS_MAX = 200
"""Longest taskUUID, taskType or model: these reach the ledger."""

_DELIVERIES = ("sync", "async", "stream")
_ESCAPABLE_KEY = "".join(f"(?:{letter}|\\\\u00{ord(letter):x})" for letter in "taskType")
_TASK_TYPE_KEY = re.compile(f'"{_ESCAPABLE_KEY}"\\s*:'.encode(), re.IGNORECASE)


class NotTasks(InvalidRequest):
    """Readable JSON in which nothing is a task: no element has a `taskType`."""


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
        return Task(
            stored_name(task_uuid),
            task_type,
            stored_name(model) or None,
            False,
            "sync",
            1,
            None,
            raw,
            asks=task_type in ASKING_TASK_TYPES,
        )

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
        1 if results is None else results,
        max_tokens,
        raw,
        _read_prompt(raw),
        MAX_TOKENS_DEFAULT,
        webhook=bool(raw.get("webhookURL")),
    )


def _read_prompt(raw: dict[str, Any]) -> Prompt:
    try:
        return read_prompt(raw)
    except RecursionError:
        raise _invalid("it is nested too deeply to be read") from None


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
    if not stored_name(value):
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


def stored_name(value: Any) -> str:
    """A name that may reach the ledger; "" for anything that is none."""
    return value if isinstance(value, str) and len(value) <= NAME_CHARS_MAX and value.isprintable() else ""
