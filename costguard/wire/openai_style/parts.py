"""What a model reads, piece by piece: texts, and media by kind; whatever is not known counts as the whole context."""

from __future__ import annotations

import json
import re
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
"""Where a medium is found within its part: bytes, an address, or a name. Which of several is read is not known."""

_TYPES = (("image/", "images"), ("audio/", "audios"), ("video/", "videos"), ("application/pdf", "documents"))
"""What a medium is that says its own type, whatever the part is called: gateways take a PDF as an `image_url`."""

_DATA_TYPE = re.compile(r"data:([^;,]{1,200})", re.IGNORECASE)

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

_MODES = {
    "service_tier": (None, "auto", "default", "flex", "standard", "standard_only"),
    "speed": (None, "standard"),
    "inference_geo": (None, "global", "not_available"),
}
"""Fields that choose a mode of work, and what they may say without costing more than the list price."""

_FEES = {
    "prediction": "prediction",  # what is rejected of it is billed as completion, beyond the allowance
    "models": "other models",
    "fallbacks": "other models",
    "plugins": "plugins",
    "search_parameters": "search",
    "enable_search": "search",
    "web_search_options": "search",
}
"""Fields of a request, also as gateways add them, by which it may cost what the price list does not say."""

_STORED = ("previous_response_id", "conversation", "cached_content", "cachedContent", "data_sources")
"""Fields that name what the model reads beside the request."""

_WITHIN = ("extra_body", "google")
"""Fields in which gateways keep more of them."""

_WRITES = {"1h": 200}
_WRITE = 125
"""What writing a token to a cache costs, in percent of the input rate, by how long it is kept (5 minutes, unless told).
Source: https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching
"""

_NAME_CHARS = 60
_UNDATED = re.compile(r"_20[0-9]{6}\Z")
"""The date of a tool's version, which its fee's name leaves out."""


class Reading:
    """Gathers a prompt. `unread(what)` says that the model reads what is not in the request, or is not known."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._media: dict[str, list[Any]] = {}
        self._features: list[str] = []
        self._is_open = False
        self._percent = 100

    def prompt(self) -> Prompt:
        """All that was gathered."""
        features = tuple(dict.fromkeys(self._features))
        return Prompt(tuple(self._texts), self._media or None, features, self._is_open, self._percent)

    def text(self, value: Any) -> None:
        """A text, or anything else by its JSON; null is none."""
        if value is not None:
            self._texts.append(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))

    def fields(self, raw: Mapping[str, Any], known: frozenset[str]) -> None:
        """What is in an object beside what is `known`: it may be read, unless it is a number or a switch."""
        for key, value in raw.items():
            if key not in known and isinstance(value, (str, list, dict)):
                self.text(value)

    def feature(self, name: object) -> None:
        """Something that may cost a fee of its own."""
        self._features.append(str(name)[:_NAME_CHARS])

    def tools(self, listed: Any, own: tuple[str, ...]) -> None:
        """Tools are read with all other fields; those that the caller does not run itself may cost a fee, and the
        model reads what comes of them. `own`: types of those that it does, or how they begin, up to a `_`.
        """
        for tool in listed if isinstance(listed, list) else [] if listed is None else [listed]:
            named = tool.get("type") if isinstance(tool, dict) else None
            if named is None and isinstance(tool, dict) and ("function" in tool or "name" in tool):
                continue
            if isinstance(named, str) and named.startswith(own) and (named in own or named.startswith(_open(own))):
                continue
            self.feature(
                _UNDATED.sub("", str(named or next(iter(tool), "tools") if isinstance(tool, dict) else "tools"))
            )
            self._is_open = True

    def extras(self, raw: Mapping[str, Any]) -> None:
        """What makes a request dearer than price files state, and what is stored there and read with it."""
        for key, plain in _MODES.items():
            if raw.get(key) not in plain:
                self.feature(f"{key} {raw[key]}")
        for key, name in _FEES.items():
            if raw.get(key) not in (None, False, []):
                self.feature(name)
                self._is_open = True
        self._stored(raw)
        self._written(raw)

    def _stored(self, node: Mapping[str, Any]) -> None:
        for key, value in node.items():
            if key in _STORED and value is not None:
                self.unread(key)
            elif key in _WITHIN and isinstance(value, dict):
                self._stored(value)

    def _written(self, node: Any) -> None:
        """Any part may say that it is to be written to a cache."""
        if isinstance(node, list):
            for one in node:
                self._written(one)
        elif isinstance(node, dict):
            for key, value in node.items():
                if key == "cache_control" and value is not None:
                    kept = value.get("ttl") if isinstance(value, dict) else None
                    self._percent = max(self._percent, _WRITES.get(str(kept), _WRITE))
                elif isinstance(value, (list, dict)):
                    self._written(value)

    def unread(self, what: str) -> None:
        """Counts as the model's whole context."""
        self._media.setdefault(what, []).append(True)
        self._is_open = True

    def messages(self, listed: Any) -> None:
        """Messages with a role: their content, and what else is in them."""
        for message in listed if isinstance(listed, list) else [listed]:
            if isinstance(message, dict):
                self.content(message.get("content"))
                self.fields(message, _MESSAGE)
                if message.get("audio") is not None:
                    self.unread("audio")  # an answer that is stored there
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
        elif kind == "reasoning" and part.get("id") is not None and not part.get("encrypted_content"):
            self.unread(kind)  # it is stored there: what is in the request is a summary
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
        source = part.get("source")
        if kind == "documents" and isinstance(source, dict) and source.get("type") in _WRITTEN_OUT:
            self.content(source.get(_WRITTEN_OUT[source["type"]]), depth + 1)
            self.fields(part, frozenset(("type", "source")))
            return
        within = [part[key] for key in ("source", name) if part.get(key) is not None]
        beside = {key: value for key, value in part.items() if key in _CARRIERS and key != name}
        found = [one for node in (*within, beside) for one in _carried(node)]
        for told, carried in found:
            for one in {kind: 0, _kind(kind, told, carried): 0}:  # as what it is read is not known, if they differ
                if one is None:
                    self.unread("content")
                else:
                    self._media.setdefault(one, []).append(carried)
        if not found:
            self.unread("content")
        self.fields(part, frozenset(("type", "source", name, *_CARRIERS)))


_MESSAGE = frozenset(("role", "content", "type", "id", "status"))
_WRITTEN_OUT = {"text": "data", "content": "content"}
"""Types of a document that is written out, and where."""


def _open(own: tuple[str, ...]) -> tuple[str, ...]:
    return tuple([one for one in own if one.endswith("_")])


def _carried(source: Any) -> list[tuple[Any, str]]:
    """The bytes, the address and the name of a medium, as far as they are there, each with what it is said to be."""
    if isinstance(source, str):
        return [(None, source)] if source else []
    if not isinstance(source, dict):
        return []
    found = [source.get(key) for key in _CARRIERS]
    return [(source.get("media_type"), one) for one in found if isinstance(one, str) and one]


def _kind(kind: str, told: Any, carried: str) -> str | None:
    """The kind that a medium counts as: what it says it is, else `kind`; None if that is of no kind."""
    data = _DATA_TYPE.match(carried)
    said = data[1] if data else told
    if not isinstance(said, str):
        return kind
    return next((known for begins, known in _TYPES if said.strip().lower().startswith(begins)), None)
