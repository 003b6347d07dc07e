"""Topic: what comes first."""

from __future__ import annotations

import random

from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import promise, requires
from bananas_core.testing.conformance.support import Suite, bodies, message, receive, send


class Ordering(Suite):
    @promise("T12")
    async def test_the_most_important_comes_first(self, harness: Harness) -> None:
        transport, queue = await harness.transport(), harness.queue()
        await send(transport, message("low", queue, 0), message("high", queue, 100))
        assert bodies(await receive(harness, transport, [queue], 2, limit=1)) == ["high", "low"]

    @promise("T12")
    async def test_levels_come_in_order(self, harness: Harness) -> None:
        transport, queue = await harness.transport(), harness.queue()
        levels = harness.capabilities.transport.levels
        priorities = list(range(101))
        random.Random(7).shuffle(priorities)
        await send(transport, *(message(str(p), queue, p) for p in priorities))
        got = [int(body) for body in bodies(await receive(harness, transport, [queue], 101))]
        bands = [p * levels // 101 for p in got]
        assert bands == sorted(bands, reverse=True)

    @promise("T10")
    @requires(lambda c: c.transport.fifo, "declares no order among equals")
    async def test_equals_come_in_the_order_sent(self, harness: Harness) -> None:
        transport, queue = await harness.transport(), harness.queue()
        sent = [f"m{n:03}" for n in range(harness.limits.batch)]
        await send(transport, *(message(body, queue) for body in sent[:50]))
        await send(transport, *(message(body, queue) for body in sent[50:]))
        got = bodies(await receive(harness, transport, [queue], len(sent), limit=7))
        assert got == sent

    @promise("T12")
    @requires(lambda c: c.transport.head, "declares no heads")
    async def test_a_head_goes_before_its_equals(self, harness: Harness) -> None:
        transport, queue = await harness.transport(), harness.queue()
        await send(transport, message("a", queue), message("b", queue))
        await send(transport, message("head", queue, head=True))
        assert bodies(await receive(harness, transport, [queue], 1))[0] == "head"

    @promise("T12")
    @requires(lambda c: c.transport.head and c.transport.levels < 101, "levels are exact")
    async def test_a_head_goes_to_the_top_band(self, harness: Harness) -> None:
        transport, queue = await harness.transport(), harness.queue()
        await send(transport, message("a", queue, 90), message("b", queue, 10))
        await send(transport, message("head", queue, 10, head=True))
        got = bodies(await receive(harness, transport, [queue], 3, limit=1))
        assert got.index("head") < got.index("b")
        if harness.capabilities.transport.levels > 1:
            assert got.index("head") <= 1

    @promise("T12")
    async def test_a_full_queue_does_not_starve_another(self, harness: Harness) -> None:
        await starving(harness, busy_priority=50, quiet_priority=50)

    @promise("T12")
    async def test_an_important_queue_does_not_starve_another(self, harness: Harness) -> None:
        await starving(harness, busy_priority=100, quiet_priority=0)


async def starving(harness: Harness, *, busy_priority: int, quiet_priority: int) -> None:
    """Receive from a queue that never gets empty and one with a single message."""
    transport = await harness.transport()
    busy, quiet = harness.queue("a-busy"), harness.queue("z-quiet")
    for queues in ([busy, quiet], [quiet, busy]):
        await send(transport, *(message("busy", busy, busy_priority) for _ in range(100)))
        await send(transport, message("quiet", quiet, quiet_priority))
        got: list[str] = []
        while "quiet" not in got and len(got) < 60:
            found = await transport.receive(queues, 5, 0.5)
            await transport.ack(found)
            got += bodies(found)
        assert "quiet" in got
        await transport.purge(busy)
