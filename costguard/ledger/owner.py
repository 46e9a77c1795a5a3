"""Who holds money: a process named so that its death can be told from its silence."""

from __future__ import annotations

import functools
import getpass
import os
import socket
import sys
from pathlib import Path
from typing import NamedTuple

WHO_CHARS_MAX = 200


class Owner(NamedTuple):
    """A process: `host` (name and process namespace), `boot` id, `pid` and its start time."""

    host: str
    boot: str
    pid: int
    started: str


def this_process() -> Owner:
    """The calling process."""
    pid = os.getpid()
    return _owner(pid)


def is_dead(owner: Owner) -> bool | None:
    """True if the owner surely runs no more: same host, and rebooted or gone from it.

    None for owners that cannot be seen, such as those on other hosts: what they hold goes by age.
    """
    here = this_process()
    if owner.host != here.host:
        return None
    if owner.boot != here.boot:
        return True
    started = _started(owner.pid)
    return None if "" in (started, owner.started) else started != owner.started


@functools.lru_cache(maxsize=4)
def _owner(pid: int) -> Owner:
    return Owner(_host(), _boot(), pid, _started(pid) or "")


@functools.lru_cache(maxsize=1)
def _host() -> str:
    try:
        # Containers share a host name more often than a namespace, and pids mean nothing across it.
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        namespace = 0
    return f"{socket.gethostname()}#{namespace}"


@functools.lru_cache(maxsize=1)
def _boot() -> str:
    try:
        # Bytes: a codec is imported when it is first used, and a fork at that moment would leave it locked for ever.
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().decode().strip()
    except OSError:
        return _run("sysctl", "-n", "kern.boottime")


@functools.lru_cache(maxsize=1)
def who() -> str:
    """Who changes something by this process: `user@host, program`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container's user often has no name
        user = f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"
    program = Path(sys.argv[0] if sys.argv else "")
    name = program.parent.name if program.name == "__main__.py" else program.name
    said = f"{user}@{socket.gethostname()}, {name if name not in ('', '-c', '-') else 'python'}"
    return "".join([character for character in said if character.isprintable()])[:WHO_CHARS_MAX]


# A child may get the pid of a forebear that is gone, or live in a new process namespace.
os.register_at_fork(after_in_child=_owner.cache_clear)
os.register_at_fork(after_in_child=_host.cache_clear)


def _started(pid: int) -> str | None:
    """The start time of a live process as an opaque text, "" if it cannot be told, None without such a process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        # No such process, no /proc (macOS), or one that hides the processes of others.
        return _run("ps", "-o", "lstart=", "-p", str(pid)) if _exists(pid) else None
    # Field 2 is the command in parentheses and may hold blanks: count from the last parenthesis.
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    return fields[19].decode()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _run(*command: str) -> str:
    import subprocess

    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.strip()  # noqa: S603
    except OSError:
        return ""
