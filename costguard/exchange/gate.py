"""Before a request is sent: whose it is, and what it is booked on. `Entry` then says whether the money is there."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping

from costguard.errors import ConfigurationError, InvalidRequest
from costguard.estimating.estimate import Estimate
from costguard.estimating.media import MediaMax, parse_media_max
from costguard.exchange.appraising import Appraiser
from costguard.exchange.effects import Call
from costguard.exchange.entry import Entry, Options, Terms
from costguard.exchange.scopes import Scopes
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.records import Alert
from costguard.prices.book import PriceBook
from costguard.projects import parse_project, parse_tags
from costguard.refusals import UnpricedTask
from costguard.tasks import Task
from costguard.wire.dialect import Dialect, Request

ENFORCE = "enforce"
OBSERVE = "observe"
OFF = "off"
MODES = (ENFORCE, OBSERVE, OFF)

MODE_VARIABLE = "COSTGUARD"
"""Environment variable that overrides every Guard's mode, for roll-outs and emergencies."""

_OPTIONS = frozenset(("project", "tags", "media_max"))

log = logging.getLogger("costguard")


def parse_mode(mode: str) -> str:
    """The mode that the environment names, else `mode`; ConfigurationError for one that there is not."""
    named = os.environ.get(MODE_VARIABLE, "").strip().lower()
    what, found = (MODE_VARIABLE, named) if named else ("mode", mode)
    if found not in MODES:
        raise ConfigurationError(f"{what}: {found!r} is not one of {', '.join(MODES)}")
    return found


class Gate:
    """Decides what is guarded and lets it enter. See `Guard` for the settings."""

    def __init__(
        self,
        ledger: Ledger,
        prices: PriceBook,
        *,
        project: str,
        mode: str,
        media_max: MediaMax,
        scopes: Scopes,
        now_us: Callable[[], int],
        fire: Callable[[Iterable[Alert]], None],
        advice: str = "",
    ) -> None:
        self._ledger = ledger
        self._project = project
        self._media_max = media_max
        self._scopes = scopes
        self._told: dict[str, object] = {}
        self._appraiser = Appraiser(ledger, prices)
        self._terms = Terms(ledger, self._appraiser, enforce=mode == ENFORCE, now_us=now_us, fire=fire, advice=advice)

    def options(self, value: object = None) -> Options:
        """Extension over innermost scope over Guard; ConfigurationError for what cannot be read."""
        scope = self._scopes.current()
        project, tags, media_max = scope.project or self._project, scope.tags, self._media_max
        if value is not None:
            what = 'extensions["costguard"]'
            if not isinstance(value, Mapping):
                raise ConfigurationError(f"{what}: expected a mapping with project, tags or media_max, got {value!r}")
            unknown = [key for key in value if key not in _OPTIONS]
            if unknown:
                raise ConfigurationError(f"{what}: unknown key {unknown[0]!r}; known are {', '.join(sorted(_OPTIONS))}")
            if "project" in value:
                project = parse_project(value["project"], f"{what} project")
            if "tags" in value:
                tags = parse_tags({**tags, **parse_tags(value["tags"])})
            if "media_max" in value:
                media_max = parse_media_max(value["media_max"], media_max, f"{what} media_max")
        return Options(project, tags, media_max)

    def estimate(self, task: Task, at_us: int, options: Options) -> Estimate:
        """Estimate `task` as it would be admitted now."""
        return self._appraiser.estimate(task, at_us, options.project, options.media_max)

    def enter(self, call: Call, body: bytes) -> Entry | None:
        """Read `body`; None if it is not to be guarded. Raises what keeps it from being sent."""
        claim = call.claim
        if claim.unmetered and claim.is_sure:
            self._refuse_unmetered(call, self.options(call.options))
            return None
        for dialect in claim.dialects:
            if not claim.is_sure and not dialect.recognises(body):
                continue
            options = self.options(call.options)
            request = self._read(dialect, body, is_sure=claim.is_sure)
            if request is None:
                continue
            if not any(task.billable or task.asks for task in request.tasks):
                return None
            return Entry(self._terms, dialect, request, options, call.host)
        if claim.unmetered is not None and call.host not in self._told and claim.unmetered.recognises(body):
            self._tell_unmetered(call.host, claim.unmetered.name)
        return None

    def _read(self, dialect: Dialect, body: bytes, *, is_sure: bool) -> Request | None:
        """The request, readable and writable; None if it is not of this dialect, or not to be guarded."""
        try:
            request = dialect.read(body)
            request.body()
        except InvalidRequest as error:
            if not is_sure and not dialect.shows_tasks(body):
                return None
            if self._terms.enforce:
                raise
            log.error("not recorded, sent all the same (mode observe): %s", error)
            return None
        return request

    def _tell_unmetered(self, host: str, wire: str) -> None:
        mine = object()
        if self._told.setdefault(host, mine) is mine:  # of two threads at once, one
            log.warning(
                "%s: %s calls to it are not metered yet: they are sent, and no budget and no report knows what they"
                " cost (said once a host)",
                host,
                wire,
            )

    def _refuse_unmetered(self, call: Call, options: Options) -> None:
        wire = call.claim.unmetered.name if call.claim.unmetered else ""
        for budget in self._ledger.covering(options.project) if self._terms.enforce else ():
            if budget.hard:
                raise UnpricedTask(
                    f"{call.host}{call.path}: {wire} requests are not metered yet, and the hard"
                    f" budget {budget} covers {options.project}; send a native task instead, or use a client that"
                    " is not wrapped. Nothing was sent.",
                    project=options.project,
                    model=call.path,
                    reason="not metered",
                )
        log.warning("%s%s is sent without being metered: no hard budget covers it", call.host, call.path)
