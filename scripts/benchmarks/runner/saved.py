"""The figures that are kept in a JSON file, one entry a benchmark, and the tables that are made of them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from scripts.benchmarks.runner.measurement import Repeated, shown, spread
from scripts.benchmarks.runner.surroundings import Surroundings, describe

BEGIN, END = "<!-- figures: made by `scripts/bench --tables` -->", "<!-- end of figures -->"
MANY = 3
"""More measurements than this of one kind, named alike up to a colon, become one line of a table: the worst."""


@dataclass(frozen=True)
class Entry:
    """The last figures of one benchmark, and where they are from."""

    runs: int
    where: Surroundings
    measurements: list[Repeated]


def read(file: Path) -> dict[str, Entry]:
    """The entries of a file, by benchmark; none if there is no such file."""
    if not file.exists():
        return {}
    return {
        name: Entry(one["runs"], Surroundings(**one["where"]), [Repeated(**each) for each in one["measurements"]])
        for name, one in json.loads(file.read_text(encoding="utf-8")).items()
    }


def save(file: Path, entries: dict[str, Entry]) -> None:
    """Write the entries over those of the same benchmarks; the others keep theirs."""
    kept = read(file) | entries
    content = {name: asdict(kept[name]) for name in sorted(kept)}
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def tables(entries: dict[str, Entry]) -> str:
    """A heading, a line on where it was measured and a table for each benchmark, in Markdown."""
    parts = []
    for name in sorted(entries):
        entry = entries[name]
        runs = "one run" if entry.runs == 1 else f"{entry.runs} runs"
        lines = [f"### {name}", "", f"{describe(entry.where)}; {runs}.", ""]
        lines += ["| what | against | median | least – most | bound |", "|---|---|---|---|---|"]
        lines += [_row(kind) for kind in _kinds(entry.measurements)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def with_tables(page: str, entries: dict[str, Entry]) -> str:
    """The page with the tables between its two markers; ValueError if they are not there, once each and in order."""
    before, begin, rest = page.partition(BEGIN)
    old, end, after = rest.partition(END)
    if not begin or not end or BEGIN in old + after or END in before + after:
        raise ValueError(f"a page with figures has one line {BEGIN!r} and, below it, one {END!r}")
    return f"{before}{begin}\n\n{tables(entries)}\n\n{end}{after}"


def _kinds(measurements: list[Repeated]) -> list[list[Repeated]]:
    """Measurements of one kind together: named alike up to a colon, under one bound, against the same."""
    kinds: dict[object, list[Repeated]] = {}
    for one in measurements:
        kinds.setdefault((one.what.partition(": ")[0], one.bound, one.against, one.unit), []).append(one)
    return [some for kind in kinds.values() for some in ([kind] if len(kind) > MANY else [[each] for each in kind])]


def _row(kind: list[Repeated]) -> str:
    worst = max(kind, key=lambda one: one.median)
    what = worst.what
    if len(kind) > 1:
        common, _, last = worst.what.partition(": ")
        what = f"{common}: the worst of {len(kind)}, {last}"
    if worst.detail:
        what += f" ({worst.detail})"
    verdict = "" if worst.is_met else ", **missed**"
    value, bound = (f"{shown(one)} {worst.unit}" for one in (worst.median, worst.bound))
    return f"| {what} | {worst.against} | {value} | {spread(worst.values)} | {bound}{verdict} |".replace("  ", " ")
