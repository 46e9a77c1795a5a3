"""Faults of a database in the midst of a transaction, each once: at its n-th statement, or at its commit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import psycopg
import pytest

from costguard.ledger.engines.postgres.pipelining import Pipeline
from costguard.ledger.engines.postgres.transactions import NotAloneError, WriteTx

Fault = Literal["cut", "conflict", "deadlock", "not alone", "full", "committed, and cut", "cut before the commit"]

AT_COMMIT: tuple[Fault, ...] = ("committed, and cut", "cut before the commit")
"""What is run again alone, and looked up, if it was to be beside others; else the caller is told that nobody knows."""

FINAL: tuple[Fault, ...] = ("full",)
"""What is not tried again: a LedgerError, and nothing was done."""

ALL: tuple[Fault, ...] = ("cut", "conflict", "deadlock", "not alone", "full", *AT_COMMIT)


class Faults:
    """What befalls the transactions of this process; nothing until `arm`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._fault: Fault | None = None
        self._left = 0
        ask, finish = WriteTx._ask, Pipeline.finish

        def asked(tx: WriteTx, *arguments: Any) -> Any:
            if self._fault is not None and self._fault not in AT_COMMIT:
                self._left -= 1
                if self._left <= 0:
                    self._strike(tx)
            return ask(tx, *arguments)

        def finished(pipeline: Pipeline) -> None:
            fault = self._fault if self._fault in AT_COMMIT else None
            if fault is not None:
                self._fault = None
            if fault != "cut before the commit":
                finish(pipeline)
            if fault is not None:
                pipeline._link.close()
                raise psycopg.OperationalError(fault)

        monkeypatch.setattr(WriteTx, "_ask", asked)
        monkeypatch.setattr(Pipeline, "finish", finished)

    @contextmanager
    def arm(self, fault: Fault | None, statement: int = 1) -> Iterator[None]:
        """Within, the first transaction that comes to so many statements, or to its commit, has this fault."""
        self._fault, self._left = fault, statement
        try:
            yield
        finally:
            self._fault = None

    def _strike(self, tx: WriteTx) -> None:
        fault, self._fault = self._fault, None
        if fault == "cut":
            tx._link.close()
            raise psycopg.OperationalError(fault)
        if fault == "conflict":
            raise psycopg.errors.SerializationFailure(fault)
        if fault == "deadlock":
            raise psycopg.errors.DeadlockDetected(fault)
        if fault == "full":
            raise psycopg.errors.DiskFull(fault)
        if not tx._is_alone:
            raise NotAloneError
