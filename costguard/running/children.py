"""Which Pythons `costguard run` can guard, as far as it can be seen before they start.

Standard library only, and any Python from 3.8 on: this runs where costguard may be missing.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any

RUN = "COSTGUARD_RUN"
"""Environment variable that tells a process of the run it is in (JSON)."""

ALLOWED = "COSTGUARD_RUN_UNGUARDED"
"""Environment variable that lets Pythons go that cannot be guarded."""

SITE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "site")
"""The folder that a Python of the run has first on its path."""

_PYTHON = re.compile(r"(python|pypy)(\d+(\.\d+)*)?t?(\.exe)?")
_IGNORING = {"I": "-I", "E": "-E", "S": "-S"}
"""Options by which a Python does not look at what its environment says of the path, or loads no `sitecustomize`."""

ADVICE = (
    "it was stopped; make it so that it can be, or let it go unguarded with `costguard run --allow-unguarded`, and no"
    " budget holds for what it calls"
)


class Unguarded(RuntimeError):  # noqa: N818
    """A Python was about to start, or a client library about to be used, that cannot be guarded."""


def python_words(command: list[str], file: str) -> list[str] | None:
    """A Python and its arguments, if running `file` as `command` starts one; None if not."""
    if _is_python(file):
        return [file, *command[1:]]
    first = _shebang(file)
    if first and os.path.basename(first[0]) == "env":
        first = [word for word in first[1:] if word not in ("-S", "-i") and "=" not in word]
    return [*first, file, *command[1:]] if first and _is_python(first[0]) else None


def ignoring(words: list[str]) -> str | None:
    """The option by which a Python with these arguments would not be guarded; None if there is none."""
    rest = iter(words[1:])
    for word in rest:
        if not word.startswith("-") or word == "-" or word.startswith("--"):
            return None
        for n, letter in enumerate(word):
            if letter in _IGNORING:
                return _IGNORING[letter]
            if letter in "cm":  # what follows is the program's
                return None
            if letter in "WX":
                if n == len(word) - 1:
                    next(rest, None)
                break
    return None


def _is_python(file: str) -> bool:
    return bool(_PYTHON.fullmatch(os.path.basename(file)))


def _shebang(file: str) -> list[str]:
    """The words of a script's first line that says what runs it; none for what is no such script."""
    try:
        with open(file, "rb") as script:
            first = script.read(300).partition(b"\n")[0]
    except (OSError, ValueError):
        return []
    return first[2:].decode("utf-8", "replace").split() if first.startswith(b"#!") else []


def note(folder: str, name: str) -> None:
    """Leave a word in the run's folder that this process was here, if the folder is still there."""
    try:
        file = os.open(os.path.join(folder, name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, b"%d\n" % os.getpid())
        finally:
            os.close(file)
    except OSError:
        return


def watch(event: str, args: tuple[Any, ...]) -> None:
    """An audit hook: Unguarded where a Python is about to start that cannot be guarded."""
    if event not in _STARTS:
        return
    if event == "subprocess.Popen":
        executable, words, _, env = args
    else:
        executable, words, env = args
    try:
        command = [os.fsdecode(word) for word in ([words] if isinstance(words, (str, bytes, os.PathLike)) else words)]
        file = os.fsdecode(executable or command[0])
    except (TypeError, ValueError, IndexError):
        return
    if os.sep not in file:
        import shutil

        file = shutil.which(file) or file
    python = python_words(command, file)
    if python is None:
        return
    option = ignoring(python)
    if option is not None:
        refuse(f"{python[0]} {option} looks at nothing that would guard it")
    elif not _is_told(os.environ if env is None else env):
        refuse(f"{python[0]} is started with an environment that lacks {RUN}, or its folder of PYTHONPATH")


_STARTS = ("subprocess.Popen", "os.exec", "os.posix_spawn")


def _is_told(env: Any) -> bool:
    told = {os.fsdecode(key): os.fsdecode(value) for key, value in dict(env).items()}
    return bool(told.get(RUN)) and SITE in told.get("PYTHONPATH", "").split(os.pathsep)


def refuse(why: str) -> None:
    """Unguarded, or a word on standard error where that is allowed."""
    if ALLOWED in os.environ or os.environ.get("COSTGUARD", "").strip().lower() in ("observe", "off"):
        print(f"costguard run: {why}: it is not guarded", file=sys.stderr)
        return
    raise Unguarded(f"costguard run: {why}; {ADVICE}")
