"""What a figure depends on besides the code: the machine, its load, versions, the commit."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

LIBRARIES = ("genai-prices", "httpx", "numpy", "sqlite-utils", "tiktoken")
BUSY_LOAD = 0.3
"""Processes at work in the last minute, per core: from here on others take a part of the time measured."""
SAVED = ("docs/benchmarks.json", "docs/benchmarks.md")
"""What `--save` writes: it does not make a tree one with changes."""


@dataclass(frozen=True)
class Surroundings:
    """Where and with what a benchmark was run; null is what is not known."""

    at: str
    """The day (UTC) as `2026-11-26`, or as much of it as is known."""
    commit: str | None
    is_clean: bool | None
    """Whether the tree was that commit's, with nothing changed."""
    cpu: str | None
    cores: int | None
    kernel: str | None
    load: float | None
    """The average of the minute before the run."""
    versions: dict[str, str]
    """Of Python, SQLite and the libraries."""

    @property
    def is_busy(self) -> bool:
        """Whether others were at work on the machine."""
        return self.load is not None and self.cores is not None and self.load > BUSY_LOAD * self.cores


def look_around(root: Path, at: str) -> Surroundings:
    """The surroundings as they are now, for a run of what lies in `root` on the day `at`."""
    changes = git(root, "status", "--porcelain", "--", ".", *(f":!{file}" for file in SAVED))
    return Surroundings(
        at=at,
        commit=git(root, "rev-parse", "--short", "HEAD"),
        is_clean=None if changes is None else not changes,
        cpu=_cpu(),
        cores=os.cpu_count(),
        kernel=f"{platform.system()} {platform.release()}",
        load=round(os.getloadavg()[0], 2),
        versions=_versions(),
    )


def describe(where: Surroundings) -> str:
    """One line: the day, the commit, the machine and its load, versions."""
    said = [where.at, f"commit {where.commit or 'unknown'}" + (" with changes" if where.is_clean is False else "")]
    if where.cpu is not None:
        said.append(where.cpu)
    if where.cores is not None:
        said.append(f"{where.cores} cores")
    if where.kernel is not None:
        said.append(where.kernel)
    if where.load is not None:
        said.append(f"load before {where.load:.2f}" + (" (busy)" if where.is_busy else ""))
    return ", ".join([*said, *(f"{name} {version}" for name, version in where.versions.items())])


def git(root: Path, *words: str) -> str | None:
    """What a git command prints in `root`; None if it fails, as outside of a checkout."""
    try:
        done = subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _cpu() -> str | None:
    """The processor's name: Linux tells it in /proc/cpuinfo, others by `platform`."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or None)


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version(), "SQLite": sqlite3.sqlite_version}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
