"""The command line on a ledger in PostgreSQL: the same words, the same exit codes, and never a password."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from click.testing import CliRunner, Result
from conftest import API, Clock, a_task
from postgres import PASSWORD, Pair, Server
from recordings import a_record, an_item, lines

from costguard import Guard
from costguard.cli import main
from costguard.cli.app import Session
from costguard.testing import StandIn

Run = Callable[..., Result]

ROOT = Path(__file__).parents[2]
SECRETS = (PASSWORD, quote(PASSWORD, safe=""))
URLS = ("postgresql://u:{}@h/d", "postgres://u:{}@h:1,i:2/d?schema=s", "postgresql://h/d?user=u&password={}")
COMMANDS = (
    ("init", "--timezone", "Europe/Berlin"),
    ("init",),
    ("status",),
    ("budget", "set", "acme", "5", "--per", "month", "--warn", "50,80"),
    ("budget", "set", "acme/*", "4", "--per", "day"),
    ("budget", "set", "/", "0.5", "--per", "total", "--action", "clamp", "--floor", "10"),
    ("budget", "set", "gone", "1"),
    ("budget", "set", "acme", "6", "--timezone", "Asia/Tokyo", "--per", "month"),
    ("budget", "remove", "gone"),
    ("budget", "remove", "gone"),
    ("budget", "list"),
    ("budget", "log"),
    ("ceiling", "set", "acme:writer@1", "0.1"),
    ("ceiling", "set", "acme:painter@1", "0.2"),
    ("ceiling", "remove", "acme:painter@1"),
    ("ceiling", "list"),
    ("import", "calls.jsonl", "--project", "acme/lab", "--at", "at", "--tag", "user=ann"),
    ("import", "calls.jsonl", "--project", "acme/lab", "--at", "at", "--tag", "user=ann"),
    ("send",),
    ("status",),
    ("status", "acme/search", "--format", "json"),
    ("check", "acme/search", "1"),
    ("check", "acme/search", "4000"),
    ("tasks",),
    ("tasks", "--format", "json"),
    ("tasks", "--project", "acme/lab", "--status", "settled", "--limit", "1", "--format", "csv"),
    ("tasks", "resolve", "00000000-0000-4000-8000-000000000003", "--charged", "0.01", "--reason", "seen on the bill"),
    ("tasks", "resolve", "00000000-0000-4000-8000-000000000003", "--released", "--reason", "again"),
    ("reconcile",),
    ("report",),
    ("report", "--by", "project", "--format", "json"),
    ("report", "--by", "day", "--by", "modality", "--timezone", "America/New_York"),
    ("report", "--format", "csv"),
    ("accuracy",),
    ("reprice", "--as-of", "2026-11-20"),
    ("estimate", "task.json", "--project", "acme/search"),
    ("export", "focus"),
    ("project", "rename", "acme/lab", "acme/laboratory"),
    ("project", "merge", "acme/laboratory", "acme/search"),
    ("project", "list"),
    ("log",),
    ("verify",),
    ("verify", "--resume", "state"),
    ("report", "--month", "2026-11", "-o", "november.html"),
)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("COSTGUARD_DB", "PGPASSWORD", "PGPASSFILE", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RUNWARE_API_KEY", "a-key")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(postgres_url: str, environment: None, clock: Clock) -> Run:
    """Run a command on a ledger in a new database, named by the environment."""

    def invoke(*args: str, code: int = 0, **env: str) -> Result:
        found = {"COSTGUARD_DB": postgres_url, **env}
        result = CliRunner().invoke(main, args, env=found)
        assert result.exit_code == code, (result.stdout, result.stderr, result.exc_info)
        assert not any(secret in result.output for secret in SECRETS)
        return result

    return invoke


def without_password(url: str) -> str:
    return url.replace(f":{quote(PASSWORD, safe='')}@", "@")


def send(place: str | Path, clock: Clock, standin: StandIn) -> None:
    """Three calls of the same names, the last of which is lost."""
    with (
        Guard(place, "acme/search", clock=clock) as guard,
        httpx.Client(base_url=API, transport=standin.transport()) as client,
    ):
        guard.wrap(client)
        for n in (1, 2, 3):
            task = a_task(taskUUID=f"00000000-0000-4000-8000-{n:012}")
            if n == 3:
                standin.fault("drop_before", task_uuid=task["taskUUID"])
                with pytest.raises(httpx.ReadError):
                    client.post("/v1", json=[task])
            else:
                client.post("/v1", json=[task])


def test_every_command_says_the_same_on_both_engines(
    postgres_url: str, ledger: Path, clock: Clock, environment: None
) -> None:
    Path("calls.jsonl").write_bytes(
        lines(
            [
                a_record(an_item("one", "0.00122")),
                a_record(an_item("two", None), an_item("two", "0.1"), day=2),
                a_record(day=3) | {"response": {"id": "x", "usage": {"prompt_tokens": 1000, "completion_tokens": 9}}},
            ]
        )
    )
    Path("task.json").write_text(json.dumps(a_task(taskUUID="11111111-1111-4111-8111-111111111111")))
    told: list[list[tuple[object, ...]]] = []
    for place in (ledger, postgres_url):
        Path("state").unlink(missing_ok=True)
        said: list[tuple[object, ...]] = []
        shown = without_password(str(place)) + ("" if place is ledger else "?schema=costguard")
        for args in COMMANDS:
            if args == ("send",):
                send(place, clock, StandIn())
                continue
            with StandIn().serve() as url:
                asked = (*args, "--url", f"{url}/v1", "--min-age", "0s") if args == ("reconcile",) else args
                result = CliRunner().invoke(main, asked, obj=Session(place, clock))
            assert isinstance(result.exception, SystemExit | None), (args, result.exc_info)
            output = result.output.replace(shown, "LEDGER").replace(str(place), "LEDGER")
            output = output.replace(without_password(str(place)), "LEDGER")
            said.append((args, result.exit_code, output))
        said.append(("november.html", 0, Path("november.html").read_text()))
        told.append(said)
    for here, there in zip(*told, strict=True):
        assert there == here
    assert {code for _, code, _ in told[0]} == {0, 1, 3}


def test_commands_that_read_make_no_ledger_and_say_how_one_is_begun(
    run: Run, postgres: Server, postgres_url: str
) -> None:
    for args in (("status",), ("report",), ("verify",), ("budget", "remove", "acme"), ("ceiling", "list")):
        said = run(*args, code=1).stderr
        assert said.startswith("Error: no ledger at postgresql://costguard@127.0.0.1:")
    database = postgres_url.rpartition("/")[2]
    assert postgres.sql("SELECT 1 FROM pg_namespace WHERE nspname = 'costguard'", database=database) == []


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("place", ["before", "after"])
def test_a_password_on_the_command_line_is_refused_before_anything_is_done(url: str, place: str) -> None:
    named = ("--db", url.format("s3cret%2F"))
    args = (*named, "budget", "set", "acme", "5") if place == "before" else ("budget", "set", "acme", "5", *named)
    result = CliRunner().invoke(main, args)
    assert result.exit_code == 2
    assert "PGPASSWORD" in result.stderr
    assert "~/.pgpass" in result.stderr
    assert "PGSERVICE" in result.stderr
    assert "COSTGUARD_DB" in result.stderr
    assert "s3cret" not in result.output


@pytest.mark.parametrize("password", ["Zq/Xw", "Zq@Xw", "Zq?Xw", "Zq:Xw", "Zq@/:?@Xw", "Zq%Xw"])
def test_one_that_is_quoted_wrongly_is_refused_without_a_word_of_it(password: str) -> None:
    named = f"postgresql://u:{password}@h/d"
    result = CliRunner().invoke(main, ["--db", named, "status"])
    assert result.exit_code == 2
    assert result.stderr.count("Error: --db holds a password") == 1
    result = CliRunner().invoke(main, ["status"], env={"COSTGUARD_DB": named})
    assert result.exit_code == 1
    assert "Zq" not in result.output
    assert "Xw" not in result.output


def test_the_password_comes_from_the_environment(run: Run, postgres_url: str, tmp_path: Path) -> None:
    run("init")
    url = without_password(postgres_url)
    run("--db", url, "status")  # COSTGUARD_DB has the very same with its password
    run("--db", url, "status", COSTGUARD_DB="", PGPASSWORD=PASSWORD)
    said = run("--db", url, "status", COSTGUARD_DB="", code=1).stderr
    assert "the password is missing or wrong" in said
    passfile = tmp_path / "pass"
    passfile.write_text("*:*:*:*:" + PASSWORD.replace(":", "\\:"))
    passfile.chmod(0o600)
    run("--db", url, "status", COSTGUARD_DB="", PGPASSFILE=str(passfile))


def test_the_program_shows_no_password_to_who_lists_processes_or_reads_what_it_prints(postgres_url: str) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COSTGUARD_DB": postgres_url}
    for wrong in ("", "x"):
        env["COSTGUARD_DB"] = postgres_url.replace("@127", f"{wrong}@127")
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-m", "costguard", "status"],
            env=env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stdout == ""
        assert re.fullmatch(r"Error: (no ledger at|the ledger) postgresql://costguard@127.*\n", done.stderr)
        assert not any(secret in done.stderr for secret in SECRETS)


def test_one_url_twice_is_one_and_two_are_a_question(run: Run, postgres_url: str) -> None:
    run("init")
    url = without_password(postgres_url)
    run("--db", url, "status", "--db", url)
    said = run("--db", url, "status", "--db", f"{url}?schema=other", code=2).stderr
    assert "--db is stated twice" in said


def test_the_zone_of_a_ledger_is_fixed_at_its_beginning(run: Run) -> None:
    assert "reports in Asia/Tokyo" in run("init", "--timezone", "Asia/Tokyo").stdout
    assert "it reports in Asia/Tokyo" in run("init", "--timezone", "UTC", code=1).stderr


def test_two_schemas_of_a_database_are_two_ledgers(run: Run, postgres_url: str) -> None:
    one, two = {"COSTGUARD_DB": f"{postgres_url}?schema=one"}, {"COSTGUARD_DB": f"{postgres_url}?schema=two&pool=1"}
    run("budget", "set", "acme", "5", **one)
    run("budget", "set", "lab", "6", **two)
    assert "lab" not in run("budget", "list", **one).stdout
    assert "acme" not in run("budget", "list", **two).stdout


def test_a_standby_serves_the_commands_that_read(postgres_pair: Pair, environment: None) -> None:
    primary, standby = postgres_pair
    name = primary.new_database()
    args: tuple[str, ...]
    for args in (("init",), ("budget", "set", "acme", "5")):
        assert CliRunner().invoke(main, args, env={"COSTGUARD_DB": primary.url(name)}).exit_code == 0
    standby.catch_up()
    env = {"COSTGUARD_DB": standby.url(name)}
    for args in (("status",), ("report",), ("verify",), ("check", "acme", "1"), ("log",), ("tasks",)):
        assert CliRunner().invoke(main, args, env=env).exit_code == 0
    for args in (("budget", "set", "acme", "6"), ("init",), ("reconcile",)):
        result = CliRunner().invoke(main, args, env=env)
        assert (result.exit_code, "read-only" in result.stderr) == (1, True)


def test_a_backup_is_pg_dumps_and_a_dry_run_needs_a_copy(run: Run) -> None:
    run("init")
    said = run("backup", "copy.db", code=1).stderr
    assert "pg_dump --format=custom --schema=costguard --file=" in said
    assert not Path("copy.db").exists()
    Path("calls.jsonl").write_bytes(lines([a_record(an_item("one"))]))
    said = run("import", "calls.jsonl", "--project", "a", "--at", "at", "--dry-run", code=1).stderr
    assert "--dry-run works on a copy" in said
    assert "No tasks." in run("tasks").stdout


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("postgresql:/h/d", "lost a slash"),
        ("mysql://u:s3cret@h/d", "mysql:// is not a place for one"),
        ("postgresql://h/d?schema=Not-One", "is no name"),
        ("postgresql://h/d?schema=pg_catalog", "is no name"),
        ("postgresql://h/d?pool=0", "is no number of connections"),
        ("postgresql://h:five/d", "its port is no number"),
        ("postgresql://h/d?nonsense=1", "invalid URI query parameter"),
        ("postgresql://u:s3cret@h/d?nonsense=s3cret", "it is not a URL as libpq reads it"),
        ("postgresql://u:s3cret%zz/d", "it is not a URL as libpq reads it"),
    ],
)
def test_what_is_no_ledgers_url_is_one_clear_line(named: str, said: str) -> None:
    result = CliRunner().invoke(main, ["status"], env={"COSTGUARD_DB": named})
    assert result.exit_code == 1
    assert said in result.stderr
    assert "s3cret" not in result.output
    assert result.stderr.count("\n") == 1


def test_a_session_and_a_path_show_no_password() -> None:
    assert "s3cret" not in repr(Session("postgresql://u:s3cret@h/d"))


# -- grants ---------------------------------------------------------------------------------------


def test_grants_need_no_server_and_name_the_schema_of_the_url() -> None:
    said = CliRunner().invoke(main, ["grants", "app", "--db", "postgresql://h/d?schema=costs"]).stdout
    assert said.startswith('GRANT USAGE ON SCHEMA costs TO "app";\n')
    by_name = CliRunner().invoke(main, ["grants", "app", "--schema", "costs"]).stdout
    assert by_name == said
    assert "costguard.entries" in CliRunner().invoke(main, ["grants", "app"]).stdout


def test_a_grant_to_an_odd_role_is_quoted_and_an_impossible_one_is_an_error() -> None:
    said = CliRunner().invoke(main, ["grants", 'a"; DROP ROLE b; --', "--read-only"]).stdout
    assert 'TO "a""; DROP ROLE b; --";' in said
    for args in (["grants", ""], ["grants", "ä" * 32], ["grants", "a\nb"], ["grants", "a", "--schema", "x;y"]):
        result = CliRunner().invoke(main, args)
        assert (result.exit_code, result.stdout) == (1, "")


def test_grants_never_delete_and_never_change_what_happened() -> None:
    said = CliRunner().invoke(main, ["grants", "app"]).stdout
    assert not re.search("DELETE|TRUNCATE|CREATE|ALL|OPTION", said)
    (updates,) = re.findall("GRANT UPDATE ON (.*) TO", said)
    for table in ("entries", "terms", "budget_changes", "ceiling_changes", "days", "moves", "fired"):
        assert f"costguard.{table}" not in updates.split(", ")
    read = CliRunner().invoke(main, ["grants", "app", "--read-only"]).stdout
    assert set(re.findall(r"GRANT (\w+)", read)) == {"USAGE", "SELECT"}
