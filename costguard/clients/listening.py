"""The ear on a response's stream, which whatever passes the stream on tells of each chunk and of the end."""

from __future__ import annotations

from costguard.clients.encodings import Decoder
from costguard.clients.guarding import Guarding
from costguard.exchange.effects import Interrupted, Listen


class Ear:
    """Tells the guard what passes, decoded, and books its end once, also if it is dropped without one.

    What its methods give is what the caller is to have: see `Listen`. `undoes`: True where the caller gets decoded
    bytes if there is a sieve; else what comes encoded passes whole.
    """

    def __init__(self, effect: Listen, guard: Guarding, decoder: Decoder | None, *, undoes: bool = False) -> None:
        self._hearing = effect.hearing
        self._guard = guard
        self._decoder = decoder
        self._undoes = undoes
        self._is_over = False
        is_able = decoder is None or decoder.is_able
        if not is_able:
            self._hearing.garble("the stream's encoding is none that this client can read")
        self._sieve = effect.sieve if is_able else None

    @property
    def is_sieving(self) -> bool:
        """True if something may be kept from the caller: an empty piece is then no end."""
        return self._sieve is not None and (self._decoder is None or self._undoes)

    def hear(self, chunk: bytes) -> bytes:
        """A chunk, as it came."""
        if self._decoder is None:
            return self.hear_plain(chunk)
        try:
            plain = self._decoder.decode(chunk)
        except Exception:  # each encoding has errors of its own
            self._hearing.garble("the stream's encoding cannot be read")
            if self.is_sieving:
                raise
            return chunk
        if self.is_sieving:
            return self.hear_plain(plain)
        self._hearing.feed(plain)
        return chunk

    def hear_plain(self, chunk: bytes) -> bytes:
        """A chunk that was decoded already."""
        self._hearing.feed(chunk)
        return chunk if self._sieve is None else self._sieve.feed(chunk)

    def rest(self) -> bytes:
        """What the caller is still to have when the stream is over."""
        if self._sieve is None:
            return b""
        if not self.is_sieving:
            return self._sieve.end()
        passed = b"" if self._decoder is None else self.hear_plain(self._decoder.flush())
        return passed + self._sieve.end()

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
