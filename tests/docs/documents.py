"""Does what a document says: runs its blocks in order, and compares what it shows with what comes out.

    ```python              runs; `await` may stand at the top level
    ```python no-run       is compiled only
    ```python file=NAME    is written to the file NAME, for later blocks to run or import; so is any other
                           language with that flag
    ```output              what the python block before it prints
    ```console             its lines `$ costguard …`, `$ python FILE` and `$ pytest FILE` run, and must exit with
                           0; what stands under such a line is its output
    ```console exit=3      the same, but the last one must exit with 3
    ```cron                its lines are a crontab's: their commands run

A FILE is run as a process of its own, in which a warning is an error. Pipes and redirections are left out, and
with them the comparison; `$ scripts/NAME` must exist, other commands are not run. In what is shown, times, dates,
months and UUIDs stand for any other, and `…` for any text.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from click.testing import CliRunner
from markdown_it import MarkdownIt

from costguard.cli import main

ROOT = Path(__file__).parents[2]

FLAGS = {"python": r"no-run|file=[\w.-]+", "console": r"exit=\d+", "output": "", "cron": ""}
"""The languages that are read, and what their flags look like."""

PIPED = {"|", "||", "&&", ";", "&", ">", ">>", "<", ">>>", "2>&1"}

ANY = (
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<uuid>"),
    (r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?([+-]\d{2}:\d{2})?", "<time>"),
    (r"\d{4}-\d{2}-\d{2}", "<date>"),
    (r"\b20\d{2}-\d{2}\b", "<month>"),
)


class Block(NamedTuple):
    """A fenced block; `line` is that of its fence."""

    language: str
    flags: tuple[str, ...]
    code: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that it is written to."""
        return next((flag.removeprefix("file=") for flag in self.flags if flag.startswith("file=")), None)


class Command(NamedTuple):
    """One command of a console block: its words up to a pipe, and what is shown under it."""

    words: tuple[str, ...]
    piped: bool
    shown: str


def blocks(text: str) -> list[Block]:
    """The blocks of a document that are read; AssertionError for a flag that means nothing."""
    found = []
    for token in MarkdownIt().parse(text):
        language, *flags = token.info.split() if token.type == "fence" and token.info.strip() else [""]
        if language not in FLAGS and not any(flag.startswith("file=") for flag in flags):
            continue
        line = token.map[0] + 1 if token.map else 0
        for flag in flags:
            known = FLAGS.get(language, r"file=[\w.-]+")
            assert re.fullmatch(known, flag), f"line {line}: {flag!r} says nothing about a {language} block"
        found.append(Block(language, tuple(flags), token.content, line))
    return found


def commands(code: str) -> list[Command]:
    """The commands of a console block, without the variables set before them."""
    found: list[Command] = []
    for line in code.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            found.append(_command(line.removeprefix("$ ")))
        elif found:
            found[-1] = found[-1]._replace(shown=f"{found[-1].shown}{line}\n")
    return found


def _command(text: str) -> Command:
    lexer = shlex.shlex(text, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    end = next((at for at, word in enumerate(words) if word in PIPED), len(words))
    return Command(tuple(words[:end]), end < len(words), "")


def shows(shown: str, printed: str) -> bool:
    """Whether what a document shows is what was printed."""
    pattern = "".join(".*" if part == "…" else re.escape(part) for part in re.split("(…)", _plain(shown)))
    return re.fullmatch(pattern, _plain(printed), re.DOTALL) is not None


def _plain(text: str) -> str:
    for pattern, name in ANY:
        text = re.sub(pattern, name, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


class Reader:
    """Reads documents in one namespace, in the working directory."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.names = {"__name__": "document", **names}
        self._runner = asyncio.Runner()
        self._printed: str | None = None

    def read(self, text: str, name: str = "document") -> None:
        """Do all that `text` says; AssertionError, or what a block raises, with the line in `name`."""
        for block in blocks(text):
            printed, self._printed = self._printed, None
            if block.file is not None:
                Path(block.file).write_text(block.code, encoding="utf-8")
            match block.language:
                case "python":
                    self._python(block, name)
                case "output":
                    assert printed is not None, f"{name}:{block.line}: no python block that runs stands before this"
                    assert shows(block.code, printed), f"{name}:{block.line}: what is printed is\n{printed}"
                case "console":
                    self._console(block, name)
                case "cron":
                    for command in _crontab(block.code):
                        self._run(command, 0, f"{name}:{block.line}")

    def close(self) -> None:
        """Close the event loop."""
        self._runner.close()

    def _python(self, block: Block, name: str) -> None:
        code = compile("\n" * block.line + block.code, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, True)
        if block.flags:
            return
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            running = eval(code, self.names)
            if inspect.iscoroutine(running):
                self._runner.run(running)
        self._printed = printed.getvalue()

    def _console(self, block: Block, name: str) -> None:
        found = commands(block.code)
        exits = [0] * len(found)
        for flag in block.flags:
            assert any(map(_program, found[-1:])), f"{name}:{block.line}: {flag} stands at a block that runs nothing"
            exits[-1] = int(flag.removeprefix("exit="))
        for command, expected in zip(found, exits, strict=True):
            self._run(command, expected, f"{name}:{block.line}")

    def _run(self, command: Command, expected: int, place: str) -> None:
        what = f"{place}: `{shlex.join(command.words)}`"
        match _program(command):
            case "costguard":
                path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
                result = CliRunner(env={"PATH": path}).invoke(main, command.words[1:])  # `python` is this one
                code, printed, why = result.exit_code, result.output, f"{result.exception!r}"
            case "python":
                (code, printed), why = _process(command.words[1]), ""
            case "pytest":
                (code, printed), why = _process("-m", "pytest", "-q", "-p", "no:cacheprovider", command.words[1]), ""
            case _:
                if command.words and command.words[0].startswith("scripts/"):
                    assert os.access(ROOT / command.words[0], os.X_OK), f"{what} is not there"
                return
        assert code == expected, f"{what} exits with {code}, not {expected}: {printed} {why}"
        if command.shown.strip() and not command.piped:
            assert shows(command.shown, printed), f"{what} prints\n{printed}"


def _program(command: Command) -> str | None:
    """Which program it runs, of those that are run here."""
    match command.words:
        case ("costguard", *_):
            return "costguard"
        case ("python" | "pytest" as program, file) if file.endswith(".py"):
            return program
    return None


def _process(*args: str) -> tuple[int, str]:
    """Run Python on a file that the document wrote; its exit code and all it printed."""
    done = subprocess.run(
        [sys.executable, "-u", "-W", "error", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout


def _crontab(code: str) -> Iterator[Command]:
    for line in code.splitlines():
        if re.match(r"[\d*@]", line):
            yield _command(line.split(maxsplit=5)[5])
