"""What `costguard run` does in the processes of a program: a guard for every client, begun with the first library.

`site/sitecustomize.py` is what a Python of the run starts with, `children.py` what it knows of those that it starts.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from costguard.clients import everywhere
from costguard.guard import Guard
from costguard.running.children import ALLOWED, RUN, SITE, note

__all__ = ["Run", "RunGuard", "begin"]

RUN_TAG = "run"
"""The tag that tells the tasks of one run."""


class RunGuard(Guard):
    """A Guard whose calls all have some tags."""

    def __init__(self, *args: Any, tags: Mapping[str, str], **options: Any) -> None:
        super().__init__(*args, **options)
        self._scopes.give_all(tags)


class Run:
    """What the processes of one run are told, through their environment.

    `place`: the ledger. `folder`: where they note that they are there. `allows`: what cannot be guarded is let go.
    """

    def __init__(
        self,
        place: str | Path,
        project: str,
        tags: Mapping[str, str],
        folder: str | Path,
        *,
        endpoints: Iterable[str] = (),
        prices: Path | None = None,
        allows: bool = False,
    ) -> None:
        self._place = place
        self._told = {
            "project": project,
            "tags": dict(tags),
            "folder": str(folder),
            "endpoints": list(endpoints),
            "prices": None if prices is None else str(prices.resolve()),
        }
        self._allows = allows

    def environment(self, outer: Mapping[str, str]) -> dict[str, str]:
        """The environment of a program that is run."""
        paths = [SITE, *(path for path in outer.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", SITE))]
        kept = {key: value for key, value in outer.items() if key != ALLOWED}
        allowed = {ALLOWED: "1"} if self._allows else {}
        told = {RUN: json.dumps(self._told), "COSTGUARD_DB": str(self._place)}
        return {**kept, **allowed, **told, "PYTHONPATH": os.pathsep.join(paths)}


def begin() -> Callable[[str, Any, ModuleType], None]:
    """Guard this process as its environment says: called when the first client library is about to be run. Gives what
    runs such a library: its name, its loader, and the module.
    """
    told = json.loads(os.environ[RUN])
    guard = RunGuard(None, told["project"], endpoints=told["endpoints"], prices=told["prices"], tags=told["tags"])
    everywhere.expect(guard)
    atexit.register(guard.close)
    note(told["folder"], "guarded")
    return everywhere.load
