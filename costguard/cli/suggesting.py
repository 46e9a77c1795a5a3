"""What a misspelt name was probably meant to be."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from costguard.projects import is_default

NEAR = 0.7
"""How alike two names must be, from 0 to 1, as difflib counts it."""


def did_you_mean(text: str, known: Iterable[str]) -> str:
    """`; did you mean 'acme/search'?` with up to three of `known` that look like `text`, or nothing."""
    import difflib

    spellings: dict[str, list[str]] = {}
    for name in dict.fromkeys(known):
        spellings.setdefault(name.casefold(), []).append(name)
    near = difflib.get_close_matches(text.casefold(), spellings, n=3, cutoff=NEAR)
    names = [name for spelling in near for name in spellings[spelling] if name != text][:3]
    return f"; did you mean {' or '.join(map(repr, names))}?" if names else ""


def near_project(project: str, known: Collection[str]) -> str:
    """As `did_you_mean`, for a path that is none of `known`: "" if it is one.

    Paths are near where the parts that differ are, not for what they lie under; a default is near defaults only,
    and names that differ in their digits only are different names.
    """
    if project in known:
        return ""
    like_it = [name for name in known if is_default(name) == is_default(project) and _is_near(project, name)]
    return did_you_mean(project, like_it)


def _is_near(project: str, known: str) -> bool:
    import difflib

    parts, others = project.casefold().split("/"), known.casefold().split("/")
    while parts and others and parts[0] == others[0]:
        parts, others = parts[1:], others[1:]
    own, other = "/".join(parts), "/".join(others)
    if not own and not other:
        return True
    if re.sub(r"\d+", "0", own) == re.sub(r"\d+", "0", other):
        return False
    return difflib.SequenceMatcher(None, own, other).ratio() >= NEAR
