"""An answer as it gathers, and the reply that carries it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from costguard.testing import encodings, exact, figures, sse
from costguard.testing.manners import Manners
from costguard.testing.records import Reply, Webhook


@dataclass
class Answer:
    """The parts of one reply: results and acknowledgements, errors with their status, frames if it `streams`."""

    data: list[dict[str, Any]] = field(default_factory=list)
    errors: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    webhooks: list[Webhook] = field(default_factory=list)
    streams: bool = False
    frames: list[dict[str, Any]] = field(default_factory=list)
    stream_done: bool = True


def json_reply(status: int, body: dict[str, Any]) -> Reply:
    """A reply with a JSON body."""
    payload = exact.dumps(body).encode()
    headers = {"content-type": "application/json; charset=utf-8", "content-length": str(len(payload))}
    return Reply(status, headers, [payload])


def refusal(status: int, *errors: dict[str, Any]) -> Reply:
    """A reply that holds errors and nothing else."""
    return json_reply(status, {"errors": list(errors)})


def reply(answer: Answer, manners: Manners) -> Reply:
    """The reply to a request that was worked on, spelled and encoded as `manners` have it."""
    carried = encoded(_stream(answer, manners) if answer.streams else _whole(answer, manners), manners)
    chunks = sse.recut(carried.chunks, manners.chunk_bytes) if answer.streams else carried.chunks
    return replace(carried, chunks=chunks, webhooks=tuple(answer.webhooks))


def encoded(plain: Reply, manners: Manners) -> Reply:
    """A reply with its body encoded; as it is if it has none, or is encoded already."""
    encoding = manners.content_encoding
    if encoding is None or "content-encoding" in plain.headers or not any(plain.chunks):
        return plain
    chunks = encodings.encode(plain.chunks, encoding)
    headers = {**plain.headers, "content-encoding": encodings.header(encoding)}
    if "content-length" in headers:
        headers["content-length"] = str(sum(map(len, chunks)))
    return replace(plain, headers=headers, chunks=chunks)


def _whole(answer: Answer, manners: Manners) -> Reply:
    body: dict[str, Any] = {}
    if answer.data or not answer.errors:
        body["data"] = answer.data
    if answer.errors:
        body["errors"] = [error for _, error in answer.errors]
    # Errors alone carry their status; beside results the reply is a success.
    status = 200 if answer.data or not answer.errors else answer.errors[0][0]
    return json_reply(status, figures.spell(body, manners))


def _stream(answer: Answer, manners: Manners) -> Reply:
    frames = [*answer.frames, *answer.data, *({"errors": [error]} for _, error in answer.errors)]
    content_type = manners.sse_content_type
    headers = {} if content_type is None else {"content-type": content_type}
    pieces = sse.chunks(figures.spell(frames, manners), manners, done=answer.stream_done)
    return Reply(200, headers, pieces)
