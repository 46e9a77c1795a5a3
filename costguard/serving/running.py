"""The proxy as a program of its own: on a port, until it is told to end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from costguard.errors import ConfigurationError
from costguard.serving.proxy import Proxy
from costguard.serving.sockets import FRAME_BYTES_MAX

if TYPE_CHECKING:
    import uvicorn

CLOSE_S = 5
"""How long connections may take to close once all calls are over."""

_LOOK_S = 0.1
"""How soon a second Ctrl-C is seen."""

_IDLE_S = 75
"""How long a connection may wait for its next call: longer than most clients let theirs wait."""

_BACKLOG = 2048
"""Connections that may wait to be taken: many clients come at once."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; `port` 0 takes a free one. ConfigurationError if there is none to be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # One that says it is TCP: else asyncio leaves Nagle's algorithm on, and answers come 40 ms later.
        listening = socket.socket(family, kind, protocol or socket.IPPROTO_TCP)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(_BACKLOG)
        except BaseException:
            listening.close()
            raise
        return listening
    except (OSError, UnicodeError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(f"cannot listen on {host}, port {port}: {why}") from None


def run(proxy: Proxy, listening: socket.socket, *, drain_s: float, started: Callable[[], object]) -> None:
    """Serve until SIGINT or SIGTERM; then calls under way have `drain_s` seconds to end. A second Ctrl-C does not wait.

    `started` is called when calls are taken. ConfigurationError without a server to run.
    """
    _allow_connections()
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    with _caught():
        server(proxy, drain_s=drain_s, started=started).run(sockets=[listening])


def server(proxy: Proxy, *, drain_s: float, started: Callable[[], object]) -> uvicorn.Server:
    """See `run`; one that is told to end by `should_exit`."""
    try:
        import uvicorn
    except ImportError as error:
        raise ConfigurationError(
            f"serving needs the extra `serve` ({error}): pip install 'runware-costguard[serve]'"
        ) from None

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            for one in self.servers:
                one.close()
            draining = asyncio.ensure_future(proxy.drain(drain_s))
            while not draining.done() and not self.force_exit:
                await asyncio.wait([draining], timeout=_LOOK_S)
            await proxy.drain(0)  # whatever is left, if it was not waited for
            await draining
            await super().shutdown(sockets)

    config = uvicorn.Config(
        proxy,
        log_config=None,
        access_log=False,  # paths may hold tokens
        http="h11",  # one parser, whatever else is installed: it bounds headers, and knows HTTP/1.0
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=CLOSE_S,
        ws="websockets-sansio",
        ws_max_size=FRAME_BYTES_MAX,
        ws_ping_timeout=None,  # no pong is read while a frame waits at the gate
    )
    return Server(config)


def _is_news(record: logging.LogRecord) -> bool:
    """Of an answer that broke off the proxy has said so itself, and a refused websocket is complete."""
    return "ASGI callable returned without completing" not in record.getMessage()


@contextlib.contextmanager
def _caught() -> Iterator[None]:
    """Signals that end the server do not end the program with it: the guard is still to be closed."""

    def ignore(*_: Any) -> None:
        """The server has heard it."""

    before = {each: signal.signal(each, ignore) for each in _SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _allow_connections() -> None:
    """Every call is two connections, and the system's first bound is often 1,024 files: use what it allows."""
    if sys.platform == "win32":
        return
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if most == resource.RLIM_INFINITY else most
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
