"""What a request may ask, by the documented request parameters."""

from __future__ import annotations

from typing import Any

from costguard.testing import refusals
from costguard.testing.records import Task

FREE = {
    "getResponse", "getTaskDetails", "accountManagement", "modelSearch", "mediaStorage", "authentication",
}  # fmt: skip
"""Task types that cost nothing."""


def problem(task: Task) -> dict[str, Any] | None:
    """What is wrong with a task, as the error that answers it; None when it is fine."""

    def invalid(parameter: str, why: str) -> dict[str, Any]:
        said = f"Invalid value for '{parameter}': {why}."
        return refusals.error("invalidParameter", said, task, parameter)

    if not isinstance(task.get("taskType"), str):
        return invalid("taskType", "a string is required")
    if task["taskType"] == "authentication":
        return None
    if not isinstance(task.get("taskUUID"), str) or not task["taskUUID"]:
        return invalid("taskUUID", "a UUID v4 is required")
    if task["taskType"] in FREE:
        return None
    if not _whole(task.get("numberResults", 1), 1, 4):
        return invalid("numberResults", "an integer from 1 to 4 is required")
    if task.get("deliveryMethod", "sync") not in ("sync", "async", "stream"):
        return invalid("deliveryMethod", "one of sync, async, stream is required")
    if task["taskType"] != "textInference":
        return None
    if not isinstance(task.get("model"), str):
        return invalid("model", "a string is required")
    messages = task.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        return invalid("messages", "an array of objects is required")
    tools = task.get("tools", [])
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        return invalid("tools", "an array of objects is required")
    for group in ("settings", "inputs"):
        if not isinstance(task.get(group, {}), dict):
            return invalid(group, "an object is required")
    for kind, media in task.get("inputs", {}).items():
        if not isinstance(media, list):
            return invalid(f"inputs.{kind}", "an array of strings is required")
    if not _whole(task.get("settings", {}).get("maxTokens", 1), 1, 128_000):
        return invalid("settings.maxTokens", "an integer from 1 to 128000 is required")
    return None


def _whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
