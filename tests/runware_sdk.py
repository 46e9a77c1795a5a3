"""The Runware SDK for tests: in no hurry of its own, and its bill compared with the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any

import httpx
import pytest
import runware
from conftest import API, Clock

from costguard import Guard
from costguard.testing import StandIn

LIMIT_S = 90
"""A test that waits longer than this waits in vain."""

Use = Callable[[Any], Awaitable[Any]]


def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause of the SDK's takes time: between polls, between tries, and before it connects again."""

    async def at_once(_: float, cancel_event: asyncio.Event | None) -> None:
        await asyncio.sleep(0)
        if cancel_event is not None and cancel_event.is_set():
            raise runware.create_runware_error("aborted", "Request aborted")

    finished_within = runware.client._finished_within

    async def soon(future: Any, cancel_event: asyncio.Event | None, within: float) -> bool:
        return bool(await finished_within(future, cancel_event, min(within, 0.2)))

    monkeypatch.setattr("runware.client._finished_within", soon)
    monkeypatch.setattr("runware.client._interruptible_sleep", at_once)
    monkeypatch.setattr("runware.utils.retry.interruptible_sleep", at_once)
    monkeypatch.setattr("runware.transport.websocket._RECONNECT_JITTER_MAX_MS", 0)
    monkeypatch.setattr("runware.transport.websocket._ASYNC_RESEND_MIN_AGE_SECONDS", 0)


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """What it comes to, on a loop of its own."""
    return asyncio.run(asyncio.wait_for(coroutine, LIMIT_S))


def rest(url: str, **options: Any) -> runware.Runware:
    """A client that speaks HTTP to the stand-in at `url`."""
    return runware.Runware(api_key="key", transport="rest", http_base_url=f"{url}/v1", retry_delay=0, **options)


def websocket(url: str, **options: Any) -> runware.Runware:
    """A client that talks to the stand-in by the websocket at `url`."""
    return runware.Runware(api_key="key", ws_base_url=url, retry_delay=0, **options)


def reconciled(guard: Guard, clock: Clock, standin: StandIn) -> None:
    """When all is asked for and old enough, what is charged is what was billed, and nothing is held."""
    clock.now += timedelta(days=3)
    with httpx.Client(base_url=API, transport=standin.transport()) as client:
        guard.reconcile(client)
        clock.now += timedelta(days=3)
        guard.reconcile(client)
    rows = guard.ledger.tasks()
    charged = {row.task_uuid: row.charged for row in rows if row.charged}
    assert charged == {bill.task_uuid: standin.billed(bill.task_uuid) * 10**9 for bill in standin.bill}
    assert [row for row in rows if row.held or row.status not in ("settled", "released")] == []
    assert guard.verify().difference is None
