"""One table of a price file, read strictly: keys are asked for by kind, and what nobody asked for is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import NamedTuple, NoReturn

from costguard.errors import ConfigurationError, PriceFileError
from costguard.money import parse_usd
from costguard.outputs import MILLISECONDS_MAX, PARTS, PIXELS_MAX
from costguard.prices.price import COUNT_MAX
from costguard.projects import check_name

RATE_MAX_USD = 10**6
"""No rate or fee may pass this (USD): one line of `COUNT_MAX` tokens then stays within 64 bits."""

_NAME = re.compile(r"\S{1,200}")
_SECONDS = re.compile(r"([0-9]{1,7})(?:\.([0-9]{1,3}))?")
_SIZE = re.compile(r"([0-9]{1,7})x([0-9]{1,7})")


class Dated(NamedTuple):
    """What every entry of `[[prices]]` states, whatever it prices."""

    id: str
    effective_us: int
    checked: str
    source: str
    note: str


class Table:
    """A table of a price file. A key that is missing or of another kind is a PriceFileError naming file and key."""

    def __init__(self, file: Path, where: str, values: Mapping[str, object]) -> None:
        self._file = file
        self._where = where
        self._values = values
        self._asked: set[str] = set()

    def refuse(self, key: str, why: str) -> NoReturn:
        """PriceFileError: `key` of this table cannot be used, and `why`."""
        shown = key if key.isprintable() else ascii(key)
        raise PriceFileError(f"{self._file}: {self._where}{shown}: {why}")

    def has(self, key: str) -> bool:
        """Whether `key` is there; from now on it is a known one."""
        self._asked.add(key)
        return key in self._values

    def close(self) -> None:
        """Refuse the keys that nobody asked for."""
        for key in self._values:
            if key not in self._asked:
                self.refuse(key, f"unknown key; known here: {', '.join(sorted(self._asked))}")

    def text(self, key: str) -> str:
        """Text that is not blank."""
        value = self._value(key)
        if not isinstance(value, str) or not value.strip():
            self.refuse(key, f"expected text, got {value!r}")
        return value

    def name(self, key: str) -> str:
        """A name of 1 to 200 characters without blanks."""
        return self._checked_name(key, self._value(key))

    def names(self, key: str) -> tuple[str, ...]:
        """A list of different names; it may be empty."""
        values = self._value(key)
        if not isinstance(values, list):
            self.refuse(key, f"expected a list of names, got {values!r}")
        names = tuple(self._checked_name(f"{key}[{number}]", value) for number, value in enumerate(values))
        for number, name in enumerate(names):
            if name in names[:number]:
                self.refuse(f"{key}[{number}]", f"{name!r} is listed twice")
        return names

    def count(self, key: str, least: int = 1) -> int:
        """A whole number from `least` to `COUNT_MAX`."""
        value = self._value(key)
        if type(value) is not int or not least <= value <= COUNT_MAX:
            self.refuse(key, f"expected a whole number from {least} to {COUNT_MAX}, got {value!r}")
        return value

    def flag(self, key: str) -> bool:
        """True or false."""
        value = self._value(key)
        if not isinstance(value, bool):
            self.refuse(key, f"expected true or false, got {value!r}")
        return value

    def choice(self, key: str, known: tuple[str, ...]) -> str:
        """One of a few words."""
        value = self._value(key)
        if not isinstance(value, str) or value not in known:
            self.refuse(key, f"{value!r} is not one of {', '.join(known)}")
        return value

    def size(self, key: str) -> tuple[int, int]:
        """Width and height in pixels, written as "1024x768"."""
        value = self._value(key)
        found = _SIZE.fullmatch(value) if isinstance(value, str) else None
        size = (int(found[1]), int(found[2])) if found else (0, 0)
        if not all(0 < side <= PIXELS_MAX for side in size):
            self.refuse(key, f'expected a width and a height in pixels as text, such as "1024x768", got {value!r}')
        return size

    def seconds(self, key: str) -> int:
        """A length in seconds, a whole number or a text such as "7.5", in thousandths of one."""
        value = self._value(key)
        found = _SECONDS.fullmatch(str(value)) if type(value) in (int, str) else None
        length = int(found[1]) * PARTS["seconds"] + int((found[2] or "").ljust(3, "0")) if found else 0
        if not 0 < length <= MILLISECONDS_MAX:
            self.refuse(
                key,
                f'expected seconds above 0, such as 5 or "7.5", with at most 3 decimals and at most'
                f" {MILLISECONDS_MAX // PARTS['seconds']:,}, got {value!r}",
            )
        return length

    def usd(self, key: str) -> int:
        """A rate or fee written as text, in nano-dollars."""
        value = self._value(key)
        if not isinstance(value, str):
            self.refuse(key, f'expected USD as text, such as "0.5", got {type(value).__name__} {value!r}')
        try:
            nanos = parse_usd(value, "rate")
        except ConfigurationError as error:
            self.refuse(key, str(error).removeprefix("rate: "))
        if nanos > RATE_MAX_USD * 10**9:
            self.refuse(key, f"{value!r} is above {RATE_MAX_USD} USD")
        return nanos

    def day(self, key: str) -> str:
        """A date, in ISO form."""
        value = self._value(key)
        if type(value) is not date:
            self.refuse(key, f"expected a date, such as 2026-11-22, got {value!r}")
        return value.isoformat()

    def moment(self, key: str) -> datetime:
        """A date (its first instant in UTC), or a date-time with an offset, in UTC."""
        value = self._value(key)
        if isinstance(value, date) and not 2000 <= value.year < 9999:
            self.refuse(key, f"{value.isoformat()} is not a year from 2000 to 9998")
        if type(value) is date:
            return datetime.combine(value, time(0), UTC)
        if not isinstance(value, datetime) or value.tzinfo is None:
            self.refuse(key, f"expected a date, such as 2026-11-22, or a date-time with its offset, got {value!r}")
        return value.astimezone(UTC)

    def table(self, key: str, *, optional: bool = False) -> Table:
        """A table in this one; an empty one if it is `optional` and not there."""
        value = {} if optional and key not in self._values else self._value(key)
        self._asked.add(key)
        if not isinstance(value, dict):
            self.refuse(key, f"expected a table, got {value!r}")
        return Table(self._file, f"{self._where}{key}.", value)

    def tables(self, key: str) -> list[Table]:
        """A list of one or more tables."""
        values = self._value(key)
        if not isinstance(values, list) or not values or not all(isinstance(value, dict) for value in values):
            self.refuse(key, f"expected one or more [[{self._where}{key}]] tables, got {values!r}")
        return [Table(self._file, f"{self._where}{key}[{number}].", value) for number, value in enumerate(values)]

    def named_tables(self) -> Iterator[tuple[str, Table]]:
        """All of this table, each key being a name and each value a table."""
        for key in self._values:
            yield self._checked_name(key, key), self.table(key)

    def _value(self, key: str) -> object:
        if not self.has(key):
            self.refuse(key, "missing")
        return self._values[key]

    def _checked_name(self, key: str, value: object) -> str:
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            self.refuse(key, f"expected a name of 1 to 200 characters without blanks, got {value!r}")
        try:
            check_name(value, "name")
        except ConfigurationError as error:
            self.refuse(key, str(error))
        return value
