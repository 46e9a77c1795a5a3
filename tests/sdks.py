"""Clients of OpenAI's and Anthropic's SDKs over a loopback port, whichever versions are installed.

A *form* is what a client can ask, a *way* how it does: all the ways in which a program gets at an answer.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from conftest import FLASH

KINDS = ("openai.OpenAI", "openai.AsyncOpenAI", "anthropic.Anthropic", "anthropic.AsyncAnthropic")
CHAT, RESPONSES, MESSAGES = "chat", "responses", "messages"
FORMS = {"openai": (CHAT, RESPONSES), "anthropic": (MESSAGES,)}
EACH = [(kind, form) for kind in KINDS for form in FORMS[kind.partition(".")[0]]]
"""Every kind of client with every form that it knows."""
WAYS = ("plain", "streamed", "helper", "raw", "raw streamed", "response", "response streamed")

_PROMPT = "Describe the harbour."
_ASKED: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": _PROMPT}], "max_tokens": 100},
    RESPONSES: {"input": _PROMPT, "max_output_tokens": 100},
    MESSAGES: {"messages": [{"role": "user", "content": _PROMPT}], "max_tokens": 100},
}


class SdkClient:
    """A client of one of `KINDS`, called as if it were synchronous; `bare` is the client itself.

    Its HTTP client is as the SDK makes it, but for its certificates, which take most of the time to load.
    """

    def __init__(self, kind: str, url: str, **options: Any) -> None:
        name, _, client_class = kind.partition(".")
        self.module: Any = importlib.import_module(name)
        self.is_async = client_class.startswith("Async")
        self._runner = asyncio.Runner() if self.is_async else None
        base_url = f"{url}/v1" if name == "openai" else url
        options = {"http_client": own_http_client(kind, verify=False), **options}
        made = getattr(self.module, client_class)
        self.bare: Any = made(**{"api_key": "a-key", "base_url": base_url, "max_retries": 2, **options})
        for_once(self.bare)

    def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a method of the client, or an async function, and return its result."""
        result = function(*args, **options)
        if self._runner is None:
            return result
        return self._runner.run(result, context=contextvars.copy_context())

    def ask(self, form: str, way: str = "plain", *, client: Any = None, **more: Any) -> str:
        """All that the model said; `client`: a copy of this one that asks in its place."""
        asks = {CHAT: "chat.completions", RESPONSES: "responses", MESSAGES: "messages"}[form]
        where = self.bare if client is None else client
        for name in asks.split("."):
            where = getattr(where, name)
        asked = {"model": FLASH, **_ASKED[form], **more}
        return str(self.call(_aanswer if self.is_async else _answer, where, way, asked))

    def close(self) -> None:
        """Close the client and its event loop."""
        self.call(self.bare.close)
        if self._runner is not None:
            self._runner.close()


def for_once(client: Any) -> None:
    """Let a client wait for nothing before it sends again."""
    client._calculate_retry_timeout = lambda *args, **options: 0.0


def own_http_client(kind: str, **options: Any) -> Any:
    """An HTTP client as the SDK makes its own, for those who bring one."""
    name, _, client_class = kind.partition(".")
    made = "DefaultAsyncHttpxClient" if client_class.startswith("Async") else "DefaultHttpxClient"
    return getattr(importlib.import_module(name), made)(**options)


def _answer(where: Any, way: str, asked: Mapping[str, Any]) -> str:
    match way:
        case "plain":
            return _text(where.create(**asked))
        case "streamed":
            with where.create(**asked, stream=True) as stream:
                return _joined(list(stream))
        case "helper":
            with where.stream(**asked) as stream:
                return _joined(list(stream))
        case "raw":
            return _text(where.with_raw_response.create(**asked).parse())
        case "raw streamed":
            with where.with_raw_response.create(**asked, stream=True).parse() as stream:
                return _joined(list(stream))
        case "response":
            with where.with_streaming_response.create(**asked) as response:
                return _text(response.parse())
    with where.with_streaming_response.create(**asked, stream=True) as response:
        return str(response.read())


async def _aanswer(where: Any, way: str, asked: Mapping[str, Any]) -> str:
    match way:
        case "plain":
            return _text(await where.create(**asked))
        case "streamed":
            async with await where.create(**asked, stream=True) as stream:
                return _joined([event async for event in stream])
        case "helper":
            async with where.stream(**asked) as stream:
                return _joined([event async for event in stream])
        case "raw":
            response = await where.with_raw_response.create(**asked)
            return _text(await _parsed(response))
        case "raw streamed":
            response = await where.with_raw_response.create(**asked, stream=True)
            async with await _parsed(response) as stream:
                return _joined([event async for event in stream])
        case "response":
            async with where.with_streaming_response.create(**asked) as response:
                return _text(await response.parse())
    async with where.with_streaming_response.create(**asked, stream=True) as response:
        return str(await response.read())


async def _parsed(response: Any) -> Any:
    """What a raw response of an asynchronous client says: OpenAI's is not awaited."""
    parsed = response.parse()
    return await parsed if asyncio.iscoroutine(parsed) else parsed


def _text(answer: Any) -> str:
    return str(answer.model_dump_json())


def _joined(events: list[Any]) -> str:
    return "".join(map(str, events))
