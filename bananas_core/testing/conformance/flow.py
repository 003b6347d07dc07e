"""Topic: both contracts together, the long way: put, send, receive, claim, ack, finish."""

from __future__ import annotations

from collections.abc import Sequence

from bananas_core.job import (
    Claim,
    Hint,
    JobState,
    OutcomeKind,
    Ready,
    Settled,
    VerdictKind,
)
from bananas_core.message import decode_message
from bananas_core.results import ResultBackend
from bananas_core.state import FIRST_HOLD
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import promise, takes
from bananas_core.testing.conformance.support import (
    Suite,
    a_job,
    all_due,
    finish_one,
    nothing_left,
    outcome,
    pass_time,
    put_one,
    receive,
    record,
    state_of,
)
from bananas_core.transport import Outgoing, Transport


async def send_ready(transport: Transport, ready: Sequence[Ready]) -> list[Settled]:
    """Send as a worker does; what is to be settled."""
    messages = [
        Outgoing(body=r.message, queue=r.routing_key, priority=r.priority, head=r.head)
        for r in ready
    ]
    assert await transport.send(messages) == [None] * len(messages)
    return [Settled(id=r.id, gen=r.gen) for r in ready]


async def fetch(
    harness: Harness, transport: Transport, backend: ResultBackend, queue: str
) -> Claim | None:
    """One message: received, claimed and acked; the claim if it may run."""
    (delivery,) = await receive(harness, transport, [queue], 1)
    message = decode_message(delivery.body)
    hint = Hint(id=message.id, gen=message.gen)
    (verdict,) = await backend.claim(harness.session(), [hint])
    assert await transport.ack([delivery]) == [True]
    return verdict.claim if verdict.kind is VerdictKind.RUN else None


class Flowing(Suite):
    @promise("T8", "L10", "L23")
    async def test_a_job_goes_round_until_it_succeeds(self, harness: Harness) -> None:
        transport, backend, queue = (
            await harness.transport(),
            await harness.backend(),
            harness.queue(),
        )
        put = a_job(queue, priority=70)
        (answer,) = await backend.put([put])
        assert answer.send
        await transport.send([Outgoing(body=put.message, queue=queue, priority=70)])
        for kind in (OutcomeKind.RETRY, OutcomeKind.HANDBACK, OutcomeKind.DIED):
            claim = await fetch(harness, transport, backend, queue)
            assert claim is not None
            _, ready = await backend.finish([outcome(claim, kind)])
            settled = await send_ready(transport, ready)
            await backend.due(10, settled=settled)
        claim = await fetch(harness, transport, backend, queue)
        assert claim is not None
        assert (claim.attempt, claim.gen) == (3, 4)
        await finish_one(backend, claim, result=b"1")
        await nothing_left(transport, queue)
        job = await record(backend, put.id)
        assert (job.state, len(job.attempts)) == (JobState.COMPLETED, 4)

    @promise("L11", "T8")
    async def test_a_message_that_comes_twice_runs_once(self, harness: Harness) -> None:
        transport, backend, queue = (
            await harness.transport(),
            await harness.backend(),
            harness.queue(),
        )
        put = await put_one(backend, a_job(queue))
        await transport.send([Outgoing(body=put.message, queue=queue)] * 3)
        claims = [await fetch(harness, transport, backend, queue) for _ in range(3)]
        assert sum(claim is not None for claim in claims) == 1

    @promise("L37", "T8")
    @takes(10)
    async def test_a_producer_that_dies_before_sending_loses_nothing(
        self, harness: Harness
    ) -> None:
        transport, backend, queue = (
            await harness.transport(),
            await harness.backend(),
            harness.queue(),
        )
        put = await put_one(backend, a_job(queue))  # and then it died
        await nothing_left(transport, queue)
        ready = await pass_time(harness, backend, FIRST_HOLD + 2)
        await send_ready(transport, ready)
        claim = await fetch(harness, transport, backend, queue)
        assert claim is not None
        assert claim.id == put.id

    @promise("L33", "L9")
    @takes(4)
    async def test_a_delayed_job_is_sent_when_it_comes_due(self, harness: Harness) -> None:
        transport, backend, queue = (
            await harness.transport(),
            await harness.backend(),
            harness.queue(),
        )
        put = await put_one(backend, a_job(queue, delay=1.0))
        await harness.advance(1.5 + harness.capabilities.ledger.clock_error)
        await backend.due(10, settled=await send_ready(transport, await all_due(backend)))
        claim = await fetch(harness, transport, backend, queue)
        assert claim is not None
        await finish_one(backend, claim)
        assert await state_of(backend, put.id) is JobState.COMPLETED
