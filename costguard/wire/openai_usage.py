"""OpenAI-style records of usage (and Anthropic's): `usage` with its counts, of a response or by itself.

Their names are turned into those of the native wire, and read as its figures are: a count is a count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from costguard.ledger.charges import Line
from costguard.wire.dialect import Figures, Result, Success, Told
from costguard.wire.runware.figures import Told as NativeFigures
from costguard.wire.runware.figures import usable_count
from costguard.wire.runware.names import stored_name

_PROMPT, _COMPLETION = ("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens")
_COUNTS = frozenset((*_PROMPT, *_COMPLETION, "total_tokens"))
_OWN = "taskUUID"
"""The guard's own name of a call, which a receipt tells, before any name of the provider's."""

_IDS = ("id", "request_id", "response_id", "generation_id")
_NUMBER_MAX = 10**100
_CACHE_BESIDE = ("cache_read_input_tokens", "cache_creation_input_tokens")
"""Anthropic's: cached tokens that its `input_tokens` leave out."""

_KEPT_LONG = "ephemeral_1h_input_tokens"
"""Of the tokens written to a cache those that are kept for an hour: they cost twice the input rate, others 1.25 times.
Source: https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching
"""

_TIERS = ("auto", "default", "standard", "flex", "batch", "scale")
"""What a usage may say of its service tier without being dearer than the price list."""

_FREE_USES = ("web_fetch",)
_MEDIA = {"audio_tokens": "AUDIO", "image_tokens": "IMAGE", "video_tokens": "VIDEO"}


def tell(record: Any, value: Any, name: Callable[[], str]) -> list[Told] | None:
    """The one result that `value`, the response within `record`, tells; None if it is of another kind.

    A response is one result, however many choices it has: its usage counts them all.
    """
    if not isinstance(value, Mapping):
        return None
    usage = value.get("usage")
    if not isinstance(usage, Mapping):
        if usage is None and not _COUNTS.isdisjoint(value):
            usage = value
        elif is_piece(value):
            return []
        else:
            return None
    if _COUNTS.isdisjoint(usage):
        return None
    nodes = [node for node in (value, record) if isinstance(node, Mapping)]
    named = (_name(node.get(key)) for keys in ((_OWN,), _IDS) for node in nodes for key in keys)
    uuid = next((one for one in named if one), "") or name()
    model = stored_name(value.get("model")) or _model(record)
    return [Told(uuid, model, "", alone(figures(value.get("cost"), usage)))]


def alone(found: Figures) -> Success:
    """The one result that a response is, however many choices it has: nothing else comes."""
    return Success((Result(0, None, found),), failed=True)


def _name(value: Any) -> str:
    """A name as it is stored; a whole number is one, too."""
    return stored_name(str(value) if type(value) is int and abs(value) < _NUMBER_MAX else value)


def is_piece(value: Any) -> bool:
    """Whether it is a piece of a stream, which tells no usage: the last one does."""
    kind = value.get("object") if isinstance(value, Mapping) else None
    return isinstance(kind, str) and kind.endswith(".chunk")


def _model(record: Any) -> str:
    """The model that the record around a response names."""
    for node in (record, record.get("request") if isinstance(record, Mapping) else None):
        if isinstance(node, Mapping):
            body = node.get("body")
            found = stored_name(node.get("model")) or stored_name(
                body.get("model") if isinstance(body, Mapping) else None
            )
            if found:
                return found
    return ""


def figures(cost: Any, usage: Any) -> Figures:
    """What `usage`, and a cost told beside it, say of a response: of all its choices together.

    Cached tokens are a part of the prompt, where Anthropic's form counts them beside it, too. A usage may hold a
    `service_tier`, as Anthropic's does.
    """
    if not isinstance(usage, Mapping):
        return NativeFigures(cost, usage).read()
    prompt = _first(usage, _PROMPT)
    cached = _details(usage, "prompt_tokens_details", "input_tokens_details").get("cached_tokens")
    if cached is None and usage.get(_PROMPT[0]) is None:
        prompt = _together(prompt, [usage[key] for key in _CACHE_BESIDE if usage.get(key) is not None])
    if cached is None:
        cached = usage.get(_CACHE_BESIDE[0])
    reasoning = _details(usage, "completion_tokens_details", "output_tokens_details").get("reasoning_tokens")
    named = {
        "promptTokens": prompt,
        "completionTokens": _first(usage, _COMPLETION),
        "totalTokens": usage.get("total_tokens"),
        "promptTokensDetails": {"cachedTokens": cached},
        "completionTokensDetails": {"reasoningTokens": reasoning},
        "cost": usage.get("cost"),
        "costBreakdown": usage.get("costBreakdown"),
    }
    found = NativeFigures(cost, named).read()
    if found.cost is None and found.total is None:
        found = _by_usage(found, usage)
    media = _media(usage)
    if found.prompt or not media or found.prompt_tokens is None or sum(media.values()) > found.prompt_tokens:
        return found
    text = found.prompt_tokens - sum(media.values())
    return found._replace(prompt=tuple(Line("prompt", m, n, 0) for m, n in {"TEXT": text, **media}.items() if n))


def _by_usage(found: Figures, usage: Mapping[str, Any]) -> Figures:
    """With what a usage tells beside the tokens: it decides what is charged, for no cost was told."""
    written = usable_count(usage.get(_CACHE_BESIDE[1])) or 0
    long = min(usable_count(_details(usage, "cache_creation").get(_KEPT_LONG)) or 0, written)
    uses = {key.removesuffix("_requests"): value for key, value in _details(usage, "server_tool_use").items()}
    lines = [
        Line(f"feature:{name}", "", usable_count(count), 0)
        for name, count in uses.items()
        if stored_name(name) and name not in _FREE_USES and usable_count(count) != 0
    ]
    tier = usage.get("service_tier")
    if isinstance(tier, str) and tier not in _TIERS:
        found = found._replace(odd=True, notes=(*found.notes, "billed in a service tier of other prices"))
    return found._replace(written_percent=written * 25 + long * 75, rest=tuple(lines) if lines else found.rest)


def _together(prompt: Any, beside: list[Any]) -> Any:
    """All tokens of a prompt; what is no count if any part is none."""
    counts = [usable_count(one) for one in (prompt, *beside)]
    known = [count for count in counts if count is not None]
    bad = [one for one, count in zip((prompt, *beside), counts, strict=True) if count is None]
    return bad[0] if bad else sum(known)


def _media(usage: Mapping[str, Any]) -> dict[str, int]:
    """The prompt's tokens that are not text."""
    told = _details(usage, "prompt_tokens_details", "input_tokens_details")
    counts = {modality: told.get(key) for key, modality in _MEDIA.items()}
    return {modality: count for modality, count in counts.items() if type(count) is int and count > 0}


def _details(usage: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    found = _first(usage, keys)
    return found if isinstance(found, Mapping) else {}


def _first(usage: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((usage[key] for key in keys if usage.get(key) is not None), None)
