"""OpenAI-style paths (`/chat/completions`, `/responses`, `/messages`): known, but not read yet."""

from __future__ import annotations

from costguard.wire.dialect import Target
from costguard.wire.runware.hosts import is_runware

PATHS = ("/chat/completions", "/responses", "/messages", "/completions")


class OpenAIStyle:
    """Claims its paths on Runware's hosts and on those named in `endpoints`."""

    name = "OpenAI-style"

    def claims(self, target: Target) -> bool | None:
        """See `Known`."""
        return target.path.endswith(PATHS) and (target.endpoint is not None or is_runware(target.host))
