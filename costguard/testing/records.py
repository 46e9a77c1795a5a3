"""What arrives at a stand-in, what it sends and what it bills; and what a carrier needs of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, Protocol

from costguard.testing import encodings, exact

Task = dict[str, Any]
"""One entry of a request, as parsed."""


@dataclass(frozen=True)
class Bill:
    """One result that was billed: `amount` in USD, exact.

    `attempt` counts from 1 the sendings of `task_uuid` that were not turned away before work,
    `result_index` the results of that task over all its attempts from 0; `model` is as the task named it,
    or its task type.
    """

    task_uuid: str
    attempt: int
    result_index: int
    amount: Decimal
    model: str


@dataclass(frozen=True)
class Received:
    """One request as it came in; header names are lower case, the body is as it was encoded."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def tasks(self) -> list[Task]:
        """Its tasks, fractions as Decimal. ValueError when the body is not JSON."""
        tasks = exact.loads(encodings.decode(self.body, self.headers.get("content-encoding")))
        return tasks if isinstance(tasks, list) else [tasks]


@dataclass(frozen=True)
class Webhook:
    """One result owed to a task's `webhookURL`: the JSON to POST there."""

    url: str
    body: bytes


@dataclass(frozen=True)
class Reply:
    """What a carrier has to send.

    A `content-length` header is there unless the body is a stream, whose `chunks` go out one by one.
    `fault` is what happens to the connection: `drop` (send nothing, close), `cut` (send the chunks, fewer
    than announced, close), `hang` (send the chunks if any, then keep silent), None (all is well).
    """

    status: int
    headers: dict[str, str]
    chunks: list[bytes]
    fault: Literal["drop", "cut", "hang"] | None = None
    webhooks: tuple[Webhook, ...] = ()


class Provider(Protocol):
    """What a carrier needs of a stand-in. The two times are seconds: before an answer, between its chunks."""

    latency_s: float
    chunk_delay_s: float

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Answer one request."""
        ...
