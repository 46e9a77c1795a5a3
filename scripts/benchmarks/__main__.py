"""Run the benchmarks and print a table: what was measured, the value, its bound, what it is compared to."""

from __future__ import annotations

import importlib
import logging
import pkgutil
import sys

import scripts.benchmarks


def main(wanted: list[str]) -> int:
    """Run all benchmarks, or those named; 1 if any value passes its bound."""
    logging.disable(logging.WARNING)
    names = [module.name for module in pkgutil.iter_modules(scripts.benchmarks.__path__) if module.name != "__main__"]
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        print(f"no benchmark {unknown[0]!r}; there are {', '.join(sorted(names))}", file=sys.stderr)
        return 2
    missed = 0
    for name in sorted(wanted or names):
        for what, value, bound, against in importlib.import_module(f"scripts.benchmarks.{name}").results():
            verdict = "ok  " if value <= bound else "OVER"
            missed += value > bound
            print(f"{verdict} {value:9.3f}  at most {bound:7.3f}  {name}: {what}, against {against}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
