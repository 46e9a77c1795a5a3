"""Generated answers, and what they cost by the stand-in's own price table.

Independent of `costguard.prices` on purpose: a test that compares the two compares two readings of the
price list. Inside, money is whole micro-dollars (1e-6 USD), the digits the published breakdowns show.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from costguard.testing.published import SLUGS

IMAGE_TOKENS = 1064
"""Tokens of an image, as billed in the published Flash example."""
VIDEO_FRAME_TOKENS = 64
"""Tokens of one video frame, one frame a second (384 = 64 x 6 in the published example)."""
AUDIO_SECOND_TOKENS = 25
"""Tokens of one second of sound, rounded up (152 for 6.08 s in the published example)."""
DOCUMENT_TOKENS = 560
"""Tokens of one page (Google's maximum for Gemini 3); a document is taken to have one."""
UPPER_TIER_TOKENS = 200_000
"""Strictly above this many prompt tokens the whole request is billed at the upper rates."""
MAX_TOKENS_DEFAULT = 4096
"""`settings.maxTokens` when absent, by the model pages."""


@dataclass(frozen=True)
class Rates:
    """Nano-dollars (1e-9 USD) per token; $1 per million tokens is 1,000."""

    prompt: int
    audio: int
    completion: int


_TIERS = {
    "google:gemini@3.1-pro": (Rates(2_000, 2_000, 12_000), Rates(4_000, 4_000, 18_000)),
    "google:gemini@3-flash": (Rates(500, 1_000, 3_000), Rates(500, 1_000, 3_000)),
}
_OTHER = (Rates(1_000, 1_000, 4_000), Rates(1_000, 1_000, 4_000))

_WORDS = (
    "the",
    "harbour",
    "lamp",
    "turns",
    "over",
    "grey",
    "water",
    "while",
    "gulls",
    "follow",
    "boats",
    "très",
    "home",
)


def text_tokens(text: str) -> int:
    """Prompt tokens of a text: about one per 8 characters, always even, never more than its bytes.

    Even, because $0.5 a million is half a micro-dollar a token; few, so that an estimate made with the
    real tokenizer is above it for any ordinary text.
    """
    return 2 * ((len(text) + 13) // 16)


def rates(model: str, prompt_tokens: int) -> Rates:
    """The rates of a whole request to `model` (AIR or slug) with that many prompt tokens."""
    lower, upper = _TIERS.get(SLUGS.get(model, model), _OTHER)
    return upper if prompt_tokens > UPPER_TIER_TOKENS else lower


def prompt_text(task: dict[str, Any]) -> str:
    """All text of a task's prompt: the system prompt and the messages."""
    settings = task.get("settings", {})
    parts = [settings.get("systemPrompt"), *(message.get("content") for message in task["messages"])]
    return "".join(part for part in parts if isinstance(part, str))


def words(seed: int, count: int) -> list[str]:
    """A text of so many words."""
    return [_WORDS[(seed + 7 * at) % len(_WORDS)] for at in range(count)]


def prompt_tokens(task: dict[str, Any], text: int, media_s: Decimal) -> dict[str, int]:
    """Prompt tokens by modality, given those of the text and the length of each video and sound."""
    inputs = task.get("inputs", {})
    images, videos, audios, documents = (
        len(inputs.get(kind, ())) for kind in ("images", "videos", "audios", "documents")
    )
    sound = int((media_s * AUDIO_SECOND_TOKENS).to_integral_value(rounding="ROUND_CEILING"))
    tokens = {
        "TEXT": text,
        "IMAGE": IMAGE_TOKENS * images,
        "VIDEO": VIDEO_FRAME_TOKENS * int(media_s) * videos,
        "AUDIO": sound * (videos + audios),
        "DOCUMENT": DOCUMENT_TOKENS * documents,
    }
    return {modality: count for modality, count in tokens.items() if count or modality == "TEXT"}


def item_seed(task: dict[str, Any], index: int) -> int:
    """The seed of a task's result number `index` (0 first): the task's own plus the index, in 32 bits."""
    own = task.get("seed")
    if isinstance(own, int):
        return (own + index) % 2**32
    return int.from_bytes(hashlib.sha256(f"{task.get('taskUUID')}/{index}".encode()).digest()[:4])


def text_item(
    task: dict[str, Any],
    *,
    seed: int,
    prompt: dict[str, int],
    completion_tokens: int,
    search_cost: Decimal,
) -> dict[str, Any]:
    """A result of a text task with its full usage and cost.

    The completion is `completion_tokens` plus 0-15 by seed, at most `maxTokens`; three fifths are
    reasoning. Every level of the breakdown adds up to the digit; `cost` is the total at 5 decimals.
    """
    allowed = task.get("settings", {}).get("maxTokens", MAX_TOKENS_DEFAULT)
    wanted = completion_tokens + seed % 16
    completion = min(wanted, allowed)
    reasoning = completion * 3 // 5
    prompt_count = sum(prompt.values())
    rate = rates(task["model"], prompt_count)
    leaves = {
        modality: _micros(count, rate.audio if modality == "AUDIO" else rate.prompt)
        for modality, count in prompt.items()
    }
    completion_cost = _micros(completion, rate.completion)
    searches = sum(tool.get("type") == "search" for tool in task.get("tools", ()))
    search = searches * int(search_cost.scaleb(6))
    total = sum(leaves.values()) + completion_cost + search
    return {
        "taskType": task["taskType"],
        "taskUUID": task["taskUUID"],
        "text": " ".join(words(seed, completion - reasoning)),
        "seed": seed,
        "cost": (_usd(total) + Decimal(0)).quantize(Decimal("0.00001"), rounding=ROUND_HALF_UP),
        "finishReason": "stop" if wanted < allowed else "length",
        "usage": {
            "promptTokens": prompt_count,
            "completionTokens": completion,
            "totalTokens": prompt_count + completion,
            "completionTokensDetails": {"reasoningTokens": reasoning},
            "costBreakdown": {
                "tokens": {
                    "prompt": {
                        "modalities": [
                            {"modality": modality, "tokens": count, **_cost(leaves[modality])}
                            for modality, count in prompt.items()
                        ],
                        "billableTokens": prompt_count,
                        **_cost(sum(leaves.values())),
                    },
                    "cache": {"billableTokens": 0, **_cost(0)},
                    "completion": {
                        "billableTokens": completion,
                        "textTokens": completion - reasoning,
                        "reasoningTokens": reasoning,
                        **_cost(completion_cost),
                    },
                },
                "features": {
                    "search": {"count": searches, **_cost(search)},
                    "maps": {"count": 0, **_cost(0)},
                },
                "total": _usd(total),
                "totalDisplay": f"{_usd(total):.6f}",
            },
        },
    }


def _micros(tokens: int, nanos_each: int) -> int:
    return (tokens * nanos_each + 500) // 1000


def _usd(micros: int) -> Decimal | int:
    """USD; a plain 0 for nothing, as the published breakdowns write it."""
    return Decimal(micros).scaleb(-6) if micros else 0


def _cost(micros: int) -> dict[str, Any]:
    usd = _usd(micros)
    return {"cost": usd, "costDisplay": f"{Decimal(usd):.6f}"}
