"""Which benchmarks a tree has, and one run of one of them in a child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from scripts.benchmarks.runner.measurement import Measurement

BENCHMARKS = Path("scripts", "benchmarks")


class BenchError(Exception):
    """Why a benchmark cannot be run, in one line."""


def choose(root: Path, wanted: list[str]) -> list[str]:
    """The names of the tree's benchmarks, or those wanted, sorted; BenchError if there is none of that name."""
    names = {file.stem for file in (root / BENCHMARKS).glob("*.py") if not file.stem.startswith("__")}
    unknown = sorted(set(wanted) - names)
    if unknown:
        raise BenchError(f"no benchmark {unknown[0]!r}; there are {', '.join(sorted(names))}")
    return sorted(set(wanted) or names)


def check(root: Path, name: str) -> None:
    """BenchError if the benchmark cannot be imported with what lies in `root`."""
    _python(root, name, ["-c", f"import scripts.benchmarks.{name}"])


def measure(root: Path, name: str, core: int | None = None) -> list[Measurement]:
    """One run of a benchmark with what lies in `root`, on one core alone if it is named.

    BenchError, with the last line of what the process says, if it fails; and if two measurements are named alike.
    """
    words = ["-m", "scripts.benchmarks.runner.child", name, *([] if core is None else [str(core)])]
    try:
        found = [Measurement(**one) for one in json.loads(_python(root, name, words).splitlines()[-1])]
    except (ValueError, TypeError, IndexError) as error:
        raise BenchError(f"{name} does not tell measurements as this command reads them: {error}") from None
    names = [one.what for one in found]
    twice = [what for what in names if names.count(what) > 1]
    if twice:
        raise BenchError(f"{name}: two measurements are named {twice[0]!r}")
    return found


def _python(root: Path, name: str, words: list[str]) -> str:
    """What a new Python in `root` prints; what it says on standard error is passed on."""
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, *words], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise BenchError(f"{name}: {said[-1]}")
    sys.stderr.write(done.stderr)
    return done.stdout
