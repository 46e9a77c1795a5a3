"""OpenAI's chat completions: `POST …/chat/completions`.

Source: https://platform.openai.com/docs/api-reference/chat, and https://runware.ai/docs/platform/openai for Runware's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from costguard.tasks import Task
from costguard.wire.dialect import Ending
from costguard.wire.openai_style.answering import name_of, success, told_in
from costguard.wire.openai_style.hearing import Piece
from costguard.wire.openai_style.parts import ABOUT, Reading
from costguard.wire.openai_style.paths import CHAT
from costguard.wire.openai_style.sieve import UsageSieve
from costguard.wire.openai_style.style import Style

_OPTIONS, _USAGE = "stream_options", "include_usage"

_NOT_PROMPT = ABOUT | {
    "messages",
    "stop",
    "modalities",
    "audio",
    "reasoning_effort",
    "verbosity",
    "logit_bias",
    "web_search_options",
}


class Chat(Style):
    """See `Dialect`."""

    name = "chat completions"
    prefix = "chat:"
    path = CHAT
    limits = ("max_completion_tokens", "max_tokens")
    asks_with = ("messages",)

    def gather(self, raw: Mapping[str, Any], reading: Reading) -> None:
        """Messages, and by their JSON tools, a format for the answer and all that is not known."""
        reading.messages(raw["messages"])
        reading.fields(raw, _NOT_PROMPT)
        reading.tools(raw.get("tools"), own=("function", "custom"))
        reading.extras(raw)
        made = raw.get("modalities")
        for one in made if isinstance(made, list) else [] if made is None else [made]:
            if one != "text":
                reading.feature(f"{one} output")

    def forced(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """A stream tells its usage only if it is asked to."""
        if not raw.get("stream") or _is_asked(raw):
            return {}
        options = raw.get(_OPTIONS)
        return {_OPTIONS: {**(options if isinstance(options, dict) else {}), _USAGE: True}}

    def sieve(self, tasks: Sequence[Task]) -> UsageSieve | None:
        """The piece with the usage alone, if it came because the guard asked for it."""
        return UsageSieve() if tasks[0].told_more else None

    def answered(self, value: Mapping[str, Any], task: Task) -> Ending | None:
        """An answer has choices."""
        choices = value.get("choices")
        return success(task, value.get("cost"), value.get("usage")) if choices and isinstance(choices, list) else None

    def piece(self, value: Mapping[str, Any]) -> Piece:
        """A chunk of choices, or of usage at the end."""
        choices = value.get("choices")
        listed = [one for one in choices if isinstance(one, dict)] if isinstance(choices, list) else []
        finished = [one.get("index", 0) for one in listed if isinstance(one.get("finish_reason"), str)]
        cost, usage = told_in(value)
        return Piece(
            usage,
            cost,
            name_of(value),
            tuple([index for index in finished if type(index) is int]),
        )


def _is_asked(raw: Mapping[str, Any]) -> bool:
    """Whether the caller asked for the usage itself."""
    options = raw.get(_OPTIONS)
    return isinstance(options, dict) and options.get(_USAGE) is True
