"""The ledger's tables, as numbered migrations applied by `sqlite-utils`.

A released migration is never edited: a change is a new one below, with the reason above it.
Amounts are nano-dollars (INTEGER), instants are UTC microseconds since 1970 (INTEGER).
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    import sqlite3

APPLICATION_ID = 0x636F7374
"""SQLite's `application_id` of a ledger file: the letters `cost`."""

SQLITE_MIN = (3, 37, 0)
"""The oldest SQLite with strict tables (and `RETURNING`)."""

APPEND_ONLY = ("entries", "terms", "budget_changes", "ceiling_changes", "days", "moves", "fired")
"""Tables whose rows are never changed or removed; triggers enforce it."""

# The spine. `attempts` is one possible bill: a task sent again is one more row with the same
# `task_uuid`. `entries` is the journal: every change of held or spent money, in ledger order, from
# which attempts and balances can be recomputed; a charge is an entry with the provider's figures (one
# row and one page written less than in a table of its own). `holds` keeps what each admission saw. The tables are
# strict: a sum beyond 64 bits would become a float elsewhere, here it is an error.
_M1_SPINE = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE owners (
  id INTEGER PRIMARY KEY, host TEXT NOT NULL, boot TEXT NOT NULL, pid INTEGER NOT NULL,
  started TEXT NOT NULL, UNIQUE (host, boot, pid, started)
) STRICT;
CREATE TABLE budgets (
  id INTEGER PRIMARY KEY, project TEXT NOT NULL, per TEXT NOT NULL, limit_nanos INTEGER NOT NULL,
  timezone TEXT NOT NULL, action TEXT NOT NULL, warn_at TEXT NOT NULL, floor_tokens INTEGER NOT NULL,
  wait_ms INTEGER NOT NULL, UNIQUE (project, per)
) STRICT;
CREATE TABLE budget_changes (
  id INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, change TEXT NOT NULL, project TEXT NOT NULL,
  per TEXT NOT NULL, limit_nanos INTEGER, timezone TEXT, action TEXT, warn_at TEXT,
  floor_tokens INTEGER, wait_ms INTEGER
) STRICT;
CREATE TABLE ceilings (name TEXT PRIMARY KEY, nanos INTEGER NOT NULL) STRICT;
CREATE TABLE ceiling_changes (
  id INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, name TEXT NOT NULL, nanos INTEGER
) STRICT;
CREATE TABLE balances (
  budget_id INTEGER NOT NULL, window_us INTEGER NOT NULL, spent INTEGER NOT NULL, held INTEGER NOT NULL,
  PRIMARY KEY (budget_id, window_us)
) STRICT, WITHOUT ROWID;
CREATE TABLE alerts (
  budget_id INTEGER NOT NULL, window_us INTEGER NOT NULL, threshold TEXT NOT NULL, at_us INTEGER NOT NULL,
  PRIMARY KEY (budget_id, window_us, threshold)
) STRICT, WITHOUT ROWID;
CREATE TABLE attempts (
  id INTEGER PRIMARY KEY, task_uuid TEXT NOT NULL, project TEXT NOT NULL, task_type TEXT NOT NULL,
  model TEXT NOT NULL, delivery TEXT NOT NULL, results INTEGER NOT NULL, at_us INTEGER NOT NULL,
  day TEXT NOT NULL, upper INTEGER, expected INTEGER, price_id TEXT, estimate TEXT NOT NULL,
  tags TEXT NOT NULL, clamped_from INTEGER, host TEXT NOT NULL, owner_id INTEGER NOT NULL,
  status TEXT NOT NULL, reason TEXT, evidence TEXT,
  held INTEGER NOT NULL, charged INTEGER NOT NULL, seen INTEGER NOT NULL, ended_us INTEGER,
  unconfirmed INTEGER
) STRICT;
CREATE INDEX attempts_by_task ON attempts (task_uuid);
CREATE INDEX attempts_by_time ON attempts (at_us);
CREATE INDEX attempts_open ON attempts (status, at_us) WHERE status IN ('held', 'unresolved');
CREATE TABLE entries (
  seq INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, attempt_id INTEGER NOT NULL, kind TEXT NOT NULL,
  held INTEGER NOT NULL, spent INTEGER NOT NULL, reason TEXT, basis TEXT, cost_nanos INTEGER,
  total_nanos INTEGER, computed_nanos INTEGER, price_id TEXT, prompt_tokens INTEGER,
  completion_tokens INTEGER, reasoning_tokens INTEGER, cached_tokens INTEGER, cache_reading TEXT,
  odd INTEGER, results INTEGER, notes TEXT, raw TEXT, result_key TEXT, direct INTEGER, replaces INTEGER
) STRICT;
CREATE INDEX attempts_unconfirmed ON attempts (at_us) WHERE unconfirmed = 1;
CREATE INDEX charges_by_attempt ON entries (attempt_id) WHERE kind = 'charge';
CREATE VIEW charges AS SELECT seq, attempt_id, at_us, spent AS nanos, basis, cost_nanos, total_nanos,
  computed_nanos, price_id, prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens, cache_reading,
  odd, results, notes, raw, reason, result_key, direct, replaces FROM entries WHERE kind = 'charge';
CREATE TABLE holds (
  attempt_id INTEGER NOT NULL, budget_id INTEGER NOT NULL, project TEXT NOT NULL, per TEXT NOT NULL,
  window_us INTEGER NOT NULL, window_end_us INTEGER, limit_nanos INTEGER NOT NULL,
  spent INTEGER NOT NULL, held INTEGER NOT NULL, hard INTEGER NOT NULL,
  PRIMARY KEY (attempt_id, budget_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE lines (
  charge_seq INTEGER NOT NULL, n INTEGER NOT NULL, component TEXT NOT NULL, modality TEXT NOT NULL,
  quantity INTEGER, nanos INTEGER NOT NULL, PRIMARY KEY (charge_seq, n)
) STRICT, WITHOUT ROWID;
CREATE TABLE rollups (
  day TEXT NOT NULL, project TEXT NOT NULL, model TEXT NOT NULL, component TEXT NOT NULL,
  modality TEXT NOT NULL, basis TEXT NOT NULL, lead_tasks INTEGER NOT NULL, tasks INTEGER NOT NULL,
  results INTEGER NOT NULL, quantity INTEGER NOT NULL, nanos INTEGER NOT NULL,
  PRIMARY KEY (day, project, model, component, modality, basis)
) STRICT, WITHOUT ROWID;
"""

# What media were billed as: a UUID that comes again is the same file, a URL probably is. `digest` stands for
# the reference, keyed with `media_key` of `meta`, so that a ledger tells nobody what was looked at.
_M2_MEDIA = """
CREATE TABLE media (digest TEXT PRIMARY KEY, at_us INTEGER NOT NULL, counts TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX media_by_time ON media (at_us);
"""

# A task's UUID is one name in any case, and kept in lower case; the provider is asked for it as its caller wrote
# it. NULL where that is the same.
_M3_SPELLING = "ALTER TABLE attempts ADD COLUMN spelling TEXT;"

# A provider's record may be written only when the work is done: what it does not know is asked for once more
# (`ask_us`: when; 0 once it was), and what it once took (`accepted`) is known to have reached it.
_M4_UNKNOWN = """
ALTER TABLE attempts ADD COLUMN accepted INTEGER;
ALTER TABLE attempts ADD COLUMN ask_us INTEGER;
CREATE INDEX attempts_to_ask ON attempts (ask_us) WHERE ask_us > 0;
"""

# The rules of a time zone change under a ledger, and what was decided by the old ones stays: `days` keeps how each day
# was cut, for attempts admitted after `days_since` of `meta`, and a balance its window's end (2^63 - 1: none).
# Balances are derived, so they are begun anew rather than guessed at.
_M5_CUTS = """
CREATE TABLE days (
  day TEXT NOT NULL, start_us INTEGER NOT NULL, end_us INTEGER NOT NULL, timezone TEXT NOT NULL,
  PRIMARY KEY (day, start_us, end_us)
) STRICT, WITHOUT ROWID;
INSERT INTO meta SELECT 'days_since', CAST(coalesce(max(id), 0) AS TEXT) FROM attempts;
DROP TABLE balances;
CREATE TABLE balances (
  budget_id INTEGER NOT NULL, window_us INTEGER NOT NULL, end_us INTEGER NOT NULL, spent INTEGER NOT NULL,
  held INTEGER NOT NULL, PRIMARY KEY (budget_id, window_us, end_us)
) STRICT, WITHOUT ROWID;
"""

# Who changed what; and `like_id` names the default budget (`acme/*`) that a child's own row is made after.
_M6_WHO = """
ALTER TABLE budget_changes ADD COLUMN who TEXT;
ALTER TABLE ceiling_changes ADD COLUMN who TEXT;
ALTER TABLE budgets ADD COLUMN like_id INTEGER;
"""

# A call writes few rows: a charge's lines and what an admission saw stand in the journal's own row. `saw` is
# [terms, spent, held, …]: for each budget the row of `terms` and the balance; `lines` is [component, modality,
# quantity, nanos, …]; `is_first`: the task was not charged before. `terms` says once what many admissions saw. Roll-ups
# are derived, and follow the journal at some distance: `rolled` of `meta` names the last entry that is in them.
# `leaves` names what is added up: `rollups` by day of the ledger's zone, `slots` by quarters of an hour for the days of
# any other zone (no zone's days begin elsewhere), `tagged` by day and tags, `estimates` what was estimated and billed;
# `priced` is what was charged where our own price for it is known, `computed` that price. `refusals` counts what was
# kept out, `moves` says what projects are called now. `fired` keeps every alert, also where `alerts` is armed again;
# `imports` how far each import has come: `clean`, if no line of the file up to `bytes` was left out, so that it may go
# on from there. A task is looked for by a hash of its name (`crc32`): an index of
# whole names would be a tenth of the file. `key` is an admission's own name, by which it is found should the answer to
# it be lost. `aliases` are what providers call their responses to tasks. `leases` are taken where many hosts write,
# never here: see `accounting.leasing`. `tokens` keeps hashes of those that a proxy's clients call with.
_LINES = """SELECT '[' || group_concat(json_quote(component) || ',' || json_quote(modality) || ','
  || coalesce(quantity, 'null') || ',' || nanos) || ']'
  FROM (SELECT * FROM lines WHERE charge_seq = o.seq ORDER BY n)"""
_SAW = """SELECT '[' || group_concat(t.id || ',' || h.spent || ',' || h.held) || ']' FROM holds h JOIN terms t
  ON t.project = h.project AND t.per = h.per AND t.window_us = h.window_us AND t.window_end_us IS h.window_end_us
  AND t.limit_nanos = h.limit_nanos AND t.hard = h.hard WHERE h.attempt_id = o.attempt_id"""
_SUMS = """lead_tasks INTEGER NOT NULL, tasks INTEGER NOT NULL, results INTEGER NOT NULL,
  quantity INTEGER NOT NULL, nanos INTEGER NOT NULL, reasoning INTEGER NOT NULL, priced INTEGER NOT NULL,
  computed INTEGER NOT NULL,"""
_M7_COMPACT = f"""
CREATE TABLE terms (
  id INTEGER PRIMARY KEY, project TEXT NOT NULL, per TEXT NOT NULL, window_us INTEGER NOT NULL, window_end_us INTEGER,
  limit_nanos INTEGER NOT NULL, hard INTEGER NOT NULL
) STRICT;
INSERT INTO terms (project, per, window_us, window_end_us, limit_nanos, hard)
  SELECT DISTINCT project, per, window_us, window_end_us, limit_nanos, hard FROM holds;
CREATE INDEX terms_by_budget ON terms (project, per, window_us);
DROP VIEW charges;
ALTER TABLE entries RENAME TO old_entries;
CREATE TABLE entries (
  seq INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, attempt_id INTEGER NOT NULL, kind TEXT NOT NULL,
  held INTEGER NOT NULL, spent INTEGER NOT NULL, saw TEXT, reason TEXT, basis TEXT, cost_nanos INTEGER,
  total_nanos INTEGER, computed_nanos INTEGER, price_id TEXT, prompt_tokens INTEGER,
  completion_tokens INTEGER, reasoning_tokens INTEGER, cached_tokens INTEGER, cache_reading TEXT,
  odd INTEGER, results INTEGER, notes TEXT, raw TEXT, result_key TEXT, direct INTEGER, replaces INTEGER,
  is_first INTEGER, lines TEXT
) STRICT;
INSERT INTO entries SELECT seq, at_us, attempt_id, kind, held, spent,
  CASE kind WHEN 'hold' THEN ({_SAW}) END, reason, basis, cost_nanos, total_nanos,
  coalesce(computed_nanos, (SELECT -x.computed_nanos FROM old_entries x WHERE x.seq = o.replaces)), price_id,
  prompt_tokens, completion_tokens,
  coalesce(reasoning_tokens, (SELECT -x.reasoning_tokens FROM old_entries x WHERE x.seq = o.replaces)),
  cached_tokens, cache_reading, odd, results, notes, raw,
  result_key, direct, replaces, NULL, CASE kind WHEN 'charge' THEN ({_LINES}) END FROM old_entries o;
DROP TABLE old_entries;
DROP TABLE holds;
DROP TABLE lines;
DROP TABLE rollups;
CREATE INDEX entries_by_attempt ON entries (attempt_id) WHERE kind <> 'hold';
CREATE VIEW charges AS SELECT seq, attempt_id, at_us, spent AS nanos, basis, cost_nanos, total_nanos,
  computed_nanos, price_id, prompt_tokens, completion_tokens, reasoning_tokens, cached_tokens, cache_reading,
  odd, results, notes, raw, reason, result_key, direct, replaces, is_first, lines
  FROM entries WHERE kind <> 'hold' AND kind = 'charge';
DROP INDEX attempts_by_task;
ALTER TABLE attempts ADD COLUMN key TEXT;
ALTER TABLE attempts ADD COLUMN lease_id INTEGER;
ALTER TABLE attempts ADD COLUMN name_hash INTEGER;
UPDATE attempts SET name_hash = crc32(task_uuid);
CREATE INDEX attempts_by_name ON attempts (name_hash);
INSERT INTO meta VALUES ('rolled', '0');
CREATE TABLE leaves (
  id INTEGER PRIMARY KEY, project TEXT NOT NULL, model TEXT NOT NULL, task_type TEXT NOT NULL,
  component TEXT NOT NULL, modality TEXT NOT NULL, basis TEXT NOT NULL,
  UNIQUE (project, model, task_type, component, modality, basis)
) STRICT;
CREATE TABLE rollups (day TEXT NOT NULL, leaf_id INTEGER NOT NULL, {_SUMS} PRIMARY KEY (day, leaf_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE slots (slot INTEGER NOT NULL, leaf_id INTEGER NOT NULL, {_SUMS} PRIMARY KEY (slot, leaf_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE tagsets (id INTEGER PRIMARY KEY, tags TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE tagged (
  day TEXT NOT NULL, tags_id INTEGER NOT NULL, leaf_id INTEGER NOT NULL, {_SUMS} PRIMARY KEY (day, tags_id, leaf_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE estimates (
  day TEXT NOT NULL, project TEXT NOT NULL, model TEXT NOT NULL, what TEXT NOT NULL, attempts INTEGER NOT NULL,
  expected INTEGER NOT NULL, upper INTEGER NOT NULL, billed INTEGER NOT NULL, over INTEGER NOT NULL,
  PRIMARY KEY (day, project, model, what)
) STRICT, WITHOUT ROWID;
CREATE TABLE refusals (
  day TEXT NOT NULL, project TEXT NOT NULL, model TEXT NOT NULL, task_type TEXT NOT NULL, budget TEXT NOT NULL,
  per TEXT NOT NULL, reason TEXT NOT NULL, tasks INTEGER NOT NULL, expected INTEGER NOT NULL, upper INTEGER NOT NULL,
  unpriced INTEGER NOT NULL,
  PRIMARY KEY (day, project, model, task_type, budget, per, reason)
) STRICT, WITHOUT ROWID;
CREATE TABLE moves (
  id INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, project TEXT NOT NULL, name TEXT NOT NULL, who TEXT NOT NULL
) STRICT;
CREATE TABLE fired (
  id INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, project TEXT NOT NULL, per TEXT NOT NULL, window_us INTEGER NOT NULL,
  threshold TEXT NOT NULL, limit_nanos INTEGER, spent INTEGER
) STRICT;
INSERT INTO fired (at_us, project, per, window_us, threshold) SELECT a.at_us, b.project, b.per, a.window_us, a.threshold
  FROM alerts a JOIN budgets b ON b.id = a.budget_id ORDER BY a.at_us, a.budget_id, a.window_us, a.threshold;
CREATE TABLE imports (
  id INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, who TEXT NOT NULL, file TEXT NOT NULL, project TEXT NOT NULL,
  tags TEXT NOT NULL, terms TEXT NOT NULL, bytes INTEGER NOT NULL, number INTEGER NOT NULL, digest TEXT NOT NULL,
  clean INTEGER NOT NULL, lines INTEGER NOT NULL, bad INTEGER NOT NULL, tasks INTEGER NOT NULL,
  results INTEGER NOT NULL, nanos INTEGER NOT NULL
) STRICT;
CREATE TABLE leases (
  id INTEGER PRIMARY KEY, project TEXT NOT NULL, at_us INTEGER NOT NULL, until_us INTEGER NOT NULL,
  stamp INTEGER NOT NULL, slice INTEGER NOT NULL, rest INTEGER NOT NULL, held INTEGER NOT NULL, spent INTEGER NOT NULL,
  is_open INTEGER NOT NULL
) STRICT;
CREATE INDEX leases_open ON leases (id) WHERE is_open = 1;
CREATE INDEX entries_by_hand ON entries (at_us) WHERE basis = 'correction';
CREATE TABLE aliases (name TEXT NOT NULL, task_uuid TEXT NOT NULL, PRIMARY KEY (name, task_uuid)) STRICT, WITHOUT ROWID;
CREATE TABLE tokens (
  token_id TEXT PRIMARY KEY, project TEXT NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, at_us INTEGER NOT NULL,
  who TEXT NOT NULL, revoked_us INTEGER, revoked_by TEXT
) STRICT, WITHOUT ROWID;
"""

MIGRATIONS: tuple[tuple[str, str], ...] = (
    ("m001_spine", _M1_SPINE),
    ("m002_media", _M2_MEDIA),
    ("m003_spelling", _M3_SPELLING),
    ("m004_unknown", _M4_UNKNOWN),
    ("m005_cuts", _M5_CUTS),
    ("m006_who", _M6_WHO),
    ("m007_compact", _M7_COMPACT),
)
VERSION = len(MIGRATIONS)
"""The schema number this costguard writes (SQLite's `user_version`)."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file behind `connection` to `VERSION`, each step in a transaction of its own.

    The caller holds the writer's lock. Safe to call again after a crash at any point. Called only where there is
    something to do: importing `sqlite-utils` takes several times as long as opening a ledger.
    """
    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations

    connection.create_function("crc32", 1, lambda text: crc32(text.encode()), deterministic=True)
    # First of all, so that a file whose first migration died half-way is still known as ours.
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    steps = Migrations("costguard")
    for number, (name, script) in enumerate(MIGRATIONS, start=1):
        steps(name=name)(_Step(number, script))
    steps.apply(Database(connection))


class _Step:
    """One migration: its statements, then the triggers of append-only tables it created."""

    def __init__(self, number: int, script: str) -> None:
        self.__name__ = f"m{number:03d}"
        self._number = number
        self._script = script

    def __call__(self, db: object, /) -> None:
        """Run inside the transaction that `sqlite-utils` opened."""
        execute = db.conn.execute  # type: ignore[attr-defined]
        for statement in self._script.split(";"):
            if statement.strip():
                execute(statement)
        for table in APPEND_ONLY:
            if f"CREATE TABLE {table} " in self._script:
                for verb in ("UPDATE", "DELETE"):
                    execute(
                        f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                        f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                    )
        execute(f"PRAGMA user_version = {self._number}")
