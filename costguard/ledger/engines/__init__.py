"""The databases that a ledger can live in, one file each, and one line each below."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from costguard.errors import ConfigurationError
from costguard.ledger.engine import Engine

ENGINES: dict[str, str] = {
    "": "costguard.ledger.engines.sqlite",  # a path
}
"""Scheme of a URL -> the module of its engine, imported when it is asked for. The module has a function
`open_engine(target, *, durability)` that returns an `Engine`.
"""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def open_engine(target: str | Path, *, durability: str = "full") -> Engine:
    """The engine of the ledger at `target`, a path or a URL; opened, or created if it is not there.

    Raises ConfigurationError for a scheme that no engine is registered for, and what the engine raises.
    """
    match = _SCHEME.match(target) if isinstance(target, str) else None
    scheme = match[1].lower() if match else ""
    if scheme not in ENGINES:
        known = ", ".join(["a path", *(f"{name}://" for name in ENGINES if name)])
        raise ConfigurationError(f"ledger: {scheme}:// is not a place for one; known are: {known}")
    engine: Engine = importlib.import_module(ENGINES[scheme]).open_engine(target, durability=durability)
    return engine
