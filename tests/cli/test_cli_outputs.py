"""Where the command's words go, and where its input comes from: full, closed, unreadable, cut off."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner

from costguard import Guard
from costguard.cli import main
from costguard.testing import StandIn

ROOT = Path(__file__).parents[2]

PRINTING = (
    ("--help",),
    ("--version",),
    ("tasks", "--help"),
    ("status",),
    ("report", "--format", "json"),
    ("tasks", "--format", "csv"),
    ("budget", "list"),
    ("ceiling", "list"),
    ("check", "acme", "1"),
    ("accuracy",),
    ("verify",),
    ("prices", "list"),
    ("prices", "show", "google:gemini@3-flash"),
)


def shell(line: str, *args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `line` in a shell, where `$@` is the program with `args`."""
    command = [sys.executable, "-m", "costguard", *args]
    return subprocess.run(
        ["/bin/sh", "-c", line, "sh", *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def db(make_guard: object, ledger: Path, guard: Guard) -> str:
    """A ledger with a budget and a ceiling, closed."""
    guard.set_ceiling("painter:1@1", "0.01")
    guard.close()
    return str(ledger)


@pytest.mark.parametrize("args", PRINTING, ids=" ".join)
def test_a_full_disk_is_one_line_and_an_error(db: str, args: tuple[str, ...]) -> None:
    done = shell('"$@" > /dev/full', "--db", db, *args)
    assert (done.returncode, done.stderr) == (
        1,
        "Error: standard output cannot be written: No space left on device; send it where there is room\n",
    )


def test_a_long_answer_to_a_full_disk_is_the_same_line(db: str, tmp_path: Path) -> None:
    body = tmp_path / "body.json"
    body.write_text('[{"taskType":"ping"}' + ',{"taskType":"ping"}' * 3000 + "]")
    done = shell('"$@" > /dev/full', "estimate", str(body), "--format", "json")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("Error: standard output cannot be written: No space left on device")


@pytest.mark.parametrize(
    "args", [("--help",), ("--version",), ("status",), ("report", "--format", "json")], ids=" ".join
)
def test_a_closed_output_is_one_line_and_an_error(db: str, args: tuple[str, ...]) -> None:
    done = shell('"$@" >&-', "--db", db, *args)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("Error: standard output cannot be written: Bad file descriptor")


def test_a_closed_input_is_one_line_and_an_error() -> None:
    done = shell('"$@" <&-', "estimate", "-")
    assert (done.returncode, done.stderr) == (
        1,
        "Error: standard input cannot be read: Bad file descriptor; name a file with a request body\n",
    )


@pytest.mark.parametrize(
    ("line", "code"), [('"$@" 2> /dev/full', 1), ('"$@" 2>&-', 1), ('"$@" 2> /dev/full > /dev/full', 1)]
)
def test_an_error_that_cannot_be_told_keeps_its_exit_code(tmp_path: Path, line: str, code: int) -> None:
    assert shell(line, "--db", str(tmp_path / "none.db"), "status").returncode == code
    assert shell(line, "status", "--format", "xml").returncode == 2


def test_an_answer_needs_no_standard_error(db: str) -> None:
    done = shell('"$@" 2>&- <&-', "--db", db, "budget", "list", "--format", "csv")
    assert done.returncode == 0
    assert done.stdout.startswith("project,per,")


@pytest.mark.parametrize("args", [("--help",), ("status",), ("prices", "list", "--format", "json")], ids=" ".join)
def test_a_reader_that_went_away_is_no_news(db: str, args: tuple[str, ...]) -> None:
    done = shell('{ "$@"; echo "exit $?" >&2; } | true', "--db", db, *args)
    assert done.stderr in ("exit 1\n", "exit 0\n")


@pytest.mark.parametrize(
    ("file", "code", "said"),
    [
        ("/proc/self/mem", 1, "/proc/self/mem cannot be read: Input/output error"),
        ("/dev/zero", 1, "/dev/zero is longer than 256 MiB"),
        ("/", 2, "Is a directory"),
        ("/dev/null", 1, ""),
        ("a" * 5000, 2, "File name too long"),
    ],
)
def test_a_body_that_cannot_be_read_is_one_line(file: str, code: int, said: str) -> None:
    done = shell('"$@"', "estimate", file)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert done.stderr.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize(
    "path", ["~nobody-of-that-name/x.db", "loop/x.db", "a" * 5000, ":memory:", "file:x.db", "/proc/nope/x.db"]
)
@pytest.mark.parametrize("args", [("status",), ("budget", "set", "acme", "1"), ("verify",)], ids=" ".join)
def test_a_path_that_leads_nowhere_is_one_line_that_names_it(
    path: str, args: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["--db", path, *args])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert path[:8] in result.stderr


@pytest.mark.parametrize("kind", ["folder", "fifo", "device"])
@pytest.mark.parametrize(
    "args", [("status",), ("report",), ("verify",), ("budget", "list"), ("budget", "set", "acme", "1")], ids=" ".join
)
def test_a_ledger_that_is_no_file_is_one_line_and_nothing_is_made_beside_it(
    kind: str, args: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "ledger"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path = Path(os.devnull)
    there = set(tmp_path.iterdir())
    done = shell('timeout 30 "$@"', "--db", str(path), *args)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert done.stderr.startswith("Error: ")
    assert str(path) in done.stderr
    assert "hard link" not in done.stderr
    assert kind != "folder" or "is a folder" in done.stderr
    assert set(tmp_path.iterdir()) == there


@pytest.mark.parametrize(
    "args", [("status",), ("budget", "set", "acme", "1"), ("demo", "--keep", "x.db")], ids=" ".join
)
def test_a_folder_that_is_gone_is_said_with_the_file_that_was_looked_for_in_it(
    args: tuple[str, ...], tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    named = () if args[0] == "demo" else ("--db", "x.db")
    done = shell(f'cd {gone}; rmdir {gone}; "$@"', *args, *named)
    assert done.returncode == 1, done.stderr
    assert done.stdout == "" or args[0] == "demo"
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert "x.db" in done.stderr
    assert "is gone; go to another" in done.stderr


@pytest.mark.parametrize("command", [("prices", "list"), ("prices", "show", "x"), ("estimate", "-")], ids=" ".join)
def test_a_price_file_that_is_no_regular_file_is_refused_and_not_waited_for(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "x.toml")
    done = shell('timeout 30 "$@"', *command, "--prices", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr == f"Error: {tmp_path}/x.toml: cannot be read: it is no regular file; take it out of the folder\n"
    )


@pytest.mark.parametrize("instruction", ["bash_complete", "zsh_complete", "fish_complete"])
@pytest.mark.parametrize(
    "words", [{}, {"COMP_WORDS": "costguard st"}, {"COMP_WORDS": "costguard '", "COMP_CWORD": "x"}]
)
def test_a_completion_that_no_shell_asks_for_is_one_line_or_none(instruction: str, words: dict[str, str]) -> None:
    env = {**os.environ, **words, "_COSTGUARD_COMPLETE": instruction}
    done = subprocess.run(
        [sys.executable, "-c", "from costguard.cli import main; main(prog_name='costguard')"],
        env={**env, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stderr.count("\n")) in ((2, 1), (0, 0))
    assert done.returncode == 0 or done.stderr.startswith("Error: completion is asked for by a shell")


def test_a_very_long_path_is_shortened_in_the_middle_of_an_error(tmp_path: Path) -> None:
    folder = "/".join(["folder"] * 300)
    for args in (("--db", f"{folder}/end.db", "status"), ("estimate", f"{folder}/end.db")):
        done = shell('"$@"', *args)
        assert done.returncode in (1, 2)
        (said,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
        assert "folder/folder" in said
        assert "..." in said
        assert "end.db" in said
        assert len(said) < 500


def test_a_body_is_not_left_open_by_an_argument_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "body.json").write_text("[]")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        result = CliRunner().invoke(main, ["estimate", str(tmp_path / "body.json"), "one too many"])
        code = result.exit_code
        del result  # with the traceback, which would keep an open file
        gc.collect()
    assert (code, [str(warning.message) for warning in told]) == (2, [])


def test_a_nul_character_among_the_arguments_is_a_usage_error() -> None:
    for args in (["--db", "x\0", "status"], ["prices", "list", "--prices", "x\0"], ["prices", "show", "\0"]):
        result = CliRunner().invoke(main, args)
        assert (result.exit_code, "NUL" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"ALL_PROXY": "socks5://127.0.0.1:1"}, "ALL_PROXY"),
        ({"https_proxy": "carrier-pigeon://127.0.0.1:1"}, "https_proxy"),
        ({"NO_PROXY": "[::1"}, "NO_PROXY"),
        ({"SSL_CERT_FILE": "/nonexistent.pem"}, "SSL_CERT_FILE"),
        ({"SSL_CERT_FILE": "/dev/null"}, "SSL_CERT_FILE"),
        ({"SSLKEYLOGFILE": "/nonexistent/log"}, "SSLKEYLOGFILE"),
    ],
)
def test_an_environment_that_allows_no_request_is_named(db: str, env: dict[str, str], named: str) -> None:
    done = shell('"$@"', "--db", db, "reconcile", env={"RUNWARE_API_KEY": "secret", **env})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: no request can be made: ")
    assert named in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "url",
    ["https://h/\x01v1", "https://h:99999/v1", "https://a..b/v1", "ftp://h", "h", "https://[::1", "https://h/a b"],
)
def test_an_address_that_cannot_be_one_is_a_usage_error(db: str, url: str) -> None:
    result = CliRunner().invoke(main, ["--db", db, "reconcile", "--url", url], env={"RUNWARE_API_KEY": "secret"})
    assert (result.exit_code, "is not an address such as" in result.stderr) == (2, True)


def test_the_demo_names_a_place_that_cannot_be_kept_in(tmp_path: Path) -> None:
    for keep in ("~nobody-of-that-name/x.db", str(tmp_path / "no" / "such" / "x.db"), "a" * 5000):
        result = CliRunner().invoke(main, ["demo", "--keep", keep])
        assert result.exit_code in (1, 2)
        assert result.stderr.splitlines()[-1].startswith("Error: ")


def test_a_command_needs_its_ledger_in_mode_observe_too(tmp_path: Path, standin: StandIn) -> None:
    file = tmp_path / "x.db"
    file.write_text("Dear diary\n" * 500)
    for args in (("status",), ("budget", "set", "acme", "1")):
        result = CliRunner().invoke(main, ["--db", str(file), *args], env={"COSTGUARD": "observe"})
        assert (result.exit_code, result.stdout) == (1, "")


# -- `--db`, before and after -------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [("status",), ("report",), ("budget", "list"), ("tasks",), ("verify",), ("check", "acme", "1")],
    ids=" ".join,
)
def test_the_ledger_may_be_named_after_the_command(
    db: str, args: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COSTGUARD_DB", str(tmp_path / "elsewhere.db"))
    before = CliRunner().invoke(main, ["--db", db, *args, "--format", "csv"])
    after = CliRunner().invoke(main, [*args, "--format", "csv", "--db", db])
    assert (after.exit_code, after.stderr) == (before.exit_code, "")
    assert after.exit_code in (0, 3)
    assert after.stdout == before.stdout


def test_one_ledger_named_twice_is_fine_and_two_are_not(
    db: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(db).parent)
    name = Path(db).name
    assert CliRunner().invoke(main, ["--db", db, "status", "--db", name]).exit_code == 0
    assert CliRunner().invoke(main, ["budget", "--db", db, "list", "--db", name]).exit_code == 0
    for args in (["--db", db, "status", "--db", "other.db"], ["budget", "--db", db, "list", "--db", "other.db"]):
        result = CliRunner().invoke(main, args)
        assert (result.exit_code, "--db is stated twice" in result.stderr) == (2, True)
