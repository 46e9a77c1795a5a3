"""Who made an attempt: a process, told from every other that had or will have its number."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from ledgers import outcome, python

from costguard.ledger.owner import Owner, is_dead, this_process


def test_an_owner_is_dead_once_its_process_is_gone_or_only_a_zombie() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    me = this_process()
    pid = python(
        f"from costguard.ledger import owner; print(owner._started({child.pid}))",
    )
    alive = me._replace(pid=child.pid, started=outcome(pid))
    assert is_dead(alive) is False
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, not yet reaped
    assert is_dead(alive) is True
    assert child.stdin is not None
    child.stdin.close()
    child.wait()
    assert is_dead(alive) is True


@pytest.mark.parametrize(
    ("change", "dead"),
    [
        ({}, False),
        ({"started": "1"}, True),  # the pid was given to another process
        ({"boot": "before the reboot"}, True),
        ({"host": "elsewhere"}, None),
        ({"host": "elsewhere", "boot": "another"}, None),
        ({"started": ""}, None),
    ],
)
def test_an_owner_is_known_by_host_boot_pid_and_start_time(change: dict[str, str], dead: bool | None) -> None:
    assert is_dead(this_process()._replace(**change)) is dead  # type: ignore[arg-type]


def test_a_process_that_cannot_be_looked_into_is_not_called_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when /proc hides the processes of other users."""

    def hidden(_: Path) -> bytes:
        raise PermissionError

    monkeypatch.setattr(Path, "read_bytes", hidden)
    monkeypatch.setenv("PATH", "")
    assert is_dead(this_process()) is None


def test_the_owner_names_host_and_process() -> None:
    me = this_process()
    assert isinstance(me, Owner)
    assert me.pid == os.getpid()
    assert me.host.startswith(socket.gethostname())
    assert me.started
