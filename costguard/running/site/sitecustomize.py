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
    """Begins the guard before the first of the libraries is imported; where that fails, so does the import."""

    def __init__(self, children: Any) -> None:
        self._children = children
        self._lock = threading.RLock()
        self._beginning = threading.local()  # other threads wait: what they import meanwhile would not be guarded

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:  # noqa: ARG002
        if name not in _LIBRARIES or getattr(self._beginning, "is_on", False):
            return None
        with self._lock:
            if self in sys.meta_path:
                self._begin(name)
        return importlib.util.find_spec(name)  # by what the guard has put in this one's place

    def _begin(self, name: str) -> None:
        self._beginning.is_on = True
        try:
            from costguard.running import begin

            begin()
        except ImportError as error:
            why = f"{sys.executable} has no costguard that can be imported ({error}), so {name} there cannot be guarded"
            self._children.refuse(why)
        finally:
            self._beginning.is_on = False
        sys.meta_path.remove(self)


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
