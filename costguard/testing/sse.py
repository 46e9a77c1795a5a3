"""A result as the frames of an event stream (SSE)."""

from __future__ import annotations

from typing import Any

_WORDS_PER_FRAME = 8


def payloads(item: dict[str, Any], *, late_cost: bool, empty_uuid: bool) -> list[dict[str, Any]]:
    """The JSON objects that stream a result: reasoning, text, the end with its cost, or the cost after it."""
    head = {"taskType": item["taskType"], "taskUUID": "" if empty_uuid else item["taskUUID"]}
    if "resultIndex" in item:
        head["resultIndex"] = item["resultIndex"]
    deltas = [{"reasoningContent": thought} for thought in item.get("reasoningContent", ())]
    # Split after blanks only, so that the pieces join to the text again.
    words = item.get("text", "").split(" ")
    pieces = [words[at : at + _WORDS_PER_FRAME] for at in range(0, len(words), _WORDS_PER_FRAME)]
    deltas += [{"text": (" " if at else "") + " ".join(piece)} for at, piece in enumerate(pieces)]
    figures = {key: item[key] for key in ("usage", "cost") if key in item}
    end = {**head, "delta": {}, "finishReason": item.get("finishReason", "unknown")}
    frames = [{**head, "delta": delta} for delta in deltas]
    if late_cost and figures:
        return [*frames, end, {**head, "delta": {}, **figures}]
    return [*frames, {**end, **figures}]


def event(data: str, *, crlf: bool, space: bool) -> bytes:
    """One event of the stream."""
    line_end = "\r\n" if crlf else "\n"
    return f"data:{' ' if space else ''}{data}{line_end}{line_end}".encode()


def heartbeat(*, crlf: bool) -> bytes:
    """A comment line that keeps the connection alive."""
    return b": keep-alive\r\n\r\n" if crlf else b": keep-alive\n\n"
