"""Topic: batches at the transport: one outcome per item."""

from __future__ import annotations

from bananas_core.errors import TransportError
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import promise
from bananas_core.testing.conformance.support import Suite, bodies, message, receive, send
from bananas_core.transport import Outgoing


class Batching(Suite):
    @promise("T2", "T8")
    async def test_every_message_of_a_batch_arrives(self, harness: Harness) -> None:
        transport = await harness.transport()
        queues, count = [harness.queue() for _ in range(3)], harness.limits.batch
        sent = [f"m{n}" for n in range(count)]
        await send(transport, *(message(b, queues[n % 3]) for n, b in enumerate(sent)))
        deliveries = await receive(harness, transport, queues, count)
        assert sorted(bodies(deliveries)) == sorted(sent)
        assert await transport.ack(deliveries) == [True] * count

    @promise("T2", "T9")
    async def test_a_bad_item_does_not_spoil_its_batch(self, harness: Harness) -> None:
        transport, queue = await harness.transport(), harness.queue()
        huge = b"x" * (harness.capabilities.transport.max_message + 1)
        answers = await transport.send(
            [message("a", queue), Outgoing(body=huge, queue=queue), message("b", queue)]
        )
        assert answers[0] is None
        assert isinstance(answers[1], TransportError)
        assert answers[2] is None
        assert sorted(bodies(await receive(harness, transport, [queue], 2))) == ["a", "b"]

    @promise("T2")
    async def test_answers_are_in_order(self, harness: Harness) -> None:
        transport, queue = await harness.transport(), harness.queue()
        await send(transport, *(message(f"m{n}", queue) for n in range(3)))
        first, second, third = await receive(harness, transport, [queue], 3)
        await transport.ack([second])
        await transport.release([first])
        held = await receive(harness, transport, [queue], 1)
        assert await transport.ack([third, *held]) == [True, True]

    @promise("T2")
    async def test_empty_batches_are_harmless(self, harness: Harness) -> None:
        transport = await harness.transport()
        assert await transport.send([]) == []
        assert await transport.ack([]) == []
        assert await transport.release([]) == []
        assert await transport.bury([], "none") == []
        assert await transport.stats([]) == []
