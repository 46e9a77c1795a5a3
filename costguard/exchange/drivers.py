"""The two drivers that run an exchange: the same few lines, synchronous and asynchronous."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from costguard.exchange.effects import (
    AsyncPort,
    Effect,
    Flow,
    Interrupted,
    Listen,
    Pause,
    Question,
    ReadRequest,
    ReadResponse,
    Send,
    SyncPort,
    Work,
)


def drive(flow: Flow, port: SyncPort, work: Callable[[Callable[[], Any]], Any]) -> None:
    """Run `flow` to its end on the calling thread; `work` runs a function here, and the steps that it may return."""
    try:
        effect = next(flow)
        while True:
            try:
                value = _perform(effect, port, work)
            except BaseException as error:  # noqa: BLE001  it is the flow that decides
                effect = flow.throw(error)
            else:
                effect = flow.send(value)
    except StopIteration:
        return


def _perform(effect: Effect, port: SyncPort, work: Callable[[Callable[[], Any]], Any]) -> Any:
    match effect:
        case Work():
            return work(effect.run)
        case Send():
            return port.send(effect)
        case ReadRequest():
            return port.read_request()
        case ReadResponse():
            return port.read_response()
        case Listen():
            return port.listen(effect)
        case Question():
            return port.ask(effect)
        case Pause():
            time.sleep(effect.seconds)
    return None


async def adrive(flow: Flow, port: AsyncPort, offload: Callable[[Callable[[], Any]], Awaitable[Any]]) -> None:
    """Run `flow` to its end; `offload` runs a function on another thread and cannot be abandoned.

    A cancellation during `Work` is delivered at the next effect, so that the flow always learns
    what its work came to.
    """
    try:
        effect = next(flow)
        while True:
            try:
                match effect:
                    case Work():
                        value = await offload(effect.run)
                    case Send():
                        value = await port.send(effect)
                    case ReadRequest():
                        value = await port.read_request()
                    case ReadResponse():
                        value = await port.read_response()
                    case Listen():
                        value = port.listen(effect)
                    case Question():
                        value = await port.ask(effect)
                    case Pause():
                        await port.pause(effect.seconds)
                        value = None
            except GeneratorExit:
                flow.close()
                raise
            except Interrupted as interrupted:
                try:
                    flow.send(interrupted.value)
                except BaseException:  # noqa: BLE001  over either way: what is left is to be cancelled
                    raise interrupted.cancellation from None
                effect = flow.throw(interrupted.cancellation)
            except BaseException as error:  # noqa: BLE001  it is the flow that decides
                effect = flow.throw(error)
            else:
                effect = flow.send(value)
    except StopIteration:
        return
