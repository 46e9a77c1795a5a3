"""Errors in the documented shape."""

from __future__ import annotations

from typing import Any

from costguard.testing.records import Task

_DOCUMENTATION = "https://runware.ai/docs"

REFUSING = {
    "error_entry": ("contentRejected", "This task was rejected before any work."),
    "item_error": ("contentRejected", "This task was rejected before any work."),
    "error_timeout": ("timeoutProvider", "The external provider did not respond within the timeout window."),
    "stream_error": ("providerStreamInterrupted", "The provider interrupted the stream."),
    "stream_error_cost": ("providerStreamInterrupted", "The provider interrupted the stream."),
    "stream_error_alone": ("providerNoContent", "The provider returned no content."),
}
"""Kinds of fault that answer a task with an error: its code and its message."""

_STATUS_WORDS = {
    400: ("invalidRequest", "The request is not valid."),
    401: ("invalidApiKey", "The API key is not valid."),
    402: ("insufficientCredits", "The account's balance does not cover this task."),
    403: ("forbidden", "This account may not do this."),
    404: ("notFound", "No such thing here."),
    429: ("tooManyRequests", "The queue is full; try again later."),
    503: ("serviceUnavailable", "The service is not available at the moment."),
    504: ("gatewayTimeout", "The gateway waited too long for the service."),
}


def error(code: str, message: str, task: Task | None = None, parameter: str = "") -> dict[str, Any]:
    """An error of `task`, or of the whole request."""
    told: dict[str, Any] = {"code": code, "message": message}
    if parameter:
        told["parameter"] = parameter
    for key in ("taskType", "taskUUID"):
        if task and key in task:
            told[key] = task[key]
    return {**told, "documentation": _DOCUMENTATION}


def by_fault(kind: str, task: Task) -> dict[str, Any]:
    """The error that a fault among `REFUSING` answers `task` with."""
    code, message = REFUSING[kind]
    return error(code, message, task)


def by_status(status: int, task: Task) -> dict[str, Any]:
    """The error that goes with an HTTP status."""
    code, message = _STATUS_WORDS.get(status, ("serverError", f"The server answered {status}."))
    return error(code, message, task)


def unknown(task: Task) -> dict[str, Any]:
    """The error of a question about a task that never came."""
    return error("taskNotFound", f"Task {task['taskUUID']} was not found.", task, "taskUUID")
