"""What the proxy tells of itself, read as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import httpx
import pytest
from click.testing import CliRunner
from conftest import LIMIT, a_task
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from proxied import Served, until

from costguard import Guard, money
from costguard.cli import main
from costguard.cli.app import Session
from costguard.serving.metrics import usd
from costguard.testing import StandIn

pytest_plugins = ("serving_fixtures",)


def scraped(served: Served, **headers: str) -> dict[tuple[str, ...], float]:
    """Every sample, by its name and its labels' values."""
    response = httpx.get(f"{served.url}/metrics", headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def exact(value: float) -> Decimal:
    return Decimal(repr(value))


def test_every_figure_is_the_ledgers(served: Served, own_guard: Guard, standin: StandIn) -> None:
    assert httpx.post(f"{served.url}/v1", json=[a_task()]).status_code == 200
    standin.fault("drop_after")
    assert httpx.post(f"{served.url}/v1", json=[a_task()]).status_code == 502
    own_guard.set_budget("acme/*", 0, per="day")
    for count in (1, 2):
        assert httpx.post(f"{served.url}/v1", json=[a_task() for _ in range(count)]).status_code == 402
    until(lambda: not served.proxy._calls)
    found = scraped(served)
    rows = own_guard.ledger.tasks()
    project = "acme/search"
    spent, held = (money.to_usd(sum(getattr(row, what) for row in rows)) for what in ("charged", "held"))
    assert spent > 0
    assert held > 0
    assert exact(found["costguard_spent_usd", project]) == spent
    assert exact(found["costguard_unresolved_usd", project]) == exact(found["costguard_held_usd", project]) == held
    assert found["costguard_unresolved_tasks", project] == 1
    assert found["costguard_refused_tasks_total", project, "blocked"] == 3
    for one in own_guard.status():
        for what in ("limit", "spent", "held", "remaining"):
            assert exact(found[f"costguard_budget_{what}_usd", one.per, one.project]) == getattr(one, what)
    assert exact(found["costguard_budget_limit_usd", "total", "/"]) == LIMIT
    assert found["costguard_calls_in_flight",] == 0


@given(st.integers(1 - 10**15, 10**15 - 1))
def test_an_amount_is_exact_to_the_nano_dollar_up_to_a_million(nanos: int) -> None:
    assert exact(usd(money.to_usd(nanos))) == money.to_usd(nanos)


def test_with_tokens_figures_are_told_to_those_whose_they_are(
    served: Served, own_guard: Guard, ledger: object, upstream: str
) -> None:
    def make(project: str) -> str:
        return CliRunner().invoke(main, ["token", "create", project], obj=Session(str(ledger))).stdout.strip()

    own_guard.set_budget("acme/web", 1)
    own_guard.set_budget("other", 1)
    web, everything = make("acme/web"), make("/")
    assert httpx.get(f"{served.url}/metrics").status_code == 401
    assert httpx.post(f"{served.url}/v1", json=[a_task()], headers={"X-Costguard-Token": web}).status_code == 200
    limits = {name[-1] for name in scraped(served, **{"X-Costguard-Token": web}) if "limit" in name[0]}
    assert limits == {"acme/web"}
    found = scraped(served, Authorization=f"Bearer {everything}")
    assert scraped(served, Authorization=f"bearer  {everything}").keys() == found.keys()
    assert {name[-1] for name in found if "limit" in name[0]} == {"/", "acme/web", "other"}
    assert ("costguard_spent_usd", "acme/web") in found


def test_a_name_that_needs_escaping_is_read_back(served: Served, own_guard: Guard) -> None:
    name = 'acme/say "hi" \\ é'
    own_guard.set_budget(name, 1)
    assert any(key[-1] == name for key in scraped(served))


@pytest.mark.parametrize("path", ["/healthz", "/metrics"])
def test_they_answer_get_and_head_and_all_else_is_the_upstreams(
    path: str, served: Served, standin: StandIn, serve: Callable[..., Served]
) -> None:
    assert httpx.head(f"{served.url}{path}").status_code == 200
    assert standin.received == []
    assert httpx.post(f"{served.url}{path}", content=b"x").status_code == 404
    assert [got.path for got in standin.received] == [path]
