"""Tables of a page whose cells name tests."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]

Row = list[str]


def page(name: str) -> str:
    """The text of a page of `docs/`."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def tables(text: str) -> list[tuple[Row, list[Row]]]:
    """Each table's head and rows."""
    found: list[tuple[Row, list[Row]]] = []
    for lines in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *body = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in lines.splitlines()]
        found.append((head, body))
    return found


def check_cell(text: str, where: str, cell: str) -> None:
    """A cell names a test that exists, or a note of the page that says why there is none."""
    if note := re.fullmatch(r"— (\(\d\))", cell):
        assert text.count(note[1]) >= 2, "the note is explained below the table"
        return
    named = re.fullmatch(r"`(test_\w+)::(test_\w+)`", cell)
    assert named, f"{where}: {cell!r} names no test"
    (file,) = (ROOT / "tests").rglob(f"{named[1]}.py")
    source = file.read_text(encoding="utf-8")
    assert re.search(rf"^(async )?def {named[2]}\(", source, re.MULTILINE), f"{cell} does not exist"
