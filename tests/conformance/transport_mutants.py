"""Faults to plant in the memory transport."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace
from plant import around, caught_by

from bananas_brokers.memory.ledger import Ledger
from bananas_brokers.memory.queues import Queues
from bananas_brokers.memory.transport import FusedTransport
from bananas_core.testing.conformance import ResultBackendConformance, TransportConformance

T, L = TransportConformance, ResultBackendConformance


@caught_by(T.test_an_acked_message_never_comes_again)
def ack_keeps_the_message(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Queues, "ack", lambda *_: True)


@caught_by(
    T.test_an_unacked_delivery_comes_again_after_its_lease, T.test_close_gives_deliveries_back
)
def receive_is_an_ack(patch: pytest.MonkeyPatch) -> None:
    def lease(original: Any, queues: Queues, queue: str, now: float) -> Any:
        found = original(queues, queue, now)
        if found is not None:
            queues.ack(found[1], now)
        return found

    around(patch, Queues, "lease", lease)


@caught_by(T.test_every_message_of_a_batch_arrives)
def a_batch_drops_half(patch: pytest.MonkeyPatch) -> None:
    async def send(original: Any, self: Any, messages: Any) -> Any:
        kept = messages[: (len(messages) + 1) // 2]
        return await original(self, kept) + [None] * (len(messages) - len(kept))

    around(patch, FusedTransport, "send", send)


@caught_by(T.test_the_most_important_comes_first, T.test_levels_come_in_order)
def priority_is_ignored(patch: pytest.MonkeyPatch) -> None:
    def send(original: Any, self: Any, message: Any, number: int, now: float) -> None:
        original(self, replace(message, priority=50), number, now)

    around(patch, Queues, "send", send)


@caught_by(T.test_equals_come_in_the_order_sent)
def the_last_comes_first(patch: pytest.MonkeyPatch) -> None:
    around(patch, Queues, "send", lambda send, self, m, number, now: send(self, m, -number, now))


@caught_by(T.test_a_delivery_belongs_to_one_receiver)
def two_receivers_get_it(patch: pytest.MonkeyPatch) -> None:
    def lease(original: Any, self: Any, queue: str, now: float) -> Any:
        found = original(self, queue, now)
        if found is not None and found[0].deliveries == 1:
            self.release(found[1], now)
        return found

    around(patch, Queues, "lease", lease)


@caught_by(T.test_a_buried_message_stays_but_is_not_delivered)
def bury_throws_away(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Queues, "bury", lambda self, token, reason, now: self.ack(token, now))


@caught_by(T.test_a_waiting_receiver_is_woken_by_a_send)
def nobody_rings(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("bananas_brokers.memory.transport._LOOK", 30.0)
    patch.setattr("bananas_brokers.memory.bell.Bell.ring", lambda *_: None)


@caught_by(T.test_a_cancelled_receive_loses_nothing)
def a_cancelled_receive_takes_with_it(patch: pytest.MonkeyPatch) -> None:
    async def receive(original: Any, self: Any, *arguments: Any) -> Any:
        found = await original(self, *arguments)
        await self.ack(found)
        await asyncio.sleep(0)
        return found

    around(patch, FusedTransport, "receive", receive)


@caught_by(T.test_a_pending_record_is_received_without_a_message)
def a_fused_receive_does_not_claim(patch: pytest.MonkeyPatch) -> None:
    def claim(original: Any, self: Any, session: str, job: Any, now: float) -> Any:
        verdict = original(self, session, job, now)
        self._records.set(job)
        return verdict

    around(patch, Ledger, "claim_pending", claim)
