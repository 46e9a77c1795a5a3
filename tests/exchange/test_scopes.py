"""Scopes that are left elsewhere than they were entered: nothing is raised, and no other scope is touched."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any

import httpx
import pytest
import trio
from conftest import API, a_task
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from costguard import ConfigurationError, Guard
from costguard.testing import StandIn


@pytest.fixture
def project(guard: Guard, standin: StandIn) -> Iterator[Callable[[], str]]:
    """Make a call and tell which project it was booked on."""
    with httpx.Client(base_url=API, transport=guard.transport(standin.transport())) as client:

        def call() -> str:
            client.post("/v1", json=[a_task()])
            return guard.ledger.tasks()[-1].project

        yield call


def within(guard: Guard, name: str) -> Generator[None]:
    """A dependency with `yield`: each half may run in a context of its own."""
    with guard.scope(project=name):
        yield


def test_both_halves_in_copies_of_the_context_leave_it_as_it_is(guard: Guard, project: Callable[[], str]) -> None:
    with guard.scope(project="outer"):
        halves = within(guard, "inner")
        first, second = contextvars.copy_context(), contextvars.copy_context()
        first.run(next, halves)
        assert (project(), first.run(project), second.run(project)) == ("outer", "inner", "outer")
        assert second.run(next, halves, None) is None
        assert (project(), first.run(project), second.run(project)) == ("outer", "outer", "outer")
    assert project() == "acme/search"


def test_the_halves_may_run_on_threads(guard: Guard, project: Callable[[], str]) -> None:
    halves, raised = within(guard, "inner"), list[BaseException]()

    def run() -> None:
        try:
            next(halves, None)
        except BaseException as error:
            raised.append(error)

    for _ in range(2):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert (raised, project()) == ([], "acme/search")


def test_a_scope_that_is_left_elsewhere_lets_the_callers_own_error_through(guard: Guard) -> None:
    halves = within(guard, "inner")
    contextvars.copy_context().run(next, halves)
    with pytest.raises(KeyError, match="of the caller"):
        contextvars.copy_context().run(halves.throw, KeyError("of the caller"))


async def stream(guard: Guard, name: str) -> AsyncIterator[int]:
    with guard.scope(project=name):
        for number in range(9):
            yield number


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_an_asynchronous_generator_may_be_closed_by_another_task(
    loop: str, guard: Guard, project: Callable[[], str]
) -> None:
    async def main() -> list[str]:
        generator: Any = stream(guard, "inner")
        seen = []

        async def begin() -> None:
            await generator.__anext__()
            seen.append(project())

        async def end() -> None:
            with guard.scope(project="other"):
                await generator.aclose()
                seen.append(project())

        for step in (begin, end):
            if loop == "trio":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(step)
            else:
                await asyncio.create_task(step())
        seen.append(project())
        return seen

    assert (trio.run(main) if loop == "trio" else asyncio.run(main())) == ["inner", "other", "acme/search"]


def test_the_context_it_was_entered_in_does_not_stay_in_it(guard: Guard, project: Callable[[], str]) -> None:
    halves = within(guard, "inner")
    next(halves)
    assert project() == "inner"
    contextvars.copy_context().run(next, halves, None)
    assert project() == "acme/search"
    with guard.scope(tags={"team": "a"}):
        assert project() == "acme/search"


def test_a_task_begun_within_a_scope_stays_in_it(guard: Guard, project: Callable[[], str]) -> None:
    async def main() -> str:
        async def later() -> str:
            await asyncio.sleep(0.01)
            return project()

        with guard.scope(project="inner"):
            task = asyncio.create_task(later())
        assert project() == "acme/search"
        return await task

    assert asyncio.run(main()) == "inner"


def test_scopes_of_one_context_may_be_left_in_any_order(guard: Guard, project: Callable[[], str]) -> None:
    one, two = within(guard, "one"), within(guard, "two")
    next(one)
    next(two)
    next(one, None)
    assert project() == "two"
    next(two, None)
    assert project() == "acme/search"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=16))
def test_any_entering_and_leaving_in_any_contexts_ends_in_no_scope(guard: Guard, steps: list[tuple[int, int]]) -> None:
    """Scopes toggled in arbitrary contexts: nothing is raised, and once all are left no context is in any."""
    contexts = [contextvars.Context() for _ in range(3)]
    entered: dict[int, Generator[None]] = {}
    for scope, context in steps:
        if scope in entered:
            contexts[context].run(next, entered.pop(scope), None)
        else:
            entered[scope] = within(guard, f"p{scope}")
            contexts[context].run(next, entered[scope])
            assert contexts[context].run(guard.gate.options).project == f"p{scope}"
    for left, halves in enumerate(entered.values()):
        contexts[left % 3].run(next, halves, None)
    assert {context.run(guard.gate.options).project for context in contexts} == {"acme/search"}


def test_one_scope_is_entered_once(guard: Guard, project: Callable[[], str]) -> None:
    scope = guard.scope(project="acme/x")
    with scope:
        with pytest.raises(ConfigurationError, match=r"call guard.scope\(…\) for each `with`"), scope:
            raise AssertionError
        assert project() == "acme/x"
    with pytest.raises(ConfigurationError, match="entered before"), scope:
        raise AssertionError
    assert project() == "acme/search"


def test_a_decorated_function_is_in_its_scope_at_every_call(guard: Guard, project: Callable[[], str]) -> None:
    @guard.scope(project="acme/x")
    def call(depth: int) -> list[str]:
        return [project(), *(call(depth - 1) if depth else [])]

    assert call(2) + call(0) == ["acme/x"] * 4
    assert project() == "acme/search"


def test_a_mistake_in_a_scope_is_said_where_it_is_made(guard: Guard) -> None:
    for mistake in ({"project": "//"}, {"tags": {"a": 1}}):
        with pytest.raises(ConfigurationError):
            guard.scope(**mistake)
