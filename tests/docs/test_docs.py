"""Every snippet in README.md and docs/*.md runs.

The blocks of one document run in order, in one namespace and one empty folder, against the stand-in: whatever
httpx or httpx2 would send goes to it. `key` and `task` are there, as are `request.json` and the environment of
`ENVIRONMENT`. A document that names the task `LOST` finds it in `costguard.db`, sent and unresolved.

    ```python            runs; `await` may stand at the top level
    ```python no-run     is compiled only
    ```console           its lines `$ costguard …` run, and must exit with 0
    ```console exit=3    the same, but the last one must exit with 3

Pipes and redirections in a console block are left out; commands other than costguard are not run.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from click.testing import CliRunner
from conftest import API, a_task
from markdown_it import MarkdownIt

from costguard import BudgetExceeded, Guard
from costguard.cli import main
from costguard.testing import StandIn

ROOT = Path(__file__).parents[2]
DOCUMENTS = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if path.exists()]

LOST = "7d3c0b6a-52c5-4d0f-8f6e-3f1f4c1f9a77"
ENVIRONMENT = {
    "RUNWARE_API_KEY": "a-key",
    "COSTGUARD_DB": "costguard.db",
    "COSTGUARD_WEBHOOK_SECRET": "Tr0mb0ne-in_the.fog~1234",
}
FLAGS = {"python": r"no-run", "console": r"exit=\d+"}

PIPED = {"|", "||", "&&", ";", "&", ">", ">>", "<"}


class Block(NamedTuple):
    """A fenced block; `line` is that of its fence."""

    language: str
    flags: tuple[str, ...]
    code: str
    line: int


def blocks(text: str) -> list[Block]:
    """The python and console blocks of a document; AssertionError for a flag that means nothing."""
    found = []
    for token in MarkdownIt().parse(text):
        language, *flags = token.info.split() if token.type == "fence" and token.info.strip() else [""]
        if language not in FLAGS:
            continue
        line = token.map[0] + 1 if token.map else 0
        for flag in flags:
            assert re.fullmatch(FLAGS[language], flag), f"line {line}: {flag!r} says nothing about a {language} block"
        found.append(Block(language, tuple(flags), token.content, line))
    return found


def commands(code: str) -> list[list[str]]:
    """The arguments of each `$ costguard …` of a console block."""
    found = []
    for line in code.replace("\\\n", " ").splitlines():
        if not line.startswith("$ "):
            continue
        lexer = shlex.shlex(line[2:], posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        while words and re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
        if words[:1] == ["costguard"]:
            end = next((at for at, word in enumerate(words) if word in PIPED), len(words))
            found.append(words[1:end])
    return found


class Reader:
    """Does what a document says."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "document", "key": ENVIRONMENT["RUNWARE_API_KEY"], "task": a_task()}
        self._runner = asyncio.Runner()

    def read(self, text: str, name: str = "document") -> None:
        for block in blocks(text):
            if block.language == "python":
                self._python(block, name)
            else:
                self._console(block, name)

    def _python(self, block: Block, name: str) -> None:
        code = compile("\n" * block.line + block.code, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, True)
        if "no-run" in block.flags:
            return
        running = eval(code, self.names)
        if inspect.iscoroutine(running):
            self._runner.run(running)

    def _console(self, block: Block, name: str) -> None:
        found = commands(block.code)
        exits = [0] * len(found)
        for flag in block.flags:
            assert found, f"{name}:{block.line}: {flag} stands at a block without a costguard command"
            exits[-1] = int(flag.removeprefix("exit="))
        for args, expected in zip(found, exits, strict=True):
            result = CliRunner().invoke(main, args)
            assert result.exit_code == expected, (
                f"{name}:{block.line}: `costguard {shlex.join(args)}` exits with {result.exit_code},"
                f" not {expected}: {result.output} {result.exception!r}"
            )

    def close(self) -> None:
        self._runner.close()


@pytest.fixture
def reader(tmp_path: Path, standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """A reader in an empty folder, whose requests go to the stand-in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COSTGUARD", raising=False)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for name in ("httpx", "httpx2"):
        module: Any = importlib.import_module(name)
        kind: Any = name  # one of two literals, which a type checker cannot see
        answer, answer_async = standin.transport(kind), standin.async_transport(kind)
        # The transport is bound in each class: the client's own stays unused.
        monkeypatch.setattr(module.HTTPTransport, "handle_request", answer.handle_request)
        monkeypatch.setattr(module.AsyncHTTPTransport, "handle_async_request", answer_async.handle_async_request)
    guards: list[Guard] = []
    init = Guard.__init__

    def noted(guard: Guard, *args: Any, **options: Any) -> None:
        init(guard, *args, **options)
        guards.append(guard)

    monkeypatch.setattr(Guard, "__init__", noted)  # documents leave theirs open
    Path("request.json").write_text(json.dumps([a_task()]))
    reader = Reader()
    try:
        yield reader
    finally:
        reader.close()
        for guard in guards:
            guard.close()


def lose_a_task(standin: StandIn) -> None:
    """Put `LOST` into the ledger: sent, and never heard of again, by the provider neither."""
    standin.fault("drop_before", task_uuid=LOST)
    with (
        Guard("costguard.db") as guard,
        guard.wrap(httpx.Client(base_url=API)) as client,
        pytest.raises(httpx.ReadError),
    ):
        client.post("/v1", json=[a_task(taskUUID=LOST)])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_snippet_of_the_document_runs(reader: Reader, standin: StandIn, document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    if LOST in text:
        lose_a_task(standin)
    reader.read(text, str(document))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_within_the_project_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


# -- the reader itself --------------------------------------------------------------------------

FIRST_EXAMPLE = """
# An example

```python
import httpx
from costguard import Guard, BudgetExceeded

guard = Guard("costguard.db", project="acme/search")
guard.set_budget("acme", "200", per="month", timezone="Europe/Berlin", warn_at=(50, 80, 100))
client = guard.wrap(httpx.Client(base_url="https://api.runware.ai", headers={"Authorization": f"Bearer {key}"}))
try:
    client.post("/v1", json=[task])          # their code, unchanged
except BudgetExceeded as stop:
    ...                                       # stop.project, .budget, .requested, .remaining, .resets_at
```

And in a shell:

```console
$ costguard status
$ costguard report --month 2026-11
```
"""


def test_the_first_example_runs_as_it_stands(reader: Reader, standin: StandIn) -> None:
    reader.read(FIRST_EXAMPLE)
    guard: Guard = reader.names["guard"]
    assert [task.status for task in guard.ledger.tasks()] == ["settled"]
    assert guard.status("acme")[0].spent == standin.billed() > 0


def test_what_a_block_raises_names_its_line_in_the_document(reader: Reader) -> None:
    text = "one\n\n1. two\n\n   ```python\n   x = 1\n   raise LookupError(x)\n   ```\n"
    with pytest.raises(LookupError) as raised:
        reader.read(text, "some.md")
    assert (str(raised.traceback[-1].path), raised.traceback[-1].lineno + 1) == ("some.md", 7)


def test_a_refused_call_is_an_error_of_the_block(reader: Reader) -> None:
    text = FIRST_EXAMPLE + '```python\nguard.set_budget("acme", 0)\nclient.post("/v1", json=[task])\n```\n'
    with pytest.raises(BudgetExceeded):
        reader.read(text)


def test_await_may_stand_at_the_top_and_names_live_on(reader: Reader) -> None:
    block = "```python\nimport asyncio\nfound = await asyncio.sleep(0, 'slept')\n```\n"
    reader.read(block + "```python\nfound += ' well'\n```\n")
    assert reader.names["found"] == "slept well"


def test_a_block_that_is_not_to_be_run_is_compiled(reader: Reader) -> None:
    reader.read("```python no-run\nraise AssertionError\n```\n")
    with pytest.raises(SyntaxError):
        reader.read("```python no-run\nthis is no python\n```\n")


@pytest.mark.parametrize("info", ["python norun", "console exit=three", "console no-run", "python exit=3"])
def test_a_flag_that_says_nothing_is_an_error(info: str) -> None:
    with pytest.raises(AssertionError, match=r"line 3: .* says nothing"):
        blocks(f"text\n\n```{info}\n```\n")


def test_other_blocks_are_left_alone(reader: Reader) -> None:
    reader.read("```json\n{\n```\n\n```\n$ costguard nonsense\n```\n\n    $ costguard nonsense\n")


def test_console_blocks_are_read_as_a_shell_would() -> None:
    code = (
        "$ pip install x\n"
        "$ costguard budget set / 5 --warn '50, 80'  # a comment\n"
        "output that names costguard\n"
        "$ NAME=x costguard status \\\n    --format json | jq .\n"
        "$ costguard report>report.txt; rm report.txt\n"
    )
    assert commands(code) == [
        ["budget", "set", "/", "5", "--warn", "50, 80"],
        ["status", "--format", "json"],
        ["report"],
    ]


def test_a_console_block_fails_on_any_exit_code_but_the_one_it_states(reader: Reader) -> None:
    reader.read("```console\n$ costguard budget set acme 5\n```\n")
    with pytest.raises(AssertionError, match="`costguard check acme 6` exits with 3, not 0"):
        reader.read("```console\n$ costguard check acme 6\n```\n")
    reader.read("```console exit=3\n$ costguard check acme 4\n$ costguard check acme 6\n```\n")
    with pytest.raises(AssertionError, match="exits with 0, not 3"):
        reader.read("```console exit=3\n$ costguard check acme 4\n```\n")
    with pytest.raises(AssertionError, match="without a costguard command"):
        reader.read("```console exit=3\n$ true\n```\n")
