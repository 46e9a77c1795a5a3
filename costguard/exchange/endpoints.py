"""Where a POST goes, and whose it may be."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import urlsplit

from costguard import wire
from costguard.errors import ConfigurationError
from costguard.exchange.effects import Claim
from costguard.wire.dialect import Target

_PORTS = {"https": 443, "http": 80}
_DEFAULT_PATH = "/v1"
"""The path of native tasks on a host that is named without one."""


CLAIMS_MAX = 1000
"""Addresses whose claim is remembered."""


class Endpoint(NamedTuple):
    """A host that the caller named: `port` is None for the scheme's own, `path` that of native tasks."""

    host: str
    port: int | None
    path: str


class Endpoints:
    """The hosts that a guard was told of, and whose each POST may be."""

    def __init__(self, named: Iterable[str]) -> None:
        if isinstance(named, str):
            raise ConfigurationError(f"endpoints: expected a list such as [{named!r}], found one text")
        self._named = frozenset(_parse(endpoint) for endpoint in named)
        self._claims: dict[tuple[str, int | None, str], Claim | None] = {}

    def claim(self, host: str, port: int | None, path: str) -> Claim | None:
        """Whose a POST may be, None if it is nobody's.

        `host` as `normal_host` gives it; `port` None for the scheme's own.
        """
        address = host, port, path
        try:
            return self._claims[address]
        except KeyError:
            if len(self._claims) >= CLAIMS_MAX:
                self._claims.clear()
            claim = self._claims[address] = self._claim(host, port, path.rstrip("/"))
            return claim

    def _claim(self, host: str, port: int | None, path: str) -> Claim | None:
        named = {one.path for one in self._named if one.host == host and one.port in (None, port)}
        target = Target(host, path, path if path in named else min(named, default=None))
        unmetered = None
        for known in wire.UNMETERED:
            claimed = known.claims(target)
            if claimed:
                return Claim((), True, known)
            if claimed is None:
                unmetered = known
        candidates = []
        for dialect in wire.DIALECTS:
            claimed = dialect.claims(target)
            if claimed:
                return Claim((dialect,), True)
            if claimed is None:
                candidates.append(dialect)
        return Claim(tuple(candidates), False, unmetered) if candidates or unmetered else None


@lru_cache(maxsize=CLAIMS_MAX)
def normal_host(host: str) -> str:
    """A host's one spelling: lower case, punycode, no brackets, no trailing dot."""
    host = host.strip("[]").rstrip(".").lower()
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        return host


def _parse(endpoint: object) -> Endpoint:
    """A host name or URL, as `Guard(endpoints=…)` takes it."""
    if not isinstance(endpoint, str) or not endpoint.strip():
        raise ConfigurationError(f"endpoints: expected host names or URLs, found {endpoint!r}")
    try:
        parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError(f"endpoints: {endpoint!r}: {error}") from None
    if not host:
        raise ConfigurationError(f"endpoints: {endpoint!r} names no host, such as 'https://llm.example/v1'")
    if port == _PORTS.get(parts.scheme) or (not parts.scheme and port in _PORTS.values()):
        port = None
    return Endpoint(normal_host(host), port, parts.path.rstrip("/") or _DEFAULT_PATH)
