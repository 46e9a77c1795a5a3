"""What a guard decides: budgets, ceilings, alerts, modes, and what it does when the ledger fails."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import API, FLASH, NOW, AnyClient, Clock, a_task, audit, only_task

from costguard import Alert, BudgetExceeded, ConfigurationError, Guard, InvalidRequest, LedgerError, UnpricedTask
from costguard.testing import StandIn

UNPRICED = {"taskType": "imageInference", "model": "acme:1@1", "positivePrompt": "a boat"}
NANO = Decimal("0.000000001")


@pytest.fixture
def free_guard(make_guard: Callable[..., Guard]) -> Guard:
    """A guard without any budget."""
    return make_guard()


Post = Callable[..., httpx.Response]


@pytest.fixture
def wrapped(standin: StandIn) -> Any:
    """Make one guard's `post(*tasks)`, over the in-memory stand-in."""
    clients = []

    def make(guard: Guard, **options: Any) -> Post:
        client = httpx.Client(base_url=API, **{"transport": standin.transport(), **options})
        clients.append(guard.wrap(client))
        return lambda *tasks, url="/v1", **more: client.post(url, json=list(tasks), **more)

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def post(free_guard: Guard, wrapped: Callable[[Guard], Post]) -> Post:
    return wrapped(free_guard)


def worst(guard: Guard, **fields: Any) -> Decimal:
    upper = guard.estimate(a_task(**fields)).upper
    assert upper is not None
    return upper


# --- budgets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("covering", ["/", "acme", "acme/search"])
def test_a_budget_covers_all_below_it(covering: str, free_guard: Guard, post: Post, standin: StandIn) -> None:
    free_guard.set_budget(covering, worst(free_guard) - NANO)
    with pytest.raises(BudgetExceeded) as stop:
        post(a_task())
    assert str(stop.value.budget) == f"{covering} per month"
    assert stop.value.project == "acme/search"
    assert not standin.received
    assert not free_guard.ledger.tasks()


@pytest.mark.parametrize("beside", ["acme/search/prod", "acme/searching", "acm", "beta"])
def test_a_budget_beside_the_path_says_nothing(beside: str, free_guard: Guard, post: Post) -> None:
    free_guard.set_budget(beside, 0)
    assert post(a_task()).status_code == 200
    assert free_guard.remaining() is None


def test_what_fits_to_the_nano_dollar_is_sent(free_guard: Guard, post: Post) -> None:
    free_guard.set_budget("acme", worst(free_guard))
    assert post(a_task()).status_code == 200


def test_the_unspent_rest_of_a_hold_comes_back_at_once(free_guard: Guard, post: Post, standin: StandIn) -> None:
    free_guard.set_budget("acme", worst(free_guard))
    post(a_task())
    assert free_guard.remaining() == worst(free_guard) - standin.billed()


def test_the_tightest_budget_is_reported(free_guard: Guard, post: Post) -> None:
    free_guard.set_budget("/", "0.0003")
    free_guard.set_budget("acme", "0.0001", per="day")
    free_guard.set_budget("acme/search", "0.0002", per="year")
    with pytest.raises(BudgetExceeded) as stop:
        post(a_task())
    assert str(stop.value.budget) == "acme per day"
    assert stop.value.remaining == free_guard.remaining() == Decimal("0.0001")


def test_the_refusal_says_what_was_asked_what_is_left_and_when_it_resets(
    free_guard: Guard, post: Post, standin: StandIn
) -> None:
    asked = worst(free_guard)
    free_guard.set_budget("acme", asked * 3, timezone="Europe/Berlin")
    for fault in ("hang", "drop_after"):
        standin.fault(fault)
        with pytest.raises(httpx.TransportError):
            post(a_task())
    post(a_task())
    with pytest.raises(BudgetExceeded) as caught:
        post(a_task())
    stop = caught.value
    remaining = asked - standin.billed(free_guard.ledger.tasks(status="settled")[0].task_uuid)
    assert (stop.requested, stop.remaining, stop.unresolved) == (asked, remaining, asked * 2)
    assert stop.resets_at == datetime(2026, 11, 30, 23, tzinfo=UTC)
    for told in (asked, remaining, asked * 2):
        assert f"{told.normalize():f} USD" in str(stop)
    for words in ("acme per month", "2026-12-01T00:00:00+01:00", "unknown outcome", "Nothing was sent"):
        assert words in str(stop)
    audit(free_guard, standin)


def test_a_busy_budget_says_so_first_and_how_to_get_by(
    make_guard: Callable[..., Guard], wrapped: Callable[[Guard], Post], standin: StandIn
) -> None:
    alerts: list[Alert] = []
    guard = make_guard(on_alert=alerts.append)
    post = wrapped(guard)
    guard.set_budget("acme", worst(guard))
    standin.fault("hang")
    with pytest.raises(httpx.TransportError):
        post(a_task())
    with pytest.raises(BudgetExceeded) as caught:
        post(a_task())
    assert caught.value.busy
    head, _, rest = str(caught.value).partition(". Lower ")
    assert head.startswith("acme/search: the budget is busy: ")
    assert rest.startswith('`maxTokens`, or set the budget\'s `wait=` or `action="clamp"`. This call may cost up to ')
    (alert,) = alerts
    assert (alert.busy, alert.held_nanos) == (True, int(worst(guard) * 10**9))
    assert "budget acme per month is busy and refused a call: 0.00 of " in str(alert)
    guard.set_budget("acme", "0.000000001")
    with pytest.raises(BudgetExceeded) as caught:
        post(a_task())
    assert "busy" not in str(caught.value)
    audit(guard, standin)


@pytest.mark.parametrize("per", ["total", "task"])
def test_some_budgets_never_reset(per: str, free_guard: Guard, post: Post) -> None:
    free_guard.set_budget("acme", "0.0001", per=per)
    with pytest.raises(BudgetExceeded) as stop:
        post(a_task())
    assert stop.value.resets_at is None


@pytest.mark.parametrize("per", ["day", "month", "total", "task"])
def test_a_limit_of_zero_blocks_all(per: str, free_guard: Guard, post: Post, standin: StandIn) -> None:
    free_guard.set_budget("/", 0, per=per)
    free_guard.set_ceiling("imageInference", 0)
    for task in (a_task(), UNPRICED):
        with pytest.raises(BudgetExceeded):
            post(task)
    assert not standin.received


def test_a_task_cap_looks_at_each_task_alone(free_guard: Guard, post: Post, standin: StandIn) -> None:
    free_guard.set_budget("/", worst(free_guard), per="task")
    post(a_task(), a_task())
    post(a_task())
    with pytest.raises(BudgetExceeded) as stop:
        post(a_task(), a_task(numberResults=2))
    assert stop.value.requested == worst(free_guard, numberResults=2)
    assert len(standin.received) == 2
    audit(free_guard, standin)


def test_a_warn_budget_refuses_nothing_and_holds(free_guard: Guard, post: Post, standin: StandIn) -> None:
    free_guard.set_budget("acme", "0.0001", action="warn")
    standin.fault("hang")
    with pytest.raises(httpx.ReadTimeout):
        post(a_task())
    post(a_task())
    (status,) = free_guard.status()
    assert status.held == worst(free_guard)
    assert status.remaining < 0
    assert free_guard.remaining() is None
    audit(free_guard, standin)


def test_a_new_window_is_a_new_budget(free_guard: Guard, post: Post, clock: Clock, standin: StandIn) -> None:
    free_guard.set_budget("acme", worst(free_guard), per="day", timezone="Asia/Tokyo")
    free_guard.set_budget("acme", "0.01", per="total")
    post(a_task())
    with pytest.raises(BudgetExceeded) as stop:
        post(a_task())
    assert stop.value.resets_at == datetime(2026, 11, 22, 15, tzinfo=UTC)
    clock.now = stop.value.resets_at - timedelta(microseconds=1)
    with pytest.raises(BudgetExceeded):
        post(a_task())
    clock.now = stop.value.resets_at
    post(a_task())
    per_day, in_total = free_guard.status()
    assert per_day.spent < in_total.spent == standin.billed()
    audit(free_guard, standin)


def test_a_late_ending_lands_on_the_window_of_the_admission(
    free_guard: Guard, wrapped: Callable[..., Post], clock: Clock, standin: StandIn
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        reply = standin.handle("POST", "/v1", {}, request.content)
        clock.now += timedelta(days=1)
        return httpx.Response(200, content=b"".join(reply.chunks))

    free_guard.set_budget("acme", "1", per="day")
    wrapped(free_guard, transport=httpx.MockTransport(answer))(a_task())
    assert free_guard.status()[0].spent == 0
    clock.now = NOW
    assert free_guard.status()[0].spent == standin.billed()
    audit(free_guard, standin)


def test_a_new_budget_starts_with_what_its_window_contains(free_guard: Guard, post: Post, standin: StandIn) -> None:
    post(a_task())
    standin.fault("hang")
    with pytest.raises(httpx.ReadTimeout):
        post(a_task())
    free_guard.set_budget("acme", "1")
    (status,) = free_guard.status()
    (settled,) = free_guard.ledger.tasks(status="settled")
    assert (status.spent, status.held) == (standin.billed(settled.task_uuid), worst(free_guard))
    audit(free_guard, standin)


def test_a_bill_above_the_hold_is_recorded_and_the_next_call_refused(
    free_guard: Guard, post: Post, standin: StandIn
) -> None:
    free_guard.set_budget("acme", "0.005", per="total")
    standin.fault("odd_total")  # a cent too much
    assert post(a_task()).status_code == 200
    task = only_task(free_guard)
    assert task.charged == standin.billed() * 10**9 > (task.upper or 0)
    assert task.odd
    assert free_guard.remaining() == Decimal("0.005") - standin.billed() < 0
    with pytest.raises(BudgetExceeded) as stop:
        post(a_task())
    assert stop.value.remaining < 0
    audit(free_guard, standin)


def test_two_guards_share_one_ledger(
    make_guard: Callable[..., Guard], wrapped: Callable[[Guard], Post], standin: StandIn
) -> None:
    one, other = make_guard(), make_guard("acme/other")
    one.set_budget("acme", worst(one) * 2)
    standin.fault("hang", times=2)
    for guard in (one, other):
        with pytest.raises(httpx.ReadTimeout):
            wrapped(guard)(a_task())
    for guard in (one, other):
        assert guard.remaining() == 0
        with pytest.raises(BudgetExceeded):
            wrapped(guard)(a_task())


# --- what has no price ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [UNPRICED, a_task(model="acme:unknown@1"), a_task(tools=[{"type": "search"}])])
def test_without_a_price_a_hard_budget_refuses(
    task: dict[str, Any], free_guard: Guard, post: Post, standin: StandIn
) -> None:
    free_guard.set_budget("/", "1000")
    with pytest.raises(UnpricedTask) as refused:
        post(task)
    assert (refused.value.project, refused.value.model) == ("acme/search", task["model"])
    assert "costguard ceiling set" in str(refused.value)
    assert not standin.received


@pytest.mark.parametrize("name", ["acme:1@1", "imageInference"])
def test_a_ceiling_is_held_in_the_price_s_place(name: str, free_guard: Guard, post: Post, standin: StandIn) -> None:
    free_guard.set_budget("/", "0.10")
    free_guard.set_ceiling(name, "0.04")
    standin.fault("hang", times=2)
    for _ in range(2):
        with pytest.raises(httpx.ReadTimeout):
            post(UNPRICED)
    assert free_guard.remaining() == Decimal("0.02")
    with pytest.raises(BudgetExceeded):
        post(UNPRICED)
    free_guard.set_budget("/", "1")
    post({**UNPRICED, "numberResults": 4})
    settled = free_guard.ledger.tasks(status="settled")[0]
    assert (settled.upper, settled.charged) == (160_000_000, 4 * 1_900_000)
    assert free_guard.remove_ceiling(name)
    with pytest.raises(UnpricedTask):
        post(UNPRICED)
    audit(free_guard, standin)


def test_a_ceiling_for_a_slug_is_for_the_model(free_guard: Guard) -> None:
    free_guard.set_ceiling("google-gemini-3-flash", "0.5")
    assert free_guard.ceilings() == {FLASH: Decimal("0.5")}


@pytest.mark.parametrize("action", [None, "warn"])
def test_without_a_hard_budget_it_is_sent_and_charged_at_the_provider_s_figure(
    action: str | None, free_guard: Guard, post: Post, standin: StandIn
) -> None:
    if action:
        free_guard.set_budget("/", "0.0001", action=action)
    assert post(UNPRICED).status_code == 200
    task = only_task(free_guard)
    assert (task.status, task.upper, task.basis) == ("settled", None, "cost")
    assert task.charged == standin.billed() * 10**9 > 0
    audit(free_guard, standin)


def test_an_unpriced_task_whose_figure_is_missing_is_never_zero(
    free_guard: Guard, post: Post, standin: StandIn
) -> None:
    standin.fault("no_cost")
    post(UNPRICED)
    assert only_task(free_guard).status == "unresolved"
    audit(free_guard)


def test_what_cannot_be_metered_is_refused_under_a_hard_budget(
    free_guard: Guard, post: Post, standin: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    post({"model": FLASH}, url="/v1/completions")
    assert "without being metered" in caplog.text
    free_guard.set_budget("/", "1")
    with pytest.raises(UnpricedTask, match="not metered"):
        post({"model": FLASH}, url="/v1/completions")
    assert len(standin.received) == 1


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_a_request_in_openai_s_form_that_cannot_be_read_is_refused_and_not_sent(
    path: str, guard: Guard, post: Post, standin: StandIn
) -> None:
    with pytest.raises(InvalidRequest):
        post({"model": FLASH}, url=path)
    assert not standin.received
    audit(guard, standin)


# --- endpoints -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoints", "url", "guarded"),
    [
        ((), "https://api.runware.ai/v1", True),
        ((), "https://eu.runware.ai/v1/", True),
        ((), "https://runware.ai.test/v1", False),
        ((), "https://proxy.test/v1", False),
        (("proxy.test",), "https://proxy.test/v1", True),
        (("proxy.test",), "https://proxy.test:8443/v1", True),
        (("https://proxy.test:8443/llm",), "https://proxy.test:8443/llm", True),
        (("https://proxy.test:8443/llm",), "https://proxy.test/llm", False),
        (("https://proxy.test/llm",), "https://proxy.test/other", False),
    ],
)
def test_an_unreadable_post_is_refused_at_native_endpoints_only(
    endpoints: tuple[str, ...], url: str, guarded: bool, make_guard: Callable[..., Guard], wrapped: Callable[..., Post]
) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(204))
    guard = make_guard(endpoints=endpoints)
    client = guard.wrap(httpx.Client(transport=transport))
    if guarded:
        with pytest.raises(InvalidRequest, match="nothing was sent"):
            client.post(url, content=b"{}")
    else:
        assert client.post(url, content=b"{}").status_code == 204


@pytest.mark.parametrize("endpoint", ["", "  ", 7, "https://"])
def test_an_endpoint_must_name_a_host(endpoint: Any, make_guard: Callable[..., Guard]) -> None:
    with pytest.raises(ConfigurationError, match="endpoints"):
        make_guard(endpoints=[endpoint])


# --- alerts --------------------------------------------------------------------------------------------------


def test_each_threshold_fires_once_a_window_over_all_guards(
    make_guard: Callable[..., Guard], wrapped: Callable[[Guard], Post], clock: Clock, standin: StandIn,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    alerts: list[Alert] = []
    one, other = (make_guard(on_alert=alerts.append) for _ in range(2))
    one.set_budget("acme", "0.002", per="day", warn_at=(10, 50))
    posts = [wrapped(one), wrapped(other)]

    def spend_all() -> None:
        for n in range(20):
            try:
                posts[n % 2](a_task())
            except BudgetExceeded:
                continue

    spend_all()
    assert [alert.percent for alert in alerts] == [10, 50, None]
    assert "passed 10 %" in caplog.text
    clock.now += timedelta(days=1)
    spend_all()
    assert [alert.percent for alert in alerts] == [10, 50, None] * 2
    audit(one, standin)


def test_a_raised_limit_arms_its_alerts_again_and_no_other_change_does(
    make_guard: Callable[..., Guard], wrapped: Callable[[Guard], Post], standin: StandIn
) -> None:
    alerts: list[Alert] = []
    guard = make_guard(on_alert=alerts.append)
    post = wrapped(guard)

    def spend_all(limit: str, **terms: Any) -> list[int | None]:
        alerts.clear()
        guard.set_budget("acme", limit, warn_at=(80,), **terms)
        for _ in range(60):
            try:
                post(a_task())
            except BudgetExceeded:
                break
        return [alert.percent for alert in alerts]

    assert spend_all("0.003") == [80, None]
    assert spend_all("0.003") == [], "set again"
    assert spend_all("0.003", action="clamp") == []
    assert spend_all("0.006") == [80, None]
    assert spend_all("0.004") == [], "lowered, and said before"
    guard.set_budget("acme", "0.012", warn_at=())
    post(a_task())
    assert spend_all("0.006") == [None]
    post_free = wrapped(make_guard(on_alert=alerts.append, mode="observe"))
    alerts.clear()
    post_free(a_task())
    assert [alert.percent for alert in alerts] == [80], "what is now crossed fires at the next settlement"
    audit(guard, standin)


def test_all_thresholds_that_one_charge_crosses_fire(
    make_guard: Callable[..., Guard], wrapped: Callable[[Guard], Post]
) -> None:
    alerts: list[Alert] = []
    guard = make_guard(on_alert=alerts.append)
    guard.set_budget("acme", "0.000001", warn_at=(100, 50, 80), action="warn")
    wrapped(guard)(a_task())
    assert [alert.percent for alert in alerts] == [50, 80, 100]


def test_an_on_alert_that_fails_is_logged_and_hurts_nobody(
    make_guard: Callable[..., Guard], wrapped: Callable[[Guard], Post], caplog: pytest.LogCaptureFixture
) -> None:
    def on_alert(alert: Alert) -> None:
        raise OSError("no mail today")

    guard = make_guard(on_alert=on_alert)
    guard.set_budget("acme", "0.000001", warn_at=(50, 80), action="warn")
    assert wrapped(guard)(a_task()).status_code == 200
    assert caplog.text.count("OSError: no mail today") == 2
    assert only_task(guard).status == "settled"


def test_on_alert_may_use_the_guard(make_guard: Callable[..., Guard], wrapped: Callable[[Guard], Post]) -> None:
    seen: list[Decimal | None] = []

    def on_alert(alert: Alert) -> None:
        seen.append(guard.remaining())

    guard: Guard = make_guard(on_alert=on_alert)
    guard.set_budget("acme", "0.01", warn_at=(1,))
    wrapped(guard)(a_task())
    assert seen == [guard.remaining()]


# --- modes ---------------------------------------------------------------------------------------------------


def test_observe_records_and_refuses_nothing(
    make_guard: Callable[..., Guard],
    wrapped: Callable[[Guard], Post],
    standin: StandIn,
    caplog: pytest.LogCaptureFixture,
) -> None:
    guard = make_guard(mode="observe")
    guard.set_budget("acme", 0)
    post = wrapped(guard)
    post(a_task())
    post(UNPRICED)
    post(url="/v1")  # an empty list
    assert [row.status for row in guard.ledger.tasks()] == ["settled"] * 2
    assert guard.status()[0].spent == standin.billed()
    assert "would have refused" in caplog.text
    assert len(standin.received) == 3
    audit(guard, standin)


def test_off_leaves_everything_alone(
    make_guard: Callable[..., Guard], wrapped: Callable[[Guard], Post], standin: StandIn
) -> None:
    guard = make_guard(mode="off")
    guard.set_budget("acme", 0)
    task = a_task()
    wrapped(guard)(task)
    assert standin.received[0].tasks == [task]
    assert not guard.ledger.tasks()


@pytest.mark.parametrize(("named", "sent"), [("enforce", False), ("observe", True), ("off", True), ("", False)])
def test_the_environment_overrides_every_guard_s_mode(
    named: str, sent: bool, make_guard: Callable[..., Guard], wrapped: Callable[[Guard], Post], standin: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COSTGUARD", named)
    guard = make_guard(mode="enforce" if sent else "observe" if named else "enforce")
    guard.set_budget("acme", 0)
    if sent:
        wrapped(guard)(a_task())
    else:
        with pytest.raises(BudgetExceeded):
            wrapped(guard)(a_task())
    assert len(standin.received) == sent


@pytest.mark.parametrize(("source", "said"), [("argument", "mode: 'on'"), ("environment", "COSTGUARD: 'on'")])
def test_an_unknown_mode_is_named_with_its_source(
    source: str, said: str, make_guard: Callable[..., Guard], monkeypatch: pytest.MonkeyPatch
) -> None:
    if source == "environment":
        monkeypatch.setenv("COSTGUARD", "on")
    with pytest.raises(ConfigurationError, match=said):
        make_guard(mode="on" if source == "argument" else "enforce")


# --- when the ledger fails -----------------------------------------------------------------------------------


class Failing:
    """Makes a guard's ledger fail to write the endings of calls until told otherwise."""

    def __init__(self, guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken = True
        original = guard.ledger.conclusion

        def conclude(*args: Any, **options: Any) -> Any:
            if self.broken:
                raise LedgerError("the disk is full")
            return original(*args, **options)

        monkeypatch.setattr(guard.ledger, "conclusion", conclude)


def test_a_ledger_that_fails_at_settlement_costs_nobody_the_answer(
    client: AnyClient, guard: Guard, standin: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Failing(guard, monkeypatch)
    held = worst(guard)
    for calls in (1, 2):
        response = client.post(a_task())
        assert response.json()["data"][0]["text"]
        assert "the disk is full" in caplog.text
        assert guard.status()[0].held == held * calls  # what is not yet written cannot be spent twice
    failing.broken = False
    client.post(a_task())
    assert [row.status for row in guard.ledger.tasks()] == ["settled"] * 3
    audit(guard, standin)


@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_a_ledger_that_fails_at_admission_keeps_the_call_from_being_sent(
    mode: str,
    make_guard: Callable[..., Guard],
    wrapped: Callable[[Guard], Post],
    standin: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def admit(*args: Any, **options: Any) -> Any:
        raise LedgerError("the disk is full")

    guard = make_guard(mode=mode)
    monkeypatch.setattr(guard.ledger, "admission", admit)
    if mode == "enforce":
        with pytest.raises(LedgerError, match="the disk is full"):
            wrapped(guard)(a_task())
    else:
        assert wrapped(guard)(a_task()).status_code == 200
    assert len(standin.received) == (mode == "observe")


def test_closing_writes_what_could_not_be_written(
    make_guard: Callable[..., Guard],
    wrapped: Callable[[Guard], Post],
    standin: StandIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    guard = make_guard()
    failing = Failing(guard, monkeypatch)
    wrapped(guard)(a_task())
    failing.broken = False
    guard.close()
    after = make_guard()
    assert only_task(after).status == "settled"
    audit(after, standin)


def test_observe_sends_even_without_a_ledger(
    make_guard: Callable[..., Guard],
    wrapped: Callable[[Guard], Post],
    standin: StandIn,
    caplog: pytest.LogCaptureFixture,
) -> None:
    guard = make_guard(mode="observe")
    post = wrapped(guard)
    guard.close()
    assert post(a_task()).status_code == 200
    assert "not recorded" in caplog.text


def test_a_closed_guard_sends_nothing(
    make_guard: Callable[..., Guard], wrapped: Callable[[Guard], Post], standin: StandIn
) -> None:
    guard = make_guard()
    post = wrapped(guard)
    guard.close()
    guard.close()
    with pytest.raises(LedgerError, match="closed"):
        post(a_task())
    assert not standin.received


# --- reading -------------------------------------------------------------------------------------------------


def test_status_shows_each_budget_with_its_window(guard: Guard) -> None:
    guard.set_budget("acme", "200", timezone="Europe/Berlin", warn_at=(50,))
    guard.set_budget("beta", "1", per="task")
    found = {(status.project, status.per): status for status in guard.status()}
    month = found["acme", "month"]
    assert [month.limit, month.spent, month.held, month.remaining] == [Decimal(n) for n in (200, 0, 0, 200)]
    assert month.window_start == datetime(2026, 10, 31, 23, tzinfo=UTC)
    assert month.window_end == datetime(2026, 11, 30, 23, tzinfo=UTC)
    assert found["/", "total"][3:5] == found["beta", "task"][3:5] == (None, None)
    assert {(s.project, s.per) for s in guard.status("acme")} == {("/", "total"), ("acme", "month")}


def test_remaining_is_the_least_of_the_hard_budgets_of_a_path(guard: Guard) -> None:
    guard.set_budget("acme", "0.5")
    guard.set_budget("acme/search", "0.1", action="warn")
    guard.set_budget("acme/search/prod", "0.2", per="task")
    assert guard.remaining() == Decimal("0.5")
    assert guard.remaining("acme/search/prod") == Decimal("0.2")
    assert guard.remaining("beta") == 1
    assert guard.remaining("/") == 1


def test_a_budget_set_again_keeps_what_is_not_named(make_guard: Callable[..., Guard]) -> None:
    guard = make_guard()
    terms: dict[str, Any] = {"timezone": "Asia/Tokyo", "warn_at": (50, 80), "action": "clamp", "floor": 256, "wait": 2}
    first = guard.set_budget("acme", 200, **terms)
    assert guard.set_budget("acme", 300) == replace(first, limit_nanos=300 * 10**9)
    assert guard.set_budget("acme", 300, wait=0).wait_ms == 0
    changed = guard.set_budget("acme", 300, action="block", warn_at=())
    assert (changed.floor_tokens, changed.warn_at, changed.timezone) == (256, (), "Asia/Tokyo")
    assert guard.set_budget("acme/new", 1).timezone == "UTC", "a new budget has the defaults"
    with pytest.raises(ConfigurationError, match=r"^floor: goes with the action 'clamp'"):
        guard.set_budget("acme", 300, floor=9)
    assert guard.budgets()[0] == changed


def test_a_program_s_default_leaves_an_operator_s_budget_as_it_is(make_guard: Callable[..., Guard]) -> None:
    guard = make_guard()
    mine = guard.set_budget("acme", 200, if_absent=True)
    assert guard.budgets() == [mine]
    operators = guard.set_budget("acme", 300, action="warn")
    assert guard.set_budget("acme", 200, action="block", if_absent=True) == operators
    assert guard.budgets() == [operators]
    guard.set_budget("acme/*", 5)
    assert guard.set_budget("acme/a", 7, if_absent=True).limit == 5, "a default is in force"


def test_a_default_refuses_as_the_child_s_own(
    make_guard: Callable[..., Guard], wrapped: Callable[[Guard], Post]
) -> None:
    guard = make_guard()
    post = wrapped(guard)
    guard.set_budget("acme/*", worst(guard))
    assert guard.remaining("acme/search/x") == worst(guard)
    assert guard.status() == []
    post(a_task())
    assert [(one.project, one.limit) for one in guard.status()] == [("acme/search", worst(guard))]
    with guard.scope(project="acme/search/deep"), pytest.raises(BudgetExceeded) as stop:
        post(a_task())
    assert stop.value.budget.project == "acme/search"
    with guard.scope(project="acme/other"):
        post(a_task())
    with pytest.raises(UnpricedTask):
        post(a_task(model="painter:1@1"))
    assert guard.remove_budget("acme/*")
    assert guard.remaining() is None
    audit(guard)


def test_a_budget_can_be_changed_and_removed(guard: Guard) -> None:
    guard.set_budget("acme", "0.5")
    guard.set_budget("acme", "0.6")
    assert [str(budget) for budget in guard.budgets()] == ["/ in total", "acme per month"]
    assert guard.remaining() == Decimal("0.6")
    assert guard.remove_budget("acme")
    assert not guard.remove_budget("acme")
    assert guard.remaining() == 1


def test_the_ledger_s_place_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("COSTGUARD_DB", str(tmp_path / "here.db"))
    with Guard():
        assert (tmp_path / "here.db").exists()
