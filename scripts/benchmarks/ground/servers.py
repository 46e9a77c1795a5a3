"""PostgreSQL for benchmarks: the servers of the tests, each with a temporary folder of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))

from postgres import Pair, Server

__all__ = ["Pair", "Server", "a_database", "a_pair"]


@contextmanager
def a_database(*, fsync: bool) -> Iterator[str]:
    """The URL of an empty database on a server of its own; with `fsync` a commit waits for the disk."""
    with Server(fsync=fsync) as server:
        yield server.url(server.new_database())


@contextmanager
def a_pair() -> Iterator[Pair]:
    """A primary and its synchronous standby. Neither waits for the disk: what is killed here are processes."""
    with Server() as primary, primary.standby(synchronous=True) as standby:
        yield Pair(primary, standby)
