"""How what came back ends each task: results, an acknowledgement, a refusal or doubt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from costguard.tasks import Task
from costguard.wire.dialect import Ack, Doubt, Ending, Judgement, Record, Refused, Result, Success
from costguard.wire.runware.answers import WAITING, Details, Envelope, Item, WireError
from costguard.wire.runware.requests import FREE_TASK_TYPES

REFUSING = frozenset({*range(300, 406), 407, 413, 415, 422, 429})
"""Statuses of a request that was turned away before any work; a 407 is the proxy's, not the provider's."""


def judge(request_tasks: Sequence[Task], status: int, envelope: Envelope | None) -> Judgement:
    """Read one whole response (not a stream) to a POST of `request_tasks`; `envelope` None: unreadable.

    Every billable task gets exactly one ending. Items and errors that name no task belong to the one task
    the response does not mention, if it is just one; else they settle nothing.
    """
    billable = {task.uuid: task for task in request_tasks if task.billable}
    polled = [task.uuid for task in request_tasks if task.task_type == "getResponse"]
    items, errors = by_task(envelope.items, envelope.errors) if envelope else ({}, {})
    unnamed_items, unnamed_errors = items.pop("", []), errors.pop("", [])

    if unnamed_items or unnamed_errors:
        without = {task.uuid for task in request_tasks if task.task_type != "authentication"} - items.keys()
        silent = without - errors.keys()
        if len(silent) == 1:
            concerned = silent.pop()
            if unnamed_items:
                items[concerned] = unnamed_items
            if unnamed_errors:
                # Of a poll it may be the question that failed.
                in_doubt = concerned not in billable
                errors[concerned] = [replace(e, doubtful=True) for e in unnamed_errors] if in_doubt else unnamed_errors
        elif unnamed_items and not silent and len(without) == 1:
            items[without.pop()] = unnamed_items  # beside the error of its task
        elif any(item.has_result or item.worked for item in unnamed_items):
            # Something was worked for, and nobody knows for whom.
            unnamed_errors = [*unnamed_errors, WireError("", "", "", "", doubtful=True)]
            for task_uuid in without & errors.keys():
                errors[task_uuid] = [replace(error, doubtful=True) for error in errors[task_uuid]]

    for task_uuid in polled and set(polled) - billable.keys():
        # What does not say that it is of the task may be of the poll, which may also have come too early.
        errors[task_uuid] = [
            replace(error, doubtful=error.doubtful or error.not_found or not (error.of_item or error.task_type))
            for error in errors.get(task_uuid, [])
        ]
    for task in request_tasks if errors else ():
        if task.task_type == "getTaskDetails" and task.uuid not in billable and task.uuid not in polled:
            errors.pop(task.uuid, None)  # it is the question that failed; its answer is read apart
    doubt_for_all = True in [error.doubtful for error in unnamed_errors]
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
    details = envelope.details if envelope and 200 <= status < 300 else ()
    if not (items or errors or details):
        return Judgement(endings)
    items.pop("", None)
    errors.pop("", None)
    others = _outcomes(items, {task_uuid: own for task_uuid, own in errors.items() if own})
    listed = frozenset(uuid for uuid in others if polled.count(uuid) == 1)
    return Judgement(endings, others, listed, tuple([record(one) for one in details]))


def outcomes(envelope: Envelope) -> Judgement:
    """What an envelope from elsewhere (a webhook, a log line) tells of each task it names."""
    items, errors = by_task(envelope.items, envelope.errors)
    items.pop("", None)
    errors.pop("", None)
    return Judgement({}, _outcomes(items, errors), records=tuple([record(one) for one in envelope.details]))


def record(details: Details) -> Record:
    """What the provider's record of a past task comes to."""
    envelope = details.envelope
    if envelope is None or not (envelope.items or envelope.errors):
        return Record(details.task_uuid, None, True, "the provider has no response for it yet")
    results = _results(envelope.items)
    waiting = len(results) < len(envelope.items)
    if waiting:
        reason = "more results are under way" if results else "it is still being processed"
        return Record(details.task_uuid, results or None, True, reason)
    reason = "getTaskDetails shows no further results"
    if not results:
        reason = f"getTaskDetails shows only errors {envelope.errors[0].code}".strip()
    return Record(details.task_uuid, results, False, reason)


def by_task(
    items: Iterable[Item], errors: Iterable[WireError]
) -> tuple[dict[str, list[Item]], dict[str, list[WireError]]]:
    """Items and errors by the task that they name, "" if none; what free tasks were answered is left out."""
    own_items: dict[str, list[Item]] = {}
    own_errors: dict[str, list[WireError]] = {}
    for item in items:
        if item.task_type not in FREE_TASK_TYPES or item.task_type == "getResponse":
            own_items.setdefault(item.task_uuid, []).append(item)
    for error in errors:
        own_errors.setdefault(error.task_uuid, []).append(error)
    return own_items, own_errors


def _results(items: Iterable[Item]) -> tuple[Result, ...]:
    return tuple([Result(item.result_index, item.seed, item.told.read()) for item in items if item.settles])


def _outcomes(items: dict[str, list[Item]], errors: dict[str, list[WireError]]) -> dict[str, Ending]:
    endings: dict[str, Ending] = {}
    for task_uuid in {**items, **errors}:
        own = items.get(task_uuid, [])
        failed = errors.get(task_uuid, [])
        results = _results(own)
        doubtful = next((error for error in failed if error.doubtful), None)
        if results:
            waiting = len(results) < len(own)
            reason = said(doubtful) if doubtful else "more results under way" if waiting else ""
            endings[task_uuid] = Success(results, waiting or doubtful is not None, reason, failed=bool(failed))
        elif own:
            endings[task_uuid] = Ack()
        elif doubtful or failed[0].task_type in FREE_TASK_TYPES:  # then the question failed, not the task
            own_word = any(error.of_item and not error.not_found for error in failed)
            endings[task_uuid] = Doubt(said(doubtful or failed[0]), taken=own_word)
        else:
            endings[task_uuid] = Refused(said(failed[0]))
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
        rest = Doubt(said(doubtful, status) if doubtful else f"http {status} doubtful error")
    elif succeeded:
        rest = Refused(said(errors[0])) if errors else None
    elif status in REFUSING:
        rest = Refused(said(errors[0] if errors else None, status))
    else:
        rest = Doubt(said(errors[0] if errors else None, status))

    if isinstance(rest, Refused) and any(item.worked and not item.settles for item in items):
        rest = Doubt(rest.reason)  # it was worked for

    is_later = task.delivery == "async" or task.webhook
    results = _results([item for item in items if item.status or not (is_later and item.only_named)])
    waits = WAITING in [item.status for item in items]
    if results:
        short = len(results) < task.results
        reason = f"{len(results)} of {task.results} results" if short else ""
        if short and isinstance(rest, Doubt):
            return Success(results, True, f"{reason}, {rest.reason}")
        return Success(results, waits, reason)
    if waits or (items and is_later):
        return Ack()
    if isinstance(rest, Doubt):
        return replace(rest, taken=bool(items))
    if rest is not None:
        return rest
    if items:
        return Doubt(f"http {status} item without a result", taken=True)
    return Doubt(f"http {status} task not mentioned" if readable else f"http {status} unreadable response")


def said(error: WireError | None, status: int | None = None) -> str:
    """A reason fit for the ledger: the status and the error's code, never its message."""
    parts = ["error" if status is None else f"http {status}", error.code if error else ""]
    return " ".join(part for part in parts if part)
