"""Each fault of the stand-in over a real connection: what the client meets, and what is billed."""

from __future__ import annotations

import asyncio
import json
import re
from decimal import Decimal
from typing import Any

import httpx
import httpx2
import pytest
from standins import a_task, about, ask, stated, stream_events

from costguard.errors import ConfigurationError
from costguard.testing import KINDS, StandIn, exact, faults

pytest_plugins = ("standin_fixtures",)


def billed_by_the_table() -> dict[str, bool]:
    rows = re.findall(r"^(\w+)(?::NNN)? +(yes|no) ", faults.__doc__ or "", re.MULTILINE)
    return {kind: billed == "yes" for kind, billed in rows}


def test_the_table_of_faults_names_every_kind() -> None:
    assert set(billed_by_the_table()) == set(KINDS)


def meet(
    web: httpx.Client, standin: StandIn, url: str, kind: str
) -> tuple[dict[str, Any], httpx.Response | Exception, bytes]:
    """Send one task into a fault over a real connection: the task, how the call ended, what was read."""
    task = a_task(deliveryMethod="stream" if kind.startswith("stream_") else "sync")
    standin.fault({"status": "status:503", "status_billed": "status_billed:502"}.get(kind, kind))
    read = b""
    timeout = httpx.Timeout(5, read=0.2 if kind == "hang" else 5)
    try:
        with web.stream("POST", f"{url}/v1", json=[task], timeout=timeout) as response:
            for chunk in response.iter_raw():
                read += chunk
    except httpx.HTTPError as error:
        return task, error, read
    return task, response, read


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_is_billed_as_its_table_says_and_details_tell_the_truth(
    web: httpx.Client, standin: StandIn, url: str, kind: str
) -> None:
    task, _, _ = meet(web, standin, url, kind)
    assert (standin.billed(task["taskUUID"]) > 0) == billed_by_the_table()[kind]
    answer = ask(standin, about("getTaskDetails", task))
    if standin.bill:
        (item,) = answer["data"][0]["response"]["data"]
        total = item["cost"] if kind in ("cost_only", "odd_total") else item["usage"]["costBreakdown"]["total"]
        assert total == standin.billed()
    elif "data" in answer:
        assert answer["data"][0]["response"].keys() == {"errors"}
    else:
        assert "not found" in answer["errors"][0]["message"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_is_used_up_and_the_next_call_is_well(web: httpx.Client, standin: StandIn, url: str, kind: str) -> None:
    task, _, _ = meet(web, standin, url, kind)
    again = web.post(f"{url}/v1", json=[a_task()])
    assert again.status_code == 200
    assert stated(exact.loads(again.content)) == standin.billed() - standin.billed(task["taskUUID"])


@pytest.mark.parametrize("kind", ["drop_before", "drop_after", "hang", "cut"])
def test_a_broken_connection_is_an_exception_of_the_clients_own_module(
    web: httpx.Client, standin: StandIn, url: str, kind: str
) -> None:
    seen: list[str] = [type(meet(web, standin, url, kind)[1]).__name__]
    standin.fault(kind, times=3)
    for module in (httpx, httpx2):
        transport = standin.transport(module.__name__)  # type: ignore[call-overload]
        with module.Client(transport=transport) as client, pytest.raises(module.TransportError) as error:
            client.post("http://standin/v1", json=[a_task()])
        seen.append(type(error.value).__name__)

    async def call() -> None:
        async with httpx2.AsyncClient(transport=standin.async_transport("httpx2")) as client:
            await client.post("http://standin/v1", json=[a_task()])

    with pytest.raises(httpx2.TransportError) as error:
        asyncio.run(call())
    seen.append(type(error.value).__name__)
    expected = {"hang": "ReadTimeout", "cut": "RemoteProtocolError"}.get(kind, "ReadError")
    on_a_socket = "RemoteProtocolError" if kind.startswith("drop") else expected
    assert seen == [on_a_socket, expected, expected, expected]


@pytest.mark.parametrize("kind", ["cut", "hang"])
def test_a_stream_breaks_in_the_middle(web: httpx.Client, standin: StandIn, url: str, kind: str) -> None:
    standin.fault(kind)
    task = a_task(deliveryMethod="stream")
    timeout = httpx.Timeout(5, read=0.2)
    with web.stream("POST", f"{url}/v1", json=task, timeout=timeout) as response:
        chunks = response.iter_raw()
        read: list[bytes] = []
        with pytest.raises(httpx.TransportError):
            read.extend(chunks)
    assert b"delta" in b"".join(read)
    assert b"[DONE]" not in b"".join(read)
    assert standin.billed(task["taskUUID"]) > 0


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("status", (503, '"errors"')),
        ("status_billed", (502, '"errors"')),
        ("singular_error", (400, '{"error":{"code"')),
        ("no_content_400", (400, "no content")),
        ("html", (200, "<!doctype html>")),
        ("error_entry", (200, '{"errors":[')),
        ("error_timeout", (200, "timeout")),
        ("item_error", (200, '"status":"error"')),
        ("forget", (200, '{"data":[]}')),
        ("nan", (200, '"total":NaN')),
        ("negative", (200, '"total":-1,')),
        ("huge", (200, '"total":1000000000000,')),
        ("stream_error", (200, '"errors"')),
    ],
)
def test_a_fault_shows_what_its_table_says(
    web: httpx.Client, standin: StandIn, url: str, kind: str, shown: tuple[int, str]
) -> None:
    _, response, read = meet(web, standin, url, kind)
    status, mark = shown
    assert isinstance(response, httpx.Response)
    assert response.status_code == status
    assert mark in read.decode()


def test_figures_are_missing_or_wrong_as_their_fault_says(standin: StandIn) -> None:
    def item(kind: str) -> dict[str, Any]:
        standin.fault(kind)
        result: dict[str, Any] = ask(standin, a_task())["data"][0]
        return result

    assert {"cost", "usage"}.isdisjoint(item("no_cost"))
    assert "usage" not in item("cost_only")
    assert "cost" not in item("usage_only")
    assert "costBreakdown" not in item("usage_only")["usage"]
    odd = item("odd_total")
    assert odd["cost"] - odd["usage"]["costBreakdown"]["total"] == Decimal("0.01")
    assert standin.bill[-1].amount == odd["cost"]
    bad = item("bad_breakdown")["usage"]["costBreakdown"]["tokens"]["prompt"]
    assert sum(leaf["cost"] for leaf in bad["modalities"]) - bad["cost"] == Decimal("0.001")


def test_streams_end_early_or_without_a_cost_as_their_fault_says(web: httpx.Client, standin: StandIn, url: str) -> None:
    whole = stream_events(web.post(f"{url}/v1", json=a_task(deliveryMethod="stream")).content)
    cut = stream_events(meet(web, standin, url, "stream_cut")[2])
    assert 0 < len(cut) < len(whole) - 1
    assert "cost" not in "".join(cut)
    assert "[DONE]" not in cut
    free_of_cost = stream_events(meet(web, standin, url, "stream_no_cost")[2])
    assert free_of_cost[-1] == "[DONE]"
    assert "cost" not in "".join(free_of_cost)


def test_a_redirect_leads_back_to_the_answer(web: httpx.Client, standin: StandIn, url: str) -> None:
    standin.fault("redirect:307")
    response = web.post(f"{url}/v1", json=[a_task()], follow_redirects=True)
    assert [hop.status_code for hop in response.history] == [307]
    assert len(standin.bill) == 1


def test_faults_wait_for_their_task_in_order_and_for_as_many_times(standin: StandIn) -> None:
    mine, other = a_task(), a_task()
    standin.fault("status:429", task_uuid=mine["taskUUID"], times=2)
    standin.fault("forget", task_uuid=mine["taskUUID"])
    replies = [standin.handle("POST", "/v1", {}, json.dumps(task).encode()) for task in (other, mine, mine, mine, mine)]
    assert [reply.status for reply in replies] == [200, 429, 429, 200, 200]
    assert [b'"text":' in reply.chunks[0] for reply in replies] == [True, False, False, False, True]


def test_a_task_meets_one_fault_at_a_time(standin: StandIn) -> None:
    standin.fault("cut")
    standin.fault("no_cost")
    body = json.dumps(a_task()).encode()
    cut, costless, well = (standin.handle("POST", "/v1", {}, body) for _ in range(3))
    assert cut.fault == "cut"
    assert [b'"cost"' in reply.chunks[0] for reply in (costless, well)] == [False, True]


def test_a_fault_of_one_task_leaves_the_others_in_its_request_alone(standin: StandIn) -> None:
    good, bad = a_task(), a_task()
    standin.fault("error_entry", task_uuid=bad["taskUUID"])
    answer = ask(standin, good, bad)
    assert [item["taskUUID"] for item in answer["data"]] == [good["taskUUID"]]
    assert [error["taskUUID"] for error in answer["errors"]] == [bad["taskUUID"]]


def test_a_fault_spares_free_tasks_unless_it_matches_them(standin: StandIn) -> None:
    task = a_task(deliveryMethod="async")
    ask(standin, task)
    poll = json.dumps(about("getResponse", task)).encode()
    standin.fault("status:500")
    assert standin.handle("POST", "/v1", {}, poll).status == 200
    standin.fault("status:502", match=lambda asked: asked["taskType"] == "getResponse")
    assert standin.handle("POST", "/v1", {}, poll).status == 502
    standin.fault("forget", match=lambda asked: asked["taskType"] == "getResponse")
    assert b'"data":[]' in standin.handle("POST", "/v1", {}, poll).chunks[0]


@pytest.mark.parametrize("kind", ["item_error", "error_timeout"])
def test_an_async_task_that_fails_says_so_in_its_polls(kind: str) -> None:
    standin = StandIn(polls_until_done=0)
    task = a_task(deliveryMethod="async")
    standin.fault(kind)
    assert "errors" not in ask(standin, task)
    poll = ask(standin, about("getResponse", task))
    assert poll["data"][0]["status"] == "error" if kind == "item_error" else poll["errors"][0]["code"]


@pytest.mark.parametrize("kind", ["nonsense", "status", "status:99", "status:abc", "cut:500", ""])
def test_an_unknown_fault_is_refused(standin: StandIn, kind: str) -> None:
    with pytest.raises(ConfigurationError, match="fault"):
        standin.fault(kind)
