"""Calls of another wire on other hosts: sent as they are, and said once that nothing knows what they cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from conftest import LIMIT, AnyClient, a_task

from costguard import Guard

CHAT = {"model": "gpt", "messages": [{"role": "user", "content": "x"}]}

Post = Callable[..., httpx.Response]


@pytest.fixture
def post(guard: Guard) -> Post:
    """POST a body to any URL through the guard; every host answers."""
    client = guard.wrap(httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200, json={}))))

    def call(url: str, body: Any = CHAT, **options: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return client.post(url, content=content, **options)

    return call


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "not metered yet" in record.message]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/openai/deployments/x/chat/completions?version=1", CHAT),
        ("/v1/responses", {"model": "gpt", "input": "x"}),
        ("/v1/messages/", CHAT),
        ("/v1/completions", {"model": "gpt", "prompt": "x"}),
        ("/openai/deployments/gpt-4/chat/completions", {"messages": []}),
        ("/openai/deployments/gpt-4/completions", {"prompt": "x"}),
        ("/v1/chat/completions", {"messages": CHAT["messages"]}),
        ("/v1/responses", {"prompt": {"id": "x"}}),
        ("/v1/responses", {"prompt": {"id": "x"}, "input": "x"}),
    ],
)
def test_it_is_said_once_a_host_and_guard(path: str, body: Any, post: Post, caplog: pytest.LogCaptureFixture) -> None:
    for host in ("llm.example", "llm.example", "LLM.example.", "other.example", "llm.example"):
        assert post(f"https://{host}{path}", body).status_code == 200
    assert [line.split(":")[0] for line in said(caplog)] == ["llm.example", "other.example"]


def test_the_paths_of_one_host_share_the_word(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    for path in ("chat/completions", "responses", "messages", "completions"):
        post(f"https://llm.example/v1/{path}")
    assert len(said(caplog)) == 1


def test_many_threads_say_it_once(post: Post, caplog: pytest.LogCaptureFixture) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: post("https://llm.example/v1/chat/completions"), range(40)))
    assert len(said(caplog)) == 1


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("https://crm.example/api/messages", {"to": "x", "messages": ["hello"]}),
        ("https://crm.example/survey/responses", {"model": 3, "input": "x"}),
        ("https://crm.example/survey/responses", [CHAT]),
        ("https://crm.example/survey/responses", {"prompt": "x", "input": "y"}),
        ("https://crm.example/survey/responses", {"prompt": {"id": 7}}),
        ("https://crm.example/tasks/completions", {"prompt": "x", "messages": []}),
        ("https://crm.example/chat/completions", {"to": "x"}),
        ("https://crm.example/chat/completions", ["messages"]),
        ("https://crm.example/survey/responses", b'{"model": "x", "input": '),
        ("https://crm.example/survey/responses", b"\xff\xfe"),
        ("https://crm.example/survey/responses", {"model": "x"}),
        ("https://crm.example/v1/embeddings", CHAT),
        ("https://crm.example/mycompletions", CHAT),
        ("https://crm.example/messages/7", CHAT),
    ],
)
def test_nothing_is_said_of_what_only_looks_like_it(
    url: str, body: Any, post: Post, caplog: pytest.LogCaptureFixture
) -> None:
    assert post(url, body).status_code == 200
    assert said(caplog) == []


def test_a_get_and_a_native_task_on_such_a_path_are_what_they_are(
    client: AnyClient, guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    client.post(a_task(), url="https://proxy.example/v1/messages")
    client.call(client.bare.get, "https://proxy.example/v1/messages")
    assert said(caplog) == []
    assert len(guard.ledger.tasks()) == 1


@pytest.mark.parametrize("mode", ["observe", "off"])
def test_each_guard_says_it_but_one_that_is_off(
    mode: str, make_guard: Callable[..., Guard], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        guard = make_guard(mode=mode)
        with httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200, json={}))) as client:
            guard.wrap(client).post("https://llm.example/v1/chat/completions", json=CHAT)
    assert len(said(caplog)) == (2 if mode == "observe" else 0)


def test_the_body_goes_out_byte_for_byte_and_nothing_is_held(client: AnyClient, guard: Guard, standin: Any) -> None:
    body = b'{"model" : "gpt", "messages":[ ]}'
    client.call(client.bare.post, "https://llm.example/v1/chat/completions", content=body)
    assert standin.received[-1].body == body
    assert guard.remaining() == LIMIT
