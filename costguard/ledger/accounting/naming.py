"""What projects are called now: what was booked is never renamed, it is shown by another name."""

from __future__ import annotations

from collections.abc import Iterable

from costguard.ledger.accounting.rolling import beyond
from costguard.ledger.engine import Tx
from costguard.projects import ROOT, covers


class Names:
    """Present names of projects, by the moves (project, name) in the order that they were made."""

    def __init__(self, moves: Iterable[tuple[str, str]]) -> None:
        # The newest word on a project counts, in the order of these.
        newest: dict[str, str] = {}
        for project, name in moves:
            newest.pop(project, None)
            newest[project] = name
        self._moves = list(newest.items())
        self._known: dict[str, str] = {}

    @classmethod
    def read(cls, tx: Tx) -> Names:
        """As the ledger has them."""
        return cls(tx.all("SELECT project, name FROM moves ORDER BY id"))

    @property
    def has_moved(self) -> bool:
        """Whether anything goes by another name."""
        return bool(self._moves)

    def present(self, project: str) -> str:
        """What is shown for what was booked on `project`.

        The move of the nearest project that contains it; then those made later of where that has brought it, as a
        folder that is moved takes along what was moved into it.
        """
        if not self._moves:
            return project
        found = self._known.get(project)
        if found is None:
            found = self._known[project] = self._find(project)
        return found

    def _find(self, project: str) -> str:
        covering = [(len(booked), at) for at, (booked, _) in enumerate(self._moves) if covers(booked, project)]
        if not covering:
            return project
        _, nearest = max(covering)
        found = _moved(project, *self._moves[nearest])
        for booked, name in self._moves[nearest + 1 :]:
            if covers(booked, found):
                found = _moved(found, booked, name)
        return found


def meant(tx: Tx, names: Names, name: str) -> str:
    """The present name of the project that is meant by `name`: of the one that is shown under it now.

    Only if nothing is, neither itself nor anything below it, what was booked on that path is meant, and its present
    name is another.
    """
    if not names.has_moved or any(covers(name, names.present(project)) for project in booked(tx)):
        return name
    return names.present(name)


def booked(tx: Tx) -> set[str]:
    """All paths that something was booked on, is held or was refused for, or that a budget is of."""
    found = {leaf.project for _, leaf in beyond(tx).days}
    for sql in (
        "SELECT DISTINCT project FROM leaves",
        "SELECT DISTINCT project FROM refusals",
        "SELECT DISTINCT project FROM attempts WHERE status IN ('held', 'unresolved')",
        "SELECT project FROM budgets",
    ):
        found |= {project for (project,) in tx.each(sql)}
    return found


def _moved(project: str, booked: str, name: str) -> str:
    """`project`, which lies at or below `booked`, with `name` in its place."""
    rest = project.removeprefix(ROOT) if booked == ROOT else project[len(booked) + 1 :]
    if name == ROOT:
        return rest or ROOT
    return f"{name}/{rest}" if rest else name
