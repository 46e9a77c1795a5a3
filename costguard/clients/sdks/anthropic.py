"""Anthropic's SDK: its clients, and those that derive from them. What it shares with OpenAI's is in `sdks`."""

from __future__ import annotations

from typing import TypeVar

import anthropic

from costguard.clients import sdks
from costguard.clients.guarding import Guarding

C = TypeVar("C")

SDK = sdks.Sdk(anthropic, "Anthropic", "AsyncAnthropic", ("1", "2"))


def wrap(guard: Guarding, client: C) -> C:
    """Put `guard` into an Anthropic or AsyncAnthropic, in place: see `sdks.wrap`."""
    return sdks.wrap(guard, client, SDK)
