"""How far a ledger was verified, and the sums that stood then: from here another run goes on."""

from __future__ import annotations

import copy
import functools
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from costguard.errors import ConfigurationError
from costguard.ledger.accounting.rolling import Gathered, Leaf, Sums
from costguard.ledger.engine import Tx

FORMAT = 2
"""Of a checkpoint's text."""

_PRIME = 2**61 - 1

WindowKey = tuple[str, str, int, int | None]
"""Project and period of a budget, start and end of its window."""

_LEAF = (
    "l.project, l.model, l.task_type, l.component, l.modality, l.basis, r.lead_tasks, r.tasks, r.results, r.quantity,"
    " r.nanos, r.reasoning, r.priced, r.computed"
)
_ROWS = {
    "rollups": (1 + len(Leaf._fields), f"SELECT r.day, {_LEAF} FROM rollups r JOIN leaves l ON l.id = r.leaf_id"),
    "slots": (1 + len(Leaf._fields), f"SELECT r.slot, {_LEAF} FROM slots r JOIN leaves l ON l.id = r.leaf_id"),
    "tagged": (
        2 + len(Leaf._fields),
        f"SELECT r.day, t.tags, {_LEAF} FROM tagged r JOIN leaves l ON l.id = r.leaf_id"
        " JOIN tagsets t ON t.id = r.tags_id",
    ),
    "estimates": (4, "SELECT day, project, model, what, attempts, expected, upper, billed, over FROM estimates"),
}
"""How many columns a row's key has, and the rows of keys and sums."""


def summed(found: Gathered) -> dict[str, Iterable[tuple[tuple[Any, ...], Sums]]]:
    """What was gathered, by table: keys and sums as its rows have them."""
    return {
        "rollups": [((day, *leaf), sums) for (day, leaf), sums in found.days.items()],
        "slots": [((slot, *leaf), sums) for (slot, leaf), sums in found.slots.items()],
        "tagged": [((day, tags, *leaf), sums) for (day, tags, leaf), sums in found.tagged.items()],
        "estimates": found.estimates.items(),
    }


class Digest:
    """The sums of all roll-ups in a few numbers: each row's sums times numbers that its key stands for, added up.

    Two ledgers' are equal if their roll-ups are, and else with a chance of one in 2^61; they can be added to.
    """

    def __init__(self, values: Iterable[int] = (0,) * len(_ROWS)) -> None:
        self.values = list(values)
        self.rows = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Digest) and self.values == other.values

    __hash__ = None  # type: ignore[assignment]

    def gathered(self, found: Gathered) -> None:
        """Add some entries' sums."""
        for n, rows in enumerate(summed(found).values()):
            for key, sums in rows:
                self._add(n, key, sums)

    def tables(self, tx: Tx) -> None:
        """Add what the roll-ups' tables hold."""
        for n, table in enumerate(_ROWS):
            for key, sums in self.rows_of(tx, table):
                self._add(n, key, sums)
                self.rows += 1

    @staticmethod
    def rows_of(tx: Tx, table: str) -> Iterator[tuple[tuple[Any, ...], list[int]]]:
        """The rows of one of the tables: key and sums."""
        columns, sql = _ROWS[table]
        for row in tx.each(sql):
            yield tuple(row[:columns]), list(row[columns:])

    def _add(self, table: int, key: tuple[Any, ...], sums: Iterable[int]) -> None:
        weights = _weights(key)
        added = sum([weight * value for weight, value in zip(weights, sums, strict=False)])
        self.values[table] = (self.values[table] + added) % _PRIME


@functools.lru_cache(maxsize=100_000)
def _weights(key: tuple[Any, ...]) -> tuple[int, ...]:
    told = blake2b(json.dumps(key).encode(), digest_size=64).digest()
    return tuple(int.from_bytes(told[at : at + 8], "big") % _PRIME for at in range(0, 64, 8))


class Slice(NamedTuple):
    """A lease that is open: its size, and what of it is held and spent, in nano-USD; its project and time."""

    size: int
    held: int
    spent: int
    project: str
    at_us: int
    task_max: int | None = None
    """What a task admitted under it may cost at most, if a hard budget limits it."""


@dataclass
class Checkpoint:
    """The journal up to entry `seq` was verified; `mark` stands for that entry, so that another history is noticed.

    `windows`: what the journal had come to by then; `holds`: how many attempts it held for, the last of them `attempt`.
    """

    seq: int = 0
    mark: str = ""
    holds: int = 0
    attempt: int = 0
    windows: dict[WindowKey, list[int]] = field(default_factory=dict)
    digest: Digest = field(default_factory=Digest)
    checked: dict[str, int] = field(default_factory=dict)
    has_begun: bool = False
    """This run has looked at what each run looks at first."""
    since: int = 0
    """The last attempt that an earlier run had seen: what became of it since is looked at again."""

    leases: dict[int, Slice] = field(default_factory=dict)
    """Those that are open."""

    def count(self, name: str, rows: int = 1) -> None:
        """So many more rows were looked at."""
        self.checked[name] = self.checked.get(name, 0) + rows

    def copy(self) -> Checkpoint:
        """Another one that stands where this one does."""
        return copy.deepcopy(self)

    def go_on(self, tx: Tx, seq: int) -> None:
        """All up to `seq` was verified."""
        self.seq, self.mark = seq, _mark(tx, seq)

    def check_mark(self, tx: Tx) -> None:
        """ConfigurationError if `tx` is not of the ledger, or of the history, that was verified before."""
        if self.seq and _mark(tx, self.seq) != self.mark:
            raise ConfigurationError(
                "the checkpoint is of another ledger, or of a state that this one never was in: verify it from its"
                " beginning, with another file"
            )

    @classmethod
    def load(cls, file: Path) -> Checkpoint:
        """The one that `file` keeps, a fresh one if it is not there; ConfigurationError for a file of another kind."""
        try:
            return cls.from_json(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return cls()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{file} cannot be read as a checkpoint: {error}") from error
        except ConfigurationError as error:
            raise ConfigurationError(f"{file}: {error}") from None

    def save(self, file: Path) -> None:
        """Keep it in `file`, whole or not at all, for its owner's eyes."""
        draft = file.with_name(f"{file.name}.{os.getpid()}")
        try:
            with os.fdopen(os.open(draft, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
                out.write(self.to_json())
            draft.replace(file)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise ConfigurationError(f"{file} cannot be written: {error.strerror}; name another file") from error

    def to_json(self) -> str:
        """The whole as text."""
        windows = [[*key, *sums] for key, sums in self.windows.items()]
        return json.dumps(
            {
                "format": FORMAT, "seq": self.seq, "mark": self.mark, "holds": self.holds, "attempt": self.attempt,
                "digest": self.digest.values, "windows": windows,
                "leases": [[lease_id, *lease] for lease_id, lease in self.leases.items()],
            }
        )  # fmt: skip

    @classmethod
    def from_json(cls, text: str) -> Checkpoint:
        """A checkpoint from its text; ConfigurationError if it is none."""
        try:
            told = json.loads(text)
            if told["format"] != FORMAT:
                raise ValueError(told["format"])
            windows = {(w[0], w[1], w[2], w[3]): [int(w[4]), int(w[5])] for w in told["windows"]}
            seq, holds, attempt = int(told["seq"]), int(told["holds"]), int(told["attempt"])
            digest = Digest(map(int, told["digest"]))
            leases = {
                int(lease_id): Slice(int(size), int(held), int(spent), str(project), int(at_us), most and int(most))
                for lease_id, size, held, spent, project, at_us, most in told["leases"]
            }
            mark = str(told["mark"])
            return cls(seq, mark, holds, attempt, windows, digest, since=attempt, leases=leases)
        except (ValueError, LookupError, TypeError) as error:
            raise ConfigurationError("this is no checkpoint of a verification; name another file") from error


def _mark(tx: Tx, seq: int) -> str:
    row = tx.one("SELECT * FROM entries WHERE seq = ?", (seq,))
    return blake2b(json.dumps(row).encode(), digest_size=16).hexdigest()
