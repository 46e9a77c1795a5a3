"""Results as the frames of an event stream (SSE), and the frames as bytes."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from costguard.testing import exact
from costguard.testing.manners import Manners

_WORDS_PER_FRAME = 8
_FRAMES_PER_HEARTBEAT = 4
_ITEMS_PER_LIST = 3
_BOM = b"\xef\xbb\xbf"

Payload = dict[str, Any]
"""The JSON object of one frame."""


def payloads(items: list[Payload], manners: Manners) -> list[Payload]:
    """The frames that stream the results of one task; one that failed is a frame of its own."""
    frames = [
        frame for item in items for frame in ([item] if item.get("status") == "error" else _result(item, manners))
    ]
    return _finish(frames, items, manners)


def failed(items: list[Payload], error: Payload, manners: Manners, *, with_text: bool) -> list[Payload]:
    """The frames of results that end in `error`, which names their figures; before it half of their text, or none."""
    frames: list[Payload] = []
    for item in items:
        deltas = [frame for frame in _result(item, manners) if frame["delta"]] if with_text else []
        ending = {**_head(item, manners), **_figures(item), "error": error}
        frames += [*deltas[: (len(deltas) + 1) // 2], ending | ({"seed": item["seed"]} if "seed" in item else {})]
    return _finish(frames, items, manners)


def chunks(frames: list[Payload], manners: Manners, *, done: bool) -> list[bytes]:
    """The bytes of each frame, with the comments and pings between them; `done`: end with `[DONE]`."""
    texts = [("", exact.dumps(frame)) for frame in _enveloped(frames, manners)]
    if done and manners.sse_done:
        texts.append(("", "[DONE]"))
    return events(texts, manners)


def events(texts: list[tuple[str, str]], manners: Manners) -> list[bytes]:
    """The bytes of each event, given by its name ("" for none) and its data, with what may come between them."""
    written = []
    for at, (name, text) in enumerate(texts):
        if at % _FRAMES_PER_HEARTBEAT == 0:
            if manners.sse_heartbeats and not manners.sse_bare:
                written.append(_lines(manners, ": keep-alive"))
            if manners.sse_pings:
                written.append(_event('{"type":"ping"}', manners, name="ping"))
        written.append(_event(text, manners, name=name))
    if manners.sse_bom and written:
        written[0] = _BOM + written[0]
    return written


def recut(pieces: list[bytes], size: int | None) -> list[bytes]:
    """The same bytes in pieces of `size`; as they are if it is None."""
    if not size:
        return pieces
    whole = b"".join(pieces)
    return [whole[at : at + size] for at in range(0, len(whole), size)]


def _head(item: Payload, manners: Manners) -> Payload:
    head = {"taskType": item["taskType"], "taskUUID": "" if manners.sse_empty_uuid else item["taskUUID"]}
    return {**head, "resultIndex": item["resultIndex"]} if "resultIndex" in item else head


def _figures(item: Payload) -> Payload:
    return {key: item[key] for key in ("usage", "cost", "error") if key in item}


def _result(item: Payload, manners: Manners) -> list[Payload]:
    """The frames of one result: reasoning, text, the end with its figures, or figures after it."""
    head = _head(item, manners)
    deltas = [{"reasoningContent": thought} for thought in item.get("reasoningContent", ())]
    # Split after blanks only, so that the pieces join to the text again.
    words = item.get("text", "").split(" ")
    pieces = [words[at : at + _WORDS_PER_FRAME] for at in range(0, len(words), _WORDS_PER_FRAME)]
    deltas += [{"text": (" " if at else "") + " ".join(piece)} for at, piece in enumerate(pieces)]
    frames = [{**head, "delta": delta} for delta in deltas]
    end = {**head, "delta": {}, "finishReason": item.get("finishReason", "unknown")}
    figures = _figures(item)
    if manners.sse_split_usage and figures:
        first, last, *later = _split(figures)
        frames[0] |= first
        frames += [{**end, **last}, *({**head, "delta": {}, **part} for part in later)]
    elif manners.sse_late_cost and figures:
        frames += [end, {**head, "delta": {}, **figures}]
    else:
        frames.append({**end, **figures})
    if manners.sse_trailing_zeros and figures:
        frames.append({**head, "delta": {}, **_zeroed({key: figures[key] for key in figures if key != "error"})})
    return frames


def _split(figures: Payload) -> Iterator[Payload]:
    """Figures in parts: for the first frame, for the last, and for those after it."""
    usage, cost = figures.get("usage", {}), figures.get("cost")
    breakdown = usage.get("costBreakdown")
    counts = {key: value for key, value in usage.items() if key not in ("promptTokens", "costBreakdown")}
    yield {"usage": {"promptTokens": usage["promptTokens"]}} if "promptTokens" in usage else {}
    yield {key: figures[key] for key in ("error",) if key in figures} | ({"usage": counts} if counts else {})
    if breakdown is not None:
        yield {"usage": {"costBreakdown": breakdown}}
    if cost is not None:
        yield {"cost": cost}


def _zeroed(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _zeroed(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_zeroed(entry) for entry in node]
    return 0 if isinstance(node, (int, Decimal)) else node


def _finish(frames: list[Payload], items: list[Payload], manners: Manners) -> list[Payload]:
    """What concerns all frames of a task: their count, and the last figures once more."""
    if manners.sse_chunk_index:
        frames = [{**frame, "resultIndex": at} for at, frame in enumerate(frames)]
    if manners.sse_repeat_figures and items and (figures := _figures(items[-1])):
        head = {key: value for key, value in _head(items[-1], manners).items() if key != "resultIndex"}
        frames = [*frames, {**head, "delta": {}, **figures}]
    return frames


def _enveloped(frames: list[Payload], manners: Manners) -> Iterator[Payload]:
    if manners.sse_envelope is None:
        yield from frames
        return
    waiting: list[Payload] = []
    for frame in frames:
        if "errors" in frame:
            if waiting:
                yield {"data": waiting}
            waiting = []
            yield frame
        elif manners.sse_envelope == "object":
            yield {"data": frame}
        else:
            waiting.append(frame)
            if len(waiting) == _ITEMS_PER_LIST:
                yield {"data": waiting}
                waiting = []
    if waiting:
        yield {"data": waiting}


def _event(data: str, manners: Manners, *, name: str = "") -> bytes:
    if manners.sse_bare:
        return _lines(manners, data)
    line = f"data:{' ' if manners.sse_space else ''}{data}"
    return _lines(manners, *([f"event: {name}"] if name else []), line)


def _lines(manners: Manners, *lines: str) -> bytes:
    line_end = "\r\n" if manners.sse_crlf else "\n"
    blank = "" if manners.sse_single_newline or manners.sse_bare else line_end
    return ("".join(line + line_end for line in lines) + blank).encode()
