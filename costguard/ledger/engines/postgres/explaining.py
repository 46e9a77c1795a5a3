"""The server's errors, in plain words and with what to do about them."""

from __future__ import annotations

import psycopg

AGAIN = ("40001", "40P01")
"""SQLSTATEs after which the same transaction may well succeed: a serialization failure, a deadlock."""

_CUT = "cannot be reached"

_REMEDIES = {
    "28P01": "the password is missing or wrong; it comes from the URL in COSTGUARD_DB, PGPASSWORD or ~/.pgpass",
    "28000": "the server does not let this user in; see its pg_hba.conf",
    "3D000": "there is no such database; create it (createdb), or name another",
    "3F000": "its schema is not there; a role that may create it does so with `costguard init`",
    "42P01": "its tables are not there, or not all; a role that may create them does so with `costguard init`",
    "42501": "this role may not do that: `costguard grants ROLE` prints what programs need; to begin a ledger"
    " (`costguard init`), remove a budget or a ceiling or change a budget's zone is for the role that owns its tables",
    "25006": "the server is read-only: a standby, or set so; name its primary, or all hosts (host1,host2)",
    "53100": "the server's disk is full; free some room, nothing already recorded is lost",
    "53300": "the server has no connection left; a smaller ?pool= in each process, a pooler before it, or a larger"
    " max_connections",
    "57014": "a statement took too long and was cancelled; others hold what it needs, or the server is overloaded",
    "55P03": "others hold what it needs",
    "22003": "an amount beyond 64 bits",
    "P0001": "the tables of what happened are only added to",
}


def is_cut(error: psycopg.Error) -> bool:
    """True if the connection is gone: whatever it was at may have been done, or not."""
    state = error.sqlstate
    if state is None:
        return isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
    return state.startswith(("08", "57P0"))


def explain(error: psycopg.Error) -> str:
    """What to do about an error, and what the server said."""
    said = " ".join(str(error.diag.message_primary or error).split())
    remedy = _REMEDIES.get(error.sqlstate or "")
    if remedy is None and is_cut(error):
        remedy = _reason(said)
    return f"{remedy} (PostgreSQL: {said})" if remedy else f"PostgreSQL: {said}"


def _reason(said: str) -> str:
    for sign, remedy in (
        ("read-only", _REMEDIES["25006"]),
        ("password", _REMEDIES["28P01"]),
        ("does not exist", _REMEDIES["3D000"]),
        ("too many connections", _REMEDIES["53300"]),
        ("remaining connection slots", _REMEDIES["53300"]),
    ):
        if sign in said:
            return remedy
    return f"the server {_CUT}; is it running, and is that its address?"
