"""Tables on real terminals: whatever their width, no digit and no column is lost."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import httpx
import pytest
from conftest import API, NOW, PRO, a_task
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from costguard import Guard
from costguard.reports.document import Column, Table
from costguard.reports.formats import table
from costguard.rows import shown as as_text
from costguard.testing import StandIn, seeds

ROOT = Path(__file__).parents[2]

WIDTHS = (40, 60, 80, 200)

COMMANDS = (
    ("status",),
    ("budget", "list"),
    ("budget", "log"),
    ("ceiling", "list"),
    ("tasks",),
    ("report", "--month", "2026-11"),
    ("report", "--month", "2026-11", "--by", "day", "--by", "project", "--by", "model", "--by", "modality"),
    ("accuracy", "--month", "2026-11"),
    ("estimate", "BODY"),
    ("prices", "list"),
    ("prices", "show", PRO),
    ("verify",),
    ("check", "acme/a-project-with-a-rather-long-name", "1"),
)


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with long names, many digits, and a task in several statuses."""
    folder = tmp_path_factory.mktemp("layouts")
    standin = StandIn()
    project = "acme/a-project-with-a-rather-long-name/検索とランキング"
    with Guard(
        folder / "costguard.db", project, durability="normal", clock=lambda: NOW, media_max={"video_s": 7}
    ) as guard:
        guard.set_budget(
            "acme", "1234567.123456789", timezone="America/Argentina/ComodRivadavia", warn_at=(10, 50, 100)
        )
        guard.set_budget(project, "98765.000000001", per="day", action="warn")
        guard.set_ceiling("a-vendor-of-a-long-name:with-a-model@1", "0.123456789")
        with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:
            for seed in seeds():
                client.post("/v1", json=[seed.request])
            standin.fault("forget")
            client.post("/v1", json=[a_task()])
    (folder / "body.json").write_text(json.dumps([seed.request for seed in seeds()]))
    return folder / "costguard.db"


def environment(**more: str) -> dict[str, str]:
    dropped = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM", "COSTGUARD_DB")
    kept = {key: value for key, value in os.environ.items() if key not in dropped}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "TERM": "xterm", **more}


_ALL = """
import json, sys
from costguard.cli import main
for args in json.loads(sys.argv[1]):
    try:
        main(args)
    except SystemExit as end:
        assert end.code in (0, 3), (args, end.code)
    print("\\f", flush=True)
"""
"""Runs commands one after the other in one process: starting is what takes time."""


def arguments(db: Path, commands: Sequence[tuple[str, ...]]) -> list[str]:
    named = [
        ["--db", str(db), *(str(db.with_name("body.json")) if a == "BODY" else a for a in args)] for args in commands
    ]
    return [sys.executable, "-c", _ALL, json.dumps(named)]


def on_terminal(db: Path, commands: Sequence[tuple[str, ...]], columns: int, **env: str) -> list[str]:
    """What each command shows on a pseudo-terminal of that width."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    with subprocess.Popen(
        arguments(db, commands), env=environment(**env), stdout=terminal, stdin=subprocess.DEVNULL
    ) as run:
        os.close(terminal)
        pieces = []
        with contextlib.suppress(OSError):  # its other end is closed
            while piece := os.read(controller, 65536):
                pieces.append(piece)
        os.close(controller)
        assert run.wait(60) == 0
    return b"".join(pieces).decode().replace("\r\n", "\n").split("\f\n")[:-1]


def in_pipe(db: Path, commands: Sequence[tuple[str, ...]], **env: str) -> list[str]:
    done = subprocess.run(
        arguments(db, commands), env=environment(**env), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\f\n")[:-1]


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


NUMBER = re.compile(r"\d[\d,.:+-]*\d|\d")


@pytest.fixture(scope="module")
def piped(db: Path) -> dict[tuple[str, ...], str]:
    """Every command's answer in a pipe."""
    return dict(zip(COMMANDS, in_pipe(db, COMMANDS), strict=True))


def settled(text: str) -> str:
    """An answer without the time it was made at."""
    return re.sub(r"As of .*", "", text)


@pytest.mark.parametrize("columns", WIDTHS)
def test_no_digit_and_no_letter_is_lost_at_any_width(db: Path, piped: dict[tuple[str, ...], str], columns: int) -> None:
    for args, text in zip(COMMANDS, on_terminal(db, COMMANDS, columns), strict=True):
        whole, shown = settled(piped[args]), settled(plain(text))
        squeezed, words = re.sub(r"\s", "", shown), {word for line in whole.splitlines() for word in line.split()}
        for character in set(re.sub(r"\W", "", whole).casefold()):
            assert character in squeezed.casefold(), args
        for word in words:
            assert not NUMBER.fullmatch(word) or word in shown, (args, word)
        for uuid in re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", whole):
            assert uuid in shown, args
        table_lines = [line for line in shown.splitlines() if ". " not in line and not line.endswith(".")]
        if args[0] in ("tasks", "accuracy", "status", "report", "budget"):
            assert max(map(cell_len, table_lines)) <= columns, args


@pytest.mark.parametrize("columns", WIDTHS)
def test_every_number_of_the_accuracy_is_there_as_often_as_it_should(
    db: Path, piped: dict[tuple[str, ...], str], columns: int
) -> None:
    args = ("accuracy", "--month", "2026-11")
    (shown,) = on_terminal(db, [args], columns, NO_COLOR="1")
    for title in ("Attempts", "Expected", "Upper", "Billed", "expected", "Above"):
        assert title in shown
    whole, found = NUMBER.findall(piped[args]), NUMBER.findall(shown)
    for number in set(whole):
        assert found.count(number) >= whole.count(number)


@pytest.mark.parametrize("env", [{"FORCE_COLOR": "1"}, {"NO_COLOR": "1"}, {"TERM": "dumb"}, {"COLUMNS": "40"}], ids=str)
def test_a_pipe_gets_full_lines_whatever_the_environment_says(
    db: Path, piped: dict[tuple[str, ...], str], env: dict[str, str]
) -> None:
    for args, text in zip(COMMANDS, in_pipe(db, COMMANDS, **env), strict=True):
        assert settled(plain(text)) == settled(piped[args])


def test_headings_are_bold_on_terminals_that_can(db: Path) -> None:
    assert "\x1b[1m" in on_terminal(db, [("status",)], 200)[0]
    assert "\x1b" not in on_terminal(db, [("status",)], 200, NO_COLOR="1")[0]
    assert "\x1b" not in on_terminal(db, [("status",)], 200, TERM="dumb")[0]
    assert "\x1b" not in in_pipe(db, [("status",)])[0]


def test_columns_goes_before_what_the_terminal_tells_and_nonsense_does_not(db: Path) -> None:
    (wide,) = on_terminal(db, [("status",)], 200, NO_COLOR="1")
    (narrow,) = on_terminal(db, [("status",)], 200, COLUMNS="40", NO_COLOR="1")
    assert max(map(cell_len, narrow.splitlines())) <= 40 < max(map(cell_len, wide.splitlines()))
    for nonsense in ("0", "-3", "9" * 5000, "²"):
        assert on_terminal(db, [("status",)], 200, NO_COLOR="1", COLUMNS=nonsense) == [wide]


# -- layouts of any table -----------------------------------------------------------------------

WORDS = st.text(st.sampled_from("abcdefgh検索:/@-. "), min_size=1, max_size=60).map(str.strip).filter(bool)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    kinds = draw(st.lists(st.sampled_from(("text", "whole", "number")), min_size=1, max_size=9))
    columns = [
        Column(f"k{index}", draw(st.sampled_from(("Name", "Billed / expected", "Tokens per result", "Per"))),
               number=kind == "number", whole=kind == "whole")
        for index, kind in enumerate(kinds)
    ]  # fmt: skip
    values = {
        "text": WORDS,
        "whole": WORDS,
        "number": st.decimals(0, 10**9, places=9) | st.integers(0, 10**15) | st.none(),
    }
    row = st.fixed_dictionaries({column.key: values[kind] for column, kind in zip(columns, kinds, strict=True)})
    rows = draw(st.lists(row, min_size=1, max_size=4))
    total = draw(st.none() | row)
    return Table(columns, rows, total)


@given(tables(), st.integers(1, 250))
def test_any_table_at_any_width_has_every_character_and_every_whole_number(found: Table, width: int) -> None:
    terminal = pytest.MonkeyPatch()
    with terminal.context() as patch:
        patch.setattr(table, "terminal_width", lambda: width)
        patch.setattr(table, "_is_bold", lambda: False)
        text = table.draw(found)
    squeezed = sorted(text.replace("─", ""))
    for row in (*found.rows, *([found.total] if found.total else [])):
        for column in found.columns:
            shown = as_text(row[column.key])
            if column.number or column.whole:
                assert shown in text
            for character in set(shown.replace(" ", "")):
                assert squeezed.count(character) >= shown.count(character)
    longest = max(
        [16, *(cell_len(as_text(row[column.key])) for row in (*found.rows, *([found.total] if found.total else []))
               for column in found.columns if column.number or column.whole)]
    )  # fmt: skip
    if width >= longest + 2 and width >= 17:
        assert max(map(cell_len, text.splitlines())) <= width


def test_a_table_that_fits_is_in_rows_and_one_that_does_not_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = (Column("a", "Name"), Column("b", "Cost USD", number=True))
    rows = [{"a": "first", "b": Decimal("0.5")}, {"a": "second", "b": Decimal("12.25")}]
    whole = Table(columns, rows, {"a": "total", "b": Decimal("12.75")})

    def at(width: int | None) -> list[str]:
        monkeypatch.setattr(table, "terminal_width", lambda: width)
        return table.draw(whole).splitlines()

    assert at(None) == [
        "Name    Cost USD",
        "────────────────",
        "first       0.5",
        "second     12.25",
        "────────────────",
        "total      12.75",
    ]
    assert at(16) == at(None)
    assert at(13) == [
        "Name     Cost",
        "          USD",
        "─────────────",
        "first    0.5",
        "second  12.25",
        "─────────────",
        "total   12.75",
    ]
    assert at(14) == at(15) == at(13)
    assert at(12) == [
        "Name", "  first", "Cost USD", "  0.5", "",
        "Name", "  second", "Cost USD", "  12.25", "",
        "Name", "  total", "Cost USD", "  12.75",
    ]  # fmt: skip
    assert at(20) == at(None)
