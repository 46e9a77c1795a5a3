"""One thin file per client library, and this list of them. No arithmetic with money.

An adapter offers `wrap(guard, client)`, which puts the guard into a client in place and returns it, or raises
TypeError for what is no client of its library.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeVar

from costguard.clients.guarding import Guarding

C = TypeVar("C")

ADAPTERS = {"httpx": "costguard.clients.httpx", "httpx2": "costguard.clients.httpx"}
"""The top-level module that a client's class comes from -> the adapter that knows it."""


def wrap(guard: Guarding, client: C) -> C:
    """Put `guard` into `client`, in place; TypeError for a client that no adapter knows."""
    for base in type(client).__mro__:
        name = ADAPTERS.get(base.__module__.partition(".")[0])
        if name is not None:
            adapter: Any = import_module(name)
            wrapped: C = adapter.wrap(guard, client)
            return wrapped
    raise TypeError(
        "guard.wrap takes an httpx or httpx2 Client or AsyncClient,"
        f" got {type(client).__module__}.{type(client).__name__}"
    )
