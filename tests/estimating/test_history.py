"""Where the ledger has history for a project and model, `expected` is its mean; `upper` never learns."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from conftest import API, LIMIT, PRO, Clock, a_task
from roads import Provider

from costguard import Guard
from costguard.testing import StandIn

MakeGuard = Callable[..., Guard]


def spend(guard: Guard, completions: list[int], **fields: Any) -> None:
    """Calls of one result each, which took that many completion tokens."""
    with httpx.Client(base_url=API, transport=guard.transport(Provider(lambda _: answer))) as client:
        for tokens in completions:
            task = a_task(**fields)
            usage = {"promptTokens": 9, "completionTokens": tokens, "costBreakdown": {"total": 0.001, "tokens": {
                "prompt": {"modalities": [{"modality": "TEXT", "tokens": 9, "cost": 0.0005}]},
                "completion": {"billableTokens": tokens, "cost": 0.0005}}}}  # fmt: skip
            item = {
                "taskType": "textInference",
                "taskUUID": task["taskUUID"],
                "text": "x",
                "cost": 0.001,
                "usage": usage,
            }
            answer = (200, {"data": [item]})
            client.post("/v1", json=[task])


def expected(guard: Guard, **fields: Any) -> tuple[int, bool]:
    """Completion tokens expected of a new call, and whether they were learned."""
    found = guard.estimate(a_task(**fields))
    return found.completion.expected, found.learned


def pass_time(clock: Clock, **span: int) -> None:
    clock.now += timedelta(**span)


@pytest.fixture
def guard(make_guard: MakeGuard, clock: Clock) -> Guard:
    """A guard whose every look at the clock comes a minute after the one before, so that it reads what came before."""

    def a_minute_later() -> datetime:
        pass_time(clock, seconds=60)
        return clock.now

    guard = make_guard(clock=a_minute_later)
    guard.set_budget("/", LIMIT, per="total")
    return guard


def test_without_history_the_allowance_is_expected(guard: Guard) -> None:
    assert expected(guard) == (200, False)


def test_with_history_its_mean_is_expected_rounded_up(guard: Guard) -> None:
    spend(guard, [40, 41])
    assert expected(guard) == (41, True)


def test_the_worst_case_never_learns(guard: Guard) -> None:
    before = guard.estimate(a_task())
    spend(guard, [10] * 5)
    after = guard.estimate(a_task())
    assert (after.completion.upper, after.upper, after.upper_nanos) == (200, before.upper, before.upper_nanos)
    assert after.expected is not None
    assert before.expected is not None
    assert after.expected < before.expected


def test_an_expectation_never_passes_the_allowance(guard: Guard) -> None:
    spend(guard, [150])
    assert expected(guard, settings={"maxTokens": 60}) == (60, True)


@pytest.mark.parametrize("other", [{"model": PRO}, {"project": "acme/chat"}, {"project": "acme"}])
def test_history_is_of_one_project_and_one_model(other: dict[str, Any], guard: Guard) -> None:
    spend(guard, [40])
    with guard.scope(project=other.pop("project", None)):
        assert expected(guard, **other) == (200, False)


def test_a_slug_shares_the_history_of_its_model(guard: Guard) -> None:
    spend(guard, [40], model="google-gemini-3-flash")
    assert expected(guard) == (40, True)


def test_history_of_another_process_is_read_within_a_minute(make_guard: MakeGuard, clock: Clock) -> None:
    guard, other = make_guard(), make_guard()
    assert expected(guard) == (200, False)
    spend(other, [40])
    assert expected(guard) == (200, False)
    pass_time(clock, seconds=1)
    assert expected(guard) == (40, True), "that there is none is not remembered for long"
    spend(other, [80])
    pass_time(clock, seconds=59)
    assert expected(guard) == (40, True)
    pass_time(clock, seconds=1)
    assert expected(guard) == (60, True)


def test_history_older_than_a_month_is_forgotten(guard: Guard, clock: Clock) -> None:
    spend(guard, [40])
    pass_time(clock, days=29)
    assert expected(guard) == (40, True)
    pass_time(clock, days=2)
    assert expected(guard) == (200, False)


def test_all_results_count_each(guard: Guard, standin: StandIn) -> None:
    standin.completion_tokens = 64
    with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:
        client.post("/v1", json=[a_task(numberResults=4, seed=0)])
    assert expected(guard) == (-(-sum(64 + n for n in range(4)) // 4), True)


def test_a_charge_that_says_nothing_of_tokens_teaches_nothing(guard: Guard, standin: StandIn) -> None:
    for fault in ("no_cost", "cost_only"):
        standin.fault(fault)
        with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:
            client.post("/v1", json=[a_task()])
    assert expected(guard) == (200, False)


def test_a_figure_that_came_late_is_learned_once(guard: Guard, standin: StandIn) -> None:
    standin.fault("usage_only")
    with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:
        client.post("/v1", json=[a_task(seed=3)])
        guard.reconcile(client, min_age=0)
    assert expected(guard) == (123, True)


def test_an_assumed_charge_uses_what_was_learned(guard: Guard, standin: StandIn) -> None:
    spend(guard, [40])
    standin.fault("no_cost")
    with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:
        task = a_task()
        client.post("/v1", json=[task])
    row = guard.ledger.task(task["taskUUID"])
    assert row is not None
    assert (row.basis, row.charged) == ("assumed", row.expected)
    assert row.expected is not None
    assert row.upper is not None
    assert row.expected < row.upper // 2
