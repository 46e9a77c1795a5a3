"""OpenAI-style paths (`/chat/completions`, `/responses`, `/messages`): known, but not read yet."""

from __future__ import annotations

import json

from costguard.wire.dialect import Target
from costguard.wire.runware.hosts import is_runware

PATHS = ("/chat/completions", "/responses", "/messages", "/completions")

_ASKED = ("messages", "input", "prompt")
"""What a model is asked with, beside `model`."""


class OpenAIStyle:
    """Claims its paths on Runware's hosts and on those named in `endpoints`; elsewhere the body decides."""

    name = "OpenAI-style"

    def claims(self, target: Target) -> bool | None:
        """See `Known`."""
        if not target.path.endswith(PATHS):
            return False
        return True if target.endpoint is not None or is_runware(target.host) else None

    def recognises(self, body: bytes) -> bool:
        """See `Known`."""
        if b'"model"' not in body:
            return False
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            return False
        return isinstance(asked, dict) and isinstance(asked.get("model"), str) and any(key in asked for key in _ASKED)
