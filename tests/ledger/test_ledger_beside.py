"""The ledger's files in the hands of another program: what is removed, replaced or no file at all."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ledgers import NOW_US, a_charge, an_attempt, hold, open_ledger, outcome, python, verified

from costguard.errors import LedgerError
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.engines import files, keeping, places
from costguard.ledger.engines.files import SqliteTx
from costguard.ledger.engines.reading import ReadEngine
from costguard.ledger.engines.sqlite import SqliteEngine
from costguard.ledger.records import Admitted, Settle


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.mark.skipif(sys.platform != "linux", reason="needs locks that belong to a descriptor")
@pytest.mark.parametrize("suffix", ["", "-shm"])
def test_a_program_that_copies_its_own_ledger_keeps_its_claim_on_the_files(path: Path, suffix: str) -> None:
    """Closing any descriptor of a file drops SQLite's locks on it, and the next to close would remove the log."""
    ledger = open_ledger(path)
    hold(ledger, 1)
    path.with_name(path.name + suffix).read_bytes()
    before = {file.name: file.stat().st_ino for file in path.parent.iterdir()}
    other = (
        "import sys, sqlite3\nc = sqlite3.connect(sys.argv[1])\nc.execute('SELECT * FROM meta').fetchall()\nc.close()"
    )
    outcome(python(other, path))
    outcome(python("import sys\nfrom ledgers import *\nopen_ledger(Path(sys.argv[1])).close()", path))
    assert {file.name: file.stat().st_ino for file in path.parent.iterdir()} == before
    hold(ledger, 1)
    assert verified(ledger)
    ledger.close()
    assert not path.with_name("ledger.db-wal").exists()


@pytest.mark.parametrize("suffixes", [("-wal",), ("-shm",), ("-wal", "-shm"), ("-wal", "-shm", "-lock")])
def test_files_that_are_removed_while_in_use_are_put_back_with_all_that_was_in_them(
    path: Path, suffixes: tuple[str, ...]
) -> None:
    ledger, fellow = open_ledger(path), open_ledger(path)
    hold(ledger, 1)
    for suffix in suffixes:
        path.with_name(path.name + suffix).unlink()
    hold(fellow, 1)
    hold(ledger, 1)
    assert len(fellow.tasks()) == 3
    for each in (ledger, fellow):
        each.close()
    ledger = open_ledger(path)
    assert len(ledger.tasks()) == 3
    assert verified(ledger)
    ledger.close()


IDLE = """
import os, sys
from ledgers import *
from costguard.ledger.engines import keeping
keeping.LOG_PAGES = int(sys.argv[2])
ledger = open_ledger(Path(sys.argv[1]))
print("open", flush=True)
for line in sys.stdin:
    if line == "die\\n":
        os._exit(0)
    try:
        hold(ledger, 1)
        print("held", flush=True)
    except Exception as error:
        print(error, flush=True)
ledger.close()
"""


@contextlib.contextmanager
def idle_program(path: Path, log_pages: int = 1000) -> Iterator[Callable[..., str]]:
    """A program that has the ledger open, and records one call whenever it is asked to; it says what came of it."""
    program = python(IDLE, path, log_pages)
    assert program.stdin is not None
    assert program.stdout is not None
    stdin, stdout = program.stdin, program.stdout
    assert stdout.readline() == "open\n"

    def call(line: str = "") -> str:
        stdin.write(f"{line}\n")
        stdin.flush()
        return stdout.readline().strip()

    try:
        yield call
    finally:
        outcome(program)


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


@pytest.mark.parametrize("after", [(), ("-shm",)])
def test_a_program_that_slept_while_the_log_was_replaced_never_writes_an_old_one_over_the_new(
    path: Path, after: tuple[str, ...]
) -> None:
    ledger = open_ledger(path)
    hold(ledger, *[1] * 20)
    with idle_program(path) as call:
        for suffixes in (("-wal",), ("-wal", *after)):
            for suffix in suffixes:
                beside(path, suffix).unlink()
            hold(ledger, *[1] * 3)
        beside(path, "-wal").unlink()
        assert "is not whole" in call()
        hold(ledger, 1)
        assert call() == "held"
    assert len(ledger.tasks()) == 28
    assert verified(ledger)
    ledger.close()


def test_a_log_that_is_removed_while_the_ledger_is_opened_is_not_taken_for_an_empty_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with idle_program(path) as call:
        assert call() == "held"

        def remove_first(path: Path, options: str, *, timeout_s: float) -> sqlite3.Connection:
            beside(path, "-wal").unlink(missing_ok=True)
            beside(path, "-shm").unlink(missing_ok=True)
            return files.connect(path, options, timeout_s=timeout_s)

        monkeypatch.setattr(keeping, "connect", remove_first)
        with pytest.raises(LedgerError, match="is not whole"):
            open_ledger(path)
        monkeypatch.undo()
        assert call() == "held"
        ledger = open_ledger(path)
        assert len(ledger.tasks()) == 2
    assert verified(ledger)
    ledger.close()


def test_a_log_that_is_removed_right_after_it_was_opened_is_not_written_to(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_ledger(path).close()
    hold_files = places.Anchor.hold

    def then_remove(anchor: places.Anchor, path: Path) -> None:
        hold_files(anchor, path)
        beside(path, "-wal").unlink()
        monkeypatch.undo()

    monkeypatch.setattr(places.Anchor, "hold", then_remove)
    ledger = open_ledger(path)
    assert beside(path, "-wal").exists()
    hold(ledger, 1)
    with contextlib.closing(open_ledger(path)) as other:
        assert len(other.tasks()) == 1
    ledger.close()


def test_a_lock_file_made_anew_says_again_that_the_log_holds_records(path: Path) -> None:
    ledger = open_ledger(path)
    hold(ledger, 1)
    beside(path, "-lock").unlink()
    hold(ledger, 1)
    beside(path, "-wal").unlink()
    assert "is not whole" in outcome(python(OPEN, path))
    hold(ledger, 1)
    assert outcome(python(OPEN, path)) == "3 tasks"
    ledger.close()


OPEN = """
import sys
from ledgers import *
try:
    ledger = open_ledger(Path(sys.argv[1]))
    print(len(ledger.tasks()), "tasks", end="")
    ledger.close()
except Exception as error:
    print(error, end="")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs locks that belong to a descriptor")
def test_with_log_and_lock_file_removed_nobody_begins_anew_beside_a_program_that_has_records(path: Path) -> None:
    ledger = open_ledger(path)
    hold(ledger, 1)
    for suffix in ("-wal", "-shm", "-lock"):
        beside(path, suffix).unlink()
    assert "they put them back at their next call" in outcome(python(OPEN, path))
    hold(ledger, 1)
    assert outcome(python(OPEN, path)) == "2 tasks"
    ledger.close()


def cut_to_nothing(file: Path, older: bytes) -> None:
    os.truncate(file, 0)


def cut_in_half(file: Path, older: bytes) -> None:
    os.truncate(file, file.stat().st_size // 2)


def overwritten_by_an_older_copy(file: Path, older: bytes) -> None:
    with file.open("r+b") as opened:
        opened.write(older)
        opened.truncate()


def overwritten_by_zeros(file: Path, older: bytes) -> None:
    overwritten_by_an_older_copy(file, bytes(len(older)))


HANDS = [cut_to_nothing, cut_in_half, overwritten_by_an_older_copy, overwritten_by_zeros]


def nothing_unsaid(path: Path, done: int) -> None:
    """Whoever opens the ledger now finds `done` holds, or is told that it is not whole."""
    said = ""
    try:
        ledger = open_ledger(path)
    except LedgerError as error:
        said = str(error)
    else:
        assert len(ledger.tasks()) == done
        assert verified(ledger)
        ledger.close()
    assert not said or any(words in said for words in ("not whole", "does not belong", "emptied", "damaged", "not a"))


@pytest.mark.parametrize("hand", HANDS)
@pytest.mark.parametrize("suffixes", [("-wal",), ("-shm",), ("-wal", "-shm"), ("", "-wal", "-shm")])
@pytest.mark.parametrize("log_pages", [1, 1000])
def test_what_is_changed_within_the_files_of_a_running_program_is_refused_or_put_right(
    path: Path,
    suffixes: tuple[str, ...],
    hand: Callable[[Path, bytes], None],
    log_pages: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeping, "LOG_PAGES", log_pages)
    ledger = open_ledger(path)
    hold(ledger, *[1] * 3)
    older = {suffix: beside(path, suffix).read_bytes() for suffix in suffixes}
    hold(ledger, *[1] * 4)
    done = 7
    for suffix in suffixes:
        hand(beside(path, suffix), older[suffix])
    for _ in range(2):
        with contextlib.suppress(LedgerError):
            hold(ledger, 1)
            done += 1
        with contextlib.suppress(LedgerError):
            assert len(ledger.tasks()) == done
    ledger.close()
    if "" in suffixes:
        assert done == 7  # after a restart it is a copy that was restored
    else:
        nothing_unsaid(path, done)


def seven_calls(path: Path, suffix: str, call: Callable[..., str]) -> bytes:
    """What the file was after three of them."""
    older = b""
    for n in range(7):
        older = beside(path, suffix).read_bytes() if n == 3 else older
        assert call() == "held"
    return older


@pytest.mark.parametrize("hand", HANDS)
@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_a_report_shows_all_or_says_that_it_cannot(
    path: Path, suffix: str, hand: Callable[[Path, bytes], None]
) -> None:
    with idle_program(path) as call:
        older = seven_calls(path, suffix, call)
        hand(beside(path, suffix), older)
        with contextlib.suppress(LedgerError):
            assert len(Ledger(ReadEngine(path)).tasks()) == 7
        call("die")


@pytest.mark.parametrize("hand", HANDS)
@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_what_is_changed_within_the_files_that_a_killed_program_left_is_refused_or_put_right(
    path: Path, suffix: str, hand: Callable[[Path, bytes], None]
) -> None:
    with idle_program(path) as call:
        older = seven_calls(path, suffix, call)
        call("die")
        hand(beside(path, suffix), older)
    nothing_unsaid(path, 7)


def test_a_failed_transaction_leaves_it_known_that_the_log_holds_the_records_of_another(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_ledger(path).close()
    monkeypatch.setattr(keeping, "LOG_PAGES", 1)  # whoever writes puts the log into the database
    engine = SqliteEngine(path)
    ledger = Ledger(engine)
    hold(ledger, 1)
    with idle_program(path) as call:
        assert call() == "held"
        with pytest.raises(LedgerError):
            engine.write(lambda tx: tx.run("no statement"))
        engine._disconnect()
        call("die")
    beside(path, "-wal").unlink()
    with pytest.raises(LedgerError, match="is not whole"):
        open_ledger(path)


def test_a_database_that_is_copied_without_its_log_says_so_where_its_lock_file_comes_along(
    path: Path, tmp_path: Path
) -> None:
    ledger = open_ledger(path)
    hold(ledger, 1)
    there = tmp_path / "there"
    there.mkdir()
    for suffix in ("", "-lock"):
        shutil.copy2(beside(path, suffix), there)
    with pytest.raises(LedgerError, match="is not whole"):
        open_ledger(there / path.name)
    ledger.close()


def test_a_ledger_that_is_moved_while_in_use_takes_its_records_along(path: Path) -> None:
    ledger = open_ledger(path)
    hold(ledger, 1, 1)
    moved = path.with_name("moved.db")
    path.rename(moved)
    assert "they put them back" in outcome(python(OPEN, moved))
    with pytest.raises(LedgerError, match="moved"):
        hold(ledger, 1)
    ledger.close()
    assert outcome(python(OPEN, moved)) == "2 tasks"


def test_what_is_written_while_lock_file_and_log_are_removed_is_not_said_to_be_recorded(path: Path) -> None:
    ledger = open_ledger(path)
    hold(ledger, 1)

    def remove(tx: SqliteTx) -> None:
        tx.run("UPDATE meta SET value = value")
        for suffix in ("-wal", "-lock"):
            beside(path, suffix).unlink()

    with pytest.raises(LedgerError, match="may not be there"):
        ledger._engine.write(remove)
    hold(ledger, 1)
    assert verified(ledger)
    ledger.close()


@pytest.mark.parametrize("way", [open_ledger, ReadEngine])
@pytest.mark.parametrize("kind", ["folder", "fifo", "device"])
def test_what_is_no_regular_file_is_refused_at_once_and_nothing_made_beside_it(
    path: Path, kind: str, way: Callable[[Path], object]
) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    with pytest.raises(LedgerError, match="name a file"):
        way(path)
    assert list(path.parent.iterdir()) == [path]
    assert not Path("/dev/null-lock").exists()


@pytest.mark.parametrize("content", ["", "VACUUM"])
def test_reading_a_file_that_is_no_ledger_yet_says_so_and_leaves_it_alone(path: Path, content: str) -> None:
    path.touch()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(content)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="no ledger yet"):
        ReadEngine(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_what_only_a_program_still_sees_of_a_removed_ledger_is_kept(path: Path) -> None:
    ledger = open_ledger(path)
    hold(ledger, 1, 2)
    path.unlink()
    with pytest.raises(LedgerError, match="is kept in") as caught:
        hold(ledger, 3)
    ledger.close()
    (kept,) = path.parent.glob("*-rescue-*")
    assert str(kept) in str(caught.value)
    saved = open_ledger(kept)
    assert len(saved.tasks()) == 2
    assert verified(saved)
    saved.close()


def test_a_program_that_is_killed_while_it_closes_leaves_a_whole_ledger(path: Path) -> None:
    program = python(
        "import os, sys\nfrom ledgers import *\nfrom costguard.ledger.engines.keeping import OpenFiles\n"
        "close = OpenFiles._close_connections\n"
        "ledger = open_ledger(Path(sys.argv[1]))\nhold(ledger, 1, 1)\n"
        "OpenFiles._close_connections = lambda engine: (close(engine), os._exit(0))\nledger.close()",
        path,
    )
    outcome(program)
    assert not beside(path, "-wal").exists()
    assert len(Ledger(ReadEngine(path)).tasks()) == 2
    nothing_unsaid(path, 2)
    open_ledger(path).close()


def test_an_index_that_its_writer_never_finished_is_made_anew_from_the_log(path: Path) -> None:
    ledger = open_ledger(path)
    hold(ledger, 1, 1)
    with beside(path, "-shm").open("r+b") as index:
        index.seek(48)
        index.write(bytes(16))
    hold(ledger, 1)
    assert len(ledger.tasks()) == 3
    assert verified(ledger)
    ledger.close()


@pytest.mark.parametrize("older", [True, False])
def test_an_index_that_nobody_uses_is_not_asked_by_reports(path: Path, older: bool) -> None:
    with idle_program(path) as call:
        assert call() == "held"
        index = beside(path, "-shm").read_bytes()
        assert call() == "held"
        call("die")
    beside(path, "-shm").write_bytes(index if older else bytes(len(index)))
    assert len(Ledger(ReadEngine(path)).tasks()) == 2


def test_threads_that_read_at_once_keep_each_other_s_claim_on_what_they_see(path: Path) -> None:
    with idle_program(path, log_pages=20) as call:
        call()

        def read(tx: SqliteTx) -> tuple[object, ...]:
            before = tx.one("SELECT count(*) FROM attempts")
            with concurrent.futures.ThreadPoolExecutor() as other:
                assert len(other.submit(Ledger(ReadEngine(path)).tasks).result()) > 0
            for _ in range(60):  # the log is put away and begun anew, were it not for this snapshot
                assert call() == "held"
            return before, tx.one("SELECT count(held) FROM attempts"), tx.damage()

        before, after, damage = ReadEngine(path).read(read)
    assert before == after == (1,)
    assert damage is None


def test_after_a_restore_by_sqlite_itself_nothing_is_remembered_of_the_history_that_is_gone(
    tmp_path: Path,
) -> None:
    path, copy = tmp_path / "ledger.db", tmp_path / "copy.db"
    ledger = open_ledger(path)

    def call(model: str, project: str) -> None:
        admitted = ledger.admit(project, NOW_US, [an_attempt(9)._replace(model=model)])
        assert isinstance(admitted, Admitted)
        ledger.conclude(NOW_US, [Settle(admitted.attempt_ids[0], a_charge(9))])

    def backed_up(source: Path, target: Path) -> None:
        one, other = sqlite3.connect(source), sqlite3.connect(target)
        one.backup(other)
        one.close()
        other.close()

    call("early", "acme")
    backed_up(path, copy)
    call("m-a", "acme/a")
    call("m-b", "zzz")
    ledger.roll_up()
    backed_up(copy, path)
    for model, project in (("m-b", "zzz"), ("m-a", "acme/a"), ("m-c", "acme")):
        call(model, project)
    ledger.roll_up()
    assert [(row.keys, row.nanos) for row in ledger.usage(("model", "project"), "2026-01-01", "2028-01-01")] == [
        (("early", "acme"), 9), (("m-a", "acme/a"), 9), (("m-b", "zzz"), 9), (("m-c", "acme"), 9),
    ]  # fmt: skip
    assert verified(ledger)
    ledger.close()
