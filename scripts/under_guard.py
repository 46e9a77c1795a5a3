"""Run a suite of httpx's tests bare, under costguard.install and with every client wrapped, and print what differs.

The same file is the pytest plugin of each run: it puts the guard in, and keeps what became of each test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

WAYS = ("bare", "installed", "wrapped")
_WAY, _OUT = "COSTGUARD_SUITE_WAY", "COSTGUARD_SUITE_OUT"

Outcomes = dict[str, str]


def main(checkout: Path) -> int:
    """Print what differs from bare; 1 if anything does under `install`, 2 if the tests cannot be run."""
    if not (checkout / "tests").is_dir():
        print(f"{checkout} holds no tests of httpx", file=sys.stderr)
        return 2
    found = {way: _run(checkout, way) for way in WAYS}
    for way, outcomes in found.items():
        counted = Counter(outcomes.values())
        print(f"{way}: {', '.join(f'{number:,} {name}' for name, number in sorted(counted.items()))}")
    differing = {way: _differing(found["bare"], found[way]) for way in WAYS[1:]}
    for way, tests in differing.items():
        print(f"{way}, differing from bare: {len(tests)}")
        for test in tests:
            print(f"    {test}: {found['bare'].get(test)}, then {found[way].get(test)}")
    return 1 if differing["installed"] or not found["bare"] else 0


def _differing(bare: Outcomes, other: Outcomes) -> list[str]:
    return sorted(test for test in bare.keys() | other.keys() if bare.get(test) != other.get(test))


def _run(checkout: Path, way: str) -> Outcomes:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "outcomes.json"
        here = Path(__file__).parent
        paths = os.pathsep.join((str(here), str(here.parent)))
        subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "under_guard",
                "-p",
                "no:cacheprovider",
                "-m",
                "not network",
                "tests",
            ],
            cwd=checkout,
            env={**os.environ, _WAY: way, _OUT: str(out), "PYTHONPATH": paths},
            stdout=subprocess.DEVNULL,
            check=False,  # a test that fails bare, too, says nothing of us
        )
        kept: Outcomes = json.loads(out.read_text()) if out.exists() else {}
        return kept


class _Kept:
    """A pytest plugin that keeps what became of each test."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._outcomes: Outcomes = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Keep the worst of a test's three parts."""
        if report.when == "call" or report.outcome != "passed":
            self._outcomes[report.nodeid] = report.outcome

    def pytest_sessionfinish(self) -> None:
        """Write them down."""
        self._out.write_text(json.dumps(self._outcomes))


def pytest_configure(config: Any) -> None:
    """Put the guard in, before the tests are imported."""
    config.pluginmanager.register(_Kept(Path(os.environ[_OUT])))
    way = os.environ[_WAY]
    if way == "bare":
        return
    import costguard

    guard = costguard.Guard(Path(os.environ[_OUT]).with_name("ledger.db"), project="suite", durability="normal")
    guard.set_budget("suite", "1")
    if way == "installed":
        costguard.install(guard)
    else:
        _wrap_all(guard)


def _wrap_all(guard: Any) -> None:
    import httpx

    for kind in (httpx.Client, httpx.AsyncClient):
        _wrap_each(guard, kind, kind.__init__)


def _wrap_each(guard: Any, kind: Any, original: Any) -> None:
    import functools

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        guard.wrap(self)

    kind.__init__ = init


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
