"""Bodies of the native wire, as its tests write and read them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from costguard.tasks import Task
from costguard.testing.published import seeds
from costguard.wire.dialect import Figures, Result
from costguard.wire.runware.answers import Envelope, Item, parse_response
from costguard.wire.runware.figures import Told
from costguard.wire.runware.requests import parse_request

UUID = "9ce1e395-ed82-4bd2-b224-c1e460e800f4"
OTHER = "dc5de2d2-c9ed-4153-840f-b47ef0ed368b"

SPELLINGS = (UUID, UUID.upper(), UUID.title())
"""One UUID in every case."""

PUBLISHED = tuple(seed.response for seed in seeds())
"""The eight published results, their figures exact."""

IMAGE, VIDEO = (Told(item["cost"], item["usage"]) for item in PUBLISHED if "usage" in item)
"""The figures of the two published results with a breakdown."""


def text_task(task_uuid: str = UUID, **more: Any) -> dict[str, Any]:
    return {"taskType": "textInference", "taskUUID": task_uuid, "model": "google:gemini@3-flash", **more}


def ready(task_uuid: str = UUID, **more: Any) -> dict[str, Any]:
    return text_task(task_uuid, includeCost=True, includeUsage=True, **more)


def tasks(*raw: dict[str, Any]) -> tuple[Task, ...]:
    return parse_request(encoded(list(raw))).tasks


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


def exactly(value: Any) -> str:
    """JSON with every digit of a Decimal."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{exactly(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(exactly, value))}]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value)


def read(body: bytes) -> Envelope:
    found = parse_response(body)
    assert found is not None
    return found


def response(*data: Any, **more: Any) -> Envelope:
    return read(encoded({"data": list(data), **more}))


def result(task_uuid: str = UUID, **more: Any) -> dict[str, Any]:
    return {"taskType": "textInference", "taskUUID": task_uuid, "text": "hello", "cost": 0.5, **more}


def results(items: Iterable[Item]) -> tuple[Result, ...]:
    """What some items come to as results."""
    return tuple(Result(item.result_index, item.seed, item.told.read()) for item in items)


def same(figures: Figures) -> Figures:
    """Figures as they are compared: lines in one order, and without the spelling they were told in."""
    rest = None if figures.rest is None else tuple(sorted(figures.rest))
    return figures._replace(
        prompt=tuple(sorted(figures.prompt)), cache=tuple(sorted(figures.cache)), rest=rest, notes=(), raw=str
    )


def split(stream: bytes, cuts: list[int]) -> list[bytes]:
    """`stream` in pieces, some of them empty."""
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in pairwise(places)]


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
