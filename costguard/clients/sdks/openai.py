"""OpenAI's SDK: its clients, and those that derive from them. What it shares with Anthropic's is in `sdks`."""

from __future__ import annotations

from typing import TypeVar

import openai

from costguard.clients import sdks
from costguard.clients.guarding import Guarding

C = TypeVar("C")

SDK = sdks.Sdk(openai, "OpenAI", "AsyncOpenAI", ("2", "3"))


def wrap(guard: Guarding, client: C) -> C:
    """Put `guard` into an OpenAI or AsyncOpenAI, in place: see `sdks.wrap`."""
    return sdks.wrap(guard, client, SDK)
