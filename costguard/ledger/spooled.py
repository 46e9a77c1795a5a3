"""What a spool keeps: calls that a ledger is yet to be told of, as texts; and what they may come to.

A record has what the ledger would have been given, and nothing else: no prompt, no answer, no key.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from costguard import money
from costguard.budgets import from_us
from costguard.ledger.charges import Charge, Line
from costguard.ledger.records import Accept, Called, Doubt, Ending, NewAttempt, Release, Settle


class Begun(NamedTuple):
    """An admission by the name `key`, at `at_us` (UTC microseconds).

    `held`: the ledger said that it holds it; else it may, should its answer have been lost.
    """

    key: str
    project: str
    at_us: int
    tasks: tuple[NewAttempt, ...]
    held: bool = False


class Ended(NamedTuple):
    """How the attempts of admission `key` ended: an ending's `attempt_id` is the place of its task in it, from 0."""

    key: str
    at_us: int
    endings: tuple[Ending, ...]


class Heard(NamedTuple):
    """What was told of tasks by another road than their own response; `told` is whatever the exchange makes of it."""

    key: str
    at_us: int
    told: Any


Record = Begun | Ended | Heard


class Degraded(NamedTuple):
    """What the ledger is yet to be told.

    `since`: when the first of it happened (aware, UTC), 1970 if no record tells. `records`: how many. `upper`: USD that
    the calls which the ledger does not know of may cost at most; None if that is unknown of one.
    """

    since: datetime
    records: int
    upper: Decimal | None


_OWN: tuple[type, ...] = (Begun, Ended, Heard, NewAttempt, Settle, Release, Doubt, Accept, Called, Charge, Line)
_KIND, _OF = "is", "of"
_MAPPING, _SET, _FUNCTION = "", "{}", "()"
_write = json.JSONEncoder(separators=(",", ":")).encode


class Writing:
    """Records as texts and back. `more`: further kinds, named tuples or dataclasses, by the names they are kept by."""

    def __init__(self, more: Mapping[str, type] | None = None) -> None:
        self._kinds = {kind.__name__: kind for kind in _OWN} | dict(more or {})
        self._names = {kind: name for name, kind in self._kinds.items()}

    def text(self, record: Record) -> str:
        """`record` on one line."""
        return _write(self._plain(record))

    def record(self, text: str) -> Record:
        """What `text` keeps. ValueError for what is no record, or one of a later version."""
        try:
            found = self._object(json.loads(text))
        except (TypeError, KeyError) as error:
            raise ValueError(f"not a record: {error}") from error
        if not isinstance(found, Record):
            raise ValueError(f"not a record: {text[:40]}")
        return found

    def _plain(self, value: object) -> Any:
        name = self._names.get(type(value))
        if name is not None:
            return {_KIND: name, **{key: self._plain(each) for key, each in _told(value)}}
        if isinstance(value, (list, tuple)):
            return [self._plain(each) for each in value]
        if isinstance(value, Mapping):
            return {_KIND: _MAPPING, _OF: {str(key): self._plain(each) for key, each in value.items()}}
        if isinstance(value, frozenset):
            return {_KIND: _SET, _OF: sorted(value)}
        return {_KIND: _FUNCTION, _OF: value()} if callable(value) else value

    def _object(self, value: Any) -> Any:
        if isinstance(value, list):
            return tuple([self._object(each) for each in value])
        if not isinstance(value, dict):
            return value
        match value[_KIND]:
            case "":
                return {key: self._object(each) for key, each in value[_OF].items()}
            case "{}":
                return frozenset(value[_OF])
            case "()":
                return functools.partial(str, value[_OF])
            case name:
                return self._kinds[name](**{key: self._object(each) for key, each in value.items() if key != _KIND})


def _told(value: Any) -> Iterable[tuple[str, object]]:
    """Names and values of a named tuple or dataclass, without those that are as they are by default."""
    if dataclasses.is_dataclass(value):
        told = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        defaults = {
            field.name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            for field in dataclasses.fields(value)
        }
    else:
        told, defaults = value._asdict(), value._field_defaults
    return [(name, each) for name, each in told.items() if name not in defaults or defaults[name] != each]


def degraded(texts: Iterable[str], since_us: int | None = None) -> Degraded | None:
    """What some records come to, None for none; `since_us`: the ledger is known to be away since then, at the least."""
    writing = Writing()
    records, first_us = 0, since_us
    uppers: dict[str, list[int | None]] = {}
    held: set[str] = set()
    for text in texts:
        records += 1
        at_us = _at_us(text)
        if at_us is not None:
            first_us = at_us if first_us is None else min(first_us, at_us)
        if text.startswith(_BEGUN):
            try:
                begun = writing.record(text)
                if isinstance(begun, Begun):
                    uppers[begun.key] = [task.upper for task in begun.tasks]
                    if begun.held:
                        held.add(begun.key)
            except (ValueError, AttributeError):  # a later version's, say: what it may cost is not known
                uppers[text] = [None]
    if first_us is None and not records:
        return None
    upper = money.sum_known([each for key, found in uppers.items() if key not in held for each in found])
    return Degraded(from_us(first_us or 0), records, None if upper is None else money.to_usd(upper))


def _at_us(text: str) -> int | None:
    """When a record is of, as far as it can be read."""
    try:
        found = json.loads(text).get("at_us")
    except (ValueError, AttributeError):
        return None
    return found if isinstance(found, int) else None


_BEGUN = _write({_KIND: Begun.__name__})[:-1]
