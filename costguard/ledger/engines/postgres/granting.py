"""What a role must be allowed to do, and no more: programs never delete, and never change what has happened."""

from __future__ import annotations

import re

from costguard.errors import ConfigurationError
from costguard.ledger.engines.postgres.naming import check_schema
from costguard.ledger.engines.postgres.schema import MIGRATIONS
from costguard.ledger.engines.schema import APPEND_ONLY

ROLE_BYTES_MAX = 63
"""Of a role's name: PostgreSQL cuts off what is longer (NAMEDATALEN - 1)."""

_MADE = re.compile(r"CREATE (TABLE|VIEW|SEQUENCE) (\w+)")
_FIXED = ("gates",)
"""Tables whose rows are made with them: changed, and never added to."""


def grants(role: str, schema: str, *, read_only: bool) -> list[str]:
    """The statements by which the owner of `schema` lets `role` use the ledger in it: of programs, or only of reports.

    ConfigurationError for what is no name of either.
    """
    check_schema(schema)
    if not role or not role.isprintable() or len(role.encode()) > ROLE_BYTES_MAX:
        raise ConfigurationError(f"{role!r:.100} is no role's name: at most {ROLE_BYTES_MAX} bytes, all printable")
    to = "TO " + '"' + role.replace('"', '""') + '"'

    def names(kinds: str, but: tuple[str, ...] = ()) -> str:
        return ", ".join([f"{schema}.{name}" for kind, name in made() if kind in kinds.split() and name not in but])

    found = [f"GRANT USAGE ON SCHEMA {schema} {to}", f"GRANT SELECT ON {names('TABLE VIEW')} {to}"]
    if read_only:
        return found
    return [
        *found,
        f"GRANT USAGE ON SEQUENCE {names('SEQUENCE')} {to}",
        f"GRANT INSERT ON {names('TABLE', _FIXED)} {to}",
        f"GRANT UPDATE ON {names('TABLE', APPEND_ONLY)} {to}",
    ]


def made() -> list[tuple[str, str]]:
    """What the migrations make: ("TABLE", its name), and so on for views and sequences."""
    return [(kind, name) for script in MIGRATIONS.values() for kind, name in _MADE.findall(script)]
