"""Imported by what programs are forked from: what each would load anew, and would have of another moment."""

from __future__ import annotations

import httpx

from costguard import Guard
from costguard.estimating import tokens
from costguard.ledger.engines.postgres.engine import PostgresEngine

__all__ = ["Guard", "PostgresEngine", "httpx"]

tokens.preload()
