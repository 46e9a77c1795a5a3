"""One folder per client library, and this list of them. No arithmetic with money.

An adapter offers `wrap(guard, client)`, which puts the guard into a client in place and returns it, or raises
TypeError for what is no client of its library.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, TypeVar

from costguard.clients.guarding import Guarding

C = TypeVar("C")

ADAPTERS = {
    "aiohttp": "costguard.clients.aiohttp",
    "anthropic": "costguard.clients.sdks.anthropic",
    "httpx": "costguard.clients.httpx",
    "httpx2": "costguard.clients.httpx",
    "openai": "costguard.clients.sdks.openai",
    "requests": "costguard.clients.requests",
    "runware": "costguard.clients.runware",
}
"""The top-level module that a client's class comes from -> the adapter that knows it."""


def adapter(library: str) -> Any:
    """The adapter of a library, imported when it is first asked for; ConfigurationError for a version unknown to it."""
    return import_module(ADAPTERS[library])


def wrap(guard: Guarding, client: C) -> C:
    """Put `guard` into `client`, in place; TypeError for a client that no adapter knows."""
    for base in type(client).__mro__:
        library = base.__module__.partition(".")[0]
        if library in ADAPTERS:
            wrapped: C = adapter(library).wrap(guard, client)
            return wrapped
    raise TypeError(
        "guard.wrap takes an httpx or httpx2 Client or AsyncClient, a requests.Session,"
        " or a client of the openai, anthropic or Runware SDK,"
        f" got {type(client).__module__}.{type(client).__name__}"
    )
