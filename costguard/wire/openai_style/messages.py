"""Anthropic's messages: `POST …/messages`.

Source: https://docs.anthropic.com/en/api/messages
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from costguard.tasks import Task
from costguard.wire.dialect import Ending, Problem, Target
from costguard.wire.openai_style import problems
from costguard.wire.openai_style.answering import name_of, success
from costguard.wire.openai_style.hearing import Piece
from costguard.wire.openai_style.parts import Reading
from costguard.wire.openai_style.paths import MESSAGES
from costguard.wire.openai_style.style import Style

_NOT_PROMPT = frozenset(
    (
        "model",
        "messages",
        "system",
        "metadata",
        "stop_sequences",
        "service_tier",
        "thinking",
        "container",
        "mcp_servers",
        "speed",
        "inference_geo",
        "cache_control",
        "anthropic_version",
        "anthropic_beta",
    )
)
_THREADS = "/threads/"
_OWN = ("custom", "bash_", "text_editor_", "computer_", "memory_")
"""Tools that the caller runs itself; what begins with anything else runs there, for a fee."""


class Messages(Style):
    """See `Dialect`."""

    name = "messages"
    prefix = "messages:"
    path = MESSAGES
    limits = ("max_tokens",)
    asks_with = ("messages",)

    def claims(self, target: Target) -> bool | None:
        """See `Dialect`. A message that is added to a thread of OpenAI's asks no model."""
        return _THREADS not in target.path and super().claims(target)

    def gather(self, raw: Mapping[str, Any], reading: Reading) -> None:
        """System prompt, messages, tools."""
        if raw.get("system") is not None:
            reading.content(raw["system"])
        reading.messages(raw["messages"])
        reading.fields(raw, _NOT_PROMPT)
        reading.tools(raw.get("tools"), own=_OWN)
        reading.extras(raw)
        for key in ("container", "mcp_servers"):
            if raw.get(key):
                reading.feature(key)

    def problem(self, problem: Problem, body: bytes) -> bytes:  # noqa: ARG002
        """See `Known`."""
        return problems.anthropic(problem)

    def answered(self, value: Mapping[str, Any], task: Task) -> Ending | None:
        """An answer is a message."""
        if value.get("type") != "message" or not isinstance(value.get("content"), list):
            return None
        return success(task, value.get("cost"), value.get("usage"))

    def piece(self, value: Mapping[str, Any]) -> Piece:
        """`message_start` opens the usage, with an output that is yet to be; `message_delta` tells all of it so far."""
        kind = value.get("type")
        message = value.get("message")
        if kind == "message_start" and isinstance(message, dict):
            usage = message.get("usage")
            opening = {key: usage[key] for key in usage if key != "output_tokens"} if isinstance(usage, dict) else usage
            return Piece(opening, message.get("cost"), name_of(message))
        if kind == "message_delta":
            delta = value.get("delta")
            is_end = isinstance(delta, dict) and isinstance(delta.get("stop_reason"), str)
            return Piece(value.get("usage"), value.get("cost"), finished=(0,) if is_end else ())
        return Piece(stops=kind == "message_stop")
