"""Calls through the proxy by the clients that people have: the ledger is the bill, and errors are understood."""

from __future__ import annotations

import json
import socket
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from conftest import FLASH, a_task, audit
from proxied import Served, until

from costguard import Guard
from costguard.money import NANOS
from costguard.testing import StandIn
from costguard.wire import DIALECTS, NATIVE

pytest_plugins = ("serving_fixtures",)

MESSAGES: Any = [{"role": "user", "content": "Describe the harbour."}]


def gpt(served: Served, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="KEY", max_retries=0, **options)


def claude(served: Served, **options: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=served.url, api_key="KEY", max_retries=0, **options)


def chat(served: Served) -> str:
    with gpt(served) as client:
        answer = client.chat.completions.create(model=FLASH, messages=MESSAGES, max_tokens=100)
        return answer.choices[0].message.content or ""


def chat_streamed(served: Served) -> str:
    with gpt(served) as client:
        pieces = list(client.chat.completions.create(model=FLASH, messages=MESSAGES, max_tokens=100, stream=True))
        assert all(piece.choices for piece in pieces)  # what the guard asked for is not the caller's to see
        return "".join(piece.choices[0].delta.content or "" for piece in pieces)


def respond(served: Served) -> str:
    with gpt(served) as client:
        return client.responses.create(model=FLASH, input="Describe the harbour.", max_output_tokens=100).output_text


def respond_streamed(served: Served) -> str:
    with gpt(served) as client, client.responses.create(
        model=FLASH, input="Describe the harbour.", max_output_tokens=100, stream=True
    ) as events:  # fmt: skip
        return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def message(served: Served) -> str:
    with claude(served) as client:
        answer = client.messages.create(model=FLASH, messages=MESSAGES, max_tokens=100)
        return "".join(block.text for block in answer.content if block.type == "text")


def message_streamed(served: Served) -> str:
    with claude(served) as client, client.messages.create(
        model=FLASH, messages=MESSAGES, max_tokens=100, stream=True
    ) as events:  # fmt: skip
        return "".join(
            event.delta.text
            for event in events
            if event.type == "content_block_delta" and event.delta.type == "text_delta"
        )


def native(served: Served) -> str:
    answer = httpx.post(f"{served.url}/v1", json=[a_task()], headers={"Authorization": "Bearer KEY"})
    return str(answer.json()["data"][0]["text"])


def native_streamed(served: Served) -> str:
    return httpx.post(f"{served.url}/v1", json=[a_task(deliveryMethod="stream")]).text


CALLS = (chat, chat_streamed, respond, respond_streamed, message, message_streamed, native, native_streamed)


@pytest.mark.parametrize("call", CALLS)
def test_the_ledger_is_the_bill(
    call: Callable[[Served], str], served: Served, own_guard: Guard, standin: StandIn
) -> None:
    assert "harbour" in call(served)
    until(lambda: not served.proxy._calls)  # some SDKs leave a stream as soon as it says that it is done
    (row,) = own_guard.ledger.tasks()
    assert (row.status, row.project, row.charged) == ("settled", "acme/search", int(standin.billed() * NANOS))
    audit(own_guard)


def test_polls_settle_at_the_bill(served: Served, own_guard: Guard, standin: StandIn) -> None:
    task = a_task(deliveryMethod="async", numberResults=2)
    with httpx.Client(base_url=served.url) as client:
        client.post("/v1", json=[task])
        for _ in range(4):
            client.post("/v1", json=[{"taskType": "getResponse", "taskUUID": task["taskUUID"]}])
    until(lambda: not served.proxy._calls)
    (row,) = own_guard.ledger.tasks()
    assert (row.status, row.held, row.charged) == ("settled", 0, int(standin.billed() * NANOS))
    audit(own_guard)


def test_keys_pass_and_are_kept_nowhere(
    served: Served, own_guard: Guard, standin: StandIn, ledger: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    key = f"sk-{uuid.uuid4().hex}"
    headers = {"Authorization": f"Bearer {key}", "x-api-key": key}
    httpx.post(f"{served.url}/v1", json=[a_task(), {"taskType": "authentication", "apiKey": key}], headers=headers)
    assert standin.received[0].headers["authorization"] == f"Bearer {key}"
    assert standin.received[0].headers["x-api-key"] == key
    own_guard.close()
    files = b"".join(path.read_bytes() for path in ledger.parent.iterdir() if path.is_file())
    assert own_guard.project.encode() in files
    assert key.encode() not in files
    mine = [record for record in caplog.records if not record.name.startswith("httpcore")]
    assert not any(key in record.getMessage() for record in mine)


@pytest.mark.parametrize("call", CALLS)
def test_a_call_over_budget_is_refused_in_the_words_of_its_client(
    call: Callable[[Served], str], served: Served, own_guard: Guard, standin: StandIn
) -> None:
    own_guard.set_budget("acme", "0.000001", per="total")
    if call in (native, native_streamed):
        task = a_task()
        answer = httpx.post(f"{served.url}/v1", json=[task, a_task()])
        (first, other) = answer.json()["errors"]
        assert answer.status_code == 402
        assert first["code"] == other["code"] == "budgetExceeded"
        assert (first["taskUUID"], first["taskType"]) == (task["taskUUID"], "textInference")
        said = first["message"]
    else:
        with pytest.raises((openai.APIStatusError, anthropic.APIStatusError)) as caught:
            call(served)
        error: Any = caught.value
        assert error.status_code == 402
        body = error.body
        if isinstance(error, openai.APIStatusError):
            assert (error.code, error.type, error.param) == (
                "budget_exceeded", "insufficient_quota", None,
            )  # fmt: skip
            said = body["message"]
        else:
            assert (body["type"], body["error"]["type"]) == ("error", "billing_error")
            said = body["error"]["message"]
    assert "budget acme in total (0.000001 USD) has 0.000001 USD left" in said
    assert standin.received == []
    assert own_guard.ledger.tasks() == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1", b"[{"),
        ("/v1", b""),
        ("/v1/chat/completions", b"{}"),
        ("/v1/responses", b"\xff"),
        ("/v1/messages", b"[]"),
    ],
)
def test_what_cannot_be_read_is_answered_with_400(
    path: str, body: bytes, served: Served, standin: StandIn, web: httpx.Client
) -> None:
    answer = web.post(f"{served.url}{path}", content=body)
    assert answer.status_code == 400
    assert "nothing was sent" in answer.text
    assert standin.received == []


def test_a_model_without_a_price_is_refused_and_so_is_a_path_that_is_not_metered(
    served: Served, standin: StandIn, web: httpx.Client
) -> None:
    for path in ("/v1/chat/completions", "/v1/completions"):
        answer = web.post(f"{served.url}{path}", json={"model": "nobody:knows@it", "messages": MESSAGES})
        assert (answer.status_code, answer.json()["error"]["code"]) == (402, "unpriced_task")
    assert standin.received == []


def test_the_providers_own_refusals_pass_as_they_are_and_free_the_hold(
    served: Served, own_guard: Guard, standin: StandIn
) -> None:
    standin.fault("status:429")
    with gpt(served) as client, pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model=FLASH, messages=MESSAGES, max_tokens=100)
    (row,) = own_guard.ledger.tasks()
    assert (row.status, row.held) == ("released", 0)


def test_an_upstream_that_is_not_there_is_502_and_nothing_is_held(
    guard_of: Callable[..., Guard], serve: Callable[..., Served], web: httpx.Client
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    guard = guard_of(url)
    proxy = serve(guard, url)
    answer = web.post(f"{proxy.url}/v1", json=[a_task()])
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (502, "upstreamUnreachable")
    assert [(row.status, row.held) for row in guard.ledger.tasks()] == [("released", 0)]
    assert web.get(f"{proxy.url}/v1/models").status_code == 502


def test_an_upstream_that_hangs_up_is_502_and_the_call_stays_unresolved(
    served: Served, own_guard: Guard, standin: StandIn, web: httpx.Client
) -> None:
    standin.fault("drop_after")
    answer = web.post(f"{served.url}/v1/messages", json={"model": FLASH, "messages": MESSAGES, "max_tokens": 50})
    assert answer.status_code == 502
    assert answer.json()["error"]["type"] == "api_error"
    assert "may have been billed" in answer.text
    (row,) = own_guard.ledger.tasks()
    assert row.status == "unresolved"
    audit(own_guard)


def test_an_upstream_that_says_nothing_for_longer_than_allowed_is_504_and_the_call_stays_unresolved(
    own_guard: Guard, upstream: str, serve: Callable[..., Served], standin: StandIn, web: httpx.Client
) -> None:
    standin.fault("hang")
    proxy = serve(own_guard, upstream, timeout_s=0.05)
    answer = web.post(f"{proxy.url}/v1/responses", json={"model": FLASH, "input": "x", "max_output_tokens": 50})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "upstream_timeout")
    assert [row.status for row in own_guard.ledger.tasks()] == ["unresolved"]


def test_a_ledger_that_cannot_be_used_is_503_and_nothing_is_sent(
    served: Served, own_guard: Guard, standin: StandIn, web: httpx.Client
) -> None:
    assert web.get(f"{served.url}/healthz").json() == {"status": "ok", "mode": "enforce"}
    own_guard.close()
    answer = web.post(f"{served.url}/v1/chat/completions", json={"model": FLASH, "messages": MESSAGES})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "ledger_unavailable")
    assert web.get(f"{served.url}/healthz").status_code == 503
    assert web.get(f"{served.url}/metrics").status_code == 503
    assert standin.received == []


@pytest.mark.parametrize("mode", ["observe", "off"])
def test_in_the_modes_that_refuse_nothing_calls_pass(
    mode: str, guard_of: Callable[..., Guard], upstream: str, serve: Callable[..., Served], standin: StandIn
) -> None:
    guard = guard_of(upstream, mode=mode)
    guard.set_budget("acme", 0, per="total")
    assert "harbour" in chat(serve(guard, upstream))
    assert standin.billed() > 0
    assert httpx.get(f"{serve(guard, upstream).url}/metrics").status_code == 200


@pytest.mark.parametrize("program", ["node", "curl"])
def test_programs_in_other_languages_need_nothing_but_the_address(
    program: str, served: Served, own_guard: Guard, standin: StandIn
) -> None:
    body = json.dumps({"model": FLASH, "messages": MESSAGES, "max_tokens": 50, "stream": True})
    url = f"{served.url}/v1/chat/completions"
    script = (
        "const [url, body] = process.argv.slice(1); const headers = {'content-type': 'application/json',"
        " authorization: 'Bearer KEY'}; fetch(url, {method: 'POST', headers, body})"
        ".then(async answer => console.log(answer.status, await answer.text()))"
    )
    words = {
        "node": ["node", "-e", script, url, body],
        "curl": ["curl", "-sS", "-w", "%{http_code}", "-H", "Content-Type: application/json", "-d", body, url],
    }[program]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    except FileNotFoundError:
        pytest.skip(f"there is no {program}")
    assert "200" in done.stdout
    assert "data: [DONE]" in done.stdout
    until(lambda: not served.proxy._calls)
    assert [row.charged for row in own_guard.ledger.tasks()] == [int(standin.billed() * NANOS)]


def test_every_wire_tells_a_problem_in_json_whatever_the_body(served: Served) -> None:
    from costguard.wire.dialect import Problem

    problem = Problem(402, "budget_exceeded", "no ✓")
    for dialect in DIALECTS:
        for body in (b"", b"\xff", b"[" * 100_000, b"[1]", b'{"taskUUID": 5}', b'[{"taskUUID":"\\ud800"}]'):
            assert "no ✓" in json.dumps(json.loads(dialect.problem(problem, body)), ensure_ascii=False)
    named = json.loads(NATIVE.problem(problem, json.dumps([a_task(), {"taskType": "authentication"}]).encode()))
    assert len(named["errors"]) == 1
