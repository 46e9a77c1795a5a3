"""OpenAI's responses: `POST …/responses`.

Source: https://platform.openai.com/docs/api-reference/responses
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from costguard.tasks import Task
from costguard.wire.dialect import Ack, Doubt, Ending
from costguard.wire.openai_style.answering import name_of, success, told_in
from costguard.wire.openai_style.hearing import Piece
from costguard.wire.openai_style.parts import ABOUT, Reading
from costguard.wire.openai_style.paths import RESPONSES
from costguard.wire.openai_style.style import Style

_NOT_PROMPT = ABOUT | {"input", "prompt", "previous_response_id", "conversation", "reasoning", "truncation"}
_WAITING = ("queued", "in_progress")
_ENDED = ("completed", "incomplete")
_LAST = ("response.completed", "response.incomplete", "response.failed", "response.cancelled")
"""The events that end a stream, and tell the usage."""


class Responses(Style):
    """See `Dialect`."""

    name = "responses"
    prefix = "responses:"
    path = RESPONSES
    limits = ("max_output_tokens",)
    asks_with = ("input", "prompt", "previous_response_id", "conversation")

    def gather(self, raw: Mapping[str, Any], reading: Reading) -> None:
        """Input items, instructions, tools, and what is stored there as the whole context."""
        reading.content(raw.get("input"))
        reading.fields(raw, _NOT_PROMPT)
        reading.tools(raw.get("tools"), own=("function", "custom"))
        reading.extras(raw)
        if raw.get("prompt") is not None:
            reading.unread("prompt")  # it is stored there

    def answered(self, value: Mapping[str, Any], task: Task) -> Ending | None:
        """An answer has a status: it is whole, on its way, or failed and perhaps billed."""
        status = value.get("status")
        if status in _WAITING:
            return Ack()
        if status in _ENDED or (status is None and isinstance(value.get("output"), list)):
            return success(task, value.get("cost"), value.get("usage"))
        if isinstance(status, str) and value.get("object") == "response":
            return Doubt("the response failed and tells no usage", taken=True)
        return None

    def piece(self, value: Mapping[str, Any]) -> Piece:
        """An event: the last one holds the whole response, with its usage."""
        kind, response = value.get("type"), value.get("response")
        if not isinstance(response, dict):
            return Piece()
        if kind not in _LAST:
            return Piece(name=name_of(response))
        failed = kind not in _LAST[:2]
        finished = () if failed else (0,)
        cost, usage = told_in(response)
        cost = value.get("cost") if cost is None else cost
        if failed and usage is not None:
            finished = (0,)  # what it says it used is what is billed
        return Piece(usage, cost, name_of(response), finished, stops=True, failed=failed)
