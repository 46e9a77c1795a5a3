"""What guarded clients send in benchmarks that count money."""

from __future__ import annotations

import uuid
from decimal import Decimal
from typing import Any

API = "https://api.runware.ai"
UPPER = Decimal("0.0006065")
"""USD that `a_task` holds: 13 tokens and 200 of completion; it is billed two thirds of it."""


def a_task(task_uuid: str | None = None) -> dict[str, Any]:
    """A text task as small as they come."""
    return {
        "taskType": "textInference",
        "taskUUID": task_uuid or str(uuid.uuid4()),
        "model": "google:gemini@3-flash",
        "settings": {"maxTokens": 200},
        "messages": [{"role": "user", "content": "Describe the harbour."}],
    }
