"""One run of one benchmark in a process of its own: `child NAME [CORE]` prints the measurements as one line of JSON."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys


def main(name: str, core: str | None = None) -> None:
    """Run the benchmark, on one core alone if it is named."""
    if core is not None:
        os.sched_setaffinity(0, {int(core)})
    logging.disable(logging.WARNING)
    measurements = [one._asdict() for one in importlib.import_module(f"scripts.benchmarks.{name}").results()]
    print("\n" + json.dumps(measurements))


if __name__ == "__main__":
    main(*sys.argv[1:])
