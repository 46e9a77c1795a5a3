"""The pictures in the README and the docs show what the command writes today."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "picture.py"


@pytest.fixture(scope="module")
def picture() -> Iterator[dict[str, Any]]:
    """What the script defines, and the ledger that it draws."""
    names = runpy.run_path(str(SCRIPT))
    with names["ledger"]() as session:
        yield {**names, "session": session}


def test_the_picture_shows_the_report_as_it_is_printed_today(picture: dict[str, Any]) -> None:
    drawn = picture["words"](picture["PICTURE"].read_text(encoding="utf-8"))
    printed = picture["shown"](picture["report"](picture["session"]))
    assert drawn == "costguard" + "".join(printed.split()), "draw it again: scripts/picture.py"


def test_the_page_in_the_picture_is_the_one_that_is_written_today(picture: dict[str, Any]) -> None:
    page = picture["report"](picture["session"], "--format", "html")
    assert picture["note"](picture["PAGE"].read_bytes()) == picture["digest"](page), "draw it again: scripts/picture.py"
