"""What a task is called on the wire."""

from __future__ import annotations

from typing import Any

from costguard.tasks import canonical

NAME_CHARS_MAX = 200
"""Longest taskUUID, taskType or model: these reach the ledger."""


def stored_name(value: Any) -> str:
    """A name that may reach the ledger; "" for anything that is none."""
    return value if isinstance(value, str) and len(value) <= NAME_CHARS_MAX and value.isprintable() else ""


def task_name(value: Any) -> str:
    """A taskUUID as the ledger knows it; "" for anything that is none."""
    return canonical(stored_name(value))
