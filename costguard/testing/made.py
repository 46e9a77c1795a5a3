"""Pictures, videos and sounds: what a task makes, and what that is billed at, by the size and the seconds of it.

Independent of `costguard.prices` on purpose, as `answers` is: a test that compares the two compares two readings.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Literal

SIZE = (1024, 1024)
"""Pixels of a picture or video whose task does not say."""

_MEDIA = {
    "imageInference": "image", "upscale": "image", "removeBackground": "image", "controlNetPreprocess": "guideImage",
    "imageMasking": "maskImage", "photoMaker": "image", "vectorize": "image", "videoInference": "video",
    "audioInference": "audio",
}  # fmt: skip
_WRITTEN = ("caption", "promptEnhance")
_NANO = Decimal("0.000000001")


@dataclass(frozen=True)
class MadeRate:
    """What one result is billed at: `usd` for one, or for each second or megapixel of it.

    `above`: (pixels, USD): the rate of a result with more pixels than that, the last that fits. `named`: the rate by
    the resolution that the task names. `silent`: the part of the rate that is billed where the task asks for no sound.
    `begun`: begun seconds count whole, and begun megapixels of so many pixels.
    """

    usd: Decimal
    per: Literal["result", "second", "megapixel"] = "result"
    above: tuple[tuple[int, Decimal], ...] = ()
    named: Mapping[str, Decimal] = field(default_factory=dict)
    silent: Decimal = Decimal(1)
    begun: int = 0

    def bill(self, size: tuple[int, int], length_s: Decimal, task: Mapping[str, Any]) -> Decimal:
        """USD for one result, to the nano-dollar."""
        pixels = size[0] * size[1]
        rate = self.usd
        for least, usd in self.above:
            rate = usd if pixels > least else rate
        rate = self.named.get(str(task.get("resolution")), rate)
        settings = task.get("settings")
        if isinstance(settings, dict) and settings.get("audio") is False:
            rate *= self.silent
        amount = Decimal(1)
        if self.per == "second":
            amount = Decimal(math.ceil(length_s)) if self.begun else length_s
        elif self.per == "megapixel":
            amount = Decimal(math.ceil(Decimal(pixels) / self.begun)) if self.begun else Decimal(pixels).scaleb(-6)
        return (rate * amount).quantize(_NANO, ROUND_HALF_EVEN)


def item(
    task: dict[str, Any],
    *,
    seed: int,
    rates: Mapping[str, MadeRate],
    cost: Decimal,
    length_s: Decimal,
    tells_size: bool,
) -> dict[str, Any]:
    """A result of any task that is not text, billed at its model's rate, else its task type's, else `cost`.

    `length_s`: seconds of what is made where the task does not say; `tells_size`: the result tells its size and length.
    """
    rate = rates.get(str(task.get("model"))) or rates.get(task["taskType"])
    width, height = task.get("width"), task.get("height")
    size = (width, height) if isinstance(width, int) and isinstance(height, int) else SIZE
    asked = task.get("duration")
    length = Decimal(str(asked)) if isinstance(asked, (int, float, Decimal)) else length_s
    made: dict[str, Any] = {"taskType": task["taskType"], "taskUUID": task["taskUUID"]}
    if task["taskType"] in _WRITTEN:
        made["text"] = "a harbour at dusk"
    kind = _MEDIA.get(task["taskType"])
    if kind is not None:
        name = uuid.uuid5(uuid.NAMESPACE_OID, f"{task['taskUUID']}/{seed}")
        made |= {f"{kind}UUID": str(name), f"{kind}URL": f"https://media.example/{name}"}
        if tells_size and kind != "audio":
            made |= {"width": size[0], "height": size[1]}
        if tells_size and kind in ("audio", "video"):
            made["duration"] = length
    return {**made, "seed": seed, "cost": rate.bill(size, length, task) if rate else cost}
