"""Recorded responses of native tasks: an envelope, items alone, or either beside the request that it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from costguard.wire.dialect import Ack, Told
from costguard.wire.runware import answers, endings
from costguard.wire.runware.names import stored_name, task_name
from costguard.wire.runware.requests import FREE_TASK_TYPES

_DEPTH_MAX = 4
"""Levels at which a record may say of which model it is: record, response, request, task."""

_WITHIN = ("data", "request", "response", "tasks", "body")


def tell(record: Any, value: Any, name: Callable[[], str]) -> list[Told]:
    """What `value`, the response within `record`, tells of each task it speaks of; none if of nothing.

    `name` gives what a task is called that has no name.
    """
    said = list(_said(record, 0))
    named = {uuid for uuid, _, _ in said if uuid}
    if not named:  # the response may be a text within the record
        said += _said(value, 0)
        named = {uuid for uuid, _, _ in said if uuid}
    only = named.pop() if len(named) == 1 else ""
    envelope = answers.read_value(value, only)
    unnamed = ""
    if "" in {each.task_uuid for part in (envelope.items, envelope.errors, envelope.details) for each in part}:
        unnamed = name()
        envelope = answers.read_value(value, unnamed)
    judged = endings.outcomes(envelope)
    return [
        *(
            Told(uuid, *_of(uuid, said), ending)
            for uuid, ending in judged.others.items()
            if uuid != unnamed or not isinstance(ending, Ack)  # what has no name and no result is anything
        ),
        *(Told(one.task_uuid, *_of(one.task_uuid, said), one) for one in judged.records),
    ]


def _said(node: Any, depth: int) -> Iterator[tuple[str, str, str]]:
    """Task, model and type, each "" where it is not told, of everything in a record that says one of them."""
    if isinstance(node, list) and depth <= _DEPTH_MAX:
        for one in node:
            yield from _said(one, depth)
    if not isinstance(node, Mapping) or depth > _DEPTH_MAX:
        return
    uuid, model = task_name(node.get("taskUUID")), stored_name(node.get("model"))
    task_type = stored_name(node.get("taskType"))
    if task_type == "authentication":
        return
    if task_type in FREE_TASK_TYPES:
        task_type = ""
    if uuid or model or task_type:
        yield uuid, model, task_type
    for key in _WITHIN:
        if key in node:
            yield from _said(node[key], depth + 1)


def _of(task_uuid: str, said: list[tuple[str, str, str]]) -> tuple[str, str]:
    """Model and type of a task: what is said of it, else of no task in particular."""
    model = task_type = ""
    for own in (True, False):
        for uuid, its_model, its_type in said:
            if (uuid == task_uuid) is own and (own or not uuid):
                model, task_type = model or its_model, task_type or its_type
    return model, task_type
