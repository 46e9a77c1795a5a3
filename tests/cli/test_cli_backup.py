"""`costguard backup`: a whole copy of a ledger in use, and nothing overwritten by mistake."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from ledgers import hold, open_ledger, verified

from costguard.cli import main
from costguard.errors import LedgerError
from costguard.ledger.engines.copying import back_up


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "used").mkdir()
    return tmp_path / "used" / "ledger.db"


def run(path: Path, *args: str | Path) -> Result:
    return CliRunner().invoke(main, ["--db", str(path), "backup", *map(str, args)])


def test_the_copy_of_a_ledger_in_use_holds_all_that_was_recorded(path: Path, tmp_path: Path) -> None:
    ledger = open_ledger(path)
    hold(ledger, 1, 2)
    copy = tmp_path / "copy.db"
    ran = run(path, copy)
    assert (ran.exit_code, ran.stderr) == (0, "")
    hold(ledger, 3)  # the program goes on
    ledger.close()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["copy.db"]
    copied = open_ledger(copy)
    assert len(copied.tasks()) == 2
    assert verified(copied)
    hold(copied, 3)
    copied.close()


def test_a_file_is_overwritten_with_force_only(path: Path, tmp_path: Path) -> None:
    open_ledger(path).close()
    copy = tmp_path / "copy.db"
    copy.write_text("precious")
    ran = run(path, copy)
    assert ran.exit_code == 1
    assert "is there already" in ran.stderr
    assert copy.read_text() == "precious"
    assert run(path, "--force", copy).exit_code == 0
    assert copy.read_bytes()[:6] == b"SQLite"


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("used/ledger.db", "a ledger that programs use"),
        ("link.db", "a ledger that programs use"),
        ("other.db", "a ledger that programs use"),
        ("used", "is a folder"),
        ("nowhere/copy.db", "No such file or directory"),
    ],
)
def test_what_cannot_be_a_backup_is_an_error_even_with_force(
    path: Path, tmp_path: Path, target: str, complaint: str
) -> None:
    open_ledger(path).close()
    (tmp_path / "link.db").symlink_to(path)
    other = open_ledger(tmp_path / "other.db")
    before = path.read_bytes()
    ran = run(path, "--force", tmp_path / target)
    assert ran.exit_code == 1
    assert complaint in ran.stderr
    assert path.read_bytes() == before
    other.close()


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-lock", "-journal"])
@pytest.mark.parametrize("name", ["used/ledger.db", "other.txt"])
def test_a_name_that_belongs_to_another_file_is_refused_even_with_force(
    path: Path, tmp_path: Path, name: str, suffix: str
) -> None:
    open_ledger(path).close()
    (tmp_path / "other.txt").touch()
    target = tmp_path / f"{name}{suffix}"
    before = target.read_bytes() if target.exists() else None
    ran = run(path, "--force", target)
    assert ran.exit_code == 1
    assert f"would be taken for a part of {tmp_path / name}" in ran.stderr
    assert (target.read_bytes() if target.exists() else None) == before


def test_a_backup_does_not_take_the_place_of_the_owner_of_a_log(path: Path, tmp_path: Path) -> None:
    open_ledger(path).close()
    (tmp_path / "copy.db-wal").touch()
    ran = run(path, "--force", tmp_path / "copy.db")
    assert ran.exit_code == 1
    assert "would be taken for the owner of" in ran.stderr
    assert not (tmp_path / "copy.db").exists()


def what_it_is(path: Path) -> tuple[int, int, int, int]:
    """The file's inode, mode, size and time of change; not its access time, which following a link moves."""
    stat = path.lstat()
    return stat.st_ino, stat.st_mode, stat.st_size, stat.st_mtime_ns


@pytest.mark.parametrize(("kind", "complaint"), [("pipe", "pipe"), ("link to a folder", "is a folder")])
def test_only_a_regular_file_is_overwritten(path: Path, tmp_path: Path, kind: str, complaint: str) -> None:
    open_ledger(path).close()
    target = tmp_path / "target"
    if kind == "pipe":
        os.mkfifo(target)
    else:
        target.symlink_to(tmp_path / "used")
    before = what_it_is(target)
    ran = run(path, "--force", target)
    assert ran.exit_code == 1
    assert complaint in ran.stderr
    assert what_it_is(target) == before


def test_a_file_that_came_while_the_copy_was_made_is_not_overwritten(path: Path, tmp_path: Path) -> None:
    open_ledger(path).close()
    copy = tmp_path / "copy.db"

    def check(_: Path) -> None:
        copy.write_text("precious")

    with pytest.raises(LedgerError, match="is there already"):
        back_up(path, copy, check)
    assert copy.read_text() == "precious"


def test_what_a_killed_backup_left_is_in_nobodys_way(path: Path, tmp_path: Path) -> None:
    open_ledger(path).close()
    (tmp_path / f".copy.db-{os.getpid()}").touch()  # in a container, the next one may well have the same pid
    assert run(path, tmp_path / "copy.db").exit_code == 0


def test_without_a_ledger_there_is_nothing_to_copy(path: Path, tmp_path: Path) -> None:
    ran = run(path, tmp_path / "copy.db")
    assert ran.exit_code == 1
    assert "no ledger at" in ran.stderr


def test_a_copy_that_is_not_whole_is_thrown_away(path: Path, tmp_path: Path) -> None:
    open_ledger(path).close()
    with pytest.raises(LedgerError, match="not whole and was thrown away: for the test"):
        back_up(path, tmp_path / "copy.db", lambda _: "for the test")
    assert [file.name for file in tmp_path.iterdir()] == ["used"]
