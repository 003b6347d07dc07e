"""Sending the messages of pending jobs that the ledger handed out."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from bananas_core.errors import TransportError
from bananas_core.follow import follow_up
from bananas_core.job import Ready, ReadyKind, Settled
from bananas_core.pair import Pair
from bananas_core.transport import Outgoing

log = logging.getLogger("bananas.send")


async def send_ready(pair: Pair, ready: Sequence[Ready]) -> list[Settled]:
    """Do what must be done now: follow up what ended, then send with confirmation what is pending.

    Nothing is sent where the ledger itself is the queue.

    Returns:
        What was confirmed or completed, to be settled in the ledger. The guards of all others
        fire later and ``due`` returns them again, so an outage is only logged.
    """
    settled: list[Settled] = []
    if any(item.kind is ReadyKind.FOLLOW for item in ready):
        ready, settled = await follow_up(pair.backend, ready, codecs=pair.codecs)
    if not ready or pair.fused:
        return settled
    messages = [
        Outgoing(body=r.message, queue=r.routing_key, priority=r.priority, head=r.head)
        for r in ready
    ]
    try:
        answers = await pair.transport.send(messages)
    except TransportError as error:
        log.warning("%d messages were not sent and will be later: %s", len(ready), error)
        return settled
    for item, refused in zip(ready, answers, strict=True):
        if refused is None:
            settled.append(Settled(id=item.id, gen=item.gen))
        else:
            log.error("job %s can't be sent: %s", item.id, refused)
    return settled
