"""Topic: records are read as they were written."""

from __future__ import annotations

import asyncio

from bananas_core.job import JobState, OutcomeKind
from bananas_core.testing.conformance.harness import Harness
from bananas_core.testing.conformance.marks import NO_RESTART, promise, requires
from bananas_core.testing.conformance.support import (
    ERROR,
    Suite,
    a_job,
    claim_one,
    finish_one,
    hint,
    put_one,
    record,
    started,
)


class Recording(Suite):
    @promise("L25")
    async def test_get_answers_in_order(self, harness: Harness) -> None:
        one, two = await harness.backend(), await harness.backend()
        puts = [a_job() for _ in range(harness.limits.batch)]
        await one.put(puts)
        wanted = [puts[3].id, "nobody", puts[0].id, puts[3].id, *(p.id for p in puts)]
        found = await two.get(wanted)
        assert [job and job.id for job in found] == [i if i != "nobody" else None for i in wanted]
        assert await two.get([]) == []

    @promise("L25")
    async def test_a_caller_reads_its_own_writes(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        for _ in range(10):
            put = await put_one(backend, a_job())
            assert (await record(backend, put.id)).state is JobState.PENDING
            claim = await claim_one(backend, session, put)
            assert (await record(backend, put.id)).state is JobState.PROCESSING
            await finish_one(backend, claim, result=b"1")
            assert (await record(backend, put.id)).state is JobState.COMPLETED

    @promise("L25")
    async def test_a_record_has_all_that_was_put(self, harness: Harness) -> None:
        backend = await harness.backend()
        now = await backend.now()
        put = a_job(
            harness.queue(),
            name="a.task/with:signs",
            priority=3,
            max_attempts=7,
            delay=60.0,
            expires_at=now + 600.25,
            queue_timeout=30.5,
            tags=("red", "größe"),
        )
        await backend.put([put])
        job = await record(backend, put.id)
        for name in ("id name message routing_key priority max_attempts expires_at").split():
            assert getattr(job, name) == getattr(put, name), name
        assert (job.queue_timeout, set(job.tags)) == (30.5, {"red", "größe"})
        assert (job.gen, job.failures, job.deaths, job.attempts) == (1, 0, 0, ())

    @promise("L22")
    async def test_the_timeline_has_one_entry_a_claim(self, harness: Harness) -> None:
        backend, sessions = await harness.backend(), [harness.session() for _ in range(4)]
        put = await put_one(backend, a_job())
        kinds = [OutcomeKind.RETRY, OutcomeKind.HANDBACK, OutcomeKind.SNOOZE, OutcomeKind.COMPLETED]
        for gen, (session, kind) in enumerate(zip(sessions, kinds, strict=True), start=1):
            claim = await claim_one(backend, session, put, gen)
            await finish_one(backend, claim, kind, error=ERROR)
        entries = (await record(backend, put.id)).attempts
        assert [entry.worker for entry in entries] == sessions
        assert [entry.outcome for entry in entries] == ["retry", "handback", "snooze", "completed"]
        assert [entry.attempt for entry in entries] == [1, 2, 2, 2]
        assert entries[0].error is not None
        assert entries[0].error.traceback is None

    @promise("L4")
    async def test_a_cancelled_call_has_happened_or_not(self, harness: Harness) -> None:
        backend, session = await harness.backend(), harness.session()
        for turns in range(12):
            puts = [a_job() for _ in range(3)]
            task = asyncio.create_task(backend.put(puts))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            await backend.put(puts)  # "unknown" is always cured by asking again
            verdicts = await backend.claim(session, [hint(put) for put in puts])
            assert [v.kind.value for v in verdicts] == ["run"] * 3

    @promise("L5")
    @requires(lambda c: c.restarts and c.ledger.durability != "memory", NO_RESTART)
    async def test_what_was_confirmed_survives_a_crash_of_the_broker(
        self, harness: Harness
    ) -> None:
        backend, session = await harness.backend(), harness.session()
        pending = await put_one(backend, a_job())
        running = await started(backend, session)
        done = await started(backend, session)
        await finish_one(backend, done, result=b"1")
        ids = [pending.id, running.id, done.id]
        before = await backend.get(ids)
        await harness.restart()
        backend = await harness.backend()
        assert await backend.get(ids) == before
        assert (await finish_one(backend, running)).accepted
