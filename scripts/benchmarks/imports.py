"""What starting costs: `import costguard` over `import httpx`, and `costguard --help` over a bare `import click`."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

RUNS = 15


def results() -> Iterator[tuple[str, float, float, str]]:
    """Yield (what was measured, milliseconds, bound, what it was compared to)."""
    yield (
        "import costguard adds (ms)",
        _added_ms(["-c", "import httpx; from costguard import Guard"], ["-c", "import httpx"]),
        80,
        "import httpx",
    )
    yield (
        "costguard --help adds (ms)",
        _added_ms(["-m", "costguard", "--help"], ["-c", "import click"]),
        100,
        "a bare import click",
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
