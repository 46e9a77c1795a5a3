"""Alerts on their way out of the ledger: to the log, and to the program's own function."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterable

from costguard.errors import ConfigurationError
from costguard.ledger.records import Alert

_PLAIN = "an alert comes on whichever thread settled, where no event loop is at hand to await it"

log = logging.getLogger("costguard")


class Alerts:
    """Tells of alerts after the commit that raised them.

    `on_alert`: a plain function of one alert, or None. ConfigurationError for anything else, an `async def` above
    all: nobody would await it.
    """

    def __init__(self, on_alert: Callable[[Alert], object] | None) -> None:
        if on_alert is not None and not callable(on_alert):
            raise ConfigurationError(f"on_alert: expected a function of one alert, found {on_alert!r}")
        if _is_async(on_alert):
            raise ConfigurationError(
                f"on_alert: expected a plain function, found an asynchronous one: {_PLAIN}. Hand it over from a plain"
                " one: lambda alert: loop.call_soon_threadsafe(queue.put_nowait, alert)"
            )
        self._on_alert = on_alert

    def fire(self, alerts: Iterable[Alert]) -> None:
        """Log each of them and tell the program; whatever its function raises is logged."""
        for alert in alerts:
            log.warning("%s", alert)
            if self._on_alert is None:
                continue
            try:
                left = self._on_alert(alert)
            except Exception:
                log.exception("on_alert failed for: %s", alert)
                continue
            if inspect.isawaitable(left) or inspect.isasyncgen(left):  # of a plain function that only calls such a one
                if inspect.iscoroutine(left):
                    left.close()
                log.error("on_alert returned a %s, which was not awaited: %s (%s)", type(left).__name__, _PLAIN, alert)


def _is_async(function: object) -> bool:
    """Whether calling it gives a coroutine or an asynchronous generator, as far as can be told beforehand."""
    while isinstance(function, functools.partial):
        function = function.func
    return any(
        test(each)
        for each in (function, getattr(function, "__call__", None))  # noqa: B004  an object's own `async def __call__`
        for test in (inspect.iscoroutinefunction, inspect.isasyncgenfunction)
    )
