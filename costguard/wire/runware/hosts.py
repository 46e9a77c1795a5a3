"""Runware's own hosts."""

from __future__ import annotations

HOST = "runware.ai"
PATH = "/v1"
"""The path of native tasks on every host that does not state another."""


def is_runware(host: str) -> bool:
    """True for Runware's host names, without a port."""
    return host == HOST or host.endswith(f".{HOST}")


SOCKETS = {f"api.{HOST}": f"wss://ws-api.{HOST}/v1"}
"""Where the same API is on a websocket, if that is another host."""
