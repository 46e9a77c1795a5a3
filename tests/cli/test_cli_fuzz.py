"""Whatever its arguments, environment, files and outputs: one of the documented exit codes, and no traceback."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from conftest import FLASH
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from costguard import Guard
from costguard.cli import main

ROOT = Path(__file__).parents[2]

EXIT_CODES = (0, 1, 2, 3, 130)

PROCESSES = 24
"""How many of the calls are made by real processes."""


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


TREE = [(path, command) for path, command in commands(main) if path not in (("demo",), ("run",))]
"""Every command and group; the demo runs a server, and has few arguments, and what `run` is given is run."""

FILES = (
    "ledger.db", "text.db", "empty.db", "folder", "loop", "none.db", "no/such/x.db", "body.json", "prices", "-",
    "~nobody-of-that-name/x", "a" * 300, ":memory:", "file:x", "\udcff.db", "", ".", "name\nof two lines",
)  # fmt: skip
"""Paths, all below the folder that the tests are in: some commands write to what they are given."""

SENSIBLE = (
    "acme", "acme/search", "acme/*", "1", "0.000000001", "2026-11", "2026-11-01", "2026-11-01T12:00", "60s",
    "Europe/Berlin", "UTC", "50,80", "video_s=6", FLASH, "json", "csv", "table", "month", "clamp", "day", "model",
    "held", "x",
)  # fmt: skip

ODD = (
    "", "-1", "nan", "inf", "1e400", "1e999999999", "9" * 400, "0x10", "2026-13", "9999-12", "0000-01", "2026-02-30",
    "--", "-", "--help", "\udcff", "検索", "a\tb", "\x1b[2J", "\u2028", "a" * 3000, "acme//x", "acme/", "..", "*",
    "%s", "{}", "'", "9" * 5000 + "s", "1" * 25 + "d",
)  # fmt: skip

ANY = st.text(st.characters(exclude_characters="/~"), max_size=12)
TEXTS = st.sampled_from(FILES) | st.sampled_from(SENSIBLE) | st.sampled_from(ODD) | ANY


def value_of(param: click.Parameter) -> st.SearchStrategy[str]:
    """Something to give an option or argument: what it takes, or anything."""
    kind: Any = param.type
    if isinstance(kind, click.Choice):
        return st.sampled_from(list(kind.choices)) | TEXTS
    return TEXTS


@st.composite
def calls(draw: st.DrawFn) -> list[str]:
    """A command of the real tree with some of its own options, and sometimes what no command has."""
    path, command = draw(st.sampled_from(TREE))
    args: list[str] = []
    for param in command.params:
        if isinstance(param, click.Argument):
            if param.required or draw(st.booleans()):
                args.append(draw(value_of(param)))
        elif draw(st.integers(0, 3)) == 0:
            args.append(draw(st.sampled_from(param.opts)))
            if not getattr(param, "is_flag", False):
                args.append(draw(value_of(param)))
    if draw(st.integers(0, 5)) == 0:
        args.insert(draw(st.integers(0, len(args))), draw(TEXTS))
    before = ["--db", draw(st.sampled_from(FILES))] if draw(st.booleans()) else []
    return [*before, *path, *args]


ENVIRONMENTS = st.dictionaries(
    st.sampled_from((
        "COSTGUARD", "COSTGUARD_DB", "HOME", "XDG_DATA_HOME", "COLUMNS", "TERM", "FORCE_COLOR", "NO_COLOR", "TZ",
        "LANG", "RUNWARE_API_KEY", "HTTPS_PROXY", "SSL_CERT_FILE",
    )),
    st.sampled_from((
        "", "observe", "off", "bogus", "/proc/nope", "ledger.db", "loop", "0", "40", "dumb", "C", "foo://x", "key",
        "~nobody-of-that-name",
    )),
    max_size=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ledger in it, and things that are none."""
    folder = tmp_path_factory.mktemp("fuzz")
    with Guard(folder / "ledger.db", "acme/search", durability="normal") as guard:
        guard.set_budget("acme", "1")
    (folder / "text.db").write_text("Dear diary\n" * 300)
    (folder / "empty.db").touch()
    (folder / "folder").mkdir()
    (folder / "prices").mkdir()
    (folder / "prices" / "own.toml").write_text("model = 3")
    (folder / "loop").symlink_to("loop")
    (folder / "body.json").write_text('[{"taskType":"textInference","model":"google:gemini@3-flsh","messages":[]}]')
    return folder


def judge(args: list[str], env: dict[str, str], code: int, stderr: str) -> None:
    assert code in EXIT_CODES, (args, env, stderr)
    assert "Traceback" not in stderr, (args, env, stderr)
    told = ("Error: ", "Usage: ")  # a group without a command shows its help
    assert code not in (1, 2) or any(word in stderr for word in told) or not stderr, (args, env, stderr)


@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(calls(), ENVIRONMENTS, st.sampled_from((b"", b"[]", b"{", b"\xff", b'{"taskType":"textInference"}')))
def test_no_arguments_and_no_environment_make_a_traceback(
    folder: Path, args: list[str], env: dict[str, str], body: bytes
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOME", str(folder))
        patch.delenv("COSTGUARD_DB", raising=False)
        result = CliRunner().invoke(main, args, input=body, env=env)
    assert result.exception is None or isinstance(result.exception, SystemExit), (args, env, result.exc_info)
    judge(args, env, result.exit_code, result.stderr)


def test_real_processes_end_as_documented_whatever_they_write_to(folder: Path) -> None:
    """A sample by a fixed seed: half of its arguments as people would write them, outputs of every sort."""
    chance = random.Random(7)
    outputs = ('"$@"', '"$@" > /dev/full', '"$@" >&-', '"$@" <&-', '"$@" | true', '"$@" 2> /dev/full', '"$@" 2>&-')
    for number in range(PROCESSES):
        path, command = chance.choice(TREE)
        args = [*path]
        for param in command.params:
            if isinstance(param, click.Argument) or chance.random() < 0.2:
                args += [] if isinstance(param, click.Argument) else [param.opts[0]]
                args += [] if getattr(param, "is_flag", False) else [chance.choice(FILES + SENSIBLE)]
        env = {"HOME": str(folder), "COSTGUARD_DB": chance.choice(("ledger.db", "text.db", "loop", "none.db"))}
        line = outputs[number % len(outputs)]
        done = subprocess.run(
            ["/bin/bash", "-o", "pipefail", "-c", line, "sh", sys.executable, "-m", "costguard", *args],
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
        judge([line, *args], env, done.returncode, done.stderr.decode(errors="replace"))
