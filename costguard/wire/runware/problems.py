"""Errors in Runware's own form."""

from __future__ import annotations

import json
from typing import Any

from costguard.wire import strict
from costguard.wire.dialect import Problem
from costguard.wire.runware.names import stored_name


def write(problem: Problem, body: bytes) -> bytes:
    """`{"errors": [{"code", "message", "taskType", "taskUUID"}]}`: one for each task that `body` names.

    Clients wait for an answer to each task by its name. One without is for the whole request.
    """
    first, *rest = problem.kind.split("_")
    told = {"code": first + "".join(map(str.capitalize, rest)), "message": problem.message}
    return strict.write({"errors": [{**told, **names} for names in _names(body)] or [told]})


def _names(body: bytes) -> list[dict[str, Any]]:
    """What the tasks of a request are called, as far as it can be read."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return []
    entries = [entry for entry in (found if isinstance(found, list) else [found]) if isinstance(entry, dict)]
    named = [{key: entry[key] for key in ("taskType", "taskUUID") if stored_name(entry.get(key))} for entry in entries]
    return [names for names in named if "taskUUID" in names]
