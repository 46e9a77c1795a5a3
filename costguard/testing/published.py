"""The eight example requests and responses on Runware's model pages, as published.

Sources: https://runware.ai/docs/models/google-gemini-3-1-pro and
https://runware.ai/docs/models/google-gemini-3-flash (four examples each; `seeds.json` keeps their figures
digit for digit).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from costguard.testing import exact

SLUGS = {"google-gemini-3-1-pro": "google:gemini@3.1-pro", "google-gemini-3-flash": "google:gemini@3-flash"}
"""The models' second names, as in the addresses of their pages."""

_NOT_CONTENT = {
    "taskUUID", "includeCost", "includeUsage", "deliveryMethod", "webhookURL", "seed",
}  # fmt: skip


@dataclass(frozen=True)
class Seed:
    """One published example.

    `name` is its title, `model` its AIR, `url` its page; `request` is a task ready to be sent as JSON;
    `response` is the item that answers it, its figures (USD) as Decimal.
    """

    name: str
    model: str
    url: str
    request: dict[str, Any]
    response: dict[str, Any]


def seeds() -> tuple[Seed, ...]:
    """The published examples, Gemini 3.1 Pro's four first; fresh copies, free to be changed."""
    text = files("costguard.testing").joinpath("seeds.json").read_text(encoding="utf-8")
    # Requests hold no money, and must pass through a client's own `json=`: floats there.
    return tuple(
        Seed(
            name=authored["name"],
            model=authored["request"]["model"],
            url=authored["url"],
            request=authored["request"],
            response=exactly["response"],
        )
        for authored, exactly in zip(json.loads(text), exact.loads(text), strict=True)
    )


def content(task: dict[str, Any]) -> dict[str, Any]:
    """What a task asks for, without its name, its delivery and what it wants to be told."""
    asked = {key: value for key, value in task.items() if key not in _NOT_CONTENT}
    if isinstance(asked.get("model"), str):
        asked["model"] = SLUGS.get(asked["model"], asked["model"])
    return asked
