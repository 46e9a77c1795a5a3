#!/usr/bin/env python3
"""Draw the pictures of the report in the README and the docs: in the terminal, and as a page in Chromium.

    .venv-dev/bin/python scripts/picture.py

Both are drawn from what the command writes of one ledger: the demo's examples, as three projects might call them for
ten weeks. Draw them again when that changes; a test says when. The page is set in Inter (Debian: fonts-inter).
"""

from __future__ import annotations

import hashlib
import html
import io
import logging
import random
import re
import struct
import sys
import tempfile
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
from click.testing import CliRunner
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from costguard import BudgetExceeded, Guard
from costguard.cli import main
from costguard.cli.app import Session
from costguard.testing import StandIn, seeds

DOCS = Path(__file__).parents[1] / "docs"
PICTURE, PAGE = DOCS / "report.svg", DOCS / "report-page.png"

NOW = datetime(2026, 11, 22, 18, tzinfo=UTC)
"""When the report is made, so that the pictures are the same whenever they are drawn."""

DAYS = 70
PROJECTS = {"shop/search": 5, "shop/support": 3, "research": 2}
"""And how often each calls, compared with the others."""

LAST = "By project"
"""The last section of the terminal's picture."""

WIDTH, HEIGHT, SCALE = 960, 1330, 1.5

LIGHT = TerminalTheme(
    (255, 255, 255),
    (22, 25, 29),
    [
        (22, 25, 29),
        (180, 35, 24),
        (11, 107, 98),
        (154, 91, 0),
        (40, 80, 160),
        (120, 60, 140),
        (11, 107, 98),
        (91, 100, 112),
    ],
)
"""The page's colours for a terminal: red and yellow mean the same on both."""


@contextmanager
def ledger() -> Iterator[Session]:
    """Ten weeks of calls, fewer at weekends, a little more each week, and two budgets."""
    chance, now = random.Random(7), [NOW]
    examples = [seed.request for seed in seeds()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "costguard.db"
        logging.getLogger("costguard").addHandler(logging.NullHandler())  # of alerts
        with (
            Guard(path, durability="normal", media_max={"video_s": 15}, clock=lambda: now[0]) as guard,
            httpx.Client(base_url="https://api.runware.ai", transport=guard.transport(StandIn().transport())) as client,
        ):
            now[0] = NOW - timedelta(days=DAYS)
            guard.set_budget("shop", "2.20", per="month")
            guard.set_budget("research", "0.30", per="month")
            for day in range(DAYS + 1):
                start = (NOW - timedelta(days=DAYS - day)).replace(hour=7)
                calls = chance.randrange(6, 12) + day // 14 if start.weekday() < 5 else chance.randrange(2, 5)
                for project in chance.choices(list(PROJECTS), list(PROJECTS.values()), k=calls):
                    now[0] = min(start + timedelta(minutes=chance.randrange(600)), NOW)
                    task = {**chance.choice(examples), "taskUUID": str(uuid.UUID(int=chance.getrandbits(128)))}
                    place = {"project": project, "tags": {"user": chance.choice(["ann", "ben", "cho"])}}
                    try:
                        client.post("/v1", json=[task], extensions={"costguard": place})
                    except BudgetExceeded:
                        continue  # as a budget is there to do
        yield Session(path, lambda: NOW)


def report(session: Session, *args: str, color: bool = False) -> str:
    """What `costguard report` prints."""
    env = {"FORCE_COLOR": "1" if color else None, "NO_COLOR": None, "COLUMNS": None}
    result = CliRunner().invoke(main, ["report", *args], obj=session, catch_exceptions=False, env=env, color=color)
    if result.exit_code:
        sys.exit(f"the report failed: {result.output}")
    return result.stdout


def shown(printed: str) -> str:
    """The beginning of what is printed, under a prompt: up to the end of the section `LAST`."""
    sections = re.split(r"\n(?=(?:\x1b\[1m)?By )", printed)
    last = next(at for at, section in enumerate(sections) if LAST in section.partition("\n")[0])
    return "$ costguard report\n" + "\n".join(sections[: last + 1]).rstrip()


def draw(text: str) -> str:
    """The text, with its colours, as an SVG of a terminal's window."""
    drawn = Text.from_ansi(text)
    drawn.highlight_regex(r"(?m)^\$ .*$", "bold green")
    drawn.highlight_regex(r"─+", "bright_white")
    console = Console(
        record=True, width=max(map(len, drawn.plain.splitlines())) + 2, file=io.StringIO(), highlight=False
    )
    console.print(drawn, soft_wrap=True)
    return console.export_svg(title="costguard", unique_id="costguard", theme=LIGHT)


def words(svg: str) -> str:
    """All text of the picture without its spaces, to compare it with what was drawn."""
    found = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    return "".join(html.unescape("".join(found)).split())


def photograph(page: str) -> bytes:
    """The top of a page as a PNG, which says what it is a picture of."""
    from scripts.browser import Browser, find

    program = find()
    if program is None:
        sys.exit("there is no Chromium; scripts/chromium installs it")
    with tempfile.TemporaryDirectory() as folder, Browser(program) as browser:
        file = Path(folder) / "report.html"
        file.write_text(page, encoding="utf-8")
        browser.open(file, width=WIDTH, scale=SCALE)
        browser.value("document.body.style.fontFamily = 'Inter, system-ui, sans-serif'")
        return _noted(browser.screenshot(HEIGHT), digest(page))


def digest(page: str) -> str:
    """Of the page's content, without its style sheet and version."""
    return hashlib.sha256(re.sub(r"<style>.*?</style>|sha256-[^']*", "", page, flags=re.DOTALL).encode()).hexdigest()


def note(png: bytes) -> str:
    """What the picture is of: the digest of its page."""
    found = re.search(rb"tEXtpage\0([0-9a-f]{64})", png)
    return found[1].decode() if found else ""


def _noted(png: bytes, text: str) -> bytes:
    """With a text of its own before the picture's data, as PNG has it."""
    begin = png.index(b"IDAT") - 4
    chunk = b"tEXt" + b"page\0" + text.encode()
    return png[:begin] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[begin:]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    with ledger() as session:
        PICTURE.write_text(draw(shown(report(session, color=True))), encoding="utf-8")
        PAGE.write_bytes(photograph(report(session, "--format", "html")))
    print(f"Drew {PICTURE} and {PAGE}")
