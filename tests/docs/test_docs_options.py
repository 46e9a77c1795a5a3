"""docs/options.md tells every option there is, with its default."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from costguard import ConfigurationError, Guard

PAGE = (Path(__file__).parents[2] / "docs" / "options.md").read_text(encoding="utf-8")


def told(title: str) -> dict[str, str]:
    """The first two columns of the table under a heading."""
    section = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.M))


def options(function: Callable[..., Any], *positional: str) -> dict[str, Any]:
    """The defaults of a method's parameters, without `self` and those that are named."""
    parameters = inspect.signature(function).parameters
    return {name: each.default for name, each in parameters.items() if name not in ("self", *positional)}


def test_every_option_of_a_guard_is_told_with_its_default() -> None:
    assert told("Guard") == {name: f"`{default!r}`".replace("'", '"') for name, default in options(Guard).items()}


def test_every_option_of_a_budget_is_told() -> None:
    assert list(told("A budget")) == list(options(Guard.set_budget, "project", "amount"))


def test_the_defaults_of_a_budget_are_those_that_are_told(tmp_path: Path) -> None:
    with Guard(tmp_path / "costguard.db") as guard:
        new = guard.set_budget("acme", 1)
    found = {
        "per": new.per, "timezone": new.timezone, "warn_at": new.warn_at, "action": new.action,
        "floor": new.floor_tokens, "wait": new.wait_ms,
    }  # fmt: skip
    written = {name: text.strip("`").strip('"') for name, text in told("A budget").items() if name in found}
    assert written == {name: str(value) for name, value in found.items()}


def test_every_key_of_a_call_is_told(tmp_path: Path) -> None:
    import httpx
    from conftest import API, a_task

    from costguard.testing import StandIn

    with (
        Guard(tmp_path / "costguard.db") as guard,
        guard.wrap(httpx.Client(base_url=API, transport=StandIn().transport())) as client,
        pytest.raises(ConfigurationError) as refused,
    ):
        client.post("/v1", json=[a_task()], extensions={"costguard": {"unheard_of": 1}})
    assert set(told("A call")) <= set(re.findall(r"\w+", str(refused.value)))
