"""The same benchmarks with the code of two commits, in turns, in one run."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmarks.runner.measurement import Measurement, Repeated, repeat, shown, spread
from scripts.benchmarks.runner.run import BENCHMARKS, BenchError, check, choose, measure
from scripts.benchmarks.runner.surroundings import git


@dataclass(frozen=True)
class _Side:
    label: str
    commit: str | None
    """None is the working tree."""


def compare(root: Path, commits: list[str], wanted: list[str], runs: int) -> str:
    """A table of what the benchmarks say of A and of B: no commit is HEAD and the working tree, one commit is A.

    Both are measured by the benchmarks of the newer one: B's, unless B is an ancestor of A. BenchError if there is
    no such commit, or if the code of one cannot be measured so.
    """
    a, b = (_side(root, commit) for commit in [*(commits or ["HEAD"]), None][:2])
    core = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    with (
        tempfile.TemporaryDirectory() as name,
        _tree(root, a, scratch := Path(name)) as tree_a,
        _tree(root, b, scratch) as tree_b,
    ):
        is_a_newer = a.commit and b.commit and git(root, "merge-base", "--is-ancestor", b.commit, a.commit) is not None
        newer, benchmarks = (a, tree_a) if is_a_newer else (b, tree_b)
        if not (benchmarks / BENCHMARKS / "runner" / "child.py").exists():
            raise BenchError(f"{newer.label} has no benchmarks that can be run with another tree")
        names = choose(benchmarks, wanted)
        stages = [(side, _stage(scratch, side, tree, benchmarks)) for side, tree in ((a, tree_a), (b, tree_b))]
        for side, stage in stages:
            for benchmark in names:
                with _blaming(side, newer):
                    check(stage, benchmark)
        rows = []
        for benchmark in names:
            taken: list[list[list[Measurement]]] = [[], []]
            for run in range(runs):
                for (side, stage), done in zip(stages, taken, strict=True):
                    print(f"{benchmark}, run {run + 1} of {runs}, {side.label}", file=sys.stderr, flush=True)
                    with _blaming(side, newer):
                        done.append(measure(stage, benchmark, core))
            rows += _rows(benchmark, *map(repeat, taken))
    pinned = "" if core is None else f", on core {core} alone"
    head = f"A is {a.label}, B is {b.label}; {runs} of each in turns{pinned}, by the benchmarks of {newer.label}."
    return "\n".join([head, "", *_aligned(rows)])


def _side(root: Path, commit: str | None) -> _Side:
    if commit is None:
        return _Side("the working tree", None)
    known = git(root, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")
    if known is None:
        raise BenchError(f"there is no commit {commit!r}")
    return _Side(known[:9], known)


@contextmanager
def _tree(root: Path, side: _Side, scratch: Path) -> Iterator[Path]:
    """A side's tree in a folder of its own, for as long as it is needed; the working tree where it is."""
    if side.commit is None:
        yield root
        return
    folder = Path(tempfile.mkdtemp(dir=scratch))
    try:
        command = ["git", "-C", str(root), "worktree", "add", "--quiet", "--detach", str(folder), side.commit]
        added = subprocess.run(command, capture_output=True, text=True, check=False)
        if added.returncode:
            raise BenchError(f"{side.label}: {(added.stderr.strip().splitlines() or ['git worktree failed'])[-1]}")
        yield folder
    finally:
        git(root, "worktree", "remove", "--force", str(folder))


def _stage(scratch: Path, side: _Side, tree: Path, benchmarks: Path) -> Path:
    """A folder with the package and prices of one tree, and the benchmarks of another."""
    if not (tree / "costguard" / "__init__.py").exists():
        raise BenchError(f"{side.label} has no package costguard where it is looked for")
    stage = Path(tempfile.mkdtemp(dir=scratch))
    for name, source in (("costguard", tree), ("pricing", tree), ("scripts", benchmarks), ("tests", benchmarks)):
        (stage / name).symlink_to(source / name)
    return stage


@contextmanager
def _blaming(side: _Side, newer: _Side) -> Iterator[None]:
    """Say of an error on which side it was."""
    try:
        yield
    except BenchError as error:
        raise BenchError(f"{side.label} cannot be measured by the benchmarks of {newer.label}: {error}") from None


def _rows(benchmark: str, a: list[Repeated], b: list[Repeated]) -> list[tuple[str, ...]]:
    """For each measurement: the medians, and the ratio of each pair of runs; `none` for what a side does not tell."""
    sides = [{one.what: one for one in side} for side in (a, b)]
    rows = []
    for what in sides[0] | sides[1]:
        pair = [side.get(what) for side in sides]
        medians = ["none" if one is None else f"{shown(one.median)} {one.unit}" for one in pair]
        before, after = ([] if one is None else one.values for one in pair)
        ratios = [new / old for old, new in zip(before, after, strict=False) if old]  # of nothing, there is no ratio
        ratio = shown(statistics.median(ratios)) if ratios else "none"
        rows.append((f"{benchmark}: {what}", *medians, ratio, spread(ratios)))
    return rows


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    table = [("what", "A", "B", "B / A", "least – most"), *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
