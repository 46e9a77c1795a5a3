"""What hears one stream on the side, and books its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from costguard.exchange.admission import Admission
from costguard.ledger.engine import Steps
from costguard.wire.dialect import Judgement


class StreamListener:
    """Hears the stream that answers `admission`. Feeding never blocks and never raises.

    `book` is given the judgement when the stream ends; `work` runs that where nothing else does.
    """

    def __init__(
        self,
        admission: Admission,
        book: Callable[[Admission, Judgement], Steps[None]],
        work: Callable[[Callable[[], Any]], Any],
    ) -> None:
        self._work = work
        self._admission = admission
        self._book = book
        self._listener = admission.dialect.listen(admission.tasks)
        self._garbled: str | None = None
        self._ended = False

    def feed(self, chunk: bytes) -> None:
        """One decoded chunk, as it came."""
        if self._garbled is None:
            self._listener.feed(chunk)

    def garble(self, reason: str) -> None:
        """What comes from here on cannot be decoded."""
        self._garbled = self._garbled or reason

    def end(self, error: str | None) -> None:
        """The stream is over; a second call changes nothing."""
        self._work(lambda: self.ending(error))

    def ending(self, error: str | None) -> Steps[None]:
        """The steps of `end`."""
        if not self._ended:
            self._ended = True
            yield from self._book(self._admission, self._listener.judge(error or self._garbled))
