"""`--output FILE`: the format of its ending, whole or not at all, and never in the place of something else."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from conftest import a_task
from test_cli_formats import ARGUMENTS
from test_cli_layouts import environment

from costguard import ConfigurationError, Guard
from costguard.cli import files, main

BEGINNINGS = {
    "x.txt": b"Project",
    "x.json": b'{\n  "schema": 1,',
    "x.csv": b"project,per,",
    "x.md": b"# costguard status\n",
    "x.html": b"<!DOCTYPE html>",
    "x.htm": b"<!DOCTYPE html>",
    "x.parquet": b"PAR1",
    "X.JSON": b'{\n  "schema": 1,',
}


@pytest.fixture
def here(tmp_path: Path, ledger: Path, guard: Guard, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a ledger beside it that has one budget."""
    guard.close()
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COSTGUARD_DB", str(ledger))
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run(*args: str) -> Result:
    return CliRunner().invoke(main, args)


@pytest.mark.parametrize("name", BEGINNINGS)
def test_the_ending_tells_the_format_and_nothing_is_printed(here: Path, name: str) -> None:
    result = run("status", "-o", name)
    assert (result.exit_code, result.output) == (0, "")
    content = (here / name).read_bytes()
    assert content.startswith(BEGINNINGS[name])
    assert name == "x.parquet" or content.endswith(b"\n")
    assert names(here) == [name]


@pytest.mark.parametrize("command", ARGUMENTS)
def test_every_command_that_prints_data_writes_it_to_a_file(here: Path, command: str) -> None:
    env = {"RUNWARE_API_KEY": "secret"}
    body = json.dumps([a_task()])
    args = [*command.split(), *ARGUMENTS[command]]
    printed = CliRunner().invoke(main, [*args, "--format", "csv"], input=body, env=env)
    written = CliRunner().invoke(main, [*args, "--output", "x.csv"], input=body, env=env)
    assert (printed.exit_code, written.exit_code, written.stdout) == (0, 0, ""), written.output

    def settled(text: str) -> list[list[str]]:
        return [[cell for cell in line.split(",") if "T" not in cell] for line in text.splitlines()]

    assert settled((here / "x.csv").read_text()) == settled(printed.stdout)


def test_a_format_that_is_named_goes_before_the_ending(here: Path) -> None:
    assert run("status", "-o", "data.txt", "--format", "json").exit_code == 0
    assert json.loads((here / "data.txt").read_text())["schema"] == 1
    assert run("status", "--format", "json", "-o", "data").exit_code == 0
    assert json.loads((here / "data").read_text())["schema"] == 1


@pytest.mark.parametrize("name", ["data", "data.xml", ".json", "data.csv.gz"])
def test_an_ending_that_tells_nothing_is_a_usage_error_and_nothing_is_made(here: Path, name: str) -> None:
    result = run("status", "-o", name)
    assert result.exit_code == 2
    assert "tells no format; use .txt, .json, .csv, .md, .html or .parquet, or name one with --format" in result.stderr
    assert names(here) == []


def test_a_dash_is_standard_output(here: Path) -> None:
    assert run("status", "-o", "-").stdout == run("status").stdout
    assert names(here) == []


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_mode_that_the_umask_says(here: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        assert run("status", "-o", "x.csv").exit_code == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE((here / "x.csv").stat().st_mode) == 0o666 & ~umask


def test_a_file_that_is_replaced_keeps_its_mode_and_its_owner(here: Path) -> None:
    file = here / "x.csv"
    file.write_text("before")
    file.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(file, 65534, 65534)
    inode = file.stat().st_ino
    assert run("status", "-o", "x.csv").exit_code == 0
    found = file.stat()
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_ino != inode, "it was put in its place, not written over"
    assert os.geteuid() != 0 or (found.st_uid, found.st_gid) == (65534, 65534)


def test_a_link_is_followed_to_the_file_it_names(here: Path) -> None:
    (here / "latest.csv").symlink_to("november.csv")
    assert run("status", "-o", "latest.csv").exit_code == 0
    assert (here / "latest.csv").is_symlink()
    assert (here / "november.csv").read_bytes().startswith(b"project,")


def test_what_is_there_stays_if_the_disk_is_full(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "x.csv").write_text("before")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    result = run("status", "-o", "x.csv")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: x.csv cannot be written: No space left on device; name a file where there is room\n",
    )
    assert (here / "x.csv").read_text() == "before"
    assert names(here) == ["x.csv"]


def test_what_cannot_be_replaced_safely_is_refused_and_stays_as_it_is(here: Path, ledger: Path) -> None:
    (here / "folder.csv").mkdir()
    os.mkfifo(here / "pipe.csv")
    (here / "null.csv").symlink_to(os.devnull)
    (here / "loop.csv").symlink_to("loop.csv")
    (here / "one.csv").write_text("linked")
    (here / "other.csv").hardlink_to(here / "one.csv")
    (here / "locked.csv").write_text("locked")
    (here / "locked.csv").chmod(0o444)
    (here / "ledger.csv").symlink_to(ledger)
    (here / "copy.csv").write_bytes(ledger.read_bytes())
    there = names(here)
    content = ledger.read_bytes()
    for name, said in {
        "folder.csv": "is no regular file",
        "pipe.csv": "is no regular file",
        "null.csv": "is no regular file",
        "loop.csv": "",
        "one.csv": "hard links",
        "locked.csv": "protected",
        "ledger.csv": "is a database",
        "copy.csv": "is a database",
        "nowhere/x.csv": "No such file or directory",
        "one.csv/x.csv": "",
        f"{'x' * 300}.csv": "File name too long",
    }.items():
        result = run("status", "-o", name)
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1), (name, result.output)
        assert result.stderr.startswith("Error: ")
        assert said in result.stderr, result.stderr
    assert names(here) == there
    assert ledger.read_bytes() == content
    assert (here / "one.csv").read_text() == "linked"
    assert Path(os.devnull).is_char_device()


@pytest.mark.parametrize("beside", ["", "-wal", "-shm", "-lock", "-new"])
def test_neither_the_ledger_nor_what_belongs_to_it_is_written_over(here: Path, ledger: Path, beside: str) -> None:
    file = Path(f"{ledger}{beside}")
    before = file.read_bytes() if file.exists() else None
    result = run("status", "--format", "json", "-o", str(file))
    assert result.exit_code == 1, result.output
    assert "is a database" in result.stderr or "is the ledger, or belongs to it" in result.stderr
    assert (file.read_bytes() if file.exists() else None) == before


def test_a_request_is_not_written_over_by_its_own_estimate(here: Path) -> None:
    (here / "body.json").write_text('[{"taskType": "ping"}]')
    result = run("estimate", "body.json", "-o", "./body.json")
    assert result.exit_code == 1
    assert "is what" in result.stderr
    assert (here / "body.json").read_text() == '[{"taskType": "ping"}]'


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to_is_named(here: Path) -> None:
    here.chmod(0o555)
    assert "cannot be written to" in run("status", "-o", "x.csv").stderr


def test_a_table_in_a_file_is_plain_and_whole_whatever_the_terminal_is(here: Path, ledger: Path) -> None:
    env = environment(FORCE_COLOR="1", COLUMNS="20", COSTGUARD_DB=str(ledger))
    command = [sys.executable, "-m", "costguard", "status", "-o", "x.txt"]
    subprocess.run(command, env=env, check=True, timeout=60)
    text = (here / "x.txt").read_text()
    assert "\x1b" not in text
    assert text == run("status").stdout


def test_bytes_are_not_for_a_terminal_but_for_a_pipe(here: Path, ledger: Path) -> None:
    env = environment(COSTGUARD_DB=str(ledger))
    command = [sys.executable, "-m", "costguard", "status", "--format", "parquet"]
    piped = subprocess.run(command, env=env, check=True, capture_output=True, timeout=60)
    assert piped.stdout[:4] == piped.stdout[-4:] == b"PAR1"
    controller, terminal = os.openpty()
    shown = subprocess.run(command, env=env, check=False, stdout=terminal, stderr=subprocess.PIPE, timeout=60)
    os.close(terminal)
    assert shown.returncode == 2
    assert b"--format parquet is no text for a terminal; write it to a file: -o FILE" in shown.stderr
    os.set_blocking(controller, False)
    with pytest.raises(OSError, match=r".*"):
        assert os.read(controller, 1) == b""
    os.close(controller)


def test_a_pack_that_is_not_installed_is_one_line_and_no_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = run("status", "-o", "x.parquet")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "pip install 'runware-costguard[parquet]'" in result.stderr
    assert names(here) == []


def test_a_file_of_another_user_is_left_alone(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "x.csv").write_text("theirs")
    monkeypatch.setattr(os, "geteuid", lambda: (here / "x.csv").stat().st_uid + 1)
    if (here / "x.csv").stat().st_uid == 0:
        os.chown(here / "x.csv", 65534, 65534)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        files.check_place(here / "x.csv")
