"""docs/proxy.md and the README say of the proxy what it does: shell commands against a real one, options, statuses."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import ROOT

from costguard import Guard
from costguard.cli import main
from costguard.ledger.owner import who
from costguard.serving import app, running
from costguard.serving.upstream import endpoint_of
from costguard.testing import StandIn
from costguard.tokens import make

PAGE = (ROOT / "docs" / "proxy.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHELL = re.findall(r"^```sh\n(.*?)^```", PAGE + README, re.M | re.S)
CURLS = [code[code.index("curl ") :] for code in SHELL if re.search("^curl ", code, re.M)]


@pytest.fixture
def url(standin: StandIn, ledger: Path) -> Iterator[str]:
    """A proxy before the stand-in."""
    import threading

    is_there = threading.Event()
    with standin.serve() as upstream, Guard(ledger, durability="normal", endpoints=[endpoint_of(upstream)]) as guard:
        proxy = app(guard, upstream)
        with running.listen("127.0.0.1", 0) as listening:
            server = running.server(proxy, drain_s=0, started=is_there.set)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
            thread.start()
            assert is_there.wait(20)
            yield f"127.0.0.1:{listening.getsockname()[1]}"
            server.should_exit = True
            thread.join()


@pytest.mark.parametrize("code", CURLS)
def test_what_curl_is_told_is_answered(
    code: str, url: str, ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl")
    for name in ("tasks.json", "request.json"):
        (tmp_path / name).write_text('[{"taskType": "textInference", "model": "google:gemini@3-flash",'
                                     ' "messages": [{"role": "user", "content": "x"}]}]')  # fmt: skip
    token = "none"
    if "$TOKEN" in code:
        token, kept = make("acme", "", 1, who())
        with Guard(ledger, durability="normal") as guard:
            guard.ledger.add_token(kept)
    for name, value in {"TOKEN": token, "KEY": "a-key", "RUNWARE_API_KEY": "a-key"}.items():
        monkeypatch.setenv(name, value)
    words = code.replace("127.0.0.1:8402", url).replace("curl ", "curl -sS --fail-with-body ")
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "harbour" in done.stdout or '"text"' in done.stdout


def test_every_serve_and_run_on_the_pages_is_one_that_there_is() -> None:
    told = re.findall(r"costguard (?:--db \S+ )?(serve|run) ([^\"\n`&]*)", PAGE + "".join(SHELL))
    assert {name for name, _ in told} == {"serve", "run"}
    for name, words in told:
        main.commands[name].make_context(name, shlex.split(words, comments=True))


def test_every_option_is_told() -> None:
    names = {name for param in main.commands["serve"].params for name in param.opts} - {"--db"}
    assert {name for name in names if f"`{name}" not in PAGE and f" `{name}" not in PAGE} == set()


def test_every_code_is_told() -> None:
    folder = ROOT / "costguard" / "serving"
    code = "".join(file.read_text(encoding="utf-8") for file in folder.glob("*.py"))
    codes = set(re.findall(r'(?:Problem|_turned)\(\s*\d+, "(\w+)"', code)) - {"configuration", "internal"}
    assert len(codes) > 8
    assert {one for one in codes if f"`{one}`" not in PAGE} == set()
