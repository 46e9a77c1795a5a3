"""`costguard.install`: one guard for every client of a program, without a client in hand.

What is put into a client library stays with its classes, so clients that were made before are guarded, too. A library
is not imported for it: one that comes later gets it when it comes.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from costguard.clients.guarding import Guarding
from costguard.clients.seams import Seam, Seat, check
from costguard.errors import ConfigurationError
from costguard.estimating.encoder import preload_soon
from costguard.exchange.gate import ENFORCE, OFF

LIBRARIES = {
    "aiohttp": "costguard.clients.aiohttp.everywhere",
    "anthropic": "costguard.clients.sdks.everywhere",
    "httpx": "costguard.clients.httpx.everywhere",
    "httpx2": "costguard.clients.httpx.everywhere",
    "openai": "costguard.clients.sdks.everywhere",
    "requests": "costguard.clients.requests.everywhere",
    "runware": "costguard.clients.runware.everywhere",
}
"""Each library that something is put into -> the module that knows its seams."""

log = logging.getLogger("costguard")


def install(guard: Guarding) -> None:
    """Guard every client of httpx, httpx2, aiohttp, requests and the Runware SDK in this process: those made before and
    after, and calls such as `httpx.post`. The same guard twice is once.

    A client that was wrapped keeps its own guard. Libraries that are not imported yet are guarded when they are.
    TypeError for what is no Guard; ConfigurationError for one that is closed, while another one is installed, and for
    a version of a library that is not known: for one that is imported later, the import raises it. In mode "observe" or
    "off" that is only said in the log. Processes that are forked inherit it; others call it themselves.
    """
    if not hasattr(guard, "claim") or not hasattr(guard, "is_closed"):
        raise TypeError(f"costguard.install takes a Guard, got {type(guard).__module__}.{type(guard).__name__}")
    if guard.is_closed:
        raise ConfigurationError("costguard.install: this Guard is closed: install a new one, Guard(path)")
    put(guard)
    if guard.mode != OFF:
        preload_soon()


def put(guard: Guarding) -> None:
    """As `install`, and nothing is loaded before a call needs it."""
    before = expect(guard)
    try:
        for name in LIBRARIES:
            if sys.modules.get(name) is not None:  # None keeps it from being imported
                _enter(name, importlib.import_module(name))  # waits for a thread that is still at it
    except BaseException:
        if before is None:
            uninstall()
        raise


def expect(guard: Guarding) -> Guarding | None:
    """Guard the libraries that are imported from here on; gives the guard that was installed before."""
    with _lock:
        before = _seat.guard
        if before is not None and before is not guard and not before.is_closed:
            raise ConfigurationError(
                "costguard.install: another Guard is installed already, which is still open, and a process has one:"
                " go on with that Guard, or call costguard.uninstall() first"
            )
        _seat.guard = guard
        if _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)  # before any look at what is there: in between, another thread may import
    return before


def load(name: str, loader: Any, library: ModuleType) -> None:
    """Run a library by its own loader, then put the guard in."""
    loader.exec_module(library)
    _enter(name, library)


def uninstall() -> None:
    """Take away what `install` put in; nothing if there is nothing. Calls that are on their way keep their guard, and
    the Guard stays open.
    """
    with _lock:
        _seat.guard = None
        if _finder in sys.meta_path:
            sys.meta_path.remove(_finder)
        for seam, original, ours in reversed(_put):
            # What another tool has put around it stays: ours lets all pass then.
            if vars(seam.owner).get(seam.name) is ours:
                setattr(seam.owner, seam.name, original)
        _put.clear()


_seat = Seat()
_put: list[tuple[Seam, Any, Any]] = []
"""Each seam, what was there and what is there now."""
_lock = threading.RLock()
"""Nothing is imported while it is held: whoever imports comes here."""

os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def _enter(name: str, library: ModuleType) -> None:
    """Put the guard into a library, all of its seams or none; where it is already, it stays."""
    guards = True
    try:
        known: Any = importlib.import_module(LIBRARIES[name])
        guards = known.GUARDS
        seams: tuple[Seam, ...] = known.seams(library, _seat)
        check(library, seams)
    except ConfigurationError as error:
        guard = _seat.guard
        if guard is None:
            return
        if guard.mode == ENFORCE and guards:
            raise
        log.error("nothing is put into %s (mode %s): %s", name, guard.mode, error)
        return
    with _lock:
        if _seat.guard is None:
            return
        for seam in seams:
            found = vars(seam.owner)[seam.name]
            if not any(found is ours for _, _, ours in _put):
                _put.append((seam, *seam.put()))


class _Finder(importlib.abc.MetaPathFinder):
    """Knows when one of the libraries is imported, and leaves the finding to all others."""

    def __init__(self) -> None:
        self._looking = threading.local()

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in LIBRARIES or getattr(self._looking, "is_on", False):
            return None
        self._looking.is_on = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._looking.is_on = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(fullname, spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Loads a library as its own loader does, then puts the guard in."""

    def __init__(self, name: str, inner: Any) -> None:
        self._name = name
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        """What whoever only looks at a library asks its loader for, as `get_data`."""
        if name == "_inner":
            raise AttributeError(name)
        return getattr(self._inner, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._inner.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._inner
        module.__loader__ = self._inner
        load(self._name, self._inner, module)


_finder = _Finder()
