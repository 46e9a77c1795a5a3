"""How long an import of 100,000 recorded responses takes, and whether it keeps more memory than a tenth of it."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from costguard.budgets import make_budget
from costguard.exchange.importing import Imported, import_pieces
from costguard.exchange.pieces import HEAD, Pieces
from costguard.exchange.recorded import Reader
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.accounting.importing import Importer, Source
from costguard.ledger.engines.sqlite import SqliteEngine
from costguard.prices.book import PriceBook
from scripts.benchmarks.runner.measurement import Measurement

FEW, MANY = 10_000, 100_000
START_S = 1_793_491_200
NOW_US = (START_S + 40 * 86_400) * 10**6
_USAGE = {
    "promptTokens": 1138, "completionTokens": 216, "totalTokens": 1354,
    "completionTokensDetails": {"reasoningTokens": 209},
    "costBreakdown": {
        "tokens": {
            "prompt": {"modalities": [{"modality": "TEXT", "tokens": 74, "cost": 0.000037},
                                      {"modality": "IMAGE", "tokens": 1064, "cost": 0.000532}],
                       "billableTokens": 1138, "cost": 0.000569},
            "completion": {"billableTokens": 216, "textTokens": 7, "reasoningTokens": 209, "cost": 0.000648},
        },
        "total": 0.001217,
    },
}  # fmt: skip


def results() -> Iterator[Measurement]:
    """Seconds of new lines and of known ones, and megabytes that many lines take more than few."""
    with tempfile.TemporaryDirectory() as folder:
        few, many = Path(folder, "few.jsonl"), Path(folder, "many.jsonl")
        _write(few, FEW)
        _write(many, MANY)
        ledger = Ledger(SqliteEngine(Path(folder, "costguard.db"), durability="full"), now_us=lambda: NOW_US)
        for project in ("acme", "/"):
            ledger.set_budget(make_budget(project, "1000000", warn_at=(50, 80, 100)), NOW_US)
        _import(ledger, few, FEW)
        before = _peak_mb()
        for what, bound in (("100,000 new lines", 60), ("100,000 known lines", 60)):
            began = time.perf_counter()
            found = _import(ledger, many, MANY)
            yield Measurement(
                what, time.perf_counter() - began, bound, "a minute", "s", f"{found.booking.results:,} results booked"
            )
        yield Measurement(
            "memory of 100,000 lines", max(0.0, _peak_mb() - before), 8, f"the peak of {FEW:,} lines before", "MB",
            f"over {before:.0f} MB",
        )  # fmt: skip
        if not ledger.verify().ok:
            raise RuntimeError("the ledger does not verify")
        ledger.close()


def _write(path: Path, count: int) -> None:
    with path.open("w", encoding="utf-8") as file:
        for n in range(count):
            item = {
                "taskType": "textInference", "taskUUID": str(uuid.uuid4()), "text": "A harbour in the evening. " * 8,
                "finishReason": "stop", "seed": n, "cost": 0.00122, "usage": _USAGE,
            }  # fmt: skip
            record = {
                "at": START_S + n * 20,
                "request": {"model": "google:gemini@3-flash"},
                "response": {"data": [item]},
            }
            file.write(f"{json.dumps(record)}\n")


def _import(ledger: Ledger, path: Path, lines: int) -> Imported:
    """Read the whole file, whatever is known of it; RuntimeError if any line was left out."""
    reader = Reader(PriceBook.load(), at="at", model=None, timezone="UTC", now_us=lambda: NOW_US)
    importer = Importer(ledger, Source(str(path), "acme/search", "{}", "{}"))
    with path.open("rb", buffering=2**20) as file:
        head = file.read(HEAD)
        file.seek(0)
        found = import_pieces(importer, Pieces(file, head), reader, now_us=lambda: NOW_US)
    if found.lines != lines or found.bad:
        raise RuntimeError(f"{found.bad} of {found.lines} lines were left out: {found.faults}")
    return found


def _peak_mb() -> float:
    """The most memory that this process ever had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
