"""What the model reads of a task: its texts, its media, and the features it may use."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from costguard.modalities import KINDS
from costguard.tasks import Prompt

OBJECT = (dict, Mapping)
"""What a task's objects may be as a caller writes them; nearly all are dicts, which are quicker to tell."""

_NOT_PROMPT = frozenset(
    [
        "taskType",
        "taskUUID",
        "model",
        "seed",
        "deliveryMethod",
        "includeCost",
        "includeUsage",
        "numberResults",
        "webhookURL",
        "settings",
        "messages",
        "inputs",
        *KINDS,
    ]
)
_SETTINGS_NOT_PROMPT = frozenset(["temperature", "topP", "maxTokens", "stopSequences", "thinkingLevel", "systemPrompt"])


def read_prompt(raw: Mapping[str, Any]) -> Prompt:
    """The prompt of a task. RecursionError if something in it is nested too deeply to be written as JSON."""
    return Prompt(_texts(raw), _media(raw), _features(raw.get("tools")))


def _features(tools: object) -> tuple[str, ...]:
    """The tools that cost a fee, by name; calls of the caller's own functions are text."""
    if not tools:
        return ()
    listed = tools if isinstance(tools, list) else [tools]
    kinds = [tool.get("type") if isinstance(tool, OBJECT) else None for tool in listed]
    return tuple([str(kind) for kind in kinds if kind != "function"])


def _media(raw: Mapping[str, Any]) -> object:
    """The task's media, also where the wire does not document them: at the top, or as parts of a message."""
    inputs = raw.get("inputs")
    stray: dict[str, Any] = {kind: raw[kind] for kind in filter(raw.get, KINDS)}
    messages = raw.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, OBJECT) else None
        if isinstance(content, list):
            parts = [part for part in content if isinstance(part, OBJECT) and part.get("type", "text") != "text"]
            if parts:
                stray.setdefault("messages.content", []).extend(parts)
    if not stray:
        return inputs
    for kind, media in (inputs if isinstance(inputs, OBJECT) else {"": inputs}).items():
        stray[kind] = [stray[kind], media] if kind in stray else media
    return stray


def _texts(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """Every text the model reads: system prompt, messages, and the JSON of tools and unknown fields."""
    texts = []
    settings = raw.get("settings")
    if isinstance(settings, OBJECT):
        system = settings.get("systemPrompt")
        if system is not None:
            texts.append(_text(system))
        for key, value in settings.items():
            if key not in _SETTINGS_NOT_PROMPT and isinstance(value, (str, list, dict)):
                texts.append(_text(value))
    elif settings is not None:
        texts.append(_text(settings))
    messages = raw.get("messages")
    for message in messages if isinstance(messages, list) else ([] if messages is None else [messages]):
        if not isinstance(message, OBJECT):
            texts.append(_text(message))
            continue
        for key, value in message.items():
            if key == "content" or (key != "role" and isinstance(value, (str, list, dict))):
                texts.append(_text(value))
    for key, value in raw.items():
        if key not in _NOT_PROMPT and isinstance(value, (str, list, dict)):
            texts.append(_text(value))
    return tuple(texts)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
