"""Where a ledger is: a file's path, resolved, or the URL of another engine's."""

from __future__ import annotations

import os
from pathlib import Path
from reprlib import repr as short

from costguard.errors import ConfigurationError, LedgerError

PATH_VARIABLE = "COSTGUARD_DB"
"""Environment variable that names the ledger where a program names none."""

FILE_NAME = "costguard.db"


def place(named: str | Path | None = None, *, make_folder: bool = True) -> str | Path:
    """Where the ledger `named` is. None: `COSTGUARD_DB`, else `costguard.db` in the platform's data folder.

    That folder is made, if it is not there, unless `make_folder` is false.
    LedgerError for a path that leads nowhere, ConfigurationError for what names no file; both say what to do.
    """
    if named is None:
        named = os.environ.get(PATH_VARIABLE) or _data_folder(make=make_folder) / FILE_NAME
    text = str(named)
    if text.startswith(":memory:"):
        raise ConfigurationError(
            "ledger: ':memory:' would be forgotten with the process, and seen by no other; name a file, such as one in"
            " a folder of tempfile.mkdtemp() for a test"
        )
    if text.lower().startswith("file:"):
        raise ConfigurationError(f"ledger: {short(text)} is a URL; name the file by its plain path")
    if isinstance(named, str) and "://" in named:
        return named
    try:
        return Path(named).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, an unknown user, a NUL byte
        raise LedgerError(
            f"the ledger {short(text)} cannot be found: {_gone(text) or _why(error)}; name another file (Guard(path),"
            f" --db FILE or {PATH_VARIABLE})"
        ) from error


def _data_folder(*, make: bool) -> Path:
    from platformdirs import user_data_path

    try:
        return user_data_path("costguard", appauthor=False, ensure_exists=make)
    except (OSError, RuntimeError, ValueError) as error:
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        raise LedgerError(
            f"the data folder cannot be made ({where}{_why(error)}); name a ledger with Guard(path), --db FILE or"
            f" {PATH_VARIABLE}"
        ) from error


def _gone(text: str) -> str:
    """That there is no folder any more to begin from, if that is what is wrong with a relative path."""
    try:
        Path.cwd()
    except OSError:
        return "" if Path(text).is_absolute() else "the folder that this program was started in is gone; go to another"
    return ""


def _why(error: Exception) -> str:
    """What the system says, without the path that the message names anyway."""
    return (isinstance(error, OSError) and error.strerror) or str(error)
