"""A ledger of a million tasks beside one of ten thousand: what a call, a report and a task's keeping cost in it."""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from costguard.budgets import make_budget, month_bounds
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.charges import Charge, Line
from costguard.ledger.engines.sqlite import SqliteEngine
from costguard.ledger.records import Admitted, NewAttempt, Settle
from scripts.benchmarks.runner.measurement import Measurement

SAMPLE, COPIES = 10_000, 100
"""Calls that are really made, and how often their rows stand in the large ledger."""

CALLS = 2_000
MONTH = "2026-11"
DAYS = "2026-11-01", "2026-12-01"
PROJECTS = ("acme/search", "acme/chat", "acme/ads", "lab", "lab/eval")
MODELS = ("google:gemini@3.1-pro", "google:gemini@3-flash", "google:gemini@3-flash-lite")
START_US = 1_793_491_200_000_000
SPAN_US = 29 * 86_400 * 1_000_000


def results() -> Iterator[Measurement]:
    """Ratios of the large to the small, and seconds of what reads all of it."""
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder, "small.db"), Path(folder, "large.db")
        _make(small)
        _copy(small, large)
        tasks = SAMPLE * COPIES
        yield Measurement(
            "a task's bytes on disk", large.stat().st_size / tasks, 700, f"{tasks:,} tasks of two budgets", "bytes"
        )
        of = {path: Ledger(SqliteEngine(path, durability="normal")) for path in (small, large)}
        small_us, large_us = _calls(of[small], of[large])
        yield Measurement(
            "a hold and its settlement in a ledger of a million tasks", large_us / small_us, 1.3,
            "the same among ten thousand, in turns", detail=f"{large_us:.0f} µs over {small_us:.0f} µs",
        )  # fmt: skip
        ledger = of[large]
        by_hand = _hand_written(large)
        report_s = _seconds(lambda: ledger.usage(("project",), *DAYS))
        yield Measurement(
            "a month by project", report_s / by_hand, 3, "a query on a hand-written daily roll-up",
            detail=f"{report_s * 1e3:.1f} ms over {by_hand * 1e3:.1f} ms",
        )  # fmt: skip
        window = month_bounds(MONTH, "Asia/Kathmandu")
        for what, run in (
            ("a month by day in another zone", lambda: ledger.usage_in(
                ("day", "project"), "Asia/Kathmandu", window.start_us, window.end_us or 0)),
            ("a month's accuracy", lambda: ledger.estimates(*DAYS)),
        ):  # fmt: skip
            yield Measurement(what, _seconds(run), 0.5, f"{tasks:,} tasks", "s")
        began = time.perf_counter()
        found = ledger.verify()
        if not found.ok:
            raise RuntimeError(f"the ledger does not verify: {found.difference}")
        yield Measurement("verifying all of it", time.perf_counter() - began, 120, f"{tasks:,} tasks", "s")
        for each in of.values():
            each.close()


def _make(path: Path) -> None:
    """A ledger of `SAMPLE` calls, spread over a month."""
    ledger = Ledger(SqliteEngine(path, durability="normal"))
    for project in ("acme", "/"):
        ledger.set_budget(make_budget(project, "1000000", warn_at=(50, 80, 100)), START_US)
    for n in range(SAMPLE):
        _call(ledger, n, START_US + SPAN_US * n // SAMPLE)
    ledger.roll_up()
    ledger.close()


def _call(ledger: Ledger, n: int, at_us: int) -> None:
    estimate = f'{{"TEXT": [{70 + n % 50}, 800], "completion": [220, 220]}}'
    task = NewAttempt(
        str(uuid.uuid4()), "textInference", MODELS[n % 3], "sync", 1, 866_500, 866_500, "gemini-3-flash-2025-12",
        estimate, "{}", host="api.runware.ai",
    )  # fmt: skip
    lines = (Line("prompt", "TEXT", 74 + n % 50, 37_000), Line("prompt", "IMAGE", 1064, 532_000 + n % 1000),
             Line("completion", "", 216, 648_000))  # fmt: skip
    nanos = sum(line.nanos for line in lines)
    charge = Charge(
        nanos, "breakdown", lines, 1_220_000, nanos, 1_217_000, "gemini-3-flash-2025-12", 1138, 216, 209, 0, None,
        False, (), None, 1,
    )  # fmt: skip
    admitted = ledger.admit(PROJECTS[n % 5], at_us, [task])
    if not isinstance(admitted, Admitted):
        raise RuntimeError(f"refused: {admitted}")
    ledger.conclude(at_us, [Settle(admitted.attempt_ids[0], charge, f"s:{n} f:1220000,{nanos},1138,216")])


def _copy(small: Path, large: Path) -> None:
    """The rows of `small` many times over, each time as other tasks; sums and balances with them."""
    with sqlite3.connect(small) as source:
        source.execute("VACUUM INTO ?", (str(large),))
    source.close()
    connection = sqlite3.connect(large, isolation_level=None)
    columns = {
        table: [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
        for table in ("attempts", "entries")
    }
    changed = {
        "attempts": {"id": "id + ?1", "task_uuid": "lower(hex(randomblob(4))) || substr(task_uuid, 9, 20)"
                     " || lower(hex(randomblob(4)))"},
        "entries": {"seq": "seq + 2 * ?1", "attempt_id": "attempt_id + ?1", "saw": "NULL"},
    }  # fmt: skip
    connection.execute("BEGIN")
    for n in range(1, COPIES):
        for table, key in (("attempts", "id"), ("entries", "seq")):
            told = ", ".join(changed[table].get(name, name) for name in columns[table])
            most = SAMPLE * (2 if table == "entries" else 1)
            connection.execute(f"INSERT INTO {table} SELECT {told} FROM {table} WHERE {key} <= {most}", (n * SAMPLE,))
    for table, sums in (
        ("balances", ("spent", "held")),
        ("estimates", ("attempts", "expected", "upper", "billed", "over")),
        *((name, ("lead_tasks", "tasks", "results", "quantity", "nanos", "reasoning", "priced", "computed"))
          for name in ("rollups", "slots", "tagged")),
    ):  # fmt: skip
        connection.execute(f"UPDATE {table} SET {', '.join(f'{name} = {name} * {COPIES}' for name in sums)}")
    connection.execute("UPDATE meta SET value = (SELECT max(seq) FROM entries) WHERE key = 'rolled'")
    connection.execute("COMMIT")
    connection.close()


def _calls(small: Ledger, large: Ledger) -> tuple[float, float]:
    """Median of a hold and its settlement in each, in turns, in µs."""
    times: tuple[list[float], list[float]] = ([], [])
    for n in range(CALLS):
        for ledger, kept in zip((small, large), times, strict=True):
            began = time.perf_counter()
            _call(ledger, n, START_US + SPAN_US)
            kept.append(time.perf_counter() - began)
    return statistics.median(times[0]) * 1e6, statistics.median(times[1]) * 1e6


def _hand_written(path: Path) -> float:
    """Seconds of the query that one would write by hand on a daily roll-up of the same rows."""
    connection = sqlite3.connect(":memory:")
    connection.execute(
        "CREATE TABLE daily (day TEXT, project TEXT, model TEXT, component TEXT, modality TEXT, tasks INTEGER,"
        " tokens INTEGER, nanos INTEGER, PRIMARY KEY (day, project, model, component, modality)) WITHOUT ROWID"
    )
    source = sqlite3.connect(path)
    rows = source.execute(
        "SELECT day, project, model, component, modality, lead_tasks, quantity, nanos FROM rollups JOIN leaves"
        " ON id = leaf_id"
    ).fetchall()
    source.close()
    connection.executemany("INSERT INTO daily VALUES (?,?,?,?,?,?,?,?)", rows)
    sql = "SELECT project, sum(tasks), sum(tokens), sum(nanos) FROM daily WHERE day >= ? AND day < ? GROUP BY project"
    found = _seconds(lambda: connection.execute(sql, DAYS).fetchall())
    connection.close()
    return found


def _seconds(run: Callable[[], object], times: int = 7) -> float:
    """The median of some runs."""
    spans = []
    for _ in range(times):
        began = time.perf_counter()
        run()
        spans.append(time.perf_counter() - began)
    return statistics.median(spans)
