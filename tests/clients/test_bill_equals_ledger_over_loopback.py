"""aiohttp and requests: after any mix of faults and one reconcile, the ledger is the bill."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiohttp
import httpx
import pytest
import requests
from conftest import a_task
from loopback import LOOPBACK
from roads import agree

from costguard import BudgetExceeded, Guard
from costguard.testing import StandIn

FAULTS = ("cut", "drop_before", "drop_after", "redirect:308", "status:400", "status:503", "status_billed:500",
          "error_entry", "error_timeout", "forget", "html", "cost_only", "usage_only", None, None, None)  # fmt: skip


@pytest.mark.parametrize("kind", LOOPBACK)
def test_after_a_mix_of_faults_and_one_reconcile_the_ledger_is_the_bill(
    kind: str, guard: Guard, standin: StandIn, make_client: Callable[..., Any]
) -> None:
    rng = random.Random(20261122)
    guard.set_budget("/", "100", per="total")
    with standin.serve() as url:
        client = make_client(kind, guard, base_url=url)
        for _ in range(120):
            tasks = [a_task(numberResults=rng.choice((1, 1, 3))) for _ in range(rng.choice((1, 1, 2)))]
            streams = rng.random() < 0.4
            for task in tasks:
                if streams:
                    task["deliveryMethod"] = "stream"
                fault = rng.choice(FAULTS)
                if fault is not None:
                    standin.fault(fault, task_uuid=task["taskUUID"])
            with suppress(requests.RequestException, aiohttp.ClientError, BudgetExceeded):
                if streams:
                    chunks = rng.choice((None, None, 1, 2))
                    client.read_stream("/v1", tasks, chunks=chunks, on_chunk=lambda _: None)
                else:
                    client.post(*tasks, follow_redirects=True)
        client.close()
        done = threading.Event()
        guard.later(done.set)
        assert done.wait(10)
        with httpx.Client(base_url=url, trust_env=False) as asking:
            assert guard.reconcile(asking, min_age="0s", unknown_age="0s").left == []
    assert agree(guard, standin)
