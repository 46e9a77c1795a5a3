"""What costguard raises on purpose. All derive from `CostguardError`; `refusals` has those that keep a call back."""

from __future__ import annotations

from typing import Any


class CostguardError(Exception):
    """Base of all errors raised by costguard itself. They survive pickling, so a process pool passes them on."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[CostguardError], args: tuple[Any, ...], state: dict[str, Any]) -> CostguardError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigurationError(CostguardError, ValueError):
    """A setting, argument or option is not usable; the message names it."""


class PriceFileError(ConfigurationError):
    """A price file is malformed; the message names the file and the key."""


class InvalidRequest(CostguardError, ValueError):  # noqa: N818
    """A request body cannot be read as tasks. Nothing was sent."""


class LedgerError(CostguardError):
    """The ledger cannot be opened, read or written; the message names the file and the remedy."""
