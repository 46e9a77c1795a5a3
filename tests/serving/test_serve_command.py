"""`costguard serve` as a program: it says where it listens, and ends in order."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from conftest import a_task
from proxied import Got, Plain

from costguard import Guard
from costguard.cli import main
from costguard.money import NANOS
from costguard.serving import app, pages, running
from costguard.testing import StandIn

pytest_plugins = ("serving_fixtures",)


@contextmanager
def program(ledger: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """The command in a process of its own: with its address, and what it said before that."""
    environment = {**os.environ, "COSTGUARD_DB": str(ledger), "PYTHONWARNINGS": "error"}
    process = subprocess.Popen(
        [sys.executable, "-m", "costguard", "serve", "--port", "0", *words],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        said: list[str] = []
        for line in process.stderr:
            said.append(line)
            if found := re.search(r" on (http://\S+)", line):
                break
        else:
            raise AssertionError("".join(said))
        yield process, found[1], said
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_end_and_leaves_a_ledger_that_is_whole(
    sent: int, ledger: Path, upstream: str, standin: StandIn
) -> None:
    words = ("--upstream", upstream, "--project", "acme/app", "--host", "127.1")  # another spelling of loopback
    with program(ledger, *words) as (process, url, said):
        assert len(said) == 1
        assert said[0].startswith(f"Serving {upstream} on http://127.0.0.1:")
        assert httpx.post(f"{url}/v1", json=[a_task()]).status_code == 200
        process.send_signal(sent)
        _, rest = process.communicate(timeout=60)
        assert (process.returncode, rest) == (0, "")
    with Guard(ledger) as guard:
        (row,) = guard.ledger.tasks()
        assert (row.project, row.status, row.charged) == ("acme/app", "settled", int(standin.billed() * NANOS))
        assert guard.verify().difference is None


def test_a_second_ctrl_c_does_not_wait_and_loses_nothing(ledger: Path) -> None:
    is_asked, goes_on = threading.Event(), threading.Event()

    def stuck(_: Got) -> Any:
        is_asked.set()
        goes_on.wait(60)
        return 200, [("content-length", "0")], []

    with Plain(stuck) as api, program(ledger, "--upstream", api.url, "--drain", "1000") as (process, url, _):
        answers: list[int] = []
        caller = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{url}/v1", json=[a_task()], timeout=60).status_code)
        )
        caller.start()
        assert is_asked.wait(60)
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.3)
        caller.join()
        goes_on.set()
    assert answers == [503]
    with Guard(ledger) as guard:
        assert [row.status for row in guard.ledger.tasks()] == ["unresolved"]


def test_it_says_so_when_others_can_reach_it(ledger: Path, upstream: str) -> None:
    with program(ledger, "--upstream", upstream, "--host", "0.0.0.0") as (_, _, said):
        assert said[0].startswith("Warning: others than this machine reach 0.0.0.0")
        assert "costguard token create" in said[0]
    with program(ledger, "--upstream", upstream, "--host", "0.0.0.0", "--require-token") as (_, url, said):
        assert "unencrypted" in said[0]
        assert "token create" not in said[0]
        assert httpx.get(f"{url.replace('0.0.0.0', '127.0.0.1')}/v1/models").status_code == 401


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("example.com", False)],
)  # fmt: skip
def test_what_is_only_this_machine(host: str, is_loopback: bool) -> None:
    assert pages.is_loopback(host) is is_loopback


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--upstream", "api.runware.ai"), 2, "is not an address"),
        (("--upstream", "https://api.runware.ai?x=1"), 1, "is not an address such as"),
        (("--upstream", "https://x", "--project-header", "a b"), 1, "is no name of a header"),
        (("--upstream", "https://x", "--project-header", "authorization"), 1, "authorization says something else"),
        (("--upstream", "https://x", "--project-header", "X-Costguard-Token"), 1, "says something else"),
        (("--upstream", "https://x", "--host", "no.such.host.invalid"), 1, "cannot listen on no.such.host.invalid"),
        ((), 2, "--upstream"),
    ],
)
def test_what_cannot_be_served_is_one_line(words: tuple[str, ...], code: int, said: str, ledger: Path) -> None:
    result = CliRunner().invoke(main, ["--db", str(ledger), "serve", *words])
    assert result.exit_code == code
    assert said in result.output
    assert "Traceback" not in result.output


def test_a_port_that_is_taken_is_one_line(ledger: Path) -> None:
    with running.listen("127.0.0.1", 0) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(main, ["--db", str(ledger), "serve", "--upstream", "https://x", "--port", port])
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1, port {port}" in result.output


def test_it_reads_requests_by_one_parser_whatever_else_is_installed(own_guard: Guard, upstream: str) -> None:
    server = running.server(app(own_guard, upstream), drain_s=0, started=lambda: None)
    assert server.config.http == "h11"  # the other one bounds no headers
