"""The paths of OpenAI-style wires: which are read, and which are known and not read yet."""

from __future__ import annotations

import json

from costguard.wire.dialect import Problem, Target
from costguard.wire.openai_style import problems
from costguard.wire.runware.hosts import is_runware

CHAT = "/chat/completions"
RESPONSES = "/responses"
MESSAGES = "/messages"

METERED = (CHAT, RESPONSES, MESSAGES)
"""Paths with a dialect of their own, on hosts that are known."""

PATHS = (*METERED, "/completions", "/responses/compact", "/messages/batches")

_ASKED = ("messages", "input", "prompt")
"""What a model is asked with, beside `model`."""

_DEPLOYMENT = "/deployments/"
"""In a path, the model's name comes after it, and the body need not tell it."""


def is_known(target: Target) -> bool:
    """Whether a host is Runware's, or one that the caller named: there a path is surely what it is called."""
    return target.endpoint is not None or is_runware(target.host)


class OpenAIStyle:
    """Claims what no dialect reads: other paths on known hosts, and all of them elsewhere, if the body says so.

    `by_path`: of them only those that no other wire has, where a body without a model is one of its own, too.
    """

    name = "OpenAI-style"

    def __init__(self, *, by_path: bool = False) -> None:
        self._by_path = by_path

    def claims(self, target: Target) -> bool | None:
        """See `Known`."""
        if not target.path.endswith(PATHS):
            return False
        if self._by_path and not (target.path.endswith(CHAT) or _DEPLOYMENT in target.path):
            return False
        if is_known(target):
            return not target.path.endswith(METERED)
        return None

    def problem(self, problem: Problem, body: bytes) -> bytes:  # noqa: ARG002
        """See `Known`."""
        return problems.openai(problem)

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
