"""Where a ledger is: a file's path, resolved, or the URL of another engine's."""

from __future__ import annotations

import os
import re
from pathlib import Path
from reprlib import repr as short
from urllib.parse import parse_qsl, quote, urlencode

from costguard.errors import ConfigurationError, LedgerError

PATH_VARIABLE = "COSTGUARD_DB"
"""Environment variable that names the ledger where a program names none."""

FILE_NAME = "costguard.db"

SECRETS = ("password", "sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key")
"""Parameters of a URL that nobody else may see: what libpq 18 has of that kind."""

_BROKEN_URL = re.compile(r"postgres(ql)?:/(?!/)", re.IGNORECASE)


def place(named: str | Path | None = None, *, make_folder: bool = True) -> str | Path:
    """Where the ledger `named` is. None: `COSTGUARD_DB`, else `costguard.db` in the platform's data folder.

    That folder is made, if it is not there, unless `make_folder` is false.
    LedgerError for a path that leads nowhere, ConfigurationError for what names no file; both say what to do.
    """
    if named is None:
        named = os.environ.get(PATH_VARIABLE) or data_folder(make=make_folder) / FILE_NAME
    text = str(named)
    if text.startswith(":memory:"):
        raise ConfigurationError(
            "ledger: ':memory:' would be forgotten with the process, and seen by no other; name a file, such as one in"
            " a folder of tempfile.mkdtemp() for a test"
        )
    if text.lower().startswith("file:"):
        raise ConfigurationError(f"ledger: {short(text)} is a URL; name the file by its plain path")
    if _BROKEN_URL.match(text):
        raise ConfigurationError(
            "ledger: a postgresql:// URL lost a slash, as in a Path; name it as text: Guard('postgresql://…')"
        )
    if is_url(named):
        return _known(text)
    try:
        return Path(named).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, an unknown user, a NUL byte
        raise LedgerError(
            f"the ledger {short(text)} cannot be found: {_gone(text) or _why(error)}; name another file (Guard(path),"
            f" --db FILE or {PATH_VARIABLE})"
        ) from error


def is_url(named: str | Path) -> bool:
    """True for what names no file."""
    return isinstance(named, str) and "://" in named


def portable(named: str | Path | None = None) -> str | Path:
    """As `place`, for another process to find the same ledger by: a password from the environment stays there.

    `place` gives it back where `COSTGUARD_DB` is the same; else libpq finds one (PGPASSWORD, ~/.pgpass).
    """
    found = place(named)
    stated = os.environ.get(PATH_VARIABLE) if named is None else str(named)
    if isinstance(found, Path) or (named is not None and found == stated):
        return found
    return without_password(found)


def has_password(url: str) -> bool:
    """True for a URL with something in it that is not for everybody's eyes."""
    user, query = _secret_parts(url)
    return bool(user.partition(":")[2]) or any(name.lower() in SECRETS for name, _ in query)


def without_password(url: str) -> str:
    """The URL without its secrets, whether or not these are quoted as they should be."""
    scheme, _, rest = url.partition("://")
    user, query = _secret_parts(url)
    kept = urlencode([(name, value) for name, value in query if name.lower() not in SECRETS], quote_via=quote)
    _, at, host = rest.rpartition("@")
    return f"{scheme}://{user.partition(':')[0]}{at}{host.partition('?')[0]}{f'?{kept}' if kept else ''}"


def shown(place: str | Path) -> str:
    """A place in words: a path, or a URL without its secrets."""
    return without_password(place) if isinstance(place, str) else str(place)


def _secret_parts(url: str) -> tuple[str, list[tuple[str, str]]]:
    """Who connects, with the password, and the parameters."""
    user, _, host = url.partition("://")[2].rpartition("@")
    return user, parse_qsl(host.partition("?")[2].replace("+", "%2B"), keep_blank_values=True)


def _known(url: str) -> str:
    """The URL, with the password that `COSTGUARD_DB` has for the very same."""
    known = os.environ.get(PATH_VARIABLE, "")
    is_same = is_url(known) and not has_password(url) and without_password(known) == without_password(url)
    return known if is_same else url


def data_folder(*, make: bool) -> Path:
    """The platform's data folder for costguard; LedgerError if it is to be made and cannot be."""
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
