"""The ear on a response's stream, which whatever passes the stream on tells of each chunk and of the end."""

from __future__ import annotations

from costguard.clients.encodings import Decoder
from costguard.clients.guarding import Guarding
from costguard.exchange.effects import Hearing, Interrupted


class Ear:
    """Tells `hearing` what passes, decoded, and books its end once, also if it is dropped without one."""

    def __init__(self, hearing: Hearing, guard: Guarding, decoder: Decoder | None) -> None:
        self._hearing = hearing
        self._guard = guard
        self._decoder = decoder
        self._is_over = False
        if decoder is not None and not decoder.is_able:
            hearing.garble("the stream's encoding is none that this client can read")

    def hear(self, chunk: bytes) -> None:
        """A chunk, as it came."""
        if self._decoder is None:
            self._hearing.feed(chunk)
            return
        try:
            plain = self._decoder.decode(chunk)
        except Exception:  # noqa: BLE001  each encoding has errors of its own, and the caller gets its own one
            self._hearing.garble("the stream's encoding cannot be read")
        else:
            self._hearing.feed(plain)

    def hear_plain(self, chunk: bytes) -> None:
        """A chunk that was decoded already."""
        self._hearing.feed(chunk)

    def end(self, cut: str | None) -> None:
        """The end: None if the stream was read to it, else how it was cut. Books here and now."""
        if not self._is_over:
            self._is_over = True
            self._hearing.end(cut)

    async def aend(self, cut: str | None) -> None:
        """As `end`, off the event loop."""
        if not self._is_over:
            self._is_over = True
            hearing = self._hearing
            try:
                await self._guard.offload(lambda: hearing.ending(cut))
            except Interrupted as interrupted:
                raise interrupted.cancellation from None

    def end_later(self, cut: str | None) -> None:
        """As `end`, some time soon: for where nothing may block and nothing can be awaited."""
        if not self._is_over:
            self._is_over = True
            hearing = self._hearing
            self._guard.later(lambda: hearing.end(cut))

    def __del__(self) -> None:
        if not getattr(self, "_is_over", True):
            # No thread may block here: whoever drops the last reference may hold any lock.
            self.end_later("dropped without being closed")
