"""The ledger's file: created privately, refused when it is not ours, and safe on a full disk and in a crash."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ledgers import NOW_US, hold, open_ledger, outcome, python, verified

from costguard.budgets import make_budget
from costguard.errors import ConfigurationError, LedgerError
from costguard.ledger.accounting.book import Ledger
from costguard.ledger.engines import schema
from costguard.ledger.engines.files import SqliteTx
from costguard.ledger.engines.sqlite import SqliteEngine
from costguard.ledger.records import Release


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def refusal(path: Path) -> str:
    """Why a file cannot be opened as a ledger; it must be left as it was, and nothing put beside it."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(LedgerError) as caught:
        open_ledger(path)
    assert str(path) in str(caught.value)
    assert before == (path.read_bytes() if path.is_file() else None)
    assert sorted(beside.name for beside in path.parent.glob(f"{path.name}*")) == [path.name] * path.exists()
    return str(caught.value)


# Created


def test_the_ledger_and_all_files_beside_it_are_private_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        ledger = open_ledger(path)
        hold(ledger, 1)
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        ledger.close()
    finally:
        os.umask(before)
    assert modes == {path.name + suffix: 0o600 for suffix in ("", "-wal", "-shm", "-lock")}


def test_an_empty_file_becomes_a_ledger(path: Path) -> None:
    path.touch()
    ledger = open_ledger(path)
    hold(ledger, 1)
    assert verified(ledger)
    ledger.close()


@pytest.mark.parametrize("name", ["a b.db", "50%25?mode=ro#x.db", "Prüfung-帳.db", "'; DROP.db"])
def test_any_file_name_will_do(tmp_path: Path, name: str) -> None:
    ledger = open_ledger(tmp_path / name)
    hold(ledger, 1)
    ledger.close()
    assert (tmp_path / name).stat().st_size > 0


def test_opening_again_changes_nothing(path: Path) -> None:
    def shape() -> list[Any]:
        connection = sqlite3.connect(path)
        rows = connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
        rows += connection.execute("SELECT name, applied_at FROM _sqlite_migrations").fetchall()
        rows += [connection.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")]
        connection.close()
        return rows

    open_ledger(path).close()
    first = shape()
    assert first[-2:] == [(schema.APPLICATION_ID,), (schema.VERSION,)]
    for _ in range(2):
        open_ledger(path).close()
    assert shape() == first


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("normal", 1)])
def test_durability_is_what_sqlite_is_told(path: Path, durability: str, synchronous: int) -> None:
    engine = SqliteEngine(path, durability=durability)
    assert engine.write(lambda tx: tx.one("PRAGMA synchronous")) == (synchronous,)
    assert engine.write(lambda tx: tx.one("PRAGMA journal_mode")) == ("wal",)
    engine.close()


def test_an_unknown_durability_is_refused_before_anything_is_created(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'maybe' is not one of 'full', 'normal'"):
        SqliteEngine(path, durability="maybe")
    assert not path.exists()


def test_a_sqlite_that_is_too_old_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 36, 0))
    with pytest.raises(LedgerError, match=r"3\.37\.0 or newer"):
        SqliteEngine(path)
    assert not path.exists()


# Created by many at once, or only half


def test_processes_that_create_the_same_ledger_at_once_all_succeed(tmp_path: Path) -> None:
    outcome(
        python(
            """
import os, sys
from ledgers import *
folder = Path(sys.argv[1])
open_ledger(folder / "warm.db").close()
for n in range(10):
    ready, go = os.pipe()
    children = []
    for _ in range(6):
        child = os.fork()
        if not child:
            try:
                os.close(go)
                os.read(ready, 1)
                ledger = open_ledger(folder / f"{n}.db")
                hold(ledger, 1)
                ledger.close()
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        children.append(child)
    os.close(go)
    os.close(ready)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
""",
            tmp_path,
        )
    )
    for n in range(10):
        ledger = open_ledger(tmp_path / f"{n}.db")
        assert verified(ledger)
        assert len(ledger.tasks()) == 6
        ledger.close()


def test_threads_that_create_the_same_ledger_at_once_all_succeed(path: Path) -> None:
    barrier = threading.Barrier(6)
    failures: list[BaseException] = []

    def create() -> None:
        barrier.wait()
        try:
            ledger = open_ledger(path)
            hold(ledger, 1)
            ledger.close()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    ledger = open_ledger(path)
    assert verified(ledger)
    assert len(ledger.tasks()) == 6
    ledger.close()


def test_a_crash_at_any_statement_of_the_creation_is_made_good_by_the_next_opening(tmp_path: Path) -> None:
    points = outcome(
        python(
            """
import itertools, os, signal, sqlite3, sys
from ledgers import *
from costguard.ledger.engines import sqlite
folder = Path(sys.argv[1])
open_ledger(folder / "warm.db").close()
connect = sqlite3.connect

def create_and_die(path, point):
    left = itertools.count(point, -1)
    def traced(*args, **options):
        connection = connect(*args, **options)
        connection.set_trace_callback(lambda _: next(left) or os.kill(os.getpid(), signal.SIGKILL))
        return connection
    sqlite.sqlite3.connect = traced
    open_ledger(path)
    os._exit(0)

for point in itertools.count():
    path = folder / f"{point}.db"
    child = os.fork()
    if not child:
        create_and_die(path, point)
    if os.waitpid(child, 0)[1] == 0:
        break
    ledger = open_ledger(path)
    hold(ledger, 1)
    verified(ledger)
    ledger.close()
print(point)
""",
            tmp_path,
        )
    )
    assert int(points) > 30


def test_a_failed_migration_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = open_ledger(path)
    hold(ledger, 1)
    ledger.close()
    broken = ("m999_broken", "CREATE TABLE extra (x INTEGER) STRICT; INSERT INTO extra VALUES (1); CREATE nonsense;")
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, broken))
        patch.setattr(schema, "VERSION", schema.VERSION + 1)
        with pytest.raises(LedgerError, match="nonsense"):
            open_ledger(path)
    ledger = open_ledger(path)
    assert verified(ledger)
    assert ledger._engine.read(lambda tx: tx.all("SELECT 1 FROM sqlite_master WHERE name = 'extra'")) == []
    ledger.close()


def test_a_later_migration_is_applied_to_a_ledger_in_use(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = open_ledger(path)
    hold(old, 1)
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, ("m999", "CREATE TABLE extra (x INTEGER) STRICT;")))
    later = schema.VERSION + 1
    monkeypatch.setattr(schema, "VERSION", later)
    new = open_ledger(path)
    hold(new, 1)
    hold(old, 1)
    assert new._engine.read(lambda tx: tx.one("PRAGMA user_version")) == (later,)
    assert len(new.tasks()) == 3
    new.close()
    old.close()


# Not ours, or no longer fit


def test_a_text_file_is_refused_and_left_alone(path: Path) -> None:
    path.write_text("dear diary, " * 1000)
    assert "not a SQLite file" in refusal(path)


def test_a_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE users (name)")
        connection.commit()
    assert "database of another program (application_id 0x0, 1 tables)" in refusal(path)


@pytest.mark.parametrize("pragma", ["application_id = 7", "user_version = 7"])
def test_an_empty_database_that_another_program_has_marked_is_refused(path: Path, pragma: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA {pragma}")
    assert "database of another program" in refusal(path)


def test_a_ledger_of_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    open_ledger(path).close()
    path.with_name("ledger.db-lock").unlink()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
        connection.execute("PRAGMA journal_mode = DELETE")
    message = refusal(path)
    assert f"schema {schema.VERSION + 1}, this one knows {schema.VERSION}" in message
    assert "upgrade costguard" in message


def test_a_missing_folder_is_named(path: Path) -> None:
    assert "No such file or directory; the folder must exist" in refusal(path / "deeper.db")


def test_a_file_in_place_of_the_folder_is_named(path: Path) -> None:
    path.touch()
    with pytest.raises(LedgerError, match="Not a directory"):
        open_ledger(path / "ledger.db")


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_ledger_cut_short_is_an_error_that_says_what_to_do(path: Path, keep: float) -> None:
    ledger = open_ledger(path)
    hold(ledger, *range(300))
    ledger.close()
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(LedgerError, match=r"damaged; restore a backup"):
        look_into(path)


def test_garbage_in_a_ledger_is_a_ledger_error_wherever_it_lies(path: Path) -> None:
    ledger = open_ledger(path)
    hold(ledger, *range(100))
    ledger.close()
    content = path.read_bytes()
    rng = random.Random(5)
    broken = 0
    for _ in range(40):
        at = rng.randrange(len(content) // 4096) * 4096
        path.write_bytes(content[:at] + rng.randbytes(4096) + content[at + 4096 :])
        try:
            look_into(path)
        except LedgerError:
            broken += 1
    assert broken > 10  # the rest hit pages nobody looked at


def look_into(path: Path) -> None:
    """Read and write whatever an honest run would."""
    ledger = open_ledger(path)
    try:
        ledger.verify()
        ledger.tasks()
        ledger.set_budget(make_budget("/", 1, per="total"), NOW_US)
        hold(ledger, *range(20))
        ledger.conclude(NOW_US, [Release(attempt_id, "refused") for attempt_id in range(1, 50)])
    finally:
        ledger.close()


# Read-only, for a user whom permission bits bind (root they do not)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


AS_NOBODY = """
import os, sys
from ledgers import *
from costguard.errors import LedgerError
import tempfile
with tempfile.TemporaryDirectory() as folder:  # imports everything while that is allowed
    warm = open_ledger(Path(folder) / "warm.db")
    hold(warm, 1)
    warm.close()
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    ledger = open_ledger(Path(sys.argv[1]))
    hold(ledger, 1)
    print("held")
except LedgerError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("exists", "file_mode", "folder_mode", "complaint"),
    [
        (True, 0o444, 0o777, "read-only"),
        (True, 0o444, 0o555, "writable"),
        (True, 0o666, 0o555, "writable"),
        (True, 0o000, 0o777, "cannot be opened"),
        (False, 0, 0o555, "cannot create the ledger .*Permission denied"),
        (True, 0o666, 0o777, "held"),
    ],
)
def test_a_ledger_that_may_not_be_written_is_an_error_that_says_so(
    shared: Path, exists: bool, file_mode: int, folder_mode: int, complaint: str
) -> None:
    path = shared / "ledger.db"
    if exists:
        open_ledger(path).close()
        path.with_name("ledger.db-lock").unlink()
        path.chmod(file_mode)
    shared.chmod(folder_mode)
    before = path.stat().st_size if exists else None
    said = outcome(python(AS_NOBODY, path))
    shared.chmod(0o755)
    with pytest.raises(AssertionError, match=complaint):
        raise AssertionError(said)
    if complaint != "held":
        assert str(path) in said
        assert (path.stat().st_size if exists else None) == before


def test_a_lock_file_that_may_not_be_written_is_named(shared: Path) -> None:
    path = shared / "ledger.db"
    open_ledger(path).close()
    path.chmod(0o666)
    shared.chmod(0o777)
    said = outcome(python(AS_NOBODY, path))  # the lock file is still the first user's
    if os.getuid() == 0:
        assert f"cannot open the ledger's lock file {path}-lock: Permission denied" in said
    else:
        assert said == "held"


# A full disk

FULL = """
import contextlib, os, resource, signal, subprocess, sys
from ledgers import *
from costguard.budgets import make_budget
from costguard.errors import LedgerError

folder, kind = Path(sys.argv[1]), sys.argv[2]
if kind == "tmpfs":
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
filler = folder / "filler"
path = folder / "ledger.db"

@contextlib.contextmanager
def full():
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if kind == "tmpfs":
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    else:
        biggest = max((file.stat().st_size for file in folder.iterdir()), default=0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (biggest, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        filler.unlink(missing_ok=True)

def refused(call):
    try:
        call()
    except LedgerError as error:
        return str(error)
    raise AssertionError("it was written all the same")

with full():
    said = refused(lambda: open_ledger(path))
ledger = open_ledger(path)
ledger.set_budget(make_budget("/", 1, per="total"), NOW_US)
(attempt,) = hold(ledger, 1000)
with full():
    said = refused(lambda: hold(ledger, *range(40)))
    assert balance(ledger) == (0, 1000)
    assert refused(lambda: ledger.conclude(NOW_US, [Settle(attempt, a_charge(10), "0")])) == said
    assert balance(ledger) == (0, 1000)
    assert len(ledger.open_attempts()) == 1
    verified(ledger)
    other = open_ledger(path)  # reading needs no room
    assert balance(other) == (0, 1000)
    other.close()
hold(ledger, 5)
ledger.conclude(NOW_US, [Settle(attempt, a_charge(10), "0")])
assert balance(ledger) == (10, 5)
verified(ledger)
ledger.close()
print(said)
""".replace("from costguard.errors", "from costguard.ledger.records import Settle\nfrom costguard.errors")


def test_a_full_disk_holds_nothing_new_and_frees_nothing_held(tmp_path: Path) -> None:
    namespace = ["unshare", "--map-root-user", "--mount"]
    tried = shutil.which("unshare") and subprocess.run([*namespace, "true"], check=False, capture_output=True)
    if not tried or tried.returncode:
        pytest.skip("no way to mount a small disk here")
    said = outcome(python(FULL, tmp_path, "tmpfs", under=namespace))
    assert "the disk is full; free some room, nothing already recorded is lost" in said


def test_a_file_that_may_not_grow_holds_nothing_new_and_frees_nothing_held(tmp_path: Path) -> None:
    said = outcome(python(FULL, tmp_path, "limit"))
    assert "the disk" in said


# Closed


USES: dict[str, Callable[[Ledger], object]] = {
    "admit": lambda ledger: hold(ledger, 1),
    "conclude": lambda ledger: ledger.conclude(NOW_US, [Release(1, "refused")]),
    "set_budget": lambda ledger: ledger.set_budget(make_budget("/", 1), NOW_US),
    "balances": lambda ledger: ledger.balances(NOW_US),
    "tasks": lambda ledger: ledger.tasks(),
    "verify": lambda ledger: ledger.verify(),
}


@pytest.mark.parametrize("use", USES)
def test_a_closed_ledger_says_so(path: Path, use: str) -> None:
    ledger = open_ledger(path)
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError, match=r"the ledger .* is closed"):
        USES[use](ledger)


def test_the_last_to_close_leaves_one_whole_file(path: Path) -> None:
    first, second = open_ledger(path), open_ledger(path)
    hold(first, 1)
    first.close()
    hold(second, 1)
    second.close()
    assert {file.name for file in path.parent.iterdir()} == {"ledger.db", "ledger.db-lock"}
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM attempts").fetchone() == (2,)


def descriptors() -> set[str]:
    """The files this process has open."""
    return {str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()}


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_ledgers_closed_forgotten_or_never_opened_keep_no_file_open(path: Path) -> None:
    open_ledger(path).close()
    forgotten: Ledger | None = open_ledger(path)
    assert any(str(path) in name for name in descriptors())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        del forgotten
        gc.collect()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(LedgerError, match="newer"):
        open_ledger(path)
    assert not any(str(path) in name for name in descriptors())


def test_an_engine_reports_failures_of_the_driver_as_its_own(path: Path) -> None:
    engine = SqliteEngine(path, durability="normal")

    def unbindable(tx: SqliteTx) -> None:
        tx.run("INSERT INTO ceilings VALUES ('a', 1)")
        tx.run("INSERT INTO ceilings VALUES ('b', ?)", (object(),))

    with pytest.raises(LedgerError, match="object"):
        engine.write(unbindable)
    with pytest.raises(LedgerError, match="no such table"):
        engine.read(lambda tx: tx.all("SELECT * FROM nowhere"))
    with pytest.raises(LedgerError, match="too large"):
        engine.read(lambda tx: tx.all("SELECT ?", (2**64,)))
    with pytest.raises(LedgerError):
        engine.read(lambda tx: tx.run("DELETE FROM ceilings"))
    assert engine.read(lambda tx: tx.all("SELECT * FROM ceilings")) == []
    engine.close()
