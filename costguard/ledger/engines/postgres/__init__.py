"""The engine of `postgresql://` URLs: one ledger for many hosts, on a server that people already run.

The parts: `naming` (URLs), `linking` (connections), `transactions`, `schema`, `explaining`, `engine`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from costguard.errors import ConfigurationError, LedgerError

if TYPE_CHECKING:
    from costguard.ledger.engines.postgres.engine import PostgresEngine
    from costguard.ledger.engines.postgres.reading import PostgresReader


def open_engine(target: str | Path, *, durability: str) -> PostgresEngine:
    """See `costguard.ledger.engines`: the ledger at a URL. With `durability` "normal" no commit waits for the disk."""
    _check_installed()
    from costguard.ledger.engines.postgres.engine import PostgresEngine

    return PostgresEngine(str(target), durability=durability)


def open_reader(target: str | Path, *, durability: str) -> PostgresReader:  # noqa: ARG001
    """The same, without the right or the wish to write: a standby will do."""
    _check_installed()
    from costguard.ledger.engines.postgres.reading import PostgresReader

    return PostgresReader(str(target))


def is_there(target: str | Path) -> bool:
    """Whether the schema that the URL names has a ledger, of any version; LedgerError where that cannot be seen."""
    _check_installed()
    import psycopg

    from costguard.ledger.engines.postgres.explaining import explain
    from costguard.ledger.engines.postgres.linking import Links, check_server
    from costguard.ledger.engines.postgres.naming import read_place
    from costguard.ledger.engines.postgres.reading import read_version

    place = read_place(str(target))
    link = Links(place, writes=False, is_durable=True).connect()
    try:
        check_server(link, place)
        return read_version(link, place) > 0
    except psycopg.Error as error:
        raise LedgerError(f"the ledger {place}: {explain(error)}") from None
    finally:
        link.close()


def name_of(target: str | Path) -> str:
    """The servers, the database and the schema, as libpq finds them where the URL says nothing."""
    _check_installed()
    from psycopg.pq import Conninfo

    from costguard.ledger.engines.postgres.naming import read_place

    place = read_place(str(target))
    settings = {one.keyword.decode(): (one.val or b"").decode() for one in Conninfo.get_defaults()} | place.settings
    settings["dbname"] = settings["dbname"] or settings["user"]
    known = [settings[name] for name in ("service", "host", "hostaddr", "port", "dbname")]
    return f"postgresql {' '.join(known)} {place.schema}"


def _check_installed() -> None:
    if importlib.util.find_spec("psycopg") is None or importlib.util.find_spec("psycopg_pool") is None:
        raise ConfigurationError(
            "a ledger at postgresql:// needs the extra `postgres`: pip install 'runware-costguard[postgres]'"
        )
