"""A real PostgreSQL for the tests: servers of their own in temporary folders, to kill, restart, copy and fail over.

On Linux only: the programs run by way of `setpriv`, which takes root away from them and ends them with this process.
"""

from __future__ import annotations

import itertools
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import quote, urlencode

import psycopg
import pytest
from psycopg import sql

SUPERUSER = "postgres"
USER = "costguard"
"""Owns the databases and schemas that are made for tests, and may do nothing else."""
PASSWORD = "p@ss/w:rd%"
"""Of both users: what a URL must quote."""

_PROGRAMS = ("initdb", "pg_ctl", "postgres", "pg_basebackup", "pg_rewind")
_MISSING = "there is no PostgreSQL server; scripts/postgres installs it"
_PATIENCE_S = 60
_STOPS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}

_STARTER = ThreadPoolExecutor(1)
"""Starts the servers: one that is to end with its parent ends with the thread that made it, so this one stays."""


def find() -> Path | None:
    """The folder of the server's programs, in PATH or Debian's newest; None if they are not installed."""
    if shutil.which("setpriv") is None:
        return None
    installed = Path("/usr/lib/postgresql").glob("*/bin")
    newest_first = sorted(installed, key=lambda folder: [*map(int, folder.parent.name.split("."))], reverse=True)
    for folder in (*map(Path, os.get_exec_path()), *newest_first):
        if all(os.access(folder / program, os.X_OK) for program in _PROGRAMS):
            return folder
    return None


def find_or_skip() -> Path:
    """As `find`; without a server the test is skipped, but fails in CI."""
    folder = find()
    if folder is None:
        assert os.environ.get("CI") != "true", _MISSING
        pytest.skip(_MISSING)
    return folder


def wait_until(what: Callable[[], bool]) -> None:
    """Returns when `what` is so; TimeoutError after a minute."""
    deadline = time.monotonic() + _PATIENCE_S
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} is not so after {_PATIENCE_S} s")
        time.sleep(0.01)


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens, below those that the system gives to outgoing connections."""
    draw = random.SystemRandom()  # what others seed would give every process the same ports
    while not _is_free(port := draw.randrange(15_000, 32_000)):
        pass
    return port


class Server:
    """A PostgreSQL server, which runs from the start; a context manager, which ends and deletes it.

    It listens on 127.0.0.1 alone, and asks for passwords. Without `fsync` it survives the kill of its processes, which
    is all that the tests can do to it, and never waits for the disk.
    """

    def __init__(self, *, fsync: bool = False) -> None:
        self.fsync = fsync
        self.port = free_port()
        self._programs = find_or_skip()
        self._folder = tempfile.TemporaryDirectory(prefix="costguard-postgres-", ignore_cleanup_errors=True)
        self._identity: list[str] = []
        if os.geteuid() == 0:
            owner = _unprivileged()
            os.chown(self._folder.name, owner.pw_uid, owner.pw_gid)
            self._identity = [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
        self.log = Path(self._folder.name, "log")
        self._data = Path(self._folder.name, "data")
        self._names = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._make()
            self.start()
            self._prepare()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        """Whether its first process lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Returns when it answers, at once if it ran; RuntimeError with the end of its log if it cannot start."""
        if self.is_running:
            return
        settings = {
            "cluster_name": self._name,  # also what a standby calls itself
            "fsync": "on" if self.fsync else "off",
            "listen_addresses": "127.0.0.1",
            "max_connections": "200",
            "port": str(self.port),
            "shared_buffers": "32MB",
            "unix_socket_directories": "",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        with self.log.open("ab") as log:
            command = self._command("postgres", "-D", str(self._data), *options)

            def begin() -> subprocess.Popen[bytes]:
                return subprocess.Popen(
                    command, **self._place, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )

            self._process = _STARTER.submit(begin).result()
        wait_until(self._answers)

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """End it in order, or at once, which it makes up for when it starts; nothing if it does not run."""
        if self._process is not None and self.is_running:
            self._process.send_signal(_STOPS[mode])
            self._process.wait(_PATIENCE_S)

    def kill(self) -> None:
        """Kill every process of it at once, and return when they are gone and the port is free."""
        if self._process is None or not self.is_running:
            return
        first = self._process.pid
        self._process.send_signal(signal.SIGSTOP)  # it starts no more of them while they are counted
        wait_until(lambda: _stat(first)[0] in "TtZ")
        others = [pid for pid in _pids() if _stat(pid)[1] == first]
        for pid in (first, *others):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(_PATIENCE_S)
        wait_until(lambda: all(_stat(pid)[0] == "Z" for pid in others))
        wait_until(lambda: _is_free(self.port))

    def restart(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop it if it runs, and start it on the same port."""
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """End it and delete its folder."""
        self.kill()
        self._folder.cleanup()

    def url(
        self,
        database: str = "postgres",
        *,
        user: str = USER,
        password: str = PASSWORD,
        ports: Sequence[int] = (),
        **query: str,
    ) -> str:
        """The URL of a database; `ports` of 127.0.0.1 stand for its own: of a proxy, or of several servers in turn."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports or [self.port])
        asked = f"?{urlencode(query, quote_via=quote)}" if query else ""
        return (
            f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@{hosts}/{quote(database, safe='')}{asked}"
        )

    def sql(
        self, statement: str | sql.Composed, values: Sequence[object] | None = None, *, database: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        """The rows of one statement, which the superuser executes and commits; none if it gives none."""
        with psycopg.connect(self.url(database, user=SUPERUSER), autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def new_database(self) -> str:
        """The name of a new, empty database of `USER`."""
        name = f"test_{next(self._names)}"
        self.sql(f"CREATE DATABASE {name} OWNER {USER}")
        return name

    def drop_database(self, name: str) -> None:
        """Delete a database, and end whoever is connected to it."""
        self.sql(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def new_schema(self, database: str = "postgres") -> str:
        """The name of a new, empty schema of `USER`: `url(database, options=f"-csearch_path={name}")` works in it."""
        name = f"test_{next(self._names)}"
        self.sql(f"CREATE SCHEMA {name} AUTHORIZATION {USER}", database=database)
        return name

    def standby(self, *, synchronous: bool = False) -> Standby:
        """A new standby that follows this server; close it. If it is synchronous, a commit here waits for it."""
        standby = Standby(self)
        if synchronous:
            self.sql(f"ALTER SYSTEM SET synchronous_standby_names = {standby._name}")
            self.sql("SELECT pg_reload_conf()")
            state = "SELECT sync_state FROM pg_stat_replication WHERE application_name = %s"
            wait_until(lambda: self.sql(state, [standby._name]) == [("sync",)])
            self.sql("CHECKPOINT")  # whoever does this also tells commits to wait, and has now read the setting
        return standby

    def _make(self) -> None:
        password = Path(self._folder.name, "password")
        password.write_text(PASSWORD)
        self._run(
            "initdb", f"--pgdata={self._data}", f"--username={SUPERUSER}", f"--pwfile={password}",
            "--auth=scram-sha-256", "--locale=C", "--encoding=UTF8", "--no-sync",
        )  # fmt: skip

    def _prepare(self) -> None:
        self.sql(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(USER), sql.Literal(PASSWORD)))

    @property
    def _name(self) -> str:
        return f"costguard_{self.port}"

    @property
    def _place(self) -> dict[str, Any]:
        """Where its programs run: a folder that they may read, without settings of whoever runs the tests."""
        return {"cwd": self._folder.name, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}}

    def _command(self, program: str, *arguments: str) -> list[str]:
        return ["setpriv", "--pdeathsig=QUIT", *self._identity, str(self._programs / program), *arguments]

    def _run(self, program: str, *arguments: str) -> None:
        command = self._command(program, *arguments)
        done = subprocess.run(command, **self._place, check=False, capture_output=True, text=True, timeout=_PATIENCE_S)
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stderr}")

    def _answers(self) -> bool:
        if not self.is_running:
            raise RuntimeError(f"the server ended: {self.log.read_text(errors='replace')[-2000:]}")
        try:
            self.sql("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


class Standby(Server):
    """A copy of a primary, which follows it through a replication slot of its own, and can take its place."""

    def __init__(self, primary: Server) -> None:
        self._primary = primary
        super().__init__(fsync=primary.fsync)

    def catch_up(self) -> None:
        """Returns when it shows all that the primary has written."""
        ((written,),) = self._primary.sql("SELECT pg_current_wal_lsn()::text")
        wait_until(lambda: self.sql("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", [written]) == [(True,)])

    def promote(self) -> None:
        """Make it a primary, which takes writes; end the old one first, as nothing here does."""
        assert self.sql("SELECT pg_promote()") == [(True,)]

    def _make(self) -> None:
        self._run(
            "pg_basebackup", f"--dbname={self._primary.url(user=SUPERUSER)}", f"--pgdata={self._data}",
            "--create-slot", f"--slot={self._name}", "--write-recovery-conf", "--checkpoint=fast", "--no-sync",
        )  # fmt: skip

    def _prepare(self) -> None:
        """It has everything from its primary."""


class Pair(NamedTuple):
    """A primary, and a standby without which it commits nothing: what was committed outlives the primary."""

    primary: Server
    standby: Standby

    def url(self, database: str = "postgres", **query: str) -> str:
        """The URL of a database on whichever of the two takes writes."""
        ports = (self.primary.port, self.standby.port)
        return self.primary.url(database, ports=ports, target_session_attrs="read-write", **query)


def _unprivileged() -> pwd.struct_passwd:
    """Whom the server runs as when the tests run as root, which it refuses."""
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _pids() -> list[int]:
    return [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()]


def _stat(pid: int) -> tuple[str, int]:
    """A process's state and its parent; ("Z", 0) for one that is gone."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return "Z", 0
    return state, int(parent)
