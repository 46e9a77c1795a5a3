"""What a block of code is booked on: scopes, local to a thread or asyncio task."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextvars import ContextVar, Token

from costguard.errors import ConfigurationError
from costguard.projects import parse_project, parse_tags


class Scope:
    """What a block states, merged with the scope it is in."""

    __slots__ = ("is_left", "outer", "project", "tags")

    def __init__(self, project: str | None, tags: Mapping[str, str], outer: Scope | None) -> None:
        self.project = project
        self.tags = tags
        self.outer = outer
        self.is_left = False
        """It was left where it could not be taken away; whoever finds it is in the next one that was not."""


_NO_SCOPE = Scope(None, {}, None)


class Scopes:
    """The scopes of one guard."""

    def __init__(self) -> None:
        self._scope: ContextVar[Scope | None] = ContextVar("costguard_scope", default=None)
        self._outermost = _NO_SCOPE

    def give_all(self, tags: Mapping[str, str]) -> None:
        """Let every call have `tags`, in whatever thread or task it is made."""
        self._outermost = Scope(None, parse_tags(tags), None)

    def current(self) -> Scope:
        """The innermost scope of this context that was not left."""
        scope = self._scope.get() or self._outermost
        while scope.is_left and scope.outer is not None:
            scope = scope.outer
        return scope

    def enter(self, project: str | None, tags: Mapping[str, str]) -> tuple[Scope, Token[Scope | None]]:
        """A scope within the current one; what `leave` takes."""
        outer = self.current()
        merged = parse_tags({**outer.tags, **tags}) if tags else outer.tags
        inner = Scope(outer.project if project is None else project, merged, outer)
        return inner, self._scope.set(inner)

    def leave(self, inner: Scope, token: Token[Scope | None]) -> None:
        """Take `inner` away. A task begun within it keeps it; but where it cannot be taken away, it is marked."""
        innermost = self._scope.get()
        try:
            self._scope.reset(token)
        except ValueError:  # this is another context than the one it was entered in
            inner.is_left = True
            return
        if innermost is not inner:  # one that was entered later is still on
            inner.is_left = True
            self._scope.set(innermost)


class Block(contextlib.ContextDecorator):
    """What `Guard.scope` gives: for one `with`, or to decorate a function, each call of which is a block.

    ConfigurationError for a bad project or tag at once, and for a second `with` of the same one.
    """

    def __init__(self, scopes: Scopes, project: str | None, tags: Mapping[str, str] | None) -> None:
        self._scopes = scopes
        self._project = None if project is None else parse_project(project)
        self._tags = {} if tags is None else parse_tags(tags)
        self._is_used = False
        self._entered: tuple[Scope, Token[Scope | None]] | None = None

    def _recreate_cm(self) -> Block:
        """What contextlib enters for each call of a decorated function."""
        return Block(self._scopes, self._project, self._tags)

    def __enter__(self) -> None:
        if self._is_used:
            raise ConfigurationError(
                "this scope was entered before, and one is for one block: call guard.scope(…) for each `with`"
            )
        self._entered = self._scopes.enter(self._project, self._tags)
        self._is_used = True

    def __exit__(self, *_: object) -> None:
        entered, self._entered = self._entered, None
        if entered is not None:
            self._scopes.leave(*entered)
