"""Topic: transport and ledger of one place: receive and claim in one step."""

from __future__ import annotations

import asyncio

from bananas_core.job import Hint, JobState, OutcomeKind, Verdict, VerdictKind
from bananas_core.pair import Pair
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import promise, requires, takes
from bananas_core.testing.conformance.sessions import beats, who
from bananas_core.testing.conformance.support import (
    Suite,
    a_job,
    finish_one,
    pass_time,
    put_one,
    record,
    some_turns,
    started,
    state_of,
)
from bananas_core.transport import Outgoing, Received

fused = requires(lambda c: c.fused, "transport and ledger are not fused")


async def claimed(
    pair: Pair, session: str, queues: list[str], limit: int = 100, timeout: float = 0.2
) -> list[Received]:
    """One fused receive."""
    return await pair.transport.receive_claimed(session, queues, limit, timeout)


def ids(received: list[Received]) -> list[str]:
    """The jobs that may run."""
    verdicts: list[Verdict] = [item.verdict for item in received if item.verdict is not None]
    assert all(verdict.kind is VerdictKind.RUN and verdict.claim for verdict in verdicts)
    return [verdict.id for verdict in verdicts]


class Fusing(Suite):
    @promise("T20", "T21")
    @fused
    async def test_a_pending_record_is_received_without_a_message(self, harness: Harness) -> None:
        one, two, session = await harness.pair(), await harness.pair(), harness.session()
        queue = harness.queue()
        put, later = a_job(queue), a_job(queue, delay=60.0)
        answers = await one.backend.put([put, later, a_job(harness.queue())])
        assert not any(answer.send for answer in answers)
        (item,) = await claimed(two, session, [queue])
        assert item.verdict is not None
        assert item.verdict.claim is not None
        assert (item.verdict.id, item.verdict.claim.message) == (put.id, put.message)
        job = await record(one.backend, put.id)
        assert (job.state, job.worker, job.fence) == (
            JobState.PROCESSING,
            session,
            item.verdict.claim.fence,
        )
        assert await claimed(one, session, [queue], timeout=0.05) == []
        assert (await finish_one(one.backend, item.verdict.claim)).accepted

    @promise("T21", "T12")
    @fused
    async def test_records_come_by_priority_heads_first(self, harness: Harness) -> None:
        pair, session, queue = await harness.pair(), harness.session(), harness.queue()
        first = await started(pair.backend, session, routing_key=queue)
        puts = [a_job(queue, priority=p) for p in (50, 10, 90, 50)]
        await pair.backend.put(puts)
        await finish_one(pair.backend, first, OutcomeKind.HANDBACK)
        wanted = [puts[2].id, first.id, puts[0].id, puts[3].id, puts[1].id]
        got = ids(await claimed(pair, session, [queue], 2))
        assert len(got) == 2
        while len(got) < 5:
            got += ids(await claimed(pair, session, [queue], 1))
        if not harness.capabilities.transport.fifo:  # then the two that are left are equals
            got[2:4], wanted[2:4] = sorted(got[2:4]), sorted(wanted[2:4])
        assert got == wanted

    @promise("T21", "T12")
    @fused
    async def test_no_routing_key_starves_another(self, harness: Harness) -> None:
        pair, session = await harness.pair(), harness.session()
        busy, quiet = harness.queue("a"), harness.queue("z")
        await pair.backend.put([a_job(busy) for _ in range(100)])
        put = await put_one(pair.backend, a_job(quiet))
        got: list[str] = []
        while put.id not in got and len(got) < 60:
            got += ids(await claimed(pair, session, [busy, quiet], 5))
        assert put.id in got

    @promise("T21", "L10")
    @fused
    async def test_of_racing_receivers_one_gets_a_record(self, harness: Harness) -> None:
        pairs, queue = [await harness.pair() for _ in range(3)], harness.queue()
        puts = [a_job(queue) for _ in range(30)]
        await pairs[0].backend.put(puts)
        rounds = await asyncio.gather(
            *(claimed(pairs[n % 3], harness.session(), [queue], 10) for n in range(6))
        )
        got = [job_id for received in rounds for job_id in ids(received)]
        assert sorted(got) == sorted(put.id for put in puts)

    @promise("T21", "T14", "T11")
    @fused
    async def test_a_waiting_receiver_is_woken(self, harness: Harness) -> None:
        one, two, queue = await harness.pair(), await harness.pair(), harness.queue()
        loop, session = asyncio.get_running_loop(), harness.session()
        assert await claimed(two, session, [queue], timeout=0.1) == []
        waiting = asyncio.create_task(claimed(two, session, [queue], timeout=60.0))
        done, _ = await asyncio.wait({waiting}, timeout=0.2)
        assert not done
        begun = loop.time()
        put = await put_one(one.backend, a_job(queue))
        async with asyncio.timeout(harness.limits.deadline):
            assert ids(await waiting) == [put.id]
        assert loop.time() - begun < harness.limits.wake

    @promise("T21")
    @fused
    async def test_a_foreign_message_comes_as_a_delivery(self, harness: Harness) -> None:
        pair, session, queue = await harness.pair(), harness.session(), harness.queue()
        put = a_job(queue, put=False)
        assert await pair.transport.send([Outgoing(body=put.message, queue=queue)]) == [None]
        known = await put_one(pair.backend, a_job(queue))
        received: list[Received] = []
        while len(received) < 2:
            more = await claimed(pair, session, [queue], timeout=1.0)
            assert more, f"only {received}"
            received += more
        assert ids(received) == [known.id]
        (delivery,) = [item.delivery for item in received if item.delivery is not None]
        assert delivery.body == put.message
        foreign = Hint(id=put.id, gen=1, create=put)
        (verdict,) = await pair.backend.claim(session, [foreign])
        assert verdict.kind is VerdictKind.RUN
        assert await pair.transport.ack([delivery]) == [True]
        assert await claimed(pair, session, [queue], timeout=0.05) == []

    @promise("T21", "L33")
    @fused
    @takes(4)
    async def test_what_comes_due_is_received(self, harness: Harness) -> None:
        pair, session, queue = await harness.pair(), harness.session(), harness.queue()
        put = await put_one(pair.backend, a_job(queue, delay=1.0))
        expired = await put_one(pair.backend, a_job(queue, queue_timeout=1.0))
        await harness.advance(2.0)
        assert await pass_time(harness, pair.backend, 1.0) == []
        assert ids(await claimed(pair, session, [queue])) == [put.id]
        assert await state_of(pair.backend, expired.id) is JobState.FAILED

    @promise("T21", "L34", "L13")
    @fused
    @takes(20)
    async def test_a_lapsed_claim_is_received_again(self, harness: Harness) -> None:
        pair, queue = await harness.pair(), harness.queue()
        put = await put_one(pair.backend, a_job(queue))
        (old,) = await claimed(pair, harness.session(), [queue])
        await pass_time(harness, pair.backend, 18.0)
        (new,) = await claimed(pair, harness.session(), [queue])
        assert old.verdict is not None
        assert old.verdict.claim is not None
        assert new.verdict is not None
        assert new.verdict.claim is not None
        assert (new.verdict.id, new.verdict.claim.deaths) == (put.id, 1)
        assert new.verdict.claim.fence > old.verdict.claim.fence

    @promise("T4", "T21", "L19")
    @fused
    @takes(10)
    async def test_a_cancelled_fused_receive_loses_nothing(self, harness: Harness) -> None:
        pair, other = await harness.pair(), await harness.pair()
        session, queue, got = harness.session(), harness.queue(), set[str]()
        puts = [a_job(queue) for _ in range(24)]
        for turns, put in enumerate(puts):
            task = asyncio.create_task(claimed(pair, session, [queue], 1, 5.0))
            await asyncio.wait({task}, timeout=0.001 * (turns % 4))
            await other.backend.put([put])
            await some_turns(turns)
            task.cancel()
            try:
                got.update(ids(await task))
            except asyncio.CancelledError:
                continue
        await pass_time(harness, pair.backend, 6.0)
        held = [job for job in await pair.backend.get([*got]) if job is not None]
        await pair.backend.renew(who(session), beats(*held))

        async def everything() -> bool:
            got.update(ids(await claimed(other, session, [queue], 10, 0.1)))
            return got == {put.id for put in puts}

        await harness.eventually(everything)
