"""The client that a command asks the provider with, made from what the environment says of proxies and certificates."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from costguard.errors import ConfigurationError

if TYPE_CHECKING:
    import httpx

_SETTINGS = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
"""Environment variables that httpx and ssl read, proxies in lower case, too."""


@contextmanager
def provider_client(url: str, headers: Mapping[str, str], timeout_s: float) -> Iterator[httpx.Client]:
    """An httpx client for `url`; ConfigurationError, naming the setting, if none can be made here."""
    import httpx

    try:
        client = httpx.Client(base_url=url, headers=headers, timeout=timeout_s)
    # ValueError: a proxy's scheme; ImportError: SOCKS without its package; OSError: certificates, the log of keys
    except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise ConfigurationError(f"no request can be made: {why}; {_culprits()}") from error
    with client:
        yield client


def _culprits() -> str:
    """The settings that are in force, by name: values of proxies may hold passwords."""
    names = [name for each in _SETTINGS for name in (each, each.lower()) if os.environ.get(name)]
    if not names:
        return "look at the address and the certificates of this machine"
    return f"the environment sets {', '.join(names)}: mend what is wrong there, or unset it"
