"""Topic: the same promises with many jobs and many callers at once; level stress."""

from __future__ import annotations

import asyncio

from bananas_core.job import OutcomeKind, VerdictKind
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import level, promise
from bananas_core.testing.conformance.support import (
    Suite,
    a_job,
    bodies,
    hint,
    message,
    outcome,
    send,
)

COUNT = 10_000


class TransportStress(Suite):
    @promise("T8", "T13", "T15")
    @level("stress")
    async def test_many_messages_arrive_once_each(self, harness: Harness) -> None:
        sender, queue, got = await harness.transport(), harness.queue(), list[str]()
        receivers = [await harness.transport() for _ in range(4)]
        sent = [f"m{n}" for n in range(COUNT)]

        async def sending() -> None:
            for start in range(0, COUNT, harness.limits.batch):
                part = sent[start : start + harness.limits.batch]
                await send(sender, *(message(body, queue) for body in part))

        async def receiving(number: int) -> None:
            while len(got) < COUNT:
                found = await receivers[number].receive([queue], 50, 2.0)
                assert await receivers[number].ack(found) == [True] * len(found)
                got.extend(bodies(found))

        await asyncio.gather(sending(), *(receiving(n) for n in range(4)))
        assert sorted(got) == sorted(sent)


class LedgerStress(Suite):
    @promise("L10", "L21", "L4")
    @level("stress")
    async def test_many_jobs_run_once_each(self, harness: Harness) -> None:
        backends = [await harness.backend() for _ in range(4)]
        puts = [a_job() for _ in range(COUNT)]
        size, wins = harness.limits.batch, list[str]()

        async def work(number: int) -> None:
            backend, session = backends[number % 4], harness.session()
            for start in range(0, COUNT, size):
                part = puts[start : start + size]
                await backend.put(part)
                verdicts = await backend.claim(session, [hint(put) for put in part])
                claims = [v.claim for v in verdicts if v.kind is VerdictKind.RUN and v.claim]
                wins.extend(claim.id for claim in claims)
                answers, _ = await backend.finish(
                    [outcome(claim, OutcomeKind.COMPLETED) for claim in claims]
                )
                assert all(answer.accepted for answer in answers)

        await asyncio.gather(*(work(n) for n in range(harness.limits.racers)))
        assert sorted(wins) == sorted(put.id for put in puts)
