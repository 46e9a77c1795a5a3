"""The stand-in of the API: each road and each fault, over real loopback connections where it matters."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from costguard.errors import ConfigurationError
from costguard.testing import KINDS, Received, StandIn, Webhook, exact, faults, seeds
from costguard.testing.answers import text_tokens

FLASH = "google:gemini@3-flash"
PRO = "google:gemini@3.1-pro"


def a_task(content: str = "Describe the harbour in one line.", **fields: Any) -> dict[str, Any]:
    return {
        "taskType": "textInference",
        "taskUUID": str(uuid.uuid4()),
        "model": FLASH,
        "messages": [{"role": "user", "content": content}],
        "includeCost": True,
        "includeUsage": True,
        **fields,
    }


def ask(standin: StandIn, *tasks: dict[str, Any]) -> dict[str, Any]:
    """One POST without a carrier; the parsed answer, fractions as Decimal."""
    reply = standin.handle("POST", "/v1", {}, json.dumps(tasks).encode())
    parsed: dict[str, Any] = exact.loads(b"".join(reply.chunks))
    return parsed


def about(task_type: str, task: dict[str, Any]) -> dict[str, Any]:
    return {"taskType": task_type, "taskUUID": task["taskUUID"]}


def stated(answer: dict[str, Any]) -> Decimal:
    """The sum of the totals an answer states."""
    return sum((item["usage"]["costBreakdown"]["total"] for item in answer["data"]), Decimal(0))


def stream_events(body: bytes) -> list[str]:
    lines = re.split(r"\r?\n", body.decode())
    return [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]


@pytest.fixture
def standin() -> StandIn:
    return StandIn()


@pytest.fixture(scope="module")
def web() -> Iterator[httpx.Client]:
    """One client for all: each `httpx.post` would build a TLS context of its own."""
    with httpx.Client() as client:
        yield client


@pytest.fixture
def url(standin: StandIn) -> Iterator[str]:
    with standin.serve() as base:
        yield base


@contextmanager
def webhook_receiver(statuses: Iterator[int]) -> Iterator[tuple[str, list[Any]]]:
    """A server that collects what is posted to it and answers with the given statuses."""
    got: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(exact.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(next(statuses))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/hook", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# --- the published examples


def test_the_eight_published_examples_are_there_with_their_exact_costs() -> None:
    costs = [str(seed.response["cost"]) for seed in seeds()]
    assert costs == ["0.01572", "0.02386", "0.02394", "0.01311", "0.00147", "0.00122", "0.00308", "0.00419"]
    assert [seed.model for seed in seeds()] == [PRO] * 4 + [FLASH] * 4
    assert all(seed.url.startswith("https://runware.ai/docs/models/google-gemini-3-") for seed in seeds())
    assert len({(seed.name, seed.model) for seed in seeds()}) == 8


def test_a_caller_may_change_a_seed_without_changing_the_next_ones() -> None:
    seeds()[0].request["settings"]["maxTokens"] = 1
    assert seeds()[0].request["settings"]["maxTokens"] == 1200


@pytest.mark.parametrize("number", range(8))
def test_a_published_request_gets_its_published_response_under_its_own_uuid(
    web: httpx.Client, url: str, number: int
) -> None:
    seed = seeds()[number]
    mine = {"taskUUID": "mine", "includeCost": True, "includeUsage": True, "seed": 5}
    response = web.post(f"{url}/v1", json=[{**seed.request, **mine}])
    assert exact.loads(response.content) == {"data": [{**seed.response, "taskUUID": "mine"}]}


def test_published_figures_keep_their_digits_on_the_wire(web: httpx.Client, url: str) -> None:
    seed = seeds()[5]
    response = web.post(f"{url}/v1", json={**seed.request, "includeCost": True, "includeUsage": True})
    for figure in ('"cost":0.00122,', '"total":0.001217,', '"cost":0.000037,', '"cost":0,'):
        assert figure in response.text


def test_a_published_request_is_billed_at_the_published_total_else_at_the_cost(standin: StandIn) -> None:
    for seed in seeds():
        ask(standin, seed.request)
    assert [str(bill.amount) for bill in standin.bill] == [
        "0.01572", "0.02386", "0.02394", "0.01311", "0.00147", "0.001217", "0.003083", "0.00419",
    ]  # fmt: skip


def test_a_slug_names_the_same_example_and_without_seeds_the_answer_is_generated() -> None:
    request = {**seeds()[5].request, "model": "google-gemini-3-flash"}
    assert ask(StandIn(), request)["data"][0]["text"] == "Resting on a weathered wooden sill"
    assert ask(StandIn(seeds=False), request)["data"][0]["text"] != "Resting on a weathered wooden sill"


# --- generated answers and the bill


def test_cost_and_usage_come_only_when_asked_for_and_are_billed_anyway(standin: StandIn) -> None:
    bare = a_task(includeCost=False)
    del bare["includeUsage"]
    assert {"cost", "usage"}.isdisjoint(ask(standin, bare)["data"][0])
    cost_only = ask(standin, a_task(includeUsage=False))["data"][0]
    assert "cost" in cost_only
    assert "usage" not in cost_only
    assert len(standin.bill) == 2
    assert standin.billed(bare["taskUUID"]) > 0


@given(
    text=st.text(min_size=1, max_size=400),
    media=st.tuples(*[st.integers(0, 3)] * 4),
    model=st.sampled_from([FLASH, PRO, "someone:else@1"]),
    tokens=st.tuples(st.integers(1, 5000), st.integers(0, 6000)),
    results=st.integers(1, 4),
)
def test_every_level_of_a_generated_breakdown_adds_up_to_the_bill(
    text: str, media: tuple[int, ...], model: str, tokens: tuple[int, int], results: int
) -> None:
    max_tokens, wanted = tokens
    standin = StandIn(completion_tokens=wanted)
    kinds = ("images", "videos", "audios", "documents")
    inputs = {kind: ["x"] * count for kind, count in zip(kinds, media, strict=True)}
    task = a_task(
        text, model=model, inputs=inputs, settings={"maxTokens": max_tokens}, numberResults=results,
        tools=[{"type": "search"}],
    )  # fmt: skip
    answer = ask(standin, task)
    assert len(answer["data"]) == len(standin.bill) == results
    assert stated(answer) == standin.billed() == standin.billed(task["taskUUID"])
    for item in answer["data"]:
        usage, parts = item["usage"], item["usage"]["costBreakdown"]
        prompt, completion = parts["tokens"]["prompt"], parts["tokens"]["completion"]
        assert prompt["cost"] == sum(leaf["cost"] for leaf in prompt["modalities"])
        assert prompt["billableTokens"] == sum(leaf["tokens"] for leaf in prompt["modalities"])
        assert parts["total"] == prompt["cost"] + completion["cost"] + parts["features"]["search"]["cost"]
        assert completion["textTokens"] + completion["reasoningTokens"] == usage["completionTokens"]
        assert usage["completionTokens"] <= max_tokens
        assert usage["totalTokens"] == usage["promptTokens"] + usage["completionTokens"]
        assert abs(item["cost"] - parts["total"]) <= Decimal("0.000005")
        assert -item["cost"].as_tuple().exponent <= 5
        assert parts["totalDisplay"] == f"{parts['total']:.6f}"


def test_media_are_counted_as_in_the_published_examples(standin: StandIn) -> None:
    inputs = {"images": ["a", "b"], "videos": ["c"]}
    prompt = ask(standin, a_task(inputs=inputs))["data"][0]["usage"]["costBreakdown"]["tokens"]["prompt"]
    tokens = {leaf["modality"]: leaf["tokens"] for leaf in prompt["modalities"]}
    assert {kind: tokens[kind] for kind in ("IMAGE", "VIDEO", "AUDIO")} == {"IMAGE": 2128, "VIDEO": 384, "AUDIO": 152}


@pytest.mark.parametrize(("tokens", "rate"), [(199_999, 2), (200_000, 2), (200_001, 4)])
def test_the_whole_request_switches_above_200_000_prompt_tokens(tokens: int, rate: int) -> None:
    standin = StandIn(count_text=lambda _: tokens)
    parts = ask(standin, a_task(model=PRO))["data"][0]["usage"]["costBreakdown"]["tokens"]
    assert parts["prompt"]["cost"] == Decimal(tokens * rate).scaleb(-6)
    assert parts["completion"]["cost"] == Decimal(
        parts["completion"]["billableTokens"] * (10 + rate if rate == 2 else 18)
    ).scaleb(-6)


@given(st.text())
def test_text_tokens_are_even_and_never_more_than_the_bytes(text: str) -> None:
    tokens = text_tokens(text)
    assert tokens % 2 == 0
    assert tokens <= len(text.encode("utf-8", "surrogatepass"))


def test_several_results_have_their_own_seeds_and_on_request_their_index() -> None:
    standin = StandIn(result_index=True)
    task = a_task(numberResults=3, seed=2**32 - 1)
    items = ask(standin, task)["data"]
    assert [item["seed"] for item in items] == [2**32 - 1, 0, 1]
    assert [item["resultIndex"] for item in items] == [0, 1, 2]
    assert [(bill.attempt, bill.result_index) for bill in standin.bill] == [(1, 0), (1, 1), (1, 2)]


def test_a_task_sent_again_is_billed_again_and_its_results_can_be_told_apart(standin: StandIn) -> None:
    for request in (a_task(), {**seeds()[3].request, "includeCost": True}):
        first, second = ask(standin, request)["data"], ask(standin, request)["data"]
        assert first != second
        details = ask(standin, about("getTaskDetails", request))["data"][0]["response"]
        assert details == {"data": first + second}
    assert [bill.attempt for bill in standin.bill] == [1, 2, 1, 2]


def test_a_task_sent_again_can_be_recognised_and_billed_once() -> None:
    standin = StandIn(bill_retries_once=True)
    task = a_task()
    assert ask(standin, task) == ask(standin, task)
    assert len(standin.bill) == 1


def test_a_task_that_is_not_text_states_its_cost_only(standin: StandIn) -> None:
    image = {"taskType": "imageInference", "taskUUID": "i", "includeCost": True, "includeUsage": True}
    (item,) = ask(standin, image)["data"]
    assert item["cost"] == Decimal("0.0019") == standin.billed("i")
    assert "usage" not in item


# --- requests that are refused, and those that are free


def test_free_tasks_are_answered_and_not_billed(standin: StandIn) -> None:
    free = ["accountManagement", "modelSearch", "mediaStorage"]
    tasks = [{"taskType": "authentication", "apiKey": "secret"}]
    tasks += [{"taskType": kind, "taskUUID": kind} for kind in free]
    data = ask(standin, *tasks)["data"]
    assert [item["taskType"] for item in data] == ["authentication", *free]
    assert "secret" not in str(data)
    assert standin.bill == []


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"numberResults": 5}, "numberResults"),
        ({"numberResults": True}, "numberResults"),
        ({"deliveryMethod": "pigeon"}, "deliveryMethod"),
        ({"messages": []}, "messages"),
        ({"model": None}, "model"),
        ({"taskUUID": ""}, "taskUUID"),
        ({"taskType": None}, "taskType"),
        ({"settings": []}, "settings"),
        ({"settings": {"maxTokens": 0}}, "settings.maxTokens"),
        ({"inputs": {"images": 3}}, "inputs.images"),
        ({"tools": ["search"]}, "tools"),
    ],
)
def test_an_invalid_task_is_refused_in_the_documented_shape(
    standin: StandIn, fields: dict[str, Any], parameter: str
) -> None:
    reply = standin.handle("POST", "/v1", {}, json.dumps(a_task(**fields)).encode())
    (error,) = exact.loads(reply.chunks[0])["errors"]
    assert reply.status == 400
    assert error["parameter"] == parameter
    assert {"code", "message", "documentation"} <= error.keys()
    assert standin.bill == []


def test_an_invalid_task_beside_a_good_one_fails_alone(standin: StandIn) -> None:
    good, bad = a_task(), a_task(numberResults=0)
    answer = ask(standin, good, bad)
    assert [item["taskUUID"] for item in answer["data"]] == [good["taskUUID"]]
    assert [error["taskUUID"] for error in answer["errors"]] == [bad["taskUUID"]]
    assert [bill.task_uuid for bill in standin.bill] == [good["taskUUID"]]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[1]", b'"task"', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_task_list_is_refused(standin: StandIn, body: bytes) -> None:
    assert standin.handle("POST", "/v1", {}, body).status == 400


def test_other_addresses_and_methods_are_refused(web: httpx.Client, url: str) -> None:
    assert web.post(f"{url}/v2", json=a_task()).status_code == 404
    assert web.get(f"{url}/v1").status_code == 405


def test_what_arrived_is_kept_byte_for_byte(web: httpx.Client, standin: StandIn, url: str) -> None:
    body = b' {"taskType" : "modelSearch","taskUUID":"m" } '
    web.post(f"{url}/v1", content=iter([body[:7], body[7:]]), headers={"X-Mark": "Yes"})
    (got,) = standin.received
    assert isinstance(got, Received)
    assert (got.method, got.path, got.headers["x-mark"], got.body) == ("POST", "/v1", "Yes", body)
    assert got.tasks == [{"taskType": "modelSearch", "taskUUID": "m"}]


# --- async, polls, details, webhooks


def test_an_async_task_is_acknowledged_then_polled_cumulatively_and_repeatedly(url: str) -> None:
    task = a_task(deliveryMethod="async", numberResults=2)
    with httpx.Client(base_url=url) as client:
        ack = client.post("/v1", json=[task]).json()
        assert ack == {"data": [{"taskType": "textInference", "taskUUID": task["taskUUID"]}]}
        polls = [client.post("/v1", json=[about("getResponse", task)]).json()["data"] for _ in range(4)]
    statuses = [[item["status"] for item in poll] for poll in polls]
    assert statuses == [["processing"], ["success", "processing"], ["success"] * 2, ["success"] * 2]
    assert polls[1][0] == polls[2][0]
    assert polls[2] == polls[3]
    assert all("cost" in item for item in polls[3])


def test_polls_can_be_done_at_once() -> None:
    standin = StandIn(polls_until_done=0)
    task = a_task(deliveryMethod="async")
    ask(standin, task)
    assert ask(standin, about("getResponse", task))["data"][0]["status"] == "success"


def test_details_give_the_request_and_the_response_of_a_past_task(standin: StandIn) -> None:
    task = a_task(settings={"temperature": 0.42})
    answer = ask(standin, task)
    (details,) = ask(standin, about("getTaskDetails", task))["data"]
    assert details["request"] == {**task, "settings": {"temperature": Decimal("0.42")}}
    assert details == {**about("getTaskDetails", task), "request": details["request"], "response": answer}


def test_details_can_lack_the_cost_and_can_lag_behind() -> None:
    standin = StandIn(details_with_cost=False, details_until_done=1)
    task = a_task()
    ask(standin, task)
    lagging, done = (ask(standin, about("getTaskDetails", task))["data"][0]["response"] for _ in range(2))
    assert lagging["data"][0]["status"] == "processing"
    assert {"cost", "usage"}.isdisjoint(done["data"][0])


@pytest.mark.parametrize("task_type", ["getTaskDetails", "getResponse"])
def test_an_unknown_task_is_not_found_and_does_not_hide_known_ones(standin: StandIn, task_type: str) -> None:
    known, unknown = a_task(), a_task()
    ask(standin, known)
    reply = standin.handle("POST", "/v1", {}, json.dumps(about(task_type, unknown)).encode())
    assert reply.status == standin.not_found_status
    answer = ask(standin, about(task_type, known), about(task_type, unknown))
    assert answer["data"][0]["taskUUID"] == known["taskUUID"]
    assert answer["errors"][0]["taskUUID"] == unknown["taskUUID"]
    assert "not found" in answer["errors"][0]["message"]


def test_webhooks_come_once_per_result_twice_if_told_and_again_after_a_failure(web: httpx.Client) -> None:
    standin = StandIn(webhook_times=2)
    with webhook_receiver(iter([500] + [204] * 4)) as (hook, got):
        task = a_task(webhookURL=hook, numberResults=2)
        with standin.serve() as url:
            assert "text" not in web.post(f"{url}/v1", json=[task]).json()["data"][0]
    assert [item["status"] for item in got] == ["success"] * 5
    assert len({item["seed"] for item in got}) == 2
    assert {item["taskUUID"] for item in got} == {task["taskUUID"]}
    assert {(item["seed"], item["usage"]["costBreakdown"]["total"]) for item in got} == {
        (item["seed"], item["usage"]["costBreakdown"]["total"])
        for item in ask(standin, about("getTaskDetails", task))["data"][0]["response"]["data"]
    }


def test_webhooks_for_other_hosts_are_recorded_and_never_sent(
    web: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Webhook] = []

    def post(webhook: Webhook) -> bool:
        sent.append(webhook)
        return True

    monkeypatch.setattr("costguard.testing.server._post", post)
    standin = StandIn(webhook_envelope=True)
    hooks = ["https://example.com/hook", "http://127.0.0.1:9/hook"]
    with standin.serve() as url:
        for hook in hooks:
            web.post(f"{url}/v1", json=[a_task(webhookURL=hook)])
    assert [webhook.url for webhook in standin.webhooks] == hooks
    assert [webhook.url for webhook in sent] == hooks[1:]
    assert exact.loads(standin.webhooks[0].body)["data"][0]["status"] == "success"


# --- streams


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("crlf", [False, True])
def test_a_stream_says_what_a_plain_answer_says(web: httpx.Client, late: bool, crlf: bool) -> None:
    plain = ask(StandIn(), seeds()[2].request | {"includeCost": True})["data"][0]
    standin = StandIn(sse_late_cost=late, sse_crlf=crlf, sse_space=not crlf, sse_empty_uuid=late, chunk_bytes=7)
    task = {**seeds()[2].request, "includeCost": True, "deliveryMethod": "stream"}
    with standin.serve() as url, web.stream("POST", f"{url}/v1", json=[task]) as response:
        assert response.headers["content-type"] == "text/event-stream"
        body = response.read()
    *events, done = stream_events(body)
    frames = [exact.loads(event) for event in events]
    assert done == "[DONE]"
    assert "".join(frame["delta"].get("text", "") for frame in frames) == plain["text"]
    assert [f["delta"]["reasoningContent"] for f in frames if "reasoningContent" in f["delta"]] == plain[
        "reasoningContent"
    ]
    assert {frame["taskUUID"] for frame in frames} == {"" if late else task["taskUUID"]}
    assert [frame.get("finishReason") for frame in frames[-2:]] == (["length", None] if late else [None, "length"])
    assert frames[-1]["cost"] == standin.billed() == Decimal("0.02394")
    assert (b"\r\n" in body, b"data: " in body) == (crlf, not crlf)
    assert b": keep-alive" in body


def test_a_stream_tells_no_cost_when_not_asked(standin: StandIn) -> None:
    task = a_task(deliveryMethod="stream", includeCost=False, includeUsage=False)
    reply = standin.handle("POST", "/v1", {}, json.dumps(task).encode())
    assert b"cost" not in b"".join(reply.chunks)
    assert standin.billed() > 0


def test_streams_arrive_chunk_by_chunk_in_memory_and_over_a_socket(standin: StandIn, url: str) -> None:
    def pieces(client: httpx.Client) -> int:
        with client.stream("POST", "/v1", json=a_task(deliveryMethod="stream")) as response:
            return sum(1 for _ in response.iter_raw())

    with httpx.Client(base_url="http://standin", transport=standin.transport()) as client:
        assert pieces(client) > 5
    standin.chunk_delay_s = 0.01
    with httpx.Client(base_url=url) as client:
        assert pieces(client) > 5


# --- faults


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


# --- carriers


def test_httpx2_is_served_like_httpx(standin: StandIn, url: str) -> None:
    task = a_task(seed=1)
    with httpx2.Client(base_url=url) as client:
        over_socket = exact.loads(client.post("/v1", json=[task]).content)
    with httpx2.Client(base_url="http://standin", transport=StandIn().transport("httpx2")) as client:
        in_memory = exact.loads(client.post("/v1", json=[task]).content)
    assert over_socket == in_memory
    assert stated(over_socket) == standin.billed()


def test_async_clients_are_served_in_memory(standin: StandIn) -> None:
    async def calls() -> list[bytes]:
        async with httpx.AsyncClient(base_url="http://standin", transport=standin.async_transport()) as client:
            tasks = [a_task(), a_task(deliveryMethod="stream")]
            return [(await client.post("/v1", json=task)).content for task in tasks]

    plain, stream = asyncio.run(calls())
    assert stated(exact.loads(plain)) == standin.bill[0].amount
    assert stream_events(stream)[-1] == "[DONE]"


def test_many_threads_get_one_bill_each(standin: StandIn, url: str) -> None:
    totals: list[Decimal] = []

    def work() -> None:
        with httpx.Client(base_url=url) as client:
            answers = [client.post("/v1", json=[a_task()]) for _ in range(10)]
        totals.extend(stated(exact.loads(answer.content)) for answer in answers)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(standin.bill) == 80
    assert sum(totals) == standin.billed()


def test_one_connection_is_kept_for_many_calls(standin: StandIn, url: str) -> None:
    with httpx.Client(base_url=url, limits=httpx.Limits(max_connections=1)) as client:
        streams = [client.post("/v1", json=a_task()).extensions["network_stream"] for _ in range(3)]
        ports = {stream.get_extra_info("client_addr") for stream in streams}
    assert len(ports) == 1


def test_leaving_the_server_ends_hanging_calls_and_all_its_threads(web: httpx.Client, standin: StandIn) -> None:
    before = set(threading.enumerate())
    standin.fault("hang")
    endings: list[str] = []

    def call(url: str) -> None:
        try:
            web.post(f"{url}/v1", json=a_task(), timeout=None)
        except httpx.TransportError as error:
            endings.append(type(error).__name__)

    idle = httpx.Client()
    with standin.serve() as url:
        idle.get(f"{url}/v1")
        caller = threading.Thread(target=call, args=(url,))
        caller.start()
        while not standin.bill:
            threading.Event().wait(0.01)
    caller.join()
    idle.close()
    assert len(endings) == 1
    assert set(threading.enumerate()) == before


# --- exact JSON

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.decimals(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_json_comes_back_with_every_digit(value: Any) -> None:
    assert exact.loads(exact.dumps(value)) == value
    exact.dumps(value).encode()


def test_json_keeps_trailing_zeros_small_figures_and_lone_surrogates() -> None:
    text = '{"n":NaN,"a":0.00500,"b":0.000000001,"c":[1.0,null,true],"d":"\\ud800","e":"é"}'
    assert exact.dumps(exact.loads(text)) == text


def test_json_refuses_floats() -> None:
    with pytest.raises(TypeError, match="float"):
        exact.dumps({"cost": 0.1})
