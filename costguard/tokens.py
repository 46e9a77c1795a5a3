"""Tokens that name the clients of a proxy: how one is made and recognised. No ledger, no I/O.

A token is `cgt_ID_SECRET`. The ledger has its ID and a hash of all of it: whoever reads the ledger cannot call.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import NamedTuple

from costguard.projects import check_name, parse_project

_FORM = re.compile(r"cgt_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_SECRET_BYTES = 32


class Token(NamedTuple):
    """A token as the ledger keeps it. `digest`: SHA-256 of the token, in hex. Instants in UTC microseconds."""

    id: str
    project: str
    name: str
    digest: str
    at_us: int
    who: str
    revoked_us: int | None = None
    revoked_by: str | None = None


def make(project: str, name: str, at_us: int, who: str) -> tuple[str, Token]:
    """A new token for `project`, called `name` ("": nothing): its text, told this once, and what is kept of it.

    ConfigurationError for a bad project or name.
    """
    if name:
        check_name(name, "name")
    token_id = secrets.token_hex(6)
    text = f"cgt_{token_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    return text, Token(token_id, parse_project(project), name, _digest(text), at_us, who)


def id_of(text: str) -> str | None:
    """The id in a token; None for what is no token."""
    found = _FORM.fullmatch(text)
    return found and found[1]


def is_of(text: str, token: Token) -> bool:
    """Whether `text` is this token, and it is not revoked. The hash is compared in constant time."""
    return hmac.compare_digest(_digest(text), token.digest) and token.revoked_us is None


def _digest(text: str) -> str:
    # The secret has 256 random bits: a slow hash would keep out nobody.
    return hashlib.sha256(text.encode()).hexdigest()
