"""The kinds of media that a task may carry, and the modalities of a prompt: the one list that every room reads.

Another kind of media is one entry here, one file in `estimating/kinds/` that counts it, and rates in the price
files. All else follows: what is media in a request, the keys of a price file, the settings of `media_max`, and
the order in which modalities are shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Kind(NamedTuple):
    """One kind of media."""

    name: str
    """Its key in a task's media, and the name of its file in `estimating/kinds/`."""
    billed: Mapping[str, tuple[str, ...]]
    """The modalities it is counted in, each with those the provider may report for it, itself first.

    Where a price file has no rate for the modality, the rate of the next one that has is taken.
    """
    tokens: Mapping[str, str]
    """The counts in the `[media]` of a price file, and the modality each is of; `X_expected` is at most `X_upper`."""
    flags: tuple[str, ...] = ()
    """What a price file may say of it with true or false; false if it does not."""
    maximum: str = ""
    """The setting of `media_max` that states the longest one; "" where every one counts alike."""


_ALL = (
    Kind(
        "images",
        billed={"IMAGE": ("IMAGE",)},
        tokens={"image_expected": "IMAGE", "image_upper": "IMAGE"},
        flags=("image_grid",),
    ),
    Kind(
        "audios",
        billed={"AUDIO": ("AUDIO",)},
        tokens={"audio_per_s": "AUDIO"},
        maximum="audio_s",
    ),
    Kind(
        "videos",
        billed={"VIDEO": ("VIDEO",), "AUDIO": ("AUDIO",)},
        tokens={"frame_expected": "VIDEO", "frame_upper": "VIDEO"},
        maximum="video_s",
    ),
    Kind(
        "documents",
        billed={"DOCUMENT": ("DOCUMENT", "IMAGE")},
        tokens={"document_page": "DOCUMENT"},
        maximum="pdf_pages",
    ),
)

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _ALL}
"""The kinds of media by name."""

REPORTED: Mapping[str, tuple[str, ...]] = {m: reported for kind in _ALL for m, reported in kind.billed.items()}
"""By modality of media, in the order they are shown: what the provider may report for it, itself first."""

MODALITIES = ("TEXT", *REPORTED)
"""The prompt modalities of an estimate, in the order they are shown."""

MEDIA_MAX = tuple(kind.maximum for kind in _ALL if kind.maximum)
"""The settings of `media_max`."""
