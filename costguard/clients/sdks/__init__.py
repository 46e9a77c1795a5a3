"""What OpenAI's and Anthropic's SDKs have in common, which the same generator writes.

A client stands on an httpx or httpx2 client, whose transports are guarded, and everything that it sends goes through
its public method `request`. That retries and wraps what the transport raises, so it is entered by `carrying`. The class
of a client stays as it is: the SDKs compare it.
"""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from costguard.clients import httpx
from costguard.clients.carrying import acalling, calling
from costguard.clients.guarding import Guarding
from costguard.errors import ConfigurationError

C = TypeVar("C")

_GUARD = "_costguard"
"""Attribute of a wrapped client: its guard, and a sign that its methods were replaced."""
_COPIES = ("copy", "with_options")


class Sdk(NamedTuple):
    """One library: its module, the client classes by name, and the major versions that are known."""

    module: ModuleType
    sync: str
    asynchronous: str
    majors: tuple[str, ...]

    @property
    def title(self) -> str:
        """Its name and version."""
        return f"{self.module.__name__} {vars(self.module).get('__version__', 'without a version')}"


def wrap(guard: Guarding, client: C, sdk: Sdk) -> C:
    """Put `guard` into a client of `sdk`, in place, and into the copies that it makes.

    TypeError for another client, ConfigurationError for a version of the SDK that is not known.
    """
    base = _base(client, sdk)
    _check(client, base, sdk)
    inner: Any = client
    httpx.wrap(guard, inner._client)
    if not hasattr(client, _GUARD):
        _enter(inner, is_async=base.__name__ == sdk.asynchronous)
        for name in _COPIES:
            _follow(inner, name, sdk)
    setattr(client, _GUARD, guard)
    return client


def _base(client: object, sdk: Sdk) -> Any:
    """Which of the two classes of `sdk` a client is of."""
    for name in (sdk.sync, sdk.asynchronous):
        base: Any = vars(sdk.module)[name]
        if isinstance(client, base):
            return base
    name = sdk.module.__name__
    raise TypeError(
        f"guard.wrap takes {name}.{sdk.sync} or {name}.{sdk.asynchronous}, or a subclass of one,"
        f" got {type(client).__module__}.{type(client).__name__}"
    )


def _check(client: object, base: Any, sdk: Sdk) -> None:
    """ConfigurationError unless a client is built as costguard knows it."""
    version = str(vars(sdk.module).get("__version__"))
    if version.partition(".")[0] not in sdk.majors:
        known = " and ".join(sdk.majors)
        raise ConfigurationError(
            f"{sdk.title} is a version that costguard does not know: it guards {sdk.module.__name__} {known}"
        )
    kind = type(client)
    if not httpx.is_client(getattr(client, "_client", None)):
        raise _changed(sdk, f"{kind.__name__}._client is no client of httpx or httpx2")
    for name in ("request", "post", *_COPIES):
        if not callable(getattr(client, name, None)):
            raise _changed(sdk, f"{kind.__name__}.{name} is not there")
    code = getattr(inspect.unwrap(base.post), "__code__", None)
    if code is not None and "request" not in code.co_names:
        raise _changed(sdk, f"{base.__name__}.post does not go through {base.__name__}.request")


def _changed(sdk: Sdk, found: str) -> ConfigurationError:
    return ConfigurationError(
        f"{sdk.title} is not built as costguard knows it: {found}; install a version that it was tested with"
    )


def _enter(client: Any, *, is_async: bool) -> None:
    own = client.request

    def owns(transport: object) -> bool:
        return httpx.is_of(client._client, transport)

    def request(*args: Any, **kwargs: Any) -> Any:
        return calling(owns, own, *args, **kwargs)

    async def arequest(*args: Any, **kwargs: Any) -> Any:
        return await acalling(owns, own, *args, **kwargs)

    client.request = arequest if is_async else request


def _follow(client: Any, name: str, sdk: Sdk) -> None:
    own = getattr(client, name)

    def copied(*args: Any, **kwargs: Any) -> Any:
        return wrap(getattr(client, _GUARD), own(*args, **kwargs), sdk)

    setattr(client, name, copied)
