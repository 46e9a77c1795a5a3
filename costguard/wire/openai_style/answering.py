"""How a whole response ends the one task of its request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from costguard.tasks import Task
from costguard.wire import openai_usage
from costguard.wire.dialect import Ack, Doubt, Ending, Refused, Result, Success
from costguard.wire.runware.answers import WireError, parse_response, read_leniently
from costguard.wire.runware.endings import REFUSING, said
from costguard.wire.runware.names import task_name

_FEES_CHARS = 100


def read_object(data: bytes) -> dict[str, Any] | None:
    """The JSON object in some bytes; None if there is none, so what came is unreadable, cut or of another kind."""
    try:
        found = read_leniently(data.decode(errors="replace").removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def name_of(value: Mapping[str, Any]) -> str:
    """What the provider calls a response, spelled as a task's name is; "" where it does not say."""
    return task_name(value.get("id"))


def aliases(task: Task, name: str, ending: Ending) -> Mapping[str, str]:
    """See `Judgement`: what was refused is nothing that a record may tell of."""
    return {task.uuid: name} if name and not isinstance(ending, Refused) else {}


def is_told(cost: Any, usage: Any) -> bool:
    """Whether a figure is told that says what the work cost, or how much it was."""
    found = openai_usage.figures(cost, usage)
    return bool(found.cost or found.total or found.prompt_tokens or found.completion_tokens)


def told_in(value: Mapping[str, Any]) -> tuple[Any, Any]:
    """Cost and usage of a response or a piece, and in the usage the tier that it says it was served in."""
    usage, tier = value.get("usage"), value.get("service_tier")
    if isinstance(usage, dict) and isinstance(tier, str):
        usage = {"service_tier": tier, **usage}
    return value.get("cost"), usage


def success(task: Task, cost: Any, usage: Any) -> Success:
    """The results of a task, told by their usage: one figure for all of its choices; one each where none is told."""
    found = openai_usage.figures(cost, usage)
    if task.prompt.features and found.cost is None and found.total is None and not found.rest:
        fees = ", ".join(task.prompt.features)[:_FEES_CHARS]
        found = found._replace(odd=True, notes=(*found.notes, f"not told, and not in it: what may be due for {fees}"))
    if is_told(cost, usage):
        return Success((Result(0, None, found),))
    return Success(tuple([Result(at, None, found) for at in range(task.results)]))


def failure(errors: tuple[WireError, ...], status: int) -> Ending:
    """How errors, or a status without any, end a task; they may speak of work that was done."""
    doubtful = next((error for error in errors if error.doubtful), None)
    first = doubtful or (errors[0] if errors else None)
    is_refused = status in REFUSING or (200 <= status < 300 and errors)
    return Refused(said(first, status)) if is_refused and doubtful is None else Doubt(said(first, status))


def errors_of(body: bytes) -> tuple[WireError, ...]:
    """The errors in a body, in Runware's form, OpenAI's or Anthropic's."""
    envelope = parse_response(body)
    return envelope.errors if envelope else ()


def whole(
    task: Task,
    status: int,
    body: bytes,
    value: dict[str, Any] | None,
    answered: Callable[[Mapping[str, Any], Task], Ending | None],
) -> Ending | None:
    """How a whole response ends `task`; None for a 2xx that cannot be read. `value`: what `read_object` gives of it.

    `answered` says it of a readable 2xx, None where that holds no answer of its wire.
    """
    succeeded = 200 <= status < 300
    found = answered(value, task) if value is not None and succeeded else None
    if value is not None and is_told(*told_in(value)) and not isinstance(found, Ack):
        return success(task, *told_in(value))  # whatever the status: it was billed
    if found is not None:
        return found
    errors = errors_of(body)
    if errors or not succeeded:
        return failure(errors, status)
    return (
        None
        if value is None
        else Doubt(f"http {status} without an answer", _evidence(value), taken=bool(name_of(value)))
    )


def _evidence(value: Mapping[str, Any]) -> dict[str, object]:
    return {"id": name_of(value)} if name_of(value) else {}
