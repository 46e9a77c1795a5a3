"""Projects as a tree with sums: what each was charged by itself, and with all that lies below it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from costguard.ledger.records import UsageRow
from costguard.projects import ROOT


@dataclass(slots=True)
class Node:
    """A project: `nanos`, `tasks`, `tokens` and `before` with all below it, `own` by itself; money in nano-USD."""

    project: str
    depth: int
    nanos: int = 0
    own: int = 0
    tasks: int = 0
    own_tasks: int = 0
    tokens: int = 0
    own_tokens: int = 0
    before: int = 0
    own_before: int = 0
    below: dict[str, Node] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last segment of its path."""
        return self.project.rpartition("/")[2] or ROOT

    @property
    def has_own(self) -> bool:
        """Whether anything is booked on it beside what lies below it."""
        return bool(self.own or self.own_tasks or self.own_before)


def tree(rows: Iterable[UsageRow], before: Mapping[str, int], top: str | None = None) -> list[Node]:
    """The outermost projects, those below each in its `below`; with `top` that project alone.

    `rows` are by project, `before` what each was charged in the period before.
    """
    root = Node(ROOT, 0)
    for row in rows:
        for node in _path(root, row.keys[0], top):
            node.nanos += row.nanos
            node.tasks += row.tasks
            node.tokens += row.tokens
        node.own += row.nanos
        node.own_tasks += row.tasks
        node.own_tokens += row.tokens
    for project, nanos in before.items():
        for node in _path(root, project, top):
            node.before += nanos
        node.own_before += nanos
    outermost = list(root.below.values())
    if root.has_own:  # booked on the root itself
        outermost.append(
            Node(
                ROOT, 1, root.own, root.own, root.own_tasks, root.own_tasks, root.own_tokens, root.own_tokens,
                root.own_before, root.own_before,
            )
        )  # fmt: skip
    return ordered(outermost)


def ordered(nodes: Iterable[Node]) -> list[Node]:
    """The most expensive first."""
    return sorted(nodes, key=lambda node: (-node.nanos, node.project))


def _path(root: Node, project: str, top: str | None) -> list[Node]:
    """The nodes from the root to a project, made if need be."""
    segments = [] if project == ROOT else project.split("/")
    skipped = 0 if top is None or top == ROOT else top.count("/")
    found, node = [root], root
    for count in range(skipped + 1, len(segments) + 1):
        path = "/".join(segments[:count])
        node = node.below.setdefault(path, Node(path, count - skipped))
        found.append(node)
    return found
