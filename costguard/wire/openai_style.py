"""OpenAI-style paths (`/chat/completions`, `/responses`, `/messages`): known, but not read yet."""

from __future__ import annotations

import json

from costguard.wire.dialect import Target
from costguard.wire.runware.hosts import is_runware

PATHS = ("/chat/completions", "/responses", "/messages", "/completions")

_ASKED = ("messages", "input", "prompt")
"""What a model is asked with, beside `model`."""

_CHAT = "/chat/completions"
_DEPLOYMENT = "/deployments/"
"""In a path, the model's name comes after it, and the body need not tell it."""


class OpenAIStyle:
    """Claims its paths on Runware's hosts and on those named in `endpoints`; elsewhere the body decides.

    `by_path`: of them only those that no other wire has, where a body without a model is one of its own, too.
    """

    name = "OpenAI-style"

    def __init__(self, *, by_path: bool = False) -> None:
        self._by_path = by_path

    def claims(self, target: Target) -> bool | None:
        """See `Known`."""
        if not target.path.endswith(PATHS):
            return False
        if self._by_path and not (target.path.endswith(_CHAT) or _DEPLOYMENT in target.path):
            return False
        return True if target.endpoint is not None or is_runware(target.host) else None

    def recognises(self, body: bytes) -> bool:
        """See `Known`."""
        if not any(b'"%b"' % key.encode() in body for key in _ASKED):
            return False
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            return False
        if not isinstance(asked, dict):
            return False
        prompt = asked.get("prompt")
        if isinstance(prompt, dict) and isinstance(prompt.get("id"), str):
            return True  # a prompt that is stored there, and its model with it
        return (self._by_path or isinstance(asked.get("model"), str)) and any(key in asked for key in _ASKED)
