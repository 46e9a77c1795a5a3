"""Every snippet in the README and the other pages runs, and shows what really comes out.

The blocks of one document run in order, in one namespace and one empty folder, against the stand-in: whatever
httpx, httpx2, requests or the Runware SDK would send to the API goes to it. `documents.py` tells what a block may say.
`key` and `task` are there, as are `request.json` and the environment of `ENVIRONMENT`. A document that names the task
`LOST` finds it in `costguard.db`, sent and unresolved.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import runware
from conftest import API, a_task
from documents import ROOT, Command, Reader, blocks, commands, shows
from runware_sdk import unhurried

import costguard
from costguard import BudgetExceeded, Guard
from costguard.testing import StandIn

PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "pricing/README.md")
DOCUMENTS = [*(ROOT / page for page in PAGES), *sorted((ROOT / "docs").glob("*.md"))]

LOST = "7d3c0b6a-52c5-4d0f-8f6e-3f1f4c1f9a77"
ENVIRONMENT = {
    "RUNWARE_API_KEY": "a-key",
    "COSTGUARD_DB": "costguard.db",
    "COSTGUARD_WEBHOOK_SECRET": "Tr0mb0ne-in_the.fog~1234",
}


@pytest.fixture
def reader(tmp_path: Path, standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """A reader in an empty folder, whose requests go to the stand-in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as a program finds what lies beside it
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
    servers = ExitStack()
    lead_others_to(
        servers.enter_context(standin.serve()), servers.enter_context(standin.serve_websocket()), monkeypatch
    )
    guards: list[Guard] = []
    init = Guard.__init__

    def noted(guard: Guard, *args: Any, **options: Any) -> None:
        init(guard, *args, **options)
        guards.append(guard)

    monkeypatch.setattr(Guard, "__init__", noted)  # documents leave theirs open
    Path("request.json").write_text(json.dumps([a_task()]))
    reader = Reader({"key": ENVIRONMENT["RUNWARE_API_KEY"], "task": a_task()})
    try:
        yield reader
    finally:
        reader.close()
        costguard.uninstall()
        for guard in guards:
            guard.close()
        servers.close()


def lead_others_to(url: str, websocket_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What requests sends to the API goes to `url`, and the Runware SDK knows no other address."""
    unhurried(monkeypatch)
    send, init = requests.adapters.HTTPAdapter.send, runware.Runware.__init__

    def led(adapter: Any, request: Any, *args: Any, **options: Any) -> Any:
        request.url = request.url.replace(API, url)
        return send(adapter, request, *args, **options)

    def told(client: Any, **options: Any) -> None:
        init(client, **{"ws_base_url": websocket_url, "http_base_url": f"{url}/v1", **options})

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", led)
    monkeypatch.setattr(runware.Runware, "__init__", told)


def lose_a_task(standin: StandIn) -> None:
    """Put `LOST` into the ledger: sent, and never heard of again, by the provider neither."""
    standin.fault("drop_before", task_uuid=LOST)
    with (
        Guard("costguard.db") as guard,
        guard.wrap(httpx.Client(base_url=API)) as client,
        pytest.raises(httpx.ReadError),
    ):
        client.post("/v1", json=[a_task(taskUUID=LOST)])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_snippet_of_the_document_runs(reader: Reader, standin: StandIn, document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    if LOST in text:
        lose_a_task(standin)
    reader.read(text, str(document))


def test_each_way_in_of_the_readme_is_charged_at_the_bill(reader: Reader, standin: StandIn) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    ways = text[text.index("## Six ways in") : text.index("## How a call is guarded")]
    reader.names["task"] = a_task(taskUUID=None)  # each call is one of its own
    reader.read(ways)
    tasks = reader.names["guard"].ledger.tasks()
    assert [(task.project, task.status) for task in tasks] == [("shop/search", "settled")] * 5
    assert sum(task.charged for task in tasks) == standin.billed() * 10**9 > 0


@pytest.mark.parametrize("mode", ["observe", "off"])
@pytest.mark.parametrize("is_usable", [True, False])
@pytest.mark.parametrize("page", ["README.md", "docs/first-program.md", "docs/guide.md"])
def test_the_programs_of_the_first_pages_run_in_every_mode_and_without_a_ledger(
    reader: Reader, page: str, is_usable: bool, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they print is another matter, so it is not compared."""
    monkeypatch.setenv("COSTGUARD", mode)
    if not is_usable:
        Path("costguard.db").mkdir()
    text = []
    for block in blocks((ROOT / page).read_text(encoding="utf-8")):
        if block.language == "python":
            text.append(f"```{' '.join((block.language, *block.flags))}\n{block.code}```\n")
            if block.file is not None and not block.file.startswith("test_"):
                text.append(f"```console\n$ python {block.file}\n```\n")
    assert text
    reader.read("\n".join(text), page)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(document: Path) -> None:
    for target, part in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", document.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        page = document.parent / target if target else document
        assert page.exists(), f"{document.name} links to {target}"
        if part:
            assert part in headings(page), f"{document.name} links to {target}#{part}"


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub names them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_page_is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(([^)#\s]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert {str(page.relative_to(ROOT)) for page in DOCUMENTS} - linked == {"README.md"}


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
        Command(("pip", "install", "x"), False, ""),
        Command(("costguard", "budget", "set", "/", "5", "--warn", "50, 80"), False, "output that names costguard\n"),
        Command(("costguard", "status", "--format", "json"), True, ""),
        Command(("costguard", "report"), True, ""),
    ]


def test_a_console_block_fails_on_any_exit_code_but_the_one_it_states(reader: Reader) -> None:
    reader.read("```console\n$ costguard budget set acme 5\n```\n")
    with pytest.raises(AssertionError, match="`costguard check acme 6` exits with 3, not 0"):
        reader.read("```console\n$ costguard check acme 6\n```\n")
    reader.read("```console exit=3\n$ costguard check acme 4\n$ costguard check acme 6\n```\n")
    with pytest.raises(AssertionError, match="exits with 0, not 3"):
        reader.read("```console exit=3\n$ costguard check acme 4\n```\n")
    with pytest.raises(AssertionError, match="runs nothing"):
        reader.read("```console exit=3\n$ true\n```\n")


def test_what_a_block_prints_is_compared_with_what_is_shown(reader: Reader) -> None:
    reader.read("```python\nprint(1, 2)\n```\n\n```output\n1 2\n```\n")
    with pytest.raises(AssertionError, match=r"what is printed is\n1 2"):
        reader.read("```python\nprint(1, 2)\n```\n\n```output\n1 3\n```\n")
    with pytest.raises(AssertionError, match="no python block"):
        reader.read("```python\nprint(1)\n```\n\n```json\n```\n\n```console\n$ true\n```\n\n```output\n1\n```\n")


def test_what_a_command_prints_is_compared_with_what_is_shown(reader: Reader) -> None:
    reader.read("```console\n$ costguard budget set acme 5\n```\n")
    check = "```console\n$ costguard check acme 4\n4.00 USD fits: {} USD remaining (acme per month)\n```\n"
    with pytest.raises(AssertionError, match=r"prints\n.*5\.00 USD"):
        reader.read(check.format("6.00"))
    reader.read(check.format("5.00"))


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("As of 2026-11-25 22:49:38 UTC.", "As of 2027-01-02 03:04:05 UTC.\n", True),
        ("2026-11, all", "2027-01, all", True),
        ("at 2026-12-01", "at 2026-12-01 00:00", False),
        ("task 7d3c0b6a-52c5-4d0f-8f6e-3f1f4c1f9a77", "task 00000000-0000-4000-8000-000000000000", True),
        ("a … c\nd", "a b\nb c  \nd\n", True),
        ("cost 0.01", "cost 0.011", False),
    ],
)
def test_times_and_names_stand_for_any_and_figures_for_themselves(shown: str, printed: str, same: bool) -> None:
    assert shows(shown, printed) is same


def test_a_program_in_a_file_runs_as_a_process_in_which_warnings_are_errors(reader: Reader) -> None:
    file = "```python file=some.py\nimport warnings\n{}\n```\n\n```console\n$ python some.py\nhello\n```\n"
    reader.read(file.format("print('hello')"))
    with pytest.raises(AssertionError, match="exits with 1"):
        reader.read(file.format("warnings.warn('hello')"))


def test_the_commands_of_a_crontab_run(reader: Reader) -> None:
    with pytest.raises(AssertionError, match="`costguard check acme 6` exits with 3"):
        reader.read(
            "```console\n$ costguard budget set acme 5\n```\n\n"
            "```cron\nX=y\n# 1\n*/5 * * * * costguard check acme 6\n```\n"
        )


def test_a_script_that_is_not_there_is_an_error(reader: Reader) -> None:
    reader.read("```console\n$ scripts/demo\n```\n")
    with pytest.raises(AssertionError, match="is not there"):
        reader.read("```console\n$ scripts/nothing\n```\n")
