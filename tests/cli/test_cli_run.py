"""`costguard run`: a program that was never changed, its children, its end, and what cannot be guarded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from costguard import Guard
from costguard.cli import main
from costguard.running.children import ignoring, python_words
from costguard.testing import StandIn

TASK = (
    'TASK = {"taskType": "textInference", "model": "google:gemini@3-flash", "settings": {"maxTokens": 120},'
    ' "messages": [{"role": "user", "content": "Which harbours are open?"}]}\n'
)


@pytest.fixture
def api(standin: StandIn) -> Iterator[str]:
    """The stand-in at an address of this machine."""
    with standin.serve() as url:
        yield f"{url}/v1"


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def program(folder: Path, text: str) -> str:
    """A program of that text; its file."""
    file = folder / "program.py"
    file.write_text(text)
    return str(file)


def costguard_run(ledger: Path, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """`costguard run`, as a shell would start it."""
    return subprocess.run(
        [sys.executable, "-m", "costguard", "--db", str(ledger), "run", *words],
        capture_output=True, text=True, timeout=100, check=False, **options,
    )  # fmt: skip


PARENT = (
    "import multiprocessing, os, subprocess, sys\n"
    "import httpx\n"
    + TASK
    + """
def call(url):
    import requests
    requests.post(url, json=[TASK]).raise_for_status()

if __name__ == "__main__":
    url = sys.argv[1]
    if len(sys.argv) > 2:
        call(url)
        os._exit(0)
    httpx.post(url, json=[TASK]).raise_for_status()
    for how in ("spawn", "fork"):
        child = multiprocessing.get_context(how).Process(target=call, args=(url,))
        child.start()
        child.join()
        assert child.exitcode == 0
    subprocess.run([sys.executable, __file__, url, "again"], check=True)
    assert not [path for path in sys.path if path.endswith("site") and "costguard" in path]
    for words, env in (([sys.executable, "-Ic", "1"], None), ([sys.executable, "-c", "1"], {})):
        try:
            subprocess.run(words, env=env)
        except RuntimeError as error:
            print(error)
    import sitecustomize
    print(sitecustomize.__file__)
    sys.exit(7)
"""
)


def test_a_program_and_its_children_are_guarded_and_its_end_is_told(
    ledger: Path, tmp_path: Path, api: str, standin: StandIn
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "sitecustomize.py").write_text("import json\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(own), os.environ.get("PYTHONPATH", "")))}
    done = costguard_run(
        ledger, "--project", "acme/nightly", "--budget", "5/day", "--tag", "team=search", "--",
        sys.executable, program(tmp_path, PARENT), api, env=environment,
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    isolated, bare, site = done.stdout.splitlines()
    assert "-I looks at nothing that would guard it" in isolated
    assert "is started with an environment that lacks COSTGUARD_RUN" in bare
    assert site == str(own / "sitecustomize.py")
    with Guard(ledger) as guard:
        tasks = guard.ledger.tasks()
        assert [task.project for task in tasks] == ["acme/nightly"] * 4
        assert {task.status for task in tasks} == {"settled"}
        assert all('"team":"search"' in task.tags.replace(" ", "") for task in tasks)
        (budget,) = guard.status("acme/nightly")
        spent = sum((standin.billed(task.task_uuid) for task in tasks), Decimal(0))
        assert (budget.per, budget.limit, budget.spent) == ("day", Decimal(5), spent)
    assert f"costguard run: 4 tasks of acme/nightly, {spent} USD charged (tag run=" in done.stderr
    assert f"budget acme/nightly per day: {5 - spent} of 5.00 USD left" in done.stderr


def test_beyond_the_budget_the_program_is_refused_and_nothing_is_sent(
    ledger: Path, tmp_path: Path, api: str, standin: StandIn
) -> None:
    text = f"import sys, httpx\n{TASK}httpx.post(sys.argv[1], json=[TASK])\n"
    done = costguard_run(ledger, "--budget", "0.000001/total", sys.executable, program(tmp_path, text), api)
    assert done.returncode == 1
    assert "BudgetExceeded: default: this call may cost up to" in done.stderr
    assert "costguard run: 0 tasks of default, 0.00 USD charged" in done.stderr
    assert standin.received == []


def test_a_refusal_comes_through_an_sdk_that_is_imported_first(ledger: Path, tmp_path: Path, api: str) -> None:
    text = (
        "import openai, sys\n"
        "client = openai.OpenAI(base_url=sys.argv[1], api_key='key')\n"
        "client.chat.completions.create(model='google:gemini@3-flash', max_tokens=9, messages=[dict(role='user',"
        " content='?')])\n"
    )
    words = ("--budget", "0/total", "--endpoint", api, "--", sys.executable, program(tmp_path, text), api)
    done = costguard_run(ledger, *words, env={**os.environ, "NO_PROXY": "127.0.0.1"})
    assert done.returncode == 1
    assert "BudgetExceeded: default: this call may cost up to" in done.stderr
    assert "nothing is put into" not in done.stderr
    assert "APIConnectionError" not in done.stderr


MEANWHILE = """
import sys, threading
from costguard import running

inside, begins = threading.Event(), threading.Event()
sys.path.insert(0, sys.argv[1])

def begin(known=running.begin):
    begins.set()
    import needed
    return known()

running.begin = begin
threads = [threading.Thread(target=__import__, args=(name,)) for name in ("needed", "requests")]
threads[0].start()
inside.wait(60)
threads[1].start()
import httpx
for each in threads:
    each.join()
import requests
print([hasattr(each, "__wrapped__") for each in (httpx.HTTPTransport.handle_request, requests.Session.send)])
"""
NEEDED = """
import __main__
__main__.inside.set()
__main__.begins.wait(60)
import colorsys
"""


def test_threads_that_import_what_the_guard_needs_and_what_it_guards_while_it_begins_all_get_on(
    ledger: Path, tmp_path: Path
) -> None:
    (tmp_path / "needed.py").write_text(NEEDED)
    done = costguard_run(ledger, "--", sys.executable, program(tmp_path, MEANWHILE), str(tmp_path))
    assert done.stdout == "[True, True]\n", done.stderr


def test_a_python_without_costguard_is_stopped_at_its_first_client_library(ledger: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", symlinks=True, with_pip=False)
    (tmp_path / "httpx.py").write_text("print('imported')\n")
    text = program(tmp_path, "import json\nprint('began', flush=True)\nimport httpx\n")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = (str(tmp_path / "venv" / "bin" / "python"), text)
    root = Path(__file__).parents[2]

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return costguard_run(ledger, *options, "--", *words, env=environment, cwd=root)

    stopped = run()
    assert (stopped.returncode, stopped.stdout) == (1, "began\n")
    assert f"{words[0]} has no costguard that can be imported" in stopped.stderr
    assert "no call was guarded" in stopped.stderr
    allowed = run("--allow-unguarded")
    assert (allowed.returncode, allowed.stdout) == (0, "began\nimported\n")
    assert "it is not guarded" in allowed.stderr


@pytest.mark.parametrize(("handles", "code"), [(True, 5), (False, 128 + signal.SIGTERM)])
def test_a_signal_is_passed_on_and_the_exit_code_comes_back(
    ledger: Path, tmp_path: Path, handles: bool, code: int
) -> None:
    handler = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n" if handles else ""
    text = f"import signal, sys\n{handler}print('ready', flush=True)\nsignal.pause()\n"
    with subprocess.Popen(
        [sys.executable, "-m", "costguard", "--db", str(ledger), "run", "--", sys.executable, program(tmp_path, text)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=100)
    assert process.returncode == code
    assert "no client library was imported" in errors


def test_a_budget_that_is_changed_or_refuses_nothing_is_said(ledger: Path) -> None:
    with Guard(ledger) as guard:
        guard.set_budget("acme", "10", per="day", action="warn")
        guard.set_budget("acme", "7", per="total")
    words = ("--project", "acme", "--budget", "5/day", "--budget", "7/total", "--budget", "3/week", "true")
    done = costguard_run(ledger, *words)
    assert done.returncode == 0
    assert "budget acme per day: 5.00 USD from now on, 10.00 USD until now" in done.stderr
    assert "budget acme per day: its action is warn, so it refuses nothing" in done.stderr
    assert done.stderr.count("costguard run: budget acme") == 2


def test_what_has_no_python_is_said_to_be_unguarded(ledger: Path) -> None:
    done = costguard_run(ledger, "sh", "-c", "exit 9")
    assert done.returncode == 9
    assert "no Python was started that could be guarded" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nowhere-to-be-found",), 127, "no such command was found; nothing was started"),
        ((sys.executable, "-E", "app.py"), 1, "-E looks at nothing that would guard it; run it without -E"),
        (("--budget", "5", "true"), 2, "'5' is not an amount per window such as 5/day; windows are task, day"),
        (("--budget", "lots/day", "true"), 2, "lots"),
        (("--budget", "1/decade", "true"), 2, "windows are"),
        (("--endpoint", "https://", "true"), 2, "names no host"),
        (("--tag", "team", "true"), 2, "is not a tag such as"),
        (("--tag", "a=1", "--tag", "a=2", "true"), 2, "names a tag twice"),
        ((), 2, "Missing argument"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is_started(
    ledger: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    done = CliRunner().invoke(main, ["--db", str(ledger), "run", *words])
    assert done.exit_code == code
    assert said in done.stderr
    assert not ledger.exists()


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("python app.py", None),
        ("python -I app.py", "-I"),
        ("python3.11 -Bu -sE -c pass", "-E"),
        ("/usr/bin/python3 -OOS app.py", "-S"),
        ("python -W error -X dev -X importtime app.py -I", None),
        ("python -W -I app.py", None),
        ("python -Werror -I app.py", "-I"),
        ("python -m tool -S", None),
        ("python -c pass -E", None),
        ("python -cI -E", None),
        ("python - -I", None),
        ("python", None),
    ],
)
def test_options_that_keep_a_python_from_being_guarded_are_seen(words: str, option: str | None) -> None:
    command = words.split()
    found = python_words(command, command[0])
    assert found == command
    assert ignoring(found) == option


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"#!/usr/bin/python3 -I\n", ["/usr/bin/python3", "-I"]),
        (b"#! /usr/bin/env -S python3 -E\n", ["python3", "-E"]),
        (b"#!/usr/bin/env python3\n", ["python3"]),
        (b"#!/bin/sh\n", None),
        (b"\x7fELF", None),
        (b"#!\n", None),
        (b"", None),
    ],
)
def test_a_script_that_says_what_runs_it_is_a_python_too(tmp_path: Path, line: bytes, words: list[str] | None) -> None:
    script = tmp_path / "tool"
    script.write_bytes(line)
    found = python_words(["tool", "--fast"], str(script))
    assert found == (None if words is None else [*words, str(script), "--fast"])
