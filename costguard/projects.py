"""Project paths such as `acme/search/prod`, and the tags of a call. Pure text: no ledger, no I/O."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from functools import lru_cache
from reprlib import repr as short

from costguard.errors import ConfigurationError

ROOT = "/"
"""The path that covers every project."""

CHILDREN = "*"
"""The last segment of a default budget: `acme/*` is a budget like it on each direct child of acme."""

DEFAULT_PROJECT = "default"
"""The project of a call that names none."""

SEGMENTS_MAX = 8
PROJECT_CHARS_MAX = 200
TAGS_MAX = 20
TAG_KEY_CHARS_MAX = 64
TAG_VALUE_CHARS_MAX = 200


def parse_project(text: object, what: str = "project") -> str:
    """Read a project path and return it in its only spelling; `/` is the root.

    A path has 1 to 8 segments joined by `/` and at most 200 characters, is case-sensitive, and is kept in
    Unicode's composed form (NFC). A slash at either end, a segment that is empty, `.`, `..`, `*` or has blanks
    at its ends, and control, format, surrogate and line-breaking characters raise ConfigurationError naming
    `what`.
    """
    if not isinstance(text, str):
        raise ConfigurationError(
            f"{what}: expected a path as text, such as 'acme/search', found {type(text).__name__} {short(text)}"
        )
    return _parse_path(text, what)


def parse_budget_project(text: object, what: str = "project") -> str:
    """As `parse_project`, and also `acme/*`, which is each direct child of acme, and `/*`, each top-level project."""
    if not isinstance(text, str) or not is_default(text):
        return parse_project(text, what)
    if text == f"/{CHILDREN}":
        return text
    parent = text[:-2]
    # The name of a child is checked in the star's place: it can be too long, or too deep.
    return f"{parse_project(f'{parent}/x', what)[:-2]}/{CHILDREN}"


def is_default(project: str) -> bool:
    """True for the name of a default budget, such as `acme/*`."""
    return project.endswith(f"/{CHILDREN}")


def parent_of(default: str) -> str:
    """Whose children a default budget is for: `acme/*` gives `acme`, `/*` the root."""
    return default[:-2] or ROOT


def child_of(parent: str, project: str) -> str:
    """The direct child of `parent` that `project` is or lies under; `project` lies under `parent`."""
    depth = 0 if parent == ROOT else parent.count("/") + 1
    return "/".join(project.split("/")[: depth + 1])


def like(project: str) -> str | None:
    """The name of the default that would cover `project`: `acme/*` for `acme/a`; None for the root and for defaults."""
    return None if project == ROOT or is_default(project) else f"{project.rpartition('/')[0]}/{CHILDREN}"


@lru_cache(maxsize=1024)
def _parse_path(text: str, what: str) -> str:
    text = unicodedata.normalize("NFC", text)
    if text == ROOT:
        return ROOT
    if not text:
        raise ConfigurationError(f"{what}: the path is empty; name a project such as 'acme/search', or '/' for all")
    if len(text) > PROJECT_CHARS_MAX:
        raise ConfigurationError(
            f"{what}: {short(text)} has {len(text)} characters; shorten it to at most {PROJECT_CHARS_MAX}"
        )
    check_name(text, what)
    if text.startswith("/") or text.endswith("/"):
        bare = text.strip("/") or "acme"
        raise ConfigurationError(
            f"{what}: {text!r} begins or ends with a slash; write {bare!r}, or '/' alone for the root"
        )
    segments = text.split("/")
    if len(segments) > SEGMENTS_MAX:
        raise ConfigurationError(f"{what}: {text!r} has {len(segments)} segments; use at most {SEGMENTS_MAX}")
    for segment in segments:
        if not segment:
            raise ConfigurationError(f"{what}: {text!r} has an empty segment; write one slash between names")
        if segment in (".", ".."):
            raise ConfigurationError(
                f"{what}: {text!r} has the segment {segment!r}; write the full path of the project"
            )
        if segment == CHILDREN:
            raise ConfigurationError(
                f"{what}: {text!r} has the segment '*', which stands for all children where a budget is set;"
                " name the project"
            )
        if segment != segment.strip():
            raise ConfigurationError(
                f"{what}: {text!r} has blanks at an end of the segment {segment!r}; write {segment.strip()!r}"
            )
    # Joining again turns a subclass of str (an enum member, say) into plain text.
    return "/".join(segments)


def check_name(text: str, what: str) -> None:
    """Refuse control, format, surrogate and line-breaking characters with a ConfigurationError naming `what`."""
    bad = _find_character(text, ("Cc", "Cf", "Cs", "Zl", "Zp"))
    if bad is not None:
        raise ConfigurationError(f"{what}: {short(text)} contains {bad}; remove it")


@lru_cache(maxsize=1024)
def ancestors(project: str) -> tuple[str, ...]:
    """Every path whose budgets cover the canonical path `project`: itself first, the root last.

    `acme/search` gives `("acme/search", "acme", "/")`; the root gives `("/",)`.
    """
    if project == ROOT:
        return (ROOT,)
    segments = project.split("/")
    return (*("/".join(segments[:count]) for count in range(len(segments), 0, -1)), ROOT)


def covers(ancestor: str, project: str) -> bool:
    """Whether `project` is `ancestor` or lies under it; both are canonical paths."""
    return ancestor in (ROOT, project) or project.startswith(ancestor + "/")


def parse_tags(tags: object) -> dict[str, str]:
    """Read the tags of a call: a mapping of text to text, returned as a new dict in the given order.

    At most 20 tags, keys of 1 to 64 and values of at most 200 characters, kept in NFC, without control,
    surrogate or line-breaking characters; anything else raises ConfigurationError naming the tag (never its value).
    """
    if not isinstance(tags, Mapping):
        raise ConfigurationError(f"tags: expected a mapping such as {{'team': 'search'}}, found {type(tags).__name__}")
    if len(tags) > TAGS_MAX:
        raise ConfigurationError(f"tags: found {len(tags)} tags; keep at most {TAGS_MAX}")
    parsed: dict[str, str] = {}
    for key, value in tags.items():
        if not isinstance(key, str):
            raise ConfigurationError(f"tags: expected keys as text, found {type(key).__name__} {short(key)}")
        if not key:
            raise ConfigurationError("tags: found an empty key; give the tag a name")
        if not isinstance(value, str):
            raise ConfigurationError(f"tags: expected text as the value of {short(key)}, found {type(value).__name__}")
        name, said = unicodedata.normalize("NFC", key), unicodedata.normalize("NFC", value)
        _check_tag(name, TAG_KEY_CHARS_MAX, "the key", name)
        _check_tag(said, TAG_VALUE_CHARS_MAX, "the value of", name)
        parsed[name] = said
    return parsed


def _check_tag(part: str, chars_max: int, role: str, key: str) -> None:
    if len(part) > chars_max:
        raise ConfigurationError(
            f"tags: {role} {short(key)} has {len(part)} characters; shorten it to at most {chars_max}"
        )
    bad = _find_character(part, ("Cc", "Cs", "Zl", "Zp"))
    if bad is not None:
        raise ConfigurationError(f"tags: {role} {short(key)} contains {bad}; remove it")


def _find_character(text: str, categories: tuple[str, ...]) -> str | None:
    """The first character of one of the Unicode `categories`, as `U+000A`, or None."""
    if text.isprintable():  # quick: printable text has none of these
        return None
    for character in text:
        if unicodedata.category(character) in categories:
            return f"the {_KINDS[unicodedata.category(character)]} U+{ord(character):04X}"
    return None


_KINDS = {
    "Cc": "control character",
    "Cf": "format character",
    "Cs": "surrogate character",
    "Zl": "line separator",
    "Zp": "paragraph separator",
}
