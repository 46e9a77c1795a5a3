"""URLs of ledgers: what is the server's, what is ours, and how one is shown without its password."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urlencode

from costguard.errors import ConfigurationError

SCHEMA = "costguard"
"""The schema of a ledger whose URL names none."""

POOL_MAX = 8
"""Connections of one engine, unless its URL says otherwise (`?pool=`): what waits for the server, not what computes."""

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_OURS = ("schema", "pool", "pooler", "leases")


class Place(NamedTuple):
    """Where a ledger is: libpq's settings, the schema, and how to go about it."""

    settings: dict[str, str]
    schema: str
    pool: int
    pooler: bool
    """Whether a pooler stands between that hands out connections by transactions: nothing is kept on one."""
    leases: str
    """Whether slices of hot budgets are taken: auto, on or off."""

    def __str__(self) -> str:
        """The URL without its password, and without what only the server is told."""
        known = self.settings
        user = f"{quote(known['user'], safe='')}@" if "user" in known else ""
        ports = known.get("port", "").split(",")
        hosts = known.get("host", known.get("hostaddr", "")).split(",")
        pairs = zip(hosts, _spread(ports, len(hosts)), strict=True)
        named = ",".join([f"{_bracketed(host)}{f':{port}' if port else ''}" for host, port in pairs])
        return f"postgresql://{user}{named}/{quote(known.get('dbname', ''))}?schema={self.schema}"

    def __repr__(self) -> str:
        return str(self)


def read_place(url: str) -> Place:
    """A URL as libpq reads it, with what `_OURS` names besides; ConfigurationError for others."""
    from psycopg import Error
    from psycopg.conninfo import conninfo_to_dict

    scheme, _, rest = url.partition("://")
    _check_marks(rest)
    rest, _, query = rest.partition("?")
    base = f"{scheme.lower()}://{rest}"
    told = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)  # libpq's + is a plus
    ours = {key: value for key, value in told if key in _OURS}
    theirs = urlencode([(key, value) for key, value in told if key not in _OURS], quote_via=quote)
    try:
        settings = {key: str(value) for key, value in conninfo_to_dict(f"{base}?{theirs}" if theirs else base).items()}
    except Error as error:
        # What libpq quotes may be a part of the password, of a URL that lacks its host, too.
        is_open = not any(mark in rest for mark in ":@")
        raise _unreadable(str(error).strip() if is_open else "it is not a URL as libpq reads it") from None
    if not all(port.isdecimal() or not port for port in settings.get("port", "").split(",")):
        raise _unreadable("its port is no number")
    schema = ours.get("schema", SCHEMA)
    check_schema(schema)
    pooler = _choice("pooler", ours.get("pooler", "off"), ("on", "off")) == "on"
    leases = _choice("leases", ours.get("leases", "auto"), ("auto", "on", "off"))
    return Place(settings, schema, _number(ours.get("pool"), POOL_MAX), pooler, leases)


def check_schema(schema: str) -> None:
    """ConfigurationError for what is no schema's name, or is one that PostgreSQL keeps for itself."""
    if not _SCHEMA.fullmatch(schema) or schema.startswith("pg_") or schema == "information_schema":
        raise ConfigurationError(
            f"ledger: schema={schema[:80]!r} is no name; at most 63 of a-z, 0-9 and _, beginning with neither a digit"
            " nor pg_"
        )


def _check_marks(rest: str) -> None:
    """A mark that is not quoted would make a name or an address of a part of the password."""
    user, at, host = rest.partition("@")
    if at and ("/" in user or "?" in user or "@" in host):
        raise _unreadable("an @, / or ? of its user, password or parameters is not quoted")


def _unreadable(why: str) -> ConfigurationError:
    return ConfigurationError(
        f"ledger: {why}; a ledger's URL is postgresql://USER@HOST:PORT/DATABASE?schema=NAME, and what is no letter"
        " or digit in a name or password is written in percent (%40 for @)"
    )


def _number(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise ConfigurationError(f"ledger: pool={text[:20]!r} is no number of connections from 1 to 1000")
    return int(text)


def _choice(name: str, told: str, known: tuple[str, ...]) -> str:
    if told not in known:
        raise ConfigurationError(f"ledger: {name}={told[:20]!r} is none of {', '.join(known)}")
    return told


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else quote(host, safe="")


def _spread(ports: list[str], count: int) -> list[str]:
    return ports if len(ports) == count else [ports[0]] * count
