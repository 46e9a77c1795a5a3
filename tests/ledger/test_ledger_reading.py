"""Reading asks for nothing: no right to write, no lock, no file, and no blend of two histories."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ledgers import NOW_US, a_charge, hold, kill, open_ledger, outcome, python, verified

from costguard.budgets import make_budget
from costguard.errors import LedgerError
from costguard.exchange.opening import open_ledger as open_by_guard
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.engines import reading, schema
from costguard.ledger.engines.files import SqliteTx, blend
from costguard.ledger.engines.reading import ReadEngine
from costguard.ledger.records import Release, Settle


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def reader(path: Path) -> Ledger:
    return open_by_guard(path, read_only=True)


def listing(path: Path) -> dict[str, tuple[int, int, int]]:
    """Files in the folder, with inode, size and time."""
    return {
        file.name: (found.st_ino, found.st_size, found.st_mtime_ns)
        for file in path.parent.iterdir()
        for found in [file.stat()]
    }


@pytest.mark.parametrize("state", ["closed", "in use", "killed", "killed, and only its log was kept"])
def test_a_reader_sees_all_that_was_recorded_and_leaves_no_trace(path: Path, state: str) -> None:
    program = python(
        "import sys\nfrom ledgers import *\nledger = open_ledger(Path(sys.argv[1]))\nhold(ledger, 1, 2)\n"
        "if sys.argv[2] == 'closed': ledger.close()\nprint('held', flush=True)\nsys.stdin.read()",
        path,
        state,
    )
    assert program.stdout is not None
    program.stdout.readline()
    if state != "in use":
        kill([program])
    if state == "killed, and only its log was kept":
        path.with_name("ledger.db-shm").unlink()
    before = listing(path)
    ledger = reader(path)
    assert len(ledger.tasks()) == 2
    assert verified(ledger)
    ledger.close()
    assert listing(path) == before
    if state == "in use":
        kill([program])


def test_a_reader_writes_nothing(path: Path) -> None:
    open_ledger(path).close()
    ledger = reader(path)
    with pytest.raises(LedgerError, match="opened for reading"):
        hold(ledger, 1)
    ledger.close()
    with pytest.raises(LedgerError, match="is closed"):
        ledger.tasks()


def test_a_reader_waits_for_no_writer(path: Path) -> None:
    ledger = open_ledger(path)
    hold(ledger, 1)
    with path.with_name("ledger.db-lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert len(reader(path).tasks()) == 1
    ledger.close()


def test_readers_see_whole_calls_only_while_another_program_writes_and_checkpoints(path: Path) -> None:
    open_ledger(path).close()
    program = python(
        "import sys, threading\nfrom ledgers import *\nfrom costguard.ledger.engines import keeping\n"
        "from costguard.ledger.records import Settle\nkeeping.LOG_PAGES = 30\nstop = threading.Event()\n"
        "threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()\n"
        "print('go', flush=True)\nn = 0\n"
        "while not stop.is_set():\n    ledger = open_ledger(Path(sys.argv[1]))\n    for _ in range(60):\n"
        "        (attempt,) = hold(ledger, 5)\n        ledger.conclude(NOW_US, [Settle(attempt, a_charge(3), '0')])\n"
        "        n += 1\n    ledger.close()\n"
        "print(n)",
        path,
    )
    assert program.stdout is not None
    program.stdout.readline()
    seen: list[int] = []
    while len(set(seen)) < 4:
        ledger = reader(path)
        seen.append(len(ledger.tasks()))
        assert verified(ledger)
    done = int(outcome(program))
    assert seen == sorted(seen)
    assert len(reader(path).tasks()) == done


def test_a_reader_says_that_a_log_with_records_is_missing(path: Path) -> None:
    program = python(
        "import sys\nfrom ledgers import *\nhold(open_ledger(Path(sys.argv[1])), 1)\nimport os; os._exit(0)", path
    )
    outcome(program)
    path.with_name("ledger.db-wal").unlink()
    for opened in (reader, open_ledger):
        with pytest.raises(LedgerError, match=r"is not whole: its .*-wal, which held records of its own, was removed"):
            opened(path)
    path.with_name("ledger.db-lock").unlink()
    ledger = open_ledger(path)
    assert ledger.tasks() == []
    ledger.close()


@pytest.mark.parametrize("by", ["copy", "rename"])
def test_a_copy_beside_the_log_of_a_later_time_is_refused_until_that_is_moved_away(path: Path, by: str) -> None:
    ledger = open_ledger(path)
    ledger.set_budget(make_budget("/", 1, per="total"), NOW_US)
    hold(ledger, *range(60))
    ledger.close()
    old = path.with_name("old.db")
    shutil.copy(path, old)
    ledger = open_ledger(path)
    hold(ledger, *range(200))
    ledger.close()
    outcome(
        python(
            "import sys\nfrom ledgers import *\nhold(open_ledger(Path(sys.argv[1])), 1)\nimport os; os._exit(0)", path
        )
    )
    if by == "copy":
        shutil.copyfile(old, path)
    else:
        old.replace(path)
    for opened in (reader, open_ledger):
        with pytest.raises(LedgerError, match=r"-shm away"):
            opened(path)
    for suffix in ("-wal", "-shm"):
        path.with_name(f"ledger.db{suffix}").unlink()
    for opened in (reader, open_ledger):
        ledger = opened(path)
        assert len(ledger.tasks()) == 60
        assert verified(ledger)
        ledger.close()


def test_a_folder_copied_after_a_crash_is_read_with_all_that_was_in_it(path: Path, tmp_path: Path) -> None:
    outcome(
        python(
            "import sys\nfrom ledgers import *\nhold(open_ledger(Path(sys.argv[1])), 1)\nimport os; os._exit(0)", path
        )
    )
    moved = tmp_path / "moved"
    moved.mkdir()
    for suffix in ("", "-wal", "-lock"):
        shutil.copy(path.with_name(f"ledger.db{suffix}"), moved)
    for opened in (reader, open_ledger):
        ledger = opened(moved / "ledger.db")
        assert len(ledger.tasks()) == 1
        ledger.close()


def test_a_reader_refuses_the_second_name_and_reads_by_the_first(path: Path, tmp_path: Path) -> None:
    ledger = open_ledger(path)
    hold(ledger, 1)
    other = tmp_path / "other.db"
    other.hardlink_to(path)
    assert len(reader(path).tasks()) == 1
    for opened in (reader, open_ledger):
        with pytest.raises(LedgerError, match="second name"):
            opened(other)
    hold(ledger, 1)  # the program that has it goes on: no other can use the second name
    other.unlink()
    ledger.close()


def test_an_older_schema_is_brought_up_to_date_by_a_reader_who_may_write(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_ledger(path).close()
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("m999", "CREATE TABLE extra (x INTEGER) STRICT;")))
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    engine = ReadEngine(path)
    assert engine.read(lambda tx: tx.one("PRAGMA user_version")) == (schema.VERSION,)
    engine.close()


# Of files that change, or that are not of one moment


def come_and_go(path: Path, upper: int = 1) -> None:
    """A short-lived program: opens, writes, and puts its log away."""
    ledger = open_ledger(path)
    hold(ledger, upper)
    ledger.close()


@pytest.mark.parametrize("error", [sqlite3.DatabaseError("malformed"), KeyError("a page of another moment")])
def test_what_a_read_stumbles_over_while_the_file_changes_is_no_damage(path: Path, error: Exception) -> None:
    come_and_go(path)
    engine, tries = ReadEngine(path), 0

    def stumble(tx: SqliteTx) -> object:
        nonlocal tries
        tries += 1
        if tries < 3:
            come_and_go(path)
            raise error
        return tx.one("SELECT count(*) FROM attempts")

    assert engine.read(stumble) == (3,)
    with pytest.raises((LedgerError, KeyError), match=r"malformed|another moment"):
        engine.read(lambda _: raise_(error))  # and nothing changed: this is told


def raise_(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("patience_s", [-1.0, 2.0])
def test_a_read_during_which_programs_always_come_and_go_ends_on_a_copy(
    path: Path, monkeypatch: pytest.MonkeyPatch, patience_s: float
) -> None:
    monkeypatch.setattr(reading, "STEADY_S", patience_s)
    monkeypatch.setattr(reading, "_LONG_S", 0.0 if patience_s > 0 else 60.0)
    come_and_go(path)
    engine, tries = ReadEngine(path), 0

    def slow(tx: SqliteTx) -> object:
        nonlocal tries
        tries += 1
        come_and_go(path)
        return tx.one("SELECT count(*) FROM attempts")

    # All tries are taken, however long they take; or it is known sooner that this will not do.
    expected = reading.TRIES if patience_s < 0 else 2
    assert engine.read(slow) == (expected,)
    assert tries == expected


def killed(path: Path, code: str = "hold(ledger, 1)") -> None:
    """A program that is killed with its log in use."""
    outcome(
        python(
            "import sys\nfrom ledgers import *\nfrom costguard.budgets import make_budget\n"
            f"ledger = open_ledger(Path(sys.argv[1]))\n{code}\nimport os; os._exit(0)",
            path,
        )
    )


def test_a_copy_with_another_limit_than_the_log_beside_it_saw_is_refused(path: Path) -> None:
    ledger = open_ledger(path)
    ledger.set_budget(make_budget("/", 10, per="total"), NOW_US)
    ledger.close()
    old = path.read_bytes()
    ledger = open_ledger(path)
    ledger.set_budget(make_budget("/", 1, per="total"), NOW_US)  # rarely written pages: the log has none of them
    ledger.close()
    killed(path)
    path.write_bytes(old)
    with pytest.raises(LedgerError, match="do not belong together"):
        reader(path)


TABLES = (
    "balances", "budgets", "budget_changes", "ceilings", "ceiling_changes", "days", "leaves", "rollups", "terms",
    "entries", "attempts", "owners",
)  # fmt: skip


def settled(path: Path) -> None:
    """A ledger with something in every table, of budgets, defaults and ceilings that were changed and removed."""
    ledger = open_ledger(path)
    for limit in (2, 3):
        for project in ("/", "/*", "acme/*", "gone"):
            ledger.set_budget(make_budget(project, limit, per="month"), NOW_US)
    ledger.remove_budget("gone", "month", NOW_US)
    for nanos in (1, 2):
        for name in ("a:b@1", "a:b@2"):
            ledger.set_ceiling(name, nanos, NOW_US)
    ledger.remove_ceiling("a:b@2", NOW_US)
    for project in ("acme/search", "acme/search/deep", "other", "other/acme"):
        kept, settled, released = hold(ledger, 5, 6, 7, project=project)
        ledger.conclude(NOW_US, [Settle(settled, a_charge(3), "0"), Release(released, "not sent")])
        assert kept
    ledger.roll_up()
    ledger.close()


def test_a_whole_ledger_is_found_whole(path: Path) -> None:
    settled(path)
    assert verified(reader(path))
    assert ReadEngine(path).read(blend) is None


@pytest.mark.parametrize("table", TABLES)
def test_a_row_that_is_missing_in_any_table_shows(path: Path, table: str) -> None:
    settled(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"DROP TRIGGER IF EXISTS {table}_no_delete")
    if table == "balances":
        connection.execute("UPDATE balances SET spent = spent + 1")
    else:
        key = {"ceilings": "name", "days": "day", "rollups": "day"}
        column = key.get(table, "id" if table != "entries" else "seq")
        connection.execute(f"DELETE FROM {table} WHERE {column} = (SELECT min({column}) FROM {table})")
    connection.close()
    path.with_name("ledger.db-lock").unlink()
    assert ReadEngine(path).read(blend) is not None


@pytest.mark.parametrize("note", [True, False])
def test_a_torn_copy_restored_over_a_ledger_is_refused_where_its_note_tells_of_another(path: Path, note: bool) -> None:
    settled(path)
    old = path.read_bytes()
    ledger = open_ledger(path)
    for _ in range(40):
        hold(ledger, *range(5))
    ledger.close()
    new = path.read_bytes()
    path.write_bytes(old[: len(old) // 2] + new[len(old) // 2 :])
    if note:
        with pytest.raises(LedgerError, match="is not whole"):
            reader(path)
    else:  # a plain copy is taken at its word, and not read as a whole each time
        path.with_name("ledger.db-lock").unlink()
        reader(path)


def test_a_whole_backup_restored_beside_the_note_of_another_is_read(path: Path) -> None:
    settled(path)
    old = path.read_bytes()
    come_and_go(path)
    path.write_bytes(old)
    assert len(reader(path).tasks()) == 12


@pytest.mark.parametrize("how", ["removed", "renamed"])
def test_a_file_whose_log_is_elsewhere_in_use_is_no_truth(path: Path, how: str) -> None:
    program = python(
        "import sys\nfrom ledgers import *\nledger = open_ledger(Path(sys.argv[1]))\nhold(ledger, 1)\n"
        "print('held', flush=True)\nsys.stdin.read()",
        path,
    )
    assert program.stdout is not None
    program.stdout.readline()
    if how == "renamed":
        path = path.rename(path.with_name("other.db"))
    else:
        for suffix in ("-wal", "-lock"):
            path.with_name(f"ledger.db{suffix}").unlink()
    with pytest.raises(LedgerError, match="while others use it"):
        reader(path)
    kill([program])


def test_a_lock_file_that_is_a_pipe_is_named_and_not_waited_for(path: Path) -> None:
    open_ledger(path).close()
    lock = path.with_name("ledger.db-lock")
    lock.unlink()
    os.mkfifo(lock)
    with pytest.raises(LedgerError, match=r"ledger\.db-lock is no regular file"):
        reader(path)


# Of other users (only root can play them)

AS_NOBODY = """
import os, sys
from ledgers import *
from costguard.cli import main
from costguard.exchange.opening import open_ledger as by_guard
import tempfile
with tempfile.TemporaryDirectory() as folder:  # imports everything while that is allowed
    warm = Path(folder) / "warm.db"
    ledger = open_ledger(warm)
    hold(ledger, 1)
    ledger.close()
    by_guard(warm, read_only=True).tasks()
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
"""

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be somebody else")


@needs_root
@pytest.mark.parametrize("live", [True, False])
def test_a_user_who_may_only_read_reads(shared: Path, live: bool) -> None:
    path = shared / "ledger.db"
    ledger = open_ledger(path)
    hold(ledger, 1)
    if not live:
        ledger.close()
    for file in shared.iterdir():
        file.chmod(0o644)
    said = outcome(python(AS_NOBODY + "print(len(by_guard(Path(sys.argv[1]), read_only=True).tasks()))", path))
    assert said == "1"
    ledger.close()


@needs_root
@pytest.mark.parametrize("log", ["there", "gone"])
def test_without_a_log_the_note_must_be_readable(shared: Path, log: str) -> None:
    path = shared / "ledger.db"
    killed(path)
    for suffix in ("", "-wal", "-shm"):
        path.with_name(f"ledger.db{suffix}").chmod(0o644)
    if log == "gone":
        path.with_name("ledger.db-wal").unlink()
    said = outcome(
        python(
            AS_NOBODY + "from costguard.errors import LedgerError\n"
            "try: print(len(by_guard(Path(sys.argv[1]), read_only=True).tasks()))\n"
            "except LedgerError as error: print(error)",
            path,
        )
    )
    if log == "there":
        assert said == "1"
    else:
        assert "ledger.db-lock, which tells whether the ledger is whole, cannot be read (Permission denied)" in said


@needs_root
def test_an_older_schema_names_who_can_bring_it_up_to_date(shared: Path) -> None:
    path = shared / "ledger.db"
    open_ledger(path).close()
    for file in shared.iterdir():
        file.chmod(0o644)
    said = outcome(
        python(
            AS_NOBODY + "from costguard.errors import LedgerError\nfrom costguard.ledger.engines import schema\n"
            "schema.VERSION += 1\n"
            "try: by_guard(Path(sys.argv[1]), read_only=True)\nexcept LedgerError as error: print(error)",
            path,
        )
    )
    assert f"has schema {schema.VERSION}, and this costguard reads {schema.VERSION + 1}. Let root" in said


@needs_root
def test_a_read_only_mount_is_read(shared: Path) -> None:
    path = shared / "ledger.db"
    ledger = open_ledger(path)
    hold(ledger, 1)
    ledger.close()
    code = (
        "import sys\nfrom ledgers import *\nfrom costguard.exchange.opening import open_ledger as by_guard\n"
        "print(len(by_guard(Path(sys.argv[1]), read_only=True).tasks()))"
    )
    mounted = python(
        "import subprocess, sys\n"
        "subprocess.run(['mount', '-t', 'tmpfs', 'tmpfs', '/mnt'], check=True)\n"
        "subprocess.run(['mount', '--bind', sys.argv[1], sys.argv[1]], check=True)\n"
        "subprocess.run(['mount', '-o', 'remount,ro,bind', sys.argv[1]], check=True)\n"
        f"sys.argv[1] += '/ledger.db'\n{code}",
        shared,
        under=("unshare", "-m"),
    )
    assert outcome(mounted) == "1"


@needs_root
def test_a_single_file_that_is_mounted_is_refused(shared: Path) -> None:
    path = shared / "ledger.db"
    open_ledger(path).close()
    (shared / "there").mkdir()
    (shared / "there" / "ledger.db").touch()
    said = outcome(
        python(
            "import subprocess, sys\nfrom ledgers import *\nfrom costguard.errors import LedgerError\n"
            "subprocess.run(['mount', '--bind', *sys.argv[1:]], check=True)\n"
            "try: open_ledger(Path(sys.argv[2]))\nexcept LedgerError as error: print(error)",
            path,
            shared / "there" / "ledger.db",
            under=("unshare", "-m"),
        )
    )
    assert "a single file mounted from elsewhere" in said


@needs_root
def test_what_root_does_once_leaves_nothing_that_the_service_cannot_use(shared: Path) -> None:
    home = shared / "service"
    home.mkdir()
    os.chown(home, 65534, 65534)
    path = home / "ledger.db"
    outcome(python(AS_NOBODY + "hold(open_ledger(Path(sys.argv[1])), 1)", path))
    (home / "ledger.db-lock").unlink()
    ledger = open_ledger(path)  # root, and with the right to write
    hold(ledger, 1)
    owners = {file.name: (file.stat().st_uid, stat.S_IMODE(file.stat().st_mode)) for file in home.iterdir()}
    ledger.close()
    assert set(owners.values()) == {(65534, 0o600)}
    outcome(python(AS_NOBODY + "hold(open_ledger(Path(sys.argv[1])), 1)", path))


def test_a_database_that_is_no_ledger_is_refused_and_nothing_is_made(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE users (name)")
    connection.close()
    before = listing(path)
    with pytest.raises(LedgerError, match="database of another program"):
        reader(path)
    assert listing(path) == before


def test_the_command_reads_without_a_lock(path: Path) -> None:
    open_ledger(path).close()
    path.with_name("ledger.db-lock").unlink()
    command = shutil.which("costguard", path=Path(os.sys.executable).parent)  # type: ignore[attr-defined]
    assert command
    subprocess.run([command, "--db", path, "status"], check=True, capture_output=True)
    assert list(listing(path)) == ["ledger.db"]
