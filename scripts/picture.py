#!/usr/bin/env python3
"""Draw docs/report.svg, the picture in the README: `costguard report` on the ledger of `costguard demo`.

    .venv-dev/bin/python scripts/picture.py

It is drawn from what the command prints, so draw it again when that changes; a test says when.
"""

from __future__ import annotations

import html
import io
import re
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from click.testing import CliRunner
from rich.console import Console
from rich.text import Text

from costguard.cli import main
from costguard.cli.app import Session

PICTURE = Path(__file__).parents[1] / "docs" / "report.svg"
REPORT = ("report", "--by", "model", "--by", "modality")
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
"""When the demo is run, so that the picture is the same whenever it is drawn."""


def report() -> str:
    """What the command prints, under a prompt."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "costguard.db"
        session = Session(path, lambda: NOW)
        shown = [
            CliRunner().invoke(main, list(args), obj=session, catch_exceptions=False)
            for args in (("demo", "--keep", str(path)), REPORT)
        ]
    if any(result.exit_code for result in shown):
        sys.exit(f"the demo or its report failed: {shown[0].output}{shown[-1].output}")
    return f"$ costguard {' '.join(REPORT)}\n{shown[-1].output.rstrip()}"


def draw(shown: str) -> str:
    """The text as an SVG of a terminal's window."""
    console = Console(record=True, width=max(map(len, shown.splitlines())) + 2, file=io.StringIO())
    text = Text(shown)
    text.highlight_regex(r"(?m)^\$ .*$", "bold green")
    text.highlight_regex(r"─+", "dim")
    text.highlight_regex(r"(?m)^(Model|total) .*$", "bold")
    console.print(text, soft_wrap=True)
    return console.export_svg(title="costguard", unique_id="costguard")


def words(svg: str) -> str:
    """All text of the picture without its spaces, to compare it with what was drawn."""
    found = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    return "".join(html.unescape("".join(found)).split())


if __name__ == "__main__":
    PICTURE.write_text(draw(report()), encoding="utf-8")
    print(f"Drew {PICTURE}")
