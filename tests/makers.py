"""Models that make pictures, videos and sounds: their price files, and how the stand-in bills them by its own reading.

All figures are invented.
"""

from __future__ import annotations

import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

from costguard.testing import MadeRate, StandIn

PAINTER, SKETCHER, CLIP, VOICE = "acme:painter@1", "acme:sketcher@1", "acme:clip@1", "acme:voice@1"

_ENTRY = """
[[prices]]
from = 2025-01-01
checked = 2025-01-05
source = "https://acme.example/pricing"
"""

FILES = {
    "painter.toml": f"""\
model = "{PAINTER}"
aliases = ["acme-painter"]
name = "Acme Painter"
task_type = "imageInference"

[output]
size = "1024x1024"
max_size = "2048x2048"
{_ENTRY}per = "result"

[[prices.rates]]
up_to = "1024x1024"
usd = "0.02"

[[prices.rates]]
up_to = "2048x2048"
usd = "0.041"
""",
    "sketcher.toml": f"""\
model = "{SKETCHER}"
name = "Acme Sketcher"
task_type = "imageInference"

[output]
max_size = "2048x2048"
{_ENTRY}per = "megapixel"
round = "exact"

[[prices.rates]]
usd = "0.0013377"
""",
    "clip.toml": f"""\
model = "{CLIP}"
name = "Acme Clip"
task_type = "videoInference"

[output]
seconds = 5
max_seconds = 10
{_ENTRY}per = "second"
round = "up"

[[prices.rates]]
resolution = "720p"
audio = false
usd = "0.045"

[[prices.rates]]
resolution = "720p"
audio = true
usd = "0.06"

[[prices.rates]]
resolution = "1080p"
audio = false
usd = "0.09"

[[prices.rates]]
resolution = "1080p"
audio = true
usd = "0.12"
""",
    "voice.toml": f"""\
model = "{VOICE}"
name = "Acme Voice"
task_type = "audioInference"
{_ENTRY}per = "second"
round = "exact"

[[prices.rates]]
usd = "0.0007"
""",
    "upscale.toml": f"""\
name = "Upscaling by any model"
task_type = "upscale"
{_ENTRY}per = "result"

[[prices.rates]]
usd = "0.0016"
""",
}

RATES = {
    PAINTER: MadeRate(Decimal("0.02"), above=((1024 * 1024, Decimal("0.041")),)),
    SKETCHER: MadeRate(Decimal("0.0013377"), per="megapixel"),
    CLIP: MadeRate(Decimal("0.06"), per="second", named={"1080p": Decimal("0.12")}, silent=Decimal("0.75"), begun=1),
    VOICE: MadeRate(Decimal("0.0007"), per="second"),
    "upscale": MadeRate(Decimal("0.0016")),
}


def write_prices(folder: Path) -> Path:
    """Write all price files into a folder of their own; the folder."""
    made = folder / "prices"
    made.mkdir(exist_ok=True)
    for name, text in FILES.items():
        (made / name).write_text(text, encoding="utf-8")
    return made


def a_maker(**manners: Any) -> StandIn:
    """A stand-in that bills what these models make."""
    return StandIn(made_rates=RATES, **manners)


def picture(**fields: Any) -> dict[str, Any]:
    """A picture of 0.02 USD, with a new taskUUID; a field given as None is left out."""
    return _task("imageInference", PAINTER, {"positivePrompt": "a harbour", "width": 1024, "height": 768}, fields)


def video(**fields: Any) -> dict[str, Any]:
    """Five seconds of video of 0.3 USD, made later."""
    own = {"positivePrompt": "a storm", "resolution": "720p", "duration": 5, "settings": {"audio": True}}
    return _task("videoInference", CLIP, {**own, "deliveryMethod": "async"}, fields)


def sound(**fields: Any) -> dict[str, Any]:
    """Twelve and a half seconds of sound, of 0.00875 USD."""
    return _task("audioInference", VOICE, {"positivePrompt": "gulls", "duration": 12.5}, fields)


def _task(task_type: str, model: str, own: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    task = {"taskType": task_type, "taskUUID": str(uuid.uuid4()), "model": model, **own, **fields}
    return {key: value for key, value in task.items() if value is not None}
