"""What a model reads, piece by piece: texts, and media by kind; whatever is not known counts as the whole context."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from costguard.tasks import Prompt

_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Kinds of part that are a text, and the field it is in."""

_MEDIA = {
    "image_url": "images",
    "input_image": "images",
    "image": "images",
    "input_audio": "audios",
    "video_url": "videos",
    "file": "documents",
    "input_file": "documents",
    "document": "documents",
}
"""Kinds of part that are a medium, and the key of `costguard.modalities.KINDS` that it counts as."""

_WRITTEN = frozenset(
    (
        "function_call",
        "custom_tool_call",
        "reasoning",
        "tool_use",
        "thinking",
        "redacted_thinking",
    )
)
"""Kinds of part that the model reads as text, whatever is in them: they count by their JSON."""

_NESTED = {"message": "content", "function_call_output": "output", "custom_tool_call_output": "output",
           "tool_result": "content"}  # fmt: skip
"""Kinds of part that hold others, and where."""

_CARRIERS = ("data", "file_data", "url", "image_url", "video_url", "file_url", "file_id")
"""Where a medium is found within its part, the surest first: bytes, then an address, then a name."""

_DEPTH_MAX = 10

ABOUT = frozenset(
    (
        "model",
        "include",
        "metadata",
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "service_tier",
        "stream_options",
    )
)
"""Fields of OpenAI's requests that no model reads."""

_TIERS = (None, "auto", "default", "flex", "standard", "standard_only")
"""What `service_tier` may say without costing more than the list price."""


class Reading:
    """Gathers a prompt. `unread(what)` says that the model reads what is not in the request, or is not known."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._media: dict[str, list[Any]] = {}
        self._features: list[str] = []

    def prompt(self) -> Prompt:
        """All that was gathered."""
        return Prompt(tuple(self._texts), self._media or None, tuple(dict.fromkeys(self._features)))

    def text(self, value: Any) -> None:
        """A text, or anything else by its JSON; null is none."""
        if value is not None:
            self._texts.append(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))

    def fields(self, raw: Mapping[str, Any], known: frozenset[str]) -> None:
        """What is in an object beside what is `known`: it may be read, unless it is a number or a switch."""
        for key, value in raw.items():
            if key not in known and isinstance(value, (str, list, dict)):
                self.text(value)

    def feature(self, name: str) -> None:
        """Something that may cost a fee of its own."""
        self._features.append(name)

    def tools(self, listed: Any, own: tuple[str, ...]) -> None:
        """Tools are read with all other fields; those of a type that begins with none of `own` may cost a fee."""
        for tool in listed if isinstance(listed, list) else ():
            named = tool.get("type") if isinstance(tool, dict) else None
            if named is not None and not str(named).startswith(own):
                self.feature(str(named))

    def extras(self, raw: Mapping[str, Any]) -> None:
        """A tier that is dearer than what price files state."""
        if raw.get("service_tier") not in _TIERS:
            self.feature(f"service_tier {raw['service_tier']}")

    def unread(self, what: str) -> None:
        """Counts as the model's whole context."""
        self._media.setdefault(what, []).append(True)

    def messages(self, listed: Any) -> None:
        """Messages with a role: their content, and what else is in them."""
        for message in listed if isinstance(listed, list) else [listed]:
            if isinstance(message, dict):
                self.content(message.get("content"))
                self.fields(message, _MESSAGE)
            else:
                self.text(message)

    def content(self, value: Any, depth: int = 0) -> None:
        """The content of a message: a text, or a list of parts."""
        for part in value if isinstance(value, list) else [value if value is not None else ""]:
            if isinstance(part, dict):
                self._part(part, depth)
            else:
                self.text(part)

    def _part(self, part: dict[str, Any], depth: int) -> None:
        kind = part.get("type", "message" if "content" in part else None)
        if depth > _DEPTH_MAX or not isinstance(kind, str):
            self.unread("content")
        elif kind in _TEXTS:
            self.text(part.get(_TEXTS[kind], ""))
        elif kind in _WRITTEN:
            self.text(part)
        elif kind in _NESTED:
            self.content(part.get(_NESTED[kind]), depth + 1)
            self.fields(part, _MESSAGE | {"output"})
        elif kind in _MEDIA:
            self._medium(_MEDIA[kind], part, kind, depth)
        else:
            self.unread("content")

    def _medium(self, kind: str, part: dict[str, Any], name: str, depth: int) -> None:
        source = part.get("source", part.get(name, part))
        if isinstance(source, dict) and source.get("type") in ("text", "content"):  # a document that is written out
            self.content(source.get("content", source.get("data")), depth + 1)
            self.fields(part, frozenset(("type", "source")))
            return
        carried = source if isinstance(source, str) else _carried(source)
        if carried is None:
            self.unread("content")
        else:
            self._media.setdefault(kind, []).append(carried)
        self.fields(part, frozenset(("type", "source", name, *_CARRIERS)))


_MESSAGE = frozenset(("role", "content", "type", "id", "status"))


def _carried(source: Any) -> str | None:
    """The bytes, the address or the name of a medium."""
    if not isinstance(source, dict):
        return None
    for key in _CARRIERS:
        found = source.get(key)
        if isinstance(found, str) and found:
            return found
    return None
