"""The databases that a ledger can live in, one file each, and one line each below."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from costguard.errors import ConfigurationError
from costguard.ledger.engine import Engine
from costguard.ledger.place import shown

ENGINES: dict[str, str] = {
    "": "costguard.ledger.engines.paths",  # a path
    "postgresql": "costguard.ledger.engines.postgres",
    "postgres": "costguard.ledger.engines.postgres",
}
"""Scheme of a URL -> the module of its engine, imported when it is asked for. The module has a function
`open_engine(target, *, durability)` that returns an `Engine`; one that can read without the right to write has an
`open_reader` with the same parameters too. `is_there(target)` says whether a ledger is, without making one, and
`name_of(target)`, if there is such a function, what names it, however it is asked for.
"""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


def open_engine(target: str | Path, *, durability: str = "full") -> Engine:
    """The engine of the ledger at `target`, a path or a URL; opened, or created if it is not there.

    Raises ConfigurationError for a scheme that no engine is registered for, and what the engine raises.
    """
    engine: Engine = _module(target).open_engine(target, durability=durability)
    return engine


def open_reader(target: str | Path) -> Engine:
    """As `open_engine`, of a ledger that is there, to read only: an engine without such a way is opened as ever."""
    module = _module(target)
    engine: Engine = (getattr(module, "open_reader", None) or module.open_engine)(target, durability="full")
    return engine


def is_there(target: str | Path) -> bool:
    """Whether a ledger has been begun at `target`; LedgerError where that cannot be seen."""
    found: bool = _module(target).is_there(target)
    return found


def name_of(target: str | Path) -> str:
    """What names the ledger at `target` and no other: not who asks for it, nor how."""
    named = getattr(_module(target), "name_of", None)
    return str(named(target)) if named else shown(target)


def _module(target: str | Path) -> Any:
    match = _SCHEME.match(target) if isinstance(target, str) else None
    scheme = match[1].lower() if match else ""
    if scheme not in ENGINES:
        known = ", ".join(["a path", *(f"{name}://" for name in ENGINES if name)])
        raise ConfigurationError(f"ledger: {scheme}:// is not a place for one; known are: {known}")
    return importlib.import_module(ENGINES[scheme])
