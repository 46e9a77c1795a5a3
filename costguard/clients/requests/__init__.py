"""requests: guarded adapters. What is known of its messages is in `messages`."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar, cast

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.exceptions import RetryError
from urllib3.exceptions import MaxRetryError
from urllib3.util import Retry

from costguard.clients.guarding import OPTIONS, Guarding, Hand, Handing, call_of, held, is_copy, second_guard
from costguard.clients.requests.messages import (
    RequestBody,
    address,
    another,
    buffered,
    header,
    is_never_connected,
    is_never_sent,
    passes,
    read_already,
)
from costguard.clients.requests.streams import Listening
from costguard.errors import ConfigurationError
from costguard.exchange.drivers import drive
from costguard.exchange.effects import Claim, Head, Listen, Question, Send
from costguard.exchange.flow import exchange

C = TypeVar("C")

_version: str = vars(requests)["__version__"]
if not _version.startswith("2."):
    raise ConfigurationError(f"requests {_version} is a version that costguard does not know: it guards requests 2")


def wrap(guard: Guarding, client: C) -> C:
    """Put `guard` around every adapter of a Session, in place, and around those that it is given later."""
    session: Any = client
    if not isinstance(session, requests.Session):
        raise TypeError(f"guard.wrap takes a requests.Session, got {type(client).__module__}.{type(client).__name__}")
    guarded = [(prefix, adapter(guard, inner)) for prefix, inner in session.adapters.items()]
    session.adapters = Adapters(guarded, guard)
    return client


def adapter(guard: Guarding, inner: Any = None) -> Any:
    """A guarded adapter around `inner`, or around a new `HTTPAdapter`."""
    if inner is None:
        inner = HTTPAdapter()
    if not hasattr(inner, "send"):
        raise TypeError(f"expected an adapter with send(), got {type(inner).__module__}.{type(inner).__name__}")
    while isinstance(inner, GuardedAdapter):
        if inner.guard is guard:
            return inner
        if not inner.guard.is_closed:
            raise second_guard("session")
        inner = inner.inner
    return GuardedAdapter(guard, inner)


class Adapters(OrderedDict[str, Any]):
    """A session's adapters, each of which is guarded, also what `mount` brings."""

    def __init__(self, adapters: Any = (), guard: Guarding | None = None) -> None:
        self.guard = guard
        super().__init__(adapters)

    def __setitem__(self, prefix: str, inner: Any) -> None:
        guard = getattr(self, "guard", None)  # None while it is unpickled
        super().__setitem__(prefix, inner if guard is None else adapter(guard, inner))


class GuardedAdapter(BaseAdapter):
    """An adapter that guards what passes through it."""

    def __init__(self, guard: Guarding, inner: Any) -> None:
        super().__init__()
        self.guard = guard
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        if name == "inner":  # unpickled, and not yet filled
            raise AttributeError(name)
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """What is set is the inner adapter's, such as `max_retries`."""
        if name in ("guard", "inner"):
            super().__setattr__(name, value)
        else:
            setattr(self.inner, name, value)

    def close(self) -> None:
        """Close the inner adapter."""
        self.inner.close()

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
        """Send `request` under guard and return the inner adapter's response.

        Where the inner adapter is to send it again after it reached the provider (`max_retries`), each sending is held
        for.
        """
        return send(self.guard, _as_it_sends, self.inner, request, args, kwargs, connection=self)


def _as_it_sends(adapter: Any, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> Any:
    return adapter.send(request, *args, **kwargs)


def send(
    guard: Guarding,
    sending: Callable[..., Any],
    inner: Any,
    request: requests.PreparedRequest,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    connection: Any,
) -> Any:
    """Send `request` under `guard` by `sending(inner, request, *args, **kwargs)`.

    `connection`: the adapter that an auth flow is to answer a challenge by.
    """
    call = call_of(guard, request, address, passes) if request.method == "POST" else None
    if call is None:
        return sending(inner, request, *args, **kwargs)
    retries = None
    while True:
        port = _Port(sending, inner, retries, request, (args, kwargs), guard, call.claim)
        try:
            drive(exchange(guard, call), port, guard.work)
        except Exception as error:
            if port.again is None or port.again.error is not error:
                raise
        if port.again is None:
            port.response.connection = connection
            return port.response
        retries = port.again.go_on(request)


class _SentAgain(BaseException):
    """Raised within urllib3 where it would send a request again, which may have reached the provider.

    No Exception: an adapter that tries again by itself is not to catch it.

    `response` or `error` is what came of it; `retry` what is left of the retries, None if there is none.
    """

    def __init__(self, retry: Retry | None, response: Any, error: Exception | None, end: Exception | None) -> None:
        super().__init__()
        self.retry = retry
        self.response = response
        self.error = error
        self._end = end

    def go_on(self, request: requests.PreparedRequest) -> Retry:
        """Wait as urllib3 would; the retries that are left, or the error that it ends with."""
        if self.retry is None:
            raise RetryError(self._end, request=request)
        self.retry.sleep(self.response)
        return self.retry


class _Stepping:
    """Mixed into a Retry: it counts as that does, and steps out between two sendings."""

    arrived: list[bool]
    """Not empty once anything may have reached the provider: an adapter that sends again by itself meets more than one
    ending.
    """

    def new(self, **options: Any) -> Any:
        """What is left after one of them."""
        making: Any = super()
        left = making.new(**options)
        left.arrived = self.arrived
        return left

    def is_retry(self, *args: Any, **kwargs: Any) -> Any:
        """Asked of each response that came."""
        self.arrived.append(True)
        asking: Any = super()
        return asking.is_retry(*args, **kwargs)

    def increment(
        self, method: Any = None, url: Any = None, response: Any = None, error: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Asked where it is to be sent again, or fails."""
        is_new = response is None and is_never_connected(error)
        if not is_new:
            self.arrived.append(True)
        counting: Any = super()
        try:
            left = counting.increment(method, url, response, error, *args, **kwargs)
        except MaxRetryError as end:
            if response is None or not getattr(self, "raise_on_status", True):
                raise
            raise _SentAgain(None, response, None, end) from None
        if is_new:
            return left
        raise _SentAgain(left, response, error, None)


@functools.cache
def _stepping(kind: Any) -> Any:
    return kind if issubclass(kind, _Stepping) else type(kind.__name__, (_Stepping, kind), {})


def _stepwise(inner: Any, left: Retry | None) -> Any:
    """`inner` as it is, but stepping out between two sendings, if what may send twice is urllib3.

    It has the same connections; other threads use the adapter that is there. `left`: the retries from the last time.
    """
    retries = getattr(inner, "max_retries", None) if left is None else left
    if not isinstance(inner, HTTPAdapter) or not isinstance(retries, Retry):
        return inner
    kind: Any = type(inner)
    other = kind.__new__(kind)
    other.__dict__.update(inner.__dict__)
    other.max_retries = copy.copy(retries)
    other.max_retries.arrived = []
    other.max_retries.__class__ = _stepping(cast(Hashable, type(retries)))
    return other


class _Port:
    """One request on its way through an adapter."""

    def __init__(
        self,
        sending: Callable[..., Any],
        inner: Any,
        retries: Retry | None,
        request: requests.PreparedRequest,
        passed: tuple[tuple[Any, ...], Mapping[str, Any]],
        guard: Guarding,
        claim: Claim,
    ) -> None:
        self._sending = sending
        self._inner = inner
        self._retries = retries
        self._stepwise = inner
        self._request = request
        self._args, self._kwargs = passed
        self._guard = guard
        self._body = RequestBody(request, claim)
        self._read: bytes | None = None
        self.response: Any = None
        self.again: _SentAgain | None = None

    def read_request(self) -> bytes | None:
        body = self._body.read()
        if is_copy(self._guard, self._request, body):
            return None
        self._read = body
        return body

    def send(self, effect: Send) -> Head:
        is_ours = effect.receipt is not None and bool(effect.receipt.tasks)
        self._body.replace(effect.body, is_ours)
        if is_ours or self._retries is not None:  # no other is touched
            self._stepwise = _stepwise(self._inner, self._retries)
        with Handing(self._guard, self._request, effect, self._is_never_sent, self._read):
            try:
                self.response = self._sending(self._stepwise, self._request, *self._args, **self._kwargs)
            except _SentAgain as again:
                self.again = again
                if again.error is not None:
                    raise again.error from None
                self.response = HTTPAdapter.build_response(self._inner, self._request, again.response)
        if is_ours:
            setattr(self.response, OPTIONS, effect.receipt)
        return Head(self.response.status_code, header(self.response, "Content-Type"))

    def _is_never_sent(self, error: Exception) -> bool:
        retries = getattr(self._stepwise, "max_retries", None)
        return not getattr(retries, "arrived", False) and is_never_sent(error)

    def read_response(self) -> bytes:
        return buffered(self.response)

    def listen(self, effect: Listen) -> bytes | None:
        if self.again is not None:  # nobody will read it
            return buffered(self.response)
        whole = read_already(self.response)
        if whole is None:
            self.response.raw = Listening(self.response, effect, self._guard)
        elif effect.sieve is not None:
            self.response._content = effect.sieve.feed(whole) + effect.sieve.end()
        return whole

    def ask(self, question: Question) -> tuple[int, bytes]:
        request = another(self._request, question.body)
        with held(Hand(self._guard, request)):
            response = self._sending(self._inner, request, *self._args, **self._kwargs)
        try:
            return response.status_code, response.content
        finally:
            response.close()
