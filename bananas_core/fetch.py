"""From the transport to claims: receive, decode, claim, acknowledge.

Every verdict leads to an ack as soon as the ledger has answered; from then on the ledger holds
the job and no broker's lease or time-out matters.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Final

from bananas_core.clock import Clock
from bananas_core.errors import (
    BananasError,
    InvalidMessage,
    ResultBackendError,
    ResultBackendUnavailable,
    TransportError,
)
from bananas_core.job import Claim, ErrorInfo, Hint, JobPut, Verdict
from bananas_core.message import Limits, Message, decode_message
from bananas_core.pair import Pair
from bananas_core.transport import Delivery

log = logging.getLogger("bananas.fetch")

RECEIVE_FOR: Final = 2.0
"""Seconds that one receive waits; a pause takes effect no later."""


def put_of(message: Message, raw: bytes) -> JobPut:
    """What ``claim`` creates for a foreign message."""
    return JobPut(
        id=message.id,
        name=message.name,
        message=raw,
        routing_key=message.routing_key,
        priority=message.priority,
        max_attempts=message.max_attempts,
        run_at=None if message.run_at is None else message.run_at.timestamp(),
        expires_at=None if message.expires_at is None else message.expires_at.timestamp(),
        queue_timeout=message.queue_timeout,
    )


def quarantine_put(delivery: Delivery, error: InvalidMessage) -> JobPut:
    """The record of bytes that can't be trusted; the same bytes always have the same id."""
    digest = hashlib.sha256(delivery.body).hexdigest()[:32]
    return JobPut(
        id=f"quarantined-{digest}",
        name="",
        message=delivery.body,
        routing_key=delivery.queue,
        quarantine=ErrorInfo(type=f"InvalidMessage.{error.reason}", message=str(error)),
    )


class Fetcher:
    """Keeps the worker supplied with claims for free slots."""

    def __init__(
        self,
        pair: Pair,
        session: str,
        queues: Sequence[str],
        *,
        capacity: Callable[[], int],
        intake: Callable[[Sequence[Claim], float], None],
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._pair = pair
        self._session = session
        self._queues = tuple(queues)
        self._capacity = capacity
        self._intake = intake
        self._clock = clock
        self._asked_at = 0.0
        self._limits = limits
        self._paused: frozenset[str] = frozenset()
        self._room = asyncio.Event()
        self._acks: set[asyncio.Task[None]] = set()

    def wake(self) -> None:
        """There may be room for claims now."""
        self._room.set()

    def pause(self, paused: frozenset[str]) -> None:
        """These routing keys are not received until told otherwise."""
        self._paused = paused
        self.wake()

    async def run(self) -> None:
        """Until cancelled; outages are logged and waited out."""
        wait = 0.1
        while True:
            self._room.clear()
            capacity = self._capacity()
            queues = [queue for queue in self._queues if queue not in self._paused]
            if capacity <= 0 or not queues:
                await self._wait_for_room()
                continue
            try:
                if self._pair.fused:
                    await self._fetch_claimed(queues, capacity)
                else:
                    await self._fetch(queues, capacity)
                wait = 0.1
            except BananasError as error:
                log.warning("nothing is fetched for %.1f s: %s", wait, error)
                await asyncio.sleep(wait)
                wait = min(wait * 2, 2.0)

    async def settle(self) -> None:
        """Wait for acks under way."""
        while self._acks:
            await asyncio.wait(self._acks)

    def close(self) -> None:
        """Drop acks under way: those messages come again and are stale."""
        for ack in self._acks:
            ack.cancel()

    async def _wait_for_room(self) -> None:
        try:
            async with asyncio.timeout(1.0):
                await self._room.wait()
        except TimeoutError:
            return  # capacity may also change by time: a renewal was confirmed again

    async def _fetch_claimed(self, queues: Sequence[str], limit: int) -> None:
        self._asked_at = self._clock.monotonic()
        received = await self._pair.transport.receive_claimed(
            self._session, queues, limit, RECEIVE_FOR
        )
        self._take([r.verdict for r in received if r.verdict is not None])
        deliveries = [r.delivery for r in received if r.delivery is not None]
        if deliveries:
            await self._claim(deliveries)

    async def _fetch(self, queues: Sequence[str], limit: int) -> None:
        deliveries = await self._pair.transport.receive(queues, limit, RECEIVE_FOR)
        held_up = [d for d in deliveries if d.queue in self._paused]
        if held_up:
            await self._pair.transport.release(held_up)
        wanted = [d for d in deliveries if d.queue not in self._paused]
        if wanted:
            await self._claim(wanted)

    async def _claim(self, deliveries: Sequence[Delivery]) -> None:
        hints: list[Hint] = []
        good: list[Delivery] = []
        bad: list[tuple[Delivery, InvalidMessage]] = []
        for delivery in deliveries:
            try:
                message = decode_message(delivery.body, self._limits)
            except InvalidMessage as error:
                bad.append((delivery, error))
                continue
            create = None if message.put else put_of(message, delivery.body)
            hints.append(Hint(id=message.id, gen=message.gen, create=create))
            good.append(delivery)
        if bad:
            await self._quarantine(bad)
        if not hints:
            return
        self._asked_at = self._clock.monotonic()
        verdicts = await self._pair.backend.claim(self._session, hints)
        self._take(verdicts)
        unrecorded = [
            (d, InvalidMessage("unrecorded", f"the ledger has no job {v.id}, which was put"))
            for d, v in zip(good, verdicts, strict=True)
            if v.kind == "unrecorded"
        ]
        if unrecorded:
            await self._quarantine(unrecorded)
        kept = [d for d, v in zip(good, verdicts, strict=True) if v.kind != "unrecorded"]
        ack = asyncio.get_running_loop().create_task(self._ack(kept))
        self._acks.add(ack)
        ack.add_done_callback(self._acks.discard)

    def _take(self, verdicts: Sequence[Verdict | None]) -> None:
        claims = [v.claim for v in verdicts if v is not None and v.claim is not None]
        if claims:
            self._intake(claims, self._asked_at)

    async def _quarantine(self, bad: Sequence[tuple[Delivery, InvalidMessage]]) -> None:
        """Record the raw bytes, then set the message aside; in this order nothing is lost."""
        for delivery, error in bad:
            log.error("quarantined a message of %s: %s", delivery.queue, error)
            try:
                await self._pair.backend.put([quarantine_put(delivery, error)])
            except ResultBackendUnavailable:
                raise  # not buried: it is delivered again and recorded then
            except ResultBackendError as refused:
                log.error("its bytes stay at the transport only: %s", refused)
            await self._pair.transport.bury([delivery], error.reason)

    async def _ack(self, deliveries: Sequence[Delivery]) -> None:
        try:
            await self._pair.transport.ack(deliveries)
        except TransportError as error:
            log.warning(
                "%d deliveries were not acked and will come again: %s", len(deliveries), error
            )
