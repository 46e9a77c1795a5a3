"""A stand-in of Runware's API for demos and tests: no key, no internet, and a bill of its own to check against.

    from costguard.testing import StandIn

    standin = StandIn()
    client = httpx.Client(base_url="https://api.runware.ai", transport=standin.transport())
    client.post("/v1", json=[task])
    assert my_ledger_total == standin.billed()

It answers `/v1`, and in OpenAI's and Anthropic's form `/v1/chat/completions`, `/v1/responses` and `/v1/messages`. On
`/v1` it answers the eight examples Runware publishes with their published responses (`seeds()`), any other text task
with generated text and a cost breakdown that adds up, and tasks of other types with pictures, videos and sounds that
are billed by `made_rates` (`MadeRate`). It tells the same bill in every manner met in the field
(`costguard.testing.manners`), and fails on purpose where told (`StandIn.fault`).
`standin.serve()` puts the same stand-in on a loopback port for clients that need a real connection, and
`standin.serve_websocket()` on a websocket.
"""

from costguard.testing.api import StandIn
from costguard.testing.faults import KINDS
from costguard.testing.made import MadeRate
from costguard.testing.published import Seed, seeds
from costguard.testing.records import Bill, Received, Reply, Webhook

__all__ = ["KINDS", "Bill", "MadeRate", "Received", "Reply", "Seed", "StandIn", "Webhook", "seeds"]
