"""Websockets of any library: what goes out passes the gate, what comes in is heard. Whose they are is said elsewhere.

talk = Talk(guard, host="ws-api.runware.ai", port=None, path="/v1")
await talk.send(message, deliver)    # for each message out; raises the refusal, and nothing was delivered
await talk.hear(message)             # for each message in, before it is passed on
await talk.end("ConnectionClosed")   # when nothing more can come
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from costguard.clients.guarding import Guarding
from costguard.errors import CostguardError
from costguard.exchange.conversation import Booking, Conversation
from costguard.exchange.drivers import adrive
from costguard.exchange.effects import Call, Claim, Head, Interrupted, Listen, Question, Send
from costguard.exchange.offload import sleep
from costguard.wire import NATIVE

Message = str | bytes

Ask = Callable[[bytes], Awaitable[tuple[int, bytes]]]
"""POSTs a question of what became of tasks, with the key of their sender; gives the answer's status and body."""

_NOT_BOOKED = "what came by a websocket could not be booked; its money stays held: %s"

log = logging.getLogger("costguard")


class Talk:
    """One connection under `guard`, on an event loop.

    `host` as `normal_host` gives it, `port` None for the scheme's own, `path` without its query. Nothing of the ledger
    is done on the loop. Dropped without an end, it ends by itself. `ask`: how a refusal that unresolved tasks cause is
    put to the provider first; by the connection itself the answer would come to whoever reads it. None: it is not.
    """

    def __init__(self, guard: Guarding, *, host: str, port: int | None, path: str, ask: Ask | None = None) -> None:
        self.guard = guard
        self._ask = ask
        claim = guard.claim(host, port, path)
        dialogue = NATIVE.dialogue()
        self._call: Call | None = None
        if claim is not None and NATIVE in claim.dialects and dialogue is not None:
            is_sure = claim.is_sure and claim.dialects == (NATIVE,)
            self._call = Call(host if port is None else f"{host}:{port}", path, Claim((NATIVE,), is_sure), None)
            self._conversation = Conversation(guard, NATIVE, dialogue)
        self._is_over = self._call is None

    async def send(
        self,
        message: Message,
        deliver: Callable[[Message], Awaitable[object]],
        is_open: Callable[[], bool] = lambda: True,
    ) -> None:
        """Send `message`, or what stands for it under guard, by `deliver`; raises what that raises.

        `is_open`: False proves that what is delivered now never leaves. BudgetExceeded, UnpricedTask, InvalidRequest,
        ConfigurationError or LedgerError for what is not to be sent.
        """
        if self._call is None:
            await deliver(message)
            return
        port = _Port(message, deliver, is_open, self._ask)
        await adrive(self._conversation.message(self._call), port, self.guard.offload)
        if self._is_over:  # while it was admitted, and nothing will be heard of it
            await self._book(self._conversation.end("sent when the connection was over"))

    @property
    def is_at_rest(self) -> bool:
        """True if all that was sent is answered, as far as it is guarded."""
        return self._call is None or self._conversation.is_at_rest

    async def hear(self, message: Message) -> None:
        """Book what a message tells, before anybody acts on it."""
        if self._call is not None:
            await self._book(self._conversation.hear(message if isinstance(message, bytes) else message.encode()))

    async def end(self, reason: str) -> None:
        """The connection is over, as `reason` says: what is not answered may be at work, and may be billed."""
        if not self._is_over:
            self._is_over = True
            await self._book(self._conversation.end(reason))

    def end_later(self, reason: str) -> None:
        """As `end`, some time soon: for where nothing can be awaited."""
        if not self._is_over:
            self._is_over = True
            self._book_later(self._conversation.end(reason))

    def leave_later(self, task_uuid: str, reason: str) -> None:
        """Nobody waits for a task any more, as `reason` says: if it is not answered, it is open from now on to
        whatever else may tell what became of it. Its answer counts all the same.
        """
        if not self._is_over:
            self._book_later(self._conversation.leave(task_uuid, reason))

    def _book_later(self, booking: Booking | None) -> None:
        if booking is not None:
            self.guard.later(lambda: self.guard.work(booking))

    async def _book(self, booking: Booking | None) -> None:
        if booking is None:
            return
        try:
            await self.guard.offload(booking)
        except Interrupted as interrupted:
            raise interrupted.cancellation from None
        except CostguardError as error:  # whoever reads on has nothing to do with it
            log.error(_NOT_BOOKED, error)
        except Exception:  # nor with this
            log.exception(_NOT_BOOKED, "not the ledger's own failure")

    def __del__(self) -> None:
        if not getattr(self, "_is_over", True):
            self.end_later("dropped without being closed")


class _Port:
    """One message on its way out."""

    def __init__(
        self,
        message: Message,
        deliver: Callable[[Message], Awaitable[object]],
        is_open: Callable[[], bool],
        ask: Ask | None,
    ) -> None:
        self._ask = ask
        self._message = message
        self._deliver = deliver
        self._is_open = is_open

    async def read_request(self) -> bytes:
        return self._message if isinstance(self._message, bytes) else self._message.encode()

    async def send(self, effect: Send) -> Head:
        message = self._message
        if effect.body is not None:
            message = effect.body if isinstance(message, bytes) else effect.body.decode()
        effect.handed = self._is_open()
        await self._deliver(message)
        return Head(200, "")

    async def read_response(self) -> bytes:
        raise NotImplementedError("a message has no response of its own")

    def listen(self, effect: Listen) -> None:
        raise NotImplementedError("a message has no response of its own")

    async def ask(self, question: Question) -> tuple[int, bytes]:
        if self._ask is None:
            raise NotImplementedError("there is nobody to ask")
        return await self._ask(question.body)

    async def pause(self, seconds: float) -> None:
        await sleep(seconds)
