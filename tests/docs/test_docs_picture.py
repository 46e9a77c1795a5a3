"""The picture in the README shows what the command prints today."""

from __future__ import annotations

import runpy
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "picture.py"


def test_the_picture_shows_the_report_as_it_is_printed_today() -> None:
    picture = runpy.run_path(str(SCRIPT))
    shown = picture["words"](picture["PICTURE"].read_text(encoding="utf-8"))
    assert "".join(picture["report"]().split()) in shown, "draw it again: scripts/picture.py"
