"""How a response ends each task of its request: results, an acknowledgement, a refusal or doubt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from costguard.tasks import Task
from costguard.wire.runware.answers import Envelope, Item, WireError
from costguard.wire.runware.requests import FREE_TASK_TYPES

_REFUSING = frozenset({*range(300, 406), 413, 415, 422, 429})


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
        # What does not say that it is of the task may be of the poll, which may also have come too early.
        errors[task_uuid] = [
            replace(error, doubtful=error.doubtful or error.not_found or not (error.of_item or error.task_type))
            for error in errors.get(task_uuid, [])
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
