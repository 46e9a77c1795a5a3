"""Requests: bytes -> tasks, read strictly, for what cannot be read cannot be held for."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from itertools import islice
from typing import Any, NoReturn

from costguard.errors import InvalidRequest
from costguard.outputs import Output
from costguard.tasks import TEXT_INFERENCE, Delivery, Prompt, Task, canonical
from costguard.wire import strict
from costguard.wire.dialect import Named, NotTasks
from costguard.wire.runware.made import places, read_output
from costguard.wire.runware.names import NAME_CHARS_MAX, stored_name, task_name
from costguard.wire.runware.prompt import OBJECT, read_prompt

FREE_TASK_TYPES = frozenset(
    {"getResponse", "getTaskDetails", "accountManagement", "modelSearch", "mediaStorage", "authentication", "ping"}
)
"""The task types that cost nothing; `ping` keeps a websocket open. Every other one is billable, unknown ones too."""

ASKING_TASK_TYPES = frozenset({"getResponse", "getTaskDetails"})
"""Those of them whose answer tells what became of other tasks."""

MAX_TOKENS_DEFAULT = 4096
"""`settings.maxTokens` when absent, as Runware's model pages document."""

RESULTS_MAX = 100
"""The most results one task may ask for (Runware's own limit is 4 for text)."""

SEQUENCE_MAX = 50
"""The most images one result may be a sequence of (`maxSequentialImages`: ByteDance's documented limit is 15)."""

MAX_TOKENS_MAX = 10_000_000
"""The most completion tokens a task may allow (the largest documented limit is 128,000)."""

_DELIVERIES = ("sync", "async", "stream")
_ESCAPABLE_KEY = "".join(f"(?:{letter}|\\\\u00{ord(letter):x})" for letter in "taskType")
_TASK_TYPE_KEY = re.compile(f'"{_ESCAPABLE_KEY}"\\s*:'.encode(), re.IGNORECASE)


class Request:
    """The tasks of one POST, free ones too, and the bytes that ask for them: `ready` ones, or None to write them.

    `changed`: they are not the caller's own.
    """

    __slots__ = ("_ready", "_single", "changed", "tasks")

    def __init__(self, tasks: tuple[Task, ...], ready: bytes | None, *, single: bool, changed: bool) -> None:
        self.tasks = tasks
        self.changed = changed
        self._ready = ready
        self._single = single

    def body(self) -> bytes:
        """The bytes to send: the caller's own, what was missing added at their end, else the same JSON, compact.

        Array or object form and the order of keys are kept. InvalidRequest if it is nested too deeply to
        be written: ask before holding money.
        """
        if self._ready is not None:
            return self._ready
        return strict.write(self.tasks[0].raw if self._single else [task.raw for task in self.tasks])

    def lower(self, task: Task, tokens: int) -> None:
        """Lower the allowance of one of its tasks, where the caller stated it or in `settings`."""
        self.changed = True
        self._ready = None
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


def looks_guarded(body: bytes) -> bool:
    """Whether a body may be a native task list: whether it has a key `taskType`, however escaped.

    Cheap (one scan for bytes where there is none), and only a hint: `parse_request` decides, and raises
    `NotTasks` where the key belongs to something else.
    """
    # A search for one byte is far faster than one for more, and most bodies have no escape at all.
    may_be = b"taskType" in body or (b"\\" in body and b"\\u00" in body)
    return may_be and _TASK_TYPE_KEY.search(body) is not None


def parse_request(body: bytes) -> Request:
    """Read the body of a POST into tasks, made ready to be billed.

    Billable tasks get a `taskUUID` where it is missing, null or empty, `includeCost`, and for
    `textInference` `includeUsage`. InvalidRequest names what was found where; `NotTasks` if it is JSON
    without any task. Nothing of the body's text is quoted but keys and numbers.
    """
    found = strict.read(body)
    single = isinstance(found, dict)
    elements = [found] if single else found
    if not isinstance(elements, list) or not elements:
        raise NotTasks(
            f"request body is not a task list: expected an array of tasks, found {strict.kind(found)}; nothing was sent"
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
                raise strict.invalid(
                    f"{where} has the taskUUID of task {first}, {task.uuid!r}; each task needs its own"
                )
    ready: bytes | None = body
    if changes:
        only_added = len(elements) == 1 and len(elements[0]) - fields == changes
        ready = _with_added(body, elements[0], fields) if only_added else None
    return Request(tuple(tasks), ready, single=single, changed=changes > 0)


def name_tasks(body: bytes) -> Named | None:
    """See `Dialect.name_tasks`: a `taskUUID` where it is missing, null or empty, and no other change."""
    try:
        found = strict.read(body)
        elements = found if isinstance(found, list) else [found]
        if not elements or not all(isinstance(e, dict) and isinstance(e.get("taskType"), str) for e in elements):
            return None
        billable = [raw for raw in elements if raw["taskType"] not in FREE_TASK_TYPES]
        nameless = [raw for raw in billable if raw.get("taskUUID") in (None, "")]
        fields = len(elements[0])
        for raw in nameless:
            raw["taskUUID"] = str(uuid.uuid4())
        named = None
        if nameless:
            only_added = len(elements) == 1 and len(elements[0]) > fields
            named = _with_added(body, elements[0], fields) if only_added else strict.write(found)
    except InvalidRequest:
        return None
    return Named(
        named,
        tuple(
            [
                (task_name(raw["taskUUID"]), stored_name(raw.get("model")) or stored_name(raw["taskType"]))
                for raw in billable
            ]
        ),
    )


def _with_added(body: bytes, raw: dict[str, Any], fields: int) -> bytes:
    """The `body` of one task with the fields of `raw` after the first `fields`: a large one is not written anew."""
    return strict.with_added(body, dict(islice(raw.items(), fields, None)))


def from_dict(task: Mapping[str, Any]) -> Task:
    """One task as a caller wrote it, made ready to be billed; the caller's mapping is not changed.

    InvalidRequest as for `parse_request`.
    """
    if not isinstance(task, Mapping):
        raise strict.invalid(f"expected one task as a mapping, found {type(task).__name__}")
    raw = dict(task)
    if not isinstance(raw.get("taskType"), str):
        raise strict.invalid(f"the task has no text 'taskType' but {strict.kind(raw.get('taskType'))}")
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
            task_name(task_uuid),
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
        raise strict.invalid(
            f"{where}: deliveryMethod: expected 'sync', 'async' or 'stream', found {strict.shown(delivery)}"
        )
    results = strict.whole(raw.get("numberResults"), RESULTS_MAX, where, "numberResults")
    max_tokens = strict.whole(raw.get("maxTokens"), MAX_TOKENS_MAX, where, "maxTokens")
    settings = raw.get("settings")
    if isinstance(settings, OBJECT):
        allowed = strict.whole(settings.get("maxTokens"), MAX_TOKENS_MAX, where, "settings.maxTokens")
        if allowed is not None and (max_tokens is None or allowed > max_tokens):
            max_tokens = allowed  # of two allowances the larger: it is unknown which one is obeyed
    name = canonical(task_uuid)
    return Task(
        name,
        task_type,
        model,
        True,
        delivery,
        (1 if results is None else results) * (1 if task_type == TEXT_INFERENCE else _sequence(raw, where)),
        max_tokens,
        raw,
        _read_prompt(raw),
        MAX_TOKENS_DEFAULT,
        webhook=bool(raw.get("webhookURL")),
        output=Output() if task_type == TEXT_INFERENCE else read_output(raw),
        spelling=None if name == task_uuid else task_uuid,
    )


def _sequence(raw: Mapping[str, Any], where: str) -> int:
    """How many images each result may be, every one of them made and billed: a model's own setting."""
    key = "maxSequentialImages"
    return max([strict.whole(place.get(key), SEQUENCE_MAX, where, key) or 1 for place in places(raw)])


def _read_prompt(raw: dict[str, Any]) -> Prompt:
    try:
        return read_prompt(raw)
    except RecursionError:
        raise strict.invalid("it is nested too deeply to be read") from None


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
    if task.task_type == TEXT_INFERENCE and raw.get("includeUsage") is not True:
        raw["includeUsage"] = True
        changes += 1
    return changes


def _refuse_element(elements: list[Any], index: int) -> NoReturn:
    element = elements[index]
    found = strict.kind(element)
    if isinstance(element, dict):
        found = (
            f"an object whose 'taskType' is {strict.kind(element['taskType'])}"
            if "taskType" in element
            else ("an object without 'taskType'")
        )
    kind = InvalidRequest if any(isinstance(e, dict) and "taskType" in e for e in elements) else NotTasks
    raise kind(
        f"request body is not a task list: element {index} is {found}; expected an object with a text"
        " 'taskType'; nothing was sent"
    )


def _check_name(value: Any, where: str, key: str) -> None:
    if stored_name(value):
        return
    if not isinstance(value, str):
        raise strict.invalid(f"{where}: {key}: expected a text, found {strict.kind(value)}")
    raise strict.invalid(
        f"{where}: {key}: expected 1 to {NAME_CHARS_MAX} printable characters, found {len(value)} characters:"
        f" {value[:40]!a}"
    )
