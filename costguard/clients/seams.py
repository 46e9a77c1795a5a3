"""Where a client library is entered for every client of a program: the places, and the guard that has them."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

from costguard.clients.guarding import Guarding
from costguard.errors import ConfigurationError

_MARK = "_costguard_seam"


def is_ours(method: object) -> bool:
    """Whether it is what was put into a seam, or says of itself that it stands around that."""
    return getattr(method, _MARK, None) is True


class Seat:
    """Where `install` puts the guard; whatever was put into a library asks here at each call."""

    def __init__(self) -> None:
        self.guard: Guarding | None = None


class Seam(NamedTuple):
    """A method that every client of a library comes through."""

    owner: Any
    """The class that has it."""
    name: str
    takes: tuple[str, ...]
    """Names of its first parameters, `self` left out: a method that takes others is another one."""
    around: Callable[[Any], Any] | None
    """Makes, of the method that is there, the one that asks for the guard; None for one that is only asked for."""

    def put(self) -> tuple[Any, Any]:
        """Put ours in: what was there, and what is there now."""
        original = vars(self.owner)[self.name]
        if self.around is None:
            return original, original
        ours = self.around(with_self(original))
        setattr(ours, _MARK, True)
        setattr(self.owner, self.name, ours)
        return original, ours


def check(library: ModuleType, seams: tuple[Seam, ...]) -> None:
    """ConfigurationError, which names it, for a seam that this version of `library` has not."""
    for seam in seams:
        method = vars(seam.owner).get(seam.name)
        if not callable(method) or not _takes(method, seam.takes):
            owner = f"{seam.owner.__module__}.{seam.owner.__qualname__}"
            raise unknown(library, f"{owner}.{seam.name}({', '.join(('self', *seam.takes))}, …)")


def class_of(library: ModuleType, name: str) -> Any:
    """The class `name` of `library`, dots and all; ConfigurationError, which names it, if there is none."""
    try:
        found = operator.attrgetter(name)(library)
    except AttributeError:
        found = None
    if not isinstance(found, type):
        raise unknown(library, f"{library.__name__}.{name}")
    return found


def unknown(library: ModuleType, what: str) -> ConfigurationError:
    """What is said of a version of `library` that has no `what`."""
    version = getattr(library, "__version__", "of an unknown version")
    return ConfigurationError(
        f"{library.__name__} {version} is not as costguard.install() knows it: it has no {what}; wrap clients one"
        f" by one (guard.wrap), or use a version of {library.__name__} that is known"
    )


def _takes(method: Callable[..., Any], names: tuple[str, ...]) -> bool:
    """Whether it can be called as we know it, by whatever names; True for what tells nothing of itself."""
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*((None, *names) if inspect.isfunction(method) else names))
    except TypeError:
        return False
    return True


def with_self(method: Callable[..., Any]) -> Callable[..., Any]:
    """A class's method to be called with its object first, also where it is a stand-in of a test that takes none."""
    if inspect.isfunction(method):
        return method

    @functools.wraps(method)
    def bound(self: Any, *args: Any, **kwargs: Any) -> Any:
        binds: Any = getattr(type(method), "__get__", None)
        return (method if binds is None else binds(method, self, type(self)))(*args, **kwargs)

    return bound
