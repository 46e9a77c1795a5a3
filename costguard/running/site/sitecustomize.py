"""What every Python of a `costguard run` starts with: the guard, once a client library is imported.

Standard library only, and any Python from 3.8 on: costguard may be missing here. The `sitecustomize` that would have
been imported without it is imported, too.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import threading
from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
_LIBRARIES = ("aiohttp", "anthropic", "httpx", "httpx2", "openai", "requests", "runware")
"""Those that stand on another one, too: the guard has to be there when they begin to come."""


def _children() -> Any:
    """The module beside this folder, by its file: costguard itself may not be there, and is not loaded yet."""
    spec = importlib.util.spec_from_file_location("_costguard_run", os.path.join(os.path.dirname(_HERE), "children.py"))
    if spec is None or spec.loader is None:
        raise ImportError(_HERE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class _First:
    """Has the guard begin before the first of the libraries is run; where that fails, so does the import.

    Not while it is looked for: then Python keeps every other thread from importing anything, and one that is in the
    middle of what the guard needs would never get on.
    """

    def __init__(self, children: Any) -> None:
        self._children = children
        self._lock = threading.RLock()
        self._looking = threading.local()
        self._load: Any = None
        self._is_over = False

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:  # noqa: ARG002
        if name not in _LIBRARIES or getattr(self._looking, "is_on", False):
            return None
        self._looking.is_on = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._looking.is_on = False
        if spec is not None and spec.loader is not None:
            loader: Any = _Loader(self, name, spec.loader)
            spec.loader = loader
        return spec

    def begun(self, name: str) -> Any:
        """What loads a library under the guard, once that has begun; None if it is let go without."""
        with self._lock:
            if not self._is_over:
                try:
                    from costguard.running import begin

                    self._load = begin()
                except ImportError as error:
                    self._children.refuse(
                        f"{sys.executable} has no costguard that can be imported ({error}), so {name} there cannot be"
                        " guarded"
                    )
                self._is_over = True
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
            return self._load


class _Loader:
    """Loads a library under the guard, as its own loader does."""

    def __init__(self, first: _First, name: str, inner: Any) -> None:
        self._first = first
        self._name = name
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":
            raise AttributeError(name)
        return getattr(self._inner, name)

    def create_module(self, spec: Any) -> Any:
        return self._inner.create_module(spec)

    def exec_module(self, module: Any) -> None:
        load = self._first.begun(self._name)
        module.__spec__.loader = module.__loader__ = self._inner
        if load is None:
            self._inner.exec_module(module)
        else:
            load(self._name, self._inner, module)


def _next() -> None:
    """Import the `sitecustomize` that this one stands before; sys.path is then as it would be without it."""
    sys.path[:] = [path for path in sys.path if os.path.abspath(path or os.curdir) != _HERE]
    ours = sys.modules.pop(__name__)
    try:
        importlib.import_module(__name__)
    except ImportError as error:
        if error.name != __name__:
            raise
    finally:
        sys.modules.setdefault(__name__, ours)


def _start() -> None:
    told = os.environ.get("COSTGUARD_RUN")
    if not told or os.environ.get("COSTGUARD", "").strip().lower() == "off":
        return
    children = _children()
    children.note(json.loads(told)["folder"], "started")
    sys.meta_path.insert(0, _First(children))
    sys.addaudithook(children.watch)


if __name__ == "sitecustomize":
    _start()
    _next()
