"""Recorded responses as tests write them, and an import of them without a command."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from costguard.exchange.importing import Imported, import_pieces
from costguard.exchange.pieces import HEAD, Pieces
from costguard.exchange.recorded import Reader
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.accounting.importing import Importer, Source
from costguard.prices.book import PriceBook

PRICES = PriceBook.load()
FLASH = "google:gemini@3-flash"
FIRST = datetime(2026, 11, 1, 12, tzinfo=UTC)


def an_item(task_uuid: str | None = None, cost: str | None = "0.00122", **fields: Any) -> dict[str, Any]:
    """An item as Runware sends it; amounts are text, which is a figure."""
    item = {"taskType": "textInference", "taskUUID": task_uuid, "text": "A harbour.", "cost": cost, **fields}
    return {key: value for key, value in item.items() if value is not None}


def a_record(*items: dict[str, Any], day: int = 1, **fields: Any) -> dict[str, Any]:
    """A line of a log: when it was, of which model, and the response."""
    at = (FIRST + timedelta(days=day - 1)).isoformat()
    return {"at": at, "model": FLASH, "response": {"data": list(items)}, **fields}


def lines(records: Iterable[Any]) -> bytes:
    """JSON lines."""
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def import_text(
    ledger: Ledger,
    text: bytes,
    *,
    project: str = "acme/search",
    at: str | int = "at",
    model: str | None = None,
    file: str = "calls.jsonl",
    tags: str = "{}",
    go_on: bool = False,
) -> Imported:
    """Import the bytes of a file; with `go_on` from where the last import of this file came to."""
    pieces = Pieces(io.BytesIO(text), text[:HEAD])
    importer = Importer(ledger, Source(file, project, tags, str(at)))
    mark = importer.last()
    if go_on and mark.bytes:
        pieces.skip(mark.bytes, mark.number, mark.digest)
    reader = Reader(PRICES, at=at, model=model, timezone=ledger.timezone, now_us=ledger._now_us)
    return import_pieces(importer, pieces, reader, now_us=ledger._now_us)
