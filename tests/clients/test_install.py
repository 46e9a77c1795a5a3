"""`costguard.install`: every client of a process under one guard, without a client in hand."""

from __future__ import annotations

import asyncio
import functools
import io
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import aiohttp
import anthropic
import httpx
import httpx2
import openai
import pytest
import requests
from conftest import API, FLASH, a_task, audit, every_client, memory, only_task
from loopback import Bridge

import costguard
from costguard import BudgetExceeded, ConfigurationError, Guard
from costguard.clients import everywhere
from costguard.testing import StandIn

Post = Callable[..., Any]


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    costguard.uninstall()


@pytest.fixture
def api(standin: StandIn) -> Iterator[str]:
    """The stand-in at an address of this machine."""
    with standin.serve() as url:
        yield f"{url}/v1"


def _aiohttp_post(url: str, **options: Any) -> Any:
    async def post() -> Any:
        async with aiohttp.ClientSession() as session, session.post(url, **options) as response:
            found = SimpleNamespace(status_code=response.status, content=await response.read())
            found.extensions = {"costguard": getattr(response, "costguard", None)}
            return found

    return asyncio.run(post())


def _async_post(module: Any) -> Post:
    def post(url: str, **options: Any) -> Any:
        async def call() -> Any:
            async with module.AsyncClient() as client:
                return await client.post(url, **options)

        return asyncio.run(call())

    return post


POSTS: dict[str, Post] = {
    "httpx.post": httpx.post,
    "httpx2.post": httpx2.post,
    "httpx.AsyncClient": _async_post(httpx),
    "httpx2.AsyncClient": _async_post(httpx2),
    "requests.post": requests.post,
    "aiohttp.ClientSession": _aiohttp_post,
}
every_post = pytest.mark.parametrize("post", list(POSTS.values()), ids=list(POSTS))


@every_post
def test_a_call_without_a_client_in_hand_is_guarded(post: Post, guard: Guard, standin: StandIn, api: str) -> None:
    costguard.install(guard)
    assert post(api, json=[a_task()]).status_code == 200
    assert only_task(guard).status == "settled"
    assert only_task(guard).charged == standin.billed(only_task(guard).task_uuid) * 10**9
    audit(guard, standin)


@every_post
def test_beyond_the_budget_nothing_is_sent(post: Post, guard: Guard, standin: StandIn, api: str) -> None:
    guard.set_budget("/", "0.000001", per="total")
    costguard.install(guard)
    with pytest.raises(BudgetExceeded):
        post(api, json=[a_task()])
    assert standin.received == []


@every_post
def test_after_uninstall_a_call_is_as_it_was(post: Post, guard: Guard, standin: StandIn, api: str) -> None:
    costguard.install(guard)
    costguard.uninstall()
    costguard.uninstall()
    assert post(api, json=[a_task()]).status_code == 200
    assert guard.ledger.tasks() == []


@every_client
def test_a_client_made_before_is_guarded_whatever_its_transport(
    kind: str, guard: Guard, standin: StandIn, make_client: Callable[..., Any]
) -> None:
    client = make_client(kind, transport=memory(standin, kind))
    costguard.install(guard)
    assert client.post(a_task()).status_code == 200
    assert only_task(guard).status == "settled"
    audit(guard, standin)


@every_client
def test_a_client_that_is_wrapped_too_is_guarded_once(
    kind: str, guard: Guard, standin: StandIn, make_client: Callable[..., Any]
) -> None:
    costguard.install(guard)
    client = make_client(kind, guard, transport=memory(standin, kind))
    client.post(a_task())
    assert only_task(guard).attempts == 1
    audit(guard, standin)


@every_client
def test_a_wrapped_client_keeps_its_own_guard(
    kind: str,
    guard: Guard,
    standin: StandIn,
    make_client: Callable[..., Any],
    make_guard: Callable[..., Guard],
    tmp_path: Path,
) -> None:
    own = make_guard(path=tmp_path / "own.db")
    client = make_client(kind, own, transport=memory(standin, kind))
    costguard.install(guard)
    client.post(a_task())
    assert guard.ledger.tasks() == []
    assert only_task(own).status == "settled"


@every_client
def test_what_its_own_guard_does_not_look_at_is_nobodys(
    kind: str, guard: Guard, standin: StandIn, make_client: Callable[..., Any], make_guard: Callable[..., Guard]
) -> None:
    client = make_client(kind, make_guard(mode="off"), transport=memory(standin, kind))
    costguard.install(guard)
    assert client.post(a_task()).status_code == 200
    assert guard.ledger.tasks() == []


def test_what_a_client_is_made_of_is_not_changed(guard: Guard) -> None:
    before = httpx.Client()
    costguard.install(guard)
    with httpx.Client() as client, before:
        for each in (before, client):
            assert type(each._transport) is httpx.HTTPTransport
            assert each._transport_for_url(httpx.URL(API)) is each._transport


class _Again(httpx.BaseTransport):
    """A transport of another tool: sends once more what was answered by 503, itself or as a copy."""

    def __init__(self, copies: bool) -> None:
        self._inner = httpx.HTTPTransport()
        self._copies = copies

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        while True:
            sent = request
            if self._copies:
                sent = httpx.Request(request.method, request.url, headers=request.headers, content=request.read())
            response = self._inner.handle_request(sent)
            if response.status_code != 503:
                return response
            response.read()
            response.close()

    def close(self) -> None:
        self._inner.close()


@pytest.mark.parametrize("copies", [False, True], ids=["itself", "a copy"])
@pytest.mark.parametrize("fails", [0, 1])
def test_each_sending_of_a_transport_that_sends_again_is_held_for(
    copies: bool, fails: int, guard: Guard, standin: StandIn, make_guard: Callable[..., Guard]
) -> None:
    answers = standin.transport()
    left = [httpx.Response(503, json={}) for _ in range(fails)]

    def answer(request: httpx.Request) -> httpx.Response:
        return left.pop() if left else answers.handle_request(request)

    bridge = Bridge(httpx.MockTransport(answer))
    costguard.install(guard)
    try:
        with httpx.Client(transport=_Again(copies)) as client:
            response = client.post(f"http://127.0.0.1:{bridge.port}/v1", json=[a_task()])
    finally:
        bridge.close()
    assert response.status_code == 200
    row = only_task(guard)
    assert row.attempts == 1 + fails
    assert row.charged == standin.billed(row.task_uuid) * 10**9
    audit(guard, standin)


def test_a_copy_in_another_librarys_request_is_held_for_once(guard: Guard, standin: StandIn, api: str) -> None:
    class ByRequests(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            found = requests.post(str(request.url), data=request.read(), headers=dict(request.headers))
            return httpx.Response(found.status_code, content=found.content)

    costguard.install(guard)
    with httpx.Client(transport=ByRequests()) as client:
        client.post(api, json=[a_task()])
    assert only_task(guard).attempts == 1
    audit(guard, standin)


def test_many_threads_share_it(guard: Guard, standin: StandIn, api: str) -> None:
    costguard.install(guard)
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda n: list(POSTS.values())[n % len(POSTS)](api, json=[a_task()]), range(24)))
    assert [each.status_code for each in done] == [200] * 24
    assert len(guard.ledger.tasks()) == 24
    audit(guard, standin)


# -- SDKs ---------------------------------------------------------------------------------------


@pytest.fixture
def ask(api: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], object]:
    """Ask by a client of an SDK, which is made for it, and makes its own of httpx2."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    messages: Any = [{"role": "user", "content": "Which harbours are open?"}]
    asked: dict[str, Any] = {"model": FLASH, "messages": messages, "max_tokens": 120}

    async def later(kind: Any, of: Callable[[Any], Any], url: str) -> object:
        async with kind(base_url=url, api_key="key") as client:
            return await of(client).create(**asked)

    def ask_by(name: str) -> object:
        kind, url = (getattr(openai, name), api) if "OpenAI" in name else (getattr(anthropic, name), api[:-3])

        def of(client: Any) -> Any:
            return client.chat.completions if "OpenAI" in name else client.messages

        if name.startswith("Async"):
            return asyncio.run(later(kind, of, url))
        with kind(base_url=url, api_key="key") as client:
            return of(client).create(**asked)

    return ask_by


@pytest.mark.parametrize("name", ["OpenAI", "AsyncOpenAI", "Anthropic", "AsyncAnthropic"])
def test_an_sdks_client_is_guarded_and_its_refusal_is_costguards(
    name: str, ask: Callable[[str], object], make_guard: Callable[..., Guard], standin: StandIn, api: str
) -> None:
    guard = make_guard(endpoints=[api])
    costguard.install(guard)
    ask(name)
    assert only_task(guard).status == "settled"
    guard.set_budget("/", "0.000001", per="total")
    sent = len(standin.received)
    with pytest.raises(BudgetExceeded):
        ask(name)
    assert len(standin.received) == sent
    assert only_task(guard).charged > 0
    audit(guard)


def test_an_sdk_without_its_seam_is_guarded_all_the_same(
    ask: Callable[[str], object],
    make_guard: Callable[..., Guard],
    api: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    guard = make_guard(endpoints=[api])
    monkeypatch.setattr(openai._base_client, "SyncAPIClient", None)
    costguard.install(guard)
    assert "openai._base_client.SyncAPIClient" in caplog.text
    ask("OpenAI")
    assert only_task(guard).status == "settled"


# -- bad input ----------------------------------------------------------------------------------


def test_the_same_guard_twice_is_once(guard: Guard, standin: StandIn, api: str) -> None:
    costguard.install(guard)
    method = httpx.HTTPTransport.handle_request
    costguard.install(guard)
    assert httpx.HTTPTransport.handle_request is method
    httpx.post(api, json=[a_task()])
    assert only_task(guard).attempts == 1


def test_another_guard_is_refused_until_the_first_is_closed(
    guard: Guard, make_guard: Callable[..., Guard], api: str
) -> None:
    other = make_guard("acme/other")
    costguard.install(guard)
    with pytest.raises(ConfigurationError, match=r"another Guard is installed already.*uninstall"):
        costguard.install(other)
    guard.close()
    costguard.install(other)
    httpx.post(api, json=[a_task()])
    assert only_task(other).project == "acme/other"


def test_a_closed_guard_is_refused(guard: Guard) -> None:
    guard.close()
    with pytest.raises(ConfigurationError, match="this Guard is closed"):
        costguard.install(guard)


def test_a_guard_closed_meanwhile_refuses_its_calls_and_no_others(guard: Guard, standin: StandIn, api: str) -> None:
    costguard.install(guard)
    guard.close()
    with pytest.raises(costguard.LedgerError, match="closed"):
        httpx.post(api, json=[a_task()])
    assert standin.received == []
    assert httpx.post(api, json={"no": "task"}).status_code != 200  # what the stand-in says of it


def test_what_is_no_guard_is_refused() -> None:
    with pytest.raises(TypeError, match=r"takes a Guard, got builtins\.str"):
        costguard.install("costguard.db")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (httpx.HTTPTransport, "handle_request"),
        (httpx2.AsyncClient, "_send_single_request"),
        (httpx.Client, "_transport_for_url"),
        (aiohttp.ClientSession, "_request"),
        (requests.adapters.HTTPAdapter, "send"),
    ],
)
@pytest.mark.parametrize("how", ["gone", "changed"])
def test_a_version_without_its_seams_is_refused_by_name(
    owner: type, name: str, how: str, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "gone":
        monkeypatch.delattr(owner, name)
    else:
        monkeypatch.setattr(owner, name, lambda self: None)
    library = owner.__module__.partition(".")[0]
    with pytest.raises(ConfigurationError, match=rf"{library} .* has no .*{owner.__name__}\.{name}\(self, "):
        costguard.install(guard)
    assert everywhere._finder not in sys.meta_path
    assert all(not hasattr(each, "__wrapped__") for each in (httpx.HTTPTransport.handle_request, requests.Session.send))


def test_in_mode_observe_a_version_without_its_seams_is_only_said(
    make_guard: Callable[..., Guard],
    standin: StandIn,
    api: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delattr(aiohttp.ClientSession, "_request")
    guard = make_guard(mode="observe")
    costguard.install(guard)
    assert "aiohttp" in caplog.text
    assert "has no aiohttp.client.ClientSession._request" in caplog.text
    httpx.post(api, json=[a_task()])
    assert only_task(guard).status == "settled"


def test_what_another_tool_put_around_stays(guard: Guard, api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    costguard.install(guard)
    inner, seen = httpx.HTTPTransport.handle_request, []

    def around(self: Any, request: Any) -> Any:
        seen.append(request)
        return inner(self, request)

    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", around)
    httpx.post(api, json=[a_task()])
    costguard.uninstall()
    assert httpx.HTTPTransport.handle_request is around
    httpx.post(api, json=[a_task()])
    assert (len(seen), len(guard.ledger.tasks())) == (2, 1)
    costguard.install(guard)
    httpx.post(api, json=[a_task()])
    assert [row.attempts for row in guard.ledger.tasks()] == [1, 1]


def _answering(standin: StandIn, module: Any) -> Callable[..., Any]:
    """What a tool for tests puts in the place of a library's own sending."""
    transport = standin.transport()

    def answer(self: Any, request: Any, **_: Any) -> Any:
        if module is httpx:
            return transport.handle_request(request)
        found = transport.handle_request(httpx.Request("POST", request.url, content=request.body))
        response = requests.Response()
        response.status_code, response.url, response.request = found.status_code, request.url, request
        response.raw = io.BytesIO(found.read())
        return response

    return answer


@pytest.mark.parametrize("where", ["class", "object"])
@pytest.mark.parametrize("module", [httpx, requests], ids=["httpx", "requests"])
def test_what_a_mock_put_in_the_place_of_ours_answers_is_guarded(
    module: Any, where: str, guard: Guard, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    costguard.install(guard)
    client = module.Client() if module is httpx else module.Session()
    end = client._transport if module is httpx else client.get_adapter(API)
    name, answer = "handle_request" if module is httpx else "send", _answering(standin, module)
    if where == "class":
        monkeypatch.setattr(type(end), name, answer)
    else:
        monkeypatch.setattr(end, name, functools.partial(answer, end))
    with client:
        assert client.post(f"{API}/v1", json=[a_task()]).status_code == 200
    assert (only_task(guard).status, only_task(guard).attempts) == ("settled", 1)
    audit(guard, standin)


@pytest.mark.parametrize("follows", [False, True])
def test_a_client_that_chooses_its_end_itself_is_guarded(follows: bool, guard: Guard, standin: StandIn) -> None:
    class Adapter(requests.adapters.BaseAdapter):
        def send(self, request: Any, *_: Any, **options: Any) -> Any:
            if request.url.endswith("/elsewhere"):
                response = requests.Response()
                response.status_code, response.url, response.request = 307, request.url, request
                response.headers["Location"] = "/v1"
                response.headers["Set-Cookie"] = "a=b"
                response.raw = io.BytesIO()
                return response
            return _answering(standin, requests)(self, request)

        def close(self) -> None:
            pass

    class Session(requests.Session):
        def get_adapter(self, url: Any, proxies: Any = None) -> Any:
            return Adapter()

    class Client(httpx.Client):
        def _transport_for_url(self, url: Any) -> Any:
            return standin.transport()

    costguard.install(guard)
    with Session() as session:
        assert session.post(API + ("/elsewhere" if follows else "/v1"), json=[a_task()]).status_code == 200
    with Client() as client:
        assert client.post(f"{API}/v1", json=[a_task()]).status_code == 200
    assert [row.status for row in guard.ledger.tasks()] == ["settled"] * 2
    audit(guard, standin)


def test_a_library_that_is_kept_from_being_imported_is_in_nobodys_way(
    guard: Guard, api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "anthropic", None)
    costguard.install(guard)
    httpx.post(api, json=[a_task()])
    assert only_task(guard).status == "settled"


def test_another_library_under_a_known_name_is_refused_by_its_own(
    guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "requests", ModuleType("other.requests"))
    with pytest.raises(ConfigurationError, match=r"other\.requests of an unknown version .* has no other\.requests\."):
        costguard.install(guard)


PROGRAM = """
import multiprocessing, sys
import costguard
from costguard.testing import StandIn

LIBRARIES = ("httpx", "httpx2", "aiohttp", "requests")
TASK = {
    "taskType": "textInference", "model": "google:gemini@3-flash", "settings": {"maxTokens": 120},
    "messages": [{"role": "user", "content": "Which harbours are open?"}],
}

def call(url):
    import requests
    requests.post(url, json=[TASK]).raise_for_status()

if __name__ == "__main__":
    guard = costguard.Guard(sys.argv[1], project="acme")
    guard.set_budget("acme", "1")
    costguard.install(guard)
    assert not [name for name in LIBRARIES if name in sys.modules], sys.modules.keys()
    import importlib.util, pkgutil
    assert importlib.util.find_spec("httpx").loader.is_package("httpx")
    assert pkgutil.get_data("httpx", "py.typed") is not None
    import httpx, importlib.resources
    assert type(httpx.__spec__.loader) is type(costguard.__spec__.loader) is type(httpx.__loader__)
    assert importlib.resources.files("httpx").joinpath("py.typed").is_file()
    with StandIn().serve() as url:
        httpx.post(url + "/v1", json=[TASK]).raise_for_status()
        child = multiprocessing.get_context("fork").Process(target=call, args=(url + "/v1",))
        child.start()
        child.join()
        assert child.exitcode == 0
    print(len(guard.ledger.tasks()), [name for name in LIBRARIES if name in sys.modules])
    costguard.uninstall()
    import aiohttp
    assert not hasattr(aiohttp.ClientSession._request, "__wrapped__")
"""


def test_libraries_that_come_later_are_guarded_then_and_a_forked_process_is_too(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        # Newer Pythons warn of any fork beside threads.
        [sys.executable, "-W", "ignore::DeprecationWarning", program, tmp_path / "ledger.db"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.stderr, done.stdout.strip()) == ("", "2 ['httpx']")


def test_while_one_thread_imports_a_library_another_may_install(guard: Guard, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, threading, costguard\n"
        "guard = costguard.Guard(sys.argv[1])\n"
        "names = ('httpx', 'requests', 'aiohttp', 'httpx2')\n"
        "threads = [threading.Thread(target=__import__, args=(name,)) for name in names]\n"
        "[each.start() for each in threads]\n"
        "costguard.install(guard)\n"
        "[each.join() for each in threads]\n"
        "import httpx, httpx2, aiohttp, requests\n"
        "print([hasattr(each, '__wrapped__') for each in (httpx.HTTPTransport.handle_request, requests.Session.send,"
        " aiohttp.ClientSession._request, httpx2.Client._send_single_request)])\n"
    )
    done = subprocess.run(
        [sys.executable, program, tmp_path / "ledger.db"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stderr, done.stdout.strip()) == ("", "[True, True, True, True]")


# -- other hosts --------------------------------------------------------------------------------


def test_a_post_to_another_host_needs_no_thread(guard: Guard, make_client: Callable[..., Any]) -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=request.content))
    costguard.install(guard)
    for kind in ("httpx.AsyncClient", "aiohttp.ClientSession", "requests.Session"):
        client = make_client(kind, transport=transport, base_url="https://other.example")
        assert client.post(json={"question": "Which harbours are open?"}).json() == {
            "question": "Which harbours are open?"
        }
    assert "costguard-ledger" not in [each.name for each in threading.enumerate() if each is guard._worker._thread]


BODIES = (
    b"",
    b"{}",
    b'[{"a": 1}]',
    b"\xff\x00",
    b'{"note": "taskType: 7"}',
    b'  [{"note": "taskType"}]',
    b"text",
    b'"\\u0074"',
)


@every_client
def test_other_bodies_arrive_byte_for_byte(kind: str, guard: Guard, make_client: Callable[..., Any]) -> None:
    received: list[bytes] = []

    module = httpx2 if kind.startswith("httpx2") else httpx

    def receive(request: Any) -> Any:
        received.append(request.read())
        return module.Response(200, content=b"{}")

    client = make_client(kind, transport=module.MockTransport(receive), base_url="https://other.example")
    costguard.install(guard)
    for body in BODIES:
        client.post(content=body)
    assert received == list(BODIES)
    assert guard.ledger.tasks() == []
