"""Web pages: one that a browser shows can call an address of its own machine, and nobody asked its reader."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from costguard.serving.asgi import Scope, header

_PRIVATE = (".localhost", ".local", ".internal", ".lan", ".test", ".home.arpa")
"""Names that nobody can have on the Internet (RFC 6761, RFC 6762, RFC 8375, ICANN's `.internal`)."""


def stranger(scope: Scope) -> str | None:
    """Why a request may be a foreign web page's, None if it is not.

    Its `Origin` is a site on another machine that is not the proxy's own; or, to a proxy on loopback, its `Host` is a
    public name, which whoever has that name may let lead here.
    """
    host = _host(f"//{(header(scope['headers'], b'host') or [''])[0]}")
    server = scope.get("server") or ("", None)
    for origin in header(scope["headers"], b"origin"):
        is_page = origin == "null" or origin.lower().startswith(("http://", "https://"))
        found = _host(origin)
        if is_page and (found is None or (not is_loopback(found) and found != host)):
            return "it comes from a web page on another machine"
    if is_loopback(server[0]) and (host is None or _is_public(host)):
        return "it calls the proxy by a public name, as a web page can that has that name"
    return None


def is_loopback(host: str) -> bool:
    """Whether nothing but this machine reaches an address; a name is believed if it is reserved for that."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _is_public(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return "." in host and not host.endswith(_PRIVATE)
    return False


def _host(url: str) -> str | None:
    """The host of an address, "" without one; None if it cannot be read."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return None
