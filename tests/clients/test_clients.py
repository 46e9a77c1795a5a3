"""A wrapped client: what it guards, what it changes on the wire, and what it leaves alone."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from conftest import API, FLASH, AnyClient, a_task, audit, memory, module_of, only_task, sent_tasks

from costguard import BudgetExceeded, ConfigurationError, Guard, InvalidRequest
from costguard.testing import StandIn


class Recorder:
    """A transport for any client that keeps the requests as they come: (request, body pieces)."""

    def __init__(self, module: Any, events: list[str] | None = None, answer: bytes = b"{}") -> None:
        self.module, self.events, self.answer = module, events if events is not None else [], answer
        self.requests: list[Any] = []
        self.bodies: list[bytes] = []
        self.closed = 0

    def handle_request(self, request: Any) -> Any:
        self.events.append("transport")
        self.bodies.append(b"".join(request.stream))
        return self._respond(request)

    async def handle_async_request(self, request: Any) -> Any:
        self.events.append("transport")
        self.bodies.append(b"".join([piece async for piece in request.stream]))
        return self._respond(request)

    def _respond(self, request: Any) -> Any:
        self.requests.append(request)
        return self.module.Response(200, content=self.answer)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Recorder:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        self.close()


@pytest.fixture
def recorder(kind: str) -> Recorder:
    return Recorder(module_of(kind))


def uploaded(client: AnyClient, pieces: list[bytes], events: list[str] | None = None) -> Any:
    """A body that comes piece by piece, of the kind that the client takes."""
    seen = events if events is not None else []

    def upload() -> Iterator[bytes]:
        for piece in pieces:
            seen.append("piece")
            yield piece

    async def aupload() -> AsyncIterator[bytes]:
        for piece in upload():
            yield piece

    return aupload() if client.is_async else upload()


# --- wrapping ------------------------------------------------------------------------------------------------


def test_wrapping_returns_the_same_client_and_twice_is_one_guard(
    client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    transport = client.bare._transport
    assert guard.wrap(client.bare) is client.bare
    assert client.bare._transport is transport
    client.post(a_task())
    assert only_task(guard).attempts == 1


def test_a_client_has_one_guard(client: AnyClient, make_guard: Callable[..., Guard], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="another Guard"):
        make_guard(path=tmp_path / "other.db").wrap(client.bare)


@pytest.mark.parametrize("thing", [object(), "client", httpx, httpx.Client])
def test_only_clients_can_be_wrapped(thing: object, guard: Guard) -> None:
    with pytest.raises(TypeError, match="httpx2 Client or AsyncClient"):
        guard.wrap(thing)


def test_mounted_transports_are_guarded_too(
    kind: str, guard: Guard, standin: StandIn, make_client: Callable[..., AnyClient], recorder: Recorder
) -> None:
    mounts = {"https://mounted.test": memory(standin, kind), "all://bypassed.test": None}
    client = make_client(kind, guard, transport=recorder, mounts=mounts)
    client.post(a_task(), url="https://mounted.test/v1")
    assert only_task(guard).status == "settled"
    assert not recorder.requests
    assert None in client.bare._mounts.values()


def test_a_transport_can_be_guarded_instead_of_a_client(
    kind: str, guard: Guard, make_client: Callable[..., AnyClient], recorder: Recorder
) -> None:
    guarded: Any = (guard.async_transport if kind.endswith("AsyncClient") else guard.transport)(recorder)
    client = make_client(kind, transport=guarded)
    client.post(a_task())
    assert only_task(guard).status == "unresolved"  # the recorder mentions no task
    guard.wrap(client.bare)
    assert client.bare._transport is guarded
    client.close()
    assert recorder.closed


def test_guarded_transports_bring_their_own_connection(guard: Guard, standin: StandIn) -> None:
    async def apost(url: str) -> None:
        async with httpx.AsyncClient(transport=guard.async_transport()) as client:
            await client.post(f"{url}/v1", json=[a_task()])

    with standin.serve() as url:
        with httpx.Client(transport=guard.transport()) as client:
            client.post(f"{url}/v1", json=[a_task()])
        asyncio.run(apost(url))
    assert [row.status for row in guard.ledger.tasks()] == ["settled", "settled"]
    audit(guard, standin)


# --- what is not ours ----------------------------------------------------------------------------------------

NOT_GUARDED: dict[str, tuple[str, dict[str, Any]]] = {
    "GET": ("GET", {"url": f"{API}/v1"}),
    "PUT": ("PUT", {"url": f"{API}/v1", "json": [{"taskType": "textInference"}]}),
    "other JSON": ("POST", {"url": "https://else.test/v1", "content": b'{ "a" :1}\n'}),
    "JSON that is cut": ("POST", {"url": "https://else.test/", "content": b'[{"taskType": "x"'}),
    "taskType inside": ("POST", {"url": "https://else.test/", "content": b'{"spec": {"taskType": "x"}}'}),
    "not JSON": ("POST", {"url": "https://else.test/", "content": b"\x00\xff", "headers": {"content-type": "a/b"}}),
    "form": ("POST", {"url": "https://else.test/", "data": {"taskType": "x"}}),
    "multipart": ("POST", {"url": "https://else.test/", "files": {"f": b"taskType"}}),
    "empty": ("POST", {"url": "https://else.test/"}),
    "free tasks": ("POST", {"url": f"{API}/v1", "content": b'[ {"taskType":"modelSearch","taskUUID":"a"} ]'}),
    "a poll": ("POST", {"url": f"{API}/v1", "content": b'[ {"taskType":"getResponse","taskUUID":"a"} ]'}),
}


@pytest.mark.parametrize("name", NOT_GUARDED)
def test_what_is_not_guarded_passes_byte_for_byte(
    name: str, kind: str, guard: Guard, make_client: Callable[..., AnyClient], recorder: Recorder
) -> None:
    method, options = NOT_GUARDED[name]
    headers = {**options.get("headers", {}), "X-Own": "kept"}
    if "files" in options:
        headers["content-type"] = "multipart/form-data; boundary=cut"
    plain = Recorder(recorder.module)
    bare = make_client(kind, transport=plain)
    bare.call(bare.bare.request, method, **{**options, "headers": headers})
    guarded = make_client(kind, guard, transport=recorder)
    guarded.call(guarded.bare.request, method, **{**options, "headers": headers})
    assert recorder.bodies == plain.bodies
    assert recorder.requests[0].headers.multi_items() == plain.requests[0].headers.multi_items()
    assert not guard.ledger.tasks()


@pytest.mark.parametrize("content_type", ["application/octet-stream", "text/csv", "multipart/form-data; boundary=x"])
def test_an_upload_to_elsewhere_is_not_read_early(
    content_type: str, kind: str, guard: Guard, make_client: Callable[..., AnyClient]
) -> None:
    events: list[str] = []
    recorder = Recorder(module_of(kind), events)
    client = make_client(kind, guard, transport=recorder)
    body = uploaded(client, [b"a", b"b"], events)
    client.post(url="https://else.test/", content=body, headers={"content-type": content_type})
    assert events == ["transport", "piece", "piece"]
    assert recorder.bodies == [b"ab"]
    assert recorder.requests[0].headers["transfer-encoding"] == "chunked"


# --- what goes out -------------------------------------------------------------------------------------------


def test_a_body_that_needs_no_change_goes_out_byte_for_byte(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    task = a_task("Grüße 🌊", includeCost=True, includeUsage=True)
    body = json.dumps([task], indent=3).encode() + b"\n\n"
    client.post(content=body, headers={"content-type": "application/json"})
    assert standin.received[0].body == body
    audit(guard, standin)


@pytest.mark.parametrize("content_type", [None, "application/json; charset=utf-8", "text/plain", "application/x+json"])
def test_a_task_is_guarded_whatever_its_body_calls_itself(
    content_type: str | None, client: AnyClient, guard: Guard
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    client.post(content=json.dumps([a_task()]), headers=headers)
    assert only_task(guard).status == "settled"


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/octet-stream"])
def test_an_upload_to_the_native_endpoint_is_guarded_or_refused(
    content_type: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    body = uploaded(client, [json.dumps([a_task()]).encode()])
    try:
        client.post(content=body, headers={"content-type": content_type})
    except InvalidRequest:
        assert not standin.received
    else:
        assert only_task(guard).status == "settled"


@pytest.mark.parametrize("stated", [False, None, "yes", 0])
def test_the_provider_is_always_asked_for_its_figures(stated: object, client: AnyClient, standin: StandIn) -> None:
    task = {**a_task(), "includeCost": stated, "includeUsage": stated}
    client.post(task)
    (sent,) = sent_tasks(standin)
    assert (sent["includeCost"], sent["includeUsage"]) == (True, True)
    assert {**sent, "includeCost": stated, "includeUsage": stated} == task


def test_usage_is_asked_for_where_it_exists_only(
    kind: str, make_guard: Callable[..., Guard], standin: StandIn, make_client: Callable[..., AnyClient]
) -> None:
    client = make_client(kind, make_guard(), transport=memory(standin, kind))
    client.post({"taskType": "imageInference", "model": "acme:1@1", "positivePrompt": "a boat"})
    (sent,) = sent_tasks(standin)
    assert sent["includeCost"] is True
    assert "includeUsage" not in sent


@pytest.mark.parametrize("stated", ["absent", None, ""])
def test_a_task_without_a_name_gets_one(stated: str | None, client: AnyClient, guard: Guard, standin: StandIn) -> None:
    task = a_task(taskUUID=None)
    if stated != "absent":
        task["taskUUID"] = stated
    response = client.post(task)
    (sent,) = sent_tasks(standin)
    assert uuid.UUID(sent["taskUUID"]).version == 4
    assert only_task(guard).task_uuid == sent["taskUUID"] == response.json()["data"][0]["taskUUID"]


def test_one_object_stays_one_object(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    client.post(json=a_task())
    assert isinstance(json.loads(standin.received[0].body), dict)
    assert only_task(guard).status == "settled"


@pytest.mark.parametrize("chunked", [False, True])
def test_the_length_fits_the_changed_body(
    chunked: bool, kind: str, guard: Guard, standin: StandIn, make_client: Callable[..., AnyClient]
) -> None:
    body = json.dumps([a_task("Grüße 🌊", taskUUID="")], ensure_ascii=False).encode()
    with standin.serve() as url:
        client = make_client(kind, guard, base_url=url, trust_env=False)
        content = uploaded(client, [body[:20], body[20:]]) if chunked else body
        response = client.post(content=content, headers={"content-type": "application/json"})
        client.close()
    assert response.status_code == 200
    (received,) = standin.received
    assert received.body != body
    assert received.headers["content-length"] == str(len(received.body))
    assert "transfer-encoding" not in received.headers
    audit(guard, standin)


def test_air_and_slug_are_one_model(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    client.post(a_task(), a_task(model="google-gemini-3-flash"))
    assert {row.model for row in guard.ledger.tasks()} == {FLASH}
    assert sent_tasks(standin)[1]["model"] == "google-gemini-3-flash"


# --- several tasks -------------------------------------------------------------------------------------------


def test_tasks_are_admitted_all_or_none(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    tasks = [a_task() for _ in range(3)]
    each = guard.estimate(tasks[0]).upper
    assert each is not None
    guard.set_budget("acme", each * 3 - Decimal("0.000000001"))
    with pytest.raises(BudgetExceeded) as caught:
        client.post(*tasks)
    assert caught.value.requested == each * 3
    assert not standin.received
    assert not guard.ledger.tasks()
    guard.set_budget("acme", each * 3)
    client.post(*tasks)
    assert [row.status for row in guard.ledger.tasks()] == ["settled"] * 3
    audit(guard, standin)


def test_billable_and_free_tasks_share_a_post(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    free = {"taskType": "accountManagement", "taskUUID": str(uuid.uuid4()), "operation": "getDetails"}
    client.post({"taskType": "authentication", "apiKey": "secret"}, free, a_task())
    assert sent_tasks(standin)[1] == free
    assert only_task(guard).status == "settled"


def test_one_name_for_two_tasks_is_refused(client: AnyClient, guard: Guard, standin: StandIn) -> None:
    with pytest.raises(InvalidRequest, match="task 1 has the taskUUID of task 0"):
        client.post(a_task(taskUUID="same"), a_task(taskUUID="same"))
    assert not standin.received
    assert not guard.ledger.tasks()


# --- projects and tags ---------------------------------------------------------------------------------------


def test_extension_goes_before_scope_before_guard(client: AnyClient, guard: Guard) -> None:
    def post(**extension: object) -> str:
        task = a_task()
        client.post(task, extensions={"costguard": extension} if extension else {})
        return next(row.project for row in guard.ledger.tasks() if row.task_uuid == task["taskUUID"])

    assert post() == "acme/search"
    with guard.scope(project="beta"):
        assert post() == "beta"
        with guard.scope(project="gamma/x"):
            assert post() == "gamma/x"
            assert post(project="delta") == "delta"
        with guard.scope(tags={"a": "b"}):
            assert post() == "beta"
    assert post() == "acme/search"


def test_tags_merge_and_the_nearest_wins(client: AnyClient, guard: Guard) -> None:
    with guard.scope(tags={"team": "x", "job": "outer"}), guard.scope(tags={"job": "inner"}):
        client.post(a_task(), extensions={"costguard": {"tags": {"run": "7", "team": "y"}}})
    assert json.loads(only_task(guard).tags) == {"team": "y", "job": "inner", "run": "7"}


@pytest.mark.parametrize(
    ("extension", "said"),
    [
        ({"projekt": "a"}, "unknown key 'projekt'"),
        ({"project": "a//b"}, "project"),
        ({"project": 7}, "project"),
        ({"tags": ["a"]}, "tags"),
        ({"media_max": {"video": 3}}, "unknown key 'video'"),
        ("acme", "expected a mapping"),
    ],
)
def test_a_wrong_extension_is_an_error_before_sending(
    extension: object, said: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        client.post(a_task(), extensions={"costguard": extension})
    assert not standin.received
    assert not guard.ledger.tasks()


def test_a_scope_is_of_its_thread(module: Any, guard: Guard, standin: StandIn) -> None:
    meet = threading.Barrier(4)

    def post(name: str) -> None:
        with guard.scope(project=name):
            meet.wait(30)
            client.post("/v1", json=[a_task(taskUUID=name)])

    with module.Client(base_url=API, transport=memory(standin, f"{module.__name__}.Client")) as client:
        guard.wrap(client)
        with guard.scope(project="main"), ThreadPoolExecutor(4) as pool:
            list(pool.map(post, "abcd"))
    assert {row.task_uuid: row.project for row in guard.ledger.tasks()} == {name: name for name in "abcd"}


def test_a_scope_is_of_its_asyncio_task(module: Any, guard: Guard, standin: StandIn) -> None:
    async def main() -> None:
        transport = memory(standin, f"{module.__name__}.AsyncClient")
        async with module.AsyncClient(base_url=API, transport=transport) as client:
            guard.wrap(client)

            async def post(name: str) -> None:
                with guard.scope(project=name):
                    await asyncio.sleep(0)
                    await client.post("/v1", json=[a_task(taskUUID=name)])

            await asyncio.gather(*map(post, "abcd"))

    asyncio.run(main())
    assert {row.task_uuid: row.project for row in guard.ledger.tasks()} == {name: name for name in "abcd"}


# --- the response --------------------------------------------------------------------------------------------


def test_the_response_is_the_one_a_bare_client_gets(
    kind: str, guard: Guard, standin: StandIn, make_client: Callable[..., AnyClient]
) -> None:
    task = a_task(includeCost=True, includeUsage=True)
    standin.bill_retries_once = True
    with standin.serve() as url:
        plain, guarded = (make_client(kind, one, base_url=url, trust_env=False) for one in (None, guard))
        bare, ours = plain.post(task), guarded.post(task)
        plain.close()
        guarded.close()

    def seen(response: Any) -> dict[str, Any]:
        headers = [(name, value) for name, value in response.headers.multi_items() if name != "date"]
        names = ("status_code", "reason_phrase", "http_version", "content", "text", "encoding", "url", "is_closed",
                 "is_stream_consumed", "is_success", "charset_encoding", "history", "num_bytes_downloaded")  # fmt: skip
        return {"headers": headers, "json": response.json(), **{name: getattr(response, name) for name in names}}

    assert seen(ours) == seen(bare)
    assert type(ours) is type(bare)
    assert set(bare.extensions) <= set(ours.extensions)
    assert ours.elapsed.total_seconds() > 0
    assert ours.request.method == "POST"


def read(response: Any, how: str) -> bytes:
    match how:
        case "read":
            return bytes(response.read())
        case "lines":
            return "\n".join(response.iter_lines()).encode()
        case _:
            return b"".join(getattr(response, f"iter_{how}")())


async def aread(response: Any, how: str) -> bytes:
    match how:
        case "read":
            return bytes(await response.aread())
        case "lines":
            return "\n".join([line async for line in response.aiter_lines()]).encode()
        case _:
            return b"".join([chunk async for chunk in getattr(response, f"aiter_{how}")()])


@pytest.mark.parametrize("how", ["read", "bytes", "raw", "lines", "not at all"])
@pytest.mark.parametrize("sent", ["stream", "send"])
def test_a_response_may_be_read_as_a_stream(
    how: str, sent: str, client: AnyClient, guard: Guard, standin: StandIn
) -> None:
    def post() -> Any:
        if sent == "stream":
            return client.bare.stream("POST", "/v1", json=[a_task()])
        return client.bare.send(client.bare.build_request("POST", "/v1", json=[a_task()]), stream=True)

    def use() -> bytes:
        if sent == "stream":
            with post() as response:
                return b"" if how == "not at all" else read(response, how)
        response = post()
        body = b"" if how == "not at all" else read(response, how)
        response.close()
        return body

    async def ause() -> bytes:
        if sent == "stream":
            async with post() as response:
                return b"" if how == "not at all" else await aread(response, how)
        response = await post()
        body = b"" if how == "not at all" else await aread(response, how)
        await response.aclose()
        return body

    body = client.call(ause if client.is_async else use)
    assert how == "not at all" or json.loads(body)["data"][0]["text"]
    assert only_task(guard).status == "settled"
    audit(guard, standin)


def test_event_hooks_see_the_call_once(client: AnyClient, guard: Guard) -> None:
    seen: list[str] = []

    def on_request(request: Any) -> None:
        seen.append(request.method)

    def on_response(response: Any) -> None:
        seen.append(str(response.status_code))

    async def aon_request(request: Any) -> None:
        on_request(request)

    async def aon_response(response: Any) -> None:
        on_response(response)
        await response.aread()

    client.bare.event_hooks = (
        {"request": [aon_request], "response": [aon_response]}
        if client.is_async
        else {"request": [on_request], "response": [on_response]}
    )
    assert client.post(a_task()).json()["data"]
    assert seen == ["POST", "200"]
    assert only_task(guard).status == "settled"


# --- many at once --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client_class", ["Client", "AsyncClient"])
def test_concurrent_calls_never_pass_the_limit(client_class: str, module: Any, guard: Guard, standin: StandIn) -> None:
    each = guard.estimate(a_task()).upper
    assert each is not None
    guard.set_budget("acme", each * 10)
    standin.fault("hang", times=40)  # so that nothing comes back, and exactly ten fit
    transport = memory(standin, f"{module.__name__}.{client_class}")
    client = guard.wrap(getattr(module, client_class)(base_url=API, transport=transport))

    def call(_: int) -> str:
        try:
            client.post("/v1", json=[a_task()])
        except (BudgetExceeded, module.ReadTimeout) as error:
            return type(error).__name__
        raise AssertionError("it was answered")

    async def acall(_: int) -> str:
        try:
            await client.post("/v1", json=[a_task()])
        except (BudgetExceeded, module.ReadTimeout) as error:
            return type(error).__name__
        raise AssertionError("it was answered")

    async def main() -> list[str]:
        return await asyncio.gather(*map(acall, range(40)))

    if client_class == "Client":
        with ThreadPoolExecutor(16) as pool:
            endings = list(pool.map(call, range(40)))
        client.close()
    else:
        endings = asyncio.run(main())
    assert endings.count("ReadTimeout") == len(standin.received) == 10
    assert guard.remaining() == 0
    audit(guard, standin)


def test_no_prompt_no_answer_and_no_key_reaches_the_ledger_or_a_log(
    client: AnyClient, guard: Guard, standin: StandIn, ledger: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secrets = ["tell-nobody-this-prompt", "tell-nobody-this-key"]
    standin.fault("bad_breakdown")
    standin.fault("error_timeout")
    guard.set_budget("acme", "0.005")
    caplog.set_level("DEBUG", "costguard")
    key = {"taskType": "authentication", "apiKey": secrets[1]}
    headers = {"Authorization": f"Bearer {secrets[1]}"}
    for _ in range(2):
        response = client.post(key, a_task(secrets[0]), headers=headers)
        secrets += [item["text"] for item in response.json().get("data", []) if item.get("text")]
    with pytest.raises(BudgetExceeded) as caught:
        client.post(key, a_task(secrets[0], numberResults=4, settings={"maxTokens": 4000}), headers=headers)
    guard.close()
    kept = b"".join(path.read_bytes() for path in ledger.parent.iterdir()).decode("latin-1")
    for secret in secrets:
        assert secret not in kept
        assert secret not in caplog.text
        assert secret not in str(caught.value)


def test_httpx2_need_not_be_there(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "httpx2")
    with httpx.Client() as client:
        assert guard.wrap(client) is client
    with httpx2.Client() as client2, pytest.raises(TypeError):
        guard.wrap(client2)
