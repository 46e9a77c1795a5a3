"""The webhook receiver: what it lets in, and that it says yes only to what the ledger has."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import httpx
import pytest
import trio
import uvicorn
from conftest import API, LIMIT, a_task, audit, only_task

from costguard import ConfigurationError, Guard, webhooks
from costguard.ledger.records import TaskRow
from costguard.testing import StandIn, Webhook

SECRET = "Tr0mb0ne-in_the.fog~1234"
URL = f"http://hooks.test/costguard/{SECRET}"
MARK = "grey-water-and-gulls"
"""Stands in bodies, and must stand nowhere else."""

App = webhooks.App
Message = dict[str, Any]


@pytest.fixture
def app(guard: Guard) -> App:
    return webhooks.app(guard, secret=SECRET)


def send(guard: Guard, standin: StandIn, *tasks: dict[str, Any]) -> list[Webhook]:
    """Send tasks whose results are owed to a webhook; what is owed."""
    with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:
        client.post("/v1", json=list(tasks)).raise_for_status()
    return standin.webhooks


def request(app: App, body: bytes = b"", *, method: str = "POST", url: str = URL, **options: Any) -> httpx.Response:
    """One request to the app, in memory."""

    async def main() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app)) as client:
            return await client.request(method, url, content=body, **options)

    return asyncio.run(main())


def http_scope(path: str = f"/costguard/{SECRET}", **more: Any) -> dict[str, Any]:
    return {"type": "http", "method": "POST", "path": path, "headers": [], **more}


def drive(app: App, scope: dict[str, Any], receive: Callable[[], Awaitable[Message]]) -> list[Message]:
    """What the app sends when a server hands it `scope` and `receive`."""
    sent: list[Message] = []

    async def keep(message: Any) -> None:
        sent.append(message)

    asyncio.run(_run(app(scope, receive, keep)))
    return sent


async def _run(call: Awaitable[None]) -> None:
    await call


def handing(*messages: Message) -> tuple[Callable[[], Awaitable[Message]], list[Message]]:
    """A server's `receive` over these messages, and those that are not asked for yet."""
    left = list(messages)

    async def receive() -> Message:
        return left.pop(0)

    return receive, left


def part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


def open_task(guard: Guard, standin: StandIn) -> tuple[TaskRow, bytes]:
    """A task that waits for its webhook, and the body of that webhook."""
    (owed,) = send(guard, standin, a_task(webhookURL=URL))
    task = only_task(guard)
    assert task.status == "held"
    return task, owed.body


# -- what is booked -----------------------------------------------------------------------------


@pytest.mark.parametrize("envelope", [False, True], ids=["item", "envelope"])
def test_every_result_of_a_task_is_booked_and_twice_changes_nothing(
    app: App, guard: Guard, standin: StandIn, envelope: bool
) -> None:
    standin.webhook_times, standin.webhook_envelope = 2, envelope
    owed = send(guard, standin, a_task(numberResults=3, webhookURL=URL))
    assert len(owed) == 6
    for webhook in owed:
        answer = request(app, webhook.body)
        assert (answer.status_code, answer.content) == (200, b"")
    task = only_task(guard)
    assert (task.status, task.held) == ("settled", 0)
    assert task.charged == standin.billed() * 10**9
    for webhook in owed:
        assert request(app, webhook.body).status_code == 200
    assert only_task(guard) == task
    audit(guard, standin)


def test_it_answers_only_after_the_ledger_has_it(app: App, guard: Guard, standin: StandIn) -> None:
    _, body = open_task(guard, standin)
    at_answer: list[str] = []

    async def main() -> None:
        async def note(message: Any) -> None:
            if message["type"] == "http.response.start":
                at_answer.append(only_task(guard).status)

        receive, _ = handing(part(body, more=False))
        await app(http_scope(), receive, note)

    asyncio.run(main())
    assert at_answer == ["settled"]


def test_a_ledger_that_cannot_be_written_answers_503_and_the_retry_is_booked(
    guard: Guard, make_guard: Callable[..., Guard], standin: StandIn, caplog: pytest.LogCaptureFixture
) -> None:
    _, body = open_task(guard, standin)
    broken = make_guard()
    broken.close()
    assert request(webhooks.app(broken, secret=SECRET), body).status_code == 503
    assert "asked to send it again" in caplog.text
    assert only_task(guard).status == "held"
    assert request(webhooks.app(guard, secret=SECRET), body).status_code == 200
    assert only_task(guard).status == "settled"


def test_a_task_of_another_ledger_is_logged_and_answered_200(
    app: App, guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "costguard")
    stranger = {"taskType": "textInference", "taskUUID": "5a77ee88-0000-4000-8000-000000000000", "cost": 0.01}
    assert request(app, json.dumps(stranger).encode()).status_code == 200
    assert f"task {stranger['taskUUID']} is not in this ledger" in caplog.text
    assert guard.ledger.tasks() == []


@pytest.mark.parametrize("body", [b"{}", b"[]", b"null", b'"hello"', b'{"data":[]}'])
def test_json_that_names_no_task_is_logged_and_answered_200(
    app: App, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "costguard")
    assert request(app, body).status_code == 200
    assert "tells of no task" in caplog.text


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"<html>", b"[" * 100_000, b"9" * 10_000])
def test_a_body_that_is_not_json_is_answered_400(app: App, guard: Guard, standin: StandIn, body: bytes) -> None:
    before, _ = open_task(guard, standin)
    assert request(app, body).status_code == 400
    assert only_task(guard) == before


def test_the_ledger_is_written_off_the_event_loop(app: App, guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[str] = []
    monkeypatch.setattr(guard, "observe", lambda payload: threads.append(threading.current_thread().name))
    assert request(app, b"{}").status_code == 200
    assert threads == ["costguard-ledger"]


def test_a_cancelled_request_is_booked_to_its_end_and_stays_cancelled(
    app: App, guard: Guard, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, body = open_task(guard, standin)
    begun, go_on, observe = threading.Event(), threading.Event(), guard.observe

    def slowly(payload: object) -> int:
        begun.set()
        go_on.wait(10)
        return observe(payload)

    monkeypatch.setattr(guard, "observe", slowly)

    async def main() -> None:
        receive, _ = handing(part(body, more=False))
        sent: list[Any] = []

        async def keep(message: Any) -> None:
            sent.append(message)

        running = asyncio.ensure_future(_run(app(http_scope(), receive, keep)))
        await asyncio.to_thread(begun.wait, 10)
        running.cancel()
        asyncio.get_running_loop().call_soon(go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await running
        assert sent == []

    asyncio.run(main())
    assert only_task(guard).status == "settled"


def test_it_runs_on_trio(app: App, guard: Guard, standin: StandIn) -> None:
    _, body = open_task(guard, standin)

    async def main() -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app)) as client:
            return (await client.post(URL, content=body)).status_code

    assert trio.run(main) == 200
    assert only_task(guard).status == "settled"


# -- who is let in ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/costguard",
        "/costguard/",
        f"/{SECRET}",
        f"/costguard/{SECRET}/",
        f"/costguard/{SECRET}x",
        f"/costguard/{SECRET[:-1]}",
        f"/costguard/{SECRET.swapcase()}",
        f"/costguard/?secret={SECRET}",
        f"/costguard/{'ä' * len(SECRET)}",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_wrong_secret_or_path_is_answered_404_without_detail(
    app: App, guard: Guard, standin: StandIn, path: str, method: str
) -> None:
    before, body = open_task(guard, standin)
    answer = request(app, body, method=method, url=f"http://hooks.test{path}")
    assert (answer.status_code, answer.content, answer.headers.get("allow")) == (404, b"", None)
    assert only_task(guard) == before


def test_the_secret_is_compared_in_constant_time(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[object, object]] = []
    real = hmac.compare_digest

    def note(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", note)
    request(app, b"{}")
    request(app, b"{}", url="http://hooks.test/costguard/guess")
    whole = f"/costguard/{SECRET}".encode()
    assert compared == [(whole, whole), (b"/costguard/guess", whole)]


def test_a_path_that_cannot_be_encoded_is_answered_404(app: App) -> None:
    receive, _ = handing()
    start, _ = drive(app, http_scope(path="/costguard/\udcff"), receive)
    assert start["status"] == 404


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_only_post_is_taken(app: App, method: str) -> None:
    answer = request(app, method=method)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "secret", ["", "short", "x" * 15, "a secret with blanks", "slash/slash/slash/", "percent%20percent%20", "ä" * 20]
)
def test_a_secret_that_is_short_or_cannot_stand_in_a_url_is_refused(guard: Guard, secret: str) -> None:
    with pytest.raises(ConfigurationError, match="secret: expected at least 16") as refused:
        webhooks.app(guard, secret=secret)
    assert not secret or secret not in str(refused.value)


@pytest.mark.parametrize(
    "options",
    [{"path": "costguard"}, {"body_max": 0}, {"body_max": True}, {"body_max": 1.5}, {"body_timeout_s": 0}],
)
def test_settings_that_cannot_be_used_are_named(guard: Guard, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"^{next(iter(options))}: "):
        webhooks.app(guard, secret=SECRET, **options)


@pytest.mark.parametrize("path", ["/", "/hooks/runware", "/hooks/runware/"])
def test_the_path_may_be_chosen(guard: Guard, path: str) -> None:
    app = webhooks.app(guard, secret=SECRET, path=path)
    assert request(app, b"{}", url=f"http://hooks.test{path.rstrip('/')}/{SECRET}").status_code == 200
    assert request(app, b"{}", url=f"http://hooks.test/elsewhere/{SECRET}").status_code == 404


def test_it_may_be_mounted_in_another_app(app: App) -> None:
    receive, _ = handing(part(b"{}", more=False))
    start, _ = drive(app, http_scope(path=f"/outer/costguard/{SECRET}", root_path="/outer"), receive)
    assert start["status"] == 200


# -- bodies and their senders -------------------------------------------------------------------


def test_a_body_announced_too_long_is_answered_413_and_not_read(guard: Guard) -> None:
    app = webhooks.app(guard, secret=SECRET, body_max=100)
    receive, left = handing(part(b"x"))
    start, _ = drive(app, http_scope(headers=[(b"content-length", b"101")]), receive)
    assert (start["status"], len(left)) == (413, 1)
    assert (b"connection", b"close") in start["headers"]


@pytest.mark.parametrize("announced", [[], [(b"content-length", b"5")], [(b"content-length", b"many")]])
def test_a_body_that_grows_too_long_is_answered_413_and_not_read_to_its_end(
    guard: Guard, announced: list[tuple[bytes, bytes]]
) -> None:
    app = webhooks.app(guard, secret=SECRET, body_max=100)
    receive, left = handing(*[part(b" " * 40)] * 9)
    start, _ = drive(app, http_scope(headers=announced), receive)
    assert (start["status"], len(left)) == (413, 6)


def test_a_body_of_just_the_longest_length_is_booked(guard: Guard, standin: StandIn) -> None:
    _, body = open_task(guard, standin)
    assert request(webhooks.app(guard, secret=SECRET, body_max=len(body) - 1), body).status_code == 413
    assert only_task(guard).status == "held"
    assert request(webhooks.app(guard, secret=SECRET, body_max=len(body)), body).status_code == 200
    assert only_task(guard).status == "settled"


def test_a_body_in_many_pieces_is_put_together(app: App, guard: Guard, standin: StandIn) -> None:
    _, body = open_task(guard, standin)
    pieces = [part(body[at : at + 7]) for at in range(0, len(body), 7)]
    receive, left = handing(*pieces, {"type": "http.request"})
    start, _ = drive(app, http_scope(), receive)
    assert (start["status"], left) == (200, [])
    assert only_task(guard).status == "settled"


@pytest.mark.parametrize("pause_s", [0.01, 30], ids=["dribbling", "silent"])
def test_a_body_that_does_not_end_in_time_is_answered_408(guard: Guard, pause_s: float) -> None:
    app = webhooks.app(guard, secret=SECRET, body_timeout_s=0.1)

    async def dribble() -> Message:
        await anyio.sleep(pause_s)
        return part(b" ")

    start, _ = drive(app, http_scope(), dribble)
    assert start["status"] == 408
    assert (b"connection", b"close") in start["headers"]


def test_a_sender_that_goes_away_is_not_answered_and_nothing_is_booked(
    app: App, guard: Guard, standin: StandIn
) -> None:
    before, body = open_task(guard, standin)
    receive, _ = handing(part(body), {"type": "http.disconnect"})
    assert drive(app, http_scope(), receive) == []
    assert only_task(guard) == before


def test_a_sender_that_goes_away_before_the_answer_is_booked_all_the_same(
    app: App, guard: Guard, standin: StandIn
) -> None:
    _, body = open_task(guard, standin)
    receive, _ = handing(part(body, more=False))

    async def gone(message: Any) -> None:
        raise ConnectionResetError

    asyncio.run(_run(app(http_scope(), receive, gone)))
    assert only_task(guard).status == "settled"


def test_neither_bodies_nor_the_secret_are_logged(
    guard: Guard, standin: StandIn, make_guard: Callable[..., Guard], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "costguard")
    app = webhooks.app(guard, secret=SECRET, body_max=2000, body_timeout_s=0.05)
    task = a_task(webhookURL=URL)
    send(guard, standin, task)
    item = {"taskUUID": task["taskUUID"], "taskType": "textInference", "text": MARK, "cost": 0.001, "status": "success"}
    closed = make_guard()
    closed.close()
    statuses = [
        request(app, json.dumps(item).encode()).status_code,
        request(app, json.dumps({**item, "taskUUID": "another"}).encode()).status_code,
        request(app, json.dumps({"errors": [{"message": MARK, "code": "x", "taskUUID": "b"}]}).encode()).status_code,
        request(app, json.dumps({"note": MARK}).encode()).status_code,
        request(app, f"{{{MARK}".encode()).status_code,
        request(app, MARK.encode() * 2000).status_code,
        request(app, method="GET").status_code,
        request(webhooks.app(closed, secret=SECRET), json.dumps(item).encode()).status_code,
    ]
    assert statuses == [200, 200, 200, 200, 400, 413, 405, 503]
    logged = "\n".join(record.getMessage() + (record.exc_text or "") for record in caplog.records)
    assert len(caplog.records) >= 6
    assert MARK not in logged
    assert SECRET not in logged
    assert SECRET not in repr(app)


# -- servers ------------------------------------------------------------------------------------


def test_a_server_may_start_it_up_and_shut_it_down(app: App) -> None:
    receive, left = handing({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    sent = drive(app, {"type": "lifespan"}, receive)
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert left == []


def test_a_websocket_is_turned_away(app: App) -> None:
    receive, _ = handing({"type": "websocket.connect"})
    assert drive(app, {"type": "websocket", "path": f"/costguard/{SECRET}"}, receive) == [{"type": "websocket.close"}]


@contextmanager
def served(app: App) -> Iterator[str]:
    """The app on uvicorn, on a loopback port; its base URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, http="h11", ws="none", lifespan="on", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def test_on_uvicorn_webhooks_settle_what_was_billed(app: App, guard: Guard) -> None:
    standin = StandIn(webhook_times=2)
    # On leaving, the stand-in sends all that it owes before the app goes down.
    with served(app) as hooks, standin.serve() as url, httpx.Client(base_url=url, trust_env=False) as client:
        guard.wrap(client)
        for results in (1, 2, 3):
            task = a_task(numberResults=results, webhookURL=f"{hooks}/costguard/{SECRET}")
            client.post("/v1", json=[task]).raise_for_status()
    assert [task.status for task in guard.ledger.tasks()] == ["settled"] * 3
    assert guard.remaining() == LIMIT - standin.billed()
    audit(guard, standin)


def test_on_uvicorn_a_body_too_long_is_cut_off(guard: Guard) -> None:
    with served(webhooks.app(guard, secret=SECRET, body_max=1000)) as hooks:
        address = hooks.removeprefix("http://").split(":")
        for announced in (b"Content-Length: 100000", b"Transfer-Encoding: chunked"):
            with socket.create_connection((address[0], int(address[1])), timeout=10) as connection:
                head = f"POST /costguard/{SECRET} HTTP/1.1\r\nHost: x\r\n".encode()
                connection.sendall(head + announced + b"\r\n\r\n" + b"800\r\n" + b" " * 0x800 + b"\r\n")
                answer = b""
                while received := connection.recv(4096):  # ends: the server closes, with the body unread
                    answer += received
            assert answer.startswith(b"HTTP/1.1 413 ")
        assert httpx.post(f"{hooks}/costguard/{SECRET}", content=b"{}", trust_env=False).status_code == 200
        assert httpx.post(f"{hooks}/costguard/guess", content=b"{}", trust_env=False).status_code == 404
