"""Fixtures of the proxy's tests: a plugin, so that no other room sees them in its conftest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from conftest import LIMIT
from proxied import WAIT_S, Served, serving

from costguard import Guard
from costguard.serving.upstream import endpoint_of
from costguard.testing import StandIn


@pytest.fixture
def upstream(standin: StandIn) -> Iterator[str]:
    """The address of the stand-in."""
    with standin.serve() as url:
        yield url


@pytest.fixture
def guard_of(make_guard: Callable[..., Guard]) -> Callable[..., Guard]:
    """Guards before an upstream, under a hard budget of `LIMIT`."""

    def make(url: str, **options: Any) -> Guard:
        guard = make_guard(endpoints=[endpoint_of(url)], **options)
        guard.set_budget("/", LIMIT, per="total")
        return guard

    return make


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Start proxies; they end with the test."""
    with ExitStack() as stack:
        yield lambda guard, url, **options: stack.enter_context(serving(guard, url, **options))


@pytest.fixture
def own_guard(guard_of: Callable[..., Guard], upstream: str) -> Guard:
    """A guard before the stand-in."""
    return guard_of(upstream)


@pytest.fixture
def served(own_guard: Guard, upstream: str, serve: Callable[..., Served]) -> Served:
    """A proxy before the stand-in."""
    return serve(own_guard, upstream)


@pytest.fixture
def web() -> Iterator[httpx.Client]:
    """A client that knows nothing of a guard."""
    with httpx.Client(timeout=WAIT_S) as client:
        yield client
