"""Bodies of the native wire, as its tests write and read them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from costguard.wire.runware.answers import Envelope, parse_response

UUID = "9ce1e395-ed82-4bd2-b224-c1e460e800f4"
OTHER = "dc5de2d2-c9ed-4153-840f-b47ef0ed368b"


def text_task(task_uuid: str = UUID, **more: Any) -> dict[str, Any]:
    return {"taskType": "textInference", "taskUUID": task_uuid, "model": "google:gemini@3-flash", **more}


def ready(task_uuid: str = UUID, **more: Any) -> dict[str, Any]:
    return text_task(task_uuid, includeCost=True, includeUsage=True, **more)


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def response(*data: Any, **more: Any) -> Envelope:
    found = parse_response(encoded({"data": list(data), **more}))
    assert found is not None
    return found


def result(task_uuid: str = UUID, **more: Any) -> dict[str, Any]:
    return {"taskType": "textInference", "taskUUID": task_uuid, "text": "hello", "cost": 0.5, **more}


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([UUID, OTHER, "", "error", "processing"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["data", "errors", "error", "taskUUID", "taskType", "status", "response", "request", "code", "cost"]
        ),
        inner,
        max_size=4,
    ),
)  # fmt: skip
