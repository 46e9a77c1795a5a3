"""Standard input, output and errors as the program finds them: closed, full, or in a narrow alphabet."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import sys

_OUTPUT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EBADF, errno.EIO)
"""What writing to standard output ends in; files of the program's own are named by their errors."""


KEPT_CHARS = 100
"""Of each end of a word of an error that is longer than two and a half times as much."""

_LONG_WORD = re.compile(rf"\S{{{KEPT_CHARS * 5 // 2},}}")


def prepare() -> None:
    """Give a closed stream a stand-in that fails when it is used, and never for lack of a character."""
    if sys.stdin is None:
        sys.stdin = _failing(os.O_WRONLY, "r")
    if sys.stdout is None:
        sys.stdout = _failing(os.O_RDONLY, "w")
    if sys.stderr is None:  # nobody reads it; but no file of ours may get its number
        os.open(os.devnull, os.O_RDWR)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def _failing(flags: int, mode: str) -> io.TextIOWrapper:
    # Opened the other way round: every use is EBADF, as it is of a closed descriptor.
    return io.TextIOWrapper(io.open(os.open(os.devnull, flags), f"{mode}b"), encoding="utf-8")  # noqa: UP020


def explain(error: OSError) -> str:
    """One line for a system's error that no command has a better one for; what cannot be written is given up."""
    why = error.strerror or str(error)
    if error.filename is None and (error.errno in _OUTPUT_ERRORS or _is_broken()):
        _give_up("stdout")
        return f"standard output cannot be written: {why}; send it where there is room"
    return f"{error.filename}: {why}" if error.filename else why


def complain(message: str) -> None:
    """Write a line to standard error, if it can be written to; very long words (paths, mostly) cut in the middle."""
    if sys.stderr is None:
        return
    message = _LONG_WORD.sub(lambda word: f"{word[0][:KEPT_CHARS]}...{word[0][-KEPT_CHARS:]}", message)
    try:
        print(message, file=sys.stderr, flush=True)
    except (OSError, ValueError):
        _give_up("stderr")


def _is_broken() -> bool:
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        return True
    return False


def _give_up(name: str) -> None:
    """Python would try once more at its end, and change the exit code."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        getattr(sys, name).detach()
    setattr(sys, name, io.StringIO())
