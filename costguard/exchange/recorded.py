"""Recorded responses -> what is to be booked: read by the dialects and charged exactly as live responses are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from costguard.budgets import YEAR_MAX, YEAR_MIN, from_us, to_us
from costguard.errors import ConfigurationError
from costguard.exchange.charging import charge_each
from costguard.exchange.pieces import Piece
from costguard.ledger.accounting.importing import Recorded
from costguard.ledger.accounting.results import result_key
from costguard.prices.book import PriceBook
from costguard.prices.model import AnyPrice
from costguard.tasks import canonical
from costguard.wire import recorded
from costguard.wire.dialect import Ack, Doubt, Figures, Record, Refused, Success, Told

AHEAD_US = 86_400 * 1_000_000
"""How far the clock of whoever recorded something may be ahead of ours, or its zone be misread."""

EARLIEST_US = to_us(datetime(2015, 1, 1, tzinfo=UTC))
"""No call is older: an earlier time is a count that was read in the wrong unit."""

_UNITS = ((10**11, 10**6), (10**14, 10**3), (10**17, 1))
"""A number up to which it counts seconds, milliseconds or microseconds since 1970, and how many of ours that is."""

_DIGITS = (9, 30)
"""A text of so many digits is a number, and no date; a longer number is no time."""


class Unusable(Exception):  # noqa: N818  it is a finding, and ends nothing
    """Why a record, or a task of it, cannot be booked."""


class Reading(NamedTuple):
    """What a piece of a file came to: tasks to be booked, and why others cannot be.

    `idle`: tasks that nothing was billed for, as far as it tells: refused, or under way.
    """

    tasks: list[Recorded]
    faults: list[str]
    idle: int


class Reader:
    """Reads pieces of a file. `at`: the time of all (UTC microseconds), or the path of a field that tells it.

    `model`: of records that name none. `timezone`: of times that tell none.
    """

    def __init__(
        self, prices: PriceBook, *, at: int | str, model: str | None, timezone: str, now_us: Callable[[], int]
    ) -> None:
        self._prices = prices
        self._at = at
        self._model = model or ""
        self._zone = ZoneInfo(timezone)
        self._now_us = now_us

    def read(self, piece: Piece) -> Reading:
        """What a piece tells; raises nothing, whatever is in it."""
        found = Reading([], [piece.why] if piece.why else [], 0)
        for record in [] if piece.why else self._records(piece.text, found.faults):
            try:
                found = self._read(record, found, piece.number)
            except Unusable as fault:
                found.faults.append(str(fault))
        return found

    @staticmethod
    def _records(text: bytes, faults: list[str]) -> Iterable[Any]:
        try:
            value = recorded.parse(text.decode())
        except UnicodeDecodeError as error:
            faults.append(f"byte {error.start + 1} is not UTF-8")
        except json.JSONDecodeError as error:
            faults.append(f"not JSON: {error.msg} at column {error.pos + 1}")
        except (ValueError, RecursionError):
            faults.append("not JSON")
        else:
            return value if isinstance(value, list) else [value]
        return []

    def _read(self, record: Any, found: Reading, number: int) -> Reading:
        if not isinstance(record, dict):
            raise Unusable("not an object")
        told = recorded.tell(record, lambda: _digest(record))
        if not told and not recorded.is_piece(record):
            raise Unusable("nothing in it is a result")
        idle = found.idle + (not told)
        at_us: int | None = None
        for one in told:
            if isinstance(one.ending, (Ack, Refused)) or (isinstance(one.ending, Record) and not one.ending.results):
                idle += 1
                continue
            if isinstance(one.ending, Doubt):
                found.faults.append(f"may have been billed, and tells no figure ({one.ending.reason})")
                continue
            at_us = self._moment(record) if at_us is None else at_us
            try:
                found.tasks.append(self._charged(one, at_us, number))
            except Unusable as fault:
                found.faults.append(str(fault))
        return found._replace(idle=idle)

    def _charged(self, told: Told, at_us: int, number: int) -> Recorded:
        """A task with a charge for each of its results."""
        results = (told.ending.results or ()) if isinstance(told.ending, (Success, Record)) else ()
        model, task_type, price = self._price(told.model or self._model, told.task_type, at_us)
        charges = charge_each(
            [result.figures for result in results], price=price, prompt_expected=None, expected_nanos=None
        )
        if not charges:
            raise Unusable(_why([result.figures for result in results], model, price))
        booked = [(result_key(result.names, charge), charge) for result, charge in zip(results, charges, strict=True)]
        task_type = told.task_type or task_type or "unknown"
        is_named = not told.task_uuid.startswith(_DIGEST)
        is_whole = isinstance(told.ending, Success) and told.ending.failed
        return Recorded(canonical(told.task_uuid), task_type, model, at_us, tuple(booked), number, is_named, is_whole)

    def _price(self, model: str, task_type: str, at_us: int) -> tuple[str, str, AnyPrice | None]:
        """The model's name, its type of task and its price at that time, as far as they are known."""
        named = self._prices.find(model)
        known = self._prices.of(model, task_type) if task_type else named
        if known is None and named is not None and named.prices:
            known = named  # tokens cost the same, whatever the wire calls their task
        name = named.model if named else model
        if known is None:
            return name, "", None
        try:
            return name, known.task_type, known.entry(at_us)
        except ConfigurationError:
            return name, known.task_type, None

    # -- when -----------------------------------------------------------------------------------

    def _moment(self, record: Any) -> int:
        if isinstance(self._at, int):
            return self._at
        told = _field(record, self._at)
        at_us = self._parse(told)
        why = "is long before any call" if at_us < EARLIEST_US else "is yet to come"
        if not EARLIEST_US <= at_us <= self._now_us() + AHEAD_US:
            read = f"{from_us(at_us):%Y-%m-%dT%H:%M:%SZ}"
            raise Unusable(f"{self._at}: {_shown(told)} was read as {read}, which {why}")
        return at_us

    def _parse(self, told: Any) -> int:
        if isinstance(told, str) and told.isdecimal() and _DIGITS[0] <= len(told) <= _DIGITS[1]:
            told = int(told)
        try:
            if isinstance(told, str):
                moment = datetime.fromisoformat(told.strip())
                at_us = to_us(moment if moment.utcoffset() is not None else moment.replace(tzinfo=self._zone))
            elif isinstance(told, (int, Decimal)) and not isinstance(told, bool):
                number = Decimal(told)
                if not number.is_finite() or number.adjusted() > _DIGITS[1]:
                    raise ValueError
                unit = next((unit for most, unit in _UNITS if abs(number) < most), None)
                at_us = int(number) // 1000 if unit is None else int(number * unit)
            else:
                raise ValueError
        except (ValueError, ArithmeticError):
            raise Unusable(f"{self._at}: {_shown(told)} is no time") from None
        if not _FIRST_US <= at_us < _END_US:
            raise Unusable(f"{self._at}: {_shown(told)} is not in the years {YEAR_MIN} to {YEAR_MAX}")
        return at_us


_FIRST_US, _END_US = (to_us(datetime.fromisoformat(f"{year}-01-02T00:00Z")) for year in (YEAR_MIN, YEAR_MAX))


def _field(record: Any, path: str) -> Any:
    """What stands at a path of names joined by dots; of a list the first entry, or the one of that number."""
    node = record
    for name in path.split("."):
        if isinstance(node, list):
            if name.isdecimal():
                node = node[int(name)] if int(name) < len(node) else None
                continue
            node = node[0] if node else None
        node = node.get(name) if isinstance(node, dict) else None
    if node is None:
        raise Unusable(f"{path}: not there, so its time is not known")
    return node


def _why(figures: list[Figures], model: str, price: AnyPrice | None) -> str:
    """Why nothing can be charged for some results: what is wrong with their cost, and what with their usage."""
    notes = dict.fromkeys(note for one in figures for note in one.notes)
    cost = (
        "; ".join(note for note in notes if note.endswith("cost is unusable") or "costBreakdown" in note) or "no cost"
    )
    counted = next((one for one in figures if one.completion_tokens is not None), None)
    if counted is None:
        has_prompt = any(one.prompt_tokens is not None for one in figures)
        return f"{cost}, and no tokens{' of the completion' if has_prompt else ''}"
    if price is None:
        return f"{cost}, and no price is known of {model or 'a model that it does not name'} at its time"
    if not counted.prompt_tokens and not counted.prompt:
        return f"{cost}, and no tokens of the prompt: the usage is not known"
    if (counted.cached_tokens or 0) > (counted.prompt_tokens or 0):
        return f"{cost}, and its usage cannot be priced: more tokens are cached than the prompt has"
    return f"{cost}, and its usage cannot be priced: something in it has no price"


_DIGEST = "digest:"


def _digest(record: Any) -> str:
    """What a record is called that has no name: the same for the same content, however it is written."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), default=str)
    return f"{_DIGEST}{blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=16).hexdigest()}"


def _shown(told: Any) -> str:
    text = told if isinstance(told, str) else str(told)
    return ascii(text[:40])
