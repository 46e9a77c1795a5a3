"""Fixtures of the stand-in's tests: a plugin, so that no other room sees them in its conftest."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from costguard.testing import StandIn


@pytest.fixture(scope="module")
def web() -> Iterator[httpx.Client]:
    """One client for all: each `httpx.post` would build a TLS context of its own."""
    with httpx.Client() as client:
        yield client


@pytest.fixture
def url(standin: StandIn) -> Iterator[str]:
    with standin.serve() as base:
        yield base
