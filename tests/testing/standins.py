"""What the tests of the stand-in share: tasks, ways to send them, and readers of what comes back."""

from __future__ import annotations

import http.client
import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from costguard.testing import StandIn, exact

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


def about(task_type: str, task: dict[str, Any]) -> dict[str, Any]:
    return {"taskType": task_type, "taskUUID": task["taskUUID"]}


def ask(standin: StandIn, *tasks: dict[str, Any]) -> dict[str, Any]:
    """One POST without a carrier; the parsed answer, fractions as Decimal."""
    reply = standin.handle("POST", "/v1", {}, json.dumps(tasks).encode())
    parsed: dict[str, Any] = exact.loads(b"".join(reply.chunks))
    return parsed


def over_loopback(
    standin: StandIn, *tasks: dict[str, Any], body: bytes | None = None, **headers: str
) -> tuple[http.client.HTTPMessage, bytes]:
    """One POST over a real connection: the headers and the bytes of the answer, nothing decoded."""
    sent = json.dumps(tasks).encode() if body is None else body
    with standin.serve() as url:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=5)
        connection.request("POST", "/v1", sent, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        read = response.read()
        connection.close()
    return response.headers, read


def stream_events(body: bytes) -> list[str]:
    lines = re.split(r"\r?\n", body.decode())
    return [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]


def frames(body: bytes) -> list[dict[str, Any]]:
    """The frames of a stream in whichever manner, out of their envelopes, without pings and `[DONE]`."""
    lines = [line.strip() for line in body.decode("utf-8-sig").splitlines()]
    texts = [line.removeprefix("data:").strip() for line in lines if line and not line.startswith((":", "event:"))]
    found: list[dict[str, Any]] = []
    for payload in (exact.loads(text) for text in texts if text != "[DONE]"):
        inner = payload.get("data", payload)
        found += inner if isinstance(inner, list) else [inner]
    return [frame for frame in found if frame.get("type") != "ping"]


def stated(answer: dict[str, Any]) -> Decimal:
    """The sum of the totals an answer states."""
    return sum((item["usage"]["costBreakdown"]["total"] for item in answer["data"]), Decimal(0))


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
