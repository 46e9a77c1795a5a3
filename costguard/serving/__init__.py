"""A guarding reverse proxy, for clients in any language: `costguard serve`, or `app` in an ASGI server of your own.

`docs/proxy.md` says how to run it. The extra `serve` has what it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from costguard.guard import Guard
from costguard.serving.door import Door
from costguard.serving.proxy import Proxy
from costguard.serving.sockets import SocketUpstream
from costguard.serving.upstream import Upstream

if TYPE_CHECKING:
    import httpx

DRAIN_S = 30.0
"""How long calls under way may go on after the proxy was told to end."""


def app(
    guard: Guard,
    upstream: str,
    *,
    upstream_ws: str | None = None,
    project_header: str | None = None,
    require_token: bool = False,
    timeout_s: float | None = None,
    drain_s: float = DRAIN_S,
    transport: httpx.AsyncBaseTransport | None = None,
) -> Proxy:
    """An ASGI app that passes calls on to `upstream` under `guard`; the guard stays yours to close.

    `upstream`: the address of an API that the guard knows: Runware's, or one of `Guard(endpoints=…)`. `upstream_ws`:
    that of its websockets; None: Runware's, or the same one. `project_header`: a header by which callers may name their
    project. `require_token`: no call without a token, also before there are any. `timeout_s`: how long the upstream may
    be silent; None: for ever. `drain_s`: how long calls may go on once the server ends. `transport`: what sends,
    httpx's own unless stated. ConfigurationError for what cannot be used.
    """
    door = Door(guard, project_header=project_header, require_token=require_token)
    http = Upstream(guard, upstream, timeout_s=timeout_s, transport=transport)
    return Proxy(guard, http, door, SocketUpstream(guard, http.url, upstream_ws), drain_s=drain_s)
