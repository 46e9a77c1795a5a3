"""A guard that travels to another process: it is opened there anew, once, from its settings."""

from __future__ import annotations

import pickle
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any, Protocol


class Closable(Protocol):
    """What is opened anew: it says whether it was closed."""

    is_closed: bool
    """True once it was closed."""


_here: weakref.WeakValueDictionary[str, Closable] = weakref.WeakValueDictionary()
"""Key of what was sent on its way, or came from elsewhere -> what it is here."""

_came: dict[str, Closable] = {}
"""What came from elsewhere is kept open: a pool's next task brings it again."""

_lock = threading.RLock()

Reduced = tuple[Callable[..., Any], tuple[Any, ...]]


def packed(guard: Closable, key: str, kind: Callable[..., Closable], settings: Mapping[str, Any]) -> Reduced:
    """What pickle takes for `guard`: `kind(**settings)` makes another one like it.

    TypeError, naming what to do, if the settings hold what cannot travel, such as a lambda.
    """
    for name, value in settings.items():
        try:
            pickle.dumps(value)
        except Exception as error:
            raise TypeError(
                f"this Guard cannot go to another process: its {name} cannot be pickled ({error}); use a function of"
                " a module there, or open a Guard in each process, over the same file"
            ) from error
    with _lock:
        _here[key] = guard
    return reopened, (key, kind, dict(settings))


def reopened(key: str, kind: Callable[..., Closable], settings: Mapping[str, Any]) -> Closable:
    """The guard named `key`, in whatever process this is: the one that is here already, unless it was closed."""
    with _lock:
        found = _here.get(key)
        if found is None or found.is_closed:
            found = _here[key] = _came[key] = kind(**settings)
        return found
