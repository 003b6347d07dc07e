"""Topic: a message reaches one receiver, and stays until it is acked."""

from __future__ import annotations

import asyncio

import pytest

from bananas_core.errors import TransportError
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import NO_RESTART, promise, requires, takes
from bananas_core.testing.conformance.support import (
    Suite,
    bodies,
    message,
    nothing_left,
    receive,
    send,
    some_turns,
)
from bananas_core.transport import Outgoing


class Delivering(Suite):
    @promise("T8")
    async def test_a_sent_message_arrives_on_another_connection(self, harness: Harness) -> None:
        sender, receiver = await harness.transport(), await harness.transport()
        queue, body = harness.queue(), bytes(range(256))
        assert await sender.send([Outgoing(body=body, queue=queue)]) == [None]
        (delivery,) = await receive(harness, receiver, [queue], 1)
        assert delivery.body == body
        assert delivery.queue == queue
        assert not delivery.redelivered

    @promise("T11")
    async def test_receive_gives_up_after_its_timeout(self, harness: Harness) -> None:
        transport, loop = await harness.transport(), asyncio.get_running_loop()
        begun = loop.time()
        assert await transport.receive([harness.queue()], 10, 0.2) == []
        assert 0.15 <= loop.time() - begun < harness.limits.deadline

    @promise("T11")
    async def test_receive_does_not_wait_for_a_full_batch(self, harness: Harness) -> None:
        transport, queue = await harness.transport(), harness.queue()
        await send(transport, message("a", queue))
        async with asyncio.timeout(harness.limits.deadline):
            assert bodies(await transport.receive([queue], 10, 3600.0)) == ["a"]

    @promise("T11")
    async def test_receive_gives_no_more_than_its_limit(self, harness: Harness) -> None:
        transport, queues = await harness.transport(), [harness.queue(), harness.queue()]
        await send(transport, *(message(f"{q}{n}", q) for q in queues for n in range(5)))
        assert len(await transport.receive(queues, 3, 1.0)) <= 3
        assert len(await transport.receive(queues, 1, 1.0)) == 1

    @promise("T14")
    async def test_a_waiting_receiver_is_woken_by_a_send(self, harness: Harness) -> None:
        sender, receiver = await harness.transport(), await harness.transport()
        queue, loop = harness.queue(), asyncio.get_running_loop()
        waiting = asyncio.create_task(receiver.receive([queue], 1, 60.0))
        done, _ = await asyncio.wait({waiting}, timeout=0.2)
        assert not done
        begun = loop.time()
        await send(sender, message("a", queue))
        async with asyncio.timeout(harness.limits.deadline):
            assert bodies(await waiting) == ["a"]
        assert loop.time() - begun < harness.limits.wake

    @promise("T13")
    async def test_a_delivery_belongs_to_one_receiver(self, harness: Harness) -> None:
        one, two = await harness.transport(), await harness.transport()
        queue, sent = harness.queue(), [f"m{n}" for n in range(40)]
        await send(one, *(message(body, queue) for body in sent))
        got: list[str] = []
        while len(got) < len(sent):
            parts = await asyncio.gather(one.receive([queue], 3, 0.5), two.receive([queue], 3, 0.5))
            assert any(parts), f"only {len(got)} of {len(sent)} arrived"
            got += bodies(parts[0]) + bodies(parts[1])
        assert sorted(got) == sorted(sent)
        await nothing_left(one, queue)

    @promise("T13", "T15", "T16")
    @takes(20)
    async def test_an_unacked_delivery_comes_again_after_its_lease(self, harness: Harness) -> None:
        one, two = await harness.transport(), await harness.transport()
        queue, lease = harness.queue(), harness.capabilities.transport.lease
        assert 0 < lease <= 15
        await send(one, message("a", queue), message("b", queue))
        old = await receive(harness, one, [queue], 2)
        await nothing_left(two, queue)
        await harness.advance(lease + 1)
        new = await receive(harness, two, [queue], 2)
        assert sorted(bodies(new)) == ["a", "b"]
        assert all(delivery.redelivered for delivery in new)
        assert await one.ack(old[:1]) == [False]
        assert await one.release(old[1:]) == [False]
        await nothing_left(one, queue)
        assert await two.ack(new) == [True, True]

    @promise("T15")
    @takes(20)
    async def test_an_acked_message_never_comes_again(self, harness: Harness) -> None:
        transport, queue = await harness.transport(), harness.queue()
        await send(transport, message("a", queue))
        deliveries = await receive(harness, transport, [queue], 1)
        assert await transport.ack(deliveries) == [True]
        await transport.ack(deliveries)  # safe to repeat
        await transport.release(deliveries)  # too late
        await harness.advance(harness.capabilities.transport.lease + 1)
        await nothing_left(await harness.transport(), queue)

    @promise("T16")
    async def test_a_released_message_can_be_received_at_once(self, harness: Harness) -> None:
        one, two, queue = await harness.transport(), await harness.transport(), harness.queue()
        await send(one, message("a", queue))
        deliveries = await receive(harness, one, [queue], 1)
        assert await one.release(deliveries) == [True]
        await one.release(deliveries)  # safe to repeat
        again = await receive(harness, two, [queue], 1)
        assert again[0].body == deliveries[0].body
        assert await two.ack(again) == [True]
        await nothing_left(one, queue)

    @promise("T16")
    @requires(lambda c: c.transport.head and c.transport.fifo, "declares neither heads nor order")
    async def test_a_released_message_goes_before_younger_ones(self, harness: Harness) -> None:
        transport, queue = await harness.transport(), harness.queue()
        await send(transport, message("a", queue))
        first = await receive(harness, transport, [queue], 1)
        await send(transport, message("b", queue))
        await transport.release(first)
        assert bodies(await receive(harness, transport, [queue], 2)) == ["a", "b"]

    @promise("T17", "T19")
    @takes(20)
    async def test_a_buried_message_stays_but_is_not_delivered(self, harness: Harness) -> None:
        transport, queue = await harness.transport(), harness.queue()
        await send(transport, message("a", queue))
        assert await transport.bury(await receive(harness, transport, [queue], 1), "bad") == [True]
        await harness.advance(harness.capabilities.transport.lease + 1)
        await nothing_left(transport, queue)
        (stats,) = await transport.stats([queue])
        assert (stats.ready, stats.leased, stats.buried) == (0, 0, 1)
        assert await transport.purge(queue) == 1
        assert await transport.purge(queue) == 0

    @promise("T4")
    @takes(20)
    async def test_a_cancelled_receive_loses_nothing(self, harness: Harness) -> None:
        sender, receiver = await harness.transport(), await harness.transport()
        queue, sent, got = harness.queue(), [f"m{n}" for n in range(40)], set[str]()
        for turns, body in enumerate(sent):
            task = asyncio.create_task(receiver.receive([queue], 1, 5.0))
            await asyncio.wait({task}, timeout=0.001 * (turns % 4))
            await send(sender, message(body, queue))
            await some_turns(turns)
            task.cancel()
            try:
                found = await task
            except asyncio.CancelledError:
                continue
            got |= set(bodies(found))
            await receiver.ack(found)
        await harness.advance(harness.capabilities.transport.lease + 1)
        other = await harness.transport()

        async def everything() -> bool:
            found = await other.receive([queue], 10, 0.1)
            await other.ack(found)
            got.update(bodies(found))
            return got == set(sent)

        await harness.eventually(everything)


class Connecting(Suite):
    @promise("T1", "T5")
    async def test_open_twice_and_again_after_close(self, harness: Harness) -> None:
        keeper, transport = await harness.transport(), harness.unopened().transport
        queue = harness.queue()
        for body in ("a", "b"):
            await transport.open()
            await transport.open()
            await send(transport, message(body, queue))
            await transport.close()
            await transport.close()
        assert sorted(bodies(await receive(harness, keeper, [queue], 2))) == ["a", "b"]

    @promise("T1")
    async def test_calls_may_be_concurrent(self, harness: Harness) -> None:
        transport, queue = await harness.transport(), harness.queue()
        waiting = asyncio.create_task(transport.receive([queue], 100, 5.0))
        sent = [f"m{n}" for n in range(20)]
        await asyncio.gather(*(transport.send([message(body, queue)]) for body in sent))
        got = bodies(await waiting)
        got += bodies(await receive(harness, transport, [queue], len(sent) - len(got)))
        assert sorted(got) == sorted(sent)

    @promise("T6")
    async def test_close_gives_deliveries_back(self, harness: Harness) -> None:
        one, two, queue = await harness.transport(), await harness.transport(), harness.queue()
        await send(two, message("a", queue), message("b", queue))
        await receive(harness, one, [queue], 2)
        await one.close()
        assert sorted(bodies(await receive(harness, two, [queue], 2))) == ["a", "b"]

    @promise("T6")
    async def test_close_ends_a_pending_receive(self, harness: Harness) -> None:
        transport, queue = await harness.transport(), harness.queue()
        waiting = asyncio.create_task(transport.receive([queue], 1, 600.0))
        done, _ = await asyncio.wait({waiting}, timeout=0.1)
        assert not done
        await transport.close()
        async with asyncio.timeout(harness.limits.deadline):
            try:
                assert await waiting == []
            except TransportError:
                pass  # "it was closed" is an answer too

    @promise("T7")
    async def test_declare_again_and_at_once_keeps_messages(self, harness: Harness) -> None:
        one, two = await harness.transport(), await harness.transport()
        queues = [harness.queue() for _ in range(3)]
        await asyncio.gather(one.declare(queues), two.declare(queues), one.declare(queues))
        await send(one, *(message(queue, queue) for queue in queues))
        await two.declare(queues)
        assert sorted(bodies(await receive(harness, two, queues, 3))) == sorted(queues)

    @promise("T8")
    @requires(lambda c: c.restarts and c.transport.durability != "memory", NO_RESTART)
    async def test_a_confirmed_message_survives_a_crash_of_the_broker(
        self, harness: Harness
    ) -> None:
        queue, sent = harness.queue(), [f"m{n}" for n in range(20)]
        await send(await harness.transport(), *(message(body, queue) for body in sent))
        await harness.restart()
        transport = await harness.transport()
        assert sorted(bodies(await receive(harness, transport, [queue], 20))) == sorted(sent)

    @promise("T20")
    async def test_shares_only_with_its_own_ledger(self, harness: Harness) -> None:
        pair, other = harness.unopened(), harness.unopened()
        assert pair.transport.shares(object()) is False  # type: ignore[arg-type]
        if harness.capabilities.fused:
            assert pair.transport.shares(other.backend)
            assert hasattr(pair.transport, "receive_claimed")


class Counting(Suite):
    @promise("T18")
    async def test_stats_count_without_side_effects(self, harness: Harness) -> None:
        transport, queue, unknown = await harness.transport(), harness.queue(), harness.queue()
        await send(transport, *(message(f"m{n}", queue) for n in range(3)))
        await receive(harness, transport, [queue], 1)
        for _ in range(2):
            first, second = await transport.stats([unknown, queue])
            assert (first.queue, first.ready, first.leased, first.buried) == (unknown, 0, 0, 0)
            assert first.oldest is None
            assert second.queue == queue
            if harness.capabilities.transport.exact_depth:
                assert (second.ready, second.leased) == (2, 1)
                assert second.exact
        assert len(await receive(harness, transport, [queue], 2)) == 2

    @promise("T18")
    @requires(lambda c: c.transport.ages, "does not know ages")
    @takes(3)
    async def test_stats_know_the_oldest_ready_message(self, harness: Harness) -> None:
        transport, queue = await harness.transport(), harness.queue()
        await send(transport, message("a", queue))
        await harness.advance(2.0)
        await send(transport, message("b", queue))
        (both,) = await transport.stats([queue])
        await receive(harness, transport, [queue], 1)
        (one,) = await transport.stats([queue])
        assert both.oldest is not None
        assert one.oldest is not None
        if harness.capabilities.transport.fifo:
            assert one.oldest - both.oldest == pytest.approx(2.0, abs=1.0)

    @promise("T19")
    async def test_purge_leaves_leased_messages(self, harness: Harness) -> None:
        transport, queue, other = await harness.transport(), harness.queue(), harness.queue()
        await send(transport, *(message(f"m{n}", queue) for n in range(5)))
        await send(transport, message("other", other))
        held = await receive(harness, transport, [queue], 2)
        assert await transport.purge(queue) == 3
        assert await transport.purge(queue) == 0
        await nothing_left(transport, queue)
        assert await transport.release(held) == [True, True]
        assert sorted(bodies(await receive(harness, transport, [queue], 2))) == sorted(bodies(held))
        assert bodies(await receive(harness, transport, [other], 1)) == ["other"]
