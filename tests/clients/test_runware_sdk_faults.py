"""The Runware SDK: whatever breaks, by whichever transport and in whichever delivery, the ledger ends as the bill."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import runware
from conftest import Clock, a_task
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runware_sdk import reconciled, rest, run, unhurried, websocket

from costguard import Guard
from costguard.testing import StandIn

FAULTS = (
    "drop_before", "drop_after", "cut", "status:500", "status:429", "status_billed:503", "error_entry", "item_error",
    "error_timeout", "no_cost", "cost_only", "forget", "html", "stream_cut", "stream_error",
)  # fmt: skip


def is_poll(task: dict[str, Any]) -> bool:
    return bool(task["taskType"] == "getResponse")


@pytest.mark.parametrize("transport", ["rest", "websocket"])
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    tasks=st.lists(st.tuples(st.sampled_from(["sync", "async", "stream"]), st.integers(1, 3)), min_size=1, max_size=5),
    faults=st.lists(st.tuples(st.sampled_from(FAULTS), st.booleans()), max_size=4),
    apart=st.booleans(),
    conflicts=st.booleans(),
    once=st.booleans(),
)
def test_whatever_breaks_the_ledger_ends_as_the_bill(
    make_guard: Callable[..., Guard],
    clock: Clock,
    tmp_path_factory: pytest.TempPathFactory,
    transport: str,
    tasks: list[tuple[str, int]],
    faults: list[tuple[str, bool]],
    apart: bool,
    conflicts: bool,
    once: bool,
) -> None:
    standin = StandIn(result_index=True, bill_retries_once=once)
    for kind, at_polls in faults:
        standin.fault(kind, match=is_poll if at_polls else None)
    guard = make_guard(path=tmp_path_factory.mktemp("ledger") / "costguard.db")

    async def call(client: runware.Runware, n: int, delivery: str, many: int) -> None:
        if delivery == "stream":
            await (await client.stream(a_task(f"Question {n}"))).result()
        else:
            # A request that is slow by load alone is not to be sent again: billed once and answered twice, it is
            # charged twice, as docs/deliveries.md says.
            is_never_slow = transport == "rest" and delivery == "sync"
            options = runware.RunOptions(timeout=None if is_never_slow else 500)
            await client.run(a_task(f"Question {n}", deliveryMethod=delivery, numberResults=many), options)

    async def main(client: runware.Runware) -> None:
        async with guard.wrap(client):
            calls = [call(client, n, delivery, many) for n, (delivery, many) in enumerate(tasks)]
            await asyncio.gather(*calls, return_exceptions=True)

    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        unhurried(patch)
        url = stack.enter_context(standin.serve())
        if transport == "rest":
            run(main(rest(url)))
        else:
            frames = stack.enter_context(standin.serve_websocket(apart=apart, conflicts=conflicts))
            run(main(websocket(frames, http_base_url=f"{url}/v1")))
    done = threading.Event()
    guard.later(done.set)
    assert done.wait(10)
    booked = {row.task_uuid: row.charged + row.held for row in guard.ledger.tasks()}
    for bill in standin.bill:
        assert standin.billed(bill.task_uuid) * 10**9 <= booked[bill.task_uuid]
    reconciled(guard, clock, standin)
