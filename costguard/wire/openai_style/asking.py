"""A request of one task, whose fields lie at the top of its JSON."""

from __future__ import annotations

import uuid
from typing import Any

from costguard.tasks import TEXT_INFERENCE, Delivery, Prompt, Task
from costguard.wire import strict
from costguard.wire.runware.names import NAME_CHARS_MAX, stored_name
from costguard.wire.runware.requests import MAX_TOKENS_MAX

TASK_TYPE = TEXT_INFERENCE
"""What all of these wires ask for, as price files call it."""

RESULTS_MAX = 128
"""The most choices that one request may ask for, as OpenAI documents it."""


class Asked:
    """See `Request`. `added`: fields that the body is to have beside the caller's own."""

    __slots__ = ("_added", "_body", "_limits", "changed", "tasks")

    def __init__(self, task: Task, body: bytes | None, limits: tuple[str, ...], added: dict[str, Any]) -> None:
        self.tasks: tuple[Task, ...] = (task,)
        self.changed = bool(added)
        self._limits = limits
        self._added = {} if added.keys() & task.raw.keys() else added
        self._body = body if self._added or not added else None
        task.raw.update(added)
        task.told_more = bool(added)

    def body(self) -> bytes:
        """The caller's bytes, what is missing added at their end; else the same JSON, compact."""
        if self._body is None:
            return strict.write(self.tasks[0].raw)
        return strict.with_added(self._body, self._added) if self._added else self._body

    def lower(self, task: Task, tokens: int) -> None:
        """Lower the allowance where the caller stated it, else in the first of the fields that may state it."""
        self.changed = True
        self._body = None
        task.max_tokens = tokens
        stated = [key for key in self._limits if task.raw.get(key) is not None]
        for key in stated or self._limits[:1]:
            task.raw[key] = min(tokens, task.raw[key]) if stated else tokens


def task_of(raw: dict[str, Any], prefix: str, limits: tuple[str, ...], prompt: Prompt) -> Task:
    """The one task of a request, with a name of its own: nothing on these wires gives it one.

    InvalidRequest for what decides the cost and cannot be read. Without a stated allowance the model may go on to
    the most that it can.
    """
    model = raw.get("model")
    if model is not None and not stored_name(model):
        raise strict.invalid(
            f"model: expected a text of 1 to {NAME_CHARS_MAX} printable characters, found {strict.kind(model)}"
        )
    for key in ("stream", "background"):
        if not isinstance(raw.get(key), (bool, type(None))):
            raise strict.invalid(f"{key}: expected true or false, found {strict.shown(raw[key])}")
    allowed = [strict.whole(raw.get(key), MAX_TOKENS_MAX, "the request", key) for key in limits]
    stated = [tokens for tokens in allowed if tokens is not None]
    choices = [strict.whole(raw.get(key), RESULTS_MAX, "the request", key) or 1 for key in ("n", "best_of")]
    delivery: Delivery = "stream" if raw.get("stream") else "async" if raw.get("background") else "sync"
    return Task(
        uuid=f"{prefix}{uuid.uuid4()}",
        task_type=TASK_TYPE,
        model=model,
        billable=True,
        delivery=delivery,
        results=max(choices),  # what is made and not chosen is billed as well
        max_tokens=max(stated, default=None),  # of two allowances the larger: it is unknown which one is obeyed
        raw=raw,
        prompt=prompt,
        goes_on=True,
    )
