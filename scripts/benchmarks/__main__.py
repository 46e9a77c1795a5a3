"""Run the benchmarks and say how they did, keep their figures, or compare two commits."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from scripts.benchmarks.runner import saved
from scripts.benchmarks.runner.compare import compare
from scripts.benchmarks.runner.measurement import Measurement, Repeated, repeat, shown, spread
from scripts.benchmarks.runner.run import BenchError, choose, measure
from scripts.benchmarks.runner.surroundings import Surroundings, describe, look_around

RUNS = 5


def main(words: list[str], root: Path) -> int:
    """Do what the words ask with the tree at `root`: 1 if a median passes its bound, 2 if something cannot be run."""
    try:
        return _compare(words[1:], root) if words[:1] == ["compare"] else _bench(words, root)
    except BenchError as error:
        print(error, file=sys.stderr)
        return 2


def _bench(words: list[str], root: Path) -> int:
    parser = argparse.ArgumentParser("scripts/bench", description=__doc__, epilog="See also: scripts/bench compare -h")
    parser.add_argument("name", nargs="*", help="a benchmark; without one, all")
    parser.add_argument("--runs", type=_count, default=RUNS, help="how often each is run (%(default)s)")
    parser.add_argument("--save", action="store_true", help="keep the figures in docs/benchmarks.json and its tables")
    parser.add_argument(
        "--to", type=Path, metavar="FILE", help="keep the figures in this JSON file, seen from the root"
    )
    parser.add_argument("--tables", action="store_true", help="only make the tables of docs/benchmarks.md anew")
    asked = parser.parse_args(words)
    json_file, page = root / "docs" / "benchmarks.json", root / "docs" / "benchmarks.md"
    if not asked.tables:
        entries, missed = _run(root, choose(root, asked.name), asked.runs)
        for file in (json_file if asked.save else None, asked.to):
            if file is not None:
                saved.save(file, entries)
    if asked.tables or asked.save:
        text = saved.with_tables(page.read_text(encoding="utf-8"), saved.read(json_file))
        page.write_text(text, encoding="utf-8")
    return 0 if asked.tables or not missed else 1


def _run(root: Path, names: list[str], runs: int) -> tuple[dict[str, saved.Entry], int]:
    """Run each benchmark once in every round, and print: their entries, and how many bounds are missed."""
    where = _look_around(root)
    taken: dict[str, list[list[Measurement]]] = {name: [] for name in names}
    for run in range(runs):
        for name in names:
            print(f"{name}, run {run + 1} of {runs}", file=sys.stderr, flush=True)
            taken[name].append(measure(root, name))
    entries = {name: saved.Entry(runs, where, repeat(done)) for name, done in taken.items()}
    missed = 0
    for name, entry in entries.items():
        for one in entry.measurements:
            missed += not one.is_met
            print(_line(name, one))
    return entries, missed


def _line(name: str, one: Repeated) -> str:
    verdict = "ok  " if one.is_met else "OVER"
    value, bound = (f"{shown(each)} {one.unit}" for each in (one.median, one.bound))
    detail = f" ({one.detail})" if one.detail else ""
    figures = f"{verdict} {value:>9}  {spread(one.values):>15}  at most {bound:>7}"
    return f"{figures}  {name}: {one.what}{detail}, against {one.against}"


def _look_around(root: Path) -> Surroundings:
    """The surroundings, printed, with a warning if they spoil the figures."""
    where = look_around(root, datetime.now(UTC).date().isoformat())
    print(describe(where), flush=True)
    if where.is_busy:
        print("The machine is busy: others take a part of the time that is measured.", file=sys.stderr)
    return where


def _compare(words: list[str], root: Path) -> int:
    parser = argparse.ArgumentParser("scripts/bench compare", description=compare.__doc__)
    parser.add_argument("commit", nargs="*", help="A and B; without B the working tree, without A HEAD")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a benchmark; without one, all")
    parser.add_argument("--runs", type=_count, default=RUNS, help="how often each side is run (%(default)s)")
    asked = parser.parse_args(words)
    if len(asked.commit) > 2:
        parser.error("two commits at most")
    _look_around(root)
    print(compare(root, asked.commit, asked.only, asked.runs))
    return 0


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(__file__).parents[2]))
