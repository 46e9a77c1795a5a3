"""Ask the provider what became of tasks whose outcome is unknown, and book what it says."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

from costguard.errors import ConfigurationError
from costguard.exchange.settlement import Finding, Settlement
from costguard.ledger.accounting.attempts import Attempt, over_by_task
from costguard.ledger.accounting.book import Ledger
from costguard.wire import NATIVE, dialect_of
from costguard.wire.dialect import Figures, Judgement, Result, Success

BATCH_TASKS = 50
"""Tasks asked for in one request."""

AGE_MAX_S = 100 * 365 * 86_400

Age = str | int | timedelta
"""As `parse_age` reads it."""

Progress = Callable[[int, int], object]
"""Told after each request: tasks asked so far, tasks to ask in all."""

_AGE = re.compile(r"([0-9]{1,9})\s*(s|m|h|d)?")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(slots=True)
class Reconciliation:
    """What became of every task that was asked for."""

    findings: list[Finding] = field(default_factory=list)

    @property
    def settled(self) -> list[Finding]:
        """Tasks that were billed, and are booked now."""
        return [finding for finding in self.findings if finding.outcome == "settled"]

    @property
    def released(self) -> list[Finding]:
        """Tasks that were not billed."""
        return [finding for finding in self.findings if finding.outcome == "released"]

    @property
    def left(self) -> list[Finding]:
        """Tasks that stay as they are, each with its reason."""
        return [finding for finding in self.findings if finding.outcome not in ("settled", "released")]

    @property
    def answered(self) -> bool:
        """False if there were tasks to ask for and the provider said nothing of any of them."""
        asked = [finding for finding in self.findings if finding.told is not None]
        return not asked or any(finding.told for finding in asked)


def parse_age(age: Age, what: str = "min_age") -> int:
    """`"60s"`, `"5m"`, `"2h"`, `"1d"`, whole seconds or a timedelta, as microseconds; at most `AGE_MAX_S`.

    Anything else is a ConfigurationError naming `what`.
    """
    if isinstance(age, timedelta) and timedelta(0) <= age <= timedelta(seconds=AGE_MAX_S):
        return age // timedelta(microseconds=1)
    if isinstance(age, int) and not isinstance(age, bool) and 0 <= age <= AGE_MAX_S:
        return age * 1_000_000
    match = _AGE.fullmatch(age.strip()) if isinstance(age, str) else None
    if match is None:
        raise ConfigurationError(f"{what}: {age!r} is not an age such as '60s', '5m', '2h' or '1d'")
    return min(int(match[1]) * _UNITS_S[match[2] or "s"], AGE_MAX_S) * 1_000_000


class Desk(NamedTuple):
    """What asking needs of a guard, and how old what it asks for must be, in microseconds."""

    ledger: Ledger
    settlement: Settlement
    now_us: Callable[[], int]
    min_age_us: int
    """Held tasks older than this are asked for."""
    unknown_age_us: int
    """Tasks admitted so long ago are released if the provider does not know them."""
    lost_us: int | None = None
    """Unresolved ones admitted so long ago that no question is there for are charged as expected; None: never."""


def reconcile(desk: Desk, client: Any, progress: Progress | None) -> Reconciliation:
    """Drive `_questions` with a synchronous client."""
    if inspect.iscoroutinefunction(getattr(client, "post", None)):
        raise TypeError("reconcile takes a synchronous client; use `await guard.areconcile(client)` with this one")
    flow, url = _questions(desk, progress), _endpoint(client)
    try:
        body = next(flow)
        while True:
            try:
                response = client.post(url, content=body, headers=_HEADERS)
                answer = (response.status_code, response.content)
            except Exception as error:  # noqa: BLE001  the flow says it in its findings
                body = flow.throw(error)
            else:
                body = flow.send(answer)
    except StopIteration as end:
        found: Reconciliation = end.value
        return found


async def areconcile(
    desk: Desk,
    client: Any,
    progress: Progress | None,
    offload: Callable[[Callable[[], Any]], Awaitable[Any]],
) -> Reconciliation:
    """Drive `_questions` with an asynchronous client; the ledger's work is done by `offload`, off the loop."""
    if not inspect.iscoroutinefunction(getattr(client, "post", None)):
        raise TypeError("areconcile takes an asynchronous client; use `guard.reconcile(client)` with this one")
    flow, url = _questions(desk, progress), _endpoint(client)
    step: bytes | Reconciliation = await offload(lambda: _step(flow, None, None))
    while not isinstance(step, Reconciliation):
        answer, failure = None, None
        try:
            response = await client.post(url, content=step, headers=_HEADERS)
            answer = (response.status_code, await response.aread())
        except Exception as error:  # noqa: BLE001  the flow says it in its findings
            failure = error
        step = await offload(lambda: _step(flow, answer, failure))  # noqa: B023
    return step


_HEADERS = {"Content-Type": "application/json"}
_Questions = Generator[bytes, tuple[int, bytes], Reconciliation]


def _step(flow: _Questions, answer: tuple[int, bytes] | None, failure: Exception | None) -> bytes | Reconciliation:
    try:
        if failure is not None:
            return flow.throw(failure)
        return next(flow) if answer is None else flow.send(answer)
    except StopIteration as end:
        found: Reconciliation = end.value
        return found


def _questions(desk: Desk, progress: Progress | None) -> _Questions:
    """Yield one request body after the other and be sent (status, body)."""
    desk.settlement.drain()
    now_us = desk.now_us()
    desk.ledger.end_leases(now_us)  # those of programs that are gone, too
    before_us = now_us - desk.min_age_us
    still_open = desk.ledger.open_attempts()
    wanted = [a.task_uuid for a in still_open if a.status == "unresolved" or a.at_us < before_us]
    # Asked for once: what was charged without the provider's own figure. Once more: what it did not know.
    named = dict.fromkeys([*wanted, *desk.ledger.unconfirmed(before_us), *desk.ledger.to_ask_again(now_us)])
    uuids = [uuid for uuid in named if dialect_of(uuid) is NATIVE]
    unasked = [a for a in still_open if dialect_of(a.task_uuid) is not NATIVE and a.task_uuid in named]
    found = Reconciliation([_unaskable(desk, attempt, now_us) for attempt in unasked])
    batches = [uuids[start : start + BATCH_TASKS] for start in range(0, len(uuids), BATCH_TASKS)]
    batches.reverse()
    while batches:
        over = over_by_task(desk.ledger.open_attempts())
        chosen = batches.pop()
        batch = {uuid: over.get(uuid, frozenset()) for uuid in chosen}
        spellings = desk.ledger.spellings(chosen)
        question = NATIVE.question([spellings.get(uuid, uuid) for uuid in chosen], None)
        try:
            status, body = yield question or b""
        except Exception as error:  # noqa: BLE001  said in the findings; the next batch may fare better
            reason = f"the provider could not be asked: {type(error).__name__}"
            found.findings += [Finding(uuid, "open", reason, told=False) for uuid in batch]
        else:
            findings = desk.settlement.learn(NATIVE, batch, status, body, desk.unknown_age_us)
            told_nothing = not any(finding.told and finding.outcome != "open" for finding in findings)
            if len(chosen) > 1 and told_nothing and NATIVE.answers(chosen, status, body).refused_whole:
                middle = len(chosen) // 2
                batches += [chosen[middle:], chosen[:middle]]
                continue
            found.findings += findings
        if progress is not None:
            progress(len(found.findings) - len(unasked), len(uuids))
    return found


def _unaskable(desk: Desk, attempt: Attempt, now_us: int) -> Finding:
    """What comes of a task whose wire has no question for it: only time may tell, and only if the caller said so."""
    uuid = attempt.task_uuid
    is_over = attempt.status == "unresolved" or attempt.ended_us is not None  # or it was accepted, to be worked on
    if desk.lost_us is not None and is_over and now_us - attempt.at_us >= desk.lost_us:
        untold = tuple([Result(at, None, Figures()) for at in range(attempt.results)])
        if desk.settlement.book(Judgement({}, {uuid: Success(untold, failed=True)})):
            return Finding(uuid, "settled", "its outcome stayed unknown: charged as expected", told=None)
    wire = dialect_of(uuid).name
    reason = f"what became of {wire} calls cannot be asked: `costguard tasks resolve` when you know it"
    return Finding(uuid, "open", reason, told=None)


def _endpoint(client: Any) -> str:
    """The client's base URL without its trailing slash; `/v1` if it has no path."""
    base = getattr(client, "base_url", None)
    url = "" if base is None else str(base).rstrip("/")
    if not url:
        raise ConfigurationError("reconcile: the client has no base_url; set it to https://api.runware.ai/v1")
    return url if base is not None and base.path.strip("/") else f"{url}/v1"
