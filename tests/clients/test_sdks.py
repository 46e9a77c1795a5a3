"""The SDKs of OpenAI and Anthropic: charged at the bill, refused with costguard's own errors, in every way to ask.

`test_old_sdks.py` runs these once more with older versions.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import tempfile
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from conftest import FLASH, audit, only_task
from hypothesis import given, settings
from hypothesis import strategies as st
from sdks import CHAT, EACH, KINDS, MESSAGES, WAYS, SdkClient, for_once, own_http_client

from costguard import BudgetExceeded, ConfigurationError, Guard, InvalidRequest, LedgerError, UnpricedTask
from costguard.clients import adapter
from costguard.errors import PriceFileError
from costguard.money import NANOS
from costguard.testing import StandIn

MakeClient = Callable[..., SdkClient]

each = pytest.mark.parametrize(("kind", "form"), EACH)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of client in turn."""
    return str(request.param)


@pytest.fixture
def form(kind: str) -> str:
    """The first form that it knows."""
    return next(form for known, form in EACH if known == kind)


@pytest.fixture
def url(standin: StandIn) -> Iterator[str]:
    """Where the stand-in is served."""
    with standin.serve() as served:
        yield served


@pytest.fixture
def guard(make_guard: Callable[..., Guard], url: str) -> Guard:
    """A guard that knows the stand-in, under a hard budget."""
    guard = make_guard(endpoints=[f"{url}/v1"])
    guard.set_budget("/", "1", per="total")
    return guard


@pytest.fixture
def make(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeClient]:
    """Make clients; they are closed at the end."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made: list[SdkClient] = []

    def make_one(kind: str, **options: Any) -> SdkClient:
        made.append(SdkClient(kind, url, **options))
        return made[-1]

    yield make_one
    for client in made:
        client.close()


@pytest.fixture
def client(kind: str, guard: Guard, make: MakeClient) -> SdkClient:
    """A wrapped client."""
    made = make(kind)
    assert guard.wrap(made.bare) is made.bare
    return made


def booked(guard: Guard) -> tuple[int, int]:
    """Charged and held, in nano-USD, of all tasks."""
    rows = guard.ledger.tasks()
    return sum(row.charged for row in rows), sum(row.held for row in rows)


def nanos(amount: Decimal) -> int:
    return int(amount * NANOS)


def empty(guard: Guard) -> None:
    """From now on every call is over budget."""
    guard.set_budget("/", "0.000000001", per="total")


def knocks(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by the path of each request that comes to the gate."""
    found: list[str] = []
    enter = guard.enter

    def noted(call: Any, body: bytes) -> Any:
        found.append(call.path)
        return enter(call, body)

    monkeypatch.setattr(guard, "enter", noted)
    return found


def test_the_sdks_are_those_that_were_asked_for() -> None:
    wanted = os.environ.get("COSTGUARD_SDKS")
    for name in ("openai", "anthropic"):
        module = importlib.import_module(name)
        if wanted:
            assert Path(module.__file__ or "").is_relative_to(wanted)
            assert f"{name}-{module.__version__.partition('.')[0]}" in wanted
        else:
            assert module.__version__.partition(".")[0] == adapter(name).SDK.majors[-1]


# -- charged ------------------------------------------------------------------------------------


@each
def test_every_way_to_ask_is_charged_at_the_bill(
    kind: str, form: str, client: SdkClient, guard: Guard, standin: StandIn
) -> None:
    for basis in ("cost", "computed"):
        standin.tells_cost = basis == "cost"
        for way in WAYS:
            known = {row.task_uuid for row in guard.ledger.tasks()}
            assert "harbour" in client.ask(form, way), way
            (row,) = [row for row in guard.ledger.tasks() if row.task_uuid not in known]
            assert (row.status, row.basis, row.held, row.charged) == (
                "settled",
                basis,
                0,
                nanos(standin.bill[-1].amount),
            )
    assert booked(guard) == (nanos(standin.billed()), 0)
    audit(guard)


def test_so_it_is_with_the_http_client_that_the_sdk_makes(
    make: MakeClient, kind: str, form: str, guard: Guard, standin: StandIn
) -> None:
    client = make(kind, http_client=None)
    guard.wrap(client.bare)
    for way in ("plain", "streamed"):
        client.ask(form, way)
    assert booked(guard) == (nanos(standin.billed()), 0)


@each
@pytest.mark.parametrize("way", ["plain", "streamed", "raw"])
def test_a_lost_call_is_the_only_thing_held_and_is_listed(
    kind: str, form: str, way: str, client: SdkClient, guard: Guard, standin: StandIn
) -> None:
    client.ask(form, way)
    if way == "streamed":
        standin.fault("cut")
        with pytest.raises(Exception, match=r"(?s).+"):
            client.ask(form, way)
    else:
        standin.fault("drop_after")
        with pytest.raises(client.module.APIConnectionError):
            client.ask(form, way, client=client.bare.with_options(max_retries=0))
    client.ask(form, way)
    (lost,) = [row for row in guard.ledger.tasks() if row.held]
    assert lost.status == "unresolved"
    charged, held = booked(guard)
    assert charged == nanos(standin.bill[0].amount + standin.bill[2].amount)
    assert held >= nanos(standin.bill[1].amount)
    with httpx.Client(base_url="https://nobody.example") as nobody:
        (found,) = guard.reconcile(nobody, min_age=0).left
    assert (found.task_uuid, found.outcome) == (lost.task_uuid, "open")
    guard.resolve(lost.task_uuid, charged=standin.bill[1].amount, reason="by the invoice")
    assert booked(guard) == (nanos(standin.billed()), 0)
    audit(guard)


def test_a_receipt_lies_beside_the_raw_response(client: SdkClient, form: str, guard: Guard, standin: StandIn) -> None:
    where = client.bare.chat.completions if form == CHAT else client.bare.messages
    asked: Any = {"model": FLASH, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50}
    raw = client.call(where.with_raw_response.create, **asked)
    receipt = raw.http_response.extensions["costguard"]
    assert nanos(receipt.charged) == nanos(standin.billed())


def test_a_scope_around_a_call_holds(client: SdkClient, form: str, guard: Guard) -> None:
    with guard.scope(project="acme/other", tags={"user": "u1"}):
        client.ask(form)
    assert (only_task(guard).project, only_task(guard).tags) == ("acme/other", '{"user": "u1"}')


# -- refused ------------------------------------------------------------------------------------


@each
def test_a_call_over_budget_arrives_as_itself_at_once(
    kind: str, form: str, client: SdkClient, guard: Guard, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty(guard)
    knocked = knocks(guard, monkeypatch)
    for n, way in enumerate(WAYS, start=1):
        with pytest.raises(BudgetExceeded) as stop:
            client.ask(form, way)
        assert (stop.value.__cause__, stop.value.__context__) == (None, None)
        assert len(knocked) == n, way
    assert standin.received == []
    assert guard.ledger.tasks() == []


def test_so_do_the_other_refusals(client: SdkClient, form: str, guard: Guard, standin: StandIn) -> None:
    with pytest.raises(UnpricedTask):
        client.ask(form, model="nobody:knows@1")
    with pytest.raises(InvalidRequest):
        client.ask(form, "streamed", model=3)
    guard.close()
    with pytest.raises(LedgerError, match="is closed"):
        client.ask(form)
    with pytest.raises(LedgerError, match="is closed"):
        client.ask(form, client=client.bare.with_options(timeout=5))
    assert standin.received == []


@pytest.mark.parametrize("error", [ConfigurationError("a"), PriceFileError("b"), LedgerError("c")])
def test_so_does_every_error_of_costguard_with_its_cause(
    client: SdkClient, form: str, guard: Guard, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> Any:
        raise error from cause

    cause = OSError("the disk is full")
    monkeypatch.setattr(guard, "enter", fail)
    with pytest.raises(type(error)) as stop:
        client.ask(form)
    assert stop.value is error
    assert stop.value.__cause__ is cause


def test_what_is_refused_between_two_tries_of_the_sdk_arrives_as_itself(
    client: SdkClient, form: str, guard: Guard, standin: StandIn
) -> None:
    client.ask(form)
    guard.set_budget("/", Decimal(3 * booked(guard)[0]) / NANOS, per="total")
    standin.fault("status_billed:500", times=5)
    with pytest.raises(BudgetExceeded):
        client.ask(form)
    assert len(standin.received) == 2
    assert [row.status for row in guard.ledger.tasks()].count("unresolved") == 1
    audit(guard)


def test_after_a_refusal_and_beside_one_calls_go_on(
    make: MakeClient, kind: str, form: str, guard: Guard, standin: StandIn
) -> None:
    client = make(kind)
    guard.wrap(client.bare)
    guard.set_budget("acme/poor", "0.000000001", per="total")
    if not client.is_async:
        with guard.scope(project="acme/poor"), pytest.raises(BudgetExceeded):
            client.ask(form)
        client.ask(form)
        assert len(standin.received) == 1
        return
    where = client.bare.chat.completions if form == CHAT else client.bare.messages

    async def ask(project: str) -> str:
        with guard.scope(project=project):
            await where.create(model=FLASH, messages=[{"role": "user", "content": "Hello"}], max_tokens=50)
        return project

    async def ask_all() -> list[Any]:
        projects = ["acme/poor", "acme/rich"] * 4
        return await asyncio.gather(*(ask(project) for project in projects), return_exceptions=True)

    found = client.call(ask_all)
    assert [type(one) for one in found] == [BudgetExceeded, str] * 4
    assert booked(guard) == (nanos(standin.billed()), 0)


# -- sent again by the SDK ----------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["status:429", "status:503", "status_billed:500", "drop_after", "drop_before"])
def test_each_try_of_the_sdk_is_held_for(
    fault: str, client: SdkClient, form: str, guard: Guard, standin: StandIn
) -> None:
    standin.fault(fault, times=2)
    client.ask(form)
    assert len(standin.received) == 3
    rows = guard.ledger.tasks()
    wanted = "released" if fault == "status:429" else "unresolved"
    assert sorted(row.status for row in rows) == sorted([wanted, wanted, "settled"])
    charged, held = booked(guard)
    assert charged == nanos(standin.bill[-1].amount)
    assert held >= nanos(standin.billed()) - charged
    audit(guard)


def test_a_timeout_is_held_and_its_next_try_too(client: SdkClient, form: str, guard: Guard, standin: StandIn) -> None:
    standin.fault("hang")
    client.ask(form, client=impatient(client.bare))
    assert sorted(row.status for row in guard.ledger.tasks()) == ["settled", "unresolved"]
    charged, held = booked(guard)
    assert charged == nanos(standin.bill[-1].amount)
    assert held >= nanos(standin.bill[0].amount)


def impatient(client: Any) -> Any:
    """A copy whose first try times out soon, and the others late."""
    copied = client.with_options(timeout=0.2)
    for_once(copied)
    build = copied._build_request

    def built(options: Any, **more: Any) -> Any:
        if more.get("retries_taken"):
            options.timeout = 60
        return build(options, **more)

    copied._build_request = built
    return copied


FAULTS = ("status:401", "status:429", "status:503", "status_billed:500", "drop_after", "drop_before", "cut")


@settings(max_examples=12)
@given(st.data())
def test_after_any_mix_of_faults_and_tries_what_is_held_is_what_was_lost(data: st.DataObject) -> None:
    standin = StandIn()
    kind, form = data.draw(st.sampled_from(EACH))
    with (
        standin.serve() as url,
        tempfile.TemporaryDirectory() as folder,
        Guard(Path(folder) / "l.db", "acme", durability="normal", endpoints=[f"{url}/v1"]) as guard,
        contextlib.closing(SdkClient(kind, url, max_retries=1)) as client,
    ):
        guard.set_budget("/", "1", per="total")
        guard.wrap(client.bare)
        for _ in range(data.draw(st.integers(1, 4))):
            standin.tells_cost = data.draw(st.booleans())
            for fault in data.draw(st.lists(st.sampled_from(FAULTS), max_size=2)):
                standin.fault(fault)
            # How a body that was cut ends is the HTTP client's own error, where the SDK has left it the stream.
            with contextlib.suppress(client.module.APIError, httpx.TransportError, httpx2.TransportError):
                client.ask(form, data.draw(st.sampled_from(("plain", "streamed", "raw"))))
        rows = guard.ledger.tasks()
        assert len(rows) == len(standin.received)
        charged, held = booked(guard)
        assert charged <= nanos(standin.billed()) <= charged + held
        lost = [row for row in rows if row.held]
        assert {row.status for row in lost} <= {"unresolved"}
        if not lost:
            assert charged == nanos(standin.billed())
        assert guard.verify().difference is None


# -- which clients ------------------------------------------------------------------------------


@pytest.mark.parametrize("copier", ["copy", "with_options"])
def test_copies_of_a_wrapped_client_are_wrapped(
    copier: str, client: SdkClient, form: str, guard: Guard, standin: StandIn
) -> None:
    first = getattr(client.bare, copier)(max_retries=1)
    second = getattr(first, copier)(timeout=50)
    client.ask(form, client=second)
    assert booked(guard) == (nanos(standin.billed()), 0)
    empty(guard)
    for copied in (first, second):
        with pytest.raises(BudgetExceeded):
            client.ask(form, client=copied)
    assert len(standin.received) == 1


def test_a_copy_with_an_http_client_of_its_own_is_wrapped(
    client: SdkClient, kind: str, form: str, guard: Guard, standin: StandIn
) -> None:
    other = own_http_client(kind, follow_redirects=False)
    copied = client.bare.copy(http_client=other)
    client.ask(form, client=copied)
    assert booked(guard) == (nanos(standin.billed()), 0)
    empty(guard)
    with pytest.raises(BudgetExceeded):
        client.ask(form, client=copied)
    client.call(copied.close)


def test_a_client_with_an_http_client_of_its_own_is_wrapped_with_it(
    make: MakeClient, kind: str, form: str, guard: Guard, standin: StandIn
) -> None:
    client = make(kind, http_client=own_http_client(kind, headers={"X-Mine": "yes"}))
    guard.wrap(client.bare)
    client.ask(form)
    assert standin.received[-1].headers["x-mine"] == "yes"
    assert booked(guard) == (nanos(standin.billed()), 0)
    empty(guard)
    with pytest.raises(BudgetExceeded):
        client.ask(form)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_openai_clients_that_stand_on_httpx_are_wrapped(
    make: MakeClient, kind: str, guard: Guard, standin: StandIn
) -> None:
    client = make(kind, http_client=(httpx.AsyncClient if "Async" in kind else httpx.Client)(trust_env=False))
    guard.wrap(client.bare)
    for way in ("plain", "streamed"):
        client.ask(CHAT, way)
    assert booked(guard) == (nanos(standin.billed()), 0)
    empty(guard)
    with pytest.raises(BudgetExceeded):
        client.ask(CHAT, "streamed")


@pytest.mark.parametrize("name", ["AzureOpenAI", "AsyncAzureOpenAI"])
def test_azure_clients_are_wrapped(name: str, make: MakeClient, guard: Guard, standin: StandIn, url: str) -> None:
    client = make(f"openai.{name}", base_url=None, azure_endpoint=url, api_version="2026-01-01")
    guard.wrap(client.bare)
    for azure in (client.bare, client.bare.with_options(timeout=5)):
        with pytest.raises(client.module.NotFoundError):  # the stand-in has no deployments
            client.ask(CHAT, client=azure)
    assert {one.path.partition("?")[0] for one in standin.received} == {f"/openai/deployments/{FLASH}/chat/completions"}
    empty(guard)
    for azure in (client.bare, client.bare.with_options(timeout=5)):
        with pytest.raises(BudgetExceeded):
            client.ask(CHAT, client=azure)
    assert len(standin.received) == 2


def test_a_class_of_ones_own_is_wrapped_and_stays_what_it_is(
    make: MakeClient, kind: str, form: str, guard: Guard, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, client_class = kind.partition(".")
    module = importlib.import_module(name)
    mine: Any = type("Mine", (getattr(module, client_class),), {"__module__": "myapp"})
    own = "AsyncMine" if "Async" in kind else "Mine"
    monkeypatch.setattr(module, own, mine, raising=False)
    client = make(f"{name}.{own}")
    guard.wrap(client.bare)
    assert type(client.bare) is mine
    assert type(client.bare.copy()) is mine
    client.ask(form)
    assert booked(guard) == (nanos(standin.billed()), 0)


def test_middleware_of_anthropics_sdk_is_passed(make: MakeClient, guard: Guard, standin: StandIn) -> None:
    seen: list[str] = []

    def between(request: Any, call_next: Any) -> Any:
        seen.append("asked")
        response = call_next(request)
        seen.append("answered")
        return response

    client = make("anthropic.Anthropic", middleware=[between])
    guard.wrap(client.bare)
    client.ask(MESSAGES, "streamed")
    empty(guard)
    with pytest.raises(BudgetExceeded):
        client.ask(MESSAGES)
    assert seen == ["asked", "answered", "asked"]
    assert booked(guard) == (nanos(standin.billed()), 0)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_refusal_below_a_retrying_transport_of_ones_own_arrives_as_itself(
    make: MakeClient, kind: str, guard: Guard, standin: StandIn
) -> None:
    is_async = "Async" in kind
    inner: Any = (guard.async_transport if is_async else guard.transport)(
        (standin.async_transport if is_async else standin.transport)("httpx")
    )

    class Again(httpx.BaseTransport, httpx.AsyncBaseTransport):
        def handle_request(self, request: httpx.Request) -> Any:
            assert inner.handle_request(request).status_code == 500
            empty(guard)
            return inner.handle_request(request)

        async def handle_async_request(self, request: httpx.Request) -> Any:
            assert (await inner.handle_async_request(request)).status_code == 500
            empty(guard)
            return await inner.handle_async_request(request)

    made: Any = httpx.AsyncClient if is_async else httpx.Client
    client = make(kind, http_client=made(transport=Again()))
    guard.wrap(client.bare)
    standin.fault("status_billed:500")
    with pytest.raises(BudgetExceeded):
        client.ask(CHAT)
    assert len(standin.received) == 1
    assert only_task(guard).status == "unresolved"
    assert booked(guard)[1] >= nanos(standin.billed())


@pytest.mark.parametrize("name", ["AnthropicVertex", "AsyncAnthropicVertex"])
def test_a_client_of_another_wire_is_none(name: str, guard: Guard) -> None:
    client = getattr(importlib.import_module("anthropic"), name)(region="r", project_id="p", access_token="t")
    with pytest.raises(TypeError, match=rf"takes anthropic\.Anthropic or .* got anthropic\..*{name}"):
        guard.wrap(client)


def test_wrapping_twice_is_once(client: SdkClient, form: str, guard: Guard, standin: StandIn) -> None:
    request = client.bare.request
    assert guard.wrap(guard.wrap(client.bare)) is client.bare
    assert client.bare.request is request
    client.ask(form)
    assert booked(guard) == (nanos(standin.billed()), 0)
    assert len(guard.ledger.tasks()) == 1


def test_a_second_guard_is_refused_until_the_first_is_closed(
    client: SdkClient, form: str, guard: Guard, make_guard: Callable[..., Guard], url: str, standin: StandIn
) -> None:
    other = make_guard("acme/other", endpoints=[f"{url}/v1"])
    with pytest.raises(ConfigurationError, match="another Guard"):
        other.wrap(client.bare)
    client.ask(form)
    assert only_task(guard).project == "acme/search"
    guard.close()
    other.wrap(client.bare)
    client.ask(form, client=client.bare.with_options(timeout=5))
    assert [row.project for row in other.ledger.tasks()].count("acme/other") == 1
    assert booked(other) == (nanos(standin.billed()), 0)


def test_a_closed_guard_wraps_nothing(make: MakeClient, kind: str, guard: Guard) -> None:
    guard.close()
    with pytest.raises(ConfigurationError, match="closed"):
        guard.wrap(make(kind).bare)


def test_a_part_of_a_client_is_none(client: SdkClient, form: str, guard: Guard) -> None:
    part = client.bare.chat if form == CHAT else client.bare.messages
    name = client.module.__name__
    with pytest.raises(
        TypeError, match=rf"guard\.wrap takes {name}\.\w+ or {name}\.Async\w+, .* got {name}\.resources"
    ):
        guard.wrap(part)


@pytest.mark.parametrize("version", ["0.28.1", "99.0.0", "unheard-of"])
def test_an_unknown_version_is_refused_by_name(
    version: str, make: MakeClient, kind: str, form: str, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make(kind)
    name = client.module.__name__
    monkeypatch.setattr(client.module, "__version__", version)
    with pytest.raises(ConfigurationError, match=rf"{name} {version} is a version .* guards {name} \d and \d"):
        guard.wrap(client.bare)
    assert not hasattr(client.bare, "_costguard")


def test_a_client_that_is_built_otherwise_is_refused_with_what_is_missing(
    make: MakeClient, kind: str, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make(kind)
    known = type(client.bare)
    name = f"{client.module.__name__} {client.module.__version__} is not built as costguard knows it: {known.__name__}"
    with monkeypatch.context() as patch:
        patch.setattr(client.bare, "_client", object())
        with pytest.raises(ConfigurationError, match=rf"{name}\._client"):
            guard.wrap(client.bare)
    for method in ("request", "copy", "with_options"):
        with monkeypatch.context() as patch:
            patch.setattr(client.bare, method, None)
            with pytest.raises(ConfigurationError, match=rf"{name}\.{method} is not there"):
                guard.wrap(client.bare)
    with monkeypatch.context() as patch:
        patch.setattr(known, "post", lambda self: self.send_it())
        with pytest.raises(ConfigurationError, match=rf"{name}\.post does not go through {known.__name__}\.request"):
            guard.wrap(client.bare)
    guard.wrap(client.bare)
