"""What starting costs: `import costguard` over `import httpx`, and `costguard --help` over a bare `import click`."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from scripts.benchmarks.runner.measurement import Measurement

RUNS = 15


def results() -> Iterator[Measurement]:
    """What each adds, in milliseconds."""
    yield Measurement(
        "import costguard adds",
        _added_ms(["-c", "import httpx; from costguard import Guard"], ["-c", "import httpx"]),
        80,
        "import httpx",
        "ms",
    )
    yield Measurement(
        "costguard --help adds",
        _added_ms(["-m", "costguard", "--help"], ["-c", "import click"]),
        100,
        "a bare import click",
        "ms",
    )


def _added_ms(command: list[str], bare: list[str]) -> float:
    """Median of what `command` takes longer than `bare`, run in turns."""
    _time_s(command)  # an installed package has its bytecode
    added = []
    for _ in range(RUNS):
        base = _time_s(bare)
        added.append((_time_s(command) - base) * 1000)
    return statistics.median(added)


def _time_s(command: list[str]) -> float:
    begin = time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - begin
